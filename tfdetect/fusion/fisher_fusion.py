"""Fisher's method: a sum of -log p, where p is the fraction of authentic images that score higher.

An unusually high score of any member counts, even if no fake of the validation split has one.
Source: Fisher, Statistical Methods for Research Workers, 1932.
"""

import numpy as np

from tfdetect.fusion.linear_fusions import logistic_regression

_P_VALUES = np.array([*np.arange(10, 0, -1) / 10, 0.05])  # where the slope of -log p changes
_DISTINCT = 1e-7  # logits that are closer count as equal
_STRENGTH = 1.0  # inverse strength of a penalty that limits the effect of a few images


def fit_fisher(
    logits: np.ndarray, fake: np.ndarray, weights: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], float, float]:
    """Fit -log p of each member, and the scale and bias that calibrate their sum.

    Args:
        logits: calibrated logits of the M members, float [n, M].
        fake: bool [n].
        weights: the weights of the images, float [n].

    Returns:
        Bends and slope changes, float [M, K], as `evidence` takes them; the scale; the bias.
    """
    tails = _fit_tails(logits[~fake], weights[~fake])
    total = evidence(logits, *tails).sum(axis=1, keepdims=True)
    line = logistic_regression(total, fake, weights, _STRENGTH)
    return tails, float(line.coef_[0, 0]), float(line.intercept_[0])


def evidence(logits: np.ndarray, bends: np.ndarray, slope_changes: np.ndarray) -> np.ndarray:
    """Return -log p of the logits of each member, float [n, M].

    Args:
        logits: calibrated logits of the M members, float [n, M].
        bends: the logits at which the slope of the piecewise linear -log p of each member changes,
            float [M, K].
        slope_changes: by how much it changes there, float [M, K].
    """
    return (np.maximum(logits[:, :, None] - bends, 0) * slope_changes).sum(axis=2)


def _fit_tails(logits: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit -log p of each member as a piecewise linear function to authentic images.

    Within the highest 5% it continues as in an exponential distribution, so that even the highest
    scores differ in their -log p.

    Args:
        logits: calibrated logits of authentic images, float [n, M].
        weights: the weights of the images, float [n].

    Returns:
        Bends and slope changes, float [M, K].
    """
    bends, slope_changes = [], []
    for member in logits.T:
        positions = np.quantile(member, 1 - _P_VALUES, method="inverted_cdf", weights=weights)
        heights = -np.log(_P_VALUES)
        distinct = np.append(np.diff(positions) > _DISTINCT, True)  # the last of equal positions
        positions, heights = positions[distinct], heights[distinct]
        slopes = np.diff(heights) / np.diff(positions)
        above = member > positions[-1]
        if above.any():
            last = 1 / np.average(member[above] - positions[-1], weights=weights[above])
        else:  # too few images
            last = slopes[-1] if len(slopes) else 1.0
        slopes = np.append(slopes, last)
        missing = len(_P_VALUES) - len(positions)
        bends.append(np.pad(positions, (0, missing)))
        slope_changes.append(np.pad(np.diff(slopes, prepend=0), (0, missing)))
    return np.array(bends), np.array(slope_changes)
