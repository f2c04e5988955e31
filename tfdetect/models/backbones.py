"""Backbones from keras.applications and keras-hub, each with its weights' preprocessing."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from tfdetect.errors import UserError

# ImageNet statistics of the weights, as x * scale + offset on 0..255.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET_SCALE = [1 / (255 * s) for s in _STD]
_IMAGENET_OFFSET = [-m / s for m, s in zip(_MEAN, _STD)]


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and the scaling of 0..255 that its weights expect.

    Attributes:
        model: normalised image [B, H, W, 3] -> features [B, h, w, c].
        scale: factor on 0..255, one number or one a channel.
        offset: added after scaling.
    """

    model: keras.Model
    scale: float | list[float]
    offset: float | list[float]


def densenet121(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """DenseNet-121 (Huang et al., CVPR 2017), keras.applications."""
    model = _application(keras.applications.DenseNet121, shape, weights, options)
    return Backbone(model, _IMAGENET_SCALE, _IMAGENET_OFFSET)


def xception(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """Xception (Chollet, CVPR 2017), keras.applications."""
    model = _application(keras.applications.Xception, shape, weights, options)
    return Backbone(model, 1 / 127.5, -1.0)


def resnet18(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ResNet-18 (He et al., CVPR 2016), keras-hub; 11,176,512 trainable parameters."""
    defaults = {"stackwise_num_blocks": [2, 2, 2, 2], "block_type": "basic_block"}
    return _hub_resnet(shape, weights, "resnet_18_imagenet", defaults | options)


def resnet50(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ResNet-50 (v1.5: stride in the 3x3), keras-hub; 23,508,032 trainable parameters."""
    defaults = {"stackwise_num_blocks": [3, 4, 6, 3], "block_type": "bottleneck_block"}
    return _hub_resnet(shape, weights, "resnet_50_imagenet", defaults | options)


def swin_t(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """Swin-T (Liu et al., ICCV 2021), keras-hub; 27,519,354 trainable parameters."""
    import keras_hub

    defaults = {
        "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24],
        "window_size": 7, "drop_path": 0.2,
    }  # fmt: skip
    ignore_mask_warnings()
    swin = _hub(
        keras_hub.models.SwinTransformerBackbone, "swin_tiny_patch4_window7_224", weights,
        {"image_shape": shape, **defaults, **options},
    )  # fmt: skip
    # Its tokens back on their grid, as every other backbone has it.
    grid = (shape[0] // 32, shape[1] // 32, swin.output.shape[-1])
    inputs = keras.Input(shape)
    features = keras.layers.Reshape(grid, name="grid")(swin(inputs))
    model = keras.Model(inputs, features, name="swin_t")
    return Backbone(model, _IMAGENET_SCALE, _IMAGENET_OFFSET)


def ignore_mask_warnings() -> None:
    """keras-hub's Swin passes attention masks on and warns about them; they do no harm."""
    warnings.filterwarnings(
        "ignore", r"(?s).*was passed an input with a mask attached", UserWarning
    )


def _hub_resnet(shape: tuple, weights: str, preset: str, options: dict) -> Backbone:
    import keras_hub

    layout = {
        "input_conv_filters": [64], "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128, 256, 512], "stackwise_num_strides": [1, 2, 2, 2],
        "image_shape": shape,
    }  # fmt: skip
    model = _hub(keras_hub.models.ResNetBackbone, preset, weights, layout | options)
    return Backbone(model, _IMAGENET_SCALE, _IMAGENET_OFFSET)


def _application(build: Callable, shape: tuple, weights: str, options: dict) -> keras.Model:
    if weights not in ("none", "imagenet"):
        raise UserError(
            f"{build.__name__} has no preset {weights!r}. Use none, imagenet, or a path."
        )
    source = None if weights == "none" else weights
    arguments = {"include_top": False, "weights": source, "input_shape": shape, **options}
    return _fetch(weights, lambda: _call(build, arguments))


def _hub(build: Callable, preset: str, weights: str, options: dict) -> keras.Model:
    if weights == "none":
        return _call(build, options)
    name = preset if weights == "imagenet" else weights
    return _fetch(
        name, lambda: build.from_preset(name, image_shape=options["image_shape"], load_weights=True)
    )


def _call(build: Callable, arguments: dict) -> keras.Model:
    try:
        return build(**arguments)
    except TypeError as error:
        raise UserError(f"model.options: {error}") from error


def _fetch(weights: str, build: Callable[[], keras.Model]) -> keras.Model:
    if weights == "none":
        return build()
    try:
        return build()
    except UserError:
        raise
    except Exception as error:  # what the HTTP and hub libraries raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"The weights {weights!r} could not be loaded: {reason}\n"
            "Weights are downloaded once and then kept. Without a network, train from scratch "
            "(--set model.weights=none), start from a run or a .keras file "
            "(--set model.weights=PATH), or copy the download caches ~/.keras and "
            "~/.cache/kagglehub from a machine that has them."
        ) from error
