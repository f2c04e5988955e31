"""NIX-Net (Li et al., IJCAI 2021): an image and a noise stream."""

from typing import Literal

import keras
from keras import layers

from tfdetect.core.errors import UserError
from tfdetect.models.backbones import Backbone
from tfdetect.models.networks.blocks import conv, conv_norm_relu, norm
from tfdetect.models.tensors import Tensor

# By size: channels of the fused maps at strides 2, 4 and 8, and whether coarse maps are narrowed.
_SIZES = {40: ((128, 256, 512), True), 60: ((256, 512, 1024), True), 85: ((256, 512, 1024), False)}
_STREAM = (128, 256, 512)


def nixnet(shape: tuple[int, int, int], weights: str, size: Literal[40, 60, 85] = 60) -> Backbone:
    """Return two streams that exchange scales and are fused; features at stride 2.

    With the mask head `nixnet` it has 39,442,053, 60,046,853 and 85,226,501
    parameters, as an earlier implementation of the paper.

    Args:
        shape: (height, width, 6): the image and its noise residual; sides are multiples of 8.
        weights: only "none" exists.
        size: 40, 60 or 85, about the number of parameters in millions.
    """
    if shape[-1] != 6:
        raise UserError(
            "The backbone nixnet takes an image and three channels of noise: set model.front_end "
            f"to srm or another residual, and model.with_pixels. Received: {shape[-1]} channels."
        )
    widths, narrow = _SIZES[size]
    inputs = keras.Input(shape)
    streams = []
    for name, channels in (("image", slice(0, 3)), ("noise", slice(3, 6))):
        x, maps = inputs[..., channels], []
        for level, width in enumerate(_STREAM):
            x = _residual(x, width, f"{name}{level}")
            maps.append(x)
        streams.append(_exchange(maps, f"{name}_exchange"))
    fused = []
    for level, (pair, width) in enumerate(zip(zip(*streams), widths)):
        x = layers.Concatenate(name=f"fuse{level}")(pair)
        x = conv_norm_relu(x, x.shape[-1], 3, f"fuse{level}_1", bias=True)
        fused.append(conv_norm_relu(x, width, 3, f"fuse{level}_2", bias=True))
    fused = _exchange(fused, "fused_exchange")
    finest = []
    for level, x in enumerate(fused):
        for step in range(level, 0, -1):
            x = _up(x, widths[step - 1] if narrow else widths[level], f"finest{level}_{step}")
        finest.append(x)
    x = layers.Concatenate(name="finest")(finest)
    return Backbone(keras.Model(inputs, x, name="nixnet"), [""])


def mask(image: Tensor, features: Tensor, maps: list) -> dict:
    """Return mask logits: NIX-Net's last block.

    Its last activation is omitted: after it no logit could fall below the bias.

    Args:
        image: [B, H, W, C].
        features: [B, H / 2, W / 2, c].
        maps: not used.

    Returns:
        {"mask": logits float32 [B, H, W, 1]}.
    """
    x = conv_norm_relu(features, features.shape[-1], 3, "mask_1", bias=True)
    x = norm(conv(x, 1, 3, "mask_2_conv", bias=True), "mask_2_norm")
    x = layers.UpSampling2D(interpolation="bilinear", dtype="float32", name="mask_up")(x)
    return {"mask": layers.Conv2D(1, 1, dtype="float32", name="mask")(x)}


def _residual(x: Tensor, width: int, name: str) -> Tensor:
    shortcut = norm(conv(x, width, 1, f"{name}_shortcut", 2), f"{name}_shortcut_norm")
    x = conv_norm_relu(x, width, 3, f"{name}_1")
    x = norm(conv(x, width, 3, f"{name}_2_conv", 2), f"{name}_2_norm")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _exchange(maps: list, name: str) -> list:
    """Return each map plus the others resampled to its scale step by step, as in HRNet."""
    outputs = []
    for target, own in enumerate(maps):
        total = [own]
        for source, x in enumerate(maps):
            for step in range(source, target, -1):
                x = _up(x, maps[step - 1].shape[-1], f"{name}_{source}{target}_up{step}")
            for step in range(source, target):
                x = conv(x, maps[step + 1].shape[-1], 3, f"{name}_{source}{target}_down{step}",
                         strides=2, bias=True)  # fmt: skip
            if source != target:
                total.append(x)
        outputs.append(layers.Add(name=f"{name}_{target}")(total))
    return outputs


def _up(x: Tensor, width: int, name: str) -> Tensor:
    # In single precision: XLA refuses the gradient of a resizing in half precision.
    x = layers.UpSampling2D(interpolation="bilinear", dtype="float32", name=f"{name}_resize")(x)
    return conv(x, width, 1, name, bias=True)
