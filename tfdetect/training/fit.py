"""`fit`: one training of a detector, in stages, that resumes exactly where it was interrupted."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.run import Run
from tfdetect.core.training_settings import Stage
from tfdetect.data.teacher import open_teacher
from tfdetect.models.detector_parts import describe
from tfdetect.models.freezing import freeze
from tfdetect.models.low_rank import merge
from tfdetect.models.parent_detector import start_from
from tfdetect.models.saving import load_detector
from tfdetect.models.standardize import learn_statistics
from tfdetect.training.cached_features import head_of, on_features
from tfdetect.training.callback_list import all_callbacks, callbacks_with_memory
from tfdetect.training.callbacks import DivergedError
from tfdetect.training.devices import Devices, choose_precision, cpu_computes_bfloat16
from tfdetect.training.fit_job import FitData, FitJob, prepare_job
from tfdetect.training.keras_metrics import build_metrics
from tfdetect.training.losses import losses_of, try_loss
from tfdetect.training.monitor import STEADIER, monitor_of
from tfdetect.training.optimizer import build_optimizer, only_stage
from tfdetect.training.state import TrainState
from tfdetect.training.tensorboard import ErrorImages, write_projector
from tfdetect.training.weight_average import AverageWeights
from tfdetect.training.workers import STEPS_BETWEEN_DECISIONS, prepare_model


@dataclass(frozen=True)
class FitResult:
    """What a training returns.

    Attributes:
        detector: the detector with the weights of the best epoch.
        state: history, best value and time of the training.
        interrupted: whether the user stopped it (Ctrl-C).
        diverged: number of the epoch in which it diverged, from 1; None if it did not.
    """

    detector: keras.Model
    state: TrainState
    interrupted: bool
    diverged: int | None = None

    @property
    def stopped_early(self) -> bool:
        """Whether a callback of the caller ended the training."""
        return self.state.ended


def set_seed_and_precision(
    experiment: Experiment, devices: Devices, log: console.Log = console.log
) -> str:
    """Set seed, determinism and precision, before a model is built.

    Args:
        experiment: its `seed` and `training` are used.
        devices: the devices that will train.
        log: called with a warning where the precision is slow.

    Returns:
        The precision, as Keras's policies are called.
    """
    keras.utils.set_random_seed(experiment.seed)
    if experiment.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    precision = choose_precision(experiment.training.precision, devices.gpus)
    if precision != "float32" and not devices.gpus and not cpu_computes_bfloat16():
        log(
            f"warning: this processor emulates {precision}, many times slower than float32: "
            "--set training.precision=auto"
        )
    keras.mixed_precision.set_global_policy(precision)
    return precision


def fit(
    experiment: Experiment,
    classes: int,
    data: FitData,
    devices: Devices,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    log: console.Log = console.log,
    parent: Run | None = None,
    finish_interrupted: bool = True,
    reporters: Sequence[keras.callbacks.Callback] = (),
) -> FitResult:
    """Train a detector, or continue a training that was interrupted.

    Args:
        experiment: what is trained, and how.
        classes: number of classes.
        data: what it reads.
        devices: the devices that train.
        folder: the folder of the run; state/ and logs/ in it are used.
        callbacks: the callbacks of the caller. One that sets `model.stop_training` ends the
            training, whatever stages remain.
        log: called with lines on the progress.
        parent: the run whose detector the training starts from.
        finish_interrupted: whether a training that Ctrl-C ends returns what it has learned; if not,
            the KeyboardInterrupt is raised.
        reporters: callbacks that say how far the training is. They are called when the state of an
            epoch is saved, so that Ctrl-C after its line does not lose it.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the training; see `finish_interrupted`.
        UserError: the training diverged before an epoch could be kept, a batch cannot be divided
            among the devices, or data cannot be read.
    """
    training, workers = experiment.training, devices.workers

    # 1. The detector, the streams, and the state of an interrupted training.
    with devices.scope():
        parent_model = None if parent is None else _load(parent)
        teacher = None
        if training.distill.weight and training.distill.asked == "each_step":
            run = open_teacher(experiment)
            teacher = parent_model if run is None else _load(run)
    job = prepare_job(experiment, classes, data, devices, teacher)
    average = AverageWeights(training.ema, training.accumulate > 1) if training.ema else None
    state = TrainState(
        folder / "state",
        monitor=monitor_of(training),
        others=callbacks_with_memory(training),
        minutes=training.checkpoint_minutes,
        average=average,
        decide=_decider(devices),
    )
    job = _resume(job, state, data.unaugmented, log, parent_model, parent)
    del parent_model, teacher

    # 2. The callbacks.
    if training.tensorboard.images:
        errors = ErrorImages(
            job.detector, data.validation, folder / "logs", training.tensorboard.images, average
        )
        callbacks = [*callbacks, errors]
    every = [*all_callbacks(training, state, average, callbacks, folder), *reporters]
    if not devices.is_chief:
        only_chief = keras.callbacks.TensorBoard | ErrorImages
        every = [each for each in every if not isinstance(each, only_chief)]

    # 3. The stages.
    interrupted, diverged = False, None
    try:
        with _damaged_shards_explained(), workers.translated() if workers else nullcontext():
            _run_stages(job, state, average, every, log)
    except KeyboardInterrupt:
        if workers or not finish_interrupted:  # other workers cannot go on, so nothing is finished
            raise
        interrupted = True
        log(
            f"\nInterrupted in epoch {state.epoch + 1}. What was learned so far is evaluated and "
            "kept; Ctrl-C again ends at once."
        )
    except DivergedError as error:
        if workers:  # others may still wait for this one, which must end
            raise UserError(f"{error}: the training diverged. {STEADIER}") from None
        diverged = state.epoch + 1
        log(_after_divergence(error, state))
    finally:
        for each in reporters:  # Keras calls this only where a training ends by itself
            each.on_train_end()

    # 4. The weights of the best epoch.
    _load_best(job.trained, state)
    merge(job.detector)
    if training.tensorboard.embeddings and devices.is_chief:
        write_projector(job.detector, data.validation, folder / "logs")
    return FitResult(job.detector, state, interrupted, diverged)


def _after_divergence(error: DivergedError, state: TrainState) -> str:
    """Return what is kept of a training that diverged, in words.

    Raises:
        UserError: no epoch can be kept.
    """
    if (best := state.best_epoch) is None:
        raise UserError(
            f"{error}: the training diverged, and there is no earlier epoch to keep. {STEADIER}"
        ) from None
    return f"{error}: the training diverged and ends here; epoch {best}, the best one, is kept."


@contextmanager
def _damaged_shards_explained() -> Iterator[None]:
    """Turn TensorFlow's errors about damaged or missing shards into a `UserError`."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        raise UserError(
            f"The data cannot be read: {error.message.splitlines()[0]}. If they are shards, run "
            "the command that prepared them again, which fixes them; then continue with --resume."
        ) from error


