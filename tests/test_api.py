"""The Python API: `import tfdetect`."""

import copy
import importlib
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow.csv
import pytest
from conftest import SMALL
from PIL import Image

import tfdetect
import tfdetect.api
from tfdetect.api.arguments import override_texts
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.load_experiment import override
from tfdetect.core.run_info import Calibration


def run_python(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_fast_and_loads_no_tensorflow(shared_run):
    out = run_python(
        "import sys, time; start = time.perf_counter(); import tfdetect\n"
        "seconds = time.perf_counter() - start\n"
        "assert {'train', 'load', 'list_backbones'} <= set(dir(tfdetect))\n"
        "ours = {n for n in sys.modules if n.startswith('tfdetect.')}\n"
        "assert ours == {'tfdetect.core', 'tfdetect.core.after_import'}, ours\n"
        "detector = tfdetect.load(sys.argv[1])\n"
        "detector.run.metrics['test']['auc'], detector.class_names, tfdetect.list_backbones()\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
        "print(seconds)",
        shared_run[0].path,
    )
    assert float(out) < 0.2


@pytest.mark.parametrize("order", [
    "import tfdetect; function = tfdetect.train; from tfdetect.train import main",
    "from tfdetect.train import main; import tfdetect; function = tfdetect.train",
    "import tfdetect.train; from tfdetect import train as function; main = "
    "__import__('sys').modules['tfdetect.train'].main",
])  # fmt: skip
def test_a_function_and_a_command_share_a_name(order):
    run_python(
        f"{order}\n"
        "assert function.__module__.startswith('tfdetect.api'), function\n"
        "assert main.__module__ == 'tfdetect.train'\n"
        "assert tfdetect.train is function"
        if "import tfdetect;" in order
        else order
    )


def test_names_of_the_package_and_of_the_api_agree():
    assert tfdetect.__all__ == tfdetect.api.__all__
    for name in tfdetect.__all__:
        found = getattr(tfdetect, name)
        assert found is getattr(tfdetect.api, name)
        assert found.__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="cannot be replaced"):
        tfdetect.train = None
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        tfdetect.trian  # noqa: B018


def test_images_of_every_kind_get_the_same_verdict(shared_run, tmp_path):
    run, root = shared_run
    paths = sorted(Path(root, "test", "fake").glob("*.png"))[:3]
    detector = tfdetect.load(run.path)
    files = detector.predict(paths, progress=False)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    given = [
        detector.predict(str(paths[0]), progress=False),
        detector.predict(arrays[0], progress=False),
        detector.predict(Image.open(paths[0]), progress=False),
        detector.predict(paths[0].read_bytes(), progress=False),
        detector.predict([io.BytesIO(paths[0].read_bytes())], progress=False),
    ]
    alone = {found[0]["p_fake"] for found in given}
    assert len(alone) == 1 and abs(alone.pop() - files[0]["p_fake"]) < 1e-6
    assert given[0][0]["path"] == str(paths[0]) and given[1][0]["path"] == "image 1"
    batch = detector.predict(np.stack(arrays), progress=False)
    mixed = detector.predict([paths[0], arrays[1], Image.open(paths[2])], progress=False)
    for found in (batch, mixed):
        assert [row["p_fake"] for row in found] == [row["p_fake"] for row in files]
    folder = detector.predict(paths[0].parent, progress=False)
    assert given[-1][0]["path"] == "image 1"
    with pytest.raises(UserError, match="opened with mode 'rb'"):
        detector.predict(io.StringIO("text"))
    assert len(folder) == 16 and folder.unreadable == 0
    gray = arrays[0][..., 0]
    modes = [Image.fromarray(gray).convert("LA").convert("La"), Image.fromarray(gray)]
    found = detector.predict([*modes, gray], progress=False)
    assert found[0]["p_fake"] == found[1]["p_fake"] == found[2]["p_fake"]


def test_a_metric_is_a_float_that_can_be_copied_and_pickled(shared_run):
    value = shared_run[0].metrics["test"]["auc"]
    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value and (other.low, other.high) == (value.low, value.high)


