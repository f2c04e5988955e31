"""The Python API: what `import tfdetect` offers, and what the commands call.

    import tfdetect

    detector = tfdetect.load("saved_models/cifake_small_resnet")
    for row in detector.predict(["a.jpg", image_array]):
        print(row["path"], row["verdict"], row["p_fake"])

    run = tfdetect.train("path/to/folder", overrides={"training.epochs": 5})
    print(run.metrics["test"]["auc"])

Everything works without TensorFlow until a model is needed. A mistake of the caller raises
`UserError`, whose message says what to do. Messages go to stderr; pass `log=lambda text: None`
and `progress=False` to silence them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import check_writable, staged
from tfdetect.core.plugins import load_plugin
from tfdetect.core.registry import (
    register_augmentation,
    register_backbone,
    register_front_end,
    register_head,
    register_loss,
    register_mask_head,
)
from tfdetect.core.run import (
    PARTIAL,
    Metric,
    Run,
    find_unfinished,
    metrics_of,
    new_run_path,
    open_run,
)
from tfdetect.core.run_writer import updating, write_info
from tfdetect.detect import Detector, Predictions, load

if TYPE_CHECKING:
    import keras

    from tfdetect.auditing.audit_dataset import Audit
    from tfdetect.auditing.fixes import FixedDataset
    from tfdetect.core.experiment import Experiment
    from tfdetect.core.spec import DatasetSpec
    from tfdetect.data.catalog import Catalog
    from tfdetect.data.plan import Plan
    from tfdetect.data.shards import Prepared
    from tfdetect.synthesis.forge import Settings as SynthesisSettings
    from tfdetect.training.devices import Devices
    from tfdetect.tuning.settings import Settings
    from tfdetect.tuning.space import Space

__all__ = [
    "Detector", "EvaluationResults", "MatrixResults", "Metric", "Predictions", "Results", "Run",
    "SearchResults", "UserError", "audit", "calibrate", "compare", "convert", "create_detector",
    "ensemble", "evaluate", "explain", "export", "fix", "list_backbones", "list_datasets",
    "list_detectors", "list_experiments", "load", "load_plugin", "matrix", "measure_robustness",
    "prepare", "register_augmentation", "register_backbone", "register_front_end", "register_head",
    "register_loss", "register_mask_head", "search", "synthesize", "train",
]  # fmt: skip

Log = Callable[[str], None]
Overrides = Mapping[str, Any] | Iterable[str]
RunLike = str | Path | Run


# ---- Training -------------------------------------------------------------------------------


def train(
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    resume: bool | str | Path = False,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    virtual_devices: int | None = None,
    strict: bool = False,
    images_in_report: bool = True,
    progress: bool = True,
    log: Log = console.log,
) -> Run:
    """Train a detector; return the finished run, evaluated, calibrated and exported.

    Args:
        dataset: name of a shipped dataset, or path of a folder with one folder per class, of a
            CSV manifest, or of a dataset spec. By default the experiment's.
        experiment: name of a shipped experiment or path of a YAML file. By default the dataset's.
        model: a published detector, of `list_detectors()`.
        overrides: values of the experiment to change, for example {"training.epochs": 5}.
        data_dir: directory that contains the dataset's files, if it is not where the dataset says.
        authentic: the class of authentic images, where the name of its folder does not say so.
        output: folder for runs.
        name: name of the run; by default the experiment's. A number is added if it is taken.
        resume: the unfinished run to continue, or True for the latest one of this experiment.
        gpus: numbers of the GPUs to use, [] for the CPU; by default all.
        gpu_memory_limit: fraction ("0.95"), size ("14GiB") or one per GPU ("0=0.9,1=10GiB").
        virtual_devices: number of replicas to train on the CPU instead.
        strict: refuse data whose quick audit says that results would be unreliable.
        images_in_report: whether the report may show images of the dataset.
        progress: whether to show progress.
        log: called with each message.

    Returns:
        The run; its `info.status` is "interrupted" after Ctrl-C.

    Raises:
        UserError: an unknown name, an illegal value, or data that cannot be found or read.
    """
    return prepare_training(
        dataset, experiment, model=model, overrides=overrides, data_dir=data_dir,
        authentic=authentic, output=output, name=name, resume=resume, gpus=gpus,
        gpu_memory_limit=gpu_memory_limit, virtual_devices=virtual_devices, strict=strict,
        progress=progress, log=log,
    ).run(images_in_report=images_in_report)  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A training whose experiment, data and devices are resolved and checked, not yet begun."""

    plan: Plan
    catalog: Catalog
    devices: Devices
    path: Path
    progress: bool
    log: Log

    def run(self, images_in_report: bool = True) -> Run:
        """Train; see `train`."""
        from tfdetect.train_run import train_run

        check_writable(self.path.parent)
        self.log(f"Training on {self.devices.text}; run: {self.path}")
        return train_run(
            self.plan, self.catalog, self.path, self.devices, images_in_report=images_in_report,
            verbose=int(self.progress), log=self.log,
        )  # fmt: skip

    def describe(self) -> str:
        """Return the resolved experiment and the size of its detector."""
        from tfdetect.train_run import describe_plan

        return describe_plan(self.plan)

    def document(self) -> dict[str, Any]:
        """Return the same as plain data, with the number of images by split and class."""
        from tfdetect.models.detector import build_detector

        detector = build_detector(self.plan.experiment, len(self.plan.spec.class_names))
        return {
            "experiment": self.plan.experiment.as_data(),
            "dataset": self.plan.spec.name,
            "counts": self.catalog.counts(self.plan.spec.class_names),
            "parameters": detector.count_params(),
        }


