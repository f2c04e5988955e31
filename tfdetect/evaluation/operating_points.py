"""Operating points: thresholds of P(fake), and the band around them in which there is no verdict.

They are chosen on validation images, at the prior that the run reports for. A prior moves P(fake)
of every image alike, so a threshold that moves with the prior separates the same images.
"""

import numpy as np
from scipy.special import expit

from tfdetect.core.run_info import AbstentionBand, OperatingPoint
from tfdetect.evaluation.calibration import logit

POINTS = {
    "fpr_1": "at most 1% false positives",
    "fpr_5": "at most 5% false positives",
    "source_fpr_5": "at most 5% false positives on sources not seen before",
    "eer": "equal error rates",
    "balanced": "best balanced accuracy",
    "cost": "lowest cost",
}
NEW_SOURCE_RATE = 0.05  # of false positives; it takes 19 sources
DEFAULT_ERROR_RATE = 0.01  # outside of the abstention band
DEFAULT_ERROR_RATE_FEW = 0.05  # ... where a class has fewer than 100 images


def operating_points(
    p: np.ndarray,
    fake: np.ndarray,
    cost: float | None = None,
    prior: float = 0.5,
    sources: np.ndarray | None = None,
) -> dict[str, OperatingPoint]:
    """Choose thresholds of P(fake) on these images.

    The one for new sources is conformal: if a source is drawn as these were, an authentic image of
    it reaches the threshold with a probability of at most 5%, whatever the detector is (Lee,
    Barber and Willett, Distribution-free inference with hierarchical data, 2023).

    Args:
        p: float32 [n], P(fake).
        fake: bool [n].
        cost: the cost of a false positive, where a missed fake costs 1.
        prior: fraction of fakes for which the cost is expected.
        sources: str [n], where each authentic image is from; "" where that is unknown.

    Returns:
        The points of `POINTS` for which there are enough images, or sources. The thresholds of
        equal error rates and of best balanced accuracy are halfway between two scores (of the
        logits); those that bound the false positives at a score.
    """
    p = np.asarray(p, np.float32)
    authentic, fakes = np.sort(p[~fake]), np.sort(p[fake])
    if not len(authentic) or not len(fakes):
        return {}
    # Every threshold that separates the images differently; above the last none is called fake.
    cuts = np.append(np.unique(p), np.nextafter(p.max(), np.float32(2)))
    fpr = 1 - np.searchsorted(authentic, cuts) / len(authentic)
    tpr = 1 - np.searchsorted(fakes, cuts) / len(fakes)
    chosen = {}
    for name, rate in (("fpr_1", 0.01), ("fpr_5", 0.05)):
        if len(authentic) * rate >= 1:  # else a single image decides
            chosen[name] = int(np.argmax(fpr <= rate))
    if sources is not None and (sources[~fake] != "").all():
        bound = _new_source_fpr(p[~fake], sources[~fake], cuts)
        if (bound <= NEW_SOURCE_RATE).any():
            chosen["source_fpr_5"] = int(np.argmax(bound <= NEW_SOURCE_RATE))
    chosen["eer"] = int(np.argmin(np.abs(fpr - (1 - tpr))))
    chosen["balanced"] = int(np.argmax(tpr - fpr))
    if cost is not None:
        chosen["cost"] = int(np.argmin(cost * fpr * (1 - prior) + (1 - tpr) * prior))
    return {
        name: OperatingPoint(
            threshold=_halfway(cuts, i) if name in ("eer", "balanced") else float(cuts[i]),
            fpr=float(fpr[i]), tpr=float(tpr[i]), authentic=len(authentic), fakes=len(fakes),
        )
        for name, i in chosen.items()
    }  # fmt: skip


def _new_source_fpr(p: np.ndarray, sources: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the false positive rate on a new source that each threshold keeps, float [cuts].

    The new source counts as one more beside those known, all of whose images reach the threshold.
    """
    names, of_images = np.unique(sources, return_inverse=True)
    rates = np.zeros(len(cuts))
    for source in range(len(names)):
        own = np.sort(p[of_images == source])
        rates += 1 - np.searchsorted(own, cuts) / len(own)
    return (rates + 1) / (len(names) + 1)


def _halfway(cuts: np.ndarray, position: int) -> float:
    """Return the threshold between a cut and the score below it, for the same verdicts."""
    if position == 0:
        return float(cuts[0])
    below, cut = cuts[position - 1], cuts[position]
    middle = np.float32(expit(logit(np.array([below, cut])).mean()))
    return float(middle) if below < middle <= cut else float(cut)


def choose_threshold(rule: str | float, points: dict[str, OperatingPoint]) -> float:
    """Return the threshold of the verdict.

    Args:
        rule: the name of an operating point, or P(fake) itself.
        points: those of the run.

    Returns:
        P(fake) from which the verdict is fake. Where the images did not suffice for a point, the
        threshold of best balanced accuracy; where there are none at all, 0.5.
    """
    if not isinstance(rule, str):
        return float(rule)
    point = points.get(rule) or points.get("balanced")
    return point.threshold if point else 0.5


def abstention_band(
    p: np.ndarray, fake: np.ndarray, threshold: float, error_rate: float | None = None
) -> AbstentionBand | None:
    """Choose the P(fake) for which the verdict is "inconclusive".

    Args:
        p: float [n], P(fake).
        fake: bool [n].
        threshold: the threshold of the verdict; the band contains it.
        error_rate: fraction of the authentic images that may lie at or above the band, and of the
            fakes below it; by default 1%, or 5% of fewer than a hundred images.

    Returns:
        The band, with the fraction of these images outside of it; None where there are too few
        images. It is empty where every threshold near the run's gives fewer errors.
    """
    p = np.asarray(p, np.float32)
    authentic, fakes = np.sort(p[~fake]), np.sort(p[fake])
    smallest = min(len(authentic), len(fakes))
    rate = error_rate or (DEFAULT_ERROR_RATE if smallest >= 100 else DEFAULT_ERROR_RATE_FEW)
    if smallest * rate < 1:
        return None
    high = float(np.nextafter(authentic[-1 - int(rate * len(authentic))], np.float32(2)))
    low = float(fakes[int(rate * len(fakes))])
    if low > high:  # a gap: any threshold in it keeps the promise
        low = high = min(max(threshold, high), low)
    low, high = min(low, threshold), max(high, threshold)
    coverage = float(((p < low) | (p >= high)).mean())
    return AbstentionBand(low=low, high=high, error_rate=rate, coverage=coverage)
