"""Reads image files for `decode`; Pillow converts formats that TensorFlow cannot decode."""

import tensorflow as tf

from tfdetect.imaging.pillow import as_bmp

# The first bytes of TIFF, and of the family of AVIF and HEIC.
_BY_PILLOW = rb"(II\*\x00|MM\x00\*|\C{4}ftyp)\C*"


def read_image(path: tf.Tensor) -> tf.Tensor:
    """Return the bytes of an image file; TIFF, AVIF and HEIC are converted to BMP.

    Args:
        path: scalar string.

    Returns:
        Scalar string for `decode`; "" if Pillow cannot decode the file.

    Raises:
        tf.errors.OpError: The file cannot be read.
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
    except Exception:  # Pillow's plugins raise many kinds; the catalog names the file
        return b""
