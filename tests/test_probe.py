"""Probes: frozen encoders, features computed once, linear and nearest-neighbor heads."""

import hashlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import OPTIONS, SMALL, fit_small, run_at, train_small
from test_models import detector

from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_model, override
from tfdetect.core.open_run import read_run
from tfdetect.core.run_command import run_command
from tfdetect.data.training_stream import TrainingStream
from tfdetect.evaluation.model_card import model_card
from tfdetect.models.convert_run import convert_run
from tfdetect.models.detector_parts import backbone_of
from tfdetect.models.inference import probabilities
from tfdetect.models.nearest_neighbors import NearestNeighbors, nearest_neighbors
from tfdetect.models.saving import load_detector, save_detector
from tfdetect.predict import main as predict
from tfdetect.train import main as train

TINY = "{hidden_dim: 32, num_layers: 1, num_heads: 2, intermediate_dim: 32}"
SIDES = {"clip": 28, "siglip": 32, "dinov2": 28, "dinov3": 32}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("encoder", SIDES)
def test_encoders_build_freeze_and_save(encoder, tmp_path):
    side = SIDES[encoder]
    model = detector(encoder, side, TINY, freeze="{fraction: 1}")
    assert [v.path.split("/")[0] for v in model.trainable_variables] == ["label", "label"]
    x = RNG.uniform(0, 255, (2, side, side, 3)).astype("float32")
    run = run_at(tmp_path, side=side)
    save_detector(model, run.model_path)
    np.testing.assert_allclose(load_detector(run)(x)["label"], model(x)["label"], atol=1e-6)
    free = detector(encoder, side, TINY)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(free(x, training=True)["label"])
    gradients = tape.gradient(loss, [v.value for v in free.trainable_variables])
    # Tokens that stand for masked patches, or a pooling that nothing reads, are not used.
    dead = [v.path for v, g in zip(free.trainable_variables, gradients) if g is None]
    assert all("mask_token" in path for path in dead)


@pytest.mark.parametrize(("encoder", "options", "message"), [
    ("clip", "{size: xl}", "model.options.size.*'l14'.*Received: 'xl'"),
    ("dinov2", "{depth: 3}", "unknown option 'depth'.*num_layers"),
])  # fmt: skip
def test_wrong_encoders_are_explained(encoder, options, message):
    with pytest.raises(UserError, match=message):
        detector(encoder, SIDES[encoder], options)


CACHED = [
    f"model.options={OPTIONS}", "model.freeze={fraction: 1}", "training.cache_features=2",
    "training.epochs=12", "training.monitor=loss", "training.optimizer.learning_rate=0.05",
    "training.schedule={name: constant}",
]  # fmt: skip


def test_a_head_learns_on_features_computed_once(folder_dataset, tmp_path, monkeypatch):
    loaded = []
    batches = TrainingStream.batches
    monkeypatch.setattr(
        TrainingStream, "batches",
        lambda self, start=0, part=None: loaded.append(start) or batches(self, start, part),
    )  # fmt: skip
    head = [
        "model.head=standardized", "model.l2=0.001", "training.optimizer.learning_rate=0.005",
    ]  # fmt: skip
    model, state = fit_small(folder_dataset, tmp_path / "fit", [*CACHED, *head])
    assert loaded == [0]  # images were read once
    layer = model.get_layer("feature_statistics")
    assert (layer.deviation.numpy() != 1).any() and (layer.mean.numpy() != 0).any()
    assert state.best < 0.62 and state.epoch == 12  # log loss; of nothing learned 0.69
    fresh = detector("small_resnet", 24, OPTIONS)
    changed = [not v.path.startswith("label") for v in model.trainable_variables]
    assert not any(changed) and len(fresh.trainable_variables) > len(changed)
    again, _ = fit_small(folder_dataset, tmp_path / "fit", [*CACHED, *head])
    assert loaded == [0]  # it has ended: no image is read again
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_cached_run_is_whole_and_resumes_alike(folder_dataset, tmp_path):
    whole = train_small(folder_dataset, tmp_path / "a", CACHED)
    assert whole.info.status == "complete"
    fit_small(folder_dataset, tmp_path / "b", [*CACHED, "training.epochs=5"])
    again, state = fit_small(folder_dataset, tmp_path / "b", CACHED)
    model = load_detector(whole)
    assert 5 < state.epoch == whole.info.epochs  # also if it stops early
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("change", [
    "model.freeze={fraction: 0.5}", "model.mask_head=decoder", "training.stages=[{epochs: 1}]",
])  # fmt: skip
def test_features_are_cached_of_frozen_backbones_only(folder_dataset, tmp_path, change):
    with pytest.raises(UserError, match="cache_features needs"):
        fit_small(folder_dataset, tmp_path, [*CACHED, change])