def prepare_training(
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    resume: bool | str | Path = False,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    virtual_devices: int | None = None,
    strict: bool = False,
    progress: bool = True,
    log: Log = console.log,
) -> Training:
    """Resolve and check everything that `train` needs, with the same arguments; start nothing."""
    from tfdetect.auditing.check_training_data import check_training_data
    from tfdetect.data.plan import describe_data, find_data, load_plan
    from tfdetect.training.devices import parse_gpus, parse_memory_limit

    numbers, limits = parse_gpus(_gpus(gpus)), parse_memory_limit(gpu_memory_limit)
    if virtual_devices is not None and virtual_devices < 1:
        raise UserError(f"--virtual-devices must be at least 1. Received: {virtual_devices}.")
    if resume and not isinstance(resume, bool):
        path = Path(resume)
        path = path.with_name(path.name.removesuffix(PARTIAL))
        plan = load_plan(path)
    else:
        plan = _plan(dataset, experiment, model, overrides, data_dir, authentic)
        if resume:
            path = find_unfinished(Path(output), plan.experiment)
        else:
            path = new_run_path(Path(output), name or plan.experiment.name)
    log(f"Experiment {plan.experiment.name} ({plan.chosen}), dataset {plan.spec.name}")

    _import_tensorflow()
    from tfdetect.training.devices import configure_devices

    devices = configure_devices(numbers, limits, virtual_devices)
    catalog = find_data(plan, progress=progress)
    log(f"Data in {', '.join(map(str, catalog.roots.values()))}: {describe_data(plan, catalog)}")
    for warning in catalog.warnings:
        console.warn(warning)
    check_training_data(plan, catalog, strict)
    return Training(plan, catalog, devices, path, progress, log)


# ---- What a finished run is worth -----------------------------------------------------------


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
    values: dict[str, Any]
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


def evaluate(
    run: RunLike,
    dataset: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    label: str | None = None,
    splits: Sequence[str] = (),
    output: str | Path | None = None,
    threshold: float | str | None = None,
    prior: float | str | None = None,
    crops: int | None = None,
    flips: bool = False,
    images_in_report: bool = True,
    batch_size: int = 64,
    log: Log = console.log,
) -> EvaluationResults:
    """Measure a run on its own dataset or on another one; write metrics, figures and a report.

    Args:
        run: a run or its folder.
        dataset: other images to measure it on, as for `train`; also a folder of authentic images
            alone, of fakes alone, or with only test/. By default the run's own dataset.
        data_dir, authentic: as for `train`.
        label: class of all images of a folder without class folders: "authentic", "fake" or a
            class name of the run.
        splits: of "train", "validation", "test" and "all"; by default validation and test.
        output: folder for the result. By default the run itself, or evaluations/<dataset> in it
            for another dataset or other settings.
        threshold, prior, crops, flips: see `Detector.with_options`.
        images_in_report: whether the report may show images of the dataset.
        batch_size: images per step.
        log: called with each message.

    Raises:
        UserError: the data cannot be found, or its classes do not fit the run's.
    """
    run = _open(run)
    adjusted = Detector(run).with_options(
        threshold=threshold, prior=prior, crops=crops, flips=flips
    ).run  # fmt: skip
    spec, roots, target = _evaluation_data(run, dataset, data_dir, authentic, output, label)
    if target == run.path and adjusted != run:  # other settings than those of the finished run
        target = run.path / "evaluations" / spec.name
    _import_tensorflow()
    from tfdetect.data.catalog import build_catalog
    from tfdetect.evaluation.evaluate_run import evaluate_run

    catalog = build_catalog(spec, roots)
    with _writing(adjusted, target) as (staged, folder):
        values = evaluate_run(
            staged, catalog, tuple(splits or ("validation", "test")), folder,
            images_in_report=images_in_report, batch_size=batch_size, log=log,
        ).results  # fmt: skip
    return EvaluationResults(run, values, target, target / "report.html")


