"""Pastes a filled region into its photograph.

The rule of which pixels are altered: those of the mask, all of them and no others. A soft
edge lies inside the mask, so that outside it every pixel keeps its value.
"""

import cv2
import numpy as np


def soften(mask: np.ndarray, edge: float) -> np.ndarray:
    """Opacity of the fill: 0 outside the mask, rising inside over `edge` pixels to 1.

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
    """The photograph with the fill over it.

    Args:
        photo, filled: uint8 [H, W, 3].
        opacity: float32 [H, W], as of `soften`.

    Returns:
        uint8 [H, W, 3]: the photograph bit for bit where the opacity is 0, the fill where 1.
    """
    alpha = opacity[..., None]
    mixed = np.rint(photo * (1 - alpha) + filled * alpha).astype(np.uint8)
    return np.where(alpha == 0, photo, np.where(alpha == 1, filled, mixed))
