"""Mask heads: feature maps of a backbone to the logits of altered pixels."""

from typing import Annotated, Literal

from keras import layers
from pydantic import Field

from tfdetect.core.errors import UserError
from tfdetect.core.options import FractionBelow1
from tfdetect.models.bilinear import Bilinear
from tfdetect.models.networks.blocks import norm_relu
from tfdetect.models.tensors import Tensor


def decoder(
    image: Tensor,
    features: Tensor,
    maps: list,
    width: Annotated[int, Field(ge=4, le=65_536)] = 64,
    finest: Literal[1, 2, 4] = 2,
) -> dict:
    """Return mask logits of a U-Net decoder: from the coarsest map to the finest, with skips.

    Where the backbone has no maps of stride 4 or finer, a stem of two strided convolutions on the
    image provides them.

    Args:
        image: normalized image [B, H, W, 3].
        features: the backbone's last features; not used.
        maps: feature maps [B, h, w, c] from fine to coarse.
        width: channels at stride 4 and coarser, at least 4; half of them at finer strides.
        finest: stride of the finest map that is used, if there is one; the logits are upsampled
            from there.

    Returns:
        {"mask": logits float32 [B, H, W, 1]}.
    """
    height = image.shape[1]
    levels = {round(height / x.shape[1]): x for x in maps}
    if not levels or min(levels) > 4:
        stem = image
        for stride in (2, 4):
            stem = _unit(stem, width // 2, f"stem{stride}", strides=2)
            levels[stride] = stem
    last = min(finest, max(levels))
    chosen = sorted((stride for stride in levels if stride >= last), reverse=True)
    x = _unit(levels[chosen[0]], width, f"mask_{chosen[0]}", size=1)
    for stride in chosen[1:]:
        channels = width if stride >= 4 else width // 2
        skip = _unit(levels[stride], channels // 2, f"mask_{stride}_skip", size=1)
        x = _upsample(x, skip.shape[1:3], f"mask_{stride}_up")
        x = layers.Concatenate(name=f"mask_{stride}_join")([x, skip])
        x = _unit(x, channels, f"mask_{stride}")
    return {"mask": _logits(x, image, "mask")}


def fcn(
    image: Tensor, features: Tensor, maps: list, aux: bool = False, dropout: FractionBelow1 = 0.1
) -> dict:
    """Return mask logits of torchvision's FCN head (Long et al., CVPR 2015), with one channel.

    On `resnet50_dilated` the detector has 32,946,753 trainable parameters, with the auxiliary
    head 35,306,818.

    Args:
        image: normalized image [B, H, W, 3].
        features: the backbone's last features.
        maps: its feature maps; the auxiliary head reads the last but one.
        aux: add the auxiliary head.
        dropout: fraction of features dropped before the last layer.

    Returns:
        {"mask": logits float32 [B, H, W, 1]}, and with `aux` also "mask_aux".
    """

    def head(x: Tensor, name: str) -> Tensor:
        x = _unit(x, x.shape[-1] // 4, f"{name}_hidden")
        x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
        return _logits(x, image, name)

    logits = {"mask": head(features, "mask")}
    if aux:
        if len(maps) < 2:
            raise UserError("model.mask_options.aux: this backbone has no feature map for it.")
        logits["mask_aux"] = head(maps[-2], "mask_aux")
    return logits


def linear(image: Tensor, features: Tensor, maps: list) -> dict:
    """Return mask logits of one layer on the last features, for backbones that decode already.

    Args:
        image: normalized image [B, H, W, 3].
        features: [B, h, w, c].
        maps: not used.

    Returns:
        {"mask": logits float32 [B, H, W, 1]}.
    """
    return {"mask": _logits(features, image, "mask")}


def _unit(x: Tensor, channels: int, name: str, size: int = 3, strides: int = 1) -> Tensor:
    x = layers.Conv2D(channels, size, strides=strides, padding="same", use_bias=False,
                      kernel_initializer="he_normal", name=f"{name}_conv")(x)  # fmt: skip
    return norm_relu(x, name)


def _logits(x: Tensor, image: Tensor, name: str) -> Tensor:
    x = layers.Conv2D(1, 1, dtype="float32", name=f"{name}_logits")(x)
    return _upsample(x, image.shape[1:3], name)


def _upsample(x: Tensor, size: tuple[int, int], name: str) -> Tensor:
    return Bilinear(*size, dtype="float32" if x.shape[-1] == 1 else None, name=name)(x)