def measure_robustness(
    run: RunLike,
    degradations: str,
    dataset: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    split: str = "test",
    output: str | Path | None = None,
    crops: int | None = None,
    flips: bool = False,
    batch_size: int = 64,
    log: Log = console.log,
) -> Results:
    """Measure a run on degraded images: recompressed, blurred, resized, without a frequency band.

    Args:
        degradations: "genimage", "grid", "bands", "reencode", or single ones such as
            "jpeg:65,blur:3,social:2".
        split: one split of the dataset.
        run, dataset, data_dir, authentic, output, crops, flips, batch_size, log: see `evaluate`.

    Returns:
        The content of degradations.json as `values`.
    """
    from tfdetect.imaging.degradations import parse_degradations

    run = _open(run).with_views(crops=crops, flips=flips)
    spec, roots, target = _evaluation_data(run, dataset, data_dir, authentic, output)
    wanted = parse_degradations(degradations)
    _import_tensorflow()
    from tfdetect.data.catalog import build_catalog
    from tfdetect.evaluation.robustness import degrade

    catalog = build_catalog(spec, roots)
    with _writing(run, target) as (staged, folder):
        values = degrade(staged, catalog, split, wanted, folder, batch_size, log=log)
    return Results(run, values, target, target / "degradations.html")


def calibrate(
    run: RunLike,
    dataset: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    split: str = "validation",
    method: str = "auto",
    cost: float | None = None,
    abstention_error: float | None = None,
    threshold: float | str | None = None,
    prior: float | str = 0.5,
    images_in_report: bool = True,
    batch_size: int = 64,
    log: Log = console.log,
) -> EvaluationResults:
    """Make P(fake) of a run a probability again and choose its thresholds; change the run.

    Training does so by itself on the validation split. This is for other images or other wishes.

    Args:
        run: a run or its folder. It is changed as a whole, with its SavedModel and report.
        dataset, data_dir, authentic: the images to calibrate on, which the run was not trained
            on; by default its own validation split.
        split: "validation"; of another dataset also "train" or "all".
        method: "auto" (what does best in cross-validation), "temperature", "platt", "isotonic"
            or "none".
        cost: what a false positive costs, where a missed fake costs 1: chooses the operating
            point "cost".
        abstention_error: fraction of each class, below 0.5, that may get a wrong verdict outside
            the abstention band; by default 0.01, or 0.05 with few images.
        threshold: P(fake) from which the verdict is fake, 0 to 1, or how to choose it:
            "balanced" (best balanced accuracy), "eer", "fpr_1", "fpr_5" or "cost"; by default
            what the run's experiment says.
        prior: fraction of fakes that P(fake) supposes, 0 to 1, or "validation" for the fraction
            among the images it is calibrated on.
        images_in_report, batch_size, log: see `evaluate`.

    Returns:
        The evaluation of the calibrated run, which is its `run`.

    Raises:
        UserError: an argument is out of range, or the images are of one class only.
    """
    if cost is not None and not cost > 0:
        raise UserError(f"--cost must be above 0. Received: {cost}.")
    if abstention_error is not None and not 0 < abstention_error < 0.5:
        raise UserError(
            f"--abstention-error must be above 0 and below 0.5. Received: {abstention_error}."
        )
    if dataset is None and split != "validation":
        raise UserError(
            f"--split {split} of the run's own dataset contains images that it was trained on. "
            "Calibrate on validation, or give other images with --dataset."
        )
    run = _open(run)
    check_writable(run.path)
    spec, roots, target = _evaluation_data(run, dataset, data_dir, authentic, None)
    _import_tensorflow()
    from tfdetect.data.catalog import build_catalog
    from tfdetect.evaluation.calibrate_run import CalibrationSettings
    from tfdetect.evaluation.evaluate_run import evaluate_run
    from tfdetect.models.saved_model import export_saved_model

    settings = CalibrationSettings(
        method=method, cost=cost, error_rate=abstention_error, prior=prior, threshold=threshold,
        required=True,
    )  # fmt: skip
    catalog = build_catalog(spec, roots)
    with updating(run) as staged:
        evaluation = evaluate_run(
            staged, catalog, (split,) if split == "all" else (split, "test"),
            None if dataset is None else staged.path / "evaluations" / spec.name,
            images_in_report=images_in_report, batch_size=batch_size, calibrate=settings, log=log,
        )  # fmt: skip
        write_info(evaluation.run)
        export_saved_model(evaluation.run)
    return EvaluationResults(open_run(run.path), evaluation.results, target, target / "report.html")


