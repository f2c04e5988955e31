"""Every command on the embedded demonstration, as a newcomer tries them after the first one."""

import json
import shutil
from pathlib import Path

import pytest
from commands import call

from tfdetect.__main__ import COMMANDS

# Small networks that train in seconds.
OPTIONS = "model.options={widths: [8, 16], blocks: [1, 1], strides: [2, 2], stem: 8}"
FEW = ("--set", "training.epochs=1", "--set", "training.steps_per_epoch=4", "--quiet")
SHORT = (*FEW, "--set", OPTIONS)


class Walk:
    """Calls commands and remembers which were called."""

    def __init__(self, capsys):
        self.capsys, self.called = capsys, set()

    def __call__(self, command, *arguments, code=0):
        self.called.add(command)
        found, out, err = call(command, arguments, self.capsys)
        assert found == code, f"{command} {arguments}: {err}"
        assert "Traceback" not in err
        return out

    def json(self, command, *arguments):
        return json.loads(self(command, *arguments, "--json"))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_command_on_the_demonstration(whole, tmp_path, monkeypatch, capsys):
    """The default test leaves out fusing, and what trains a second kind of detector or many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDETECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tfdetect.data.demo.PAIRS", 16)  # the same photographs, fewer crops
    walk = Walk(capsys)

    # The first command, and the next one that it names.
    out = walk("train", "--dataset", "demo", "--set", "training.export=[onnx]", *SHORT)
    assert "accuracy" in out and "report  saved_models/demo/report.html" in out
    assert "next    python -m tfdetect.predict saved_models/demo" in out
    demo = tmp_path / "cache" / "datasets" / "demo"
    image = next((demo / "test" / "authentic").glob("*.png"))
    out = walk("predict", "saved_models/demo", image, "--explain", "pages")
    assert image.name in out
    assert len(list(Path("pages").glob("*.html"))) == 1
    rows = walk.json("predict", "saved_models/demo", image, "--at", "balanced", "--prior", "0.1")
    assert 0 <= rows[0]["p_fake"] <= 1

    # A second run, compared with the first.
    second = walk.json("train", "--dataset", "demo", "--name", "second", "--set", "seed=1",
                       "--set", "training.export=[]", *SHORT)  # fmt: skip
    assert second["status"] == "complete" and 0 <= second["test"]["auc"]["value"] <= 1
    found = walk.json("evaluate", "saved_models/second", "--split", "test", "--no-images")
    assert found["test"]["count"] == 96
    assert walk("compare", "saved_models/demo", "saved_models/second")
    found = walk.json("calibrate", "saved_models/second", "--abstention-error", "0.2",
                      "--no-images")  # fmt: skip
    assert "test" in found
    assert not Path("saved_models/second/saved_model").exists()  # none was asked for
    walk("explain", "saved_models/demo", "--count", "2")
    walk("export", "saved_models/demo", "--format", "saved_model")
    assert Path("saved_models/demo/saved_model/saved_model.pb").is_file()

    # Other images: authentic ones alone, and a folder whose labels are unknown.
    out = walk("evaluate", "saved_models/demo", "--dataset", demo / "test" / "authentic",
               "--label", "authentic", "--no-images")  # fmt: skip
    assert "false positive" in out.lower()
    walk("evaluate", "saved_models/demo", "--dataset", image.parent, code=2)

    # Data.
    found = walk.json("audit", "--dataset", "demo")
    assert found["verdict"] in ("sound", "caution", "unreliable")
    walk("prepare", "--dataset", "demo", "--output", "prepared")
    walk("show-augment", "--dataset", "prepared/demo", "--images", "2", "--variants", "2")
    assert Path("augment.png").is_file()
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, photo in enumerate(sorted((demo / "train" / "authentic").glob("*.png"))[::3]):
        shutil.copy(photo, photos / f"{number}.png")
    out = walk("synthesize", "--source", photos, "--output", "forgeries",
               "--fill", "telea,copy_move", "--workers", "1")  # fmt: skip
    assert "forgeries in forgeries" in out

    # What needs files from elsewhere says so.
    assert walk.json("models")
    assert walk.json("benchmark", "--list")
    walk("serve", "no_such_run", code=2)
    walk("push", "no_such_run", "hf://nobody/nothing", code=2)
    walk("convert", "weights.pth", "--model", "npr", code=2)
    walk("launch", "--workers", "2", "--", "evaluate", code=2)
    walk("extract-faces", "videos", "--output", "faces", code=2)
    if not whole:
        assert set(COMMANDS) - walk.called == {"ensemble", "matrix", "search", "study"}
        return

    # Fused with the first.
    walk("ensemble", "saved_models/demo", "saved_models/second", "--fusion", "mean")
    assert Path("saved_models/ensemble/fusion.html").is_file()
    walk("predict", "saved_models/ensemble", image)

    # Where an image was altered.
    walk("train", "--dataset", "forgeries", "--set", "data.image_size=64", "--set",
         "training.batch_size=8", *FEW)  # fmt: skip
    forged = next(Path("forgeries/images").rglob("*realfake*"))
    walk("predict", "saved_models/localizer", forged, "--masks", "masks")
    assert len(list(Path("masks").rglob("*.png"))) >= 3  # and one of copies

    # Many trainings.
    walk("search", "--space", "small_resnet", "--experiment", "demo", "--max-trials", "1",
         "--trial-set", "training.epochs=1", "--trial-set", "training.steps_per_epoch=2",
         "--quiet")  # fmt: skip
    walk("matrix", "--dataset", "demo", "--by", "/altered/(upsampled|noised)/", *SHORT)
    walk("study", "learning-curve", "--dataset", "demo", "--points", "2", *SHORT)
    assert walk.called == set(COMMANDS)
