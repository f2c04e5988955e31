"""Two networks that look at the two halves of one image, and fuse what they see."""

import keras
from keras import layers

from tfdetect.core.options import Count, Counts
from tfdetect.models.backbones import Backbone
from tfdetect.models.networks.blocks import norm_relu
from tfdetect.models.small_resnet import residual_tower


def two_stream(
    shape: tuple[int, int, int],
    weights: str,
    widths: Counts = (32, 64, 128),
    blocks: Counts = (1, 1, 1),
    strides: Counts = (2, 2, 2),
    stem: Count = 16,
) -> Backbone:
    """Return a residual network for each half, whose features a convolution fuses.

    It is for images of which the lower half is another picture of the same, for example heat maps
    of a face's landmarks, as `tfdetect extract-faces --landmarks` writes them.

    Args:
        shape: (height, width, channels); the height is even.
        weights: only "none" exists.
        widths, blocks, strides, stem: the settings of each network; see `small_resnet`.

    Returns:
        Images [B, H, W, channels] in -1..1 -> features [B, h, w, widths[-1]]. They are the same
        for both halves, so that positions in them are positions in the image.
    """
    images = keras.Input(shape)
    half = shape[0] // 2
    upper = layers.Cropping2D(((0, half), (0, 0)), name="upper")(images)
    lower = layers.Cropping2D(((half, 0), (0, 0)), name="lower")(images)
    streams = [
        residual_tower(part, widths, blocks, strides, stem, name=f"{name}_")
        for part, name in ((upper, "upper"), (lower, "lower"))
    ]
    x = layers.Concatenate(name="streams")(streams)
    x = layers.Conv2D(widths[-1], 1, use_bias=False, name="fused")(x)
    x = norm_relu(x, "fused")
    x = layers.Concatenate(axis=1, name="both_halves")([x, x])
    return Backbone(keras.Model(images, x, name="two_stream"), ["both_halves"])
