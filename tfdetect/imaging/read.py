"""Decodes any image of the table of `formats`: in the graph, or by Pillow where the table says so.

What a SavedModel cannot do, since Pillow is Python; it uses `decode` alone.
"""

from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from tfdetect.imaging.decode import Otherwise, decode, refuse
from tfdetect.imaging.formats import MAX_PIXELS, ImageError
from tfdetect.imaging.pillow import read_rgb


def decode_any(data: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decode an image of any kind that the table admits; otherwise as `decode`.

    Args:
        data: scalar string, the bytes of the file.
        max_pixels: images with more pixels are refused before they are decoded.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: The table refuses the file, or it is damaged.
    """

    return decode(data, max_pixels, _by_pillow(max_pixels))


@cache  # so that it is traced once
def _by_pillow(max_pixels: int) -> Otherwise:
    def read(data: Any) -> tuple[np.ndarray, bytes]:
        try:
            encoded = data if isinstance(data, bytes) else data.item()  # eagerly an array
            return np.asarray(read_rgb(encoded, max_pixels)), b""
        except ImageError as error:
            return np.zeros([0, 0, 3], np.uint8), str(error).encode()

    def by_pillow(data: tf.Tensor, _reason: tf.Tensor) -> tf.Tensor:
        pixels, reason = tf.numpy_function(read, [data], [tf.uint8, tf.string], stateful=False)
        pixels = tf.ensure_shape(pixels, [None, None, 3])
        return tf.cond(reason == b"", lambda: pixels, lambda: refuse(data, reason))

    return by_pillow


def decoding_error(data: bytes, max_pixels: int = MAX_PIXELS) -> str | None:
    """Return why an image cannot be decoded, or None: what Pillow says, or else TensorFlow."""
    try:
        read_rgb(data, max_pixels)
        decode_any(tf.constant(data), max_pixels)
    except ImageError as error:
        return str(error)
    except tf.errors.OpError as error:
        return f"damaged: TensorFlow's decoder refuses it ({_first_line(error)})"
    return None


def _first_line(error: tf.errors.OpError) -> str:
    lines = error.message.split("}} ")[-1].splitlines()
    return lines[0][:120] if lines else type(error).__name__
