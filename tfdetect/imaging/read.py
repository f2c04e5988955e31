"""Reads image files for `decode`; Pillow converts formats that TensorFlow cannot decode."""

from typing import Any

import tensorflow as tf

from tfdetect.imaging.decode import is_animated_webp, is_plain_bmp, rare_branch
from tfdetect.imaging.pillow import as_bmp

# The first bytes of TIFF, of the family of AVIF and HEIC, and of BMP and WebP, of which `decode`
# refuses some kinds.
_MAYBE_BY_PILLOW = rb"(II\*\x00|MM\x00\*|\C{4}ftyp|BM|RIFF)\C*"


def read_image(path: tf.Tensor) -> tf.Tensor:
    """Return the bytes of an image file for `decode`.

    What `decode` refuses is converted to BMP by Pillow: TIFF, AVIF, HEIC, animated WebP (its first
    frame) and BMP of unusual kinds.

    Args:
        path: scalar string.

    Returns:
        Scalar string; "" if Pillow cannot decode the file.

    Raises:
        tf.errors.OpError: The file cannot be read.
    """
    data = tf.io.read_file(path)
    return tf.cond(
        tf.strings.regex_full_match(tf.strings.substr(data, 0, 8), _MAYBE_BY_PILLOW),
        lambda: _convert_refused(data),
        lambda: data,
    )


@rare_branch
def _convert_refused(data: tf.Tensor) -> tf.Tensor:
    needs_pillow = tf.case(
        [
            (tf.strings.substr(data, 0, 2) == b"BM", lambda: ~is_plain_bmp(data)),
            (tf.strings.substr(data, 0, 4) == b"RIFF", lambda: is_animated_webp(data)),
        ],
        default=lambda: tf.constant(True),
        exclusive=True,
    )
    return tf.cond(
        needs_pillow,
        lambda: tf.ensure_shape(tf.numpy_function(_as_bmp, [data], tf.string, False), []),
        lambda: data,
    )


def _as_bmp(data: Any) -> bytes:
    try:
        return as_bmp(data if isinstance(data, bytes) else data.item())  # eagerly an array
    except Exception:  # Pillow's plugins raise many kinds; the catalog names the file
        return b""
