"""Counts the frames of animations and the pages of files, of which only the first is read."""

import re
from pathlib import Path

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.imaging.formats import read_bytes
from tfdetect.imaging.pillow import opened

_START = 2**16  # bytes of a file that say whether it may have several


def frames_of(file: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> int:
    """Return how many frames or pages an image file has; 1 where that cannot be told.

    Nothing is decoded, and of most still images only the beginning is read.

    Args:
        file: a path, or the bytes of a file.
        max_pixels: an image with more pixels is not opened.
    """
    try:
        if not may_have_several(file[:_START] if isinstance(file, bytes) else _start_of(file)):
            return 1
        data = file if isinstance(file, bytes) else read_bytes(file, max_pixels)
        with opened(data, max_pixels) as image:
            return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:  # decoding says what is wrong with it; Pillow's plugins raise many kinds
        return 1


def may_have_several(start: bytes) -> bool:
    """Return whether a file may have several frames or pages.

    Args:
        start: the first bytes of the file.
    """
    if start.startswith(b"\x89PNG"):
        return b"acTL" in start.partition(b"IDAT")[0]
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return start[12:16] == b"VP8X" and bool(start[20] & 2)
    if start[4:8] == b"ftyp":  # AVIF and HEIF: the brands of sequences
        return re.search(rb"avis|msf1|hevc|hevx", start[8 : 8 + 64]) is not None
    return start.startswith((b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def _start_of(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_START)
