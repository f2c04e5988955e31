"""Compare detectors on the same images, with paired intervals and tests."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.run_results import (
    Compared,
    Interval,
    MasksCompared,
    Metrics,
    RunPair,
    RunsCompared,
)
from tfdetect.core.text import counted, listed, printable
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.class_balance import in_order, unequal
from tfdetect.evaluation.intervals import (
    RESAMPLES,
    binary_intervals,
    bootstrap,
    each_row,
    format_interval,
    may_be_chance,
    sign_of,
)
from tfdetect.evaluation.mask_intervals import mask_intervals
from tfdetect.evaluation.mask_metrics import PixelCounts, confusions, iou_of, mask_metrics
from tfdetect.evaluation.measure import pixel_counts
from tfdetect.evaluation.metrics import NAMES, binary_metrics
from tfdetect.evaluation.result_tables import MASK_NAMES
from tfdetect.evaluation.verdicts import is_fake

Test = Literal["mcnemar", "delong", "wilcoxon"]
MASK_METRICS = ("iou_altered", "f1", "ap", "auc", "empty")  # of localizers


def difference(
    fake: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    names: Sequence[str],
    thresholds: tuple[float, float] = (0.5, 0.5),
    ranks: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    priors: tuple[float | None, float | None] = (None, None),
    resamples: int = RESAMPLES,
) -> Metrics:
    """Return the differences of two detectors' metrics, with paired bootstrap intervals.

    Args:
        fake: bool [n].
        one, other: P(fake) of the same images by the two detectors, [n].
        names: names of the metrics; see `metrics.NAMES`.
        thresholds: the thresholds of the two detectors.
        ranks: what orders the images, of the two detectors; by default P(fake).
        priors: fractions of fakes that the two assume; see `binary_metrics`.
        resamples: number of bootstrap resamples.

    Returns:
        {metric: {"value", "low", "high"}} of the first detector minus the second.
    """
    first, second = (
        binary_metrics(fake, p, threshold, prior, ranks=order)
        for p, threshold, prior, order in zip((one, other), thresholds, priors, ranks)
    )

    def subtract(weights: np.ndarray) -> dict[str, Any]:
        a, b = first(weights), second(weights)
        return {name: a[name] - b[name] for name in names}

    return bootstrap(subtract, len(fake), resamples=resamples, bounded=False)


def mask_difference(one: PixelCounts, other: PixelCounts) -> Metrics:
    """Return the differences of two localizers' `MASK_METRICS`, with paired bootstrap intervals.

    The images are resampled, each with both of its masks.

    Args:
        one, other: pixel counts of the same images by the two localizers.

    Returns:
        {metric: {"value", "low", "high"}} of the first localizer minus the second.
    """
    first, second = mask_metrics(one), mask_metrics(other)

    def subtract(weights: np.ndarray) -> dict[str, Any]:
        a, b = first(weights), second(weights)
        return {name: a[name] - b[name] for name in MASK_METRICS}

    return bootstrap(each_row(subtract), len(one[0]), bounded=False)


def wilcoxon(one: PixelCounts, other: PixelCounts) -> float:
    """Return the p-value of Wilcoxon's signed-rank test that neither IoU tends to be higher.

    Args:
        one, other: pixel counts of the same images; those with altered pixels are compared.
    """
    first, second = (iou_of(*confusions(pixels))[one.altered] for pixels in (one, other))
    differences = first - second
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


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
    runs: dict[str, Run], split: str | None, dataset: str | None, metrics: Sequence[str]
) -> RunsCompared:
    """Compare the predictions of runs on the images that all of them were evaluated on.

    Args:
        runs: the runs, by the names that are shown.
        split: the split of the dataset; None for the first of test, all and validation of which
            every run has predictions.
        dataset: name of an evaluation on other images than the runs' own; None for their own.
        metrics: which to compare.

    Raises:
        UserError: a run was not evaluated so, the runs have no images in common, or these are of
            one class and have no masks.
    """
    if split is None:
        kept = [prediction_tables.kept_splits(run.path, dataset) for run in runs.values()]
        choices = ("test", "all", "validation")
        split = next((s for s in choices if all(s in found for found in kept)), "test")
    tables = {name: _predictions(run, split, dataset) for name, run in runs.items()}
    return compare_tables(tables, runs, metrics)


def compare_tables(
    tables: Mapping[str, pa.Table], runs: Mapping[str, Run], metrics: Sequence[str]
) -> RunsCompared:
    """Compare predictions of runs; see `compare`.

    Args:
        tables: the predictions of each run, without images that it could not read.
        runs: the runs by the same names; their thresholds are used.
        metrics: which to compare; where the classes are unequal, balanced accuracy comes first.
    """
    common = set.intersection(*(set(keys_of(t)) for t in tables.values()))
    _check_common(common, tables)
    tables = dict(tables)
    for name, table in tables.items():
        keys = keys_of(table)
        order = [i for i, _ in sorted(enumerate(keys), key=lambda pair: pair[1])
                 if keys[i] in common]  # fmt: skip
        tables[name] = table.take(pa.array(order))
    labels = {name: table["label"].to_numpy() > 0 for name, table in tables.items()}
    fake = next(iter(labels.values()))
    if any((other != fake).any() for other in labels.values()):
        raise UserError(f"{', '.join(runs)} were evaluated with different labels of an image.")
    masks = _compare_masks(tables)
    found: RunsCompared = {"count": len(fake), "runs": {}, "pairs": []}
    if not fake.all() and fake.any():
        metrics = in_order(metrics, unequal(int((~fake).sum()), int(fake.sum())))
        found["runs"], found["pairs"] = _compare_labels(runs, tables, fake, metrics)
    elif masks is None:
        raise UserError(
            f"All runs were evaluated on {counted(len(fake), 'image')} of one class; a comparison "
            "needs authentic images and fakes."
        )
    if masks is not None:
        found["masks"] = masks
    return found


def _check_common(common: set[tuple[str, str]], tables: Mapping[str, pa.Table]) -> None:
    """Warn of images that not all runs were evaluated on, and which are not compared.

    Files of the same path changed between the evaluations, unless these are of different datasets,
    whose files have the same paths by chance.

    Args:
        common: path and hash of each image that all tables have.
        tables: predictions by the runs' names.

    Raises:
        UserError: the tables have no image in common.
    """
    paths = set.intersection(*(set(table["path"].to_pylist()) for table in tables.values()))
    changed = sorted(paths - {path for path, _ in common})
    again = "Evaluate all of them on the same files with: python -m tfdetect.evaluate RUN --dataset"
    if changed:
        more = f" and {len(changed) - 5:,} more" if len(changed) > 5 else ""
        files = f"{', '.join(map(printable, changed[:5]))}{more}"
    datasets = {name: sorted(pc.unique(t["dataset"]).to_pylist()) for name, t in tables.items()}
    differ = len(set(map(tuple, datasets.values()))) > 1
    which = "; ".join(f"{name}: {listed(found)}" for name, found in datasets.items())
    if not common:
        alike = f" (files of the same path have other content: {files})" if changed else ""
        raise UserError(
            f"The runs were evaluated on different datasets ({which}) and have no image in "
            f"common{alike}. {again} NAME"
        )
    if differ:
        console.warn(
            f"the runs were evaluated on different datasets ({which}) and are compared on the "
            f"{counted(len(common), 'image')} that these have in common. {again} NAME"
        )
    elif changed:
        console.warn(
            f"files of the same path have other content in one of {', '.join(tables)}: {files}. "
            f"They are left out. {again} NAME"
        )


def _compare_labels(
    runs: Mapping[str, Run], tables: dict[str, pa.Table], fake: np.ndarray, metrics: Sequence[str]
) -> tuple[dict[str, Metrics], list[RunPair]]:
    """Return runs and pairs of a comparison by P(fake) of whole images."""
    p = {name: table["p_fake"].to_numpy() for name, table in tables.items()}
    ranks = {name: prediction_tables.ranks_of(table) for name, table in tables.items()}
    right = {name: is_fake(p[name], runs[name].threshold) == fake for name in runs}
    pairs: list[RunPair] = []
    for one, other in combinations(runs, 2):
        thresholds = runs[one].threshold, runs[other].threshold
        priors = runs[one].info.prior, runs[other].info.prior
        both = ranks[one], ranks[other]
        pairs.append({
            "one": one, "other": other,
            "metrics": difference(
                fake, p[one], p[other], metrics, thresholds, both, priors
            ),
            "mcnemar": mcnemar(right[one], right[other]),
            "delong": delong(fake, *both),
        })  # fmt: skip
    measured = {
        name: binary_intervals(
            fake, p[name], run.threshold, run.info.prior, ranks=ranks[name], names=metrics
        )
        for name, run in runs.items()
    }
    return measured, _adjusted(pairs, "mcnemar", "delong")


def _compare_masks(tables: dict[str, pa.Table]) -> MasksCompared | None:
    """Return masks of a comparison; None where a run predicts none or no true mask is known.

    Raises:
        UserError: the runs were evaluated with different true masks of an image.
    """
    if any("altered_histogram" not in table.column_names for table in tables.values()):
        return None
    counted = {name: pixel_counts(table) for name, table in tables.items()}
    rows = set.intersection(*(set(numbers.tolist()) for numbers, _ in counted.values()))
    pixels = {
        name: found.take(np.isin(numbers, list(rows))) for name, (numbers, found) in counted.items()
    }
    sizes = [np.stack([part.sum(axis=1) for part in found[:2]]) for found in pixels.values()]
    if not len(rows) or not sizes[0][0].any():
        return None
    if any((size != sizes[0]).any() for size in sizes):
        raise UserError(f"{', '.join(tables)} were evaluated with different masks of an image.")
    pairs: list[RunPair] = [
        {
            "one": one, "other": other, "metrics": mask_difference(pixels[one], pixels[other]),
            "wilcoxon": wilcoxon(pixels[one], pixels[other]),
        }
        for one, other in combinations(pixels, 2)
    ]  # fmt: skip
    measured = {name: mask_intervals(found) for name, found in pixels.items()}
    return {
        "count": len(rows), "altered": int((sizes[0][0] > 0).sum()),
        "runs": {name: {m: found[m] for m in MASK_METRICS} for name, found in measured.items()},
        "pairs": _adjusted(pairs, "wilcoxon"),
    }  # fmt: skip


def _adjusted(pairs: list[RunPair], *tests: Test) -> list[RunPair]:
    """Return pairs with the p-values of tests adjusted for their number."""
    for test in tests:
        for pair, p in zip(pairs, holm([pair[test] for pair in pairs])):
            pair[test] = p
    return pairs


def format_compared_runs(found: RunsCompared) -> str:
    """Return what `compare` found as tables for the terminal."""
    parts = [
        f"All runs were evaluated on {counted(found['count'], 'image')} (brackets: 95% intervals)"
    ]
    if found["runs"]:
        tests: dict[Test, str] = {"mcnemar": "McNemar, p-value", "delong": "DeLong (AUC), p-value"}
        parts += _tables(found, NAMES, tests)
    if masks := found.get("masks"):
        parts.append(
            f"Masks of {counted(masks['count'], 'image')}, {masks['altered']:,} of them altered"
        )
        parts += _tables(masks, MASK_NAMES, {"wilcoxon": "Wilcoxon (IoU), p-value"})
    star = "* the interval does not contain 0. " if any(" *" in part for part in parts) else ""
    parts.append(f"{star}p-values are adjusted for their number (Holm).")
    guesses = [name for name, m in found["runs"].items() if "auc" in m and may_be_chance(m["auc"])]
    if guesses:
        parts.append(
            f"warning: not shown to be better than guessing: {listed(guesses, len(guesses))}. The "
            "95% interval of the AUC reaches 0.5 or less."
        )
    return "\n\n".join(parts)


def _tables(found: Compared, names: Mapping[str, str], tests: Mapping[Test, str]) -> list[str]:
    """Return a table of the runs' metrics, and one of their differences and p-values."""
    metrics = list(next(iter(found["runs"].values())))
    rows = [
        [names[key], *(format_interval(m[key]) for m in found["runs"].values())] for key in metrics
    ]
    differences = [
        [names[key], *(format_interval(p["metrics"][key]) + _star(p["metrics"][key])
                       for p in found["pairs"])]
        for key in metrics
    ]  # fmt: skip
    for name, title in tests.items():
        differences.append([title, *(f"{pair[name]:.3g}" for pair in found["pairs"])])
    headers = ["difference", *(f"{pair['one']} - {pair['other']}" for pair in found["pairs"])]
    return [console.format_table(rows, ["metric", *found["runs"]]),
            console.format_table(differences, headers)]  # fmt: skip


def _star(metric: Interval) -> str:
    return " *" if sign_of(metric) else ""


def keys_of(table: pa.Table) -> list[tuple[str, str]]:
    """Return the path and hash of each image of a table, which identify it."""
    return list(zip(table["path"].to_pylist(), table["hash"].to_pylist()))


def _predictions(run: Run, split: str, dataset: str | None) -> pa.Table:
    table = prediction_tables.read(run.path, split, dataset)
    return table.filter(pc.is_null(table["error"]))
