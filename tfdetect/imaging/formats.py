"""The one table of image formats: which decoder reads which kind of file, or why none does.

Pillow and the decoder in the TensorFlow graph follow this table. It needs neither.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfdetect.core.limits import MAX_PIXELS

MAX_SIDE = 1_000_000  # pixels; libpng's limit, which holds for every format
MAX_METADATA = 65_536  # bytes of EXIF and of XMP that are searched for the orientation
MAX_SEGMENTS = 1_000  # of a JPEG's header, and MAX_CHUNKS of a PNG or WebP
MAX_CHUNKS = 10_000
_BYTES_PER_PIXEL = 8  # of uncompressed RGBA with 16 bits
_MIN_BYTES = 2**26  # that a file may have, however few pixels are allowed
LARGE_PALETTE = "damaged: its palette has more than 256 colors"

Decoder = Literal["graph", "pillow"]


class ImageError(Exception):
    """A file that is not decoded; the text is the reason, in a few words."""


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        container: name of the file format.
        mode: kinds of it that are treated alike.
        decoder: "graph" for TensorFlow's decoder, where there is a graph; "pillow" for Pillow
            everywhere, so that the graph of a SavedModel refuses it; None if it is refused.
        reason: why it is refused.
    """

    container: str
    mode: str
    decoder: Decoder | None
    reason: str = ""

    @property
    def graph_reason(self) -> str:
        """Why the graph alone, as in a SavedModel, does not decode it."""
        return self.reason or f"{self.container} ({self.mode}) is not decoded here: convert to PNG"


JPEG = Kind("JPEG", "8 bits, gray or color; baseline, progressive or arithmetic", "graph")
CMYK = Kind("JPEG", "8 bits, CMYK or YCCK", "pillow")
ODD_COLORS = Kind("JPEG", "2 or more than 4 components", None, "a JPEG of an unknown color model")
DEEP_JPEG = Kind("JPEG", "12 or 16 bits", None, "a JPEG of more than 8 bits")
LOSSLESS_JPEG = Kind("JPEG", "lossless or hierarchical", None, "a lossless or hierarchical JPEG")
PNG = Kind("PNG", "1 to 16 bits; gray, palette or color; alpha; interlaced; APNG", "graph")
ODD_PNG = Kind("PNG", "with compressed EXIF or XMP", "pillow")
WEBP = Kind("WebP", "still; lossy, lossless or with alpha", "graph")
ANIMATED_WEBP = Kind("WebP", "animated", "pillow")
BMP = Kind("BMP", "24 or 32 bits, or a palette of 8 bits, uncompressed", "graph")
ODD_BMP = Kind("BMP", "1, 4 or 16 bits, bit fields, run lengths, OS/2", "pillow")
GIF = Kind("GIF", "still or animated", "pillow")
TIFF = Kind("TIFF", "1 to 16 bits; gray, palette, color, CMYK or Lab; several pages", "pillow")
DEEP_TIFF = Kind("TIFF", "32 or 64 bits", None, "pixels of 32 bits are not supported")
RAW = Kind("TIFF", "raw image of a camera", None, "a camera's raw image")
PNM = Kind("PNM", "PBM, PGM and PPM, up to 16 bits", "pillow")
PFM = Kind("PNM", "PFM", None, "pixels of 32 bits are not supported")
AVIF = Kind("AVIF", "still or a sequence", "pillow")
HEIF = Kind("HEIF", "HEIC, with pillow-heif", "pillow")
TABLE = (
    JPEG, CMYK, ODD_COLORS, DEEP_JPEG, LOSSLESS_JPEG, PNG, ODD_PNG, WEBP, ANIMATED_WEBP,
    BMP, ODD_BMP, GIF, TIFF, DEEP_TIFF, RAW, PNM, PFM, AVIF, HEIF,
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        kind: the row of the table.
        width, height: in pixels, as stored (before the orientation is applied).
        orientation: 1 to 8, of EXIF or XMP, and of TIFF's own tag. It is 1 for AVIF and HEIF,
            which their decoders turn.
        ignored: start and end of the parts of the file that no decoder is to see.
    """

    kind: Kind
    width: int
    height: int
    orientation: int = 1
    ignored: tuple[tuple[int, int], ...] = ()

    @property
    def container(self) -> str:
        """Name of the file format."""
        return self.kind.container

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height in pixels after the orientation is applied."""
        turned = self.orientation >= 5
        return (self.height, self.width) if turned else (self.width, self.height)


def max_bytes(max_pixels: int) -> int:
    """Return how many bytes a file may have: 8 for each allowed pixel, and at least 64 MiB."""
    return max(_MIN_BYTES, _BYTES_PER_PIXEL * max_pixels)


def read_bytes(path: str | Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ImageError: It cannot be read, is no regular file, is empty or has more bytes than
            `max_bytes`.
    """
    if (problem := file_problem(path, max_pixels)) is not None:
        raise ImageError(problem)
    try:
        with open(path, "rb") as file:
            return file.read(max_bytes(max_pixels) + 1)
    except OSError as error:
        raise ImageError(error.strerror or type(error).__name__) from error


def file_problem(path: str | Path, max_pixels: int) -> str | None:
    """Return why a file is not to be opened, or None: a device, a FIFO, empty or too large."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        return getattr(error, "strerror", None) or "no such file"
    if not stat.S_ISREG(status.st_mode):
        return "is a directory" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
    if status.st_size == 0:
        return "empty file"
    if status.st_size > max_bytes(max_pixels):
        return f"{status.st_size:,} bytes are more than {max_bytes(max_pixels):,}"
    return None


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise an `ImageError` if an image has too many pixels or none."""
    if width < 1 or height < 1:
        raise ImageError(f"damaged: its size is {width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"a side of {max(width, height):,} pixels is more than {MAX_SIDE:,}")
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are more than {max_pixels:,} (max_pixels)")


def _encoded(kind: Kind) -> str:
    """Return which endpoint of a SavedModel decodes a kind."""
    if kind.decoder != "graph":
        return "no"
    return "`encoded_webp`" if kind.container == "WebP" else "yes"


def format_table() -> str:
    """Return the table as Markdown, for the documentation."""
    who = {"graph": "TensorFlow", "pillow": "Pillow", None: "refused"}
    lines = ["| Container | Kinds | Decoder | Encoded endpoint |", "|---|---|---|---|"]
    lines += [f"| {k.container} | {k.mode} | {who[k.decoder]} | {_encoded(k)} |" for k in TABLE]
    return "\n".join(lines)
