"""Replace operations that some export formats lack by operations that all of them have."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf


@contextmanager
def plain_operations() -> Iterator[None]:
    """Trace layers with matrix products for FFTs, and with slices for rolled tensors.

    LiteRT has neither operation, and ONNX no complex numbers. FFTs are faster where they exist, so
    that training and the SavedModel keep them.
    """
    before = keras.ops.fft2, tf.roll
    keras.ops.fft2, tf.roll = _fft2, _roll
    try:
        yield
    finally:
        keras.ops.fft2, tf.roll = before


def _fft2(x: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the parts of the transform of a real and an imaginary part, float32 [..., H, W]."""
    real, imaginary = x
    for _ in range(2):
        real, imaginary = map(tf.linalg.matrix_transpose, (real, imaginary))
        side = real.shape[-1]
        angles = 2 * np.pi / side * (np.outer(np.arange(side), np.arange(side)) % side)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        real, imaginary = (
            tf.matmul(real, cos) + tf.matmul(imaginary, sin),
            tf.matmul(imaginary, cos) - tf.matmul(real, sin),
        )
    return real, imaginary


def _roll(
    input: tf.Tensor, shift: int | Sequence[int], axis: int | Sequence[int], name: str | None = None
) -> tf.Tensor:
    """Return what tf.roll does, for sides and shifts that are known."""
    shifts, axes = np.atleast_1d(shift).tolist(), np.atleast_1d(axis).tolist()
    for by, along in zip(shifts, axes, strict=True):
        side = input.shape[along]
        if by % side:
            parts = tf.split(input, [side - by % side, by % side], along)
            input = tf.concat(parts[::-1], along)
    return input
