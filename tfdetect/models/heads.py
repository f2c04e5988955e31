"""Classification heads: features of the backbone to logits."""

from typing import Any

import keras
from keras import layers

from tfdetect.core.options import Count
from tfdetect.models.standardize import Standardize
from tfdetect.models.tensors import Tensor


def _logits(
    x: Tensor, outputs: int, dropout: float, l2: float | None = None, **options: Any
) -> Tensor:
    """Return the logits: dropout, if there is any, and the last dense layer of every head."""
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    regularizer = None if l2 is None else keras.regularizers.L2(l2)
    return layers.Dense(
        outputs, dtype="float32", kernel_regularizer=regularizer, name="label", **options
    )(x)


def linear(features: Tensor, outputs: int, dropout: float = 0.0, l2: float = 0.0) -> Tensor:
    """Return logits of global average pooling, dropout and one dense layer.

    With dropout 0.5 it is the head of the experiment deepfakeart_xception.

    Args:
        features: float [B, h, w, c].
        outputs: number of logits.
        dropout: fraction of features dropped in training.
        l2: not used.

    Returns:
        float32 [B, outputs].
    """
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    return _logits(x, outputs, dropout)


def conv_dense(features: Tensor, outputs: int, dropout: float = 0.5, l2: float = 0.01) -> Tensor:
    """Return logits of two convolutions, two dense layers with L2, dropout and a dense layer.

    It is the head of the experiment cifake_densenet121.

    Args:
        features: float [B, h, w, c].
        outputs: number of logits.
        dropout: fraction of features dropped before the last layer.
        l2: L2 regularization of the two dense layers.

    Returns:
        float32 [B, outputs].
    """
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="head_conv1")(features)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="head_conv2")(x)
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate((128, 64), 1):
        x = layers.Dense(
            units, activation="relu", kernel_regularizer=keras.regularizers.L2(l2),
            name=f"dense{number}",
        )(x)  # fmt: skip
    return _logits(x, outputs, dropout)


def standardized(features: Tensor, outputs: int, dropout: float = 0.0, l2: float = 0.01) -> Tensor:
    """Return logits of a regularized logistic regression on standardized features.

    It suits features of a frozen backbone, whose scales differ; their means and deviations are
    computed on training images before the first step.

    Args:
        features: float [B, h, w, c].
        outputs: number of logits.
        dropout: fraction of features dropped in training.
        l2: L2 regularization of the layer.

    Returns:
        float32 [B, outputs].
    """
    x = layers.GlobalAveragePooling2D(dtype="float32", name="pool")(features)
    x = Standardize(name="feature_statistics")(x)
    return _logits(x, outputs, dropout, l2, kernel_initializer="zeros")


def flatten(features: Tensor, outputs: int, dropout: float = 0.0, l2: float = 0.01) -> Tensor:
    """Return logits of one dense layer with L2 on all features: a logistic regression.

    Args:
        features: float [B, h, w, c].
        outputs: number of logits.
        dropout: fraction of features dropped in training.
        l2: L2 regularization of the layer.

    Returns:
        float32 [B, outputs].
    """
    x = layers.Flatten(name="flatten")(features)
    return _logits(x, outputs, dropout, l2)


def hidden(
    features: Tensor, outputs: int, dropout: float = 0.5, l2: float = 0.0, units: Count = 512
) -> Tensor:
    """Return logits of global average pooling, a dense layer with ReLU, dropout, a dense layer.

    It is the head of GramNet.

    Args:
        features: float [B, h, w, c].
        outputs: number of logits.
        dropout: fraction of units dropped in training.
        l2: L2 regularization of the hidden layer.
        units: the number of units of the hidden layer.

    Returns:
        float32 [B, outputs].
    """
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    x = layers.Dense(
        units, activation="relu", kernel_regularizer=keras.regularizers.L2(l2), name="hidden"
    )(x)
    return _logits(x, outputs, dropout)
