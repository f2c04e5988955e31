"""`TrainState`: everything that must survive an interruption, in one file."""

import json
import math
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfdetect.core.array_files import load_array
from tfdetect.core.errors import UserError
from tfdetect.training.monitor import Monitor
from tfdetect.training.progress import STATE_FILE
from tfdetect.training.weight_average import AverageWeights

# What Keras's callbacks remember between epochs, by class.
_MEMORY = {
    "EarlyStopping": ("wait", "best", "best_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
}


class TrainState(keras.callbacks.Callback):
    """Keeps the best weights, the history, and a state to resume from.

    The state contains the variables of the model, the optimizer and the metrics, the random
    state of the layers (part of the model), epoch and step, the history, the best value and
    the memory of the other callbacks. The position in the data follows from epoch and step.
    It is written at the end of each epoch, and within an epoch when `minutes` have passed, to
    a new file that then replaces the old one: a kill at any moment leaves a complete file.

    Args:
        folder: the folder of the state's files.
        monitor: metric that picks the best weights.
        others: callbacks whose memory is kept, those of `_MEMORY`.
        minutes: between states within an epoch.
        average: moving average of the weights that is saved in their place.
        decide: called with the step and whether a state is due; returns whether to write it.

    Attributes:
        history: logs of the finished epochs.
        stage: number of the current stage, from 0.
        stage_epochs: finished epochs of that stage.
        step: finished steps of the current epoch.
        best: best value of the monitored metric so far.
        stopped: whether a callback ended the stage.
        ended: whether a callback of the caller ended the training.
    """

    def __init__(
        self,
        folder: Path,
        monitor: Monitor,
        others: list[keras.callbacks.Callback],
        minutes: float = 10.0,
        average: AverageWeights | None = None,
        decide: Callable[[int, bool], bool] = lambda step, due: due,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.monitor = monitor
        self.others = others
        self.minutes = minutes
        self.average = average
        self.decide = decide
        self.history: list[dict[str, float]] = []
        self.stage = self.stage_epochs = 0
        self.step = 0
        self.best: float | None = None
        self.stopped = self.ended = False
        self._memory: dict[str, dict[str, float]] = {}
        self._metrics: list[np.ndarray] = []
        self._values: list[np.ndarray] = []  # of variables, read and not yet restored
        self._started = self._written = time.monotonic()
        self._seconds_before = 0.0

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def best_epoch(self) -> int | None:
        """Number of the epoch whose weights are the best, from 1; None before there is one."""
        values = [row.get(self.monitor.name) for row in self.history]
        return None if self.best is None else values.index(self.best) + 1

    @property
    def seconds(self) -> float:
        """Seconds of training, over all the processes that took part."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def file(self) -> Path:
        return self.folder / STATE_FILE.name

    @property
    def best_weights(self) -> Path:
        return self.folder / "best.weights.h5"

    def on_train_begin(self, logs: dict | None = None) -> None:
        # Keras's callbacks reset themselves here; this one is called after them.
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
        is_due = time.monotonic() - self._written >= 60 * self.minutes
        if not last and self.decide(self.step, is_due):
            self._write()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # Keras's val_loss includes the padding of the last batch, whose amount is not fixed on
        # several devices; val_log_loss is exact.
        kept = {k: float(v) for k, v in (logs or {}).items() if k != "val_loss"}
        # Validation images of one class have no AUC.
        kept = {k: v for k, v in kept.items() if not (k.endswith("auc") and math.isnan(v))}
        self.history.append({"epoch": epoch + 1, **kept})
        self.step = 0
        self.stage_epochs += 1
        value = self.history[-1].get(self.monitor.name)
        if value is not None and self.monitor.is_better(value, self.best):
            self.best = value
            self.save_weights()
        self.stopped = bool(self.model.stop_training)
        self._memory = {
            type(c).__name__: {k: float(getattr(c, k)) for k in _MEMORY[type(c).__name__]}
            for c in self.others
        }
        self._write()

    def save_weights(self) -> None:
        """Write the current weights of the model, or their average, as the best ones."""
        with self.average.in_place() if self.average else nullcontext():
            self._replace(self.best_weights, "new.weights.h5", self.model.save_weights)

    def remove(self) -> None:
        """Delete the state, once the training is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _variables(self) -> list:
        averages = self.average.variables if self.average else []
        return [*self.model.variables, *self.model.optimizer.variables, *averages]

    def _write(self) -> None:
        state = {
            "history": self.history, "stage": self.stage, "stage_epochs": self.stage_epochs,
            "step": self.step, "best": self.best, "callbacks": self._memory,
            "stopped": self.stopped, "ended": self.ended, "seconds": self.seconds,
        }  # fmt: skip
        arrays: dict[str, Any] = {
            f"variable_{i}": np.asarray(v) for i, v in enumerate(self._variables())
        }
        if self.step:
            metrics = enumerate(self.model.metrics_variables)
            arrays |= {f"metric_{i}": np.asarray(v) for i, v in metrics}
        self._replace(
            self.file, "new.npz", lambda file: np.savez(file, state=json.dumps(state), **arrays)
        )
        self._written = time.monotonic()

    def _replace(self, path: Path, name: str, write: Callable[[Path], object]) -> None:
        """Write a new file, then replace the old one with it.

        Raises:
            UserError: it cannot be written; the old one is unchanged.
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
                "is kept. Free disk space or allow writing, then continue with --resume."
            ) from error

    def read(self) -> None:
        """Read the state that was written last, if there is one."""
        file = self.file
        if not file.exists():
            return
        try:
            with load_array(file) as saved:
                state = json.loads(str(saved["state"]))
                for kind, values in (("variable", self._values), ("metric", self._metrics)):
                    count = sum(name.startswith(f"{kind}_") for name in saved.files)
                    values += [saved[f"{kind}_{i}"] for i in range(count)]
            self.history, self.step, self.best = state["history"], state["step"], state["best"]
            self.stage, self.stage_epochs = state["stage"], state["stage_epochs"]
            self.stopped, self.ended = state["stopped"], state["ended"]
            self._seconds_before = state["seconds"]
            self._memory = state["callbacks"]
        except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(
                f"The training state {file} is damaged ({error}), so this run cannot be resumed. "
                "Train again without --resume."
            ) from error

    def next_stage(self, model: keras.Model) -> None:
        """Begin the next stage: the model is kept, everything else starts fresh."""
        self._assign(model.variables, self._values[: len(model.variables)])
        self.stage, self.stage_epochs, self.stopped = self.stage + 1, 0, False
        self._memory, self._values = {}, []

    def restore(self, model: keras.Model) -> None:
        """Restore a compiled model and its optimizer from what was read, if anything was.

        Raises:
            UserError: the state belongs to another model.
        """
        if self._values:
            self.set_model(model)
            model.optimizer.build(model.trainable_variables)
            self._assign(self._variables(), self._values)
            self._values = []

    def _assign(self, variables: list, values: list[np.ndarray]) -> None:
        if values and [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            raise UserError(
                f"The training state in {self.folder} belongs to another model. Resume with the "
                "experiment that began it, or start a new run."
            )
        for variable, value in zip(variables, values):
            variable.assign(value)


class EndOfTraining(keras.callbacks.Callback):
    """Records that a callback before it ended the training; those after it only end a stage."""

    def __init__(self, state: TrainState) -> None:
        super().__init__()
        self.state = state

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.state.ended = bool(self.model.stop_training)
