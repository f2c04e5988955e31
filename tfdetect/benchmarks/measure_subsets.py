"""Measures scores as the published tables do: each subset, and the mean over subsets."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.benchmarks.result_types import BestThreshold, SubsetResult
from tfdetect.benchmarks.scoring import SubsetScores
from tfdetect.benchmarks.subset_data import SubsetData, equalized_rows, equalizing
from tfdetect.benchmarks.suite import PUBLISHED, ProtocolName, Suite
from tfdetect.core.run_results import Metrics
from tfdetect.data.catalog import shorter_sides
from tfdetect.evaluation.intervals import (
    binary_intervals,
    interval,
    mean_of_fractions,
    proportion,
)
from tfdetect.evaluation.mask_intervals import mask_intervals
from tfdetect.evaluation.measure import pixel_counts
from tfdetect.evaluation.metadata_baseline import metadata_baseline
from tfdetect.evaluation.prediction_tables import ranks_of
from tfdetect.evaluation.verdicts import is_fake

IMAGE_METRICS = ("accuracy", "balanced_accuracy", "ap", "auc", "recall", "fpr")
# The pixel metrics, as `mask_metrics` calls them.
MASK_METRICS = {"pixel_f1": "f1", "pixel_iou": "iou_altered", "pixel_auc": "auc"}


def measure_subset(
    suite: Suite, data: SubsetData, protocol: ProtocolName, scores: SubsetScores
) -> SubsetResult:
    """Return what a run scored on one subset under one protocol.

    Args:
        suite: the suite.
        data: the subset; it is not missing.
        protocol: "published" or "equalized".
        scores: the run's predictions for it.
    """
    readable = scores.table.filter(pc.is_null(scores.table["error"]))
    copies = readable["duplicate_of_train"]
    seconds = scores.facts.seconds
    metrics: Metrics = {}
    result: SubsetResult = {
        "count": readable.num_rows, "unreadable": scores.table.num_rows - readable.num_rows,
        "copies": None if copies.null_count else int(pc.sum(copies).as_py() or 0),
        "images_per_second": round(readable.num_rows / seconds, 1) if seconds else None,
        "change": scores.facts.change, "metrics": metrics,
    }  # fmt: skip
    fake, p_fake = readable["label"].to_numpy() > 0, readable["p_fake"].to_numpy()
    threshold = suite.protocol.threshold
    if fake.any() and not fake.all():
        metrics |= binary_intervals(
            fake, p_fake, threshold, ranks=ranks_of(readable), names=IMAGE_METRICS,
        )  # fmt: skip
        result["best_accuracy"] = best_accuracy(fake, p_fake)
    elif len(fake):
        metrics["recall" if fake.all() else "fpr"] = proportion(is_fake(p_fake, threshold))
    if suite.task == "masks":
        metrics |= _mask_metrics(readable)
    rows = data.rows
    if protocol != PUBLISHED:
        settings = equalizing(suite, rows)
        rows = equalized_rows(rows, settings)
        if suite.task == "images":
            shorter = shorter_sides(data.rows)
            result["crop"] = settings.side
            result["smaller"] = round(float((shorter < settings.side).mean()), 6)
    if baseline := metadata_baseline(rows):
        result["metadata"] = {"balanced_accuracy": baseline["balanced_accuracy"],
                              "auc": baseline["auc"]}  # fmt: skip
    return result


def best_accuracy(fake: np.ndarray, scores: np.ndarray) -> BestThreshold:
    """Return the highest accuracy of any threshold on these images, and that threshold.

    It is chosen on the images that it is measured on, so it is optimistic.

    Args:
        fake: bool [n], with both values.
        scores: float [n], P(fake).
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(np.where(fake[order], 1, -1))[ends] + (~fake).sum()
    hits = np.append(hits, (~fake).sum())  # nothing is called fake
    best = int(np.argmax(hits))
    threshold = float(scores[order][ends[best]]) if best < len(ends) else 1.0
    return {"value": round(float(hits[best] / len(fake)), 6), "threshold": round(threshold, 6)}


def mean_over(subsets: Sequence[SubsetResult], shared: bool) -> Metrics:
    """Return the mean of each metric over subsets that all have it.

    Args:
        subsets: the subsets from `measure_subset`.
        shared: whether subsets have images in common. Then their errors add up instead of
            evening out, and the interval is the mean of theirs.
    """
    if not subsets:
        return {}
    names = [n for n in subsets[0]["metrics"] if all(_has(part, n) for part in subsets)]
    means = {}
    for name in names:
        found = [part["metrics"][name] for part in subsets]
        if not shared or any(part["low"] is None for part in found):
            means[name] = mean_of_fractions(found)
        else:
            ends = (float(np.mean([part[e] for part in found])) for e in ("value", "low", "high"))
            means[name] = interval(*ends)
    return means


def share_images(data: Sequence[SubsetData]) -> bool:
    """Return whether subsets have images in common."""
    paths = [path for part in data if not part.missing for path in _paths(part)]
    return len(paths) > len(set(paths))


def _paths(data: SubsetData) -> list[tuple[str, str]]:
    names = data.rows["dataset"].cast(pa.string()).to_pylist()
    return list(zip(names, data.rows["path"].to_pylist()))


def _has(part: SubsetResult, name: str) -> bool:
    return part["metrics"].get(name, {}).get("value") is not None


def _mask_metrics(readable: pa.Table) -> Metrics:
    rows, pixels = pixel_counts(readable)
    if not len(rows):
        return {}
    pixels = pixels._replace(shown=np.ones(len(rows), bool))  # published tables know no threshold
    found = mask_intervals(pixels)
    return {name: found[key] for name, key in MASK_METRICS.items()}
