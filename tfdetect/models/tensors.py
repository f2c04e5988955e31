"""The type of tensors in annotations, and the base class of layers that compute in float32."""

from typing import Any, TypeAlias

import keras

# A symbolic tensor while a model is built, a TensorFlow tensor while it runs.
Tensor: TypeAlias = Any


class Float32Layer(keras.layers.Layer):
    """Base class of layers that compute in float32 under any precision policy."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
