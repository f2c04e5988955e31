"""Keras files are read as Keras does, without random weights that the file's replace."""

import keras
import numpy as np
import pytest
from keras.src.saving import saving_lib

from tfdetect.models.read_model import read_model


def test_weights_are_those_of_the_file_and_nothing_is_drawn_for_them(tmp_path, monkeypatch):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer="he_normal")(inputs)
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.RandomNormal(0.02))(x)
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.TruncatedNormal())(x)
    outputs = keras.layers.Dense(2, kernel_initializer="random_uniform")(x)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")

    def draw(*args, **options):
        raise AssertionError("random values were drawn")

    with monkeypatch.context() as patch:
        for name in ("normal", "uniform", "truncated_normal"):
            patch.setattr(f"keras.src.backend.random.{name}", draw)
        found = read_model(tmp_path / "model.keras")
        with pytest.raises(AssertionError, match="were drawn"):
            keras.initializers.GlorotUniform()((2, 2))
    for one, other in zip(model.get_weights(), found.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    kept = [type(layer.kernel_initializer).__name__ for layer in found.layers[1:]]
    assert kept == ["HeNormal", "RandomNormal", "TruncatedNormal", "RandomUniform"]

    (tmp_path / "broken.keras").write_bytes(b"no model")
    with pytest.raises(ValueError, match="broken"):
        read_model(tmp_path / "broken.keras")
    assert np.ptp(keras.initializers.GlorotUniform()((9, 9))) > 0.1  # random again


def test_attributes_without_weights_are_found_once_for_each_kind_of_layers():
    assert saving_lib.get_attr_skipset("Layer") is saving_lib.get_attr_skipset("Layer")
    assert "kernel" not in saving_lib.get_attr_skipset("Layer")
