"""Evaluate a run: predictions, calibration and metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core import console
from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.feature_distance import FILE as DISTANCE_FILE
from tfdetect.core.files import write_json
from tfdetect.core.run import Run
from tfdetect.core.run_results import SplitResult, SplitResults
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog, sorted_sides
from tfdetect.data.evaluation_data import is_own_dataset, lacks_training_images
from tfdetect.data.masks import COVERAGE, check_masks
from tfdetect.data.sources import image_source, mask_source
from tfdetect.data.training_hashes import FILE as HASHES_FILE
from tfdetect.data.training_hashes import TrainingHashes
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.calibrate_run import calibrate_run
from tfdetect.evaluation.calibration_settings import CalibrationSettings
from tfdetect.evaluation.cross_fitting import cross_fitted, held_out_shifts
from tfdetect.evaluation.fit_domain import fit_distance, with_limit
from tfdetect.evaluation.mask_metrics import confusions, iou_of
from tfdetect.evaluation.measure import measure, pixel_counts, verdict_metrics
from tfdetect.evaluation.metadata_baseline import metadata_baseline
from tfdetect.evaluation.prediction_columns import MaskPrediction, recalibrate, uncalibrated
from tfdetect.evaluation.predictions import CompiledDetector, MaskTruth, predict_source
from tfdetect.evaluation.videos import VideoNames, measure_videos
from tfdetect.models.saving import load_detector

_EXAMPLES = 4  # best masks in the report, and as many worst ones
# By split, "best" and "worst": predicted masks with their IoU.
MaskExamples = dict[str, list[tuple[MaskPrediction, float]]]
# Returns the predictions of rows of a catalog; the last argument is `own_validation`.
PredictElsewhere = Callable[[Run, Catalog, pa.Table, bool], pa.Table]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation; `run_report.write_evaluation` writes it.

    Attributes:
        run: the run; after a calibration, with all that it changed. It is not written.
        results: the content of metrics.json, by split.
        tables: predictions by split, from `complete`.
        dataset: name of the evaluated dataset.
        data_warnings: warnings about the dataset.
        catalog: the catalog of the images that the report shows; None shows none.
        examples: by split, the masks that the report shows.
    """

    run: Run
    results: SplitResults
    tables: dict[str, pa.Table]
    dataset: str
    data_warnings: Sequence[str]
    catalog: Catalog | None = None
    examples: dict[str, MaskExamples] = field(default_factory=dict)


