"""Backbones from keras.applications and keras-hub, each with its weights' preprocessing."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.models.pyramid import Pyramid

# ImageNet statistics of the weights, as x * scale + offset on 0..255.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_SCALE = [1 / (255 * s) for s in _STD]
IMAGENET_OFFSET = [-m / s for m, s in zip(_MEAN, _STD)]


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and the scaling of 0..255 that its weights expect.

    Attributes:
        model: normalized image [B, H, W, 3] -> features [B, h, w, c].
        scale: factor on 0..255, one number or one a channel.
        offset: added after scaling.
        maps: names of the layers whose outputs mask heads are to take, where those that
            `pyramid.Pyramid` would find are not the right ones.
    """

    model: keras.Model
    scale: float | list[float]
    offset: float | list[float]
    maps: list[str] | None = None


def densenet121(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """DenseNet-121 (Huang et al., CVPR 2017), keras.applications."""
    model = _application(keras.applications.DenseNet121, shape, weights, options)
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET)


def densenet169(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """DenseNet-169, keras.applications."""
    model = _application(keras.applications.DenseNet169, shape, weights, options)
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET)


def densenet201(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """DenseNet-201, keras.applications."""
    model = _application(keras.applications.DenseNet201, shape, weights, options)
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET)


def xception(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """Xception (Chollet, CVPR 2017), keras.applications."""
    model = _application(keras.applications.Xception, shape, weights, options)
    return Backbone(model, 1 / 127.5, -1.0)


def efficientnetv2_b0(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """EfficientNetV2-B0 (Tan & Le, ICML 2021), keras.applications."""
    options = {"include_preprocessing": False, **options}
    model = _application(keras.applications.EfficientNetV2B0, shape, weights, options)
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET)


def efficientnetv2_s(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """EfficientNetV2-S, keras.applications; it is scaled unlike B0."""
    options = {"include_preprocessing": False, **options}
    model = _application(keras.applications.EfficientNetV2S, shape, weights, options)
    return Backbone(model, 1 / 128, -1.0)


def convnext_tiny(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ConvNeXt-T (Liu et al., CVPR 2022), keras.applications."""
    options = {"include_preprocessing": False, **options}
    model = _application(keras.applications.ConvNeXtTiny, shape, weights, options)
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET)


def mobilenetv3_small(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """MobileNetV3-Small (Howard et al., ICCV 2019), keras.applications."""
    options = {"include_preprocessing": False, **options}
    model = _application(keras.applications.MobileNetV3Small, shape, weights, options)
    return Backbone(model, 1 / 127.5, -1.0)


def mobilenetv3_large(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """MobileNetV3-Large, keras.applications."""
    options = {"include_preprocessing": False, **options}
    model = _application(keras.applications.MobileNetV3Large, shape, weights, options)
    return Backbone(model, 1 / 127.5, -1.0)


def resnet18(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ResNet-18 (He et al., CVPR 2016), keras-hub; 11,176,512 trainable parameters."""
    defaults = {"stackwise_num_blocks": [2, 2, 2, 2], "block_type": "basic_block"}
    return _hub_resnet(shape, weights, "resnet_18_imagenet", defaults | options)


def resnet34(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ResNet-34, keras-hub, which has no weights for it; 21,284,672 trainable parameters."""
    if weights == "imagenet":
        raise UserError(
            "keras-hub has no ImageNet weights for resnet34. Set model.weights to none, to a path, "
            "or take another backbone, for example resnet50."
        )
    defaults = {"stackwise_num_blocks": [3, 4, 6, 3], "block_type": "basic_block"}
    return _hub_resnet(shape, weights, "", defaults | options)


def resnet50(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ResNet-50 (v1.5: stride in the 3x3), keras-hub; 23,508,032 trainable parameters."""
    defaults = {"stackwise_num_blocks": [3, 4, 6, 3], "block_type": "bottleneck_block"}
    return _hub_resnet(shape, weights, "resnet_50_imagenet", defaults | options)


def resnet101(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ResNet-101 (v1.5), keras-hub."""
    defaults = {"stackwise_num_blocks": [3, 4, 23, 3], "block_type": "bottleneck_block"}
    return _hub_resnet(shape, weights, "resnet_101_imagenet", defaults | options)


def resnet50_dilated(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ResNet-50 (v1.5) whose last two stages are dilated: output stride 8, as in FCN-ResNet50.

    keras-hub's network and weights, with the strides of the convolutions changed.
    """
    plain = resnet50(shape, weights, **options).model

    def dilate(layer: keras.layers.Layer) -> keras.layers.Layer:
        config, name = layer.get_config(), layer.name
        if name.startswith(("stack2_", "stack3_")):
            late = name.startswith("stack3_")
            first = name.split("_")[1] == "block0"
            dilation = (2 if late else 1) * (1 if first else 2)
            if isinstance(layer, keras.layers.ZeroPadding2D):
                config["padding"] = (dilation, dilation)
            elif isinstance(layer, keras.layers.Conv2D):
                config["strides"] = 1
                if layer.kernel_size == (3, 3):
                    config["dilation_rate"] = dilation
        return type(layer).from_config(config)

    model = keras.models.clone_model(
        keras.Model(plain.inputs[0], plain.output, name="resnet50_dilated"), clone_function=dilate
    )
    model.set_weights(plain.get_weights())
    maps = [f"stack{i}_block{n - 1}_out"
            for i, n in enumerate((3, 4, 6, 3)) if i != 1]  # fmt: skip
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET, maps)


def deeplabv3_resnet50(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """DeepLabV3+ on ResNet-50 (Chen et al., ECCV 2018), keras-hub; features at stride 4.

    The weights "imagenet" are the encoder's; "deeplab_v3_plus_resnet50_pascalvoc" the whole's.
    """
    import keras_hub

    build = keras_hub.models.DeepLabV3Backbone
    if weights in ("none", "imagenet"):
        defaults = {"spatial_pyramid_pooling_key": "P5", "low_level_feature_key": "P2",
                    "upsampling_size": 8, "dilation_rates": [6, 12, 18]}  # fmt: skip
        encoder = resnet50(shape, weights).model
        options = {"image_encoder": encoder, "image_shape": shape, **defaults, **options}
        model = _call(build, options)
    else:
        model = _hub(build, weights, weights, {"image_shape": shape, **options})
    # Its last layer enlarges the features, which costs much; logits are enlarged instead.
    last = "segmentation_head_relu"
    model = Pyramid(model, last, [], name="deeplabv3_resnet50")
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET, [last])


def segformer_b0(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """SegFormer-B0 (Xie et al., NeurIPS 2021), keras-hub; features at stride 4.

    Weights other than "none" are the encoder's: "imagenet" means the preset
    mit_b0_ade20k_512, the nearest that keras-hub has.
    """
    import keras_hub

    layout = {"layerwise_depths": [2, 2, 2, 2], "num_layers": 4,
              "layerwise_num_heads": [1, 2, 5, 8], "layerwise_sr_ratios": [8, 4, 2, 1],
              "max_drop_path_rate": 0.1, "layerwise_patch_sizes": [7, 3, 3, 3],
              "layerwise_strides": [4, 2, 2, 2], "hidden_dims": [32, 64, 160, 256],
              "image_shape": shape}  # fmt: skip
    encoder = _hub(
        keras_hub.models.MiTBackbone, "mit_b0_ade20k_512", weights, layout | options
    )  # fmt: skip
    model = Pyramid(keras_hub.models.SegFormerBackbone(encoder, 256), maps=[], name="segformer_b0")
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET, [""])


def swin_t(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """Swin-T (Liu et al., ICCV 2021), keras-hub; 27,519,354 trainable parameters."""
    defaults = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24],
                "drop_path": 0.2}  # fmt: skip
    return _swin(shape, weights, "swin_tiny_patch4_window7_224", defaults | options)


def swin_s(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """Swin-S, keras-hub."""
    defaults = {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24],
                "drop_path": 0.3}  # fmt: skip
    return _swin(shape, weights, "swin_small_patch4_window7_224", defaults | options)


def swin_b(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """Swin-B, keras-hub."""
    defaults = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32],
                "drop_path": 0.5}  # fmt: skip
    return _swin(shape, weights, "swin_base_patch4_window7_224", defaults | options)


def deit_t(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """DeiT-Ti (Touvron et al., ICML 2021), keras-hub's, which is the distilled one."""
    return _deit(shape, weights, "tiny", 192, 3, options)


def deit_s(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """DeiT-S, keras-hub's, which is the distilled one."""
    return _deit(shape, weights, "small", 384, 6, options)


def deit_b(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """DeiT-B, keras-hub's, which is the distilled one."""
    return _deit(shape, weights, "base", 768, 12, options)


def vit_b(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """ViT-B/16 (Dosovitskiy et al., ICLR 2021), keras-hub; its class token."""
    import keras_hub

    defaults = {"image_shape": shape, "patch_size": 16, "num_layers": 12, "num_heads": 12,
                "hidden_dim": 768, "mlp_dim": 3072}  # fmt: skip
    vit = _hub(
        keras_hub.models.ViTBackbone, "vit_base_patch16_224_imagenet", weights, defaults | options
    )
    return Backbone(_leading_tokens(vit, shape, 1, "vit_b"), 1 / 127.5, -1.0)


def _deit(shape: tuple, weights: str, size: str, width: int, heads: int, options: dict) -> Backbone:
    """Its class and distillation tokens, whose mean the linear head takes."""
    import keras_hub

    defaults = {"image_shape": shape, "patch_size": 16, "num_layers": 12, "num_heads": heads,
                "hidden_dim": width, "intermediate_dim": 4 * width}  # fmt: skip
    preset = f"deit_{size}_distilled_patch16_224_imagenet"
    deit = _hub(keras_hub.models.DeiTBackbone, preset, weights, defaults | options)
    model = _leading_tokens(deit, shape, 2, f"deit_{size[0]}")
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET)


def _leading_tokens(model: keras.Model, shape: tuple, count: int, name: str) -> keras.Model:
    """The first tokens of a transformer's [B, tokens, c] as features [B, 1, count, c]."""
    inputs = keras.Input(shape)
    tokens = model(inputs)
    width = tokens.shape[-1]
    leading = keras.layers.Cropping1D((0, tokens.shape[1] - count), name="leading")(tokens)
    features = keras.layers.Reshape((1, count, width), name="grid")(leading)
    return keras.Model(inputs, features, name=name)


def _swin(shape: tuple, weights: str, preset: str, options: dict) -> Backbone:
    import keras_hub

    ignore_mask_warnings()
    swin = _hub(
        keras_hub.models.SwinTransformerBackbone, preset, weights,
        {"image_shape": shape, "window_size": 7, **options},
    )  # fmt: skip
    # Its tokens back on their grid, as every other backbone has it.
    grid = (shape[0] // 32, shape[1] // 32, swin.output.shape[-1])
    inputs = keras.Input(shape)
    features = keras.layers.Reshape(grid, name="grid")(swin(inputs))
    model = keras.Model(inputs, features, name=f"swin_{preset.split('_')[1][0]}")
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET)


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
    return Backbone(model, IMAGENET_SCALE, IMAGENET_OFFSET)


def inflate(target: keras.Model, source: keras.Model) -> None:
    """Copies the weights of a network for three channels into the same one for another number.

    Where the shapes differ, in the first kernel, it is repeated along its channels and divided
    by how often, so that the activations keep their scale.
    """
    for new, old in zip(target.weights, source.weights, strict=True):
        value = old.numpy()
        if value.shape != new.shape:
            channels = new.shape[-2]
            repeated = np.resize(np.moveaxis(value, -2, 0), (channels, *value.shape[:2],
                                                             value.shape[-1]))  # fmt: skip
            value = np.moveaxis(repeated, 0, -2) * (value.shape[-2] / channels)
        new.assign(value)


def _application(build: Callable, shape: tuple, weights: str, options: dict) -> keras.Model:
    if weights not in ("none", "imagenet"):
        raise UserError(
            f"{build.__name__} has no preset {weights!r}. Use none, imagenet, or a path."
        )
    source = None if weights == "none" else weights
    arguments = {"include_top": False, "weights": source, "input_shape": shape, **options}
    with warnings.catch_warnings():  # front-ends may leave any number of channels
        warnings.filterwarnings("ignore", "This model usually expects 1 or 3 input channels")
        return fetch(weights, lambda: _call(build, arguments))


def _hub(build: Callable, preset: str, weights: str, options: dict) -> keras.Model:
    if weights == "none":
        return _call(build, options)
    name = preset if weights == "imagenet" else weights
    return fetch(
        name, lambda: build.from_preset(name, image_shape=options["image_shape"], load_weights=True)
    )


def _call(build: Callable, arguments: dict) -> keras.Model:
    try:
        return build(**arguments)
    except TypeError as error:
        raise UserError(f"model.options: {error}") from error


def fetch(weights: str, build: Callable[[], keras.Model]) -> keras.Model:
    """What `build` makes; where its download fails, a `UserError` says the way out."""
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
