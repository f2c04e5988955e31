"""The networks of "Leveraging Frequency Analysis for Deep Fake Image Recognition"."""

import keras
from keras import layers


def frank_cnn(shape: tuple[int, int, int], weights: str) -> keras.Model:
    """Return the small CNN of Frank et al. (ICML 2020); the head `flatten` completes it.

    Args:
        shape: (height, width, channels); 128 pixels a side in the paper.
        weights: only "none" exists.
    """
    x = inputs = keras.Input(shape)
    for number, (filters, pool) in enumerate(((3, False), (8, True), (16, True), (32, False)), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)
        if pool:
            x = layers.AveragePooling2D(2, name=f"pool{number}")(x)
    return keras.Model(inputs, x, name="frank_cnn")


def none(shape: tuple[int, int, int], weights: str) -> keras.Model:
    """Return the input unchanged: the head reads the front-end, as a linear classifier.

    Args:
        shape: (height, width, channels).
        weights: only "none" exists.
    """
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Identity(name="identity")(inputs), name="none")
