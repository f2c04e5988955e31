"""Functions of the Python API on finished runs: evaluate, calibrate, compare, explain, export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.api.arguments import (
    RunLike,
    checked,
    own_run,
    path_of,
    run_of,
    runs_of,
    text_of,
    writing_on,
)
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import check_writable, merged, write_json, write_text
from tfdetect.core.metric import Metric, metrics_of
from tfdetect.core.open_run import open_run
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run import Run
from tfdetect.core.run_writer import (
    evaluating,
    evaluation_folder,
    updating,
    write_info,
    write_source,
)
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.storage import fetched
from tfdetect.core.text import MAX_NAME_BYTES, file_name, user_path

if TYPE_CHECKING:
    from tfdetect.core.spec import DatasetSpec
    from tfdetect.data.catalog import Catalog
    from tfdetect.models.exports import Export
    from tfdetect.spark.dataset_jobs import DatasetJobs


@dataclass(frozen=True)
class Results:
    """What a command measured, and where it wrote it.

    Attributes:
        run: the run that was measured.
        values: the results as plain dicts, lists and numbers, as in the JSON file in `output`.
        output: folder with the JSON file, figures and the report.
        report: the HTML page.
    """

    run: Run
    values: dict[str, Any] = field(repr=False)
    output: Path
    report: Path


@dataclass(frozen=True)
class EvaluationResults(Results):
    """The results of an evaluation; `values` is the content of metrics.json."""

    @property
    def metrics(self) -> dict[str, dict[str, Metric]]:
        """The metrics of each split by name: `results.metrics["test"]["auc"]`.

        A metric is a float with the attributes `low` and `high`, its 95% interval.
        """
        return metrics_of(self.values)


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
        splits: of "train", "validation", "test" and "all"; by default validation and test, or all
            of another dataset that has no splits of its own.
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
            kept; for millions of images on a cluster. The result is streamed.json: what
            `evaluation.streamed_metrics` measures, without intervals and report.
        progress: whether to show progress.
        log: called with each message.

    Raises:
        UserError: the data cannot be found, or its classes do not fit the run's.
    """
    splits = [splits] if isinstance(splits, str) else splits
    run = own_run(run, output)
    spec, roots, target = _evaluation_data(run, dataset, data_dir, authentic, output, label)
    spec = spec.with_values(max_pixels=max_pixels)
    target = _own_place(run, target, spec.name, roots)
    check_writable(target)
    if streaming and cluster is None:
        raise UserError("--streaming is for --spark MASTER, which is missing.")
    if streaming and videos is not None:
        raise UserError("--streaming takes no --videos.")
    from tfdetect.evaluation.videos import VideoNames

    names = VideoNames(videos) if videos is not None else None
    import_tensorflow()
    from tfdetect.data.describe import read_data
    from tfdetect.data.evaluation_data import splits_to_evaluate
    from tfdetect.evaluation.evaluate_run import evaluate_run
    from tfdetect.evaluation.run_report import write_evaluation

    with writing_on(cluster, target, roots, progress) as work:
        catalog = read_data(spec, roots, progress, log)
        chosen = tuple(splits) or splits_to_evaluate(run, catalog)
        if streaming and work is not None:
            with _writing(run, target, roots, progress) as (staged, folder):
                values = _measure_parts(staged, catalog, chosen, run.path, batch_size, work)
                write_json(folder / "streamed.json", values)
            return EvaluationResults(run, values, target, target / "streamed.json")
        with _writing(run, target, roots, progress) as (staged, folder):
            found = evaluate_run(
                staged, catalog, chosen,
                images_in_report=images_in_report, batch_size=batch_size, log=log,
                predict=work.predictor(run.path, batch_size) if work is not None else None,
                videos=names,
            )  # fmt: skip
            write_evaluation(found, folder)
    return EvaluationResults(run, found.results, target, target / "report.html")


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
    check_writable(run.path.parent, None)
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
        strength: of attacks, how far each color of a pixel may change.
        steps: of pgd.
        queries: of square.
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
    run = own_run(run, output)
    spec, roots, target = _evaluation_data(run, dataset, data_dir, authentic, output)
    spec = spec.with_values(max_pixels=max_pixels)
    target = _own_place(run, target, spec.name, roots)
    check_writable(target)
    import_tensorflow()
    from tfdetect.data.describe import read_data
    from tfdetect.data.evaluation_data import splits_to_evaluate
    from tfdetect.evaluation.attacks import parse_attacks
    from tfdetect.evaluation.robustness import degrade, file_name
    from tfdetect.imaging.degradations import parse_degradations

    wanted = parse_degradations(degradations) if degradations else []
    chosen = parse_attacks(attacks, strength, steps, queries) if attacks else []
    catalog = read_data(spec, roots, progress, log)
    if split is None:
        splits = splits_to_evaluate(run, catalog)
        split = next((s for s in reversed(splits) if catalog.split(s).num_rows), splits[-1])
    with _writing(run, target, roots, progress) as (staged, folder):
        values = degrade(staged, catalog, split, wanted, folder, batch_size, log, attacks=chosen)
    return Results(run, values, target, target / f"{file_name(values)}.html")


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
    images_in_report: bool = True,
    keep_hashes: bool = True,
    batch_size: int = 64,
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
        empty_masks: of a run that predicts masks, the fraction of new authentic images like these
            whose masks are to be empty, 0 to below 1; 0 shows every mask.
        threshold: P(fake) from which the verdict is fake, 0 to 1, or how to choose it:
            "balanced" (best balanced accuracy), "eer", "fpr_1", "fpr_5", "source_fpr_5" or "cost";
            by default what the run's experiment says.
        prior: fraction of fakes that P(fake) assumes, 0 to 1, or "validation" for the fraction
            among the images it is calibrated on.
        keep_hashes: whether the run keeps hashes of its training images (16 bytes each), by which
            copies of them are recognized; only on the run's own dataset.
        images_in_report, batch_size, progress, log: see `evaluate`.

    Returns:
        The evaluation of the calibrated run, which is its `run`.

    Raises:
        UserError: an argument is out of range, or the images are of one class only.
    """
    from tfdetect.evaluation.calibrate_run import (
        CalibrationSettings,
        check_for_authentic_images,
        check_settings,
    )

    settings = CalibrationSettings(
        method=method, cost=cost, error_rate=abstention_error, prior=prior, threshold=threshold,
        required=True, keep_hashes=keep_hashes, false_positive_rate=false_positive_rate,
        empty_masks=empty_masks,
    )  # fmt: skip
    check_settings(settings)
    if dataset is None and split not in (None, "validation"):
        raise UserError(
            f"--split {split} of the run's own dataset contains images that it was trained on. "
            "Calibrate on validation, or give other images with --dataset."
        )
    run = own_run(run)
    check_writable(run.path.parent, None)
    spec, roots, target = _evaluation_data(run, dataset, data_dir, authentic, None, label)
    import_tensorflow()
    from tfdetect.data.describe import read_data
    from tfdetect.data.evaluation_data import is_own_dataset
    from tfdetect.evaluation.evaluate_run import evaluate_run
    from tfdetect.evaluation.run_report import write_evaluation
    from tfdetect.models.exports import export_finished_run, exported_formats
    from tfdetect.models.saving import load_detector

    catalog = read_data(spec, roots, progress, log)
    if split is None:
        split = _calibration_split(run, catalog)
    settings = replace(settings, dataset="" if is_own_dataset(run, catalog) else spec.name)
    if settings.dataset and not catalog.table["label"].to_numpy().any():
        check_for_authentic_images(settings)  # before minutes of prediction
    with console.quiet(not progress), updating(run) as staged:
        detector = load_detector(staged)
        elsewhere = None if dataset is None else staged.path / target.relative_to(run.path)
        evaluation = evaluate_run(
            staged, catalog, (split,) if split == "all" else (split, "test"),
            images_in_report=images_in_report, batch_size=batch_size, calibrate=settings, log=log,
            detector=detector,
        )  # fmt: skip
        write_evaluation(evaluation, elsewhere or staged.path)
        if elsewhere is not None:
            write_source(elsewhere, roots)
        if evaluation.run.info != run.info:
            write_info(evaluation.run)
            if settings.dataset:
                _follow_calibration(evaluation.run, spec.name, log)
            export_finished_run(evaluation.run, exported_formats(run), detector)
    return EvaluationResults(open_run(run.path), evaluation.results, target, target / "report.html")


def _follow_calibration(run: Run, dataset: str, log: console.Log) -> None:
    """Bring metrics, report and card of a run in line with a calibration on other images.

    Args:
        run: the calibrated run, in its staged copy.
        dataset: name of the images that it was calibrated on.
        log: called with what was done.
    """
    from tfdetect.evaluation import remeasure as by_predictions
    from tfdetect.evaluation.model_card import model_card

    kept = run.path / "predictions"
    if run.results and all((kept / f"{split}.parquet").is_file() for split in run.results):
        by_predictions.remeasure(run)
        log(
            f"{run.name}: its own splits were measured again by the predictions that it keeps; "
            "evaluate it where its dataset is to show images in the report, too"
        )
    elif (run.path / "model_card.md").is_file():
        write_text(run.path / "model_card.md", model_card(run, run.results, dataset))
        log(
            f"{run.name}: its own report and metrics were measured before this calibration, and "
            "it keeps no predictions to measure again; evaluate it where its dataset is"
        )


def _calibration_split(run: Run, catalog: Catalog) -> str:
    """Return which images a run is calibrated on by default.

    It was trained on none of another dataset, so all are of use where nobody has divided them.
    """
    from tfdetect.data.evaluation_data import is_own_dataset

    if is_own_dataset(run, catalog):
        return "validation"
    labels = catalog.split("all")["label"].to_numpy()
    divided = catalog.divided and catalog.split("validation").num_rows > 0
    return "validation" if divided and (labels > 0).any() else "all"


COMPARED = (
    "accuracy", "balanced_accuracy", "auc", "ap", "tpr_at_fpr_1", "tpr_at_fpr_5", "log_loss",
)  # fmt: skip


@checked
def compare(
    runs: Sequence[RunLike],
    *,
    split: str = "test",
    dataset: str | None = None,
) -> dict[str, Any]:
    """Compare evaluated runs on the images that all of them were evaluated on.

    Args:
        runs: two or more; see `evaluate`.
        split: "train", "validation", "test" or "all".
        dataset: name of another dataset that each was evaluated on (a folder below evaluations/
            in each run); by default their own.

    Returns:
        Metrics of each run, and for each pair the differences with intervals and p-values:
        McNemar's test of the verdicts and DeLong's of the AUC, adjusted by Holm's method. Of runs
        that predict masks, "masks" has the same of the masks, with Wilcoxon's test of the IoU.

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


