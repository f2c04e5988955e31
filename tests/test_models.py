"""Every registered backbone and head: builds, learns, saves; published counts."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdetect.errors import UserError
from tfdetect.experiment import INPUT_SIZES, load_experiment
from tfdetect.models.detector import build_detector, describe, probabilities
from tfdetect.registry import AUGMENTATIONS, BACKBONES, HEADS, resolve

# One reduced model a family; keras.applications has no smaller ones.
REDUCED = {
    "small_resnet": (16, {"widths": [8, 16], "blocks": [1, 1], "strides": [1, 2], "stem": 8}),
    "resnet18": (32, {"stackwise_num_filters": [64, 16, 16, 16],
                      "stackwise_num_blocks": [1, 1, 1, 1]}),
    "swin_t": (224, {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}),
}  # fmt: skip


def detector(backbone, size, options=None, head="linear", classes=2, **model):
    experiment = load_experiment("demo", [
        f"model.backbone={backbone}", f"data.image_size={size}", f"model.options={options or {}}",
        f"model.head={head}", *(f"model.{k}={v}" for k, v in model.items()),
    ])  # fmt: skip
    return build_detector(experiment, classes)


def images(count, size):
    return tf.random.stateless_uniform([count, size, size, 3], [1, 2], 0, 255)


@pytest.mark.parametrize("kind", [BACKBONES, HEADS, AUGMENTATIONS])
def test_every_registered_name_resolves(kind):
    for name in kind:
        assert callable(resolve("name", kind, name))
    assert set(INPUT_SIZES) == set(BACKBONES)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("backbone", REDUCED)
def test_builds_learns_and_saves(backbone, classes, head, tmp_path):
    size, options = REDUCED[backbone]
    model = detector(backbone, size, options, head, classes)
    x = images(2, size)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)["label"]
        loss = tf.reduce_mean(tf.square(logits - 1.0))
    assert logits.shape == (2, 1 if classes == 2 else classes)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    dead = [v.path for v, g in zip(model.trainable_variables, gradients) if g is None]
    assert dead == []
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path, compile=False)
    np.testing.assert_allclose(
        again(x, training=False)["label"], model(x, training=False)["label"], atol=1e-6
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("backbone", REDUCED)
def test_mixed_precision_is_finite_and_ends_in_float32(backbone, policy):
    size, options = REDUCED[backbone]
    keras.mixed_precision.set_global_policy(policy)
    logits = detector(backbone, size, options)(images(2, size), training=True)["label"]
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()


# Published counts of the trunk and of the trunk with one logit.
COUNTS = {
    "resnet18": (224, 11_176_512, 11_177_025),
    "resnet50": (224, 23_508_032, 23_510_081),
    "swin_t": (224, 27_519_354, 27_520_123),
    "xception": (299, 20_806_952, 20_809_001),
    "densenet121": (224, 6_953_856, 6_954_881),
}


@pytest.mark.parametrize("backbone", COUNTS)
def test_published_parameter_counts(backbone):
    size, trunk, whole = COUNTS[backbone]
    model = detector(backbone, size)
    nested = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    assert sum(int(tf.size(v.value)) for v in nested.trainable_variables) == trunk
    assert sum(int(tf.size(v.value)) for v in model.trainable_variables) == whole


PREPROCESSING = {
    "densenet121": keras.applications.densenet,
    "xception": keras.applications.xception,
}


@pytest.mark.parametrize("backbone", PREPROCESSING)
def test_preprocessing_is_that_of_the_weights(backbone):
    model = detector(backbone, 71)
    x = images(2, 71)
    ours = model.get_layer("preprocess")(x)
    theirs = PREPROCESSING[backbone].preprocess_input(x.numpy().copy())
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_fused_normalisation_is_keras_own():
    from tfdetect.models.small_resnet import FusedBatchNormalization

    x = tf.random.stateless_normal([8, 5, 6, 4], [3, 4]) * 3 + 1
    ours, theirs = (
        FusedBatchNormalization(momentum=0.9),
        keras.layers.BatchNormalization(momentum=0.9),
    )
    for layer in (ours, theirs):
        layer.build(x.shape)
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=1e-5)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, atol=1e-6)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, atol=1e-5)
    np.testing.assert_allclose(ours(x, training=False), theirs(x, training=False), atol=1e-5)


def test_freezing_by_number_share_and_name():
    options = REDUCED["small_resnet"][1]
    free = detector("small_resnet", 16, options)
    layers = len(next(m for m in free.layers if isinstance(m, keras.Model)).layers)
    first = detector("small_resnet", 16, options, freeze="{first: 5}")
    half = detector("small_resnet", 16, options, freeze="{share: 0.5}")
    stem = detector("small_resnet", 16, options, freeze="{names: [stem, stage1*]}")
    assert f"0 of {layers} backbone layers frozen" in describe(free)
    assert f"5 of {layers} backbone layers frozen" in describe(first)
    assert f"{round(layers / 2)} of {layers} backbone layers frozen" in describe(half)
    trainable = {v.path for v in stem.trainable_variables}
    assert trainable and not any("stem" in p or "stage1" in p for p in trainable)
    assert len(free.trainable_variables) > len(first.trainable_variables)
    with pytest.raises(UserError, match="no layer matches 'stm'"):
        detector("small_resnet", 16, options, freeze="{names: [stm]}")
    with pytest.raises(UserError, match="there are"):
        detector("small_resnet", 16, options, freeze="{first: 5000}")


def test_weights_from_a_run_and_their_errors(shared_run, tmp_path):
    run, _ = shared_run
    options = "{widths: [8, 16], blocks: [1, 1], strides: [1, 2], stem: 8}"
    model = detector("small_resnet", 48, options, weights=run.path)
    source = keras.saving.load_model(run.model_path, compile=False)
    nested = [next(m for m in d.layers if isinstance(m, keras.Model)) for d in (model, source)]
    for ours, theirs in zip(nested[0].get_weights(), nested[1].get_weights()):
        assert np.array_equal(ours, theirs)
    with pytest.raises(UserError, match="holds another backbone"):
        detector("small_resnet", 48, weights=run.path)
    with pytest.raises(UserError, match="no run and no .keras file"):
        detector("small_resnet", 48, weights=tmp_path / "none.keras")


@pytest.mark.parametrize("options", ["{width: 3}", "{widths: [8], blocks: [1, 1]}"])
def test_wrong_options_are_explained(options):
    with pytest.raises(UserError, match=r"model\.options"):
        detector("small_resnet", 16, options)


def test_weights_without_a_network_say_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    for backbone, size in (("densenet121", 32), ("xception", 71), ("resnet18", 32)):
        with pytest.raises(UserError, match="model.weights=none"):
            detector(backbone, size, weights="imagenet")


def test_probabilities():
    two = probabilities(tf.constant([[0.0], [40.0], [-40.0]])).numpy()
    np.testing.assert_allclose(two, [[0.5, 0.5], [0, 1], [1, 0]], atol=1e-6)
    three = probabilities(tf.constant([[1.0, 2.0, 3.0]])).numpy()
    assert abs(three.sum() - 1) < 1e-6 and three.argmax() == 2