def _decider(devices: Devices) -> Callable[[int, bool], bool]:
    """Return the function by which `TrainState` decides whether to write a state.

    Each state is due by the clock. Of several workers, the chief decides for all.
    """
    workers = devices.workers
    if workers is None:
        return lambda _, flag: flag
    return lambda step, flag: step % STEPS_BETWEEN_DECISIONS == 0 and workers.chief_says(flag)


def _load(run: Run) -> keras.Model:
    """Load a run's detector without changing the precision that is set."""
    precision = keras.config.dtype_policy()
    try:
        return load_detector(run)
    finally:
        keras.config.set_dtype_policy(precision)


# --- resume


def _resume(
    job: FitJob,
    state: TrainState,
    unaugmented: Callable[[], tf.data.Dataset],
    log: console.Log,
    parent_model: keras.Model | None,
    parent: Run | None,
) -> FitJob:
    """Read the state of an interrupted training, or else prepare the first step.

    A training that begins starts from the parent's weights, or computes the statistics that layers
    need. Cached features are computed in both cases; the job that is returned trains on them.
    """
    training = job.experiment.training
    if job.devices.workers:
        job.devices.workers.send_file(state.file)
    state.read()
    has_begun = bool(state.epoch or state.step)
    if has_begun:
        log(f"resuming after epoch {state.epoch}, step {state.step}")
    if parent is not None and parent_model is not None:
        if training.cache_features or not has_begun:
            for layer in start_from(job.detector, parent_model, parent.name):
                log(
                    f"another number of classes than in {parent.name}: the layer {layer} "
                    "starts anew"
                )
    elif training.cache_features or not has_begun:
        learn_statistics(job.detector, unaugmented, head=not training.cache_features)
    if not training.cache_features:
        return job
    if has_begun and state.stage == len(_stages(job)) - 1 and not _goes_on(_stages(job)[-1], state):
        return replace(job, trained=head_of(job.detector))  # nothing is left to train
    log(f"computing the features of {training.cache_features} passes")
    with job.devices.scope():
        head, stream, validation = on_features(
            job.detector, job.stream(0), training.cache_features * job.steps, job.validation,
            training.batch_size, job.experiment.seed,
            job.devices.part(training.batch_size),
        )  # fmt: skip
        if job.devices.workers:
            prepare_model(head)
    return replace(job, trained=head, stream=stream, validation=validation)


