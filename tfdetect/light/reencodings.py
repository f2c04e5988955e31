"""Copies of an image that look the same to a person, in NumPy and Pillow.

They are those of `imaging.degradations`, by the same names; single values may differ by one.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from tfdetect.light.resample import resize

COPIES = (
    "jpeg:95", "jpeg:75", "jpeg:50", "webp:75", "scale:0.9", "scale:0.75", "scale:0.5",
    "screenshot:1.25", "crop:0.9", "darker:0.8", "brighter:1.2", "social:1", "social:2",
)  # fmt: skip


def reencoded(image: np.ndarray, name: str) -> np.ndarray:
    """Return a copy of an image.

    Args:
        image: uint8 [H, W, 3].
        name: kind and strength, for example "jpeg:75"; one of `COPIES`.

    Returns:
        uint8 [h, w, 3].
    """
    kind, _, strength = name.partition(":")
    return _KINDS[kind](image, float(strength))


def _saved(image: np.ndarray, kind: str, quality: float) -> np.ndarray:
    options = {"subsampling": "4:2:0"} if kind == "JPEG" else {}
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=round(quality), **options)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded.convert("RGB"))


def _jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    return _saved(image, "JPEG", quality)


def _webp(image: np.ndarray, quality: float) -> np.ndarray:
    return _saved(image, "WEBP", quality)


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


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(np.rint(image * np.float32(factor)), 0, 255).astype(np.uint8)


def _social(image: np.ndarray, times: float) -> np.ndarray:
    for step in range(round(times)):
        image = _jpeg(_scale(image, 0.8), 85 - 10 * step)
    return image


_KINDS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "jpeg": _jpeg, "webp": _webp, "scale": _scale, "screenshot": _scale, "crop": _crop,
    "darker": _brightness, "brighter": _brightness, "social": _social,
}  # fmt: skip
