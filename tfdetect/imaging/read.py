"""Reads image files for `decode`: what TensorFlow cannot decode, Pillow decodes."""

import tensorflow as tf

from tfdetect.imaging.pillow import as_bmp

# How TIFF begins, and the family of AVIF and HEIC.
_BY_PILLOW = rb"(II\*\x00|MM\x00\*|\C{4}ftyp)\C*"


def read_image(path: tf.Tensor) -> tf.Tensor:
    """An image file's bytes; of TIFF, AVIF and HEIC its pixels as BMP.

    Args:
        path: scalar string.

    Returns:
        A scalar string for `decode`; empty where Pillow cannot decode the file.

    Raises:
        tf.errors.OpError: the file cannot be read.
    """
    data = tf.io.read_file(path)
    return tf.cond(
        tf.strings.regex_full_match(tf.strings.substr(data, 0, 8), _BY_PILLOW),
        lambda: tf.ensure_shape(tf.numpy_function(_as_bmp, [data], tf.string, False), []),
        lambda: data,
    )


def _as_bmp(data) -> bytes:
    try:
        return as_bmp(data if isinstance(data, bytes) else data.item())  # eagerly an array
    except Exception:  # Pillow's plugins raise many kinds; the catalog says which
        return b""
