"""Callbacks of a training: metric names, speed, non-finite losses, early ends, broken files."""

import math
import time
from collections.abc import Callable

import keras

from tfdetect.data.training_stream import TrainingStream
from tfdetect.training.monitor import Monitor


def number(variable: keras.Variable) -> float:
    """Return the value of a scalar variable; `float` fails where it has a copy on each device."""
    return float(keras.ops.convert_to_numpy(variable))


class PlainNames(keras.callbacks.Callback):
    """Removes the prefix label_, which Keras adds if there is a mask, from the names of metrics."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is None:
            return
        for key in list(logs):
            if "label_" in key and not key.endswith("label_loss"):
                logs[key.replace("label_", "")] = logs.pop(key)


class ImagesPerSecond(keras.callbacks.Callback):
    """Adds `images_per_second` to the logs of each batch and epoch; validation is not included."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self._start, self._count, self._seconds = 0.0, 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start, self._count, self._seconds = time.monotonic(), 0, 0.0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._count += 1
        self._seconds = time.monotonic() - self._start
        if logs is not None:
            logs["images_per_second"] = self._rate()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs["images_per_second"] = self._rate()

    def _rate(self) -> float:
        return round(self._count * self.batch_size / max(self._seconds, 1e-9), 1)


class DivergedError(Exception):
    """The training diverged; the text says which value became infinite or nan, and when."""


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends a training whose loss, or validation log-loss, is infinite or not a number.

    The loss of a step is that before its update, so that the validation of the same epoch is the
    first to see weights that the last update spoiled. Accuracy does not show it: comparisons with
    nan are false, so that every verdict is authentic.

    Raises:
        DivergedError: at the first such step, or before anything of such an epoch is kept.
    """

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            step = int(number(self.model.optimizer.iterations))
            raise DivergedError(f"The loss became {loss} at step {step}")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        loss = float((logs or {}).get("val_log_loss", 0.0))
        if not math.isfinite(loss):
            raise DivergedError(f"The validation log-loss became {loss} in epoch {epoch + 1}")


class StopBelowRate(keras.callbacks.Callback):
    """Ends the stage after the epoch in which the learning rate fell below a limit."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # Rates are float32: a tenth of 1e-5 may be just below 1e-6.
        if number(self.model.optimizer.learning_rate) < 0.999 * self.rate:
            self.model.stop_training = True


class Pruner(keras.callbacks.Callback):
    """Ends the training when a function of the monitored metric returns true.

    Args:
        monitor: the metric.
        should_stop: called after each epoch with its number, from 1, and the metric's value.
    """

    def __init__(self, monitor: Monitor, should_stop: Callable[[int, float], bool]) -> None:
        super().__init__()
        self.monitor, self.should_stop = monitor, should_stop

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.should_stop(epoch + 1, float((logs or {})[self.monitor.name])):
            self.model.stop_training = True


class ReportBrokenFiles(keras.callbacks.Callback):
    """Reports files that became unreadable during the training, each once.

    Args:
        data: the stream that skipped them.
        report: called after an epoch with paths and reasons.
    """

    def __init__(self, data: TrainingStream, report: Callable[[dict[str, str]], None]) -> None:
        super().__init__()
        self.data, self.report = data, report
        self._skipped = 0
        self._reported: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.data.skipped_count == self._skipped:
            return
        self._skipped = self.data.skipped_count
        found = self.data.examples.find_unreadable()
        new = {path: reason for path, reason in found.items() if path not in self._reported}
        self._reported |= set(new)
        if new:
            self.report(new)
