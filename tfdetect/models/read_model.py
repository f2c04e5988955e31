"""Read a Keras file without work whose results nobody uses."""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras.src.saving import saving_lib

_RANDOM = ("VarianceScaling", "RandomNormal", "TruncatedNormal", "RandomUniform")


class _Reading(threading.local):
    """Whether this thread reads a model."""

    now = False


_reading = _Reading()


def read_model(path: Path) -> keras.Model:
    """Return the model in a .keras file, without its optimizer.

    Keras gives the layers random weights before it reads theirs; here they begin with zeros.

    Raises:
        Exception: the file cannot be read; Keras raises many kinds.
    """
    _reading.now = True
    try:
        return keras.saving.load_model(path, compile=False)
    finally:
        _reading.now = False


def _zeros_while_reading(initialize: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `__call__` of an initializer that returns zeros while a model is read."""

    @functools.wraps(initialize)
    def call(self: Any, shape: Any, dtype: Any = None, **options: Any) -> Any:
        if _reading.now:
            return keras.ops.zeros(shape, dtype=dtype)
        return initialize(self, shape, dtype, **options)

    return call


for _name in _RANDOM:
    _kind = getattr(keras.initializers, _name)
    _kind.__call__ = _zeros_while_reading(_kind.__call__)

# Which attributes contain no weights is the same for all layers of a kind, but Keras 3.15 finds it
# out again for each layer that it reads or writes: it looks it up by another name than it keeps it.
if hasattr(saving_lib, "get_attr_skipset"):
    saving_lib.get_attr_skipset = functools.cache(saving_lib.get_attr_skipset)