def compare(
    runs: Sequence[RunLike],
    *,
    split: str = "test",
    dataset: str | None = None,
) -> dict[str, Any]:
    """Compare evaluated runs on the images that all of them were evaluated on.

    Args:
        runs: two runs or more, or their folders.
        split: "train", "validation", "test" or "all".
        dataset: name of another dataset that each was evaluated on (a folder below evaluations/
            in each run); by default their own.

    Returns:
        Metrics of each run, and for each pair the differences with intervals and p-values:
        McNemar's test of the verdicts and DeLong's of the AUC, adjusted by Holm's method.

    Raises:
        UserError: fewer than two runs, or one was not evaluated so.
    """
    opened: dict[str, Run] = {}
    for each in runs:
        run = _open(each)
        if not any(run.path.resolve() == other.path.resolve() for other in opened.values()):
            opened[run.name if run.name not in opened else str(run.path)] = run
    if len(opened) < 2:
        raise UserError("Give at least two different runs to compare.")

    from tfdetect.evaluation.paired import compare as compare_runs

    return compare_runs(opened, split, dataset, COMPARED)


COMPARED = (
    "accuracy", "balanced_accuracy", "auc", "ap", "tpr_at_fpr_1", "tpr_at_fpr_5", "log_loss",
)  # fmt: skip


def explain(
    run: RunLike,
    dataset: str | Path | None = None,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    split: str = "test",
    count: int = 60,
    output: str | Path | None = None,
    log: Log = console.log,
) -> Results:
    """Show what moves a run's verdicts on a set of images: mean maps and features by class.

    A single image is explained by `load(run).predict(image, pages="pages")`.

    Args:
        run, dataset, data_dir, authentic: see `evaluate`.
        split: the images to explain.
        count: number of images, split evenly among the classes.
        output: folder for explanation.html and explanation.json; by default as in `evaluate`.

    Returns:
        The content of explanation.json as `values`, with the sanity checks of the maps.
    """
    if count < 1:
        raise UserError(f"--count must be at least 1. Received: {count}.")
    run = _open(run)
    spec, roots, target = _evaluation_data(run, dataset, data_dir, authentic, output)
    check_writable(target)
    _import_tensorflow()
    from tfdetect.data.catalog import build_catalog
    from tfdetect.explanation.explain_set import explain_set

    catalog = build_catalog(spec, roots)
    with _writing(run, target) as (staged, folder):
        values = explain_set(staged, catalog, split, count, folder, log=log)
    return Results(run, values, target, target / "explanation.html")


def export(run: RunLike) -> Path:
    """Write the SavedModel of a run again from its Keras model; return its folder.

    The SavedModel needs TensorFlow alone, not tfdetect.
    """
    run = _open(run)
    _import_tensorflow()
    from tfdetect.models.saved_model import export_saved_model

    with updating(run) as staged:
        export_saved_model(staged)
    return run.path / "saved_model"


def convert(
    weights: str | Path,
    model: str,
    *,
    overrides: Overrides = (),
    names: str | Path | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
) -> Run:
    """Make a run of the PyTorch weights that a project published.

    Args:
        weights: a .pth, .pt, .bin or .safetensors file.
        model: the detector, of `list_detectors()`.
        overrides: values of the detector's experiment to change.
        names: CSV file that says which weight goes where, in the form of a run's conversion.csv;
            by default it follows from the names, and from order and shape where those are unknown.
        output: folder for runs.
        name: name of the run; by default `model` and "_published".

    Raises:
        UserError: the weights cannot be read, or belong to another detector.
    """
    from tfdetect.core.experiment import load_model, override

    experiment = override(load_model(model), override_texts(overrides))
    path = new_run_path(Path(output), name or f"{model}_published")
    check_writable(Path(output))
    _import_tensorflow()
    from tfdetect.models.convert_run import convert_run

    return convert_run(Path(weights), experiment, path, None if names is None else Path(names))


# ---- Data -----------------------------------------------------------------------------------


def audit(
    dataset: str | Path,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    output: str | Path | None = None,
    progress: bool = True,
) -> Audit:
    """Audit a dataset, without a model: label leakage, duplicates, leaks between splits, balance.

    Args:
        dataset, data_dir, authentic: see `train`.
        output: folder for audit.html, audit.json, traits.parquet and duplicates.csv; by default
            nothing is written.
        progress: whether to show progress.

    Returns:
        The audit: `verdict` is "sound", "caution" or "unreliable"; `findings` says why.

    Raises:
        UserError: no usable image is there.
    """
    from tfdetect.data.plan import locate_dataset

    spec, roots = locate_dataset(str(dataset), _path(data_dir), authentic)
    if output is not None:
        check_writable(Path(output).absolute().parent)

    from tfdetect.auditing.audit_dataset import audit_dataset

    found = audit_dataset(spec, roots, progress=progress)
    if output is not None:
        from tfdetect.auditing.audit_report import write_report

        write_report(found, Path(output))
    return found


