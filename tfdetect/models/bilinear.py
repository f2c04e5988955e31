"""Bilinear enlargement."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("tfdetect")
class Bilinear(layers.Layer):
    """[B, h, w, C] -> [B, height, width, C], with half-pixel centers.

    Not Keras's Resizing: that is a layer of augmentation, and switches the layers after it to
    training where a model is called without saying which.
    """

    def __init__(self, height: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.height, self.width = height, width

    def call(self, x):
        larger = ops.image.resize(x, (self.height, self.width), interpolation="bilinear")
        return ops.cast(larger, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "height": self.height, "width": self.width}
