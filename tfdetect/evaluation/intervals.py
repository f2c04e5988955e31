"""Confidence intervals of metrics.

Every interval of a metric is made here, and they follow the same rules: it contains its value; it
has a width wherever more images could change the value; of one image there is none. Fractions of
images have Wilson's interval, everything else resamples the images (bootstrap). How often the
intervals contain the truth is tested by simulation.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from tfdetect.core.run_results import Interval, Metrics
from tfdetect.evaluation.metrics import K, Weighted, binary_metrics, class_weights, sums_by_bin
from tfdetect.evaluation.verdicts import is_fake

LEVEL = 0.95
RESAMPLES = 1000  # of every command, so that intervals of the same data are the same everywhere
CHUNK = 2**18  # weights that are evaluated at once
CHANCE = 0.5  # AUC, balanced accuracy and balanced error of guesses
_DIGITS = 4  # of metrics that are shown
FEW_IMAGES = 100  # of a class, below which the bootstrap alone is too sure; see `binary_intervals`


def interval(value: float, low: float = np.nan, high: float = np.nan) -> Interval:
    """Return {"value", "low", "high"}, rounded to six digits; None where one is nan."""
    if not np.isnan(low):
        low, high = min(low, value), max(high, value)
    triple = {"value": value, "low": low, "high": high}
    return {name: None if np.isnan(v) else round(float(v), 6) for name, v in triple.items()}


def numbers(metric: Interval) -> tuple[float, float, float]:
    """Return value, low and high of a metric; nan where one is not defined."""
    value, low, high = (metric[name] for name in ("value", "low", "high"))
    return (
        np.nan if value is None else value, np.nan if low is None else low,
        np.nan if high is None else high,
    )  # fmt: skip


def may_be_chance(metric: Interval) -> bool:
    """Return whether guesses may be as good, by the interval of an AUC or a balanced accuracy.

    That is, whether its lower end is at most 0.5; false where there is no interval.
    """
    return metric["low"] is not None and metric["low"] <= CHANCE


def sign_of(difference: Interval) -> int | None:
    """Return 1 or -1 where a difference of two detectors is significant, by its sign, else 0.

    It is 0, too, where the difference is shown as 0.0000. None where there is no interval.
    """
    value, low, high = difference["value"], difference["low"], difference["high"]
    if value is None or low is None or high is None:
        return None
    if not round(value, _DIGITS):
        return 0
    return int(low > 0) - int(high < 0)


def proportion(hits: np.ndarray) -> Interval:
    """Return the fraction of true values in bool [n] with Wilson's interval.

    It has no value without images, and no interval for one image.
    """
    return of_count(int(np.sum(hits)), len(hits))


def of_count(hits: int, count: int) -> Interval:
    """Return the fraction hits / count with Wilson's interval."""
    if count < 1:
        return interval(np.nan)
    if count == 1:
        return interval(float(hits))
    return interval(hits / count, *wilson(hits / count, count))


