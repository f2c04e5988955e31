"""Evaluates a run: predictions, metrics, figures, report, all inside its folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import binomtest

from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.run import Run
from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import image_source, mask_source
from tfdetect.evaluation import calibration
from tfdetect.evaluation.calibration import METHODS
from tfdetect.evaluation.mask_metrics import (
    BINS,
    batch_iou,
    best_threshold,
    confusions,
    iou_of,
    mask_metrics,
)
from tfdetect.evaluation.metrics import binary_metrics, confusion, with_intervals
from tfdetect.evaluation.prediction_tables import by_generator
from tfdetect.evaluation.predictions import Drawn, Truth, calibrate_table, predict_source
from tfdetect.models.inference import predicts_masks, verdict_from_masks
from tfdetect.models.saving import load_detector

PRIORS = (0.1, 0.01, 0.001)  # shares of fakes among all images, for what precision is left


@dataclass(frozen=True)
class Calibrate:
    """How to calibrate a run.

    Attributes:
        method: auto, none, or one of `calibration.METHODS`.
        cost: of a false alarm, where a missed fake costs 1, for the operating point "cost".
        unsure: share of each class that may get a wrong verdict outside the unsure band.
    """

    method: str = "auto"
    cost: float | None = None
    unsure: float | None = None


def evaluate_run(
    run: Run,
    catalog: Catalog,
    splits: tuple[str, ...] = ("validation", "test"),
    output: Path | None = None,
    pictures: bool = True,
    batch_size: int = 64,
    say=print,
    report: bool = True,
    calibrate: Calibrate | None = None,
) -> dict:
    """Predicts splits of a dataset and writes what follows from the predictions.

    Args:
        output: folder for predictions/, metrics.json, figures/ and report.html;
            the run's own by default.
        pictures: whether figures may show images of the dataset.
        report: whether to draw figures and write the report.
        calibrate: calibrate the run anew on the first split, and write that into its run.json.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: the dataset has none of the splits.
    """
    output = output or run.path
    (output / "predictions").mkdir(parents=True, exist_ok=True)
    detector = load_detector(run)
    # Images that stand in train too are told apart on the run's own dataset.
    own = catalog.name == run.info["dataset"]["name"]
    seen = set(catalog.split("train")["hash"].to_pylist()) if own else set()
    results, tables, shown = {}, {}, {}
    if calibrate:
        run = run.saved_with(calibration=None, points=None, unsure=None)
    for split in splits:
        rows = catalog.split(split)
        if not rows.num_rows:
            continue
        say(f"evaluating {rows.num_rows:,} images of {split}")
        truth = _truth(catalog, rows) if predicts_masks(detector) else None
        table = predict_source(run, detector, image_source(catalog, rows), batch_size, truth=truth)
        if calibrate and split == splits[0]:
            run = _calibrate(run, detector, rows, table, calibrate, say)
            table = calibrate_table(table, run)
        if own and split == "test":  # validation picked the best epoch
            seen |= set(catalog.split("validation")["hash"].to_pylist())
        table = _complete(rows, table, seen)
        pq.write_table(table, output / "predictions" / f"{split}.parquet")
        results[split] = measure(table, run)
        tables[split] = table
        if report and pictures and predicts_masks(detector):
            shown[split] = _examples(run, detector, catalog, rows, table)
    if not results:
        raise UserError(f"The dataset has no images in {', '.join(splits)}.")
    write_text(output / "metrics.json", json.dumps(results, indent=2))
    if report:
        from tfdetect.evaluation.run_report import write_report  # a second, and much memory

        write_report(run, results, tables, catalog, pictures, output, shown)
    return results


def _calibrate(run: Run, detector, rows: pa.Table, table: pa.Table, wanted: Calibrate, say) -> Run:
    """The run, calibrated on what it says of images, with operating points and an unsure band."""
    readable = table["error"].is_null().to_numpy()
    fake = (rows["label"].to_numpy() > 0)[readable]
    raw = table["p_fake"].to_numpy()[readable]
    groups = np.array(rows["group"].to_pylist())[readable]
    methods = METHODS[:1] if verdict_from_masks(detector) else METHODS
    if wanted.method not in ("auto", "none", *methods):
        raise UserError(
            f"{run.name} says fake where its mask has altered pixels, so P(fake) 0.5 must stay "
            f"where it is: --method {methods[0]} or none."
        )
    scores = calibration.odds(raw)
    found = None
    if wanted.method != "none":
        found = calibration.choose(scores, fake, groups, wanted.method, methods)
        say("calibrated by {method}: log-loss {log_loss[0]:.4f}, after {log_loss[1]:.4f}".format(
            **found) if found else "left uncalibrated: no calibration does better")  # fmt: skip
    run = run.saved_with(calibration=found)
    p = calibrate_table(table, run)["p_fake"].to_numpy()[readable]
    return run.saved_with(
        points=calibration.operating_points(p, fake, wanted.cost),
        unsure=calibration.unsure_band(p, fake, wanted.unsure),
    )


def _truth(catalog: Catalog, rows: pa.Table) -> Truth:
    """The masks of the catalog's rows; those of class 0 are empty."""
    authentic = rows["label"].to_numpy() == 0
    masked = rows["mask"].is_valid().to_numpy(zero_copy_only=False)
    return Truth(mask_source(catalog, rows), authentic | masked)


