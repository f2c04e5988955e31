"""The head nearest_neighbors: the class of the most similar training images."""

from typing import Annotated, Any, Literal

import keras
import numpy as np
from keras import layers, ops
from pydantic import Field

from tfdetect.core.errors import UserError
from tfdetect.core.options import Count
from tfdetect.core.run_migration import migrate_layer
from tfdetect.models.tensors import Float32Layer, Tensor

EPSILON = 1e-8  # of a norm
SAME_IMAGE = 0.9999  # cosine similarity above which two features are one image's
INITIAL_LOG_SCALE = 3.0


def nearest_neighbors(
    features: Tensor,
    outputs: int,
    dropout: float = 0.0,
    l2: float = 0.0,
    k: Count = 1,
    bank_size: Annotated[int, Field(gt=0)] = 20_000,
    reference: Literal["all", "authentic"] = "all",
) -> Tensor:
    """Return logits from the cosine similarity to the nearest training images.

    UniversalFakeDetect's other head (Ojha et al., CVPR 2023). It needs `training.cache_features`,
    which fills the bank. Only a scale and offsets are trained, on the nearest other images of each
    image: with more than one augmented pass an image's own copies would be among them.

    Args:
        features: float [B, h, w, c].
        outputs: number of logits.
        dropout: not used.
        l2: not used.
        k: number of neighbors of each class whose similarities are averaged.
        bank_size: number of training images that are kept, equally many of each class.
        reference: classes that are kept: "all", or "authentic" for two classes, where an image far
            from every authentic one is fake, whatever fakes were trained on.

    Returns:
        float32 [B, outputs].
    """
    classes = 1 if reference == "authentic" else max(2, outputs)
    if reference == "authentic" and outputs > 1:
        raise UserError("model.head_options.reference: authentic is for two classes.")
    if k > bank_size // classes:
        raise UserError(
            f"model.head_options.k: at most bank_size / {classes} = {bank_size // classes}. "
            f"Received: {k}."
        )
    x = layers.GlobalAveragePooling2D(name="pool")(features)
    return NearestNeighbors(outputs, k, bank_size, reference, name="label")(x)


@keras.saving.register_keras_serializable("tfdetect")
class NearestNeighbors(Float32Layer):
    """Features [B, c] -> logits float32 [B, outputs]; see `nearest_neighbors`."""

    def __init__(
        self,
        outputs: int,
        k: int = 1,
        bank_size: int = 20_000,
        reference: str = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.outputs, self.k, self.bank_size, self.reference = outputs, k, bank_size, reference
        self.classes = 1 if reference == "authentic" else max(2, outputs)

    def build(self, shape: Any) -> None:
        each = self.bank_size // self.classes
        self.bank = self.add_weight(
            name="bank", shape=(self.classes, each, shape[-1]), trainable=False, initializer="zeros"
        )
        # 1 where no image is kept: such a row is the least similar.
        self.empty = self.add_weight(
            name="empty", shape=(self.classes, each), trainable=False, initializer="ones"
        )
        self.scale = self.add_weight(
            name="scale", shape=(), initializer=keras.initializers.Constant(INITIAL_LOG_SCALE)
        )
        self.offset = self.add_weight(name="offset", shape=(self.classes,), initializer="zeros")

    def call(self, x: Tensor, training: bool | None = False) -> Tensor:
        cosines = ops.einsum("bd,cnd->bcn", _unit(x), self.bank) - 2 * self.empty
        if training:  # an image is not its own neighbor
            cosines = ops.where(cosines > SAME_IMAGE, -1.0, cosines)
        nearest, _ = ops.top_k(cosines, self.k)
        logits = ops.exp(self.scale) * ops.mean(nearest, axis=-1) + self.offset
        if self.reference == "authentic":
            return -logits
        return logits[:, 1:] - logits[:, :1] if self.outputs == 1 else logits

    def fill_bank(self, features: np.ndarray, targets: np.ndarray) -> None:
        """Keep the features of training images.

        Args:
            features: float [N, h, w, c].
            targets: class numbers [N] or [N, 1], or probabilities [N, C].
        """
        if np.ndim(targets) == 2 and np.shape(targets)[1] > 1:
            classes = np.argmax(targets, 1)
        else:
            classes = np.round(np.ravel(targets)).astype(int)
        pooled = features.mean((1, 2))
        pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), EPSILON)
        bank, empty = np.zeros(self.bank.shape), np.ones(self.empty.shape)
        each = bank.shape[1]
        for number in range(self.classes):
            own = pooled[classes == number]
            if len(own) > each:
                own = own[np.linspace(0, len(own) - 1, each).astype(int)]
            bank[number, : len(own)], empty[number, : len(own)] = own, 0
        self.bank.assign(bank)
        self.empty.assign(empty)

    def get_config(self) -> dict[str, Any]:
        own = {
            "outputs": self.outputs, "k": self.k, "bank_size": self.bank_size,
            "reference": self.reference,
        }  # fmt: skip
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NearestNeighbors":
        return cls(**migrate_layer("NearestNeighbors", config))


# Keras finds a layer and its weights by the name of the class, which was this one before 0.2.
Neighbors = keras.saving.register_keras_serializable("tfdetect")(
    type("Neighbors", (NearestNeighbors,), {"__module__": __name__})
)


def _unit(x: Tensor) -> Tensor:
    return x / ops.maximum(ops.norm(x, axis=-1, keepdims=True), EPSILON)
