"""CLIP's image transformer with coded weights."""

import keras
import numpy as np
import pytest

from tfdetect.core.errors import UserError
from tfdetect.models.coded_matrix import CodedMatrix
from tfdetect.models.networks.clip_tokens import ClipTokens, clip_tokens
from tfdetect.models.networks.encoders import number_positions
from tfdetect.models.onnx_graph import to_onnx

WIDTH, HEADS, SIDE = 48, 2, 32


def small() -> tuple[keras.Model, ClipTokens]:
    layer = ClipTokens([1, 3], width=WIDTH, heads=HEADS, name="tokens")
    inputs = keras.Input((SIDE, SIDE, 3))
    return keras.Model(inputs, layer(inputs)), layer


def randomize(layer: keras.Layer) -> None:
    rng = np.random.default_rng(0)
    for variable in layer.weights:
        if variable.dtype == "float32":
            variable.assign(rng.normal(scale=0.2, size=variable.shape))


def decoded(matrix: CodedMatrix) -> np.ndarray:
    """Return the matrix that codes stand for, float32 [inputs, outputs]."""
    found = np.asarray(matrix.codebook)[np.asarray(matrix.codes)]
    scales = np.outer(np.asarray(matrix.input_scale), np.asarray(matrix.output_scale))
    return found.reshape(len(found), -1) * scales


def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)


def test_tokens_are_those_of_keras_hub():
    import keras_hub

    encoder = keras_hub.models.CLIPVisionEncoder(
        patch_size=16, hidden_dim=WIDTH, num_layers=3, num_heads=HEADS,
        intermediate_dim=4 * WIDTH, image_shape=(SIDE, SIDE, 3),
    )  # fmt: skip
    number_positions(encoder)
    model, tokens = small()
    encoder_weights = {w.path: w for layer in encoder.layers for w in layer.weights}

    def assign(name: str, value: np.ndarray | keras.Variable) -> None:
        (found,) = (w for path, w in encoder_weights.items() if path.endswith(name))
        found.assign(np.reshape(np.asarray(value), found.shape))

    randomize(tokens)
    assign("patch_embedding/kernel", decoded(tokens.pixels))
    assign("class_embedding", tokens.start["class_token"])
    assign("position_embedding/embeddings", tokens.start["positions"])
    assign("pre_layer_norm/gamma", tokens.start["norm_scale"])
    assign("pre_layer_norm/beta", tokens.start["norm_shift"])
    for number, (matrices, vectors) in enumerate(zip(tokens.matrices, tokens.vectors)):
        start = f"encoder_block_{number}/"
        kernels = np.split(decoded(matrices["attention"]), 3, axis=1)
        biases = np.split(np.asarray(vectors["attention_bias"]), 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases):
            assign(f"{start}attention/{part}/kernel", kernel)
            assign(f"{start}attention/{part}/bias", bias)
        dense = {"joined": "attention/attention_output", "wide": "dense_1", "narrow": "dense_2"}
        for own, theirs in dense.items():
            assign(f"{start}{theirs}/kernel", decoded(matrices[own]))
            assign(f"{start}{theirs}/bias", vectors[f"{own}_bias"])
        for norm in "12":
            assign(f"{start}layer_norm_{norm}/gamma", vectors[f"norm{norm}_scale"])
            assign(f"{start}layer_norm_{norm}/beta", vectors[f"norm{norm}_shift"])
    outputs = [encoder.get_layer(f"encoder_block_{n}").output[:, 0] for n in (0, 2)]
    theirs = keras.Model(encoder.input, outputs)({"images": images()})
    expected = np.concatenate([np.asarray(token) for token in theirs], axis=1)
    found = np.asarray(model(images()))
    assert found.shape == (2, 1, 1, 2 * WIDTH)
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_keras_file_has_a_byte_for_two_or_three_weights(tmp_path):
    model, layer = small()
    randomize(layer)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(images())), np.asarray(model(images())))
    matrix = layer.matrices[0]["wide"]
    assert matrix.codes.dtype == "uint8" and matrix.codes.shape == (WIDTH, 4 * WIDTH // 3)


def test_a_matrix_gives_the_product_with_what_its_codes_stand_for():
    _, layer = small()
    randomize(layer)
    assert len(layer.matrices[0]) > 1
    for matrix in layer.matrices[0].values():
        x = np.random.default_rng(2).normal(size=(3, matrix.codes.shape[0])).astype(np.float32)
        found = np.asarray(matrix.multiply(x))
        np.testing.assert_allclose(found, x @ decoded(matrix), rtol=1e-4, atol=1e-5)


def test_codes_are_not_trained_and_codebooks_are():
    model, layer = small()
    trained = {w.name for w in layer.trainable_weights}
    assert "block1_wide_codebook" in trained and "block1_wide_codes" not in trained
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(images())))
    gradients = tape.gradient(loss, [w.value for w in layer.trainable_weights])
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("size", [(224, 200, 3), (40, 48, 3)])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(UserError, match="multiples of 16. Received: data.image_size"):
        clip_tokens(size, "none")


def test_other_weights_are_refused_with_the_way_out():
    with pytest.raises(UserError, match="photo_detector for CLIP's own weights"):
        clip_tokens((224, 224, 3), "imagenet")


def test_onnx_has_a_byte_for_each_code():
    import onnxruntime
    import tensorflow as tf

    model, layer = small()
    randomize(layer)
    signature = [tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32, name="images")]
    network = to_onnx(tf.function(lambda images: model(images), signature))
    stored = {tuple(t.dims) for t in network.graph.initializer if t.data_type == t.UINT8}
    assert {tuple(m.codes.shape) for block in layer.matrices for m in block.values()} <= stored
    floats = {tuple(t.dims) for t in network.graph.initializer if t.data_type == t.FLOAT}
    assert not floats & {decoded(m).shape for block in layer.matrices for m in block.values()}
    session = onnxruntime.InferenceSession(network.SerializeToString())
    [found] = session.run(None, {session.get_inputs()[0].name: images()})
    np.testing.assert_allclose(found, np.asarray(model(images())), rtol=1e-3, atol=1e-4)
