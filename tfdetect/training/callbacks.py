"""Callbacks that watch: speed, non-finite losses, files that break while training."""

import math
import time
from collections.abc import Callable

import keras

from tfdetect.core.errors import UserError
from tfdetect.data.training_stream import TrainingStream


class PlainNames(keras.callbacks.Callback):
    """Names the label's metrics alike with and without a mask, where Keras puts label_ before."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        for key in list(logs or {}):
            if "label_" in key and not key.endswith("label_loss"):
                logs[key.replace("label_", "")] = logs.pop(key)


class ImagesPerSecond(keras.callbacks.Callback):
    """Adds the epoch's images a second to the logs of each batch and epoch."""

    def __init__(self, batch_size: int):
        super().__init__()
        self.batch_size = batch_size
        self._trained = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start, self._count, self._trained = time.monotonic(), 0, 0.0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._count += 1
        self._trained = time.monotonic() - self._start
        if logs is not None:
            logs["images_per_second"] = self._rate()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs["images_per_second"] = self._rate()

    def _rate(self) -> float:
        return round(self._count * self.batch_size / max(self._trained, 1e-9), 1)


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training at the first step whose loss is infinite or not a number."""

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            step = int(self.model.optimizer.iterations)
            raise UserError(
                f"The loss became {loss} at step {step}. The last whole epoch is kept. Lower the "
                "learning rate (training.optimizer.learning_rate), clip gradients "
                "(training.optimizer.clip_norm), or use float32 (training.precision)."
            )


class StopBelow(keras.callbacks.Callback):
    """Ends training after the epoch in which the learning rate fell below a limit."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # Rates are float32: a tenth of 1e-5 may lie just below 1e-6.
        if float(self.model.optimizer.learning_rate) < 0.999 * self.rate:
            self.model.stop_training = True


class Watch(keras.callbacks.Callback):
    """Tells of the monitored value after each epoch, and ends the training if asked to.

    Attributes:
        stopped: whether it did.
    """

    def __init__(self, monitor: str, tell: Callable[[int, float], bool]):
        super().__init__()
        self.monitor, self.tell, self.stopped = monitor, tell, False

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.tell(epoch + 1, float((logs or {})[self.monitor])):
            self.model.stop_training = self.stopped = True


class WatchFiles(keras.callbacks.Callback):
    """Reports, once, files that became unreadable after the catalog was made."""

    def __init__(self, data: TrainingStream, report):
        super().__init__()
        self.data = data
        self.report = report
        self._lost = 0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.data.skipped_count > self._lost:
            self._lost = self.data.skipped_count
            self.report(self.data.examples.find_unreadable())
