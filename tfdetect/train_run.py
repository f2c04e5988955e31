"""One training, from a plan to a finished run, in the order in which things happen."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import console
from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import csv_text, write_json
from tfdetect.core.provenance import command_line
from tfdetect.core.run import TRANSFER, Run
from tfdetect.core.run_writer import RunWriter, write_info
from tfdetect.core.text import shell_command
from tfdetect.data.plan import dataset_info
from tfdetect.data.skipped_files import SkippedFiles
from tfdetect.training.begin_run import begin_run, check_workers
from tfdetect.training.monitor import monitor_of
from tfdetect.training.training_job import TrainingJob

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from tfdetect.training.fit import FitResult
    from tfdetect.training.trackers import Trackers


def train_run(
    job: TrainingJob,
    *,
    images_in_report: bool = True,
    pruner: Callable[[int, float], bool] | None = None,
    trial: bool = False,
    command: str | None = None,
    finish_interrupted: bool = True,
) -> Run:
    """Train, evaluate, calibrate and export a detector; resume a training that was interrupted.

    Args:
        job: what is trained, on which images, and where to.
        images_in_report: whether the report may show images of the dataset.
        pruner: called after each epoch with its number, from 1, and the value of the monitored
            metric; where it returns true, the training ends.
        trial: whether this is a trial of a search, which is evaluated on validation alone, without
            report and SavedModel.
        command: the command that repeats the training; by default the one that started this
            process.
        finish_interrupted: whether a training that Ctrl-C ends is evaluated and becomes a run that
            can be used; if not, it is only kept to be resumed.

    Returns:
        The finished run, of status "complete" or, after Ctrl-C, "interrupted".

    Raises:
        KeyboardInterrupt: Ctrl-C ended the training, and it is not to be evaluated.
        UserError: a resumed training starts from something else than at its beginning, a setting
            does not fit the data or the devices, or the data cannot be read.
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
        check_workers(job)
        begun = True
        skipped = SkippedFiles(writer, job.catalog)
        if not trial:
            _warn_of_known_images(writer, job)
        answers = _ask_teacher(job, writer.path)
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
            log(f"To start other trainings from these weights: --set model.weights={writer.final}")
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
            resume = shell_command("train", resume=writer.final)
            log(f"What was trained is kept. To continue: {resume}")
        raise


def fit_only(
    job: TrainingJob, folder: Path, callbacks: "Sequence[keras.callbacks.Callback]" = ()
) -> "FitResult":
    """Train a detector without writing a run.

    Args:
        job: what is trained, and on which images; its path is not used.
        folder: for the state and the logs of the training.
        callbacks: called during the training.

    Raises:
        UserError: see `train_run`.
    """
    from tfdetect.training.fit import set_seed_and_precision

    answers = _ask_teacher(job, folder)
    set_seed_and_precision(job.plan.experiment, job.devices, job.log)
    return _fit(job, folder, SkippedFiles(None, job.catalog), answers, callbacks)


def assist_run(job: TrainingJob) -> None:
    """Train as a worker of a cluster that is not the chief; only the chief writes the run.

    Raises:
        UserError: another worker is lost, or starts from something else.
    """
    import tempfile

    assert job.devices.workers is not None
    check_workers(job)
    with tempfile.TemporaryDirectory() as folder:
        fit_only(job, Path(folder))
    job.devices.workers.leave()


def _warn_of_known_images(writer: RunWriter, job: TrainingJob) -> None:
    """Warn of validation and test images that parent and teacher know, and record it in the run."""
    from tfdetect.data.known_images import known_to
    from tfdetect.data.teacher import open_teacher

    sources = [run for run in (job.parent, open_teacher(job.plan.experiment)) if run is not None]
    if not sources or (writer.path / "state").is_dir():  # a resumed run has recorded it already
        return
    warnings = known_to(sources, job.catalog)
    for warning in warnings:
        console.warn(warning)
    if warnings:
        writer.update(dataset=dataset_info(job.plan.spec, job.catalog, warnings=warnings))


def _ask_teacher(job: TrainingJob, folder: Path) -> "dict[str, np.ndarray]":
    """Return the answers of a teacher that is asked once, before the training.

    Args:
        job: the training.
        folder: where the answers are kept for a resumed training, in its subfolder state.

    Returns:
        The answers by split; empty without a teacher, or with one that is asked at each step.
    """
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


def _callbacks(
    experiment: Experiment, trackers: "Trackers", pruner: Callable[[int, float], bool] | None
) -> "list[keras.callbacks.Callback]":
    """Return the callbacks of a run: its trackers, after what may end the training."""
    from tfdetect.training.callbacks import Pruner

    if pruner is None:
        return [trackers]
    return [Pruner(monitor_of(experiment.training), pruner), trackers]


def _fit(
    job: TrainingJob,
    folder: Path,
    skipped: SkippedFiles,
    answers: "dict[str, np.ndarray]",
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    finish_interrupted: bool = True,
) -> "FitResult":
    """Prepare the data and train.

    Args:
        job: the training.
        folder: for its state and logs.
        skipped: gets the files that cannot be read.
        answers: those of the teacher by split, from `_ask_teacher`.
        callbacks: called during the training.
        finish_interrupted: see `train_run`.
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
        with_masks=with_masks, curriculum=training.curriculum, replay=job.replay,
        answers=answers.get("train"),
    )  # fmt: skip
    skipped.add(train.unreadable)
    skipped.check(job.plan.spec)
    if notice := no_masks_notice(catalog, with_masks):
        job.log(notice)
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
        callbacks=[ReportBrokenFiles(train, skipped.add), *callbacks], log=job.log,
        parent=job.parent, finish_interrupted=finish_interrupted, reporters=log_epochs,
    )  # fmt: skip


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
        diverged=fitted.diverged,
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
        known.save(run.path)  # the evaluation adds those of this training
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
