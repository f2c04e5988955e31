"""Metrics of a detector. `intervals` gives each its interval.

All take sample weights, so that a bootstrap resample is a vector of counts, nothing is copied or
sorted twice, and many resamples are evaluated at once.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tfdetect.evaluation.verdicts import is_fake

# P(fake) is kept this far from 0 and 1 before its logarithm is taken, as scikit-learn does.
EPSILON = float(np.finfo(np.float32).eps)
BINS = 15  # of the reliability diagram and the calibration error

NAMES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "precision": "precision",
    "recall": "recall", "fpr": "false positive rate", "f1": "F1", "auc": "AUC",
    "ap": "average precision", "eer": "equal error rate", "tpr_at_fpr_1": "recall at 1% FPR",
    "tpr_at_fpr_5": "recall at 5% FPR", "log_loss": "log-loss", "brier": "Brier score",
    "ece": "calibration error (ECE)", "class_accuracy": "accuracy of the class",
}  # fmt: skip

K = TypeVar("K")
# From weights of the images, float [..., n], to values by name: numbers, or float [...].
Weighted = Callable[[np.ndarray], dict[K, Any]]


def binary_metrics(
    fake: np.ndarray,
    scores: np.ndarray,
    threshold: float = 0.5,
    prior: float | None = None,
    *,
    balanced: bool = False,
    ranks: np.ndarray | None = None,
) -> Weighted[str]:
    """Prepare the metrics of P(fake).

    Args:
        fake: bool [n], whether an image is some kind of fake.
        scores: float [n], P(fake).
        threshold: P(fake) from which the verdict is fake.
        prior: fraction of fakes that P(fake) assumes. Log-loss, Brier score and ECE ask whether
            P(fake) is a probability, so for them the classes are weighted to that fraction: a set
            with 80% fakes does not make a detector miscalibrated. None weights every image alike.
        balanced: whether both classes count the same in accuracy, precision, F1 and average
            precision, however many images they have.
        ranks: float [n], what orders the images, such as logits, which differ where P(fake) is
            rounded to 1; by default P(fake).

    Returns:
        A function from weights float [..., n] to a dict of metrics, with the keys of `NAMES`. A
        metric that needs a class that is missing is nan, and so is the recall at 1% (5%) false
        positives of fewer than 100 (20) authentic images.
    """
    fake, scores = np.asarray(fake, bool), np.asarray(scores, np.float64)
    of_verdicts = _verdict_metrics(fake, is_fake(scores, threshold))
    of_ranking = _ranking_metrics(fake, scores if ranks is None else ranks)
    of_probabilities = _probability_metrics(fake, scores)

    def metrics(weights: np.ndarray) -> dict[str, Any]:
        weights = weights.astype(np.float64)
        counted = weights * class_weights(fake, 0.5, weights) if balanced else weights
        expected = weights if prior is None else weights * class_weights(fake, prior, weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = of_verdicts(counted) | of_ranking(counted) | of_probabilities(expected)
        if weights.ndim == 1:
            return {name: float(value) for name, value in found.items()}
        return found

    return metrics


def _verdict_metrics(fake: np.ndarray, called_fake: np.ndarray) -> Weighted[str]:
    """Prepare the metrics of verdicts, bool [n], of images that are fake or not, bool [n]."""
    pairs = ((fake, called_fake), (~fake, called_fake), (fake, ~called_fake), (~fake, ~called_fake))
    cells = [np.flatnonzero(kind & called) for kind, called in pairs]

    def metrics(weights: np.ndarray) -> dict[str, Any]:
        tp, fp, fn, tn = (np.take(weights, rows, axis=-1).sum(-1) for rows in cells)
        recall, specificity = tp / (tp + fn), tn / (tn + fp)
        return {
            "accuracy": (tp + tn) / weights.sum(-1),
            "balanced_accuracy": (recall + specificity) / 2,
            "precision": np.where(tp + fp > 0, tp / (tp + fp), 0.0),
            "recall": recall,
            "fpr": 1 - specificity,
            "f1": 2 * tp / (2 * tp + fp + fn),
        }

    return metrics


def _ranking_metrics(fake: np.ndarray, scores: np.ndarray) -> Weighted[str]:
    """Prepare the metrics of the ranking of images by their scores, float [n]."""
    order = np.argsort(-scores, kind="stable")
    sorted_fake, sorted_scores = fake[order], scores[order]
    # The last of each run of equal scores: only there is a threshold possible.
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    authentic = int((~fake).sum())

    def metrics(weights: np.ndarray) -> dict[str, Any]:
        sorted_weights = np.take(weights, order, axis=-1)
        tps, fps = (
            np.take(np.cumsum(sorted_weights * one, axis=-1), ends, axis=-1)
            for one in (sorted_fake, ~sorted_fake)
        )
        tpr, fpr = (_from_zero(sums / sums[..., -1:]) for sums in (tps, fps))
        precisions = np.where(tps + fps > 0, tps / (tps + fps), 1.0)
        return {
            "auc": np.trapezoid(tpr, fpr, axis=-1),
            # Without authentic images it would be 1 whatever the scores.
            "ap": np.where(fps[..., -1] > 0, (np.diff(tpr) * precisions).sum(-1), np.nan),
            "eer": _equal_error_rate(tpr, fpr),
            "tpr_at_fpr_1": _recall_at_fpr(tpr, fpr, 0.01, authentic),
            "tpr_at_fpr_5": _recall_at_fpr(tpr, fpr, 0.05, authentic),
        }

    return metrics


def _probability_metrics(fake: np.ndarray, scores: np.ndarray) -> Weighted[str]:
    """Prepare the metrics of how well P(fake), float [n], is calibrated."""
    clipped = np.clip(scores, EPSILON, 1 - EPSILON)
    losses = -np.where(fake, np.log(clipped), np.log1p(-clipped))
    by_bin = sums_by_bin(scores)

    def metrics(weights: np.ndarray) -> dict[str, Any]:
        total, gap = weights.sum(-1), by_bin(weights * (scores - fake))
        return {
            "log_loss": (weights * losses).sum(-1) / total,
            "brier": (weights * (scores - fake) ** 2).sum(-1) / total,
            "ece": np.abs(gap).sum(-1) / total,
        }

    return metrics


def _from_zero(rates: np.ndarray) -> np.ndarray:
    """Return float [..., n] with a zero before the first one, [..., n + 1]."""
    return np.concatenate([np.zeros((*rates.shape[:-1], 1)), rates], axis=-1)


def sums_by_bin(scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Prepare sums over the images of each bin of P(fake).

    Args:
        scores: float [n], P(fake).

    Returns:
        A function from values float [..., n] to their sums, float [..., BINS].
    """
    bins = np.minimum((np.asarray(scores, np.float64) * BINS).astype(int), BINS - 1)
    order = np.argsort(bins, kind="stable")
    filled, starts = np.unique(bins[order], return_index=True)

    def sums(values: np.ndarray) -> np.ndarray:
        found = np.zeros((*values.shape[:-1], BINS))
        found[..., filled] = np.add.reduceat(np.take(values, order, axis=-1), starts, axis=-1)
        return found

    return sums


