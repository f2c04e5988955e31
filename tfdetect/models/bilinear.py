"""Bilinear resizing."""

from typing import Any

import keras
from keras import layers, ops

from tfdetect.models.tensors import Tensor


@keras.saving.register_keras_serializable("tfdetect")
class Bilinear(layers.Layer):
    """Bilinear resizing with half-pixel centers: [B, h, w, C] -> [B, height, width, C].

    Keras's Resizing is an augmentation layer: it would put the layers after it in training mode
    wherever a model is called without the argument `training`. UpSampling2D takes whole factors.

    Args:
        height: the height of the result, in pixels.
        width: the width of the result, in pixels.
    """

    def __init__(self, height: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.height, self.width = height, width

    def call(self, x: Tensor) -> Tensor:
        # In single precision: XLA refuses the gradient of a resizing in half precision.
        x = ops.cast(x, "float32")
        larger = ops.image.resize(x, (self.height, self.width), interpolation="bilinear")
        return ops.cast(larger, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "height": self.height, "width": self.width}
