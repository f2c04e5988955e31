"""MLflow and Weights & Biases get settings, metrics and the model; the real packages, offline."""

import importlib.util
import json

import pytest
from conftest import train_small

from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.training import trackers

HERE = [name for name in trackers.TRACKERS if importlib.util.find_spec(name)]
QUIET = pytest.mark.filterwarnings("ignore")  # theirs


def test_a_tracker_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'mlflow needs: pip install "tfdetect\[mlflow\]"'):
        trackers.check_trackers(["mlflow"])
    trackers.check_trackers([])


def test_settings_are_flat():
    found = trackers.flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}, "g": "x"})
    assert found == {"a.b": 1, "a.c.d": "[1, 2]", "e": "null", "f": "{}", "g": "x"}
    assert "training.optimizer.name" in trackers.flat(Experiment(name="x").model_dump(mode="json"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A store of MLflow in a file, and a folder of Weights & Biases."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@QUIET
@pytest.mark.skipif(len(HERE) < 2, reason="needs mlflow and wandb")
def test_a_training_is_tracked(here, shared_run):
    track = ["training.track=[mlflow, wandb]", "training.epochs=2"]
    run = train_small(shared_run[1], here, track)
    import mlflow
    import numpy as np

    ids = json.loads((run.path / "trackers.json").read_text())
    found = mlflow.MlflowClient().get_run(ids["mlflow"])
    assert found.info.status == "FINISHED" and found.data.params["training.epochs"] == "2"
    assert found.data.metrics["test.auc"] == pytest.approx(run.metrics["test"]["auc"])
    assert found.data.metrics["test.auc.low"] == pytest.approx(run.metrics["test"]["auc"].low)
    history = mlflow.MlflowClient().get_metric_history(ids["mlflow"], "val_accuracy")
    assert [each.step for each in history] == [1, 2]
    [model] = mlflow.search_logged_models([found.info.experiment_id], output_format="list")
    signature = mlflow.models.get_model_info(model.model_uri).signature
    assert signature.inputs.inputs[0].shape == (-1, 24, 24, 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3)).astype(np.float32)
    loaded = mlflow.keras.load_model(model.model_uri)
    from tfdetect.models.saving import load_detector

    np.testing.assert_allclose(
        loaded.predict(images, verbose=0)["label"],
        load_detector(run).predict(images, verbose=0)["label"], rtol=1e-5,
    )  # fmt: skip
    [folder] = (here / "wandb").glob("offline-run-*")
    [record] = folder.glob("*.wandb")
    assert ids["wandb"] in record.name
    data = record.read_bytes()
    assert b"val_accuracy" in data and b"training.optimizer.name" in data and b"test.auc" in data


@pytest.mark.slow
@QUIET
@pytest.mark.skipif("mlflow" not in HERE, reason="needs mlflow")
def test_a_tracker_that_fails_ends_no_training(here, shared_run, monkeypatch, capsys):
    def failing(self, values, step):
        raise ConnectionError("GET https://x/?token=abc went away")

    monkeypatch.setattr(trackers.MlflowTracker, "log", failing)
    run = train_small(shared_run[1], here, ["training.track=[mlflow]"], trial=True)
    assert run.info.status == "complete"
    shown = capsys.readouterr().err
    assert "mlflow no longer tracks this training" in shown and "abc" not in shown
    import mlflow

    assert mlflow.active_run() is None


@pytest.mark.slow
@QUIET
@pytest.mark.skipif("mlflow" not in HERE, reason="needs mlflow")
def test_a_store_that_is_not_there_is_told(here, shared_run, monkeypatch):
    (here / "file").write_text("no folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/file/mlflow.db")
    with pytest.raises(UserError, match="mlflow does not start"):
        train_small(shared_run[1], here, ["training.track=[mlflow]"], trial=True)


@pytest.mark.slow
@QUIET
@pytest.mark.skipif("mlflow" not in HERE, reason="needs mlflow")
def test_a_resumed_training_goes_on_with_its_record(here):
    import mlflow

    first = trackers.MlflowTracker("run", {"a": 1}, None)
    first.log({"loss": 2.0}, 1)
    first.fail()
    assert mlflow.get_run(first.identity).info.status == "FAILED"
    again = trackers.MlflowTracker("run", {"a": 1}, first.identity)
    again.log({"loss": 1.0}, 2)
    mlflow.end_run()
    assert again.identity == first.identity
    history = mlflow.MlflowClient().get_metric_history(first.identity, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 2.0), (2, 1.0)]