def class_weights(fake: np.ndarray, prior: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Return weights with which a fraction `prior` of the images is fake.

    Args:
        fake: bool [n].
        prior: in (0, 1).
        weights: float [..., n] that the images have already; by default all the same.

    Returns:
        float [..., n], to be multiplied with `weights`; nan where a class is missing.
    """
    weights = np.ones(len(fake)) if weights is None else weights
    total, fakes = weights.sum(-1, keepdims=True), (weights * fake).sum(-1, keepdims=True)
    authentic = total - fakes
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(fake, prior * total / fakes, (1 - prior) * total / authentic)
    return np.where((fakes > 0) & (authentic > 0), found, np.nan)


def _equal_error_rate(tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    """Return where the false positive and the false negative rate are equal, by interpolation.

    Args:
        tpr, fpr: float [..., n], ascending; all nan where a class is missing.
    """
    difference = fpr - (1 - tpr)  # rises from -1 to 1
    after = np.argmax(difference >= 0, axis=-1)[..., None]
    ends = np.maximum(after - 1, 0), after
    low, high = (np.take_along_axis(difference, end, -1)[..., 0] for end in ends)
    before, behind = (np.take_along_axis(fpr, end, -1)[..., 0] for end in ends)
    fraction = np.where(high > low, -low / (high - low), 0.0)
    missing = np.isnan(tpr).any(-1) | np.isnan(fpr).any(-1)
    return np.where(missing, np.nan, before + fraction * (behind - before))


def _recall_at_fpr(tpr: np.ndarray, fpr: np.ndarray, rate: float, authentic: int) -> np.ndarray:
    """Return the highest recall of a threshold whose false positive rate is at most `rate`.

    It is nan where one false positive among the authentic images is a higher rate.

    Args:
        tpr, fpr: float [..., n], from 0 on; all nan where a class is missing.
    """
    missing = np.isnan(tpr).any(-1) | np.isnan(fpr).any(-1) | (authentic * rate < 1)
    return np.where(missing, np.nan, np.where(fpr <= rate, tpr, 0.0).max(-1))


def confusion(
    labels: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, classes: int
) -> list[list[int]]:
    """Return the counts [true class][predicted class]."""
    pairs = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()