def _examples(
    run: Run, detector, catalog: Catalog, rows: pa.Table, table: pa.Table, most: int = 4
) -> dict[str, list[tuple[Drawn, float]]]:
    """The altered images whose masks are best and worst, drawn again, with their IoU."""
    places, positive, negative = _pixels(table)
    ious = iou_of(*confusions(positive, negative))
    altered = positive.sum(axis=1) > 0
    places, ious = places[altered], ious[altered]
    order = np.argsort(-ious, kind="stable")
    found = {}
    for name, chosen in (("best", order[:most]), ("worst", order[::-1][:most])):
        picked = rows.take(places[np.sort(chosen)])
        drawn = []
        predict_source(run, detector, image_source(catalog, picked), progress=False,
                       truth=_truth(catalog, picked), on_mask=drawn.append)  # fmt: skip
        found[name] = list(zip(drawn, ious[np.sort(chosen)]))
    return found


def _pixels(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows whose masks are known, int [m], and their pixels' counts, int32 [m, BINS]."""
    known = table["altered_pixels"].is_valid().to_numpy(zero_copy_only=False)
    counts = (
        table[name].combine_chunks().drop_null().flatten().to_numpy().reshape(-1, BINS)
        for name in ("altered_pixels", "untouched_pixels")
    )
    return np.flatnonzero(known), *counts


def measure(table: pa.Table, run: Run) -> dict:
    """Metrics of a predictions table, all images and parts of them.

    Returns:
        count, unreadable, metrics (with intervals), confusion, and where it
        applies: masks (of the images whose masks are known), unseen (without
        images that stand in train too), datasets (of a union) and generators
        ({name: metrics, and the points at the run's thresholds}), never_seen (the same of all
        generators that the run was not trained on), constant (a warning where every verdict is
        the same).
    """
    readable = table.filter(pc.is_null(table["error"]))
    result = {"count": readable.num_rows, "unreadable": table.num_rows - readable.num_rows}
    result |= _part(readable, run)
    if readable.num_rows:
        result |= _points(readable, run)
    seen = readable["in_train"].to_numpy(zero_copy_only=False)
    if seen.any():
        unseen = readable.filter(pa.array(~seen))
        result["unseen"] = {"count": unseen.num_rows, **_part(unseen, run)}
    datasets = sorted(set(readable["dataset"].to_pylist()))
    if len(datasets) > 1:
        parts = {d: readable.filter(pc.equal(readable["dataset"], d)) for d in datasets}
        result["datasets"] = {
            name: {"count": part.num_rows, **_part(part, run)} for name, part in parts.items()
        }
    generators = by_generator(readable)
    if generators:
        result["generators"] = {
            name: {"count": part.num_rows, **_part(part, run), **_points(part, run)}
            for name, part in generators.items()
        }
    known = run.info["dataset"].get("seen", {}).get("generators", [])
    others = [name for name in generators if name not in known]
    if known and others:
        part = by_generator(readable.append_column("never", _never(readable, others)), "never")
        [part] = part.values()
        result["never_seen"] = {"generators": others, "count": part.num_rows, **_part(part, run),
                                **_points(part, run)}  # fmt: skip
    return result


def _never(table: pa.Table, others: list[str]) -> pa.Array:
    """For rows filed with one of some generators, fakes and authentic ones: a name; else null."""
    return pc.if_else(pc.is_in(table["generator"].cast(pa.string()), pa.array(others)), "never",
                      None)  # fmt: skip


def _points(table: pa.Table, run: Run) -> dict:
    """What the run's thresholds give on these images; nothing where a class is missing.

    Returns:
        points: {name: threshold, fpr, tpr (each value, low, high), precision {prior: value}};
        unsure: low, high, coverage, and accuracy outside; uncalibrated: log_loss and ece.
    """
    fake, p = table["label"].to_numpy() > 0, table["p_fake"].to_numpy()
    if fake.all() or not fake.any():
        return {}
    thresholds = {"default": run.threshold}
    thresholds |= {name: point["threshold"] for name, point in run.info.get("points", {}).items()}
    points = {}
    for name, threshold in thresholds.items():
        fpr, tpr = (_share(p[rows] >= threshold) for rows in (~fake, fake))
        precision = {
            str(prior): calibration.precision_at(tpr["value"], fpr["value"], prior)
            for prior in PRIORS
        }
        points[name] = {"threshold": threshold, "fpr": fpr, "tpr": tpr, "precision": precision}
    found = {"points": points}
    if "unsure" in run.info:
        sure = ~table["unsure"].to_numpy(zero_copy_only=False)
        right = (p >= run.unsure[1]) == fake
        found["unsure"] = run.info["unsure"] | {
            "coverage": _share(sure), "accuracy": _share(right[sure]) if sure.any() else None
        }  # fmt: skip
    if run.calibration:
        metrics = binary_metrics(fake, table["p_fake_raw"].to_numpy())(np.ones(len(fake)))
        found["uncalibrated"] = {name: round(metrics[name], 6) for name in ("log_loss", "ece")}
    return found


def _share(true: np.ndarray) -> dict[str, float]:
    """The share of true ones, with Wilson's 95% interval."""
    found = binomtest(int(true.sum()), len(true))
    low, high = found.proportion_ci(method="wilson")
    return {"value": found.statistic, "low": low, "high": high}


def _part(table: pa.Table, run: Run) -> dict:
    if not table.num_rows:
        return {"metrics": {}, "confusion": []}
    labels = table["label"].to_numpy()
    scores = table["p_fake"].to_numpy()
    predicted = np.array([run.classes.index(v) for v in table["verdict"].to_pylist()])
    metrics = binary_metrics(labels > 0, scores, run.threshold)
    part = {
        "metrics": _widened(with_intervals(metrics, len(labels)), labels > 0),
        "confusion": confusion(labels, predicted, len(run.classes)),
    }
    if "altered_pixels" in table.column_names:
        _, positive, negative = _pixels(table)
        if len(positive):
            part["masks"] = _measure_masks(positive, negative)
    if len(run.classes) > 2:
        part["class_accuracy"] = round(float((labels == predicted).mean()), 6)
    if len(set(predicted.tolist())) == 1 and len(set(labels.tolist())) > 1:
        part["constant"] = f"every verdict is {run.classes[predicted[0]]!r}"
    return part


def _widened(metrics: dict, fake: np.ndarray) -> dict:
    """Shares of all or none, which no resample changes, with Wilson's interval."""
    for name, count in (("accuracy", len(fake)), ("recall", int(fake.sum()))):
        metric = metrics[name]
        if count and metric["value"] in (0.0, 1.0):
            hits = np.arange(count) < round(metric["value"] * count)
            metrics[name] = {key: round(value, 6) for key, value in _share(hits).items()}
    return metrics


def _measure_masks(positive: np.ndarray, negative: np.ndarray) -> dict:
    """Metrics of masks: count, altered, metrics, batch_iou and, of altered images, best."""
    altered = int((positive.sum(axis=1) > 0).sum())
    result = {
        "count": len(positive), "altered": altered,
        "metrics": with_intervals(mask_metrics(positive, negative), len(positive)),
        "batch_iou": round(batch_iou(positive, negative), 6),
    }  # fmt: skip
    if altered:
        threshold, iou = best_threshold(positive, negative)
        result["best"] = {"threshold": round(threshold, 4), "iou_altered": round(iou, 6)}
    return result


def _complete(rows: pa.Table, table: pa.Table, seen: set[str]) -> pa.Table:
    """Adds path, relative to the root, label, generator, hash and in_train."""
    in_train = pa.array([h in seen for h in rows["hash"].to_pylist()])
    table = table.add_column(0, "path", rows["path"])
    for name in ("dataset", "label", "generator", "mask", "hash"):
        table = table.append_column(name, rows[name])
    return table.append_column("in_train", in_train)
