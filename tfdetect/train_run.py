"""One training, from a plan to a finished run, in the order in which things happen."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import csv_text
from tfdetect.core.provenance import command_line, provenance
from tfdetect.core.run import TRANSFER, Run, read_run
from tfdetect.core.run_info import RunInfo, View
from tfdetect.core.run_writer import RunWriter, write_info
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import shell_command
from tfdetect.data.catalog import Catalog, check_unusable
from tfdetect.data.plan import Plan, dataset_info
from tfdetect.data.scan_result import IS_MASK
from tfdetect.data.warm_start import ancestor

if TYPE_CHECKING:
    import keras
    import pyarrow as pa
    import tensorflow as tf

    from tfdetect.evaluation.transfer import Start
    from tfdetect.training.devices import Devices
    from tfdetect.training.fit import FitResult

_SHOWN_CLASSES = 10  # of a plan


def train_run(
    plan: Plan,
    catalog: Catalog,
    path: Path,
    devices: "Devices",
    *,
    images_in_report: bool = True,
    progress: bool = True,
    log: Callable[[str], None] = console.log,
    pruner: Callable[[int, float], bool] | None = None,
    trial: bool = False,
    command: str | None = None,
    start: "Start | None" = None,
) -> Run:
    """Train, evaluate, calibrate and export a detector; resume where `path` has a state.

    Args:
        path: the run's final folder.
        devices: from `configure_devices`.
        images_in_report: whether the report may show images of the dataset.
        progress: whether to log each epoch and, in a terminal, to show a progress bar.
        log: called with each line of progress.
        pruner: called after each epoch with its number and the value of the monitored metric;
            where it returns true, the training ends.
        trial: of a search: evaluated on validation alone, without report and SavedModel.
        command: that repeats the training; by default the one that started this process.
        start: the run that the training starts from.

    Returns:
        The finished run, of status "complete" or, after Ctrl-C, "interrupted".
    """
    from tfdetect.evaluation.calibrate_run import CalibrationSettings
    from tfdetect.evaluation.evaluate_run import evaluate_run
    from tfdetect.evaluation.transfer import measure_transfer
    from tfdetect.models.exports import export_finished_run
    from tfdetect.models.saving import save_detector
    from tfdetect.training.callbacks import Pruner
    from tfdetect.training.fit import set_seed_and_precision
    from tfdetect.training.monitor import monitor_of
    from tfdetect.training.trackers import Trackers, check_trackers

    experiment = plan.experiment
    check_trackers(experiment.training.track)
    writer = RunWriter(path)
    writer.acquire()
    trackers: Trackers | None = None
    try:
        # 1. What the run starts from.
        parent = start.run if start else None
        _begin(writer, plan, catalog, devices, command or command_line("train"), parent)
        _check_workers(plan, catalog, devices)
        skipped = _SkippedFiles(writer, catalog)
        writer.update(precision=set_seed_and_precision(experiment, devices, log))

        # 2. Data and training.
        trackers = Trackers(experiment, writer.final.name, writer.path / "trackers.json")
        callbacks: list[keras.callbacks.Callback] = [trackers]
        if pruner is not None:
            callbacks.insert(0, Pruner(monitor_of(experiment.training), pruner))
        fitted = _fit(
            plan, catalog, devices, writer.path, skipped, callbacks, parent,
            progress=progress, log=log,
        )  # fmt: skip
        detector, state = fitted.detector, fitted.state
        save_detector(detector, writer.path / "model.keras")
        writer.write_text("history.csv", csv_text(state.history))
        run = writer.update(
            status="interrupted" if fitted.interrupted else "complete",
            stopped_early=fitted.stopped_early,
            epochs=state.epoch,
            best=state.best,
            training_seconds=round(state.seconds),
            parameters=detector.count_params(),
        )

        # 3. Evaluation, calibration, report, export.
        if trial:
            evaluate_run(run, catalog, ("validation",), log=log, report=False)
        elif plan.spec.pretraining:
            log(f"weights for other trainings: --set model.weights={writer.final}")
        else:

            def before_report(run: Run, tables: "dict[str, pa.Table]") -> None:
                if start:
                    found = measure_transfer(run, start, catalog, tables, log=log)
                    writer.write_text(TRANSFER, json.dumps(found, indent=2) + "\n")

            run = evaluate_run(
                run,
                catalog,
                images_in_report=images_in_report,
                log=log,
                calibrate=CalibrationSettings(keep_hashes=experiment.data.keep_hashes),
                before_report=before_report,
            ).run
            write_info(run)
            export_finished_run(run, experiment.training.export)
        if fitted.interrupted:
            trackers.fail()
        else:
            trackers.finish(run)
            state.remove()
        return writer.finish()
    except BaseException:
        if trackers is not None:
            trackers.fail()
        if writer.abandon():
            log(f"What was trained is kept: {shell_command('train', resume=writer.final)}")
        raise


def assist_run(
    plan: Plan,
    catalog: Catalog,
    devices: "Devices",
    *,
    progress: bool = True,
    log: Callable[[str], None] = console.log,
    start: "Start | None" = None,
) -> None:
    """Train as a worker that is not the chief: the chief writes the run, this one writes nothing.

    Args:
        devices: from `configure_devices` with a cluster.
        progress: whether to log each epoch.
        log: called with each line of progress.
        start: the run that the training starts from.

    Raises:
        UserError: another worker is lost, or starts from something else.
    """
    import tempfile

    from tfdetect.training.fit import set_seed_and_precision

    assert devices.workers is not None
    set_seed_and_precision(plan.experiment, devices, log)
    _check_workers(plan, catalog, devices)
    with tempfile.TemporaryDirectory() as folder:
        skipped = _SkippedFiles(None, catalog)
        parent = start.run if start else None
        _fit(
            plan, catalog, devices, Path(folder), skipped, (), parent, progress=progress, log=log
        )  # fmt: skip
    devices.workers.leave()


def _check_workers(plan: Plan, catalog: Catalog, devices: "Devices") -> None:
    """Check that all workers of a cluster start from the same."""
    if devices.workers is None:
        return
    import keras
    import tensorflow as tf

    devices.workers.check_same(
        {
            "experiment": sha256(plan.experiment.to_yaml().encode()).hexdigest()[:12],
            "dataset": dataset_info(plan.spec, catalog).fingerprint,
            "TensorFlow": tf.__version__,
            "Keras": keras.__version__,
        }
    )


def _fit(
    plan: Plan,
    catalog: Catalog,
    devices: "Devices",
    folder: Path,
    skipped: "_SkippedFiles",
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    parent: Run | None = None,
    *,
    progress: bool,
    log: Callable[[str], None],
) -> "FitResult":
    """Prepare the data and train; `folder` is where the training's state and logs are."""
    from tfdetect.data.training_stream import Replay, training_data
    from tfdetect.data.validation_stream import unaugmented_images, validation_data
    from tfdetect.training.callbacks import ReportBrokenFiles
    from tfdetect.training.epoch_log import EpochLog
    from tfdetect.training.fit import fit

    experiment, classes = plan.experiment, len(plan.spec.class_names)
    batch_size = experiment.training.batch_size
    with_masks = experiment.model.mask_head is not None
    cluster = devices.workers.cluster if devices.workers else None
    replay = None
    if parent is not None and experiment.training.replay:
        names = frozenset(ancestor(parent, experiment).datasets)
        replay = Replay(names, experiment.training.replay)
    train = training_data(
        catalog, catalog.split("train"), experiment.data, classes, batch_size, experiment.seed,
        with_masks, experiment.training.curriculum, replay,
    )  # fmt: skip
    skipped.add(train.unreadable)
    skipped.check(plan.spec)
    validation = validation_data(
        catalog, catalog.split("validation"), experiment.data, classes, batch_size, with_masks,
        cluster,
    )  # fmt: skip
    log_epochs = [EpochLog(experiment.training, log)] if progress else []

    def unaugmented() -> "tf.data.Dataset":
        return unaugmented_images(catalog, catalog.split("train"), experiment.data, batch_size)

    return fit(
        experiment, classes, train, validation, unaugmented, devices, folder,
        callbacks=[ReportBrokenFiles(train, skipped.add), *callbacks, *log_epochs], log=log,
        verbose=0, parent=parent,
    )  # fmt: skip


