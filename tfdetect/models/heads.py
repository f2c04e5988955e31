"""Classification heads: features to logits."""

import keras
from keras import layers


def linear(features, outputs: int, dropout: float = 0.0, l2: float = 0.0):
    """Global average pooling, dropout, one dense layer.

    With dropout 0.5 this is the head of note 001's DeepfakeArt Xception.

    Args:
        features: [B, h, w, c].
        outputs: number of logits.
        dropout: share of features dropped in training.
        l2: not used here.

    Returns:
        Logits float32 [B, outputs].
    """
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(outputs, dtype="float32", name="label")(x)


def conv_dense(features, outputs: int, dropout: float = 0.5, l2: float = 0.01):
    """Note 001's CIFAKE head: two convolutions, two dense layers with L2, dropout.

    Args:
        features: [B, h, w, c].
        outputs: number of logits.
        dropout: share of features dropped before the last layer.
        l2: factor on the squared weights of the dense layers.

    Returns:
        Logits float32 [B, outputs].
    """
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="head_conv1")(features)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="head_conv2")(x)
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate((128, 64), 1):
        x = layers.Dense(units, activation="relu", name=f"dense{number}",
                         kernel_regularizer=keras.regularizers.L2(l2))(x)  # fmt: skip
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(outputs, dtype="float32", name="label")(x)