def test_the_linear_layer_of_universal_fake_detect(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    weight, bias = RNG.normal(size=(1, 512)).astype("float32"), np.float32([0.3])
    file = tmp_path / "fc.safetensors"
    save_file({"weight": weight, "bias": bias}, file)
    experiment = override(load_model("probe"), [
        "model.weights=none", f"model.options={{size: b16, patch_size: 14, {TINY[1:]}",
        "data.image_size=28", "training.export=[]",
    ])  # fmt: skip
    run = convert_run(file, experiment, tmp_path / "run")
    dense = load_detector(run).get_layer("label")
    np.testing.assert_array_equal(dense.kernel[:, 0], weight[0])
    np.testing.assert_array_equal(dense.bias, bias)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert run.info.published_weights.model_dump() == {"file": file.name, "sha256": digest}
    assert f"- published weights: {file.name} (SHA-256 {digest})" in model_card(run, {})


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("k", [1, 2])
def test_neighbors_by_hand(outputs, k):
    layer = NearestNeighbors(outputs, k, bank_size=30)
    layer.build((None, 5))
    classes = max(2, outputs)
    features = RNG.normal(size=(21, 1, 1, 5)).astype("float32")
    labels = np.arange(21) % classes
    targets = labels[:, None] if outputs == 1 else np.eye(3)[labels]
    layer.fill_bank(features, targets)
    x = RNG.normal(size=(4, 5)).astype("float32")
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, features[:, 0, 0])]
    cosines = unit[0] @ unit[1].T
    nearest = np.stack([np.sort(cosines[:, labels == c], axis=1)[:, -k:].mean(1)
                        for c in range(classes)], axis=1) * np.exp(3)  # fmt: skip
    expected = nearest[:, 1:] - nearest[:, :1] if outputs == 1 else nearest
    np.testing.assert_allclose(layer(x), expected, atol=1e-4)
    # In training an image does not find itself.
    own = layer(features[:3, 0, 0], training=True)
    assert np.abs(own - layer(features[:3, 0, 0])).max() > 0.1
    with pytest.raises(UserError, match="k: at most bank_size / 2 = 5. Received: 9"):
        nearest_neighbors(keras.Input((1, 1, 5)), 1, k=9, bank_size=10)


def test_neighbors_of_authentic_images_alone():
    layer = NearestNeighbors(1, 2, bank_size=30, reference="authentic")
    layer.build((None, 5))
    features = RNG.normal(size=(21, 1, 1, 5)).astype("float32")
    labels = np.arange(21) % 2
    layer.fill_bank(features, labels[:, None])
    x = RNG.normal(size=(4, 5)).astype("float32")
    own = features[labels == 0, 0, 0]
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, own)]
    nearest = np.sort(unit[0] @ unit[1].T, axis=1)[:, -2:].mean(1, keepdims=True)
    np.testing.assert_allclose(layer(x), -np.exp(3) * nearest, atol=1e-4)
    assert type(layer).from_config(layer.get_config()).reference == "authentic"
    with pytest.raises(UserError, match="authentic is for two classes"):
        nearest_neighbors(keras.Input((1, 1, 5)), 3, reference="authentic")
    with pytest.raises(UserError, match="head_options.reference.*Received: 'fake'"):
        detector("small_resnet", 32, {}, "nearest_neighbors", head_options="{reference: fake}")