def _begin(
    writer: RunWriter,
    plan: Plan,
    catalog: Catalog,
    devices: "Devices",
    command: str,
    parent: Run | None = None,
) -> None:
    """Write what the run starts from, or check that a resumed one starts from the same."""
    info = dataset_info(plan.spec, catalog)
    lineage = () if parent is None else (ancestor(parent, plan.experiment), *parent.info.lineage)
    if not (writer.path / "run.json").exists() and (writer.final / "state").is_dir():
        writer.adopt()
    if (writer.path / "run.json").exists():
        begun = read_run(writer.path).info
        before = begun.dataset
        if begun.lineage != lineage:
            raise UserError(
                f"The run {plan.experiment.training.from_run}, from which this training started, "
                "is another one now. Start a new training."
            )
        if before.fingerprint != info.fingerprint:
            raise UserError(
                f"The data of {catalog.name} changed since the run began (fingerprint "
                f"{before.fingerprint}, now {info.fingerprint}). Start a new run."
            )
        return
    writer.write_text("experiment.yaml", plan.experiment.to_yaml())
    writer.write_text("dataset.yaml", plan.spec.to_yaml())
    data = plan.experiment.data
    writer.begin(
        RunInfo(
            status="training",
            class_names=plan.spec.class_names,
            views=(
                View(
                    size=data.image_size,
                    policy=data.resize,
                    crops=data.test_crops,
                    equalize=data.equalize,
                ),
            ),
            predicts_masks=plan.experiment.model.mask_head is not None,
            pretraining=plan.spec.pretraining,
            dataset=info,
            lineage=lineage,
            seed=plan.experiment.seed,
            devices=devices.text,
            command=command,
            **provenance(),
        )
    )


