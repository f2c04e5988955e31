"""The networks of "Leveraging Frequency Analysis for Deep Fake Image Recognition"."""

import keras
from keras import layers

from tfdetect.models.backbones import Backbone


def frank_cnn(shape: tuple[int, int, int], weights: str) -> Backbone:
    """The small CNN of Frank et al. (ICML 2020); with the head `flatten` the published one.

    Args:
        shape: (height, width, channels); 128 pixels a side in the paper.
        weights: only "none" exists.
    """
    x = inputs = keras.Input(shape)
    for number, (filters, pool) in enumerate(((3, False), (8, True), (16, True), (32, False)), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)
        if pool:
            x = layers.AveragePooling2D(2, name=f"pool{number}")(x)
    return Backbone(keras.Model(inputs, x, name="frank_cnn"), 1 / 127.5, -1.0)


def none(shape: tuple[int, int, int], weights: str) -> Backbone:
    """No backbone: the head sees the front-end, as Frank et al.'s linear classifiers do.

    Args:
        shape: (height, width, channels).
        weights: only "none" exists.
    """
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.Identity(name="identity")(inputs), name="none")
    return Backbone(model, 1 / 127.5, -1.0)