def test_neighbors_tell_clusters_apart():
    label = np.arange(200) % 2
    x = (RNG.normal(0, 1, (200, 1, 1, 8)) + 2 * label[:, None, None, None]).astype("float32")
    features = keras.Input((1, 1, 8))
    model = keras.Model(features, nearest_neighbors(features, 1, k=3, bank_size=100))
    model.get_layer("label").fill_bank(x[:120].copy(), label[:120, None])
    model.compile(keras.optimizers.Adam(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
    start = model.evaluate(x[120:], label[120:], verbose=0)
    model.fit(x[:120], label[:120], epochs=20, verbose=0)
    assert ((model.predict(x[120:], verbose=0)[:, 0] > 0) == label[120:]).mean() > 0.85
    assert model.evaluate(x[120:], label[120:], verbose=0) < min(start, 0.4)


def test_content_is_pretrained_and_gives_no_verdicts(folder_dataset, tmp_path, capsys):
    """What photographs show, then what is unlike all of them."""
    spec = tmp_path / "content.yaml"
    spec.write_text(
        "name: content\npattern: '(?P<split>train|test)/(?P<class>real|fake)/.*'\n"
        "splits: {train: train, test: test}\npretraining: true\n"
        "classes: [{name: smooth, folders: [real]}, {name: checkered, folders: [fake]}]\n"
    )
    settings = (*SMALL, f"model.options={OPTIONS}")
    shared = [*(part for text in settings for part in ("--set", text)), "--quiet",
              "--output", str(tmp_path)]  # fmt: skip
    assert run_command(train, [
        "--dataset", str(spec), "--data-dir", str(folder_dataset), "--experiment", "demo",
        "--name", "content", *shared,
    ]) == 0  # fmt: skip
    out = capsys.readouterr()
    assert "python -m tfdetect.train --set model.weights=" in out.out
    assert "report" not in out.out and "audit" not in out.err
    assert not {"report.html", "metrics.json", "saved_model", "predictions"} & {
        path.name for path in (tmp_path / "content").iterdir()
    }  # fmt: skip
    assert run_command(predict, [str(tmp_path / "content"), str(folder_dataset)]) == 2
    assert "learned what photographs show" in capsys.readouterr().err
    overrides = [*CACHED, "model.head=nearest_neighbors",
                 "model.head_options={reference: authentic}",
                 f"model.weights={tmp_path / 'content'}", "training.cache_features=1"]  # fmt: skip
    model, _ = fit_small(folder_dataset, tmp_path / "fit", overrides)
    kernel = load_detector(read_run(tmp_path / "content")).get_weights()[0]
    np.testing.assert_array_equal(model.get_weights()[0], kernel)


def test_neighbors_learn_and_save(folder_dataset, tmp_path):
    overrides = [*CACHED, "model.head=nearest_neighbors", "model.head_options={bank_size: 60}",
                 "training.cache_features=1"]  # fmt: skip
    model, _ = fit_small(folder_dataset, tmp_path / "fit", overrides)
    assert float(model.get_layer("label").scale) != 3.0
    assert model.get_layer("label").empty.numpy().sum() == 0
    assert {v.path for v in model.trainable_variables} == {"label/scale", "label/offset"}
    run = run_at(tmp_path)
    save_detector(model, run.model_path)
    x = RNG.uniform(0, 255, (2, 24, 24, 3)).astype("float32")
    table = probabilities(model(x, training=False)["label"])
    np.testing.assert_allclose(probabilities(load_detector(run)(x)["label"]), table, atol=1e-5)
    assert isinstance(backbone_of(model), keras.Model)
