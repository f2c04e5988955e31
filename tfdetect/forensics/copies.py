"""Finds copied regions, if OpenCV is installed; `forensics.copy_search` says how."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.imaging.jpeg_tables import jpeg_quality
from tfdetect.imaging.pillow import opened

if TYPE_CHECKING:
    from tfdetect.forensics.copy_search import Copies


def check_can_search(wanted: str) -> None:
    """Check that copied regions can be looked for, where they are asked for by name.

    Args:
        wanted: the option or argument that asks for them.

    Raises:
        UserError: OpenCV is not installed.
    """
    if importlib.util.find_spec("cv2") is None:
        raise UserError(
            f"{wanted} needs OpenCV, which finds the copied regions: "
            "pip install opencv-python-headless"
        )


def find_copies(image: np.ndarray, quality: float | None = None) -> "Copies":
    """Find regions of an image that are copies of other regions of it.

    Args:
        image: uint8 [H, W, 3] or [H, W].
        quality: libjpeg quality of the file, 1 to 100; None of a lossless one.

    Raises:
        ImportError: OpenCV is not installed.
    """
    from tfdetect.forensics.copy_search import search

    return search(image, quality)


def find_copies_in_file(
    file: str | Path, pixels: np.ndarray, max_pixels: int = MAX_PIXELS
) -> "Copies | None":
    """Find copied regions in an image file, whose JPEG quality is read from it.

    Args:
        file: the file.
        pixels: the decoded image, uint8 [H, W, 3].
        max_pixels: images with more pixels are refused.

    Returns:
        The copies; None where OpenCV is not installed.
    """
    try:
        with opened(file, max_pixels) as image:
            quality, _ = jpeg_quality(getattr(image, "quantization", None) or {})
    except Exception:  # Pillow raises many kinds; a lossless file is the stricter assumption
        quality = None
    try:
        return find_copies(pixels, quality)
    except ImportError:
        return None
