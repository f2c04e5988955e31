"""LaDeDa and Tiny-LaDeDa (Cavia et al., arXiv 2406.09398): networks that see small patches alone.

With the head `linear` the logit of an image is the mean of the logits of its patches. Layers are
named as in keras-hub's ResNet.
"""

import keras
from keras import layers

from tfdetect.models.networks.blocks import conv, conv_norm_relu, norm
from tfdetect.models.tensors import Tensor

# For each stack: width, number of blocks, stride, and the size of its first block's kernel.
_STACKS = ((64, 3, 2, 3), (128, 4, 2, 3), (256, 6, 2, 1), (512, 3, 1, 1))


def ladeda(shape: tuple[int, int, int], weights: str) -> keras.Model:
    """Return a ResNet-50 without padding, whose features see 9 x 9 pixels each, 8 pixels apart.

    Args:
        shape: (height, width, channels), at least 9 pixels.
        weights: only "none" exists.
    """
    inputs = keras.Input(shape)
    x = _stem(inputs, 64)
    for stack, (width, blocks, strides, size) in enumerate(_STACKS):
        for block in range(blocks):
            first = block == 0
            x = _bottleneck(
                x, width, size if first else 1, strides if first else 1, first,
                f"stack{stack}_block{block}",
            )  # fmt: skip
    return keras.Model(inputs, x, name="ladeda")


def tiny_ladeda(shape: tuple[int, int, int], weights: str) -> keras.Model:
    """Return four convolutions of 8 channels, whose features see 5 x 5 pixels each, 2 pixels apart.

    Args:
        shape: (height, width, channels), at least 5 pixels.
        weights: only "none" exists.
    """
    inputs = keras.Input(shape)
    x = _stem(inputs, 8)
    x = conv_norm_relu(x, 8, 1, "stack0_block0_1")
    x = conv_norm_relu(x, 8, 3, "stack0_block0_2", strides=2, padded=False)
    return keras.Model(inputs, x, name="tiny_ladeda")


def _stem(x: Tensor, width: int) -> Tensor:
    x = conv(x, width, 1, "conv1_conv")
    return conv_norm_relu(x, width, 3, "conv2", padded=False)


def _bottleneck(
    x: Tensor, width: int, size: int, strides: int, projected: bool, name: str
) -> Tensor:
    y = conv_norm_relu(x, width, 1, f"{name}_1")
    y = conv_norm_relu(y, width, size, f"{name}_2", strides, padded=False)
    y = norm(conv(y, 4 * width, 1, f"{name}_3_conv"), f"{name}_3_norm")
    if projected:
        x = norm(conv(x, 4 * width, 1, f"{name}_0_conv", strides), f"{name}_0_norm")
    # Without padding the shortcut is one position larger: its last row and column are dropped.
    x = layers.Add(name=f"{name}_add")([x[:, : y.shape[1], : y.shape[2]], y])
    return layers.ReLU(name=f"{name}_out")(x)
