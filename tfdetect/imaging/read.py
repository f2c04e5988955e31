"""Decodes any image of the table of `formats`: in the graph, or by Pillow where the table says so.

What a SavedModel cannot do, since Pillow is Python; it uses `decode_in_graph`.
"""

from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.imaging.decode import (
    Special,
    decode,
    decode_jpeg,
    decode_png,
    decode_webp,
    is_jpeg_png_webp_bmp,
    refuse,
    turn,
)
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.graph import rare_branch
from tfdetect.imaging.headers import admitted
from tfdetect.imaging.pillow import read_rgb

_IN_GRAPH = {"JPEG", "PNG", "WebP"}  # BMP is copied, not decoded: as quick in Pillow


def decode_any(data: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decode an image of any kind that the table admits.

    Gray and palette images are converted to RGB; alpha is dropped: the stored color of a pixel
    counts, however transparent it is; 16-bit pixels keep their upper 8 bits; the orientation that
    EXIF or XMP names is applied; color profiles and gamma are not.

    Args:
        data: scalar string, the bytes of the file.
        max_pixels: images with more pixels are refused before they are decoded.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: The table refuses the file, or it is damaged.
    """
    return decode(data, max_pixels, _special(max_pixels))


@cache  # so that it is traced once
def _special(max_pixels: int) -> Special:
    def examine(data: Any) -> tuple[np.ndarray, np.int32, bytes]:
        """Return Pillow's pixels, or the orientation of what the graph decodes, or the reason."""
        encoded = data if isinstance(data, bytes) else data.item()  # eagerly an array
        nothing = np.zeros([0, 0, 3], np.uint8)
        try:
            header = admitted(encoded, max_pixels)
            if header.kind.decoder == "graph" and header.container in _IN_GRAPH:
                return nothing, np.int32(header.orientation), b""
            return np.asarray(read_rgb(encoded, max_pixels)), np.int32(0), b""
        except ImageError as error:
            return nothing, np.int32(0), str(error).encode()

    @rare_branch
    def special(data: tf.Tensor) -> tf.Tensor:
        pixels, orientation, reason = tf.numpy_function(
            examine, [data], [tf.uint8, tf.int32, tf.string], stateful=False
        )
        pixels = tf.ensure_shape(pixels, [None, None, 3])
        orientation = tf.ensure_shape(orientation, [])
        return tf.case(
            [
                (tf.ensure_shape(reason, []) != b"", lambda: refuse(reason)),
                (orientation > 0, lambda: turn(_native(data), orientation)),
            ],
            default=lambda: pixels,
        )

    return special


def _native(data: tf.Tensor) -> tf.Tensor:
    is_jpeg, is_png, _, _ = is_jpeg_png_webp_bmp(data)
    return tf.case(
        [(is_jpeg, lambda: decode_jpeg(data)), (is_png, lambda: decode_png(data))],
        default=lambda: decode_webp(data),
    )


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
