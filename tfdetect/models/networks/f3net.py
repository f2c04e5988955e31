"""F3-Net (Qian et al., ECCV 2020): forgeries in frequencies, over one or two Xceptions."""

from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal

import keras
from keras import layers, ops
from pydantic import Field

from tfdetect.core.errors import UserError
from tfdetect.models.backbones import Backbone, build_backbone, inflate
from tfdetect.models.bilinear import Bilinear
from tfdetect.models.networks.blocks import norm
from tfdetect.models.spectral_front_ends import FAD, LFS, Gray
from tfdetect.models.tensors import Float32Layer, Tensor


def f3net(
    shape: tuple[int, int, int],
    weights: str,
    mode: Literal["baseline", "fad", "lfs", "both", "mix"] = "mix",
    middle_blocks: Annotated[int, Field(ge=1, le=8)] = 8,
    mix_after: tuple[int, int] = (8, 13),
    learnable: bool = True,
    public_code: bool = False,
) -> Backbone:
    """Return Xceptions on frequency-aware decomposition and on local frequency statistics.

    At 299 pixels, with one logit, the whole network has 48,314,929 trainable parameters. For
    `f3net_faces` it has 224 pixels, middle_blocks 4 and mix_after [9, 12]; the count published for
    that one includes a layer of 6,147 parameters in each Xception that nothing uses.

    Args:
        shape: (height, width, 3).
        weights: of the Xceptions: "none" or "imagenet", whose first kernels are repeated for 12 and
            6 channels.
        mode: "baseline" (Xception alone), "fad", "lfs", "both" side by side, or "mix", with
            cross-attention between the two.
        middle_blocks: number of Xception's eight middle blocks that are kept, the last ones.
        mix_after: blocks of Xception, as Keras counts them, after which the streams mix: from the
            second on, where both streams have the same size, and none that `middle_blocks` leaves
            out.
        learnable: learn the frequency filters.
        public_code: compute as github.com/yyk-wew/F3Net does, for weights trained there: bands
            that overlap, means of logarithms, and PyTorch's padding and epsilon in the Xceptions.
    """
    if not 1 < mix_after[0] < mix_after[1] < 14:
        raise UserError(
            "model.options.mix_after: two blocks of Xception, from 2 to 13 and rising. Received: "
            f"{mix_after}."
        )
    inputs = keras.Input(shape)  # in -1..1
    removed = range(5, 13 - middle_blocks)
    if mode == "mix" and (missing := [block for block in mix_after if block in removed]):
        raise UserError(
            f"model.options.mix_after: middle_blocks {middle_blocks} leaves out blocks "
            f"{removed[0]} to {removed[-1]}, after which nothing can mix. Received: "
            f"{missing[0]}. Take blocks up to {removed[0] - 1} or from {removed[-1] + 1}."
        )
    streams = {}
    if mode == "baseline":
        streams["image"] = inputs
    if mode in ("fad", "both", "mix"):
        streams["fad"] = FAD(learnable, public_code, name="fad")(inputs)
    if mode in ("lfs", "both", "mix"):
        half = 122.5 if public_code else 127.5
        levels = layers.Rescaling(half, half, dtype="float32", name="lfs_levels")(inputs)
        statistics = LFS(learnable=learnable, mean_of_logs=public_code, name="lfs")
        streams["lfs"] = statistics(Gray(name="lfs_gray")(levels))
    cuts = tuple(mix_after) if mode == "mix" else ()
    parts = {
        name: _parts(x.shape[1:], weights, name, removed, cuts, public_code)
        for name, x in streams.items()
    }
    maps = None
    for step in range(len(cuts) + 1):
        streams = {name: parts[name][step](x) for name, x in streams.items()}
        if step < len(cuts):
            names = [f"mix{step + 1}_{name}" for name in streams]
            first, second = streams.values()
            pair = mix_block(first, second, f"mix{step + 1}", names)
            streams, maps = dict(zip(streams, pair)), names
    features = list(streams.values())
    x = layers.Concatenate(name="streams")(features) if len(features) > 1 else features[0]
    return Backbone(keras.Model(inputs, x, name="f3net"), maps)


