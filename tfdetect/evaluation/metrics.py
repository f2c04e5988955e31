"""Metrics of a detector. `intervals` gives each its interval.

All take sample weights, so that a bootstrap resample is a vector of counts and nothing is copied
or sorted twice.
"""

from collections.abc import Callable, Sequence

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
    "ece": "calibration error (ECE)",
}  # fmt: skip

Metrics = Callable[[np.ndarray], dict[str, float]]


def binary_metrics(
    fake: np.ndarray,
    scores: np.ndarray,
    threshold: float = 0.5,
    prior: float | None = None,
    *,
    balanced: bool = False,
) -> Metrics:
    """Prepare the metrics of P(fake).

    Args:
        fake: bool [n], whether an image is some kind of fake.
        scores: float [n], P(fake).
        threshold: P(fake) from which the verdict is fake.
        prior: fraction of fakes that P(fake) supposes. Log-loss, Brier score and ECE ask whether
            P(fake) is a probability, so for them the classes are weighted to that fraction: a set
            with 80% fakes does not make a detector miscalibrated. None weights every image alike.
        balanced: whether both classes count the same in accuracy, precision, F1 and average
            precision, however many images they have.

    Returns:
        A function from weights float [n] to a dict of metrics, with the keys of `NAMES`. A metric
        that needs a class that is missing is nan, and so is the recall at 1% (5%) false positives
        of fewer than 100 (20) authentic images.
    """
    fake, scores = np.asarray(fake, bool), np.asarray(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    sorted_fake, sorted_scores = fake[order], scores[order]
    # The last of each run of equal scores: only there is a threshold possible.
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    called_fake, authentic = is_fake(scores, threshold), int((~fake).sum())
    clipped = np.clip(scores, EPSILON, 1 - EPSILON)
    losses = -np.where(fake, np.log(clipped), np.log1p(-clipped))
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)

    def metrics(weights: np.ndarray) -> dict[str, float]:
        w = weights.astype(np.float64)
        u = w * class_weights(fake, 0.5, w) if balanced else w
        tp, fp = u[called_fake & fake].sum(), u[called_fake & ~fake].sum()
        fn, tn = u[~called_fake & fake].sum(), u[~called_fake & ~fake].sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, specificity = tp / (tp + fn), tn / (tn + fp)
            sorted_w = u[order]
            tps = np.cumsum(sorted_w * sorted_fake)[ends]
            fps = np.cumsum(sorted_w * ~sorted_fake)[ends]
            tpr, fpr = np.r_[0, tps / tps[-1]], np.r_[0, fps / fps[-1]]
            precisions = np.where(tps + fps > 0, tps / (tps + fps), 1.0)
            # To the prior: each class weighs as much as it is expected to be frequent.
            v = w if prior is None else w * class_weights(fake, prior, w)
            gap = np.bincount(bins, v * scores, BINS) - np.bincount(bins, v * fake, BINS)
            return {
                "accuracy": (tp + tn) / u.sum(),
                "balanced_accuracy": (recall + specificity) / 2,
                "precision": tp / (tp + fp) if tp + fp else 0.0,
                "recall": recall,
                "fpr": 1 - specificity,
                "f1": 2 * tp / (2 * tp + fp + fn),
                "auc": float(np.trapezoid(tpr, fpr)),
                # Without authentic images it would be 1 whatever the scores.
                "ap": float(np.sum(np.diff(tpr) * precisions)) if fps[-1] else np.nan,
                "eer": _equal_error_rate(tpr, fpr),
                "tpr_at_fpr_1": _recall_at_fpr(tpr, fpr, 0.01, authentic),
                "tpr_at_fpr_5": _recall_at_fpr(tpr, fpr, 0.05, authentic),
                "log_loss": (v * losses).sum() / v.sum(),
                "brier": (v * (scores - fake) ** 2).sum() / v.sum(),
                "ece": np.abs(gap).sum() / v.sum(),
            }

    return metrics


def class_weights(fake: np.ndarray, prior: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Return weights with which a fraction `prior` of the images is fake.

    Args:
        fake: bool [n].
        prior: in (0, 1).
        weights: float [n] that the images have already; by default all the same.

    Returns:
        float [n], to be multiplied with `weights`; nan where a class is missing.
    """
    weights = np.ones(len(fake)) if weights is None else weights
    total, fakes = weights.sum(), weights[fake].sum()
    if not 0 < fakes < total:
        return np.full(len(fake), np.nan)
    return np.where(fake, prior * total / fakes, (1 - prior) * total / (total - fakes))


def _equal_error_rate(tpr: np.ndarray, fpr: np.ndarray) -> float:
    """Return where the false positive and the false negative rate are equal, by interpolation."""
    if np.isnan(tpr).any() or np.isnan(fpr).any():
        return float("nan")
    difference = fpr - (1 - tpr)  # rises from -1 to 1
    after = int(np.argmax(difference >= 0))
    before = max(after - 1, 0)
    span = difference[after] - difference[before]
    fraction = -difference[before] / span if span > 0 else 0.0
    return float(fpr[before] + fraction * (fpr[after] - fpr[before]))


def _recall_at_fpr(tpr: np.ndarray, fpr: np.ndarray, rate: float, authentic: int) -> float:
    """Return the highest recall of a threshold whose false positive rate is at most `rate`.

    It is nan where one false positive among the authentic images is a higher rate.
    """
    if authentic * rate < 1 or np.isnan(tpr).any() or np.isnan(fpr).any():
        return float("nan")
    return float(tpr[fpr <= rate].max())


def confusion(
    labels: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, classes: int
) -> list[list[int]]:
    """Return the counts [true class][predicted class]."""
    pairs = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()
