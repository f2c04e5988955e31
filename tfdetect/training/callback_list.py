"""The callbacks of a training, in the order in which Keras must call them."""

from collections.abc import Sequence
from pathlib import Path

import keras

from tfdetect.core.training_settings import Training
from tfdetect.training.callbacks import (
    ImagesPerSecond,
    PlainNames,
    StopBelowRate,
    StopOnNonFinite,
)
from tfdetect.training.monitor import monitor_of
from tfdetect.training.state import EndOfTraining, TrainState
from tfdetect.training.weight_average import AverageWeights


def callbacks_with_memory(training: Training) -> list[keras.callbacks.Callback]:
    """Return Keras's callbacks that follow the monitored metric.

    They remember values between epochs, which a state to resume from must contain.
    """
    monitor = monitor_of(training)
    common = {"monitor": monitor.name, "mode": monitor.direction}
    found: list[keras.callbacks.Callback] = []
    if training.schedule.name == "plateau":
        found.append(keras.callbacks.ReduceLROnPlateau(
            factor=training.schedule.factor, patience=training.schedule.patience,
            min_lr=training.schedule.min_lr, min_delta=training.schedule.min_delta, **common,
        ))  # fmt: skip
    if training.early_stopping is not None:
        found.append(keras.callbacks.EarlyStopping(patience=training.early_stopping, **common))
    return found


def all_callbacks(
    training: Training,
    state: TrainState,
    average: AverageWeights | None,
    own: Sequence[keras.callbacks.Callback],
    folder: Path,
) -> list[keras.callbacks.Callback]:
    """Return all callbacks of a training.

    Args:
        training: the settings.
        state: saves the training; its `others` are `callbacks_with_memory`.
        average: moving average of the weights; None without one.
        own: the callbacks of the caller. One that stops the training ends all of its stages.
        folder: the folder of the run, which gets the logs of TensorBoard.
    """
    return [
        *([average] if average else []),
        PlainNames(), ImagesPerSecond(training.batch_size), StopOnNonFinite(),
        *own,
        EndOfTraining(state),  # after the caller's, before those that end only a stage
        *state.others, StopBelowRate(training.schedule.stop_below_lr),
        state,  # last, since it saves what the others did
        keras.callbacks.TensorBoard(
            str(folder / "logs"), write_graph=False,
            histogram_freq=training.tensorboard.histograms,
        ),
    ]  # fmt: skip
