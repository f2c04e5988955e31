"""The facts of images in the TensorFlow graph; see `imaging.facts`."""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tfdetect.imaging.facts import SIGNATURES


def facts_in_graph(data: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Return height, width, `first_bytes`, hash of the bytes and hash of the pixels.

    The hashes are FarmHash64, which is fast and no protection against a forger of hashes.

    Args:
        data: scalar string, the encoded image.
        image: uint8 [H, W, 3], the same image decoded.

    Returns:
        int64 [5].
    """
    shape = tf.shape(image, tf.int64)
    of_bytes = tf.fingerprint(data[None])
    # The size belongs to the hash: a black image of 2 x 8 pixels is none of 4 x 4.
    pixels = tf.fingerprint(image[None])[0]
    of_pixels = tf.fingerprint(tf.concat([pixels, tf.bitcast(shape[:1], tf.uint8)[0]], 0)[None])
    hashes = [tf.bitcast(each, tf.int64) for each in (of_bytes, of_pixels)]
    return tf.concat([shape[:2], first_bytes(data)[None], *hashes], 0)


def first_bytes(data: tf.Tensor) -> tf.Tensor:
    """Return bytes 0 to 4 and 8 to 12 of strings, by which formats are told, as int64."""
    head = tf.strings.substr(data, 0, 12) + b"\0" * 12
    parts = [tf.strings.substr(head, start, 4) for start in (0, 8)]
    return tf.io.decode_raw(tf.strings.join(parts), tf.int64)[..., 0]


def is_format(start: tf.Tensor, names: Iterable[str]) -> tf.Tensor:
    """Return whether files have one of some formats, given their `first_bytes`; bool [...].

    Args:
        start: int64 [...], as of `facts_in_graph`.
        names: the names of formats as the catalog has them.
    """
    found = tf.zeros_like(start, tf.bool)
    for name in names:
        for mask, value in SIGNATURES.get(name, ()):
            bits = tf.bitwise.bitwise_and(start, tf.constant(np.uint64(mask).astype(np.int64)))
            found |= bits == tf.constant(np.uint64(value).astype(np.int64))
    return found