def fix(
    audit: Audit,
    folder: str | Path,
    fixes: Sequence[str] | None = None,
    *,
    progress: bool = True,
) -> FixedDataset:
    """Write a fixed copy of an audited dataset; the original stays unchanged.

    Args:
        audit: what `audit` returned.
        folder: a new folder for the copy, which is a dataset of its own.
        fixes: of "duplicates", "formats", "balance" and "splits"; by default those that the
            findings call for.
        progress: whether to show progress.

    Returns:
        The copy: its `folder` and what was done, `steps`.

    Raises:
        UserError: an unknown fix, a folder that is not empty, or nothing to fix.
    """
    from tfdetect.auditing.fixes import fix_dataset, select_fixes

    chosen = select_fixes(audit, None if fixes is None else ",".join(fixes))
    return fix_dataset(audit, Path(folder), chosen, progress)


def prepare(
    dataset: str | Path,
    output: str | Path,
    *,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    size: int | tuple[int, int] | None = None,
    resize: str = "crop",
    encode: str = "keep",
    quality: int = 95,
    shard_mebibytes: float = 32,
    workers: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Write a dataset as TFRecord shards, from which training reads faster than from files.

    The same call continues an interrupted one.

    Args:
        dataset, data_dir, authentic: see `train`.
        output: folder for datasets; NAME/1.0.0 is made in it, which `train` and TensorFlow
            Datasets read.
        size: store copies of this size in pixels, one number or (height, width).
        resize: how to bring images to `size`: as data.resize of an experiment.
        encode: "keep" the files' bytes, or store copies as "png" or "jpeg".
        quality: of JPEG, 1 to 100.
        shard_mebibytes: size of a shard.
        workers: shards written at a time; by default one per core.
        progress: whether to show progress.

    Returns:
        Number of images and shards, and the folder.

    Raises:
        UserError: the dataset cannot be read, or there is another one in the folder.
    """
    plan = _plan(dataset, None, None, (), data_dir, authentic)
    check_writable(Path(output))
    _import_tensorflow()
    from tfdetect.data.prepare_dataset import prepare_shards
    from tfdetect.data.shards import Copies

    sides = (size, size) if isinstance(size, int) else size
    return prepare_shards(
        plan, Path(output), Copies(sides, resize, encode, quality),
        round(shard_mebibytes * 2**20), workers or os.cpu_count() or 1, progress,
    )  # fmt: skip


def synthesize(
    source: str | Path,
    output: str | Path,
    settings: SynthesisSettings | None = None,
    *,
    workers: int | None = None,
    autoencoder_steps: int = 1500,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Make forgeries with masks out of photographs: a dataset to train and test localizers on.

    The same call continues an interrupted one.

    Args:
        source: folder of photographs.
        output: folder of the new dataset.
        settings: masks, fills and more; a `tfdetect.synthesis.forge.Settings`.
        workers: processes; by default one per core.
        autoencoder_steps: training steps of the autoencoder, if a fill needs one.
        progress: whether to show progress.

    Returns:
        One row per forgery, with its `error` if it could not be made.

    Raises:
        UserError: no photographs, or none that can be altered.
    """
    from tfdetect.synthesis.forge import WITH_MODEL, Settings

    settings = settings or Settings()
    if not Path(source).is_dir():
        raise UserError(f"There is no folder {source}.")
    check_writable(Path(output))
    if set(WITH_MODEL) & {*settings.fills, *settings.masks}:
        _import_tensorflow()
    from tfdetect.synthesis.contact_sheet import synthesize_with_sheet

    return synthesize_with_sheet(
        Path(source), Path(output), settings, workers or os.cpu_count() or 1, autoencoder_steps,
        progress,
    )  # fmt: skip


# ---- Several runs ---------------------------------------------------------------------------


def ensemble(
    runs: Sequence[RunLike],
    fusion: str = "stacked",
    *,
    dataset: str | Path | None = None,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    masks: bool = True,
    fine_tune_epochs: int = 0,
    learning_rate: float = 1e-5,
    output: str | Path = "saved_models",
    name: str | None = None,
    batch_size: int = 64,
    log: Log = console.log,
) -> Run:
    """Fuse runs into one detector, and measure what that gains; return it as a new run.

    Args:
        runs: two runs or more, or their folders.
        fusion: how; see `tfdetect ensemble --help`.
        dataset, data_dir, authentic: what to fit the fusion on, as for `train`; by default all
            that the members were trained on.
        masks: whether to fuse predicted masks too.
        fine_tune_epochs: epochs to train the fused detector as a whole afterwards.
        learning_rate: of that training.
        output: folder for runs.
        name: name of the new run; by default "ensemble".
        batch_size: images per step.
        log: called with each message.

    Returns:
        The run; fusion.html in it compares the fusions and the members.

    Raises:
        UserError: the runs do not fit together.
    """
    from tfdetect.fusion.members import open_members

    if fine_tune_epochs < 0 or learning_rate <= 0 or batch_size < 1:
        raise UserError("--fine-tune must be at least 0, --learning-rate and --batch-size above 0.")
    members = open_members([_open(run).path for run in runs], masks=masks)
    if fine_tune_epochs and members.masked and masks:
        raise UserError(
            "--fine-tune trains labels alone, which would harm the masks. Add --no-masks."
        )
    path = new_run_path(Path(output), name or "ensemble")
    check_writable(path.parent)

    from tfdetect.fusion.fuse import find_data, fuse

    spec, catalog = find_data(members, _text(dataset), _path(data_dir), authentic)
    log(f"{fusion} fusion of {', '.join(members.names)} on {spec.name}")
    for warning in catalog.warnings:
        console.warn(warning)
    _import_tensorflow()
    run, _ = fuse(
        members, fusion, spec, catalog, path, masks, batch_size, fine_tune_epochs, learning_rate,
        log=log,
    )  # fmt: skip
    return run


@dataclass(frozen=True)
class SearchResults:
    """What a search found.

    Attributes:
        folder: the search's folder; best.yaml in it is the best experiment.
        objective: the metric of validation that was optimized.
        best: the best trial: `number`, `objective`, `low`, `high`, `overrides`.
        trials: every trial, in the same form, with its `state`, `epochs`, `seconds` and `reason`.
        summary: the best trials as text.
        run: the run that was trained from the best experiment, if it was asked for.
    """

    folder: Path
    objective: str
    best: dict[str, Any]
    trials: list[dict[str, Any]]
    summary: str
    run: Run | None = None

    @property
    def experiment(self) -> Path:
        """The best experiment, for `train(experiment=...)`."""
        return self.folder / "best.yaml"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"


def prepare_search(
    space: str | Path,
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    trial_overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    objective: str | None = None,
    algorithm: str = "tpe",
    startup_trials: int = 10,
    seed: int = 0,
    folds: int = 1,
    prune: str = "median",
    first_epochs: int = 1,
    baseline: bool = True,
) -> tuple[Settings, Space, Experiment, DatasetSpec]:
    """Resolve and check what `search` would do, with the same arguments; start nothing."""
    from tfdetect.tuning.lifecycle import make_search

    return make_search(
        str(space), _text(dataset), _text(experiment), override_texts(overrides), _path(data_dir),
        authentic, model,
        objective=objective, algorithm=algorithm, startup=startup_trials, seed=seed, folds=folds,
        prune=prune, first_epochs=first_epochs, baseline=baseline,
        for_trials=tuple(override_texts(trial_overrides)),
    )  # fmt: skip


def search(
    space: str | Path,
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    max_trials: int | None = None,
    max_hours: float | None = None,
    max_epochs: int | None = None,
    parallel: int = 1,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    spark: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    retrain: bool = False,
    progress: bool = True,
    log: Log = console.log,
    **settings: Any,
) -> SearchResults:
    """Search for a better experiment; each trial is a training in a process of its own.

    The same call continues an interrupted search; several processes may work on one.

    Args:
        space: name of a shipped search space or path of a YAML file: what varies, and how.
        dataset, experiment: see `train`; by default those of the space.
        max_trials, max_hours, max_epochs: limits of the whole search; by default 50 trials.
        parallel: trials at once.
        gpus, gpu_memory_limit: see `train`; the limit is for each trial.
        spark: a Spark master, such as "spark://host:7077", to run the trials on.
        output: folder for the search's folder.
        name: name of that folder; by default "search-SPACE-DATASET".
        retrain: train the best experiment afterwards, as a run of its own.
        progress: whether to show progress.
        log: called with each message.
        settings: `model`, `overrides`, `data_dir`, `authentic` as in `train`;
            `trial_overrides`, for the trials alone; `objective`, a metric of validation;
            `algorithm` ("tpe", "random", "atpe"); `startup_trials` drawn at random; `seed`;
            `folds` of cross-validation; `prune` ("median", "halving", "none"); `first_epochs`
            that every trial may train; `baseline`, whether to begin with the unchanged experiment.

    Raises:
        UserError: an unknown name, a space that does not fit, or no trial that ended well.
    """
    from tfdetect.training.devices import parse_gpus, parse_memory_limit
    from tfdetect.tuning.lifecycle import finish
    from tfdetect.tuning.lifecycle import retrain as train_best
    from tfdetect.tuning.scheduler import Budget, best_trial, run_search, share_out
    from tfdetect.tuning.settings import create_search

    numbers = parse_gpus(_gpus(gpus))
    parse_memory_limit(gpu_memory_limit)  # refused before the first trial, not in each
    limits = max_trials, max_hours, max_epochs
    budget = Budget(*limits) if any(limits) else Budget(50)
    parts = prepare_search(space, dataset, experiment, **settings)
    found, space_found, _, spec = parts
    check_writable(Path(output))
    folder = Path(output) / (name or f"search-{space_found.name}-{spec.name}")
    searching = create_search(folder, *parts)
    log(f"Search in {folder}")
    if spark:
        from tfdetect.tuning.spark import run_on_spark

        run_on_spark(searching, budget, spark, parallel)
    else:
        slots = share_out(parallel, numbers, gpu_memory_limit)
        run_search(searching, budget, slots, progress=progress)
    summary = finish(searching)
    trials = searching.store.trials()
    best = best_trial(searching, trials)
    assert best is not None  # `finish` refuses a search without one
    run = None
    if retrain:
        path = train_best(
            searching, Path(output), _path(settings.get("data_dir")), _gpus(gpus),
            gpu_memory_limit,
        )  # fmt: skip
        run = open_run(path)
    return SearchResults(
        folder, found.objective, asdict(best), [asdict(t) for t in trials], summary, run
    )


def matrix(
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    by: str = "generator",
    leave_one_out: bool = False,
    published: str | Path | None = None,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    progress: bool = True,
    log: Log = console.log,
) -> MatrixResults:
    """Train one detector on each generator of a dataset and test each on all generators.

    The same call continues an interrupted one; finished runs are reused.

    Args:
        dataset, experiment, model, overrides, data_dir, authentic: see `train`.
        by: what the parts are: "generator", "dataset" (the parts of a union), or a regular
            expression on paths whose group names the part.
        leave_one_out: train on all parts but one, instead.
        published: a published table to show for comparison: "genimage_resnet50" or a CSV file.
        gpus, gpu_memory_limit: see `train`.
        output: folder for the matrix's folder.
        name: name of that folder; by default "matrix-EXPERIMENT-DATASET".
        progress: whether to show progress.
        log: called with each message.

    Returns:
        Metrics with intervals of each training on each part.

    Raises:
        UserError: the data have fewer than two parts, or the folder holds other runs.
    """
    from tfdetect.training.devices import parse_gpus, parse_memory_limit

    numbers, limits = parse_gpus(_gpus(gpus)), parse_memory_limit(gpu_memory_limit)
    plan = _plan(dataset, experiment, model, overrides, data_dir, authentic)
    if published:
        from tfdetect.generalization.matrix_report import read_published

        read_published(str(published))  # refused before any training
    kind = "matrix-leave-one-out" if leave_one_out else "matrix"
    folder = Path(output) / (name or f"{kind}-{plan.experiment.name}-{plan.spec.name}")
    check_writable(folder)
    _import_tensorflow()
    from tfdetect.data.plan import find_data
    from tfdetect.generalization import matrix_report, train_matrix
    from tfdetect.generalization.domains import find_domains
    from tfdetect.training.devices import configure_devices

    devices = configure_devices(numbers, limits)
    catalog = find_data(plan, progress=progress)
    domains = find_domains(catalog, by)
    log(f"{len(domains.names)} trainings: {', '.join(domains.names)}; folder: {folder}")
    if domains.left_out:
        console.warn(f"too few fakes, left out: {', '.join(domains.left_out)}")
    runs = train_matrix.train_all(
        plan, catalog, domains, leave_one_out, folder, devices, int(progress), log=log
    )
    values = {
        "experiment": plan.experiment.name, "dataset": plan.spec.name, "by": by,
        "domains": list(domains.names), "cells": train_matrix.measure(runs, domains, catalog),
    }  # fmt: skip
    matrix_report.write(values, folder, None if published is None else str(published))
    return MatrixResults(runs, values, folder)


@dataclass(frozen=True)
class MatrixResults:
    """What the trainings of a matrix give on each part.

    Attributes:
        runs: the run of each training, by its name.
        values: the content of matrix.json.
        folder: with the runs, matrix.html, matrix.json, CSV and LaTeX tables.
    """

    runs: dict[str, Run]
    values: dict[str, Any]
    folder: Path

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "matrix.html"


# ---- Names and models -----------------------------------------------------------------------


def list_backbones() -> list[str]:
    """Return the names of the backbones that `create_detector` and experiments know."""
    from tfdetect.core.registry import BACKBONES

    return sorted(BACKBONES)


def list_experiments() -> list[str]:
    """Return the names of the shipped experiments."""
    from tfdetect.core.documents import shipped_names

    return sorted(shipped_names("experiments"))


def list_datasets() -> list[str]:
    """Return the names of the shipped dataset specs."""
    from tfdetect.core.documents import shipped_names

    return sorted(shipped_names("data_specs"))


def list_detectors() -> list[str]:
    """Return the names of the published detectors, for `train(model=...)`."""
    from tfdetect.core.experiment import published

    return sorted(published())


def create_detector(
    name: str,
    image_size: int | tuple[int, int] | None = None,
    classes: int = 2,
    *,
    weights: str | None = None,
    overrides: Overrides = (),
) -> keras.Model:
    """Return an untrained detector as a plain Keras model.

    Args:
        name: a backbone, of `list_backbones()`, or a published detector, of `list_detectors()`.
        image_size: side in pixels, or height and width; by default 224, or what the published
            detector takes.
        classes: number of classes; two have one logit, the logit of fake.
        weights: "none", "imagenet", a preset's name, or the path of a run or .keras file.
        overrides: further values of the experiment, for example {"model.head": "hidden"}.

    Returns:
        A model from images float32 [B, H, W, 3] in 0..255 to a dict: "label", logits float32
        [B, 1 or classes], and with a mask head "mask", logits float32 [B, H, W, 1].

    Raises:
        UserError: an unknown name, or an illegal size or value.
    """
    from tfdetect.core.errors import unknown
    from tfdetect.core.experiment import Experiment, load_model, override

    if name in list_backbones():
        base = Experiment(name=name)
        changes: dict[str, Any] = {"model.backbone": name, "data.image_size": image_size or 224}
    elif name in list_detectors():
        base = load_model(name)
        changes = {} if image_size is None else {"data.image_size": image_size}
    else:
        raise unknown("backbone or detector", name, [*list_backbones(), *list_detectors()])
    if weights is not None:
        changes["model.weights"] = weights
    if classes < 2:
        raise UserError(f"A detector has at least 2 classes. Received: {classes}.")
    experiment = override(base, [*override_texts(changes), *override_texts(overrides)])
    _import_tensorflow()
    from tfdetect.models.detector import build_detector

    return build_detector(experiment, classes)


# ---- Shared ---------------------------------------------------------------------------------


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as `key=value` texts, as `--set` takes them."""
    import yaml

    if not isinstance(overrides, Mapping):
        return [overrides] if isinstance(overrides, str) else list(overrides)

    def text(value: Any) -> str:
        plain = list(value) if isinstance(value, tuple) else value
        plain = str(plain) if isinstance(plain, Path) else plain
        dumped = yaml.safe_dump(plain, default_flow_style=True, width=10**9)
        return dumped.strip().removesuffix("...").strip()

    return [f"{key}={text(value)}" for key, value in overrides.items()]


def _plan(
    dataset: str | Path | None,
    experiment: str | Path | None,
    model: str | None,
    overrides: Overrides,
    data_dir: str | Path | None,
    authentic: str | None,
) -> Plan:
    from tfdetect.data.plan import make_plan

    return make_plan(
        _text(dataset), _text(experiment), override_texts(overrides), _path(data_dir), authentic,
        model,
    )  # fmt: skip


def _evaluation_data(
    run: Run,
    dataset: str | Path | None,
    data_dir: str | Path | None,
    authentic: str | None,
    output: str | Path | None,
    label: str | None = None,
):
    from tfdetect.data.plan import evaluation_data

    return evaluation_data(
        run, _text(dataset), _path(data_dir), authentic, _path(output), label=label
    )


@contextmanager
def _writing(run: Run, target: Path) -> Iterator[tuple[Run, Path]]:
    """Yield the run and the folder to write results into, which change in one swap at the end.

    Args:
        run: the run, with the settings that results are computed for.
        target: the run's own folder, one below its evaluations/, or one that the user named,
            which may hold other things and is written into as it is.
    """
    if target == run.path:
        with updating(run) as copy:
            yield copy, copy.path
    elif target.parent == run.path / "evaluations":
        with staged(target, copy=True) as folder:
            yield run, folder
    else:
        yield run, target


def _open(run: RunLike) -> Run:
    return run if isinstance(run, Run) else open_run(run)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _text(value: str | Path | None) -> str | None:
    return None if value is None else str(value)


def _gpus(gpus: str | Sequence[int] | None) -> str | None:
    if gpus is None or isinstance(gpus, str):
        return gpus
    return ",".join(map(str, gpus)) or "none"


def _import_tensorflow() -> None:
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