class _SkippedFiles:
    """The run's list of images that are not used, and why, in skipped.csv."""

    def __init__(self, writer: RunWriter | None, catalog: Catalog):
        """List those of a catalog; a worker that writes no run has no writer."""
        self._writer, self._catalog = writer, catalog
        self._unusable = {row["path"]: row["error"] for row in catalog.skipped.to_pylist()}
        self._left_out = {
            row["path"]: row["reason"] for row in catalog.left_out.to_pylist()
            if row["reason"] != IS_MASK
        }  # fmt: skip
        self._write()

    def add(self, broken: dict[str, str]) -> None:
        """List files that became unreadable after the scan, with the reasons."""
        if broken:
            self._unusable |= {
                name: f"unreadable after the scan: {e}" for name, e in broken.items()
            }
            self._write()
            names = ", ".join(list(broken)[:3])
            console.warn(f"{len(broken)} files became unreadable and are skipped: {names}")

    def check(self, spec: DatasetSpec) -> None:
        """Check that not too many images cannot be used.

        Raises:
            UserError: Too many.
        """
        where = ", ".join(map(str, self._catalog.roots.values()))
        total = self._catalog.table.num_rows + self._catalog.skipped.num_rows
        check_unusable(spec, where, self._unusable, total)

    def _write(self) -> None:
        if self._writer is None:
            return
        found = (self._unusable | self._left_out).items()
        rows = [{"path": path, "error": error} for path, error in found]
        self._writer.write_text("skipped.csv", csv_text(rows, ["path", "error"]))


def describe_plan(plan: Plan, catalog: Catalog) -> dict[str, str]:
    """Return what will be trained on which data and how, in short, by headings."""
    from tfdetect.data.describe import describe_counts
    from tfdetect.models.detector import build_detector, describe

    experiment, names = plan.experiment, plan.spec.class_names
    data, model = experiment.data, experiment.model
    parts = {"head": model.head, "mask head": model.mask_head, "weights": model.weights,
             "front-end": model.front_end if model.front_end != "pixels" else None}  # fmt: skip
    detector = [describe(build_detector(experiment, len(names)))]
    detector += [f"{kind} {name}" for kind, name in parts.items() if name]
    images = [f"{data.image_size[0]} x {data.image_size[1]} pixels, resize {data.resize}"]
    if data.augment:
        images.append(f"augmentation {', '.join(step.name for step in data.augment)}")
    authentic = "" if plan.spec.pretraining else " (authentic)"
    classes = [f"{names[0]}{authentic}", *names[1:_SHOWN_CLASSES]]
    if len(names) > _SHOWN_CLASSES:
        classes.append(f"... ({len(names):,} in all)")
    return {
        "experiment": f"{experiment.name} ({plan.chosen})",
        "data": f"{plan.spec.name}: {describe_counts(plan.spec, catalog)}",
        "classes": ", ".join(classes),
        "images": "; ".join(images),
        "detector": "; ".join(detector),
        "training": _describe_training(experiment, catalog.split("train").num_rows),
    }


def _describe_training(experiment: Experiment, images: int) -> str:
    """Return epochs, batches and optimizer of a training on so many images."""
    training = experiment.training
    epochs = [stage.epochs for stage in training.stages] or [training.epochs]
    text = f"{' + '.join(map(str, epochs))} epochs"
    if training.stages:
        text = f"{len(epochs)} stages of {text}"
    batch = f"{training.batch_size} images"
    if training.accumulate > 1:
        batch += f" (weights change every {training.accumulate} batches)"
    if training.replay:  # an epoch is one pass over the new images
        steps = f"batches of {batch}, {training.replay:.0%} of them from the run's own data"
    else:
        steps = f"{training.steps_of_epoch(images):,} batches of {batch}"
    optimizer, schedule = training.optimizer, training.schedule.name
    text += f", each {steps}; {optimizer.name}, learning rate {optimizer.learning_rate:g}"
    text += "" if schedule == "constant" else f" ({schedule})"
    if training.early_stopping is not None:
        text += f"; stops after {training.early_stopping} epochs without a better"
        text += f" {training.monitor}"
    return text
