"""Random numbers for the images of a batch, the same when only a part of the batch is at hand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Part:
    """Some consecutive images of a batch.

    Attributes:
        start: number of the first.
        size: how many.
        whole: images in the batch.
    """

    start: int
    size: int
    whole: int


_PART: ContextVar[Part | None] = ContextVar("part", default=None)


@contextmanager
def drawing_for(part: Part | None) -> Iterator[None]:
    """Let the functions below draw for a whole batch and return the numbers of a part of it."""
    token = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(token)


def uniform(
    shape: Sequence[int],
    seed: tf.Tensor,
    low: Any = 0.0,
    high: Any = 1.0,
    dtype: tf.DType = tf.float32,
    axis: int = 0,
) -> tf.Tensor:
    """Return uniform numbers in [low, high), a pure function of the seed.

    Args:
        shape: the shape of the result.
        seed: int32 [2].
        low, high: bounds.
        dtype: the dtype of the result.
        axis: the axis of `shape`, along which the images of the batch lie.
    """
    return _own(lambda full: tf.random.stateless_uniform(full, seed, low, high, dtype), shape, axis)


def normal(shape: Sequence[int], seed: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Return standard normal numbers, float32, as `uniform` does."""
    return _own(lambda full: tf.random.stateless_normal(full, seed), shape, axis)


def _own(draw: Any, shape: Sequence[int], axis: int) -> tf.Tensor:
    part = _PART.get()
    if part is None:
        return draw(shape)
    full = [*shape[:axis], part.whole, *shape[axis + 1 :]]
    own = slice(part.start, part.start + part.size)
    return draw(full)[(slice(None),) * axis + (own,)]


_PHILOX = 1  # TensorFlow's number of the algorithm
_STEP = 4  # numbers that Philox draws at once, so that any step can be computed alone


def normal_from(seed: tf.Tensor, first: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Return a run of the numbers of `tf.random.stateless_normal`, without those before.

    Args:
        seed: int32 [2].
        first: how many of its numbers to skip, int64 scalar.
        shape: the shape of the result, int32.

    Returns:
        float32 of that shape: numbers `first` and following of the flattened result of any larger
        shape.
    """
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    skipped = tf.cast(tf.stack([first // _STEP, 0]), tf.uint64)
    count, surplus = tf.reduce_prod(shape), tf.cast(first % _STEP, tf.int32)
    numbers = tf.raw_ops.StatelessRandomNormalV2(
        shape=[surplus + count], key=key, counter=counter + skipped, alg=_PHILOX
    )
    return tf.reshape(numbers[surplus:], shape)
