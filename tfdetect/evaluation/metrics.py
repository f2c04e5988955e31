"""Metrics of a detector, each with a bootstrap interval.

All take sample weights, so that one bootstrap resample is a vector of counts and
nothing is copied or sorted twice.
"""

from collections.abc import Callable

import numpy as np

# P(fake) is clipped here before its logarithm is taken, as scikit-learn does.
_TINY = float(np.finfo(np.float32).eps)
BINS = 15  # of the reliability diagram and the calibration error

NAMES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "precision": "precision",
    "recall": "recall", "f1": "F1", "auc": "AUC", "ap": "average precision",
    "eer": "equal error rate", "tpr_at_fpr_1": "recall at 1% false alarms",
    "tpr_at_fpr_5": "recall at 5% false alarms", "log_loss": "log-loss", "brier": "Brier score",
    "ece": "calibration error (ECE)",
}  # fmt: skip


def binary_metrics(fake: np.ndarray, scores: np.ndarray, threshold: float = 0.5) -> Callable:
    """Prepares the metrics of P(fake) against is-fake.

    Args:
        fake: bool [n], whether an image is some kind of fake.
        scores: float [n], P(fake).
        threshold: at which P(fake) becomes the verdict fake.

    Returns:
        A function from weights float [n] to a dict of metrics; a metric that
        needs both classes is nan where one is missing.
    """
    fake, scores = np.asarray(fake, bool), np.asarray(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    sorted_fake, sorted_scores = fake[order], scores[order]
    # The last of each run of equal scores: only there is a threshold possible.
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    verdict = scores >= threshold
    clipped = np.clip(scores, _TINY, 1 - _TINY)
    losses = -np.where(fake, np.log(clipped), np.log1p(-clipped))
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)

    def metrics(weights: np.ndarray) -> dict[str, float]:
        w = weights.astype(np.float64)
        tp, fp = w[verdict & fake].sum(), w[verdict & ~fake].sum()
        fn, tn = w[~verdict & fake].sum(), w[~verdict & ~fake].sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, specificity = tp / (tp + fn), tn / (tn + fp)
            sorted_w = w[order]
            tps = np.cumsum(sorted_w * sorted_fake)[ends]
            fps = np.cumsum(sorted_w * ~sorted_fake)[ends]
            tpr, fpr = np.r_[0, tps / tps[-1]], np.r_[0, fps / fps[-1]]
            precisions = np.where(tps + fps > 0, tps / (tps + fps), 1.0)
            count = np.bincount(bins, w, BINS)
            gap = np.bincount(bins, w * scores, BINS) - np.bincount(bins, w * fake, BINS)
            return {
                "accuracy": (tp + tn) / w.sum(),
                "balanced_accuracy": (recall + specificity) / 2,
                "precision": tp / (tp + fp) if tp + fp else 0.0,
                "recall": recall,
                "f1": 2 * tp / (2 * tp + fp + fn),
                "auc": float(np.trapezoid(tpr, fpr)),
                # Without authentic images it would be 1 whatever the scores.
                "ap": float(np.sum(np.diff(tpr) * precisions)) if fps[-1] else np.nan,
                "eer": _equal_error(tpr, fpr),
                "tpr_at_fpr_1": _recall_at(tpr, fpr, 0.01),
                "tpr_at_fpr_5": _recall_at(tpr, fpr, 0.05),
                "log_loss": (w * losses).sum() / w.sum(),
                "brier": (w * (scores - fake) ** 2).sum() / w.sum(),
                "ece": np.abs(gap).sum() / count.sum(),
            }

    return metrics


def _equal_error(tpr: np.ndarray, fpr: np.ndarray) -> float:
    """Where the false positive and the false negative rate are equal, by interpolation."""
    if np.isnan(tpr).any() or np.isnan(fpr).any():
        return float("nan")
    difference = fpr - (1 - tpr)  # rises from -1 to 1
    after = int(np.argmax(difference >= 0))
    before = max(after - 1, 0)
    span = difference[after] - difference[before]
    share = -difference[before] / span if span > 0 else 0.0
    return float(fpr[before] + share * (fpr[after] - fpr[before]))


def _recall_at(tpr: np.ndarray, fpr: np.ndarray, rate: float) -> float:
    """The highest share of fakes found at a threshold with no more false alarms than that."""
    if np.isnan(tpr).any() or np.isnan(fpr).any():
        return float("nan")
    return float(tpr[fpr <= rate].max())


def with_intervals(
    metrics: Callable, count: int, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> dict[str, dict[str, float | None]]:
    """Evaluates metrics on all images and on bootstrap resamples of them.

    Args:
        metrics: from `binary_metrics`.
        count: number of images.

    Returns:
        {metric: {"value", "low", "high"}}; the interval holds the middle `level`
        of the resamples. None where a metric is not defined.
    """
    point = metrics(np.ones(count))
    rng = np.random.default_rng(seed)
    rows = [
        metrics(np.bincount(rng.integers(count, size=count), minlength=count))
        for _ in range(resamples)
    ]
    edges = [100 * (1 - level) / 2, 100 * (1 + level) / 2]
    result = {}
    for name, value in point.items():
        values = np.array([row[name] for row in rows])
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, edges) if len(values) else (np.nan, np.nan)
        triple = {"value": value, "low": low, "high": high}
        result[name] = {k: None if np.isnan(v) else round(float(v), 6) for k, v in triple.items()}
    return result


def shown(metric: dict[str, float | None]) -> str:
    """A value with its interval, as text."""
    if metric["value"] is None:
        return "-"
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> list[list[int]]:
    """Counts [true class][predicted class]."""
    pairs = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()
