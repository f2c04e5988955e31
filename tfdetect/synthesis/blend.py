"""Pastes a filled region into its photograph.

The altered pixels are exactly those of the mask. A soft edge is inside the mask, so that every
pixel outside keeps its value.
"""

import cv2
import numpy as np


def soften(mask: np.ndarray, edge: float) -> np.ndarray:
    """Return the opacity of the fill: 0 outside the mask, rising inside over `edge` pixels to 1.

    Args:
        mask: bool [H, W].
        edge: width of the soft edge in pixels; 0 makes it hard.

    Returns:
        float32 [H, W], 0 exactly where the mask is False and above 0 where it is True.
    """
    if edge <= 0 or mask.all():
        return mask.astype(np.float32)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(distance / (edge + 1), 1).astype(np.float32)


def paste(photo: np.ndarray, filled: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Paste a fill over a photograph.

    Args:
        photo: uint8 [H, W, 3].
        filled: uint8 [H, W, 3].
        opacity: float32 [H, W] in 0..1, as from `soften`.

    Returns:
        uint8 [H, W, 3]: exactly the photograph where the opacity is 0, and the fill where it
        is 1.
    """
    alpha = opacity[..., None]
    mixed = np.rint(photo * (1 - alpha) + filled * alpha).astype(np.uint8)
    return np.where(alpha == 0, photo, np.where(alpha == 1, filled, mixed))
