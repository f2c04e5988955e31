"""What is known of an image beside its pixels: size, format, and hashes that tell copies."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf


def _signature(start: bytes, brand: bytes = b"") -> tuple[int, int]:
    """Return mask and value of bytes 0 to 4 and 8 to 12 of a file, as a little-endian number."""
    mask = b"\xff" * len(start), b"\xff" * len(brand)
    value = start, brand
    mask_number, number = (
        int.from_bytes(one.ljust(4, b"\0") + other.ljust(4, b"\0"), "little")
        for one, other in (mask, value)
    )
    return mask_number, number


# By format as the catalog names it; of several that match, the last one counts.
SIGNATURES = {
    "AVIF": [_signature(b"", b"avi")],
    "HEIF": [_signature(b"", brand) for brand in (b"hei", b"hev", b"mif", b"msf")],
    "TIFF": [_signature(b"II*\0"), _signature(b"MM\0*")],
    "JPEG": [_signature(b"\xff\xd8")], "PNG": [_signature(b"\x89PNG")],
    "GIF": [_signature(b"GIF8")], "BMP": [_signature(b"BM")],
    "WEBP": [_signature(b"RIFF", b"WEBP")],
}  # fmt: skip
COUNT = 5  # numbers of the facts of an image


def image_facts(data: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
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
        start: int64 [...], as of `image_facts`.
        names: of formats as the catalog has them.
    """
    found = tf.zeros_like(start, tf.bool)
    for name in names:
        for mask, value in SIGNATURES.get(name, ()):
            bits = tf.bitwise.bitwise_and(start, tf.constant(np.uint64(mask).astype(np.int64)))
            found |= bits == tf.constant(np.uint64(value).astype(np.int64))
    return found


@dataclass(frozen=True)
class Facts:
    """The facts of images, one row each; rows that were not added are 0.

    Attributes:
        table: int64 [n, 5], rows of `image_facts`.
    """

    table: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Facts":
        return cls(np.zeros((count, COUNT), np.int64))

    def add(self, indices: np.ndarray, rows: np.ndarray) -> None:
        self.table[indices] = rows

    @property
    def shorter_side(self) -> np.ndarray:
        """In pixels, int64 [n]."""
        return self.table[:, :2].min(axis=1)

    @property
    def hashes(self) -> np.ndarray:
        """Of the bytes and of the pixels, uint64 [n, 2]."""
        return self.table[:, 3:].view(np.uint64)

    def formats(self) -> np.ndarray:
        """Return the formats as the catalog names them, object [n]; None where not known."""
        found = np.full(len(self.table), None, object)
        start = self.table[:, 2].view(np.uint64)
        for name, signatures in SIGNATURES.items():
            for mask, value in signatures:
                found[start & np.uint64(mask) == np.uint64(value)] = name
        return found
