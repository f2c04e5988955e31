"""GramNet (Liu, Qi, Torr, CVPR 2020): ResNet-18 and Gram matrices of its maps."""

from typing import Any

import keras
from keras import layers, ops

from tfdetect.core.options import Count
from tfdetect.models.backbones import build_backbone
from tfdetect.models.networks.blocks import conv_norm_relu
from tfdetect.models.tensors import Float32Layer, Tensor

_TAPS = ("conv1_relu", "pool1_pool", "stack0_block1_out", "stack1_block1_out", "stack2_block1_out")


def gramnet(shape: tuple[int, int, int], weights: str, width: Count = 32) -> keras.Model:
    """Return ResNet-18 whose pooled features are joined by texture features of six maps.

    With the head `hidden` of 512 units and two logits it has the published 11,734,723
    trainable parameters. Input is 0..255 as RGB; the published network reads BGR.

    Args:
        shape: (height, width, channels), at least 32 pixels.
        weights: the weights of the ResNet-18.
        width: channels from which Gram matrices are computed.
    """
    resnet = build_backbone("resnet18", shape, weights).model
    image = resnet.inputs[0]
    maps = [image, *(resnet.get_layer(name).output for name in _TAPS)]
    factor = Factor(name="texture_factor")
    parts = [layers.GlobalAveragePooling2D(name="resnet_pool")(resnet.output)]
    for number, x in enumerate(maps):
        name = f"gram{number}"
        x = conv_norm_relu(x, width, 3, f"{name}_1")
        x = Gram(name=name)(x)
        x = conv_norm_relu(x, 16, 3, f"{name}_2", strides=2)
        x = conv_norm_relu(x, 32, 3, f"{name}_3", strides=2)
        parts.append(factor(layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)))
    x = layers.Concatenate(name="texture")(parts)
    x = layers.Reshape((1, 1, x.shape[-1]), name="grid")(x)
    return keras.Model(image, x, name="gramnet")


@keras.saving.register_keras_serializable("tfdetect")
class Gram(Float32Layer):
    """[B, H, W, C] -> F F^T / (C H W) of the C maps, float32 [B, C, C, 1]."""

    def call(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        flat = ops.reshape(x, (-1, height * width, channels))
        flat = flat / (channels * height * width) ** 0.5  # before the product: it fits float16
        return ops.matmul(ops.transpose(flat, (0, 2, 1)), flat)[..., None]


@keras.saving.register_keras_serializable("tfdetect")
class Factor(layers.Layer):
    """Multiply by one learned number, initially 1."""

    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(name="factor", shape=(), initializer="ones")

    def call(self, x: Tensor) -> Tensor:
        return x * self.factor
