"""Decodes mask files in the graph, with the same result as `mask_coding.decode_mask`."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfdetect.imaging.mask_coding import MaskCoding, decode_mask
from tfdetect.imaging.read import decode_any

_SLICES = {"gray": slice(0, 1), "red": slice(0, 1), "green": slice(1, 2), "blue": slice(2, 3)}


def needs_pillow(coding: MaskCoding) -> bool:
    """Return whether Pillow decodes masks of this coding: `decode_any` drops alpha and low bits."""
    return coding.channel == "alpha" or coding.bits > 8


def decode_mask_in_graph(data: tf.Tensor, coding: MaskCoding, max_pixels: int) -> tf.Tensor:
    """Decode a mask file.

    Args:
        data: scalar string, the bytes of the file.
        coding: what its pixels mean.
        max_pixels: masks with more pixels are refused before they are decoded.

    Returns:
        uint8 [H, W, 1], upright: 1 where altered, 0 elsewhere.

    Raises:
        tf.errors.OpError: The file cannot be decoded, or not with this coding.
    """
    if needs_pillow(coding):

        def by_pillow(data: Any) -> np.ndarray:
            data = data if isinstance(data, bytes) else data.item()  # eagerly an array
            return decode_mask(data, coding, max_pixels)

        mask = tf.numpy_function(by_pillow, [data], tf.uint8, stateful=False)
        return tf.ensure_shape(mask, [None, None])[..., None]
    pixels = decode_any(data, max_pixels)
    if coding.channel == "color":
        red, green, blue = tf.split(pixels, 3, axis=-1)
        values = tf.maximum(tf.maximum(red, green), blue)
    else:
        values = pixels[..., _SLICES[coding.channel]]
    threshold = min(coding.threshold, 256)
    if threshold == 256:  # no value of 8 bits reaches it
        return tf.fill(tf.shape(values), tf.cast(coding.inverted, tf.uint8))
    altered = values < threshold if coding.inverted else values >= threshold
    return tf.cast(altered, tf.uint8)
