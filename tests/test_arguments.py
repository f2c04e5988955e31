"""Arguments of the wrong type or range get one plain message, before anything is done."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfdetect
from tfdetect.api.arguments import RunLike, override_texts
from tfdetect.api.checked import checked
from tfdetect.core.errors import UserError
from tfdetect.core.run_command import run_command
from tfdetect.train import main as train_main

SHIPPED = Path(__file__).parent.parent / "saved_models/cifake_small_resnet"
SIZE = {"image_size": 32}


def closed_file():
    file = io.BytesIO()
    file.close()
    return file


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        (tfdetect.load, [None], {}, "run is a run, its folder, name or address. Received: None"),
        (tfdetect.load, [""], {}, "A path is empty"),
        (tfdetect.evaluate, [tfdetect.load(SHIPPED)], {}, "type Detector. Give its attribute run."),
        (tfdetect.compare, [[SHIPPED, tfdetect.load(SHIPPED)]], {}, "Give its attribute run."),
        (tfdetect.train, [None], {}, '^Give dataset, .* For a first try: dataset="demo"$'),
        (tfdetect.train, [], {"classes": "2"}, "unexpected keyword argument 'classes'"),
        (tfdetect.train, ["demo"], {"overrides": 3}, "overrides is a mapping"),
        (tfdetect.train, ["demo"], {"overrides": {"seed": object()}}, "value of an override"),
        (tfdetect.train, ["demo"], {"resume": 3.5}, "resume is True or False or text or a path"),
        (tfdetect.create_detector, ["small_resnet"], {"classes": "2"}, "classes is a whole number"),
        (tfdetect.create_detector, ["small_resnet", -3], {}, "image_size is 1 to 8,192 pixels"),
        (tfdetect.create_detector, ["small_resnet", True], {}, "image_size is a whole number"),
        (tfdetect.evaluate, ["x"], {"batch_size": 0}, "batch_size is at least 1"),
        (tfdetect.evaluate, ["x"], {"batch_size": True}, "batch_size is a whole number"),
        (tfdetect.evidence, [None], {}, "images is text or a path. Received: None"),
        (tfdetect.evidence, ["x"], {"max_pixels": 0}, "max_pixels is at least 1"),
        (tfdetect.calibrate, ["x"], {"threshold": 7}, "lies between 0 and 1. Received: 7"),
        (tfdetect.load(SHIPPED).predict, [3], {}, "Image 1 is of type int. Give a path"),
        (tfdetect.evaluate, ["x"], {"log": None}, "log is a function. Received: None"),
        (tfdetect.load(SHIPPED).predict, ["x"], {"on_stop": 3}, "on_stop is a function or None"),
        (tfdetect.load(SHIPPED).predict, ["x"], {"pages": "/proc/x"}, "another folder with pages"),
        (tfdetect.load(SHIPPED).predict, [closed_file()], {}, "open file: .* closed file"),
        (tfdetect.compare, [3], {}, "runs is a run, its folder, name or address. Received: 3"),
        (tfdetect.export, ["x", 3], {}, "formats is text. Received: 3"),
        (tfdetect.export, ["x"], {"formats": ["onnx", None]}, "formats is text. Received: None"),
        (tfdetect.ensemble, [["a", "b"]], {"fusion": "maen"}, "fusion 'maen'. Did you mean 'mean'"),
        (tfdetect.train, ["demo"], {"gpus": 1.5}, "gpus is a whole number. Received: 1.5"),
        (tfdetect.audit, ["~no_such_user/x"], {}, "no_such_user"),
        (tfdetect.audit, ["a\0b"], {}, "null character"),
        (tfdetect.audit, ["x" * 5000], {}, "longer than file systems allow"),
        (tfdetect.register_backbone, [""], {}, "what experiments call it"),
        (tfdetect.register_backbone("nothing"), [3], {}, "is a function"),
    ],
)
def test_one_plain_message(function, arguments, options, message):
    with pytest.raises(UserError, match=message) as caught:
        function(*arguments, **options)
    assert "--set" not in str(caught.value)


def test_messages_name_arguments_and_commands_name_options(capsys, tmp_path):
    with pytest.raises(UserError, match="^Give dataset, experiment or both"):
        tfdetect.train(None)
    assert run_command(train_main, []) == 2
    assert "Give --dataset, --experiment or both" in capsys.readouterr().err

    def fails(output: str):
        raise UserError(
            "Set --output. Try: python -m tfdetect.train --output X\n--other --output=a "
            "--output=0.5."
        )

    with pytest.raises(UserError) as caught:
        checked(fails)("x")
    assert str(caught.value) == (
        'Set output. Try: python -m tfdetect.train --output X\n--other output="a" output=0.5.'
    )


def test_numbers_of_numpy_are_numbers():
    found = []

    def function(count: int, share: float, flag: bool = False):
        found.extend([count, share, flag])

    checked(function)(np.int64(3), np.float32(0.5), np.bool_(True))
    assert found == [3, 0.5, True] and [*map(type, found)] == [int, float, bool]
    values = {"a": np.int64(2), "b": (np.float32(0.5), Path("x")), "c": {"d": np.array([1, 2])}}
    assert override_texts(values) == ["a=2", "b=[0.5, x]", "c={d: [1, 2]}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 10**9}, "has 2 to 65,536 classes. Received: 1,000,000,000"),
        ({"image_size": 10**6}, "1 to 8,192 pixels a side. Received: 1000000"),
        ({"image_size": "32"}, "image_size is a whole number of pixels, .* Received: '32', of"),
        ({"image_size": (1, 2, 3)}, "or a height and a width"),
    ],
)
def test_impossible_detectors_are_refused_before_anything_is_allocated(options, message):
    with pytest.raises(UserError, match=message):
        tfdetect.create_detector("small_resnet", **options)


def test_a_detector_larger_than_the_memory_is_refused_plainly(monkeypatch):
    import tensorflow as tf

    def build(experiment, classes):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr("tfdetect.models.detector.build_detector", build)
    with pytest.raises(UserError, match="does not fit into the memory that is free"):
        tfdetect.create_detector("small_resnet", **SIZE)


def test_unknown_metrics_and_splits_are_named():
    run = tfdetect.load(SHIPPED).run
    with pytest.raises(KeyError, match="Unknown metric 'auk'. Did you mean 'auc'"):
        run.metrics["test"]["auk"]
    with pytest.raises(UserError, match="^Unknown split 'tset'. Did you mean 'test'"):
        run.metrics["tset"]
    assert run.metrics.get("tset") is None and "tset" not in run.metrics
    assert pickle.loads(pickle.dumps(run.metrics)) == run.metrics


def test_predictions_are_not_written_where_nothing_can_be(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    found = tfdetect.load(SHIPPED).predict(tmp_path / "a.png")
    with pytest.raises(UserError, match="Cannot write to /proc: .* choose another folder.$"):
        found.write("/proc/x.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UserError, match="d.csv: it is a folder. Name a file"):
        found.write(tmp_path / "d.csv")


def test_a_wrong_type_is_a_type_error_too():
    with pytest.raises(TypeError):
        tfdetect.load(3)


def test_a_backbone_that_returns_no_model(monkeypatch):
    import keras

    from tfdetect.core.registry import BACKBONES

    monkeypatch.setattr(
        BACKBONES, "_entries", dict(BACKBONES._entries)
    )  # no test after it sees them

    @tfdetect.register_backbone("returns_nothing")
    def returns_nothing(shape, weights):
        return None

    @tfdetect.register_backbone("returns_two")
    def returns_two(shape, weights):
        image = keras.Input(shape)
        return keras.Model(image, [image, image])

    for name in ("returns_nothing", "returns_two"):
        with pytest.raises(UserError, match=f"The backbone '{name}' of a plug-in .* returned"):
            tfdetect.create_detector(name, **SIZE)


def test_one_value_is_a_list_of_one():
    def several(
        names: Sequence[str], runs: RunLike | Sequence[RunLike] = (),
        gpus: str | Sequence[int] | None = None, texts: Sequence[str] | None = None,
    ):  # fmt: skip
        return names, runs, gpus, texts

    function = checked(several)
    assert function("onnx", "run", 0, "a") == (["onnx"], "run", [0], ["a"])
    assert function(("a", "b"), [Path("run")], "0,1") == (["a", "b"], [Path("run")], "0,1", None)
    assert function((name for name in "ab"), gpus=[]) == (["a", "b"], (), [], None)


def test_no_function_takes_a_text_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Unknown export format 'onxx'"):
        tfdetect.export("cifake_small_resnet", "onxx")
