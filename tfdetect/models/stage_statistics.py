"""Means and standard deviations of feature maps: what a head on a frozen backbone reads."""

from collections.abc import Sequence

import keras
from keras import layers, ops

from tfdetect.models.tensors import Float32Layer, Tensor

_EPSILON = 1e-6  # keeps the gradient of a constant map's deviation finite


def stage_statistics(maps: Sequence[Tensor]) -> Tensor:
    """Return the means and deviations of several feature maps as one position.

    Args:
        maps: float [B, h, w, c] each, of any sizes.

    Returns:
        float32 [B, 1, 1, F], where F is twice the number of all channels.
    """
    x = layers.Concatenate(dtype="float32", name="statistics")(
        [MeanAndDeviation(name=f"statistics_{n + 1}")(x) for n, x in enumerate(maps)]
    )
    return layers.Reshape((1, 1, x.shape[-1]), dtype="float32", name="statistics_map")(x)


@keras.saving.register_keras_serializable("tfdetect")
class MeanAndDeviation(Float32Layer):
    """Feature map [B, h, w, c] -> means and standard deviations over positions [B, 2 c]."""

    def call(self, x: Tensor) -> Tensor:
        mean, variance = ops.moments(x, axes=(1, 2))
        return ops.concatenate([mean, ops.sqrt(variance + _EPSILON)], axis=-1)
