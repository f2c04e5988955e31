"""Copies of an image that show the same picture to a person, in NumPy and Pillow.

They are those of `imaging.degradations`, by the same names; single values may differ by one.
"""

import math
from collections.abc import Callable

import numpy as np

from tfdetect.light.normal import normal
from tfdetect.light.resample import encoded, resize

_CHUNK = 2**18  # normal numbers that are drawn at once
_ROWS = 16  # that are blurred or brightened at once


def reencoded(image: np.ndarray, name: str) -> np.ndarray:
    """Return a copy of an image.

    Args:
        image: uint8 [H, W, 3].
        name: kind and strength, for example "jpeg:75"; one of `evaluation.stability.REENCODINGS`.

    Returns:
        uint8 [h, w, 3].
    """
    kind, _, strength = name.partition(":")
    return _KINDS[kind](image, float(strength))


def _jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    return encoded(image, "JPEG", round(quality))


def _webp(image: np.ndarray, quality: float) -> np.ndarray:
    return encoded(image, "WEBP", round(quality))


def _scale(image: np.ndarray, factor: float) -> np.ndarray:
    height, width = _part(image, factor)
    return resize(image, (height, width), "stretch")


def _crop(image: np.ndarray, fraction: float) -> np.ndarray:
    height, width = _part(image, fraction)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _part(image: np.ndarray, factor: float) -> tuple[int, int]:
    """Return height and width times a factor, in single precision as the graph has them."""
    sides = np.array(image.shape[:2], np.float32) * np.float32(factor)
    height, width = np.maximum(np.rint(sides), 1)
    return int(height), int(width)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    reach = min(max(1, math.ceil(4 * sigma)), 64)  # as `random_degradations.blur_reach` has it
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1, dtype=np.float32) / sigma))
    kernel /= kernel.sum()
    pads = [min(reach, length - 1) for length in image.shape[:2]]
    wide = np.pad(image, [*((pad, pad) for pad in pads), (0, 0)], "reflect")
    # An image smaller than the kernel is extended on by its edge pixels.
    wide = np.pad(wide, [*((reach - pad, reach - pad) for pad in pads), (0, 0)], "symmetric")
    found = np.empty_like(image)
    for top in range(0, len(image), _ROWS):
        part = wide[top : top + _ROWS + 2 * reach].astype(np.float32)
        for axis in (0, 1):
            part = np.moveaxis(part, axis, 0)
            count = len(part) - 2 * reach
            part = sum(weight * part[n : n + count] for n, weight in enumerate(kernel))
            part = np.moveaxis(part, 0, axis)
        found[top : top + _ROWS] = _rounded(part)
    return found


def _noise(image: np.ndarray, sigma: float) -> np.ndarray:
    flat, seed = image.reshape(-1), (0, round(1000 * sigma))  # the noise of image number 0
    noisy = np.empty_like(flat)
    for first in range(0, len(flat), _CHUNK):
        values = flat[first : first + _CHUNK]
        grain = normal(seed, first, len(values))
        noisy[first : first + _CHUNK] = _rounded(values + grain * np.float32(sigma))
    return noisy.reshape(image.shape)


def _rounded(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    found = np.empty_like(image)
    for top in range(0, len(image), _ROWS):  # the whole image needs eight times its bytes
        found[top : top + _ROWS] = _rounded(image[top : top + _ROWS] * np.float32(factor))
    return found


def _social(image: np.ndarray, times: float) -> np.ndarray:
    for step in range(round(times)):
        image = _jpeg(_scale(image, 0.8), 85 - 10 * step)
    return image


_KINDS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "jpeg": _jpeg, "webp": _webp, "scale": _scale, "screenshot": _scale, "blur": _blur,
    "noise": _noise, "crop": _crop, "darker": _brightness, "brighter": _brightness,
    "social": _social,
}  # fmt: skip
