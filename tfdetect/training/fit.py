"""Fits a detector: build, compile, fit, with everything that resumes."""

import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.data.training_stream import TrainingStream
from tfdetect.models.detector import build_detector, describe, freeze, learn_statistics
from tfdetect.training.cached_features import on_features
from tfdetect.training.callbacks import (
    ImagesPerSecond,
    PlainNames,
    StopBelow,
    StopOnNonFinite,
    Watch,
    WatchFiles,
)
from tfdetect.training.devices import Devices, choose_precision, cpu_computes_bfloat16
from tfdetect.training.losses import losses_of, with_aux_mask
from tfdetect.training.metrics import build_metrics
from tfdetect.training.optimizer import build_optimizer, only_stage
from tfdetect.training.state import TrainState
from tfdetect.training.weight_average import AverageWeights

MONITORS = {"accuracy": "val_accuracy", "auc": "val_auc", "loss": "val_log_loss",
            "iou": "val_mask_iou"}  # fmt: skip


def prepare(experiment: Experiment, devices: Devices, say: Callable[[str], None] = print) -> str:
    """Sets seed, determinism and precision, before a model is built; gives the precision."""
    keras.utils.set_random_seed(experiment.seed)
    if experiment.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    precision = choose_precision(experiment.training.precision, devices.gpus)
    if precision != "float32" and not devices.gpus and not cpu_computes_bfloat16():
        say(
            f"warning: this processor emulates {precision}, many times slower than float32: "
            "--set training.precision=auto"
        )
    keras.mixed_precision.set_global_policy(precision)
    return precision


def fit(
    experiment: Experiment,
    classes: int,
    data: TrainingStream,
    validation: tf.data.Dataset,
    untouched: Callable[[], tf.data.Dataset],
    devices: Devices,
    folder: Path,
    on_broken: Callable[[dict[str, str]], None],
    say: Callable[[str], None] = print,
    verbose: int = 1,
    tell: Callable[[int, float], bool] | None = None,
) -> tuple[keras.Model, TrainState, bool]:
    """Trains, or goes on training, a detector.

    Args:
        untouched: makes batches of training images without augmentation, for front-ends that
            learn statistics of them.
        folder: the run's folder; state/ and logs/ in it are used.
        on_broken: called with names and reasons when files broke meanwhile.
        tell: called after each epoch with its number and the monitored value; where it returns
            true, the training ends.

    Returns:
        The detector with its best weights, the state, and whether the user
        stopped it (Ctrl-C).

    Raises:
        UserError: a non-finite loss, or a batch that does not divide.
    """
    training = experiment.training
    if training.batch_size % devices.replicas:
        raise UserError(
            f"training.batch_size {training.batch_size} does not divide among "
            f"{devices.replicas} devices."
        )
    steps = training.steps_per_epoch or max(1, round(data.count / training.batch_size))
    stages = training.stages or (
        only_stage(training).model_copy(update={"freeze": experiment.model.freeze}),
    )
    with devices.scope():
        detector = build_detector(experiment, classes)
        if devices.replicas > 1:
            _synchronize(detector)

    losses, weights = losses_of(training, classes, list(detector.output))
    stream = data.batches
    if "mask_aux" in losses:  # learns the mask too
        validation = validation.map(with_aux_mask)

        def stream(start: int) -> tf.data.Dataset:
            return data.batches(start).map(with_aux_mask)

    monitor = MONITORS[training.monitor]
    mode = "min" if training.monitor == "loss" else "max"
    adapting = []
    if training.schedule.name == "plateau":
        adapting.append(keras.callbacks.ReduceLROnPlateau(
            monitor=monitor, mode=mode, factor=training.schedule.factor,
            patience=training.schedule.patience, min_lr=training.schedule.min_lr,
            min_delta=training.schedule.min_delta,
        ))  # fmt: skip
    if training.early_stopping is not None:
        adapting.append(keras.callbacks.EarlyStopping(
            monitor=monitor, mode=mode, patience=training.early_stopping,
        ))  # fmt: skip
    average = AverageWeights(training.ema) if training.ema else None
    state = TrainState(folder / "state", monitor, adapting, training.checkpoint_minutes, average)
    state.read()
    if state.epoch or state.step:
        say(f"resuming after epoch {state.epoch}, step {state.step}")
    if training.cache_features or not (state.epoch or state.step):
        learn_statistics(detector, untouched)
    trained = detector
    if training.cache_features:
        say(f"computing the features of {training.cache_features} passes")
        with devices.scope():
            trained, stream, validation = on_features(
                detector, stream(0), training.cache_features * steps, validation,
                training.batch_size, experiment.seed,
            )  # fmt: skip
    watch = Watch(monitor, tell or (lambda epoch, value: False))
    callbacks = [
        *([average] if average else []),
        PlainNames(), ImagesPerSecond(training.batch_size), StopOnNonFinite(),
        WatchFiles(data, on_broken), *adapting, StopBelow(training.schedule.stop_below_lr), watch,
        state,
        keras.callbacks.TensorBoard(str(folder / "logs"), write_graph=False),
    ]  # fmt: skip
    interrupted = False
    # Of the validation data, whose end Keras does not know beforehand.
    warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
    try:
        for number, stage in enumerate(stages):
            if number < state.stage or watch.stopped:
                continue
            if number > state.stage:
                state.next_stage(trained)
            with devices.scope():
                freeze(detector, stage.freeze)
                trained.compile(
                    optimizer=build_optimizer(training, steps, stage),
                    loss=losses,
                    loss_weights=weights,
                    # Weighted, so that the padding of the last validation batch does not count.
                    weighted_metrics=build_metrics(classes, "mask" in losses),
                    jit_compile=devices.gpus == 1 and not training.deterministic,
                )
                if average:
                    average.start(trained)
                if state.stage_epochs < stage.epochs and not state.stopped:
                    state.restore(trained)
            title = f"stage {number + 1} of {len(stages)}: " if len(stages) > 1 else ""
            say(title + describe(detector))
            if state.step:
                # Makes the metrics that are to be restored. Not with validation data: a cache
                # that is being filled when its iterator ends may be taken for a full one.
                trained.evaluate(stream(0), steps=1, verbose=0)
            # An epoch that was begun before is ended first: Keras knows no shorter first one.
            for count in [1] * bool(state.step) + [stage.epochs]:
                if state.stage_epochs < stage.epochs and not state.stopped:
                    trained.fit(
                        stream(state.epoch * steps + state.step),
                        validation_data=validation,
                        initial_epoch=state.epoch,
                        epochs=state.epoch + min(count, stage.epochs - state.stage_epochs),
                        steps_per_epoch=steps - state.step,
                        callbacks=callbacks,
                        shuffle=False,  # the stream is shuffled already
                        verbose=verbose,
                    )
    except KeyboardInterrupt:
        interrupted = True
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:  # of shards
        raise UserError(
            f"The data cannot be read: {error.message.splitlines()[0]}. If they are shards, the "
            "command that prepared them mends them; then go on with --resume."
        ) from error
    if not state.best_weights.is_file():  # stopped in the first epoch
        state.set_model(trained)
        state.save_weights()
    with warnings.catch_warnings():  # the optimizer's, of which a finished training needs none
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        trained.load_weights(state.best_weights)  # whose layers are the detector's
    return detector, state, interrupted


def _synchronize(detector: keras.Model) -> None:
    """Makes batch normalization use the moments of the global batch."""
    for layer in detector._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
