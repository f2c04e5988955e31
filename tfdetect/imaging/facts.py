"""What is known of images besides their pixels: size, format, and hashes that tell copies."""

from dataclasses import dataclass

import numpy as np


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


def facts_of(data: bytes, image: np.ndarray) -> np.ndarray:
    """Return the facts of an image; `imaging.facts_in_graph` has the same in TensorFlow.

    Args:
        data: the encoded image.
        image: uint8 [H, W, 3], the same image decoded.

    Returns:
        int64 [5]: height, width, bytes 0 to 4 and 8 to 12 of the file, FarmHash64 of the file and
        of the pixels.
    """
    import farmhash

    head = data[:12].ljust(12, b"\0")
    start = int.from_bytes(head[:4] + head[8:], "little")
    height, width = image.shape[:2]
    # The size belongs to the hash: a black image of 2 x 8 pixels is none of 4 x 4.
    pixels = farmhash.fingerprint64(np.ascontiguousarray(image).tobytes()).to_bytes(8, "little")
    of_pixels = farmhash.fingerprint64(pixels + height.to_bytes(8, "little"))
    numbers = [height, width, start, farmhash.fingerprint64(data), of_pixels]
    return np.array(numbers, np.uint64).view(np.int64)


@dataclass(frozen=True)
class Facts:
    """The facts of images, one row each; rows that were not added are 0.

    Attributes:
        table: int64 [n, 5], rows of `facts_in_graph`.
    """

    table: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "Facts":
        return cls(np.zeros((count, COUNT), np.int64))

    def add(self, indices: np.ndarray, rows: np.ndarray) -> None:
        self.table[indices] = rows

    @property
    def sides(self) -> np.ndarray:
        """The shorter and the longer side of each image in pixels, int64 [n, 2]."""
        return np.sort(self.table[:, :2], axis=1)

    @property
    def hashes(self) -> np.ndarray:
        """The hashes of the bytes and of the pixels of each image, uint64 [n, 2]."""
        return self.table[:, 3:].view(np.uint64)

    def formats(self) -> np.ndarray:
        """Return the formats as the catalog names them, object [n]; None where not known."""
        found = np.full(len(self.table), None, object)
        start = self.table[:, 2].view(np.uint64)
        for name, signatures in SIGNATURES.items():
            for mask, value in signatures:
                found[start & np.uint64(mask) == np.uint64(value)] = name
        return found
