"""Arguments of the wrong type or range get one plain message, before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import tfdetect
from tfdetect.api.arguments import RunLike, checked
from tfdetect.core.errors import UserError

SIZE = {"image_size": 32}


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        (tfdetect.load, [None], {}, "run is a run, its folder, name or address. Received: None"),
        (tfdetect.load, [""], {}, "A path is empty"),
        (tfdetect.train, [], {"classes": "2"}, "unexpected keyword argument 'classes'"),
        (tfdetect.train, ["demo"], {"overrides": 3}, "overrides is a mapping"),
        (tfdetect.train, ["demo"], {"overrides": {"seed": object()}}, "value of an override"),
        (tfdetect.train, ["demo"], {"resume": 3.5}, "resume is True or False or text or a path"),
        (tfdetect.create_detector, ["small_resnet"], {"classes": "2"}, "classes is a whole number"),
        (tfdetect.create_detector, ["small_resnet", -3], {}, "^model.backbone=small_resnet"),
        (tfdetect.create_detector, ["small_resnet", True], {}, "data.image_size"),
        (tfdetect.evaluate, ["x"], {"batch_size": 0}, "batch_size is at least 1"),
        (tfdetect.evaluate, ["x"], {"batch_size": True}, "batch_size is a whole number"),
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
