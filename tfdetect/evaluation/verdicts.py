"""From class probabilities to verdicts: calibration, threshold and abstention band.

P(fake) is float32 wherever it is computed, also in the SavedModel, so it is compared as such: a
threshold of 0.7 is the float32 next to 0.7.
"""

from typing import Any

import numpy as np

from tfdetect.core.probability import SMALLEST
from tfdetect.core.run import MAX_AUTHENTIC
from tfdetect.core.run_info import Calibration


def is_fake(p_fake: Any, threshold: float) -> np.ndarray:
    """Return for each P(fake) whether the verdict is fake, bool; nan is not."""
    return np.asarray(p_fake, np.float32) >= np.float32(threshold)


def is_inconclusive(p_fake: Any, band: tuple[float, float]) -> np.ndarray:
    """Return for each P(fake) whether it is inside the band, which contains its lower end, bool.

    Args:
        p_fake: P(fake).
        band: `Run.abstention_band`.
    """
    p_fake = np.asarray(p_fake, np.float32)
    return (p_fake >= np.float32(band[0])) & (p_fake < np.float32(band[1]))


def mask_is_shown(p_fake: Any, threshold: float) -> np.ndarray:
    """Return for each P(fake) whether the image's mask is shown, bool; else its mask is empty.

    Args:
        p_fake: P(fake).
        threshold: `Run.mask_threshold`.
    """
    return is_fake(p_fake, threshold)


def shown_mask(altered: np.ndarray, p_fake: float, threshold: float) -> np.ndarray:
    """Return P(altered) of an image, below 0.5 everywhere if its mask is not shown.

    Args:
        altered: P(altered), float32 [H, W].
        p_fake: P(fake) of the image.
        threshold: `Run.mask_threshold`.
    """
    if mask_is_shown(p_fake, threshold):
        return altered
    return np.minimum(altered, np.float32(MAX_AUTHENTIC))


def calibrated(table: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """Return class probabilities with P(fake) calibrated; `models.inference` has it in TensorFlow.

    The ratios between the probabilities of the kinds of fakes are unchanged.

    Args:
        table: class probabilities float32 [n, C].
        calibration: the calibration of the run; none for no change.
    """
    if calibration is None:
        return table
    smallest = np.float32(SMALLEST)
    fakes = np.maximum(table[:, 1:], smallest)
    fake = fakes.sum(axis=1, keepdims=True)
    logit = np.log(fake) - np.log(np.maximum(table[:, :1], smallest))
    if calibration.knots is not None:
        logit = np.interp(logit, *calibration.knots)
    else:
        logit = calibration.scale * logit + calibration.shift
    logit = np.clip(logit.astype(np.float64), -700, 700)  # where its exponential is finite
    authentic, p_fake = 1 / (1 + np.exp([logit, -logit]))
    return np.concatenate([authentic, fakes / fake * p_fake], axis=1).astype(np.float32)
