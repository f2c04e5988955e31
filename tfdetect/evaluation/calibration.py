"""Calibration: makes P(fake) a probability.

All functions work on logits of P(fake), ln P(fake) / P(authentic). A calibration is fitted on
images that the detector was not trained on, as frequent as they are there; the prior that the run
reports for shifts its logits afterwards (`Run.calibration`).
"""

from typing import Literal, cast

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_expit
from scipy.special import logit as exact_logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tfdetect.core.probability import EPSILON
from tfdetect.core.run_info import Calibration
from tfdetect.data.splits import MIN_IMAGES, fold_numbers

Method = Literal["temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")
FOLDS = 5
MIN_IMAGES_ISOTONIC = 1_000  # of each class, from which "auto" tries isotonic regression


def logit(p: np.ndarray | float, edge: float = EPSILON) -> np.ndarray:
    """Return the logits of probabilities, which are clipped to be `edge` away from 0 and 1."""
    return exact_logit(np.clip(np.asarray(p, np.float64), edge, 1 - edge))


def log_loss(logits: np.ndarray, fake: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
    """Return the mean weighted log-loss in nats."""
    weights = np.broadcast_to(weights, np.shape(logits))
    return float(-(weights * log_expit(np.where(fake, logits, -logits))).sum() / weights.sum())


def fit_temperature(
    logits: np.ndarray, fake: np.ndarray, weights: np.ndarray | float = 1.0
) -> float:
    """Return the T of at least 0.05 for which logits / T has the smallest log-loss.

    T is at most 100 times the largest logit, or 100 if that is larger: however large the logits
    of a training that diverged are, they can be scaled to say nothing.

    A normal prior with standard deviation 1 on ln T keeps a few images that happen to be
    separated without an error from making the detector certain.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    most = 100 * max(1.0, float(np.abs(logits).max(initial=0)))
    found = minimize_scalar(
        lambda t: log_loss(logits / np.exp(t), fake, weights) + t * t / (2 * len(logits)),
        bounds=(np.log(0.05), np.log(most)), method="bounded",
    )  # fmt: skip
    return float(np.exp(found.x))


def apply_calibration(calibration: Calibration | None, logits: np.ndarray) -> np.ndarray:
    """Return calibrated logits; None changes nothing."""
    if calibration is None:
        return logits
    if calibration.knots is not None:
        return np.interp(logits, *calibration.knots)
    return calibration.scale * logits + calibration.shift


def fit_calibration(method: Method, logits: np.ndarray, fake: np.ndarray) -> Calibration | None:
    """Fit a calibration.

    Args:
        method: "temperature" (a scale), "platt" (a scale and a shift; Platt, 1999) or "isotonic"
            (any monotone map; Zadrozny & Elkan, 2002).
        logits: float [n].
        fake: bool [n], with both classes.

    Returns:
        The calibration; None where it would reverse the order of the scores.
    """
    scale, shift, knots = 1.0, 0.0, None
    if method == "temperature":
        scale = 1 / fit_temperature(logits, fake)
    elif method == "platt":
        line = LogisticRegression(C=1000.0).fit(logits[:, None], fake)
        scale, shift = float(line.coef_[0, 0]), float(line.intercept_[0])
        if scale <= 0:
            return None
    else:
        steps = IsotonicRegression(out_of_bounds="clip").fit(logits, fake)
        x, first = np.unique(steps.X_thresholds_, return_index=True)
        smallest = 1 / (len(logits) + 2)  # no image is more certain than so many images allow
        y = exact_logit(np.clip(steps.y_thresholds_[first], smallest, 1 - smallest))
        if len(x) < 2 or y[-1] <= y[0]:
            return None
        knots = tuple(x.tolist()), tuple(y.tolist())
    found = Calibration(
        method=method, scale=scale, shift=shift, knots=knots, images=len(logits),
        fake_fraction=round(float(fake.mean()), 6), log_loss=(0.0, 0.0),
    )  # fmt: skip
    losses = log_loss(logits, fake), log_loss(apply_calibration(found, logits), fake)
    return found.model_copy(update={"log_loss": (round(losses[0], 6), round(losses[1], 6))})


def choose_calibration(
    logits: np.ndarray,
    fake: np.ndarray,
    groups: np.ndarray,
    method: str = "auto",
) -> Calibration | None:
    """Fit the calibration that does best on validation images that it was not fitted on.

    Args:
        logits: float [n].
        fake: bool [n].
        groups: str [n]; images of a group (a photo, a video) are in one fold.
        method: "auto" compares the methods by cross-validation and prefers the simplest; a method
            by its name is only refused where it would do harm.

    Returns:
        The calibration; None where none improves the log-loss, or there are too few images.
    """
    smallest = min(fake.sum(), (~fake).sum())
    if smallest < MIN_IMAGES:
        return None
    tried = [m for m in METHODS if m != "isotonic" or smallest >= MIN_IMAGES_ISOTONIC]
    tried = tried if method == "auto" else [cast(Method, method)]
    folds = fold_numbers(groups, FOLDS, "calibration")
    losses = {name: _held_out_losses(name, logits, fake, folds) for name in tried}
    best = tried[0]
    for name in tried[1:]:  # a more complex one must be better by more than chance
        gain = losses[best] - losses[name]
        if gain.mean() > 2 * gain.std() / np.sqrt(len(gain)):
            best = name
    found = fit_calibration(best, logits, fake)
    if found is None or found.log_loss[1] > found.log_loss[0]:
        return None
    return found if losses[best].mean() <= log_loss(logits, fake) else None


def _held_out_losses(
    method: Method, logits: np.ndarray, fake: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Return the log-loss of each image by a calibration fitted on the other folds."""
    losses = np.full(len(logits), np.inf)
    for number in range(FOLDS):
        held_out = folds == number
        if not held_out.any():
            continue
        if len(np.unique(fake[~held_out])) < 2:
            return losses
        fitted = fit_calibration(method, logits[~held_out], fake[~held_out])
        calibrated = apply_calibration(fitted, logits[held_out])
        losses[held_out] = -log_expit(np.where(fake[held_out], calibrated, -calibrated))
    return losses
