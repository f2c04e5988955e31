"""`TrainState`: everything that must survive an interruption, written after each epoch."""

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

    The state holds the model's and optimizer's variables, the random state of
    the layers (part of the model), the epoch, the history, the best value and
    the memory of the other callbacks. The position in the data follows from the
    optimizer's steps. It is written beside the old state and then takes its
    place, so that a kill at any moment leaves a whole one.
    """

    def __init__(self, folder: Path, monitor: str, others: list[keras.callbacks.Callback]):
        super().__init__()
        self.folder = folder
        self.monitor = monitor
        self.maximise = "loss" not in monitor
        self.others = others
        self.history: list[dict[str, float]] = []
        self.best: float | None = None
        self.stopped = False
        self._started = time.monotonic()
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

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.history.append({"epoch": epoch + 1, **{k: float(v) for k, v in (logs or {}).items()}})
        value = self.history[-1].get(self.monitor)
        better = self.best is None or (value > self.best if self.maximise else value < self.best)
        self.folder.mkdir(exist_ok=True)
        if better and value is not None and math.isfinite(value):
            self.best = value
            self.save_weights()
        self.stopped = bool(self.model.stop_training)
        self._write()

    def save_weights(self) -> None:
        """Writes the model's present weights as the best ones."""
        self.folder.mkdir(exist_ok=True)
        temporary = self.folder / "new.weights.h5"
        self.model.save_weights(temporary)
        os.replace(temporary, self.best_weights)

    def remove(self) -> None:
        """Deletes the state of a training that is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _variables(self) -> list:
        return [*self.model.variables, *self.model.optimizer.variables]

    def _write(self) -> None:
        new = self.folder / "last.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        np.savez(new / "variables.npz", *(np.asarray(v) for v in self._variables()))
        memory = {
            type(c).__name__: {k: float(getattr(c, k)) for k in _MEMORY[type(c).__name__]}
            for c in self.others
        }
        state = {
            "history": self.history, "best": self.best, "callbacks": memory,
            "stopped": self.stopped, "seconds": self.seconds,
        }  # fmt: skip
        (new / "state.json").write_text(json.dumps(state))
        last, old = self.folder / "last", self.folder / "last.old"
        shutil.rmtree(old, ignore_errors=True)
        if last.exists():
            last.rename(old)
        new.rename(last)
        shutil.rmtree(old, ignore_errors=True)

    def restore(self, model: keras.Model) -> None:
        """Puts a compiled model, its optimizer and the callbacks back where they were.

        Does nothing where no epoch has ended yet.

        Raises:
            UserError: the state belongs to another model.
        """
        folder = self.folder / "last"
        if not folder.exists():
            folder = self.folder / "last.old"  # killed between the two renames
        if not folder.exists():
            return
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        variables = self._variables()
        with np.load(folder / "variables.npz") as saved:
            values = [saved[f"arr_{i}"] for i in range(len(saved.files))]
        if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            raise UserError(f"The state in {self.folder} belongs to another model.")
        for variable, value in zip(variables, values):
            variable.assign(value)
        state = json.loads((folder / "state.json").read_text())
        self.history, self.best = state["history"], state["best"]
        self.stopped = state["stopped"]
        self._seconds_before = state["seconds"]
        self._memory = state["callbacks"]

    def on_train_begin(self, logs: dict | None = None) -> None:
        # Keras's callbacks reset themselves here; this one comes after them.
        for callback in self.others:
            for key, value in getattr(self, "_memory", {}).get(type(callback).__name__, {}).items():
                kind = float if key == "best" else int
                setattr(callback, key, kind(value))