def evaluate_run(
    run: Run,
    catalog: Catalog,
    splits: tuple[str, ...] = ("validation", "test"),
    *,
    images_in_report: bool = True,
    batch_size: int = 64,
    log: console.Log,
    calibrate: CalibrationSettings | None = None,
    predict: PredictElsewhere | None = None,
    detector: keras.Model | None = None,
    videos: VideoNames | None = None,
) -> Evaluation:
    """Predict splits of a dataset and measure the predictions.

    A calibration also writes hashes of the training images into the run's folder, or removes them
    from there; nothing else is written.

    On its own dataset, an ensemble with cross-fitted scores is measured and calibrated on them:
    images that its fusion was fitted on are scored as by a fusion fitted without their group.

    Args:
        run: the run; its run.json is not changed.
        catalog: the dataset.
        splits: the splits; those without images are left out.
        images_in_report: whether the report may show images of the dataset.
        batch_size: images a batch.
        log: called with each line of progress.
        calibrate: calibrate the run anew, on the first split.
        predict: gives the predictions, where that is not done in this process; not together with
            `calibrate`.
        detector: the run's model; by default it is loaded where it is needed.
        videos: measure videos, too.

    Raises:
        UserError: the dataset has no image in any of the splits, none can be calibrated on, it is
            not clear what its masks mean, or a split has no frame of a video.
    """
    parts = {split: rows for split in splits if (rows := catalog.split(split)).num_rows}
    if not parts:
        raise UserError(f"The dataset {catalog.name} has no images in {', '.join(splits)}.")
    if run.predicts_masks:
        check_masks(catalog.masks)
    own = is_own_dataset(run, catalog)
    copies = _TrainingCopies(catalog if own else None)
    compiled = None  # one for all passes over images
    if predict is None:
        detector = detector or load_detector(run)
        if calibrate and own:
            run, compiled = _with_domain(run, detector, catalog, batch_size)
            _update_hashes(run, catalog, calibrate.keep_hashes, log)
        compiled = compiled or CompiledDetector(run, detector)
        predict = partial(predict_rows, detector=compiled, batch_size=batch_size)
    old, tables = run, dict[str, pa.Table]()
    before: dict[str, dict[str, float] | None] = {}
    examples: dict[str, MaskExamples] = {}
    for split, rows in parts.items():
        log(f"evaluating {counted(rows.num_rows, 'image')} of {split}")
        shifts = held_out_shifts(run, rows) if own else np.zeros(rows.num_rows)
        raw = calibrate is not None or shifts.any()
        current = uncalibrated(run) if raw else run
        table = predict(current, catalog, rows, own and split == "validation")
        table = cross_fitted(table, run, shifts) if shifts.any() else table
        if calibrate:
            if not tables:
                run = with_limit(run, table, log) if own else run
                run = calibrate_run(run, rows, table, calibrate, log)
            before[split] = _verdicts_before(old, rows, table, run.info.prior)
        if raw:
            table = recalibrate(table, run, sorted_sides(rows))
        tables[split] = complete(rows, copies.mark(table, rows, split))
        if images_in_report and run.predicts_masks:
            compiled = compiled or CompiledDetector(run, detector or load_detector(run))
            examples[split] = _mask_examples(run, compiled, catalog, rows, tables[split])
    results = {
        split: _measured(run, rows, tables[split], before.get(split), videos)
        for split, rows in parts.items()
    }
    shown = catalog if images_in_report else None
    return Evaluation(run, results, tables, catalog.name, catalog.warnings, shown, examples)


def _verdicts_before(
    old: Run, rows: pa.Table, table: pa.Table, prior: float | None
) -> dict[str, float] | None:
    """Return the metrics of the verdicts before a calibration; None of a run without thresholds."""
    if not old.info.operating_points:
        return None
    earlier = complete(rows, recalibrate(table, old))
    return verdict_metrics(earlier, old.threshold, prior)


def _measured(
    run: Run,
    rows: pa.Table,
    table: pa.Table,
    before: dict[str, float] | None,
    videos: VideoNames | None,
) -> SplitResult:
    """Return the metrics of a split, with what is measured without predictions, and of videos."""
    result = measure(table, run)
    if before is not None:
        result["before"] = before
    if baseline := metadata_baseline(rows):
        result["metadata_baseline"] = baseline
    if videos:
        result["videos"] = measure_videos(table, run, videos)
    return result


def _with_domain(
    run: Run, detector: keras.Model, catalog: Catalog, batch_size: int
) -> tuple[Run, CompiledDetector | None]:
    """Return the run with the features of its training images, and what computes them.

    There is none where the run has too few images. Features that it has stay where some of the
    training images are missing.
    """
    kept = run.info.domain is not None and (run.path / DISTANCE_FILE).is_file()
    if kept and lacks_training_images(run, catalog):
        return run, None
    compiled = CompiledDetector(run, detector, features=True)
    run = fit_distance(run, compiled, catalog, batch_size)
    return run, compiled if run.info.domain is not None else None


def predict_rows(
    run: Run,
    catalog: Catalog,
    rows: pa.Table,
    own_validation: bool,
    *,
    detector: keras.Model | CompiledDetector,
    batch_size: int,
    progress: bool = True,
) -> pa.Table:
    """Return the predictions of rows of a catalog, with what their true masks say.

    Args:
        catalog: what the rows are of; its own table is not read.
        rows: the rows of the catalog.
        run, own_validation, detector, batch_size, progress: see `predict_source`.
    """
    truth = mask_truth(catalog, rows) if run.predicts_masks else None
    source = image_source(catalog, rows)
    return predict_source(
        run, detector, source, batch_size, progress, truth, own_validation=own_validation
    )


