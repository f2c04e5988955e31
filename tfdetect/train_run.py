"""One training, from a plan to a finished run, in the order in which things happen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import console
from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import csv_text, write_json
from tfdetect.core.open_run import read_run
from tfdetect.core.provenance import command_line, provenance
from tfdetect.core.run import TRANSFER, Run
from tfdetect.core.run_info import Ancestor, DatasetInfo, RunInfo, View
from tfdetect.core.run_writer import RunWriter, write_info
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted, shell_command
from tfdetect.data.catalog import Catalog, changed_counts
from tfdetect.data.check_catalog import check_unusable
from tfdetect.data.plan import Plan, dataset_info
from tfdetect.data.scan_result import IS_MASK
from tfdetect.data.teacher import teacher_info
from tfdetect.data.warm_start import ancestor
from tfdetect.training.monitor import monitor_of

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from tfdetect.data.strata import Replay
    from tfdetect.evaluation.transfer import Start
    from tfdetect.training.devices import Devices
    from tfdetect.training.fit import FitResult
    from tfdetect.training.trackers import Trackers


@dataclass(frozen=True)
class TrainingJob:
    """A training whose experiment, data and devices are resolved and checked, not yet begun.

    Attributes:
        plan: what is trained.
        catalog: on what.
        devices: by what; from `configure_devices`.
        path: the run's final folder.
        progress: whether to log each epoch and, in a terminal, to show a progress bar.
        log: called with each line of progress.
        start: the run that the training starts from.
    """

    plan: Plan
    catalog: Catalog
    devices: "Devices"
    path: Path
    progress: bool = True
    log: console.Log = console.log
    start: "Start | None" = None

    @property
    def parent(self) -> Run | None:
        """The run that the training starts from."""
        return self.start.run if self.start else None


def train_run(
    job: TrainingJob,
    *,
    images_in_report: bool = True,
    pruner: Callable[[int, float], bool] | None = None,
    trial: bool = False,
    command: str | None = None,
    finish_interrupted: bool = True,
) -> Run:
    """Train, evaluate, calibrate and export a detector; resume where the path has a state.

    Args:
        job: what is trained, on what, and where to.
        images_in_report: whether the report may show images of the dataset.
        pruner: called after each epoch with its number and the value of the monitored metric;
            where it returns true, the training ends.
        trial: whether it is a trial of a search: evaluated on validation alone, without report and
            SavedModel.
        command: the command that repeats the training; by default the one that started this
            process.
        finish_interrupted: whether a training that Ctrl-C ends is evaluated, as a run that can be
            used; else it is only kept to be continued.

    Returns:
        The finished run, of status "complete" or, after Ctrl-C, "interrupted".

    Raises:
        KeyboardInterrupt: Ctrl-C ended the training, and it is not to be evaluated.
    """
    from tfdetect.evaluation.evaluate_run import evaluate_run, write_results
    from tfdetect.training.fit import set_seed_and_precision
    from tfdetect.training.trackers import Trackers, check_trackers

    experiment, log = job.plan.experiment, job.log
    check_trackers(experiment.training.track)
    writer = RunWriter(job.path)
    writer.acquire()
    trackers: Trackers | None = None
    begun = False
    try:
        # 1. What the run starts from.
        begin_run(writer, job, command or command_line("train"))
        _check_workers(job)
        begun = True
        skipped = _SkippedFiles(writer, job.catalog)
        if not trial:
            _warn_of_known_images(writer, job)
        answers = _answers(job, writer.path)
        writer.update(precision=set_seed_and_precision(experiment, job.devices, log))

        # 2. Data and training.
        trackers = Trackers(experiment, writer.final.name, writer.path / "trackers.json")
        callbacks = _callbacks(experiment, trackers, pruner)
        fitted = _fit(job, writer.path, skipped, answers, callbacks, finish_interrupted)
        run = _write_fitted(writer, fitted)

        # 3. Evaluation, calibration, report, export.
        if trial:
            found = evaluate_run(run, job.catalog, ("validation",), images_in_report=False, log=log)
            write_results(found, run.path)
        elif job.plan.spec.pretraining:
            log(f"weights for other trainings: --set model.weights={writer.final}")
        else:
            run = _evaluate_and_export(run, job, images_in_report)
        if fitted.interrupted:
            trackers.fail()
        else:
            trackers.finish(run)
            fitted.state.remove()
        return writer.finish()
    except BaseException:
        if trackers is not None:
            trackers.fail()
        if writer.abandon() and finish_interrupted and begun:
            log(f"What was trained is kept: {shell_command('train', resume=writer.final)}")
        raise


def assist_run(job: TrainingJob) -> None:
    """Train as a worker that is not the chief: the chief writes the run, this one writes nothing.

    Raises:
        UserError: another worker is lost, or starts from something else.
    """
    import tempfile

    from tfdetect.training.fit import set_seed_and_precision

    assert job.devices.workers is not None
    _check_workers(job)
    with tempfile.TemporaryDirectory() as folder:
        answers = _answers(job, Path(folder))
        set_seed_and_precision(job.plan.experiment, job.devices, job.log)
        _fit(job, Path(folder), _SkippedFiles(None, job.catalog), answers)
    job.devices.workers.leave()


def begin_run(writer: RunWriter, job: TrainingJob, command: str) -> None:
    """Write what the run starts from, or check that a resumed one starts from the same."""
    experiment, spec, parent = job.plan.experiment, job.plan.spec, job.parent
    dataset = dataset_info(spec, job.catalog)
    lineage = (ancestor(parent, experiment), *parent.info.lineage) if parent else ()
    if not (writer.path / "run.json").exists() and (writer.final / "state").is_dir():
        writer.adopt()
    if (writer.path / "run.json").exists():
        _check_same_start(read_run(writer.path).info, dataset, lineage, experiment)
        return
    writer.write_text("experiment.yaml", experiment.to_yaml())
    writer.write_text("dataset.yaml", spec.to_yaml())
    writer.begin(
        RunInfo(
            status="training",
            class_names=spec.class_names,
            views=(View.of(experiment.data),),
            predicts_masks=experiment.model.mask_head is not None,
            pretraining=spec.pretraining,
            dataset=dataset,
            lineage=lineage,
            teacher=teacher_info(experiment),
            seed=experiment.seed,
            devices=job.devices.text,
            command=command,
            **provenance(),
        )
    )


def _warn_of_known_images(writer: RunWriter, job: TrainingJob) -> None:
    """Warn of validation and test images that parent and teacher know, and record it in the run."""
    from tfdetect.data.known_images import known_to
    from tfdetect.data.teacher import open_teacher

    sources = [run for run in (job.parent, open_teacher(job.plan.experiment)) if run is not None]
    if not sources or (writer.path / "state").is_dir():  # a resumed run has it already
        return
    warnings = known_to(sources, job.catalog)
    for warning in warnings:
        console.warn(warning)
    if warnings:
        writer.update(dataset=dataset_info(job.plan.spec, job.catalog, warnings=warnings))


def _check_same_start(
    begun: RunInfo, dataset: DatasetInfo, lineage: tuple[Ancestor, ...], experiment: Experiment
) -> None:
    """Check that a run that is resumed has the parent and the data with which it began.

    Raises:
        UserError: it has not.
    """
    if begun.lineage != lineage:
        raise UserError(
            f"The run {experiment.training.from_run}, from which this training started, "
            "is another one now. Start a new training."
        )
    if begun.teacher != teacher_info(experiment):
        raise UserError(
            f"The run {experiment.training.distill.teacher}, whose answers this training learns, "
            "is another one now. Start a new training."
        )
    if begun.dataset.fingerprint != dataset.fingerprint:
        raise UserError(
            f"The data of {dataset.name} changed since the run began: "
            f"{changed_counts(begun.dataset.counts, dataset.counts)}. A training goes on with the "
            "same images only. Put them back as they were, or start a new run."
        )


def _check_workers(job: TrainingJob) -> None:
    """Check that all workers of a cluster start from the same."""
    workers = job.devices.workers
    if workers is None:
        return
    import keras
    import tensorflow as tf

    workers.check_same(
        {
            "experiment": sha256(job.plan.experiment.to_yaml().encode()).hexdigest()[:12],
            "dataset": dataset_info(job.plan.spec, job.catalog).fingerprint,
            "TensorFlow": tf.__version__,
            "Keras": keras.__version__,
        }
    )


def _callbacks(
    experiment: Experiment, trackers: "Trackers", pruner: Callable[[int, float], bool] | None
) -> "list[keras.callbacks.Callback]":
    from tfdetect.training.callbacks import Pruner

    if pruner is None:
        return [trackers]
    return [Pruner(monitor_of(experiment.training), pruner), trackers]


def _fit(
    job: TrainingJob,
    folder: Path,
    skipped: "_SkippedFiles",
    answers: "dict[str, np.ndarray]",
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    finish_interrupted: bool = True,
) -> "FitResult":
    """Prepare the data and train; `folder` is where the training's state and logs are.

    The answers are those of `_answers`.
    """
    from tfdetect.data.training_data import no_masks_notice, training_data
    from tfdetect.data.validation_stream import unaugmented_images, validation_data
    from tfdetect.training.callbacks import ReportBrokenFiles
    from tfdetect.training.epoch_log import EpochLog
    from tfdetect.training.fit import fit
    from tfdetect.training.fit_job import FitData

    catalog, experiment = job.catalog, job.plan.experiment
    data, training, classes = experiment.data, experiment.training, len(job.plan.spec.class_names)
    with_masks = experiment.model.mask_head is not None
    train = training_data(
        catalog, catalog.split("train"), data, classes, training.batch_size, experiment.seed,
        with_masks=with_masks, curriculum=training.curriculum, replay=_replay(job),
        answers=answers.get("train"),
    )  # fmt: skip
    skipped.add(train.unreadable)
    skipped.check(job.plan.spec)
    if sentence := no_masks_notice(catalog, with_masks):
        job.log(sentence)
    workers = job.devices.workers
    validation = validation_data(
        catalog, catalog.split("validation"), data, classes, training.batch_size,
        with_masks=with_masks, cluster=workers.cluster if workers else None,
        answers=answers.get("validation"),
    )  # fmt: skip
    log_epochs = (
        [EpochLog(training, job.log, classes, cuts_windows(data.resize))] if job.progress else []
    )

    def unaugmented() -> "tf.data.Dataset":
        return unaugmented_images(catalog, catalog.split("train"), data, training.batch_size)

    return fit(
        experiment, classes, FitData(train, validation, unaugmented), job.devices, folder,
        callbacks=[ReportBrokenFiles(train, skipped.add), *callbacks, *log_epochs], log=job.log,
        parent=job.parent, finish_interrupted=finish_interrupted,
    )  # fmt: skip


def _answers(job: TrainingJob, folder: Path) -> "dict[str, np.ndarray]":
    """Return the teacher's answers by split, if it is asked before the training; else none."""
    from tfdetect.data.teacher import open_teacher
    from tfdetect.evaluation.teacher_answers import teacher_answers

    experiment = job.plan.experiment
    distill = experiment.training.distill
    teacher = open_teacher(experiment) or job.parent
    if not distill.weight or distill.asked != "once" or teacher is None:
        return {}
    return teacher_answers(
        teacher, job.catalog, folder / "state" / "answers.npz", experiment.training.batch_size,
        job.log,
    )  # fmt: skip