@checked
def explain(
    run: RunLike,
    dataset: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    split: str = "test",
    count: int = 60,
    stages: Sequence[str] = (),
    output: str | Path | None = None,
    cluster: SparkCluster | None = None,
    progress: bool = True,
    log: console.Log = console.log,
) -> Results:
    """Show what moves a run's verdicts on a set of images: mean maps and features by class.

    A single image is explained by `load(run).predict(image, pages="pages")`.

    Args:
        run, dataset, data_dir, authentic: see `evaluate`.
        split: the images to explain.
        count: number of images, split evenly among the classes.
        stages: of the backbone, whose mean features are shown: "stage1" (the finest), "stage2",
            and so on, or "all"; by default the last features alone.
        output: folder for explanation.html and explanation.json; by default as in `evaluate`.
        cluster: a Spark cluster that explains the images; see `evaluate`.
        progress, log: see `evaluate`.

    Returns:
        The content of explanation.json as `values`, with the sanity checks of the maps.
    """
    if count < 1:
        raise UserError(f"--count must be at least 1. Received: {count}.")
    run = own_run(run, output)
    spec, roots, target = _evaluation_data(run, dataset, data_dir, authentic, output)
    check_writable(target)
    import_tensorflow()
    from tfdetect.data.describe import read_data
    from tfdetect.explanation.explain_set import explain_set

    with writing_on(cluster, target, roots, progress) as work:
        elsewhere = None if work is None else partial(work.explain, run.path, stages)
        catalog = read_data(spec, roots, progress, log)
        with _writing(run, target, roots, progress) as (staged, folder):
            values = explain_set(
                staged, catalog, split, count, folder, log, stages=stages, elsewhere=elsewhere
            )
    return Results(run, values, target, target / "explanation.html")


