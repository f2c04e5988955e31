"""Low-rank adaptation of encoders: what is trained, what it starts from, what is saved."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import fit_small, run_at, train_small

from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.models.detector import build_detector
from tfdetect.models.detector_parts import backbone_of, describe
from tfdetect.models.low_rank import adapted_layers, merge
from tfdetect.models.saving import load_detector, save_detector

LAYOUT = "{patch_size: 16, num_layers: 2, hidden_dim: 16, num_heads: 2, intermediate_dim: 32}"
ENCODER = ["model.backbone=dinov3", f"model.options={LAYOUT}", "data.image_size=32",
           "model.head=linear"]  # fmt: skip


def build(*settings):
    keras.utils.set_random_seed(0)
    return build_detector(load_experiment("demo", [*ENCODER, *settings]), 2)


def logits(model):
    images = tf.random.stateless_uniform([2, 32, 32, 3], [1, 2], 0, 255)
    return np.asarray(model(images, training=False)["label"])


@pytest.mark.parametrize("start", ["residual", pytest.param("zero", marks=pytest.mark.slow)])
def test_small_matrices_alone_are_trained_and_merged(start, tmp_path):
    plain = build()
    model = build(f"model.lora={{rank: 2, alpha: 4, start: {start}}}")
    scaled = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    before, same = backbone_of(plain)(scaled), backbone_of(model)(scaled)
    np.testing.assert_allclose(same, before, atol=1e-5)
    layers = adapted_layers(model)
    assert [layer.name for layer in layers] == 2 * ["v_proj", "q_proj"]
    head = 16 + 1
    assert sum(v.shape.num_elements() for v in model.trainable_variables) == head + 4 * 2 * 32
    assert "low-rank matrices in 4 layers" in describe(model, "vit")
    if start == "residual":  # the frozen part has lost its two smallest components
        kernel = layers[0]._kernel.numpy()
        assert np.linalg.matrix_rank(kernel, tol=1e-5) == 14
        values = np.linalg.svd(layers[0].kernel.numpy(), compute_uv=False)
        np.testing.assert_allclose(
            np.linalg.svd(kernel, compute_uv=False)[:14], values[:14], rtol=1e-4
        )
    model.compile("adam", {"label": keras.losses.BinaryCrossentropy(from_logits=True)})
    frozen = [v.numpy() for v in model.non_trainable_variables]
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    model.fit(images, {"label": np.array([[0.0], [1.0], [0.0], [1.0]])}, epochs=2, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(frozen, model.non_trainable_variables))
    learned = logits(model)
    assert not np.allclose(backbone_of(model)(scaled), before, atol=1e-4)
    merge(model)
    run = run_at(tmp_path, side=32)
    save_detector(model, run.model_path)
    again = load_detector(run)
    assert again.count_params() == plain.count_params() and not adapted_layers(again)
    np.testing.assert_allclose(logits(again), learned, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.lora={targets: [nothing]}"], "matches 'nothing'. Its dense layers are"),
        (["model.lora={rank: 17}"], "have rank 16"),
        (["model.lora={}", "model.freeze={first: 1}"], "leave freeze out"),
        (
            ["model.lora={}", "model.options={}", "model.backbone=small_resnet"],
            "Its dense layers are none",
        ),
    ],
)
def test_wrong_rules_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        build(*settings)


@pytest.mark.slow
def test_an_adapted_training_resumes_exactly_and_is_exported(folder_dataset, tmp_path):
    settings = [*ENCODER, "model.lora={rank: 2, start: residual}", "training.epochs=3",
                "training.checkpoint_minutes=0"]  # fmt: skip
    whole, _ = fit_small(folder_dataset, tmp_path / "whole", settings)

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 12:
                raise Killed

    with pytest.raises(Killed):
        fit_small(folder_dataset, tmp_path / "parts", settings, callbacks=[Kill()])
    resumed, _ = fit_small(folder_dataset, tmp_path / "parts", settings)
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        assert np.array_equal(a, b)
    run = train_small(folder_dataset, tmp_path, [*settings, "training.export=[saved_model, onnx]"])
    formats = json.loads((run.path / "exports" / "exports.json").read_text())
    assert {each["format"] for each in formats} == {"saved_model", "onnx"}
    assert max(each["max_difference"] for each in formats) < 1e-4


@pytest.mark.slow
def test_parameters_of_published_recipes():
    """DINOv3-IML: rank 32 on queries, keys and values of ViT-L, beside its mask head."""
    settings = ["model.backbone=dinov3", "model.options={size: l}", "data.image_size=224",
                "model.lora={rank: 32, alpha: 64, targets: ['[qkv]_proj']}"]  # fmt: skip
    model = build(*settings)
    matrices = sum(v.shape.num_elements() for v in model.trainable_variables) - 1025
    assert matrices == 24 * 3 * 32 * 2 * 1024  # 4.7 million
