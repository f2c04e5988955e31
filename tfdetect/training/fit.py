"""Fits a detector: build, compile, fit, with everything that resumes."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from tfdetect.data.pipeline import TrainingData
from tfdetect.errors import UserError
from tfdetect.experiment import Experiment, Training
from tfdetect.models.detector import build_detector, describe, freeze, learn_statistics
from tfdetect.training.average import AverageWeights
from tfdetect.training.callbacks import (
    ImagesPerSecond,
    PlainNames,
    StopBelow,
    StopOnNonFinite,
    Watch,
    WatchFiles,
)
from tfdetect.training.devices import Devices, choose_precision, cpu_computes_bfloat16
from tfdetect.training.features import on_features
from tfdetect.training.masks import MaskCriterion, MaskIoU
from tfdetect.training.optimizer import build_optimizer, only_stage
from tfdetect.training.state import TrainState

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
    data: TrainingData,
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
            _synchronise(detector)

    losses, weights = losses_of(training, classes, list(detector.output))
    stream = data.batches
    if "mask_aux" in losses:  # learns the mask too
        validation = validation.map(_with_aux)

        def stream(start: int) -> tf.data.Dataset:
            return data.batches(start).map(_with_aux)

    monitor = MONITORS[training.monitor]
    mode = "min" if training.monitor == "loss" else "max"
    adapting = []
    if training.schedule.name == "plateau":
        adapting.append(keras.callbacks.ReduceLROnPlateau(
            monitor=monitor, mode=mode, factor=training.schedule.factor,
            patience=training.schedule.patience, min_lr=training.schedule.floor,
            min_delta=training.schedule.least,
        ))  # fmt: skip
    if training.early_stopping is not None:
        adapting.append(keras.callbacks.EarlyStopping(
            monitor=monitor, mode=mode, patience=training.early_stopping,
        ))  # fmt: skip
    average = AverageWeights(training.ema) if training.ema else None
    state = TrainState(folder / "state", monitor, adapting, training.state_minutes, average)
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
        WatchFiles(data, on_broken), *adapting, StopBelow(training.schedule.stop_below), watch,
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
                    weighted_metrics=_metrics(classes, "mask" in losses),
                    jit_compile=_xla(experiment, devices),
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


def save_detector(detector: keras.Model, path: Path) -> None:
    """Writes the detector without its optimizer and in float32, atomically.

    Half precision is for training: in float32 a score does not depend on the batch
    it is computed in, nor on the machine.
    """
    kept = {name: x for name, x in detector.output.items() if name in ("label", "mask")}
    bare = keras.Model(detector.inputs[0], kept, name=detector.name)
    for layer in bare._flatten_layers():
        layer.dtype_policy = "float32"
    write_model(bare, path)


def write_model(model: keras.Model, path: Path) -> None:
    """Writes a model's .keras file, whole or not at all."""
    temporary = path.with_name(f".{path.stem}.tmp.keras")
    model.save(temporary)
    os.replace(temporary, path)


def losses_of(training: Training, classes: int, outputs: list[str]) -> tuple[dict, dict]:
    """Each output's loss, and its weight in the whole."""
    settings = training.mask_loss
    losses = {"label": _loss(classes, training.label_smoothing)}
    losses |= {name: MaskCriterion(settings) for name in outputs if name != "label"}
    if len(outputs) == 1:
        return losses, {"label": 1.0}
    weights = {"label": settings.label_weight, "mask": settings.mask_weight,
               "mask_aux": settings.aux_weight}  # fmt: skip
    return losses, {name: weights[name] for name in losses}


def _with_aux(images: tf.Tensor, *rest: dict[str, tf.Tensor]) -> tuple:
    """A batch whose targets and weights also serve an auxiliary mask."""
    return images, *({**part, "mask_aux": part["mask"]} for part in rest)


def _loss(classes: int, smoothing: float) -> keras.losses.Loss:
    if classes == 2:
        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
    return SoftCrossentropy(classes, smoothing)


class SoftCrossentropy(keras.losses.Loss):
    """Cross-entropy of class numbers or of mixed targets [B, C], with label smoothing."""

    def __init__(self, classes: int, smoothing: float):
        super().__init__(name="soft_crossentropy")
        self.classes, self.smoothing = classes, smoothing

    def call(self, y_true, y_pred):
        if y_true.shape != y_pred.shape:
            y_true = keras.ops.reshape(keras.ops.cast(y_true, "int32"), (-1,))
            y_true = keras.ops.one_hot(y_true, self.classes)
        return keras.losses.categorical_crossentropy(
            y_true, y_pred, from_logits=True, label_smoothing=self.smoothing
        )


def hard_labels(y_true, y_pred):
    """The class that has most of each target, int32 [B, 1]; mixed targets have several."""
    if y_pred.shape[-1] > 1 and y_true.shape == y_pred.shape:
        y_true = keras.ops.argmax(y_true, axis=-1)
    return keras.ops.reshape(keras.ops.cast(keras.ops.round(y_true), "int32"), (-1, 1))


class _OfHardLabels:
    """Makes a metric count mixed targets as the class they have most of."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(hard_labels(y_true, y_pred), y_pred, sample_weight)


class _BinaryAccuracy(_OfHardLabels, keras.metrics.BinaryAccuracy):
    pass


class _ClassAccuracy(_OfHardLabels, keras.metrics.SparseCategoricalAccuracy):
    pass


class _ClassLogLoss(_OfHardLabels, keras.metrics.SparseCategoricalCrossentropy):
    pass


class _BinaryLogLoss(_OfHardLabels, keras.metrics.BinaryCrossentropy):
    pass


class FakeAUC(keras.metrics.AUC):
    """Area under the ROC of P(fake) = 1 - P(class 0), from logits of two or more classes."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = keras.ops.reshape(hard_labels(y_true, y_pred) > 0, (-1,))
        if y_pred.shape[-1] == 1:
            fake = keras.ops.sigmoid(y_pred[:, 0])
        else:
            fake = 1.0 - keras.ops.softmax(y_pred)[:, 0]
        return super().update_state(y_true, fake, sample_weight)


def _metrics(classes: int, masks: bool) -> dict[str, list[keras.metrics.Metric]]:
    if classes == 2:
        accuracy = _BinaryAccuracy("accuracy", threshold=0.0)
        log_loss = _BinaryLogLoss("log_loss", from_logits=True)
    else:
        accuracy = _ClassAccuracy("accuracy")
        log_loss = _ClassLogLoss("log_loss", from_logits=True)
    metrics = {"label": [accuracy, FakeAUC(name="auc"), log_loss]}
    return metrics | {"mask": [MaskIoU(name="iou")]} if masks else metrics


def _xla(experiment: Experiment, devices: Devices) -> bool:
    wish = experiment.training.xla
    if wish == "on" and devices.replicas > 1:
        raise UserError("training.xla: on works on one device only; use auto or off.")
    if wish == "auto":
        return devices.gpus == 1 and not experiment.training.deterministic
    return wish == "on"


def _synchronise(detector: keras.Model) -> None:
    """Makes batch normalisation use the moments of the global batch."""
    for layer in detector._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