def test_predictions_are_a_table(shared_run, tmp_path):
    run, root = shared_run
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    paths = [*sorted(Path(root, "test", "fake").glob("*.png"))[:2], broken]
    found = tfdetect.load(run).predict(paths, progress=False)
    assert len(found) == 3 and found.unreadable == 1
    assert found[-1]["error"] == "not an image" and found[-1]["p_fake"] is None
    assert [row["path"] for row in found[:2]] == [str(path) for path in paths[:2]]
    assert found.to_arrow().num_rows == 3
    frame = found.to_pandas()
    assert list(frame["path"]) == [str(path) for path in paths]
    assert pyarrow.csv.read_csv(found.write(tmp_path / "rows.csv")).num_rows == 3
    assert "broken.jpg" in repr(found)
    with pytest.raises(IndexError):
        found[3]
    with pytest.raises(TypeError, match=r"Take found\[0\]\['path'\] of one row"):
        found["path"]


def test_files_are_predicted_where_nothing_can_be_written(shared_run, tmp_path, monkeypatch):
    run, root = shared_run
    path = sorted(Path(root, "test", "fake").glob("*.png"))[0]
    detector = tfdetect.load(run)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert detector.predict(path, progress=False)[0]["error"] is None
    with pytest.raises(FileNotFoundError):
        detector.predict(path.read_bytes(), progress=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert detector.predict(path.read_bytes(), progress=False)[0]["error"] is None
    assert not list(tmp_path.iterdir())


def test_options_change_verdicts_and_not_the_run(shared_run):
    run, root = shared_run
    path = sorted(Path(root, "test", "fake").glob("*.png"))[0]
    before = (run.path / "run.json").read_bytes()
    fitted = Calibration(method="temperature", images=10, fake_fraction=0.5, log_loss=(1, 1))
    given = {"operating_points": {}, "abstention_band": None, "threshold": 0.5}
    detector = tfdetect.load(run.with_info(calibration=fitted, prior=0.5, **given))
    usual = detector.predict(path, progress=False)[0]
    never, rare = detector.with_options(threshold=1.0), detector.with_options(prior=0.01)
    assert never.keras_model is detector.keras_model
    assert never.predict(path, progress=False)[0]["verdict"] == "real"
    assert rare.predict(path, progress=False)[0]["p_fake"] < usual["p_fake"]
    assert (run.path / "run.json").read_bytes() == before
    with pytest.raises(UserError, match="no operating point 'fpr_2'"):
        detector.with_options(threshold="fpr_2")


@pytest.mark.parametrize(("image", "message"), [
    (np.zeros((8, 8, 3), np.float32), r"float32.*astype\('uint8'\)"),
    (np.zeros((8, 8, 5), np.uint8), r"shape \[8, 8, 5\]"),
    ("nowhere.jpg", "no file or folder 'nowhere.jpg'"),
])  # fmt: skip
def test_what_is_no_image_is_refused(shared_run, image, message):
    with pytest.raises(UserError, match=message):
        tfdetect.load(shared_run[0]).predict([image], progress=False)


def test_metrics_have_intervals(shared_run):
    auc = tfdetect.load(shared_run[0].path).run.metrics["test"]["auc"]
    assert isinstance(auc, float) and auc.low <= auc <= auc.high


def test_train_and_evaluate(folder_dataset, tmp_path, capfd):
    run = tfdetect.train(
        folder_dataset, overrides=SMALL, output=tmp_path / "runs", name="mine", progress=False,
        log=lambda text: None, images_in_report=False,
    )  # fmt: skip
    assert run.path == tmp_path / "runs" / "mine" and run.info.status == "complete"
    assert 0 <= run.metrics["test"]["auc"] <= 1
    results = tfdetect.evaluate(run, images_in_report=False, log=lambda text: None)
    assert results.metrics == run.metrics
    strict = tfdetect.evaluate(
        tfdetect.load(run).with_options(threshold=1.0).run, splits="test", images_in_report=False,
        log=lambda text: None,
    )  # fmt: skip
    assert strict.output == run.path / "evaluations" / results.run.info.dataset.name
    assert strict.metrics["test"]["recall"] <= results.metrics["test"]["recall"]
    assert json.loads((run.path / "metrics.json").read_text()) == results.values
    assert capfd.readouterr().out == ""


def test_audit_writes_only_where_it_is_told(folder_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    found = tfdetect.audit(folder_dataset, progress=False)
    assert found.verdict in ("sound", "caution", "unreliable")
    assert set(tmp_path.iterdir()) == before
    tfdetect.audit(folder_dataset, output=tmp_path / "report", progress=False)
    assert (tmp_path / "report" / "audit.html").is_file()


def test_create_detector_returns_a_plain_keras_model():
    model = tfdetect.create_detector("resnet18", image_size=64, classes=3)
    assert type(model).__module__.startswith("keras.")
    assert model.input_shape == (None, 64, 64, 3)
    assert model(np.zeros((1, 64, 64, 3), np.float32))["label"].shape == (1, 3)
    masks = tfdetect.create_detector(
        "small_resnet", (32, 48), overrides={"model.mask_head": "decoder"}
    )
    assert isinstance(masks, keras.Model)
    # A name of both lists is the published detector: a localizer, not its backbone alone.
    assert set(tfdetect.create_detector("iidnet", 64).output) == {"label", "mask"}
    assert masks.output["mask"].shape == (None, 32, 48, 1)
    with pytest.raises(UserError, match="Did you mean 'resnet18'"):
        tfdetect.create_detector("resnet81")
    with pytest.raises(UserError, match="has 2 to 65,536 classes"):
        tfdetect.create_detector("resnet18", classes=1)


def test_lists_name_what_can_be_used():
    assert "resnet50" in tfdetect.list_backbones()
    assert "demo" in tfdetect.list_experiments() and "demo" in tfdetect.list_datasets()
    assert "npr" in tfdetect.list_detectors()


def test_overrides_of_every_type_survive():
    values = {
        "training.epochs": 5, "training.optimizer.learning_rate": 1e-05, "seed": 3,
        "training.deterministic": True, "model.mask_head": None, "data.image_size": (32, 48),
        "model.weights": Path("some/run"), "data.augment": [{"name": "flip"}],
        "model.options": {"widths": [8, 16]},
    }  # fmt: skip
    found = override(Experiment(name="x"), override_texts(values))
    assert found.training.epochs == 5 and found.training.optimizer.learning_rate == 1e-05
    assert found.training.deterministic is True and found.model.mask_head is None
    assert found.data.image_size == (32, 48) and found.model.weights == "some/run"
    assert found.data.augment[0].name == "flip" and found.model.options == {"widths": [8, 16]}


def test_commands_stay_modules():
    for name in ("train", "evaluate", "audit", "search"):
        assert callable(importlib.import_module(f"tfdetect.{name}").main)
        assert callable(getattr(tfdetect, name))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(np.full((8, 8), 0.5, np.float32)), "mode 'F'"),
        (Image.new("RGB", (0, 0)), "no pixels"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((8, 8, 3)), r"\(image \* 255\)"),
        (np.zeros((8, 8, 3), np.int64), r"image.astype\('uint8'\)"),
        ("", "empty"),
    ],
)
def test_images_without_a_meaning_are_refused(shared_run, image, message):
    run, _ = shared_run
    with pytest.raises(UserError, match=message):
        tfdetect.load(run).predict(image)


def test_outputs_that_would_destroy_or_pollute_are_refused(shared_run, tmp_path):
    run, images = shared_run
    with pytest.raises(UserError, match="folder of a run"):
        tfdetect.evaluate(run, dataset=images / "test", output=run.path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        tfdetect.evaluate(run, dataset=images / "test", output=tmp_path / "file")
    with pytest.raises(UserError, match="the dataset's own folder"):
        tfdetect.prepare(images, output=images)
    for name in ("", "../evil", ".hidden", "a/b"):
        with pytest.raises(UserError, match="The name of the run cannot be used"):
            tfdetect.train(images, name=name, output=tmp_path)
    with pytest.raises(UserError, match="is a file, not the folder of a run"):
        tfdetect.load(tmp_path / "file")
    with pytest.raises(UserError, match="empty"):
        tfdetect.load("")


def test_one_name_where_several_may_stand_is_a_list_of_one(shared_run, tmp_path):
    run, _ = shared_run
    results = tfdetect.evaluate(run, splits="test", output=tmp_path / "out")
    assert list(results.metrics) == ["test"]
    with pytest.raises(UserError, match="at least two different runs"):
        tfdetect.compare(run)