def mask(image: Tensor, features: Tensor, maps: list, linear: bool = True) -> dict:
    """Return mask logits: a decoder of both streams after their second mixing.

    Args:
        image: [B, H, W, C].
        features: not used.
        maps: feature maps; the last two, of the same size, are used.
        linear: no activations between the transposed convolutions, as published.

    Returns:
        {"mask": logits float32 [B, H, W, 1]}.
    """
    x = layers.Concatenate(name="mask_streams")(maps[-2:])
    x = layers.Conv2D(x.shape[-1] // 2, 1, name="mask_narrow")(x)
    for number, width in enumerate((256, 128, 64, 32), 1):
        if not linear:
            x = layers.ReLU(name=f"mask_relu{number}")(x)
        x = layers.Conv2DTranspose(width, 2, strides=2, name=f"mask_up{number}")(x)
    x = layers.Conv2D(1, 1, dtype="float32", name="mask_logits")(x)
    return {"mask": Bilinear(*image.shape[1:3], dtype="float32", name="mask")(x)}


def mix_block(first: Tensor, second: Tensor, name: str, names: list[str]) -> Tensor:
    """Return two maps [B, s, s, C] with attention to each other; initially the identity."""
    channels = first.shape[-1]

    def both(axis: int, key: str) -> Tensor:
        pair = [
            layers.Conv2D(channels, 1, name=f"{name}_{key}{i}")(x)
            for i, x in enumerate((first, second))
        ]
        return layers.Concatenate(axis=axis, name=f"{name}_{key}")(pair)

    attention = MapAttention(name=f"{name}_attention")([both(2, "query"), both(1, "key")])

    def add(x: Tensor, other: Any, title: str) -> Tensor:
        y = layers.Multiply(name=f"{title}_attended")([other, attention])
        y = Gate(name=f"{title}_gate")(y)
        y = layers.DepthwiseConv2D(1, name=f"{title}_conv")(y)
        return layers.Add(name=title)([x, norm(y, f"{title}_norm")])

    return add(first, second, names[0]), add(second, first, names[1])


def _parts(
    shape: tuple, weights: str, name: str, removed: range, cuts: tuple, public_code: bool
) -> list:
    """Return an Xception without some of its blocks, as functions, split after others."""
    model = build_backbone("xception", shape, "none").model
    if weights != "none":
        inflate(model, build_backbone("xception", (*shape[:2], 3), weights).model)
    if name == "lfs" or public_code:
        # Local frequency statistics are at half the size already.
        changes = partial(_changed, finer=name == "lfs", public_code=public_code)
        weights_before = model.get_weights()
        model = keras.models.clone_model(model, clone_function=changes)
        model.set_weights(weights_before)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # the public code's, in Keras's meaning
    adds = [layer for layer in model.layers if isinstance(layer, layers.Add)]  # blocks 2 to 13
    ends = {0: model.inputs[0], 14: model.output,
            **{block: layer.output for block, layer in enumerate(adds, 2)}}  # fmt: skip
    parts = []
    for begin, end in pairwise((0, *cuts, 14)):
        models = [
            keras.Model(ends[a], ends[b], name=f"{name}_blocks{a + 1}_{b}")
            for a, b in _runs(begin, end, removed)
        ]
        for piece in models:
            piece.autocast = False
        parts.append(lambda x, models=models: _chain(models, x))
    return parts


def _runs(begin: int, end: int, removed: range) -> list[tuple[int, int]]:
    """Return the runs of blocks after `begin` and up to `end` that are not removed.

    Each is (the block before its first one, its last block).
    """
    if not removed:
        return [(begin, end)]
    runs = [(begin, min(end, removed.start - 1)), (max(begin, removed.stop - 1), end)]
    return [(before, last) for before, last in runs if before < last]


def _chain(models: list, x: Tensor) -> Tensor:
    for model in models:
        x = model(x)
    return x


def _changed(layer: layers.Layer, finer: bool, public_code: bool) -> layers.Layer:
    config = layer.get_config()
    if finer and layer.name == "block1_conv1":
        config["strides"] = 1
    if public_code and isinstance(layer, layers.BatchNormalization):
        config["epsilon"] = 1e-5
    if public_code and isinstance(layer, layers.MaxPooling2D):
        return CenteredMaxPooling(name=layer.name)
    return type(layer).from_config(config)


@keras.saving.register_keras_serializable("tfdetect")
class CenteredMaxPooling(layers.Layer):
    """3x3 max pooling with stride 2 and padding on all sides, as in PyTorch.

    Keras's "same" pads images of even sides on the bottom and on the right only.
    """

    def call(self, x: Tensor) -> Tensor:
        # The lowest number of half precision: no padding is ever the maximum.
        x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-65504.0)
        return ops.max_pool(x, 3, 2, padding="valid")


# What the layer is called in files from before 0.2.
keras.saving.get_custom_objects()["tfdetect>CenterdMaxPooling"] = CenteredMaxPooling


@keras.saving.register_keras_serializable("tfdetect")
class MapAttention(Float32Layer):
    """Attention of each channel [B, h, w, C] from queries [B, h, 2 w, C], keys [B, 2 h, w, C]."""

    def call(self, inputs: Tensor) -> Tensor:
        queries, keys = (ops.transpose(x, (0, 3, 1, 2)) for x in inputs)
        return ops.transpose(ops.softmax(ops.matmul(queries, keys)), (0, 2, 3, 1))


@keras.saving.register_keras_serializable("tfdetect")
class Gate(layers.Layer):
    """Multiply by 2 sigmoid(g) - 1, where g is learned and initially 0."""

    def build(self, shape: Any) -> None:
        self.gate = self.add_weight(name="gate", shape=(), initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        return x * (2 * ops.sigmoid(self.gate) - 1)
