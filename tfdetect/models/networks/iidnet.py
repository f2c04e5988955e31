"""IID-Net (Wu & Zhou, TCSVT 2022): inpainting traces, by cells from architecture search."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from pydantic import Field

from tfdetect.core.options import Count
from tfdetect.models.backbones import Backbone
from tfdetect.models.networks.blocks import conv, conv_norm_relu, norm
from tfdetect.models.residual_front_ends import bayar_convolution
from tfdetect.models.tensors import Float32Layer, Tensor

# The cells that the search found: channels, stride, dilation, and the three operations.
SEARCHED = (
    (128, 2, 1, ("separable", "identity", "fixed")),
    (256, 2, 1, ("separable5", "fixed", "fixed")),
    (256, 1, 1, ("identity", "separable5", "fixed")),
    (256, 1, 2, ("separable", "fixed", "separable")),
    (256, 1, 2, ("fixed", "separable5", "fixed")),
    (256, 1, 2, ("fixed", "separable", "fixed")),
    (256, 1, 2, ("separable5", "identity", "separable5")),
    (256, 1, 2, ("identity", "identity", "fixed")),
    (256, 1, 2, ("separable5", "separable5", "fixed")),
    (256, 1, 2, ("fixed", "separable", "identity")),
)
Operation = Literal["identity", "fixed", "separable", "separable5"]
Operations = Annotated[Sequence[Operation], Field(min_length=3, max_length=3)]
Cells = Annotated[Sequence[tuple[Count, Count, Count, Operations]], Field(min_length=1)]
LOCAL = np.array([
    [0.03598, 0.03735, 0.03997, 0.03713, 0.03579], [0.03682, 0.03954, 0.04446, 0.03933, 0.03673],
    [0.03864, 0.04242, 0.07146, 0.04239, 0.03859], [0.03679, 0.03936, 0.04443, 0.03950, 0.03679],
    [0.03590, 0.03720, 0.04003, 0.03738, 0.03601],
])  # fmt: skip


def iidnet(shape: tuple[int, int, int], weights: str, cells: Cells | None = None) -> Backbone:
    """Return enhancement, extraction and decision blocks; features at stride 2.

    With the mask head `iidnet` it has the published 5,781,142 trainable parameters. The
    published figure shows transposed convolutions; this follows the published code.

    Args:
        shape: (height, width, 3), multiples of 8; 256 in the paper.
        weights: only "none" exists.
        cells: (channels, stride, dilation, three operations) of each cell, instead of `SEARCHED`.
    """
    inputs = keras.Input(shape)
    x = layers.Concatenate(name="enhanced")([
        conv(inputs, 3, 5, "ordinary"),
        bayar_convolution(3, 5)(inputs),
        layers.Conv2D(9, 3, padding="same", use_bias=False, kernel_initializer=Differences(),
                      name="differences")(inputs),
    ])  # fmt: skip
    x = conv_norm_relu(x, 32, 3, "enhance1", strides=2)
    x = conv_norm_relu(x, 64, 3, "enhance2")
    for number, (width, stride, dilation, operations) in enumerate(cells or SEARCHED, 1):
        x = _cell(x, width, stride, dilation, operations, f"cell{number}", number > 1)
    x = layers.Concatenate(name="attention")(
        [x, GlobalAttention(name="global_attention")(x), LocalAttention(name="local_attention")(x)]
    )
    for number in (1, 2):
        x = Double(name=f"decide{number}_up")(x)
        x = conv_norm_relu(x, 256, 3, f"decide{number}_1", bias=True)
        x = conv_norm_relu(x, 256, 3, f"decide{number}_2", bias=True)
    return Backbone(keras.Model(inputs, x, name="iidnet"), [""])


def mask(image: Tensor, features: Tensor, maps: list) -> dict:
    """Return mask logits: upsampling, one convolution, the median of 3x3 pixels.

    Args:
        image: [B, H, W, C].
        features: [B, H / 2, W / 2, c].
        maps: not used.

    Returns:
        {"mask": logits float32 [B, H, W, 1]}.
    """
    x = Double(name="mask_up")(features)
    x = layers.Conv2D(1, 3, padding="same", dtype="float32", name="mask_logits")(x)
    return {"mask": Median(name="mask")(x)}


def _cell(
    x: Tensor, width: int, stride: int, dilation: int, operations: Any, name: str, activate: bool
) -> Tensor:
    skip = x
    if stride > 1 or x.shape[-1] != width:
        skip = norm(conv(x, width, 1, f"{name}_skip", stride), f"{name}_skip_norm")
    steps = [("fixed", 1, dilation), *((op, 1, dilation) for op in operations[:2]),
             (operations[2], stride, 1)]  # fmt: skip
    for number, (operation, step, spread) in enumerate(steps):
        if activate or number:
            x = layers.ReLU(name=f"{name}_{number}_relu")(x)
        x = _operation(x, operation, width, step, spread, f"{name}_{number}")
        x = norm(x, f"{name}_{number}_norm")
    return layers.Add(name=f"{name}_add")([x, skip])


def _operation(
    x: Tensor, operation: str, width: int, stride: int, dilation: int, name: str
) -> Tensor:
    if operation == "identity":
        return x
    fixed = operation == "fixed"
    size = 5 if operation == "separable5" else 3
    if not fixed:
        x, dilation = layers.ReLU(name=f"{name}_before")(x), 1
    padding = "same"
    if stride > 1:
        x, padding = layers.ZeroPadding2D(size // 2 * dilation, name=f"{name}_pad")(x), "valid"
    x = layers.DepthwiseConv2D(
        size, strides=stride, dilation_rate=dilation, padding=padding, use_bias=False,
        depthwise_initializer="he_normal", name=f"{name}_depthwise",
    )(x)  # fmt: skip
    if fixed:
        x = norm(x, f"{name}_between")
    x = conv(x, width, 1, f"{name}_pointwise")
    return x if fixed else norm(x, f"{name}_plain", affine=False)


@keras.saving.register_keras_serializable("tfdetect")
class Differences(keras.initializers.Initializer):
    """First differences in three directions (down, right, diagonal), repeated, of all colors."""

    def __call__(self, shape: Any, dtype: Any = None) -> Tensor:
        kernel = np.zeros(shape)
        kernel[1, 1] = -1
        for number, (row, column) in enumerate(((2, 1), (1, 2), (2, 2))):
            kernel[row, column, :, number::3] = 1
        return ops.convert_to_tensor(kernel, dtype or "float32")


@keras.saving.register_keras_serializable("tfdetect")
class GlobalAttention(Float32Layer):
    """Average each vector of [B, h, w, C] with the most similar ones, in float32.

    Their number is chosen for each image; the published code chooses it for a batch, so that a
    score depends on the other images of the batch.

    Args:
        most: largest number of vectors that are averaged.
        alike: lowest mean cosine similarity of a rank that is included.
    """

    def __init__(self, most: int = 15, alike: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.most, self.alike = most, alike

    def call(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        flat = ops.reshape(x, (-1, height * width, channels))
        most = min(self.most, height * width)
        unit = ops.stop_gradient(flat)
        unit = unit / ops.maximum(ops.norm(unit, axis=-1, keepdims=True), 1e-8)
        cosines, positions = ops.top_k(ops.matmul(unit, ops.transpose(unit, (0, 2, 1))), most)
        # Ranks up to the last that is alike enough on average; rank 0 is the vector itself.
        enough = ops.cast(ops.mean(cosines, axis=1) >= self.alike, "int32")
        last = ops.max(enough * np.arange(most), axis=1)
        count = ops.maximum(last, 2)[:, None, None]
        total = flat
        for rank in range(1, most):
            like = ops.take_along_axis(flat, positions[..., rank : rank + 1], axis=1)
            total = total + like * ops.cast(rank < count, "float32")
        return ops.reshape(total / ops.cast(count, "float32"), ops.shape(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "most": self.most, "alike": self.alike}


@keras.saving.register_keras_serializable("tfdetect")
class LocalAttention(layers.Layer):
    """A fixed, center-weighted 5x5 average of each channel."""

    def call(self, x: Tensor) -> Tensor:
        kernel = np.repeat(LOCAL[:, :, None, None], x.shape[-1], axis=2)
        kernel = ops.convert_to_tensor(kernel, self.compute_dtype)
        return ops.depthwise_conv(x, kernel, padding="same")


@keras.saving.register_keras_serializable("tfdetect")
class Double(layers.Layer):
    """Bilinear upsampling by 2 with aligned corners."""

    def call(self, x: Tensor) -> Tensor:
        size = [2 * x.shape[1], 2 * x.shape[2]]
        larger = tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True)
        return ops.cast(larger, self.compute_dtype)


@keras.saving.register_keras_serializable("tfdetect")
class Median(Float32Layer):
    """The median of 3x3 pixels without padding, resized to [B, H, W, 1] by nearest neighbor."""

    def call(self, x: Tensor) -> Tensor:
        height, width = (side - 2 for side in x.shape[1:3])
        around = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        inner = ops.sort(ops.concatenate(around, axis=-1), axis=-1)[..., 4:5]
        # Nearest-neighbor resizing by two pixels.
        rows, columns = (np.arange(side + 2) * side // (side + 2) for side in (height, width))
        return ops.take(ops.take(inner, rows, axis=1), columns, axis=2)