# --- run the stages


def _run_stages(
    job: FitJob,
    state: TrainState,
    average: AverageWeights | None,
    callbacks: list[keras.callbacks.Callback],
    log: console.Log,
) -> None:
    """Train the stages that are not finished yet."""
    stages = _stages(job)
    # The validation data end where Keras does not expect it.
    warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
    for number, stage in enumerate(stages):
        if number < state.stage or (state.ended and number > state.stage):
            continue
        if number > state.stage:
            state.next_stage(job.trained)
        _compile(job, stage, state, average)
        title = f"stage {number + 1} of {len(stages)}: " if len(stages) > 1 else ""
        log(title + describe(job.detector, job.experiment.model.backbone))
        _run_stage(job, stage, state, callbacks)
        if any(getattr(each, "stopped_epoch", 0) for each in callbacks):
            log(
                f"{title}stopped after epoch {state.epoch}: no better validation "
                f"{monitor_of(job.experiment.training).title} for "
                f"{job.experiment.training.early_stopping} epochs; the best epoch is kept"
            )


def _stages(job: FitJob) -> Sequence[Stage]:
    training = job.experiment.training
    return training.stages or (
        only_stage(training).model_copy(update={"freeze": job.experiment.model.freeze}),
    )


def _compile(job: FitJob, stage: Stage, state: TrainState, average: AverageWeights | None) -> None:
    """Compile the model for a stage, and restore what an interrupted one left."""
    training, has_mask = job.experiment.training, "mask" in job.detector.output
    losses, weights = losses_of(training, job.classes, list(job.trained.output))
    try_loss(training, job.classes, losses["label"])
    with job.devices.scope():
        freeze(job.detector, stage.freeze)
        job.trained.compile(
            optimizer=build_optimizer(training, job.steps, stage),
            loss=losses,
            loss_weights=weights,
            # Weighted, so that the padding of the last validation batch does not count.
            weighted_metrics=build_metrics(job.classes, has_mask),
            jit_compile=job.devices.gpus == 1 and not training.deterministic,
        )
        # If the first step had to create its variables, TensorFlow would trace the step twice. With
        # several replicas it is the other way round: the first step would take minutes.
        if job.devices.replicas == 1:
            job.trained.optimizer.build(job.trained.trainable_variables)
        if average:
            average.start(job.trained)
        if _goes_on(stage, state):
            state.restore(job.trained)


def _goes_on(stage: Stage, state: TrainState) -> bool:
    return state.stage_epochs < stage.epochs and not state.stopped


def _run_stage(
    job: FitJob, stage: Stage, state: TrainState, callbacks: list[keras.callbacks.Callback]
) -> None:
    """Train what remains of a stage: the rest of an interrupted epoch, then whole epochs."""
    if state.step:
        # Creates the metrics that are to be restored. Not on validation data: a cache that is
        # being filled when its iterator ends may be taken for a complete one.
        job.trained.evaluate(job.batches(0), steps=1, verbose=0)
    # Keras cannot make the first epoch of a fit shorter, so an interrupted one has its own.
    for epochs in [1] * bool(state.step) + [stage.epochs]:
        if _goes_on(stage, state):
            job.trained.fit(
                job.batches(state.epoch * job.steps + state.step),
                validation_data=job.devices.distribute(job.validation),
                initial_epoch=state.epoch,
                epochs=state.epoch + min(epochs, stage.epochs - state.stage_epochs),
                steps_per_epoch=job.steps - state.step,
                callbacks=callbacks,
                shuffle=False,  # the stream is shuffled already
                verbose=0,
            )


def _load_best(trained: keras.Model, state: TrainState) -> None:
    """Load the weights of the best epoch, or keep the present ones where no epoch is finished."""
    if not state.best_weights.is_file():
        state.set_model(trained)
        state.save_weights()
    with warnings.catch_warnings():  # about the optimizer, which a finished training does not need
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        trained.load_weights(state.best_weights)  # its layers are the detector's
