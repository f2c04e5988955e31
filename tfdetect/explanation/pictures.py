"""Turns pixels, maps and outputs of front-ends into pictures of a page."""

import matplotlib
import numpy as np

from tfdetect.core.html import Picture
from tfdetect.evaluation.overlays import MIN_SIDE, for_page


def picture(image: np.ndarray, alt: str, title: str = "", caption: str = "") -> Picture:
    """Return an image as a picture of a page.

    Args:
        image: uint8 [H, W, 3].
        alt: what the picture shows, for readers who cannot see it.
        title: what it is, in a few words.
        caption: how to read it.
    """
    small = max(image.shape[:2]) <= MIN_SIDE
    return Picture.of_image(for_page(image), alt, title, caption, pixelated=small)


def heat_map(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a signed map over the gray image: red above zero, blue below.

    Args:
        image: uint8 [H, W, 3].
        values: float [H, W]; scaled to the 99.5th percentile of their absolute values.

    Returns:
        uint8 [H, W, 3].
    """
    scale = np.percentile(np.abs(values), 99.5) or 1.0
    strength = np.clip(values / scale, -1, 1)
    color = matplotlib.colormaps["RdBu_r"](0.5 + strength / 2)[..., :3] * 255
    gray = image.mean(2, keepdims=True) * 0.6 + 90
    opacity = np.sqrt(np.abs(strength))[..., None] * 0.85
    return np.clip(gray * (1 - opacity) + color * opacity, 0, 255).astype(np.uint8)


def residual_image(values: np.ndarray) -> np.ndarray:
    """Return the output of a front-end as an image; gray is zero.

    Three channels become colors; any other number is shown as the mean.

    Args:
        values: float [h, w, C].

    Returns:
        uint8 [h, w, 3].
    """
    if values.shape[2] not in (1, 3):
        values = values.mean(2, keepdims=True)
    scale = np.percentile(np.abs(values), 99) or 1.0
    shown = 127.5 + 127.5 * np.clip(values / scale, -1, 1)
    return np.repeat(shown, 3 // values.shape[2], axis=2).astype(np.uint8)
