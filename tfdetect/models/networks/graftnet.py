"""GraftNet: image, frequency bands and local statistics, joined by attention."""

from typing import Any

import keras
from keras import layers, ops

from tfdetect.core.errors import UserError
from tfdetect.core.options import Count, Counts
from tfdetect.models.backbones import Backbone
from tfdetect.models.networks.blocks import conv, conv_norm_relu, norm
from tfdetect.models.spectral_front_ends import FAD, LFS, Gray
from tfdetect.models.tensors import Float32Layer, Tensor

_CHANNELS = {2: 24, 4: 32, 8: 32}  # of a stream, by stride


def graftnet(
    shape: tuple[int, int, int],
    weights: str,
    widths: Counts = (64, 128, 256, 256),
    heads: Count = 8,
    learnable: bool = True,
) -> Backbone:
    """Return three streams of 32 maps at stride 8, joined by attention, and Xception blocks.

    A token is a flattened map: image maps are the queries, maps of local statistics (LFS) the keys,
    maps of frequency bands (FAD) the values. With three classes and the mask head `graftnet` it has
    3.14 million parameters at 224 pixels, as published. The thesis names the parts; the channels
    of streams and decoder are ours.

    Args:
        shape: (height, width, 3), multiples of 32; 224 as published.
        weights: only "none" exists.
        widths: channels of the Xception blocks; all but the first halve the sides.
        heads: the number of heads of the attention; they split the positions of a map.
        learnable: learn the frequency filters.
    """
    if shape[-1] != 3:
        raise UserError(
            "The backbone graftnet has its own front-ends: set model.front_end to pixels."
        )
    rows, columns = shape[0] // 8, shape[1] // 8
    if rows * columns % heads:
        raise UserError(
            f"model.options.heads: must divide {rows} x {columns} positions. Received: {heads}."
        )
    inputs = keras.Input(shape)  # in -1..1
    levels = layers.Rescaling(127.5, 127.5, dtype="float32", name="lfs_levels")(inputs)
    streams = {
        "image": inputs,
        "lfs": LFS(learnable=learnable, name="lfs")(Gray(name="lfs_gray")(levels)),
        "fad": FAD(learnable, name="fad")(inputs),
    }
    tokens: list[Tensor] = []
    maps: dict[int, list[str]] = {2: [], 4: []}
    for name, x in streams.items():
        for stride, channels in _CHANNELS.items():
            if x.shape[1] == shape[0] // stride:  # LFS comes at half the size
                continue
            x = conv_norm_relu(x, channels, 3, f"{name}_{stride}", strides=2)
            if stride in maps:
                maps[stride].append(f"{name}_{stride}_relu")
        x = layers.Reshape((rows * columns, x.shape[-1]), name=f"{name}_positions")(x)
        x = layers.Permute((2, 1), name=f"{name}_tokens")(x)
        tokens.append(layers.Dense(rows * columns, name=f"{name}_project")(x))
    x = MapTokens(heads, name="graft_attention")(tokens)
    x = layers.Dense(rows * columns, name="graft_project")(x)
    x = layers.Permute((2, 1), name="graft_positions")(x)
    x = layers.Reshape((rows, columns, x.shape[-1]), name="graft")(x)
    for number, width in enumerate(widths):
        x = _block(x, width, 2 if number else 1, f"block{number + 1}")
    model = keras.Model(inputs, x, name="graftnet")
    return Backbone(model, [*maps[2], *maps[4], "graft"])


def mask(image: Tensor, features: Tensor, maps: list) -> dict:
    """Return mask logits, decoded from the joined maps and the finer maps of the streams.

    Args:
        image: [B, H, W, C].
        features: not used.
        maps: those at stride 2, at stride 4, and last the joined one at stride 8.

    Returns:
        {"mask": logits float32 [B, H, W, 1]}.
    """
    *finer, x = maps
    for stride, width in ((4, 24), (2, 24), (1, 8)):
        x = layers.Conv2DTranspose(width, 2, strides=2, name=f"mask_up{stride}")(x)
        skips = [y for y in finer if y.shape[1] == x.shape[1]]
        if skips:
            x = layers.Concatenate(name=f"mask_join{stride}")([x, *skips])
            x = conv_norm_relu(x, width, 3, f"mask_{stride}")
    return {"mask": layers.Conv2D(1, 1, dtype="float32", name="mask")(x)}


def _block(x: Tensor, width: int, stride: int, name: str) -> Tensor:
    """Return two separable convolutions with a 1x1 convolution as shortcut, as in Xception."""
    skip = norm(conv(x, width, 1, f"{name}_skip", stride), f"{name}_skip_norm")
    for number in (1, 2):
        x = layers.ReLU(name=f"{name}_{number}_relu")(x)
        x = layers.SeparableConv2D(width, 3, padding="same", use_bias=False,
                                   name=f"{name}_{number}")(x)  # fmt: skip
        x = norm(x, f"{name}_{number}_norm")
    if stride > 1:
        x = layers.MaxPooling2D(3, stride, padding="same", name=f"{name}_pool")(x)
    return layers.Add(name=f"{name}_add")([x, skip])


@keras.saving.register_keras_serializable("tfdetect")
class MapTokens(Float32Layer):
    """Scaled dot-product attention [B, T, N] -> float32 [B, T, N] without weights.

    Heads split the N numbers of a token; queries, keys and values are not projected.
    """

    def __init__(self, heads: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, inputs: Tensor) -> Tensor:
        _, count, width = inputs[0].shape
        query, key, value = (
            ops.reshape(x, (-1, count, self.heads, width // self.heads)) for x in inputs
        )
        attended = ops.dot_product_attention(query, key, value)
        return ops.reshape(attended, (-1, count, width))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads}