def check_job(job: TrainingJob) -> None:
    """Check what `train_run` would refuse later, before an image is read.

    Raises:
        UserError: a setting does not fit the data or the devices.
    """
    from tfdetect.training.check_training import check_training

    classes = len(job.plan.spec.class_names)
    check_training(job.plan.experiment, classes, job.catalog, job.devices, _replay(job))


def _replay(job: TrainingJob) -> "Replay | None":
    """Return what is drawn from the training data of the run that the training starts from."""
    from tfdetect.data.strata import Replay

    fraction = job.plan.experiment.training.replay
    if job.parent is None or not fraction:
        return None
    return Replay(frozenset(ancestor(job.parent, job.plan.experiment).datasets), fraction)


def _write_fitted(writer: RunWriter, fitted: "FitResult") -> Run:
    """Write what the training left: the detector, its history, and how it ended."""
    from tfdetect.models.saving import save_detector

    detector, state = fitted.detector, fitted.state
    save_detector(detector, writer.path / "model.keras")
    if state.history:
        writer.write_text("history.csv", csv_text(state.history))
    return writer.update(
        status="interrupted" if fitted.interrupted else "complete",
        stopped_early=fitted.stopped_early,
        epochs=state.epoch,
        best=state.best,
        training_seconds=round(state.seconds),
        parameters=detector.count_params(),
    )


