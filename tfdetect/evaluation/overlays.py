"""Tint regions of images; name the files of pictures, and size pictures for pages."""

import math
import os
from collections import Counter

import numpy as np
from PIL import Image

from tfdetect.core.text import MAX_NAME_BYTES, file_name

_RED = np.array([230, 30, 30], np.float32)
MAX_SIDE = 1024  # pixels of a picture's longer side on a page; larger ones are shrunk
MIN_SIDE = 256  # smaller ones are enlarged without smoothing


def for_page(image: np.ndarray) -> Image.Image:
    """Return an image, uint8 [H, W, 3], reduced to the size at which pages show it."""
    shown = Image.fromarray(image)
    longer = max(shown.size)
    if longer > MAX_SIDE:
        shown.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    elif longer < MIN_SIDE:
        factor = math.ceil(MIN_SIDE / longer)
        width, height = shown.size
        shown = shown.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    return shown


def overlay(image: np.ndarray, altered: np.ndarray, color: np.ndarray = _RED) -> np.ndarray:
    """Return the image with its altered region tinted and outlined.

    Args:
        image: uint8 [H, W, 3].
        altered: bool [H, W].
        color: float32 [3], RGB in 0..255; by default red.

    Returns:
        uint8 [H, W, 3]; pixels that are not altered are unchanged, except for the outline.
    """
    tinted = image.copy()
    tinted[altered] = 0.6 * image[altered] + 0.4 * color
    width = max(1, round(max(altered.shape) / 300))
    inside = ~_grown(~altered, 1)
    tinted[_grown(altered & ~inside, width // 2)] = color
    return tinted


def _grown(region: np.ndarray, by: int) -> np.ndarray:
    """Return bool [H, W]: whether a pixel of the region is in the square of side 2 * by + 1."""
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (by + 1, by)
        sums = np.cumsum(np.pad(region, widths), axis=axis, dtype=np.int32)
        length = region.shape[axis]
        last = sums.take(range(2 * by + 1, 2 * by + 1 + length), axis)
        region = last > sums.take(range(length), axis)
    return region


def output_names(paths: list[str]) -> list[str]:
    """Return a name for the files that are written about each image.

    It is the image's path relative to the folder that holds them all, without the extension unless
    two images differ in that alone. Very long names are cut, so that endings fit.
    """
    paths = [os.path.abspath(path) for path in paths]
    base = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [os.path.relpath(path, base) for path in paths]
    stems = [os.path.splitext(name)[0] for name in names]
    times = Counter(stems)
    chosen = [n if times[s] > 1 else s for n, s in zip(names, stems)]
    return [
        os.path.join(os.path.dirname(name), file_name(os.path.basename(name), most=MAX_NAME_BYTES))
        for name in chosen
    ]
