"""Functions of the Python API that measure finished runs: evaluate, calibrate, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.api.arguments import RunLike, own_run, path_of, run_of, runs_of, text_of, writing_on
from tfdetect.api.checked import checked
from tfdetect.api.evaluation_job import prepare_evaluation
from tfdetect.api.results import EvaluationResults, Results
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_json
from tfdetect.core.open_run import open_run
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run import Run
from tfdetect.core.run_results import RunsCompared, SplitResult
from tfdetect.core.run_writer import check_changeable, updating
from tfdetect.core.spark_cluster import SparkCluster

if TYPE_CHECKING:
    from tfdetect.evaluation.streamed_metrics import StreamedResult


@checked
def evaluate(
    run: RunLike,
    dataset: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    label: str | None = None,
    splits: Sequence[str] = (),
    output: str | Path | None = None,
    videos: str | None = None,
    images_in_report: bool = True,
    batch_size: int = 64,
    max_pixels: int | None = None,
    cluster: SparkCluster | None = None,
    streaming: bool = False,
    progress: bool = True,
    log: console.Log = console.log,
) -> EvaluationResults:
    """Measure a run on its own dataset or on another one; write metrics, figures and a report.

    With other settings than its own, a run is measured so:
    `evaluate(load("my_run").with_options(threshold="fpr_1", flips=True).run)`.

    Args:
        run: a run, its folder, the name of one that comes with tfdetect ("photo_detector"), or an
            address (see `load`). What would be written into a run of the installed package or
            of a hub goes into a copy, saved_models/NAME.
        dataset: other images to measure it on, as for `train`; also a folder of authentic images
            alone, of fakes alone, or with only test/. By default the run's own dataset.
        data_dir, authentic: as for `train`.
        label: class of all images of a folder without class folders: "authentic", "fake" or a
            class name of the run.
        splits: any of "train", "validation", "test" and "all"; by default validation and test, or
            all of another dataset that has no splits of its own.
        output: folder for the result. By default the run itself, or evaluations/<dataset> in it
            for another dataset or other settings; the name gets an ending where it is taken by
            images in another place.
        videos: also measure videos, whose P(fake) is the mean of that of their frames: "folder",
            where each folder holds the frames of one video, or a regular expression on paths whose
            first group is the video's name.
        images_in_report: whether the report may show images of the dataset.
        batch_size: images per step.
        max_pixels: images with more pixels are skipped; by default as the dataset spec says.
        cluster: a Spark cluster that reads and predicts the images; every machine needs them, the
            run and the cluster's folder under the same paths. The same call continues an
            interrupted one.
        streaming: whether the predictions are measured part by part, in constant memory, and not
            kept; for millions of images on a cluster. The result is streamed.json, whose keys
            are those of `evaluation.streamed_metrics.StreamedResult`, without a report.
        progress: whether to show progress.
        log: called with each message.

    Raises:
        UserError: the data cannot be found, or its classes do not fit the run's.
    """
    if streaming and cluster is None:
        raise UserError("--streaming is for --spark MASTER, which is missing.")
    if streaming and videos is not None:
        raise UserError("--streaming takes no --videos.")
    job = prepare_evaluation(
        run, dataset, data_dir, authentic, output, label=label, max_pixels=max_pixels
    )
    from tfdetect.evaluation.videos import VideoNames

    names = VideoNames(videos) if videos is not None else None
    import_tensorflow()
    from tfdetect.data.evaluation_data import splits_to_evaluate
    from tfdetect.evaluation.evaluate_run import evaluate_run
    from tfdetect.evaluation.run_report import write_evaluation
    from tfdetect.evaluation.streamed_metrics import measure_streamed

    path, report = job.run.path, job.output / "report.html"
    values: dict[str, SplitResult] | dict[str, StreamedResult]
    with writing_on(cluster, job.output, job.roots, progress) as work:
        catalog = job.read_data(progress, log)
        chosen = tuple(splits) or splits_to_evaluate(job.run, catalog)
        with job.writing(progress) as (staged, folder):
            if streaming and work is not None:
                report = job.output / "streamed.json"
                parts = partial(work.predicted_parts, path, batch_size)
                values = measure_streamed(staged, catalog, chosen, parts)
                write_json(folder / report.name, values)
            else:
                found = evaluate_run(
                    staged, catalog, chosen,
                    images_in_report=images_in_report, batch_size=batch_size, log=log,
                    predict=None if work is None else work.predictor(path, batch_size),
                    videos=names,
                )  # fmt: skip
                write_evaluation(found, folder)
                values = found.results
    return EvaluationResults(job.run, values, job.output, report)


@checked
def remeasure(run: RunLike, *, progress: bool = True) -> EvaluationResults:
    """Measure a run on its own splits by the predictions that it keeps, without the images.

    Its metrics, report and model card are written again.

    Args:
        run, progress: see `evaluate`.

    Raises:
        UserError: the run keeps no predictions.
    """
    run = own_run(run)
    check_changeable(run)
    import_tensorflow()
    from tfdetect.evaluation import remeasure as by_predictions

    with console.quiet(not progress), updating(run) as staged:
        results = by_predictions.remeasure(staged).results
    return EvaluationResults(open_run(run.path), results, run.path, run.path / "report.html")


@checked
def measure_robustness(
    run: RunLike,
    degradations: str = "",
    dataset: str | Path | None = None,
    *,
    attacks: str = "",
    strength: str = "2/255,4/255",
    steps: int = 10,
    queries: int = 200,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    split: str | None = None,
    output: str | Path | None = None,
    batch_size: int = 64,
    max_pixels: int | None = None,
    progress: bool = True,
    log: console.Log = console.log,
) -> Results:
    """Measure a run on degraded images (recompressed, blurred, resized, ...) or attacked ones.

    Args:
        degradations: "genimage", "grid", "bands", "reencode", or single ones such as
            "jpeg:65,blur:3,social:2".
        attacks: "pgd" (with the gradient), "square" (from P(fake) alone), or both; not of a run
            that predicts masks.
        strength: the strength of attacks: how far each color of a pixel may change.
        steps: the number of steps of pgd.
        queries: the number of queries of square.
        split: "train", "validation", "test" or "all"; by default test, or validation where there
            is no test split, or all of another dataset that has no splits of its own.
        run, dataset, data_dir, authentic, output: see `evaluate`.
        batch_size, max_pixels, progress, log: see `evaluate`.

    Returns:
        The content of degradations.json, or of attacks.json where there are attacks alone, as
        `values`.
    """
    if not degradations and not attacks:
        raise UserError("Give degradations, attacks, or both.")
    run = run_of(run)
    import_tensorflow()
    from tfdetect.data.evaluation_data import split_to_evaluate
    from tfdetect.evaluation.attacks import parse_attacks
    from tfdetect.evaluation.robustness import measure_robustness as measure
    from tfdetect.evaluation.robustness_report import result_name
    from tfdetect.imaging.degradations import parse_degradations

    wanted = parse_degradations(degradations) if degradations else []
    chosen = parse_attacks(attacks, strength, steps, queries) if attacks else []
    # After these are checked, since data may be downloaded.
    job = prepare_evaluation(run, dataset, data_dir, authentic, output, max_pixels=max_pixels)
    catalog = job.read_data(progress, log)
    split = split or split_to_evaluate(job.run, catalog)
    with job.writing(progress) as (staged, folder):
        values = measure(staged, catalog, split, wanted, folder, batch_size, log, attacks=chosen)
    return Results(job.run, values, job.output, job.output / f"{result_name(values)}.html")


@checked
def calibrate(
    run: RunLike,
    dataset: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    label: str | None = None,
    split: str | None = None,
    method: str = "auto",
    cost: float | None = None,
    abstention_error: float | None = None,
    false_positive_rate: float | None = None,
    empty_masks: float = 0.9,
    threshold: float | str | None = None,
    prior: float | str = 0.5,
    tile_pooling: str | None = None,
    images_in_report: bool = True,
    keep_hashes: bool = True,
    batch_size: int = 64,
    max_pixels: int | None = None,
    progress: bool = True,
    log: console.Log = console.log,
) -> EvaluationResults:
    """Make P(fake) of a run a probability again and choose its thresholds; change the run.

    Training does so by itself on the validation split. This is for other images or settings.

    Args:
        run: see `evaluate`. It is changed as a whole, with its exports and report.
        dataset, data_dir, authentic: the images to calibrate on, which the run was not trained
            on; by default its own validation split.
        label: class of all images of a folder without class folders.
        split: "validation"; of another dataset also "train" or "all". By default validation; of
            another dataset that has no splits of its own, or of authentic images alone, all.
        method: "auto" (what does best in cross-validation; on up to 100 images of another dataset
            "shift", if its 95% interval does not contain 0, else no change), "temperature",
            "platt", "isotonic", "shift" (one constant is added to the logit) or "none".
        cost: what a false positive costs, where a missed fake costs 1: chooses the operating
            point "cost".
        abstention_error: fraction of each class, below 0.5, that may get a wrong verdict outside
            the abstention band; by default 0.01, or 0.05 with few images.
        false_positive_rate: with authentic images of another dataset alone, the threshold is
            chosen so that at most this fraction of new images like them is called fake; by default
            0.05.
        empty_masks: for a run that predicts masks, the fraction of new authentic images like these
            whose masks are to be empty, 0 to below 1; 0 shows every mask.
        threshold: P(fake) from which the verdict is fake, 0 to 1, or how to choose it:
            "balanced" (best balanced accuracy), "eer", "fpr_1", "fpr_5", "source_fpr_5" or "cost";
            by default what the run's experiment says. With authentic images alone, the lowest
            threshold that they may choose.
        prior: fraction of fakes that P(fake) assumes, 0 to 1, or "validation" for the fraction
            among the images it is calibrated on.
        tile_pooling: "max" or "top_pixels", of a run that predicts masks of images in tiles; see
            `data.tile_pooling` of an experiment. Only on the run's own dataset, because it changes
            every P(fake). By default as the run has it.
        keep_hashes: whether the run keeps hashes of its training images (16 bytes each), by which
            copies of them are recognized; only on the run's own dataset.
        images_in_report, batch_size, max_pixels, progress, log: see `evaluate`.

    Returns:
        The evaluation of the calibrated run, which is its `run`.

    Raises:
        UserError: an argument is out of range, or the images are of one class only.
    """
    from tfdetect.evaluation.calibration_settings import CalibrationSettings
    from tfdetect.evaluation.prediction_columns import check_parts

    settings = CalibrationSettings(
        method=method, cost=cost, error_rate=abstention_error, prior=prior, threshold=threshold,
        required=True, keep_hashes=keep_hashes, false_positive_rate=false_positive_rate,
        empty_masks=empty_masks, tile_pooling=tile_pooling,
    )  # fmt: skip
    if dataset is None and split not in (None, "validation"):
        raise UserError(
            f"--split {split} of the run's own dataset contains images that it was trained on. "
            "Calibrate on validation, or give other images with --dataset."
        )
    run = own_run(run)
    check_changeable(run)
    from tfdetect.data.evaluation_data import (
        evaluation_data,
        is_own_dataset,
        split_to_calibrate_on,
        warn_of_changed_data,
    )

    spec, roots, target = evaluation_data(
        run, text_of(dataset), path_of(data_dir), authentic, None, label
    )
    spec = spec.with_values(max_pixels=max_pixels)
    if spec.name != run.info.dataset.name:  # its own dataset makes them again
        check_parts(run)
    import_tensorflow()
    from tfdetect.data.describe import read_data
    from tfdetect.evaluation.calibrate_finished_run import calibrate_finished_run

    catalog = read_data(spec, roots, progress, log)
    warn_of_changed_data(run, catalog)
    if split is None:
        split = split_to_calibrate_on(run, catalog)
    settings = replace(settings, dataset="" if is_own_dataset(run, catalog) else spec.name)
    if not settings.dataset and split == "validation":  # its own images, wherever they are
        target = run.path
    if settings.dataset and not catalog.table["label"].to_numpy().any():
        settings.check_for_authentic_images()  # before minutes of prediction
    with console.quiet(not progress):
        found = calibrate_finished_run(
            run, catalog, roots, split, settings, target,
            images_in_report=images_in_report, batch_size=batch_size, log=log,
        )  # fmt: skip
    return EvaluationResults(open_run(run.path), found.results, target, target / "report.html")


COMPARED = (
    "accuracy", "balanced_accuracy", "auc", "ap", "tpr_at_fpr_1", "tpr_at_fpr_5", "log_loss",
)  # fmt: skip


@checked
def compare(
    runs: Sequence[RunLike],
    *,
    split: str | None = None,
    dataset: str | None = None,
) -> RunsCompared:
    """Compare evaluated runs on the images that all of them were evaluated on.

    Args:
        runs: two or more; see `evaluate`.
        split: "train", "validation", "test" or "all"; by default the first of test, all and
            validation of which every run has predictions.
        dataset: name of another dataset that each was evaluated on (a folder below evaluations/
            in each run); by default their own.

    Returns:
        Metrics of each run, and for each pair the differences with intervals and p-values:
        McNemar's test of the verdicts and DeLong's of the AUC, adjusted by Holm's method. For
        runs that predict masks, "masks" has the same about masks, with Wilcoxon's test of IoU.

    Raises:
        UserError: fewer than two runs, or one was not evaluated so.
    """
    opened: dict[str, Run] = {}
    for run in runs_of(runs):
        if not any(run.path.resolve() == other.path.resolve() for other in opened.values()):
            opened[run.name if run.name not in opened else str(run.path)] = run
    if len(opened) < 2:
        raise UserError("Give at least two different runs to compare.")

    from tfdetect.evaluation.paired import compare as compare_runs

    return compare_runs(opened, split, dataset, COMPARED)