@checked
def show_front_ends(
    run: RunLike,
    image: str | Path,
    *,
    output: str | Path | None = None,
    progress: bool = True,
) -> Results:
    """Show what front-ends leave of an image: residual, SRM, Bayar, NPR and DCT, side by side.

    Where the run has a front-end of its own, it is shown before and after training, too.

    Args:
        run: see `evaluate`; its view decides what is cut out of the image.
        image: an image file.
        output: folder for front_ends.html and front_ends.json; by default
            evaluations/front_ends-IMAGE in the run.
        progress: whether to show progress.

    Returns:
        The content of front_ends.json as `values`.

    Raises:
        UserError: the image cannot be read, or the run is an ensemble.
    """
    run = own_run(run, output)
    path = fetched(user_path(image))
    if not path.is_file():
        raise UserError(f"There is no image {path}.")
    name = file_name(f"front_ends-{path.stem}", most=MAX_NAME_BYTES)
    images = {name: path}
    target = path_of(output) or evaluation_folder(run, name, images)
    check_writable(target)
    import_tensorflow()
    from tfdetect.explanation.front_ends import show_front_ends as show

    with _writing(run, target, images, progress) as (_, folder):
        values = show(run, path, folder)
    return Results(run, values, target, target / "front_ends.html")


@checked
def export(run: RunLike, formats: Sequence[str] | None = None) -> list[Export]:
    """Export the detector of a run from its Keras model, with its calibration and threshold.

    Every export is compared with the Keras model on photographs when it is written.

    Args:
        formats: "saved_model", "saved_model_webp", "keras", "onnx", "onnx_float16", "litert",
            "litert_float16", "litert_int8" or "openvino"; by default the SavedModel and those that
            the run has.

    Returns:
        The format, path, size and largest difference of a probability, of each export.

    Raises:
        UserError: a format is unknown, its packages are missing, it cannot express the detector,
            or the probabilities differ by more than the format's tolerance.
    """
    run = own_run(run)
    import_tensorflow()
    from tfdetect.models.exports import check_format, exported_formats, write_exports

    if formats is None:
        formats = ["saved_model", *exported_formats(run)]
    formats = list(dict.fromkeys(formats))
    for name in formats:
        check_format(name)
    with updating(run) as staged:
        return write_exports(staged, formats or ["saved_model"])


