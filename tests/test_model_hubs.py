"""Runs on hubs: fetched by a fixed revision, only safe files, and pushed without secrets.

Hugging Face's own package talks to a stand-in of the hub on this machine (`hub_server`).
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer

from tfdetect.core.errors import UserError
from tfdetect.core.model_hubs import (
    HubAddress,
    check_keras_file,
    check_keras_files,
    without_secrets,
)
from tfdetect.imaging.photographs import photograph

pytest.importorskip("huggingface_hub")
ROOT = Path(__file__).parent.parent
RUN = ROOT / "saved_models" / "photo_detector"
TOKEN = "hf_secretTOKENofTheTests"


@pytest.fixture
def hub(tmp_path):
    server = HubServer(TOKEN)
    yield server
    server.close()


def command(hub, tmp_path, *arguments, **more):
    """Run `tfdetect ARGUMENTS` with a cache of its own and the stand-in as the hub."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "hf"), "TFDETECT_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
    } | more  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "tfdetect", *map(str, arguments)], text=True,
                          env=environment, capture_output=True, check=False)  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert TOKEN not in done.stderr + done.stdout
    return done


@pytest.mark.slow
def test_a_pushed_run_is_loaded_by_its_address(hub, tmp_path):
    pushed = command(hub, tmp_path, "push", RUN, "hf://user/photos", "--license", "mit", "--json")
    assert pushed.returncode == 0, pushed.stderr
    address = json.loads(pushed.stdout)["address"]
    commit = hub.branches["user/photos", "main"]
    assert address == f"hf://user/photos@{commit}"
    files = hub.repositories["user/photos"][commit]
    assert {"run.json", "model.keras", "detector.onnx", "README.md"} <= set(files)
    assert not any(name.startswith(("saved_model", "predictions", "figures")) for name in files)
    info = json.loads(files["run.json"])
    assert info["command"] == "" and info["dataset"]["roots"] == {}
    header = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert header["library_name"] == "tfdetect" and header["license"] == "mit"
    assert header["pipeline_tag"] == "image-classification"
    [results] = header["model-index"][0]["results"]
    values = json.loads((RUN / "metrics.json").read_text())["validation"]["metrics"]["auc"]
    [auc] = [each for each in results["metrics"] if each["type"] == "roc_auc"]
    assert auc["value"] == values["value"] and f"{values['low']:.3f}" in auc["name"]

    photograph("flower").save(tmp_path / "photo.jpg")
    ours = command(hub, tmp_path, "predict", RUN, tmp_path / "photo.jpg", "--json")
    found = command(hub, tmp_path, "predict", address, tmp_path / "photo.jpg", "--json")
    assert json.loads(found.stdout) == json.loads(ours.stdout)
    [folder] = (tmp_path / "cache/runs/hf/user").glob("*/photos")
    assert json.loads((folder / "source.json").read_text()) == {"source": address}
    hub.close()  # a fixed commit that is in the cache is not asked for again
    again = command(hub, tmp_path, "predict", address, tmp_path / "photo.jpg", "--json")
    assert again.stdout == found.stdout


def test_only_safe_files_are_fetched(hub, tmp_path):
    names = ("run.json", "experiment.yaml", "domain.npy", "training_images.npy", "model.keras",
             "detector.onnx")  # fmt: skip
    files = {name: (RUN / name).read_bytes() for name in names}
    evil = {"weights.pkl": b"x", "saved_model/saved_model.pb": b"x", "exports/run.py": b"x",
            "exports/../run.py": b"x", "exports/deep/detector.tflite": b"x"}  # fmt: skip
    hub.commit("user/run", files | evil)
    photograph("rocket").save(tmp_path / "photo.jpg")
    done = command(hub, tmp_path, "predict", "hf://user/run", tmp_path / "photo.jpg", "--json")
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "cache/runs/hf/user").glob("*/run")
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert written == {*names, "source.json"}
    assert not any("weights.pkl" in request for request in hub.requests)

    hub.commit("user/run", {"model.keras": keras_file(tmp_path, {"class_name": "Lambda"})})
    done = command(hub, tmp_path, "predict", "hf://user/run", tmp_path / "photo.jpg")
    assert done.returncode == 2 and "can run any code" in done.stderr
    assert len(list((tmp_path / "cache/runs/hf/user").glob("*/run"))) == 1


