"""Classification heads: features, or a mask, to logits."""

import keras
import numpy as np
from keras import layers, ops


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


def flatten(features, outputs: int, dropout: float = 0.0, l2: float = 0.01):
    """One dense layer, with L2, on all features: a logistic regression.

    Args:
        features: [B, h, w, c].
        outputs: number of logits.
        dropout: share of features dropped in training.
        l2: factor on the squared weights.

    Returns:
        Logits float32 [B, outputs].
    """
    x = layers.Flatten(name="flatten")(features)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(outputs, dtype="float32", name="label",
                        kernel_regularizer=keras.regularizers.L2(l2))(x)  # fmt: skip


def hidden(features, outputs: int, dropout: float = 0.5, l2: float = 0.0, units: int = 512):
    """Global average pooling, a dense layer with ReLU, dropout, one dense layer; GramNet's.

    Args:
        features: [B, h, w, c].
        outputs: number of logits.
        dropout: share of units dropped in training.
        l2: factor on the squared weights of the dense layer.
        units: of the dense layer.

    Returns:
        Logits float32 [B, outputs].
    """
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    x = layers.Dense(units, activation="relu", name="hidden",
                     kernel_regularizer=keras.regularizers.L2(l2))(x)  # fmt: skip
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(outputs, dtype="float32", name="label")(x)


def neighbors(
    features,
    outputs: int,
    dropout: float = 0.0,
    l2: float = 0.0,
    k: int = 1,
    bank: int = 20_000,
    known: str = "all",
):
    """The class of the nearest training images, by the cosine of their features.

    UniversalFakeDetect's other head (Ojha et al., CVPR 2023). It needs
    `training.cache_features`, which fills the bank. Only a scale and offsets are learned, of each
    image's nearest others: with more than one pass its own other copies would be among them.

    Args:
        features: [B, h, w, c].
        outputs: number of logits.
        dropout, l2: not used here.
        k: number of neighbors of each class whose cosines are averaged.
        bank: number of training images that are remembered, as many of each class.
        known: "all" classes, or "authentic": then what is far from every authentic image is fake,
            whatever fakes were trained on; for two classes.

    Returns:
        Logits float32 [B, outputs].
    """
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    return Neighbors(outputs, k, bank, known, name="label")(x)


def top_pixels(features, outputs: int, dropout: float = 0.0, l2: float = 0.0, *, mask):
    """The verdict of the mask: the mean logit of the half percent of surest altered pixels.

    So an image is called fake where its mask shows something, and only there. It has no
    weights with two classes; with more, the features say which kind of fake it is.

    Args:
        features: [B, h, w, c].
        outputs: number of logits.
        dropout, l2: as for `linear`.
        mask: logits of altered pixels float32 [B, H, W, 1].

    Returns:
        Logits float32 [B, outputs], whose P(fake) is the sigmoid of that mean.
    """
    if outputs == 1:
        return TopPixels(name="label")(mask)
    fake = TopPixels(name="altered")(mask)
    kinds = linear(features, outputs - 1, dropout, l2)
    return JoinKinds(name="kinds")([fake, kinds])


@keras.saving.register_keras_serializable("tfdetect")
class TopPixels(layers.Layer):
    """Mean of the largest logits: [B, H, W, 1] -> float32 [B, 1].

    Args:
        share: of the pixels that are taken, at least one.
    """

    def __init__(self, share: float = 0.005, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.share = share

    def call(self, mask):
        pixels = mask.shape[1] * mask.shape[2]
        flat = ops.reshape(mask, (-1, pixels))
        values, _ = ops.top_k(flat, max(1, round(self.share * pixels)))
        return ops.mean(values, axis=1, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "share": self.share}


@keras.saving.register_keras_serializable("tfdetect")
class JoinKinds(layers.Layer):
    """Logits [B, C] of the logit of fake [B, 1] and of the logits of its kinds [B, C - 1]."""

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def call(self, inputs):
        fake, kinds = inputs
        kinds = fake + ops.log_softmax(kinds)
        return ops.concatenate([ops.zeros_like(fake), kinds], axis=1)


@keras.saving.register_keras_serializable("tfdetect")
class Neighbors(layers.Layer):
    """Features [B, c] -> logits float32 [B, outputs]; see `neighbors`."""

    def __init__(
        self, outputs: int, k: int = 1, bank: int = 20_000, known: str = "all", **kwargs
    ):  # fmt: skip
        super().__init__(**{"dtype": "float32", **kwargs})
        self.outputs, self.k, self.bank, self.which = outputs, k, bank, known
        if known not in ("all", "authentic") or (known == "authentic" and outputs > 1):
            raise ValueError(f"known is all, or with two classes authentic, not {known!r}")
        self.classes = 1 if known == "authentic" else max(2, outputs)
        if not 0 < k <= bank // self.classes:
            raise ValueError(f"k is from 1 to {bank // self.classes}, not {k!r}")

    def build(self, shape):
        each = self.bank // self.classes
        self.known = self.add_weight(
            name="known", shape=(self.classes, each, shape[-1]), trainable=False,
            initializer="zeros",
        )  # fmt: skip
        # Places that no image filled are as far as can be.
        self.empty = self.add_weight(
            name="empty", shape=(self.classes, each), trainable=False, initializer="ones"
        )
        self.scale = self.add_weight(
            name="scale", shape=(), initializer=keras.initializers.Constant(3.0)
        )
        self.offset = self.add_weight(name="offset", shape=(self.classes,), initializer="zeros")

    def call(self, x, training=False):
        cosines = ops.einsum("bd,cnd->bcn", _unit(x), self.known) - 2 * self.empty
        if training:  # an image is not its own neighbor
            cosines = ops.where(cosines > 0.9999, -1.0, cosines)
        nearest, _ = ops.top_k(cosines, self.k)
        logits = ops.exp(self.scale) * ops.mean(nearest, axis=-1) + self.offset
        if self.which == "authentic":
            return -logits
        return logits[:, 1:] - logits[:, :1] if self.outputs == 1 else logits

    def remember(self, features, targets) -> None:
        """Fills the bank with features [N, h, w, c] by targets [N, 1], [N] or [N, C]."""
        classes = (
            np.argmax(targets, 1)
            if np.ndim(targets) == 2 and np.shape(targets)[1] > 1
            else (np.round(np.ravel(targets)).astype(int))
        )
        features = features.mean((1, 2))
        features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-8)
        known, empty = np.zeros(self.known.shape), np.ones(self.empty.shape)
        each = known.shape[1]
        for number in range(self.classes):
            own = features[classes == number]
            if len(own) > each:
                own = own[np.linspace(0, len(own) - 1, each).astype(int)]
            known[number, : len(own)], empty[number, : len(own)] = own, 0
        self.known.assign(known)
        self.empty.assign(empty)

    def get_config(self):
        own = {"outputs": self.outputs, "k": self.k, "bank": self.bank, "known": self.which}
        return {**super().get_config(), **own}


def _unit(x):
    return x / ops.maximum(ops.norm(x, axis=-1, keepdims=True), 1e-8)
