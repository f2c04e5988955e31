"""The head top_pixels: an image's verdict from its predicted mask."""

from typing import Any

import keras
from keras import ops

from tfdetect.core.run_migration import migrate_layer
from tfdetect.models.heads import linear
from tfdetect.models.tensors import Float32Layer, Tensor


def top_pixels(
    features: Tensor, outputs: int, dropout: float = 0.0, l2: float = 0.0, *, mask: Tensor
) -> Tensor:
    """Return the logit of fake as the mean of the highest half percent of the mask's logits.

    So an image is called fake where its mask shows something, and only there. With two classes
    the head has no weights; with more, the features say which kind of fake it is.

    Args:
        features: float [B, h, w, c].
        outputs: number of logits.
        dropout: fraction of features dropped in training, with more than two classes.
        l2: not used.
        mask: logits of altered pixels float32 [B, H, W, 1].

    Returns:
        float32 [B, outputs], whose P(fake) is the sigmoid of that mean.
    """
    if outputs == 1:
        return TopPixels(name="label")(mask)
    fake = TopPixels(name="altered")(mask)
    kinds = linear(features, outputs - 1, dropout, l2)
    return JoinKinds(name="kinds")([fake, kinds])


@keras.saving.register_keras_serializable("tfdetect")
class TopPixels(Float32Layer):
    """Mean of the highest logits of a mask: [B, H, W, 1] -> float32 [B, 1].

    Args:
        fraction: the fraction of the pixels that are averaged, at least one pixel.
    """

    def __init__(self, fraction: float = 0.005, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fraction = fraction

    def call(self, mask: Tensor) -> Tensor:
        pixels = mask.shape[1] * mask.shape[2]
        flat = ops.reshape(mask, (-1, pixels))
        values, _ = ops.top_k(flat, max(1, round(self.fraction * pixels)))
        return ops.mean(values, axis=1, keepdims=True)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "fraction": self.fraction}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TopPixels":
        return cls(**migrate_layer("TopPixels", config))


@keras.saving.register_keras_serializable("tfdetect")
class JoinKinds(Float32Layer):
    """Logits [B, C] from the logit of fake [B, 1] and the logits of its kinds [B, C - 1]."""

    def call(self, inputs: Tensor) -> Tensor:
        fake, kinds = inputs
        kinds = fake + ops.log_softmax(kinds)
        return ops.concatenate([ops.zeros_like(fake), kinds], axis=1)