def _evaluate_and_export(run: Run, job: TrainingJob, images_in_report: bool) -> Run:
    """Evaluate and calibrate a run, compare it with its parent, write report and exports."""
    from tfdetect.data.training_hashes import TrainingHashes
    from tfdetect.evaluation.calibration_settings import CalibrationSettings
    from tfdetect.evaluation.evaluate_run import evaluate_run
    from tfdetect.evaluation.run_report import write_evaluation
    from tfdetect.evaluation.transfer import measure_transfer
    from tfdetect.models.exports import export_finished_run
    from tfdetect.models.saving import load_detector

    experiment, start = job.plan.experiment, job.start
    detector = load_detector(run)  # as it was saved
    if job.parent and (known := TrainingHashes.load(job.parent.path)) is not None:
        known.save(run.path)  # the evaluation adds this training's
    found = evaluate_run(
        run,
        job.catalog,
        images_in_report=images_in_report,
        log=job.log,
        calibrate=CalibrationSettings(keep_hashes=experiment.data.keep_hashes),
        detector=detector,
    )
    if start:
        transfer = measure_transfer(found.run, start, job.catalog, found.tables, log=job.log)
        write_json(run.path / TRANSFER, transfer)
    write_evaluation(found, run.path)
    write_info(found.run)
    export_finished_run(found.run, experiment.training.export, detector)
    return found.run


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
            console.warn(
                f"skipped, since unreadable by now: {counted(len(broken), 'file')}: {names}"
            )

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
