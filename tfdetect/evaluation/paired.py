"""Compares detectors on the same images, with paired intervals and tests."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import stats

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.evaluation.intervals import Interval, binary_intervals, bootstrap, format_interval
from tfdetect.evaluation.metrics import NAMES, binary_metrics
from tfdetect.evaluation.verdicts import is_fake


def difference(
    fake: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    names: Sequence[str],
    thresholds: tuple[float, float] = (0.5, 0.5),
    resamples: int = 1000,
) -> dict[str, Interval]:
    """Return the differences of two detectors' metrics, with paired bootstrap intervals.

    Args:
        fake: bool [n].
        one, other: P(fake) of the same images by the two detectors, [n].
        names: which metrics; see `metrics.NAMES`.
        thresholds: of the two detectors.
        resamples: number of bootstrap resamples.

    Returns:
        {metric: {"value", "low", "high"}} of the first detector minus the second.
    """
    first, second = (binary_metrics(fake, p, t) for p, t in zip((one, other), thresholds))

    def subtract(weights: np.ndarray) -> dict[str, Any]:
        a, b = first(weights), second(weights)
        return {name: a[name] - b[name] for name in names}

    return bootstrap(subtract, len(fake), resamples=resamples, bounded=False)


def mcnemar(right_one: np.ndarray, right_other: np.ndarray) -> float:
    """Return the p-value of McNemar's exact test that both detectors have the same accuracy.

    Args:
        right_one, right_other: whether each verdict is right, on the same images, bool [n].
    """
    only_one = int((right_one & ~right_other).sum())
    only_other = int((~right_one & right_other).sum())
    total = only_one + only_other
    return float(stats.binomtest(only_one, total).pvalue) if total else 1.0


def delong(fake: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Return the p-value of DeLong's test that both detectors have the same AUC.

    Args:
        fake: bool [n].
        one, other: their scores of the same images, [n].

    Source: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988), by the ranks of Sun & Xu, IEEE
    Signal Processing Letters 21 (2014).
    """
    scores = np.stack([one, other])
    positive, negative = scores[:, fake], scores[:, ~fake]
    m, n = positive.shape[1], negative.shape[1]
    whole = np.stack([stats.rankdata(np.concatenate(p)) for p in zip(positive, negative)])
    inner = np.stack([stats.rankdata(p) for p in positive])
    outer = np.stack([stats.rankdata(p) for p in negative])
    auc = (whole[:, :m].sum(1) / m - (m + 1) / 2) / n
    of_fakes = (whole[:, :m] - inner) / n
    of_authentic = 1 - (whole[:, m:] - outer) / m
    covariance = np.cov(of_fakes) / m + np.cov(of_authentic) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance <= 1e-18:
        return 1.0 if np.isclose(auc[0], auc[1]) else 0.0
    return float(2 * stats.norm.sf(abs(auc[0] - auc[1]) / np.sqrt(variance)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's method."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(np.array(p)[order] * (len(p) - np.arange(len(p))))
    found = np.empty(len(p))
    found[order] = np.minimum(adjusted, 1)
    return found.tolist()


def compare(
    runs: dict[str, Run], split: str, dataset: str | None, metrics: Sequence[str]
) -> dict:  # fmt: skip
    """Compare the predictions of runs on the images that all of them were evaluated on.

    Args:
        runs: by the name to show.
        split: of the dataset.
        dataset: name of an evaluation on other images than the runs' own; None for their own.
        metrics: which to compare.

    Returns:
        count: number of images; runs: {name: metrics with intervals}; pairs: for each two runs
        one, other, metrics (differences with intervals) and the p-values mcnemar and delong,
        which are adjusted for their number by Holm's method.

    Raises:
        UserError: a run was not evaluated so, or the runs have no images in common.
    """
    tables = {name: _predictions(run, split, dataset) for name, run in runs.items()}
    common = set.intersection(*(set(_keys(t)) for t in tables.values()))
    if not common:
        raise UserError(
            f"No image of {split} was evaluated by all of {', '.join(runs)}. Evaluate them on one "
            "dataset with: python -m tfdetect.evaluate RUN --dataset NAME"
        )
    p, right, labels = {}, {}, {}
    for name, table in tables.items():
        keys = _keys(table)
        order = [i for i, _ in sorted(enumerate(keys), key=lambda pair: pair[1])
                 if keys[i] in common]  # fmt: skip
        table = table.take(pa.array(order))
        labels[name] = table["label"].to_numpy() > 0
        p[name] = table["p_fake"].to_numpy()
        right[name] = is_fake(p[name], runs[name].threshold) == labels[name]
    fake = next(iter(labels.values()))
    if any((other != fake).any() for other in labels.values()):
        raise UserError(f"{', '.join(runs)} were evaluated with different labels of an image.")
    if fake.all() or not fake.any():
        raise UserError(
            f"The {len(fake):,} images that all runs were evaluated on are of one class; a "
            "comparison needs authentic images and fakes."
        )
    found = {
        "count": len(fake),
        "runs": {
            name: binary_intervals(fake, p[name], runs[name].threshold, names=metrics)
            for name in runs
        },
    }
    pairs: list[dict[str, Any]] = []
    for one, other in combinations(runs, 2):
        thresholds = runs[one].threshold, runs[other].threshold
        pairs.append({
            "one": one, "other": other,
            "metrics": difference(fake, p[one], p[other], metrics, thresholds),
            "mcnemar": mcnemar(right[one], right[other]),
            "delong": delong(fake, p[one], p[other]),
        })  # fmt: skip
    for test in ("mcnemar", "delong"):
        adjusted = holm([float(pair[test]) for pair in pairs])
        for pair, value in zip(pairs, adjusted):
            pair[test] = value
    return found | {"pairs": pairs}


def terminal(found: dict) -> str:
    """Return what `compare` found as tables for the terminal."""
    metrics = list(next(iter(found["runs"].values())))
    rows = [
        [NAMES[key], *(format_interval(m[key]) for m in found["runs"].values())] for key in metrics
    ]
    differences = [
        [NAMES[key], *(format_interval(p["metrics"][key]) + _star(p["metrics"][key])
                       for p in found["pairs"])]
        for key in metrics
    ]  # fmt: skip
    for name, title in (("mcnemar", "McNemar, p-value"), ("delong", "DeLong (AUC), p-value")):
        differences.append([title, *(f"{pair[name]:.3g}" for pair in found["pairs"])])
    headers = ["difference", *(f"{pair['one']} - {pair['other']}" for pair in found["pairs"])]
    return "\n".join([
        f"{found['count']:,} images that all runs were evaluated on (brackets: 95% intervals)", "",
        console.format_table(rows, ["metric", *found["runs"]]), "",
        console.format_table(differences, headers), "",
        "* the interval does not contain 0. p-values are adjusted for their number (Holm).",
    ])  # fmt: skip


def _star(metric: dict) -> str:
    differs = metric["low"] is not None and (metric["low"] > 0 or metric["high"] < 0)
    return " *" if differs else ""


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["path"].to_pylist(), table["hash"].to_pylist()))


def _predictions(run: Run, split: str, dataset: str | None) -> pa.Table:
    folder = run.path / "evaluations" / dataset if dataset else run.path
    file = Path(folder) / "predictions" / f"{split}.parquet"
    if not file.is_file():
        more = f" --dataset {dataset}" if dataset else ""
        raise UserError(
            f"{run.name} has no predictions of {split}{' of ' + dataset if dataset else ''}. Make "
            f"them with: python -m tfdetect.evaluate {run.path}{more} --split {split}"
        )
    table = pq.read_table(file)
    return table.filter(pc.is_null(table["error"]))
