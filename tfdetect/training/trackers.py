"""Experiment trackers: MLflow and Weights & Biases get settings, metrics and the model.

`training.track` names them. Where they write is theirs to say: `MLFLOW_TRACKING_URI`,
`MLFLOW_EXPERIMENT_NAME`, `WANDB_PROJECT`, `WANDB_MODE=offline` and so on. A tracker that fails
while the training goes on is left out with a warning; the training is worth more.
"""

import importlib.util
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfdetect
from tfdetect.core import console
from tfdetect.core.errors import UserError, first_line
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import write_json
from tfdetect.core.parsing import read_object
from tfdetect.core.run import Run
from tfdetect.core.text import printable
from tfdetect.models.saving import load_detector

PROJECT = "tfdetect"  # where the environment names no other experiment or project
_ARTIFACTS = ("experiment.yaml", "dataset.yaml", "metrics.json", "model_card.md", "report.html")


class Tracker(ABC):
    """One tracker's record of one training."""

    identity: str  # by which a resumed training goes on with the same record

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics of an epoch, from 1."""

    @abstractmethod
    def finish(self, run: Run, values: Mapping[str, float]) -> None:
        """Record the final metrics and the model, and end."""

    @abstractmethod
    def fail(self) -> None:
        """End without a result."""


class MlflowTracker(Tracker):
    """A run of MLflow."""

    def __init__(self, name: str, settings: Mapping[str, Any], identity: str | None):
        import mlflow

        self._mlflow = mlflow
        experiment = None if identity else _mlflow_experiment()
        active = mlflow.start_run(identity, experiment_id=experiment, run_name=name)
        self.identity = active.info.run_id
        if identity is None:
            mlflow.log_params(settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def finish(self, run: Run, values: Mapping[str, float]) -> None:
        import mlflow.keras

        self._mlflow.log_metrics(dict(values))
        for name in _ARTIFACTS:
            if (run.path / name).is_file():
                self._mlflow.log_artifact(str(run.path / name))
        detector = load_detector(run)  # without the optimizer and the metrics of the training
        mlflow.keras.log_model(
            detector, name="model", signature=_signature(detector),
            pip_requirements=[f"tfdetect=={tfdetect.__version__}"],
        )  # fmt: skip
        self._mlflow.end_run()

    def fail(self) -> None:
        self._mlflow.end_run("FAILED")


def _mlflow_experiment() -> str | None:
    """Return the id of the experiment `PROJECT`, or None where the environment names another."""
    import mlflow

    if os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return None
    found = mlflow.get_experiment_by_name(PROJECT)
    return found.experiment_id if found else mlflow.create_experiment(PROJECT)


def _signature(detector: keras.Model) -> Any:
    """Return the signature of a detector: images in 0..255 to logits."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: Mapping[str | None, Any]) -> Schema:
        return Schema([
            TensorSpec(np.dtype(tensor.dtype), [-1 if n is None else n for n in tensor.shape], name)
            for name, tensor in tensors.items()
        ])  # fmt: skip

    inputs = detector.inputs
    names = [None] if len(inputs) == 1 else [each.name for each in inputs]
    return ModelSignature(schema(dict(zip(names, inputs))), schema(detector.output))


class WandbTracker(Tracker):
    """A run of Weights & Biases."""

    def __init__(self, name: str, settings: Mapping[str, Any], identity: str | None):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=name, id=identity,
            config=dict(settings), resume="allow", reinit="create_new",
            settings=wandb.Settings(silent=True),
        )  # fmt: skip
        self.identity = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, run: Run, values: Mapping[str, float]) -> None:
        import wandb

        self._run.summary.update(dict(values))
        model = wandb.Artifact(f"run-{self.identity}-model", type="model")
        for name in ("model.keras", "run.json", *_ARTIFACTS):
            if (run.path / name).is_file():
                model.add_file(str(run.path / name), name)
        self._run.log_artifact(model)
        self._run.finish()

    def fail(self) -> None:
        self._run.finish(exit_code=1)


TRACKERS: dict[str, Callable[[str, Mapping[str, Any], str | None], Tracker]] = {
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}


def check_trackers(names: Sequence[str]) -> None:
    """Fail early where the package of a tracker is not installed.

    Raises:
        UserError: it is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f'training.track: {name} needs: pip install "tfdetect[{name}]". Or leave it out: '
                "--set training.track=[]"
            )


class Trackers(keras.callbacks.Callback):
    """The trackers of a training, as a Keras callback.

    Args:
        experiment: its `training.track` names them.
        name: the name of the run.
        file: keeps what identifies the trackers' records, for a resumed training.

    Raises:
        UserError: a package is missing, or a tracker does not start.
    """

    def __init__(self, experiment: Experiment, name: str, file: Path):
        super().__init__()
        names = experiment.training.track
        check_trackers(names)
        known = read_object(file) if file.is_file() else {}
        settings = flat(experiment.model_dump(mode="json"))
        self._trackers: dict[str, Tracker] = {}
        for each in names:
            try:
                self._trackers[each] = TRACKERS[each](name, settings, known.get(each))
            except Exception as error:  # each has kinds of its own, and of its transports
                self.fail()
                raise UserError(
                    f"training.track: {each} does not start: {_reason(error)}. Log in, work "
                    "offline (WANDB_MODE=offline; MLFLOW_TRACKING_URI of a folder or file), or "
                    "leave it out: --set training.track=[]"
                ) from error
        if self._trackers:
            file.parent.mkdir(parents=True, exist_ok=True)
            identities = {each: tracker.identity for each, tracker in self._trackers.items()}
            write_json(file, identities)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        values["learning_rate"] = float(self.model.optimizer.learning_rate)
        self._each(lambda tracker: tracker.log(values, epoch + 1))

    def finish(self, run: Run) -> None:
        """Record what a finished run has: its metrics with their intervals, and its model."""
        values = {}
        for split, metrics in run.metrics.items():
            for name, metric in metrics.items():
                for end, value in (("", metric), (".low", metric.low), (".high", metric.high)):
                    if value is not None:
                        values[f"{split}.{name}{end}"] = float(value)
        self._each(lambda tracker: tracker.finish(run, values))
        self._trackers.clear()

    def fail(self) -> None:
        """End the records of a training that did not finish; `--resume` goes on with them."""
        self._each(lambda tracker: tracker.fail())
        self._trackers.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:  # a network, a server, a full disk of theirs
                del self._trackers[name]
                with suppress(Exception):  # else the next training here could not begin a record
                    tracker.fail()
                console.warn(f"{name} no longer tracks this training: {_reason(error)}")


def _reason(error: Exception) -> str:
    from tfdetect.core.model_hubs import without_secrets

    return printable(without_secrets(first_line(error)))[:300]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as "training.optimizer.name" and values; lists are JSON."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            simple = isinstance(value, str | int | float | bool)
            found[f"{prefix}{key}"] = value if simple else json.dumps(value)
    return found
