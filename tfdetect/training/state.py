"""`TrainState`: everything that must survive an interruption, in one file."""

import json
import math
import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np

from tfdetect.errors import UserError

# What Keras's callbacks learn while training, by class.
_MEMORY = {
    "EarlyStopping": ("wait", "best", "best_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
}


class TrainState(keras.callbacks.Callback):
    """Keeps the best weights, the history, and a state to resume from.

    The state holds the variables of the model, the optimizer and the metrics, the random
    state of the layers (part of the model), epoch and step, the history, the best value and
    the memory of the other callbacks. The position in the data follows from epoch and step.
    It is written at each epoch's end, and within an epoch when `minutes` have passed, to
    a new file that then takes the old one's place: a kill at any moment leaves a whole one.

    Attributes:
        history: logs of the finished epochs.
        step: steps of the unfinished epoch that the restored state has behind it.
        best: best value of the monitored metric so far.
        stopped: whether a callback ended the training.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        others: list[keras.callbacks.Callback],
        minutes: float = 10.0,
    ):
        super().__init__()
        self.folder = folder
        self.monitor = monitor
        self.maximise = "loss" not in monitor
        self.others = others
        self.minutes = minutes
        self.history: list[dict[str, float]] = []
        self.step = 0
        self.best: float | None = None
        self.stopped = False
        self._memory: dict[str, dict[str, float]] = {}
        self._metrics: list[np.ndarray] = []
        self._started = self._written = time.monotonic()
        self._seconds_before = 0.0

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Seconds of training, over all the processes that took part."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def best_weights(self) -> Path:
        return self.folder / "best.weights.h5"

    def on_train_begin(self, logs: dict | None = None) -> None:
        # Keras's callbacks reset themselves here; this one comes after them.
        for callback in self.others:
            for key, value in self._memory.get(type(callback).__name__, {}).items():
                setattr(callback, key, float(value) if key == "best" else int(value))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        # Keras has just reset the metrics.
        if self._metrics:
            for variable, value in zip(self.model.metrics_variables, self._metrics, strict=True):
                variable.assign(value)
            self._metrics = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.step += 1
        last = batch + 1 == self.params["steps"]  # the epoch's end comes next
        if not last and time.monotonic() - self._written >= 60 * self.minutes:
            self._write()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.history.append({"epoch": epoch + 1, **{k: float(v) for k, v in (logs or {}).items()}})
        self.step = 0
        value = self.history[-1].get(self.monitor)
        better = self.best is None or (value > self.best if self.maximise else value < self.best)
        if better and value is not None and math.isfinite(value):
            self.best = value
            self.save_weights()
        self.stopped = bool(self.model.stop_training)
        self._memory = {
            type(c).__name__: {k: float(getattr(c, k)) for k in _MEMORY[type(c).__name__]}
            for c in self.others
        }
        self._write()

    def save_weights(self) -> None:
        """Writes the model's present weights as the best ones."""
        self._replace(self.best_weights, "new.weights.h5", self.model.save_weights)

    def remove(self) -> None:
        """Deletes the state of a training that is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _variables(self) -> list:
        return [*self.model.variables, *self.model.optimizer.variables]

    def _write(self) -> None:
        state = {
            "history": self.history, "step": self.step, "best": self.best,
            "callbacks": self._memory, "stopped": self.stopped, "seconds": self.seconds,
        }  # fmt: skip
        arrays = {f"variable_{i}": np.asarray(v) for i, v in enumerate(self._variables())}
        if self.step:
            metrics = enumerate(self.model.metrics_variables)
            arrays |= {f"metric_{i}": np.asarray(v) for i, v in metrics}
        self._replace(
            self.folder / "last.npz", "new.npz",
            lambda file: np.savez(file, state=json.dumps(state), **arrays),
        )  # fmt: skip
        self._written = time.monotonic()

    def _replace(self, path: Path, name: str, write) -> None:
        """Writes a new file and puts it in the old one's place.

        Raises:
            UserError: it cannot be written; the old one is as it was.
        """
        temporary = self.folder / name
        try:
            self.folder.mkdir(exist_ok=True)
            write(temporary)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"The training state could not be written to {self.folder}: {error}. The last one "
                "is kept. Make room or give write permission, then go on with --resume."
            ) from error

    def restore(self, model: keras.Model) -> None:
        """Puts a compiled model, its optimizer and the callbacks back where they were.

        Does nothing where no state was written yet.

        Raises:
            UserError: the state belongs to another model.
        """
        file = self.folder / "last.npz"
        if not file.exists():
            return
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        variables = self._variables()
        with np.load(file) as saved:
            state = json.loads(str(saved["state"]))
            count = sum(name.startswith("variable_") for name in saved.files)
            values = [saved[f"variable_{i}"] for i in range(count)]
            count = sum(name.startswith("metric_") for name in saved.files)
            self._metrics = [saved[f"metric_{i}"] for i in range(count)]
        if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            raise UserError(f"The state in {self.folder} belongs to another model.")
        for variable, value in zip(variables, values):
            variable.assign(value)
        self.history, self.step, self.best = state["history"], state["step"], state["best"]
        self.stopped = state["stopped"]
        self._seconds_before = state["seconds"]
        self._memory = state["callbacks"]
