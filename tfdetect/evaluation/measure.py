"""Measure a table of predictions: the content of metrics.json for one split."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.run import Run
from tfdetect.core.run_results import (
    ClassResult,
    DomainResult,
    MaskResult,
    Metrics,
    PartResult,
    PointResult,
    SplitResult,
)
from tfdetect.data.masks import COVERAGE, coverage_by_class
from tfdetect.evaluation.domain import REASONS, split_reasons
from tfdetect.evaluation.intervals import (
    binary_intervals,
    of_count,
    precision_at,
    proportion,
)
from tfdetect.evaluation.mask_intervals import altered_intervals, mask_intervals
from tfdetect.evaluation.mask_metrics import (
    BINS,
    PixelCounts,
    batch_iou,
    best_threshold,
)
from tfdetect.evaluation.metrics import binary_metrics, confusion
from tfdetect.evaluation.prediction_tables import by_generator, ranks_of, shares_authentic
from tfdetect.evaluation.run_description import band_chosen_on
from tfdetect.evaluation.verdicts import is_fake

# The metrics of masks that tables of several measurements show, by their names in `mask_metrics`.
MAIN_MASK_METRICS = {"iou": "iou_altered", "pixel_ap": "ap"}
MAIN_MASK_NAMES = {
    "iou": "IoU, mean of altered images", "pixel_ap": "pixel AP, mean of altered images",
}  # fmt: skip
# Fractions of fakes among all images for which the precision is computed.
PRIORS = (0.1, 0.01, 0.001)


def measure(table: pa.Table, run: Run) -> SplitResult:
    """Return the metrics of all images and of parts of them.

    Args:
        table: predictions with the columns of `evaluate_run.complete`.
        run: the run with the threshold, band and prior that the predictions follow.
    """
    readable = table.filter(pc.is_null(table["error"]))
    result: SplitResult = {
        "count": readable.num_rows, "unreadable": table.num_rows - readable.num_rows,
        **_measure_verdicts(readable, run), **_measure_thresholds(readable, run),
    }  # fmt: skip
    if domain := _measure_domain(readable, run):
        result["domain"] = domain
    if COVERAGE in readable.column_names:
        coverage = coverage_by_class(readable, tuple(run.class_names))
        if coverage:
            result["mask_coverage"] = {name: c.model_dump() for name, c in coverage.items()}
    duplicate = readable["duplicate_of_train"].fill_null(False).to_numpy(zero_copy_only=False)
    if duplicate.any():
        rest = readable.filter(pa.array(~duplicate))
        result["without_duplicates"] = {"count": rest.num_rows, **_measure_verdicts(rest, run)}
    datasets = sorted(set(readable["dataset"].to_pylist()))
    if len(datasets) > 1:
        parts = {d: readable.filter(pc.equal(readable["dataset"], d)) for d in datasets}
        result["datasets"] = {
            name: {"count": part.num_rows, **_measure_verdicts(part, run)}
            for name, part in parts.items()
        }
    generators = by_generator(readable)
    if generators:
        result["generators"] = {
            name: _measure_part(part, run, shares_authentic(part))
            for name, part in generators.items()
        }
    training = run.info.dataset.training_images
    known = training.generators if training else ()
    unseen = [name for name in generators if name not in known]
    if known and unseen:
        column = pc.if_else(
            pc.is_in(readable["generator"].cast(pa.string()), pa.array(unseen)), "unseen", None
        )
        [part] = by_generator(readable.append_column("group", column), "group").values()
        result["unseen_generators"] = {
            "generators": unseen, **_measure_part(part, run, shares_authentic(part, "group"))
        }  # fmt: skip
    return result


def verdict_metrics(table: pa.Table, threshold: float, prior: float | None) -> dict[str, float]:
    """Return accuracies, recall, false positive rate, log-loss and ECE, those that are defined.

    Args:
        table: predictions with the columns of `evaluate_run.complete`.
        threshold: P(fake) from which the verdict is fake.
        prior: see `binary_metrics`.
    """
    readable = table.filter(pc.is_null(table["error"]))
    fake, p = readable["label"].to_numpy() > 0, readable["p_fake"].to_numpy()
    values = binary_metrics(fake, p, threshold, prior)(np.ones(len(fake)))
    names = ("accuracy", "balanced_accuracy", "recall", "fpr", "log_loss", "ece")
    return {name: round(values[name], 6) for name in names if not np.isnan(values[name])}


def _measure_part(table: pa.Table, run: Run, balanced: bool) -> PartResult:
    return {
        "count": table.num_rows, "balanced": balanced,
        **_measure_verdicts(table, run, balanced), **_measure_thresholds(table, run),
    }  # fmt: skip


def _measure_domain(table: pa.Table, run: Run) -> DomainResult:
    """Return how many images are like the training images; nothing where that is not known."""
    known = table.filter(pc.is_valid(table["in_domain"]))
    if not known.num_rows:
        return {}
    inside = known["in_domain"].to_numpy(zero_copy_only=False)
    reasons = Counter(
        reason for text in known["domain_reasons"].to_pylist() for reason in split_reasons(text)
    )
    found: DomainResult = {
        "in_domain": proportion(inside),
        "reasons": {name: reasons[name] for name in REASONS if reasons[name]},
    }
    parts: tuple[tuple[Literal["inside", "outside"], np.ndarray], ...]
    parts = ("inside", inside), ("outside", ~inside)
    for name, rows in parts:
        part = known.filter(pa.array(rows))
        if part.num_rows:
            found[name] = {"count": part.num_rows, "metrics": label_metrics(part, run)}
    return found


def _measure_verdicts(table: pa.Table, run: Run, balanced: bool = False) -> PartResult:
    """Return metrics, confusion, masks and constant; of three or more classes also each of them."""
    if not table.num_rows:
        return {"metrics": {}, "confusion": []}
    labels = table["label"].to_numpy()
    predicted = np.array([run.class_names.index(v) for v in table["verdict"].to_pylist()])
    part: PartResult = {
        "metrics": label_metrics(table, run, balanced),
        "confusion": confusion(labels, predicted, len(run.class_names)),
    }
    if "altered_histogram" in table.column_names:
        rows, pixels = pixel_counts(table)
        if len(rows):
            part["masks"] = _measure_masks(pixels)
    if len(run.class_names) > 2:
        part["metrics"]["class_accuracy"] = proportion(labels == predicted)
        part["classes"] = measure_classes(np.array(part["confusion"]), run.class_names)
    if len(set(predicted.tolist())) == 1 and len(set(labels.tolist())) > 1:
        part["constant"] = f"every verdict is {run.class_names[predicted[0]]!r}"
    return part


def measure_classes(counts: np.ndarray, names: Sequence[str]) -> dict[str, ClassResult]:
    """Return recall and precision of each class, with intervals.

    Args:
        counts: number of images, int [true class, verdict].
        names: the names of the classes.
    """
    return {
        name: {
            "count": int(images),
            "recall": of_count(int(hits), int(images)),
            "precision": of_count(int(hits), int(verdicts)),
        }
        for name, hits, images, verdicts in zip(
            names, np.diag(counts), counts.sum(1), counts.sum(0)
        )
    }


def label_metrics(table: pa.Table, run: Run, balanced: bool = False) -> Metrics:
    """Return metrics with intervals; of images of one class, only its rate."""
    fake, p_fake = table["label"].to_numpy() > 0, table["p_fake"].to_numpy()
    if not fake.any():
        return {"fpr": proportion(is_fake(p_fake, run.threshold))}
    if fake.all():
        return {"recall": proportion(is_fake(p_fake, run.threshold))}
    return binary_intervals(
        fake, p_fake, run.threshold, run.info.prior, balanced=balanced, ranks=ranks_of(table)
    )


def _measure_thresholds(table: pa.Table, run: Run) -> PartResult:
    """Return operating_points, abstention, uncalibrated and prior."""
    if not table.num_rows:
        return {}
    fake, p = table["label"].to_numpy() > 0, table["p_fake"].to_numpy()
    mixed = fake.any() and not fake.all()
    thresholds = {"verdict": run.threshold}
    thresholds |= {name: point.threshold for name, point in run.info.operating_points.items()}
    points: dict[str, PointResult] = {}
    for name, threshold in thresholds.items():
        fpr, tpr = (
            proportion(is_fake(p[rows], threshold)) if rows.any() else None
            for rows in (~fake, fake)
        )
        precision = {str(prior): precision_at(tpr, fpr, prior) for prior in PRIORS}
        points[name] = {"threshold": threshold, "fpr": fpr, "tpr": tpr, "precision": precision}
    found: PartResult = {"operating_points": points}
    if run.info.abstention_band is not None:
        low, high = run.abstention_band
        conclusive = ~table["inconclusive"].to_numpy(zero_copy_only=False)
        right = (is_fake(p, run.threshold) == fake)[conclusive]
        found["abstention"] = {
            "low": low, "high": high, "error_rate": run.info.abstention_band.error_rate,
            "chosen_on": band_chosen_on(run),
            "coverage": proportion(conclusive),
            "accuracy": proportion(right) if conclusive.any() else None,
        }  # fmt: skip
    if run.info.prior is not None:
        found["prior"] = run.info.prior
    if run.calibration is not None and mixed:
        raw = binary_metrics(fake, table["p_fake_raw"].to_numpy(), prior=run.info.prior)
        values = raw(np.ones(len(fake)))
        found["uncalibrated"] = {name: round(values[name], 6) for name in ("log_loss", "ece")}
    return found


def pixel_counts(table: pa.Table) -> tuple[np.ndarray, PixelCounts]:
    """Return the rows of the images whose true masks are known, int [m], and their pixels.

    Args:
        table: predictions with true masks; in older ones every mask is shown.
    """
    known = table["altered_histogram"].is_valid().to_numpy(zero_copy_only=False)
    altered, authentic = (
        table[name].combine_chunks().drop_null().flatten().to_numpy().reshape(-1, BINS)
        for name in ("altered_histogram", "authentic_histogram")
    )
    shown = np.ones(len(altered), bool)
    if "mask_shown" in table.column_names:
        shown = table["mask_shown"].fill_null(False).to_numpy(zero_copy_only=False)[known]
    return np.flatnonzero(known), PixelCounts(altered, authentic, shown)


def main_mask_metrics(table: pa.Table, numbers: np.ndarray | None = None) -> Metrics:
    """Return `MAIN_MASK_METRICS` of altered images, with intervals; None where there are none.

    Args:
        table: predictions with true masks.
        numbers: rows of the table that count, int [n]; by default all.
    """
    rows, pixels = pixel_counts(table)
    if numbers is not None:
        pixels = pixels.take(np.isin(rows, numbers))
    found = altered_intervals(pixels)
    return {name: found[key] for name, key in MAIN_MASK_METRICS.items()}


def _measure_masks(pixels: PixelCounts) -> MaskResult:
    """Return count, altered, metrics, batch_iou and, where images are altered, best."""
    count, altered = len(pixels.positive), int(pixels.altered.sum())
    result: MaskResult = {
        "count": count, "altered": altered,
        "metrics": mask_intervals(pixels),
        "batch_iou": round(batch_iou(pixels), 6),
    }  # fmt: skip
    if altered:
        threshold, iou = best_threshold(pixels)
        result["best"] = {"threshold": round(threshold, 4), "iou_altered": round(iou, 6)}
    return result