def keras_file(folder, layer, **more):
    config = {"class_name": "Functional", "module": "keras", "config": {"layers": [layer]}}
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        for name, text in more.items():
            archive.writestr(name.replace("_", "."), text)
    return path.read_bytes()


@pytest.mark.parametrize(("layer", "more", "message"), [
    ({"class_name": "Lambda", "module": "keras.layers"}, {}, "keras.layers.Lambda"),
    ({"class_name": "TFSMLayer", "module": "keras.layers"}, {}, "TFSMLayer"),
    ({"class_name": "system", "module": "os"}, {}, "os.system"),
    ({"config": {"function": {"class_name": "__lambda__"}}}, {}, "__lambda__"),
    ({"class_name": "Dense", "module": "keras_evil.layers"}, {}, "keras_evil"),
    ({}, {"weights_pkl": "x"}, "contains weights.pkl"),
])  # fmt: skip
def test_keras_files_with_code_are_refused(layer, more, message, tmp_path):
    keras_file(tmp_path, layer, **more)
    with pytest.raises(UserError, match=message):
        check_keras_file(tmp_path / "model.keras", "a run")
    (tmp_path / "exports").mkdir()
    (tmp_path / "model.keras").rename(tmp_path / "exports/detector.keras")
    with pytest.raises(UserError, match=message):
        check_keras_files(tmp_path, "a run")


def test_keras_files_of_shipped_runs_are_safe():
    for name in ("photo_detector", "localizer_photos", "cifake_small_resnet"):
        check_keras_file(ROOT / "saved_models" / name / "model.keras", name)


@pytest.mark.parametrize(("address", "message"), [
    pytest.param("hf://user/nothing", "does not exist, or is private", marks=pytest.mark.slow),
    pytest.param("hf://user/run@v9", "no revision v9", marks=pytest.mark.slow),
    pytest.param("hf://user/empty", "has no run.json", marks=pytest.mark.slow),
    ("hf://user", "is not the address of a run"),
    ("hf://user/../run", "is not the address of a run"),
    ("kaggle://user/run", "is not the address of a run"),
])  # fmt: skip
def test_wrong_addresses_are_told(address, message, hub, tmp_path):
    hub.commit("user/run", {"run.json": b"{}"})
    hub.commit("user/empty", {"README.md": b""})
    done = command(hub, tmp_path, "predict", address, "photo.jpg")
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.slow
def test_a_wrong_token_and_a_hub_that_is_away_are_told(hub, tmp_path):
    done = command(hub, tmp_path, "push", RUN, "hf://user/photos", HF_TOKEN="hf_wrongTOKEN")
    assert done.returncode == 2 and "hf_wrong" not in done.stderr and "hf://user" in done.stderr
    hub.close()
    done = command(hub, tmp_path, "push", RUN, "hf://user/photos")
    assert done.returncode == 2 and "hf://user/photos: The hub cannot be reached" in done.stderr


def test_addresses_and_secrets():
    for text in ("hf://user/run@v1.0", "hf://user/run", "kaggle://user/run/keras/base@3"):
        assert str(HubAddress.parse(text)) == text
        assert HubAddress.parse(Path(text)) == HubAddress.parse(text)  # which has one "/"
    assert HubAddress.parse("saved_models/run") is None
    text = "GET https://x/y?X-Signature=abc&a=1 Authorization: Bearer k9.secret and hf_abcDEF"
    shown = without_secrets(text)
    assert not any(secret in shown for secret in ("abc", "k9.secret", "hf_")) and "a=1" in shown
