"""A small residual network for small images, fast on CPUs."""

from collections.abc import Sequence

import keras
from keras import layers

from tfdetect.core.errors import UserError
from tfdetect.core.options import Count, Counts, KernelSide
from tfdetect.models.networks.blocks import norm_relu
from tfdetect.models.tensors import Tensor


def small_resnet(
    shape: tuple[int, int, int],
    weights: str,
    widths: Counts = (32, 64, 128),
    blocks: Counts = (2, 2, 2),
    strides: Counts = (1, 2, 2),
    stem: Count = 32,
    stem_size: KernelSide = 3,
    stem_stride: Count = 1,
) -> keras.Model:
    """Return a network of pre-activation residual blocks (He et al., ECCV 2016).

    Args:
        shape: (height, width, channels).
        weights: only "none" exists.
        widths: channels of each stage.
        blocks: number of blocks of each stage.
        strides: stride of each stage's first block.
        stem: channels of the first convolution.
        stem_size: side of its kernel.
        stem_stride: its stride.

    Returns:
        Images [B, H, W, channels] in -1..1 -> features [B, h, w, widths[-1]].
    """
    inputs = keras.Input(shape)
    x = residual_tower(inputs, widths, blocks, strides, stem, stem_size, stem_stride)
    return keras.Model(inputs, x, name="small_resnet")


def residual_tower(
    image: Tensor,
    widths: Sequence[int],
    blocks: Sequence[int],
    strides: Sequence[int],
    stem: int,
    stem_size: int = 3,
    stem_stride: int = 1,
    name: str = "",
) -> Tensor:
    """Return the features of `small_resnet`; `name` begins the names of its layers."""
    if not len(widths) == len(blocks) == len(strides) > 0:
        raise UserError(
            "model.options: widths, blocks and strides need one number per stage. Received: "
            f"{len(widths)}, {len(blocks)} and {len(strides)} numbers."
        )
    # The stem reads pixels: half precision would round away fine traces.
    x = layers.Conv2D(
        stem, stem_size, stem_stride, padding="same", use_bias=False,
        kernel_initializer="he_normal", dtype="float32", name=f"{name}stem",
    )(image)  # fmt: skip
    for stage, (width, count, stride) in enumerate(zip(widths, blocks, strides, strict=True)):
        for block in range(count):
            block_name = f"{name}stage{stage + 1}_block{block + 1}"
            x = _block(x, width, stride if block == 0 else 1, block_name)
    return norm_relu(x, f"{name}top")


def _conv(x: Tensor, width: int, size: int, stride: int, name: str) -> Tensor:
    return layers.Conv2D(
        width, size, strides=stride, padding="same", use_bias=False,
        kernel_initializer="he_normal", name=name,
    )(x)  # fmt: skip


def _block(x: Tensor, width: int, stride: int, name: str) -> Tensor:
    y = norm_relu(x, f"{name}_1")
    shortcut = x
    if stride > 1 or x.shape[-1] != width:
        # A slice and a plain convolution: with few channels oneDNN's kernels corrupt memory in
        # the gradient of a 1x1 convolution with a stride.
        shortcut = _conv(y[:, ::stride, ::stride], width, 1, 1, f"{name}_shortcut")
    y = _conv(y, width, 3, stride, f"{name}_1_conv")
    y = _conv(norm_relu(y, f"{name}_2"), width, 3, 1, f"{name}_2_conv")
    return layers.Add(name=f"{name}_add")([shortcut, y])