def write_results(found: Evaluation, output: Path) -> None:
    """Write predictions/ and metrics.json; `run_report.write_evaluation` adds the report."""
    (output / "predictions").mkdir(parents=True, exist_ok=True)
    for split, table in found.tables.items():
        prediction_tables.write_parquet(table, output / "predictions" / f"{split}.parquet")
    write_json(output / "metrics.json", found.results)


def complete(rows: pa.Table, table: pa.Table) -> pa.Table:
    """Return predictions with columns of the catalog.

    Args:
        rows: the rows of the catalog.
        table: the predictions, in the same order.

    Returns:
        The table with path (relative to the dataset directory) first, and with dataset, label,
        generator, mask, mask_coverage and hash.
    """
    table = table.add_column(0, "path", rows["path"])
    for name in ("dataset", "label", "generator", "mask", COVERAGE, "hash"):
        table = table.append_column(name, rows[name])
    return table


class _TrainingCopies:
    """Marks training images of the run's own dataset by the hashes of the catalog.

    A run that has hashes of its training images marks those itself, in every dataset. Validation
    selected the best epoch, so that its images count too, except in the validation split.
    """

    def __init__(self, own: Catalog | None):
        """Read the hashes.

        Args:
            own: the dataset that the run was trained on; None if it is evaluated on another one.
        """
        self._known = {
            split: set(own.split(split)["hash"].to_pylist()) if own else set()
            for split in ("train", "validation")
        }

    def mark(self, table: pa.Table, rows: pa.Table, split: str) -> pa.Table:
        """Return predictions with the column duplicate_of_train filled in.

        Args:
            table: the predictions of one split.
            rows: the rows of the catalog, in the same order.
            split: the split.
        """
        known = self._known["train"]
        if split != "validation":
            known = known | self._known["validation"]
        if not known:
            return table
        same = pa.array([h in known for h in rows["hash"].to_pylist()])
        same = pc.or_kleene(same, pc.fill_null(table["duplicate_of_train"], False))
        return with_columns(table, duplicate_of_train=same)


def _update_hashes(run: Run, catalog: Catalog, keep: bool, log: console.Log) -> None:
    """Write the hashes of the training images into the run's folder, or remove them from there.

    Those of what the run was made of, its members or its parent, stay, and so do all of them where
    some of the training images are missing.
    """
    if not keep:
        (run.path / HASHES_FILE).unlink(missing_ok=True)
        return
    if (run.path / HASHES_FILE).is_file() and lacks_training_images(run, catalog):
        return
    hashes = TrainingHashes.compute(catalog)
    if run.is_ensemble or run.info.lineage:
        kept = TrainingHashes.load(run.path)
        hashes = TrainingHashes.union([kept, hashes] if kept else [hashes])
    size = hashes.save(run.path)
    log(
        f"training images: hashes of {counted(len(hashes.table), 'image')} "
        f"({size / 1000:,.0f} KB) in {HASHES_FILE}"
    )


def mask_truth(catalog: Catalog, rows: pa.Table) -> MaskTruth:
    """Return the masks of rows of the catalog; those of authentic images are empty."""
    authentic = rows["label"].to_numpy() == 0
    masked = rows["mask"].is_valid().to_numpy(zero_copy_only=False)
    return MaskTruth(mask_source(catalog, rows), authentic | masked)


def _mask_examples(
    run: Run,
    compiled: CompiledDetector,
    catalog: Catalog,
    rows: pa.Table,
    table: pa.Table,
) -> MaskExamples:
    """Predict the altered images with the best and the worst masks again, and keep the masks."""
    positions, pixels = pixel_counts(table)
    ious = iou_of(*confusions(pixels))[pixels.altered]
    positions = positions[pixels.altered]
    order = np.argsort(-ious, kind="stable")
    best, worst = np.sort(order[:_EXAMPLES]), np.sort(order[::-1][:_EXAMPLES])
    chosen = np.concatenate([best, worst])
    some = rows.take(pa.array(positions[chosen]))
    masks: list[MaskPrediction] = []
    predict_source(run, compiled, image_source(catalog, some), progress=False,
                   truth=mask_truth(catalog, some), on_mask=masks.append)  # fmt: skip
    pairs = list(zip(masks, ious[chosen].tolist()))
    return {"best": pairs[: len(best)], "worst": pairs[len(best) :]}