def wilson(value: float, count: int) -> tuple[float, float]:
    """Return Wilson's interval of a fraction of `count` > 0 images, or of a mean within 0 and 1."""
    z = special.ndtri((1 + LEVEL) / 2)
    middle = (value + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z * np.sqrt(value * (1 - value) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def mean_of_fractions(fractions: Sequence[Interval]) -> Interval:
    """Return the mean of independent fractions, such as the recalls of all classes.

    Its interval follows from theirs (Newcombe's method of variance recovery, 1998).
    """
    if any(fraction["value"] is None for fraction in fractions):
        return interval(np.nan)
    values = np.array([fraction["value"] for fraction in fractions])
    if any(fraction["low"] is None for fraction in fractions):
        return interval(values.mean())
    lows, highs = (np.array([f[end] for f in fractions]) for end in ("low", "high"))
    down, up = (np.sqrt((each**2).sum()) / len(values) for each in (values - lows, highs - values))
    return interval(values.mean(), max(0.0, values.mean() - down), min(1.0, values.mean() + up))


def complement(fraction: Interval) -> Interval:
    """Return one minus a fraction."""
    value, low, high = numbers(fraction)
    return interval(1 - value, 1 - high, 1 - low)


def of_folds(values: Sequence[float]) -> Interval:
    """Return the mean of a metric over two folds or more, with Student's interval of the mean."""
    mean, count = float(np.mean(values)), len(values)
    student = special.stdtrit(count - 1, (1 + LEVEL) / 2)
    reach = student * float(np.std(values, ddof=1)) / np.sqrt(count)
    return {"value": mean, "low": mean - reach, "high": mean + reach}


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean of float [n] with the bootstrap's interval."""
    means = bootstrap(lambda w: {"mean": w @ values / w.sum(-1)}, len(values), bounded=False)
    return means["mean"]


def precision_at(tpr: Interval | None, fpr: Interval | None, prior: float) -> Interval:
    """Return the precision where a fraction `prior` of all images is fake.

    Its bounds are the precisions at the unfavorable and at the favorable ends of both rates, so
    that no false positive among a few images does not promise that there will be none.

    Args:
        tpr, fpr: recall and false positive rate, from `proportion`.
        prior: fraction of fakes in (0, 1).
    """
    if not tpr or not fpr or tpr["value"] is None or fpr["value"] is None:
        return interval(np.nan)

    def precision(recall: float, false_alarms: float) -> float:
        called_fake = recall * prior + false_alarms * (1 - prior)
        return recall * prior / called_fake if called_fake else np.nan

    (recall, *recalls), (false_alarms, *rates) = numbers(tpr), numbers(fpr)
    value = precision(recall, false_alarms)
    if np.isnan([value, *recalls, *rates]).any():
        return interval(value)
    return interval(value, precision(recalls[0], rates[1]), precision(recalls[1], rates[0]))


_ROUNDING = 1e-9  # sums of weights in different orders differ by less


def bootstrap(
    metrics: Weighted[K],
    count: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
    bounded: bool = True,
    counts: Mapping[K, int] | None = None,
    losses: Collection[K] = (),
) -> dict[K, Interval]:
    """Evaluate metrics on all images and on resamples of them.

    The interval spans the percentiles of the resamples and the bias-corrected percentiles (Efron,
    1987), both widened for few images as Student's distribution is (Hesterberg, What teachers
    should know about the bootstrap, 2015).

    Args:
        metrics: from weights of the images, float [..., count], to values by name; see `each_row`
            for those that take [count] alone.
        count: number of images.
        seed: seed of the resamples.
        resamples: their number.
        bounded: whether the values lie between 0 and 1. Then one that is 0 or 1, or the same in
            all resamples, has at least the interval of a fraction of so many images.
        counts: how many images a metric depends on, where these are not all.
        losses: names of metrics that are at least 0 and may be larger than 1.
    """
    point = metrics(np.ones(count))
    rows = _resampled(metrics, count, seed, resamples)
    found = {}
    for name, value in point.items():
        number = count if counts is None else counts.get(name, count)
        low, high = _percentiles(rows[name], value, number)
        same = high - low < _ROUNDING
        if same and (name in losses or not bounded):
            reach = wilson(0.0, number)[1]
            low, high = value - reach, value + reach
            low = max(0.0, low) if name in losses else low
        elif bounded and name not in losses and (same or value in (0.0, 1.0)):
            ends = wilson(value, number)
            low, high = min(low, ends[0]), max(high, ends[1])
        found[name] = interval(value, low, high)
    return found


def binary_intervals(
    fake: np.ndarray,
    scores: np.ndarray,
    threshold: float = 0.5,
    prior: float | None = None,
    *,
    balanced: bool = False,
    ranks: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Metrics:
    """Return the metrics of P(fake), each with its interval.

    Accuracy, recall and false positive rate are fractions of images; precision and F1 follow from
    fractions, and balanced accuracy from two of them (Newcombe's method of variance recovery). The
    rest is resampled. Where a class has fewer than 100 images, or a metric is perfect, images that
    would have been judged wrong may be missing by chance: then the interval also spans resamples
    with one more image of each class that looks like the other class, as Agresti and Coull do for
    fractions.

    The calibration error of the images is larger than the true one, as chance moves every bin. Its
    interval is the value plus and minus what chance moves all bins together at most, in 97.5% of
    the resamples (the triangle inequality).

    Args:
        fake, scores, threshold, prior, balanced, ranks: see `binary_metrics`.
        names: names of the metrics; by default all.
        seed: seed of the resamples.
        resamples: their number.
    """
    fake, scores = np.asarray(fake, bool), np.asarray(scores)
    ranks, count = scores if ranks is None else ranks, len(fake)
    metrics = binary_metrics(fake, scores, threshold, prior, balanced=balanced, ranks=ranks)

    def wanted(weights: np.ndarray) -> dict[str, Any]:
        values = metrics(weights)
        return {name: values[name] for name in names or values}

    found = bootstrap(wanted, count, seed, resamples, losses=("log_loss",))
    if count == 1:
        return found
    smallest = min(fake.sum(), (~fake).sum())
    doubtful = [
        name for name, value in found.items()
        if value["value"] in (0.0, 1.0) or (value["value"] is not None and smallest < FEW_IMAGES)
    ]  # fmt: skip
    if smallest and doubtful:
        (more, p), (_, ranked) = _confusable(fake, scores), _confusable(fake, ranks)
        doubted = binary_metrics(more, p, threshold, prior, balanced=balanced, ranks=ranked)
        ends = _percentiles_of(_resampled(doubted, len(more), seed, resamples))
        for name in set(doubtful) & set(ends):
            value, low, high = numbers(found[name])
            found[name] = interval(value, min(low, ends[name][0]), max(high, ends[name][1]))
    exact = _of_fractions(fake, scores, threshold, balanced) | {
        "ece": _calibration_error(fake, scores, prior, seed, resamples)
    }
    return {name: exact.get(name, value) for name, value in found.items()}


def _resampled(metrics: Weighted[K], count: int, seed: int, resamples: int) -> dict[K, np.ndarray]:
    """Return the values of metrics on resamples, float [resamples] by name."""
    parts = []
    for weights in _resamples(count, seed, resamples):
        values = metrics(weights)
        parts.append({name: np.broadcast_to(v, len(weights)) for name, v in values.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _resamples(count: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, int [r, count], for some resamples at a time."""
    rng, most = np.random.default_rng(seed), max(1, CHUNK // count)
    for begin in range(0, resamples, most):
        rows = min(most, resamples - begin)
        drawn = rng.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


def each_row(metrics: Callable[[np.ndarray], dict[str, float]]) -> Weighted[str]:
    """Return a function of weights float [..., count] from a function of weights float [count]."""

    def rows(weights: np.ndarray) -> dict[str, Any]:
        if weights.ndim == 1:
            return metrics(weights)
        found = [metrics(row) for row in weights]
        return {name: np.array([row[name] for row in found]) for name in found[0]}

    return rows


def _percentiles(values: np.ndarray, value: float, count: int) -> tuple[float, float]:
    """Return the interval that resampled values [n] give; nan where there is none."""
    values = values[~np.isnan(values)]
    if count < 2 or np.isnan(value) or not len(values):
        return np.nan, np.nan
    student = special.stdtrit(count - 1, (1 + LEVEL) / 2) * np.sqrt(count / (count - 1))
    tail = special.ndtr(-student)
    below = ((values < value).mean() + (values <= value).mean()) / 2
    bias = special.ndtri(np.clip(below, 0.5 / len(values), 1 - 0.5 / len(values)))
    shifted = special.ndtr(2 * bias + np.array([-student, student]))
    ends = np.quantile(values, [tail, 1 - tail, *shifted])
    return min(ends[0], ends[2], value), max(ends[1], ends[3], value)


def _percentiles_of(rows: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return the plain percentile intervals of resampled metrics that are defined."""
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {
        name: tuple(np.quantile(values[~np.isnan(values)], ends))
        for name, values in rows.items() if not np.isnan(values).all()
    }  # fmt: skip


def _confusable(fake: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and one more of each class, with the median score of the other class."""
    more = [np.median(scores[~fake]), np.median(scores[fake])]
    return np.append(fake, [True, False]), np.append(scores, more)


def _of_fractions(
    fake: np.ndarray, scores: np.ndarray, threshold: float, balanced: bool
) -> Metrics:
    """Return the metrics that follow from fractions of images."""
    called_fake = is_fake(scores, threshold)
    recall, fpr = proportion(called_fake[fake]), proportion(called_fake[~fake])
    middle = mean_of_fractions([recall, complement(fpr)])
    found = {"recall": recall, "fpr": fpr, "balanced_accuracy": middle}
    if balanced:
        return found | {"accuracy": middle, "precision": precision_at(recall, fpr, 0.5)}
    hits, calls = int((called_fake & fake).sum()), int(called_fake.sum())
    overlap = of_count(hits, int((called_fake | fake).sum()))
    f1 = {k: None if v is None else round(2 * v / (1 + v), 6) for k, v in overlap.items()}
    precision = of_count(hits, calls) if calls else interval(0.0)
    return found | {"accuracy": proportion(called_fake == fake), "precision": precision, "f1": f1}


def _calibration_error(
    fake: np.ndarray, scores: np.ndarray, prior: float | None, seed: int, resamples: int
) -> Interval:
    """Return the calibration error with what chance moves all bins together at most."""
    value = _gaps(fake, scores, prior)(np.ones(len(fake)))
    if np.isnan(value).any():
        return interval(np.nan)
    reach = _noise(fake, scores, prior, seed, resamples)
    smallest = min(fake.sum(), (~fake).sum())
    if smallest and (smallest < FEW_IMAGES or reach < 1 / len(fake)):
        reach = max(reach, _noise(*_confusable(fake, scores), prior, seed, resamples))
    error = float(np.abs(value).sum())
    return interval(error, max(0.0, error - reach), min(1.0, error + reach))


def _gaps(fake: np.ndarray, scores: np.ndarray, prior: float | None) -> Callable:
    """Prepare the differences of P(fake) and the fraction of fakes, by bin."""
    by_bin = sums_by_bin(scores)

    def gaps(weights: np.ndarray) -> np.ndarray:
        w = weights if prior is None else weights * class_weights(fake, prior, weights)
        return by_bin(w * (scores - fake)) / w.sum(-1, keepdims=True)

    return gaps


def _noise(
    fake: np.ndarray, scores: np.ndarray, prior: float | None, seed: int, resamples: int
) -> float:
    """Return the sum of the bins' changes that 97.5% of the resamples do not exceed."""
    gaps, count = _gaps(fake, scores, prior), len(fake)
    value = gaps(np.ones(count))
    changes = [
        np.abs(gaps(weights) - value).sum(-1) for weights in _resamples(count, seed, resamples)
    ]
    return float(np.nanquantile(np.concatenate(changes), (1 + LEVEL) / 2))


def format_interval(
    metric: Interval | None, digits: int = _DIGITS, percent: bool = False, signed: bool = False
) -> str:
    """Return a metric as text, "0.9123 [0.9050, 0.9190]"; "-" where it is not defined.

    Without an interval only the value is shown.
    """
    if metric is None or metric["value"] is None:
        return "-"
    form = f"{'+' if signed else ''}.{digits}{'%' if percent else 'f'}"

    def shown(number: float) -> str:
        # Python writes a small negative number as -0.0000.
        return f"{round(number, digits + 2 * percent) + 0.0:{form}}"

    value = shown(metric["value"])
    if metric["low"] is None or metric["high"] is None:
        return value
    return f"{value} [{shown(metric['low'])}, {shown(metric['high'])}]"