@checked
def export_web(
    run: RunLike, output: str | Path | None = None, *, npm_packages: str | Path | None = None
) -> Path:
    """Write a folder for any static web host, whose page analyzes images in the browser.

    Args:
        run: with an ONNX export. TensorFlow is not needed.
        output: folder to write; by default the run's name and "-web", in the current directory.
            An earlier web export in it is replaced.
        npm_packages: folder with the archives that `npm pack` wrote of ONNX Runtime and the image
            decoders; by default npm fetches them, once.

    Returns:
        The page, `index.html` in the folder.

    Raises:
        UserError: the run has no ONNX export, a package is missing, or the folder is none that
            may be replaced.
    """
    run = run_of(run)
    folder = path_of(output) or Path(f"{run.name}-web")
    from tfdetect.serving.web_export import write_web

    return write_web(run, folder, path_of(npm_packages))


def _measure_parts(
    run: Run,
    catalog: Catalog,
    splits: tuple[str, ...],
    run_path: Path,
    batch_size: int,
    work: DatasetJobs,
) -> dict[str, Any]:
    """Return the metrics of splits, predicted on a cluster and measured part by part.

    Raises:
        UserError: the dataset has no image in any of the splits.
    """
    from tfdetect.data.evaluation_data import is_own_dataset
    from tfdetect.evaluation.streamed_metrics import StreamedMetrics

    own, found = is_own_dataset(run, catalog), {}
    for split in splits:
        rows = catalog.split(split)
        if not rows.num_rows:
            continue
        metrics = StreamedMetrics(run)
        parts = work.predicted_parts(
            run_path, batch_size, run, catalog, rows, own and split == "validation"
        )
        for part, table in parts:
            metrics.add(part["label"].to_numpy(), table)
        found[split] = metrics.document()
    if not found:
        raise UserError(f"The dataset {catalog.name} has no images in {', '.join(splits)}.")
    return found


def _evaluation_data(
    run: Run,
    dataset: str | Path | None,
    data_dir: str | Path | None,
    authentic: str | None,
    output: str | Path | None,
    label: str | None = None,
) -> tuple[DatasetSpec, dict[str, Path], Path]:
    from tfdetect.data.evaluation_data import evaluation_data

    return evaluation_data(
        run, text_of(dataset), path_of(data_dir), authentic, path_of(output), label=label
    )


def _own_place(run: Run, target: Path, name: str, images: Mapping[str, Path]) -> Path:
    """Return where results go: not into the run itself if they are of other settings than its own.

    Args:
        run: the run, with the settings that it is measured with.
        target: where they would go.
        name: of the dataset.
        images: see `evaluation_folder`.
    """
    if target == run.path and open_run(target).info != run.info:
        return evaluation_folder(run, name, images)
    return target


@contextmanager
def _writing(
    run: Run, target: Path, images: Mapping[str, Path], progress: bool
) -> Iterator[tuple[Run, Path]]:
    """Yield the run and the folder to write results into, which change in one swap at the end.

    Args:
        run: the run, with the settings that results are computed for.
        target: the run's own folder, one below its evaluations/, or one that the user named,
            which may hold other things.
        images: what the results are about; see `evaluation_folder`.
        progress: whether to show progress meanwhile.
    """
    with console.quiet(not progress):
        if target == run.path:
            with updating(run) as copy:
                yield copy, copy.path
        else:
            inside = target.parent == run.path / "evaluations"
            where = evaluating(run, target, images) if inside else merged(target)
            with where as folder:
                yield run, folder
