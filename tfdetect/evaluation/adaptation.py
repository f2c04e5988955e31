"""Adapts a run to images of another kind with few of them: a threshold, or one shift of the logit.

Both leave the detector as it is. The first needs authentic images alone, the second some of both
classes.
"""

import math

import numpy as np
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit

from tfdetect.core.errors import UserError
from tfdetect.core.run_info import MAX_THRESHOLD
from tfdetect.evaluation.calibration import log_loss

DEFAULT_RATE = 0.05  # of false positives
MIN_SHIFT_IMAGES = 10  # of both classes together, and
MIN_SHIFT_CLASS = 3  # of each, from which a shift is fitted
MAX_SHIFT_IMAGES = 100  # above, a calibration is fitted anew
SHIFT_DEVIATION = 3.0  # standard deviation of a shift before any image is seen
_LEVEL = 0.95


def images_needed(rate: float) -> int:
    """Return the smallest number of authentic images for which a rate can be promised."""
    return math.ceil(1 / rate - 1e-9) - 1


def conformal_threshold(p: np.ndarray, rate: float) -> float:
    """Return the threshold that at most a fraction of new authentic images reach.

    Split conformal prediction: of n + 1 images of one kind, the rank of the new one is uniform. The
    threshold is above the k-th smallest score with k = ceil((n + 1) (1 - rate)), so that on average
    over such calibrations at most `rate` of new images reach it (Vovk et al., 2005).

    Args:
        p: P(fake) of authentic images of the kind that the run will see, float [n].
        rate: wanted false positive rate, above 0 and below 1.

    Raises:
        UserError: there are too few images for that rate.
    """
    n = len(p)
    k = math.ceil((n + 1) * (1 - rate) - 1e-9)
    if k > n:
        raise UserError(
            f"To promise at most {rate:.3g} false positives, {images_needed(rate):,} authentic "
            f"images are needed at least. Received: {n:,}. Add images, or ask for "
            f"--false-positive-rate {1 / (n + 1):.2g} or more."
        )
    score = np.sort(np.asarray(p, np.float32))[k - 1]
    return min(float(np.nextafter(score, np.float32(2))), MAX_THRESHOLD)


def rate_bound(n: int, rate: float) -> float:
    """Return the false positive rate that 95 of 100 such thresholds keep.

    The rate on new images varies with the images that the threshold was chosen on: it follows a
    beta distribution.

    Args:
        n: number of authentic images that the threshold was chosen on.
        rate: the wanted rate.
    """
    k = math.ceil((n + 1) * (1 - rate) - 1e-9)
    return float(stats.beta.ppf(_LEVEL, n + 1 - k, k))


def fit_shift(logits: np.ndarray, fake: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the constant that, added to logits, makes labeled images most likely.

    A normal prior with the standard deviation `SHIFT_DEVIATION` keeps the shift finite where all
    images are told apart already.

    Args:
        logits: float [n], of the run as it is calibrated, at the fraction of fakes among these
            images.
        fake: bool [n], with both classes.

    Returns:
        The shift and its 95% interval (of the normal approximation at the optimum).
    """

    def loss(shift: float) -> float:
        return len(logits) * log_loss(logits + shift, fake) + shift**2 / (2 * SHIFT_DEVIATION**2)

    shift = float(minimize_scalar(loss, bounds=(-20, 20), method="bounded").x)
    p = expit(logits + shift)
    reach = stats.norm.ppf((1 + _LEVEL) / 2) / np.sqrt((p * (1 - p)).sum() + SHIFT_DEVIATION**-2)
    return shift, (shift - float(reach), shift + float(reach))
