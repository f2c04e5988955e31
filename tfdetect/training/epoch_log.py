"""`EpochLog`: the messages and the progress bar of a running training."""

import math
import time
from contextlib import ExitStack
from typing import Any

import keras

from tfdetect.core import console
from tfdetect.core.training_settings import Training
from tfdetect.training.monitor import MONITORS

# Keys of Keras's logs, with their names in the line of an epoch.
_SHOWN = {
    "loss": "loss", **{monitor.name: monitor.title for monitor in MONITORS.values()},
    "val_log_loss": "validation log-loss",
}  # fmt: skip
LINE_SECONDS = 120  # between lines within an epoch, where there is no bar


def format_number(value: float) -> str:
    """Return a number with four decimals, and "-" for one that is not defined."""
    return "-" if math.isnan(value) else f"{value:.4f}"


class EpochLog(keras.callbacks.Callback):
    """Logs one line per epoch, and the progress within the running epoch.

    That is a progress bar in a terminal, elsewhere a line every few minutes.

    Args:
        training: its number of epochs is shown.
        log: called with each line.
        classes: number of classes; for three or more, the accuracy is that of the class.
        windows: whether validation sees one window of each image, so that masks are measured there.
    """

    def __init__(
        self,
        training: Training,
        log: console.Log = console.log,
        classes: int = 2,
        windows: bool = False,
    ) -> None:
        super().__init__()
        self._shown = _SHOWN | ({"val_accuracy": "accuracy of the class"} if classes > 2 else {})
        if windows:
            self._shown |= {"val_mask_iou": "mask IoU on one window of each image"}
        self._epochs = training.total_epochs
        self._log = log
        self._began = 0.0
        self._stack: ExitStack | None = None
        self._bar: console.Progress | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._began = time.monotonic()
        self._close()
        self._stack = ExitStack()
        self._bar = self._stack.enter_context(console.progress(
            self.params.get("steps"), self._title(epoch), "steps", transient=True,
            line_seconds=LINE_SECONDS,
        ))  # fmt: skip

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.note = f"loss {(logs or {}).get('loss', 0):.4f}"
            self._bar.advance()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.set_note("validating")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._close()
        logs = logs or {}
        shown = {name: float(logs[key]) for key, name in self._shown.items() if key in logs}
        parts = [f"{name} {format_number(value)}" for name, value in shown.items()]
        if "images_per_second" in logs:
            parts.append(f"{logs['images_per_second']:,.0f} images/s")
        seconds = time.monotonic() - self._began
        self._log(f"{self._title(epoch)}: {', '.join(parts)}, {seconds:.0f} s")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._close()

    def _title(self, epoch: int) -> str:
        return f"epoch {epoch + 1}/{self._epochs}"

    def _close(self) -> None:
        if self._stack is not None:
            self._stack.close()
        self._stack = self._bar = None
