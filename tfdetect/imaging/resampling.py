"""Antialiased resizing of images, and rounding to pixels."""

from collections.abc import Callable

import tensorflow as tf


def antialiased(images: tf.Tensor, size: tf.Tensor | list[int] | tuple[int, int]) -> tf.Tensor:
    """Return what `tf.image.resize(images, size, antialias=True)` returns, in half the time.

    TensorFlow's kernel is fast along the height alone, where it adds up whole rows. So the width
    becomes the height for a second pass; both compute the same sums in the same order.

    Args:
        images: uint8 or float [H, W, C] or [B, H, W, C].
        size: (height, width) in pixels, at least 1.

    Returns:
        float32 [height, width, C] or [B, height, width, C], by a bilinear filter (triangle).
    """
    images = tf.convert_to_tensor(images)
    turn = [1, 0, 2] if images.shape.rank == 3 else [0, 2, 1, 3]
    for length in tf.unstack(size):  # the height, then the width as height
        images = tf.transpose(_resized_rows(images, length), turn)
    return images


def _resized_rows(images: tf.Tensor, length: tf.Tensor | int) -> tf.Tensor:
    """Return images [H, W, C] or [B, H, W, C] with another height, float32."""
    *batch, height, width, channels = tf.unstack(tf.shape(images))
    rows = tf.reshape(images, [*(batch or [1]), height, 1, width * channels])
    rows = tf.image.resize(rows, [length, 1], antialias=True)
    return tf.reshape(rows, [*batch, length, width, channels])


def antialiased_part(
    read: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    before: tf.Tensor,
    after: tf.Tensor,
    start: tf.Tensor,
    size: tf.Tensor,
) -> tf.Tensor:
    """Return a part of what `antialiased` returns of an image, from the pixels that it depends on.

    Args:
        read: from where a part of the image begins, and its size (int32 [2] each), to its pixels,
            uint8 [h, w, C].
        before: height and width of the image in pixels, int32 [2].
        after: those of the resized image, int32 [2].
        start: where the part begins in the resized image, int32 [2].
        size: height and width of the part, int32 [2].

    Returns:
        float32 [*size, C].
    """
    scale = tf.cast(before / after, tf.float32)
    reach = tf.maximum(scale, 1.0) + 1  # the radius of the filter, and errors of floats
    low = tf.floor((tf.cast(start, tf.float32) + 0.5) * scale - reach)
    high = tf.math.ceil((tf.cast(start + size, tf.float32) - 0.5) * scale + reach)
    first = tf.maximum(tf.cast(low, tf.int32), 0)
    pixels = read(first, tf.minimum(tf.cast(high, tf.int32), before) - first)
    for axis in range(2):  # the height, then the width as height
        # Black rows keep each row in its position: the weights of the filter are the same sums of
        # floats as those of the whole image.
        left = before[axis] - first[axis] - tf.shape(pixels)[0]
        rows = tf.pad(pixels, [[first[axis], left], [0, 0], [0, 0]])
        rows = _resized_rows(rows, after[axis])[start[axis] : start[axis] + size[axis]]
        pixels = tf.transpose(rows, [1, 0, 2])
    return pixels


def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Round and clip pixels to uint8 in 0..255; uint8 is returned unchanged."""
    if pixels.dtype == tf.uint8:
        return pixels
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)
