"""The type of tensors in annotations."""

from typing import Any, TypeAlias

# A symbolic tensor while a model is built, a TensorFlow tensor while it runs.
Tensor: TypeAlias = Any
