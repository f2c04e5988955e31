"""Backbones of segmentation networks: dilated ResNet-50, DeepLabV3+, SegFormer."""

from typing import Any

import keras

from tfdetect.core.options import check_options
from tfdetect.models.backbones import Backbone, build_backbone, from_keras_hub
from tfdetect.models.pyramid import Pyramid


def resnet50_dilated(shape: tuple[int, int, int], weights: str) -> Backbone:
    """Return ResNet-50 (v1.5) with dilated last two stages: output stride 8, as in FCN-ResNet50.

    It is keras-hub's network with its weights; strides and dilation of the convolutions differ.

    Args:
        shape: (height, width, channels).
        weights: as for the backbone resnet50.
    """
    plain = build_backbone("resnet50", shape, weights).model

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
    maps = [f"stack{i}_block{n - 1}_out" for i, n in enumerate((3, 4, 6, 3)) if i != 1]
    return Backbone(model, maps)


def deeplabv3_resnet50(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """Return DeepLabV3+ on ResNet-50 (Chen et al., ECCV 2018), keras-hub; features at stride 4.

    Args:
        shape: (height, width, channels).
        weights: "none"; "imagenet" for the encoder; "deeplab_v3_plus_resnet50_pascalvoc" for all.
        options: arguments of keras-hub's DeepLabV3Backbone.
    """
    import keras_hub

    build = keras_hub.models.DeepLabV3Backbone
    given = ("self", "image_encoder", "image_shape", "dtype", "name")
    options = check_options(build.__init__, options, "model.options", given, closed=True)
    if weights in ("none", "imagenet"):
        model = build(**{
            "image_encoder": build_backbone("resnet50", shape, weights).model,
            "image_shape": shape, "spatial_pyramid_pooling_key": "P5",
            "low_level_feature_key": "P2", "upsampling_size": 8, "dilation_rates": [6, 12, 18],
            **options,
        })  # fmt: skip
    else:
        model = from_keras_hub(build, None, weights, {"image_shape": shape}, options)
    # Its last layer enlarges the features, which costs much; logits are enlarged instead.
    last = "segmentation_head_relu"
    return Backbone(Pyramid(model, last, [], name="deeplabv3_resnet50"), [last])


def segformer_b0(shape: tuple[int, int, int], weights: str, **options: Any) -> Backbone:
    """Return SegFormer-B0 (Xie et al., NeurIPS 2021), keras-hub; features at stride 4.

    Args:
        shape: (height, width, channels).
        weights: "none", or of the encoder: "imagenet" stands for the preset mit_b0_ade20k_512,
            since keras-hub has no ImageNet weights; another preset's name.
        options: arguments of keras-hub's MiTBackbone, the encoder.
    """
    import keras_hub

    build = keras_hub.models.MiTBackbone
    given = ("self", "image_shape", "dtype", "name")
    options = check_options(build.__init__, options, "model.options", given, closed=True)
    layout = {
        "layerwise_depths": [2, 2, 2, 2], "num_layers": 4, "layerwise_num_heads": [1, 2, 5, 8],
        "layerwise_sr_ratios": [8, 4, 2, 1], "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3, 3, 3], "layerwise_strides": [4, 2, 2, 2],
        "hidden_dims": [32, 64, 160, 256], "image_shape": shape,
    }  # fmt: skip
    encoder = from_keras_hub(build, "mit_b0_ade20k_512", weights, layout, options)
    model = keras_hub.models.SegFormerBackbone(encoder, 256)
    return Backbone(Pyramid(model, maps=[], name="segformer_b0"), [""])
