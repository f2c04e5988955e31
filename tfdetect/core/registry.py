"""Every name that an experiment may use, with facts about it that need no TensorFlow.

Each registry maps names to entries. An entry names its function as "module:function" text, so that
a wrong name is refused, with the nearest right one, before TensorFlow is imported. To add a part to
the package, write one function and one entry here. To add one from outside the package, see
`tfdetect.core.register` and `tfdetect.core.plugins`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from tfdetect.core.entries import (
    AugmentationEntry,
    BackboneEntry,
    Contract,
    Entry,
    FrontEndEntry,
    Registry,
)

E = TypeVar("E", bound=Entry)


def _named(entry: type[E], module: str, *names: str) -> dict[str, E]:
    """Return entries of the functions of a module that are registered by their own names."""
    return {name: entry(f"{module}:{name}") for name in names}


_MODELS, _NETWORKS = "tfdetect.models", "tfdetect.models.networks"
FRONT_ENDS = Registry(
    "front-end",
    {
        **_named(FrontEndEntry, f"{_MODELS}.residual_front_ends", "srm", "bayar", "residual"),
        "npr": FrontEndEntry(
            f"{_MODELS}.residual_front_ends:npr",
            output_side=lambda side, options: side - side % 2,
        ),
        **_named(FrontEndEntry, f"{_MODELS}.residual_front_ends", "wavelet", "gradient"),
        **_named(FrontEndEntry, f"{_MODELS}.spectral_front_ends", "dct", "spectrum", "fad"),
        "lfs": FrontEndEntry(
            f"{_MODELS}.spectral_front_ends:lfs",
            output_side=lambda side, options: (side - 2) // 2 + 1,
        ),
        "simplest_patch": FrontEndEntry(
            f"{_MODELS}.patch_front_ends:simplest_patch",
            output_side=lambda side, options: options.get("output", 256),
        ),
    },
    FrontEndEntry,
    "tfdetect.front_ends",
    contract=Contract(
        "(images [B, H, W, 3] in 0..255, **options) -> float32 [B, h, w, c]",
        ("images",),
    ),
)


def _standardization(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Return scale and offset of pixels in 0..255, from mean and deviation of values in 0..1."""
    return {
        "scale": tuple(1 / (255 * s) for s in std),
        "offset": tuple(-m / s for m, s in zip(mean, std)),
    }


_IMAGENET = _standardization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = _standardization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _application(network: str, min_size: int = 32, **scaling: Any) -> BackboneEntry:
    """Return a network of `keras.applications`, by the name of its function there."""
    target = "tfdetect.models.backbones:keras_application"
    return BackboneEntry(target, {"network": network}, min_size, presets=("imagenet",), **scaling)


def _hub(
    network: str, preset: str | None, layout: dict[str, Any], min_size: int = 32,
    multiple: int | Callable[[Mapping[str, Any]], int] = 1, features: str = "map",
    name: str | None = None, scaling: dict[str, Any] = _IMAGENET,
) -> BackboneEntry:  # fmt: skip
    """Return a backbone class of keras-hub; see `tfdetect.models.backbones.keras_hub_backbone`."""
    arguments = {
        "network": network, "preset": preset, "layout": layout, "features": features, "name": name,
    }  # fmt: skip
    target = "tfdetect.models.backbones:keras_hub_backbone"
    return BackboneEntry(target, arguments, min_size, multiple, **scaling)


def _resnet(preset: str | None, blocks: list[int], block_type: str) -> BackboneEntry:
    # ResNet v1.5, whose bottleneck blocks have their stride in the 3x3 convolution.
    layout = {
        "stackwise_num_blocks": blocks, "block_type": block_type, "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_strides": [1, 2, 2, 2],
    }  # fmt: skip
    return _hub("ResNetBackbone", preset, layout)


def _swin(size: str, width: int, depths: list[int], heads: list[int], drop: float) -> BackboneEntry:
    layout = {
        "window_size": 7, "embed_dim": width, "depths": depths, "num_heads": heads,
        "drop_path": drop,
    }  # fmt: skip
    preset = f"swin_{size}_patch4_window7_224"
    return _hub("SwinTransformerBackbone", preset, layout, 1, _swin_side, "grid", f"swin_{size[0]}")


def _swin_side(options: Mapping[str, Any]) -> int:
    """Return the side that Swin divides into patches, and after the last halving into windows.

    As published it is 224 pixels: patches of 4, three halvings and windows of 7.
    """
    window, patch, stages = (
        options.get("window_size", 7), options.get("patch_size", 4), options.get("depths", [0] * 4)
    )  # fmt: skip
    if not (type(window) is type(patch) is int and min(window, patch) > 0):
        return 1  # the network refuses them, and says why
    return patch * window * 2 ** (len(stages) - 1)


def _deit(size: str, width: int, heads: int) -> BackboneEntry:
    # The mean of the class and the distillation token is what the linear head takes.
    layout = {
        "patch_size": 16, "num_layers": 12, "num_heads": heads, "hidden_dim": width,
        "intermediate_dim": 4 * width,
    }  # fmt: skip
    preset = f"deit_{size}_distilled_patch16_224_imagenet"
    return _hub("DeiTBackbone", preset, layout, 32, 16, "distilled", f"deit_{size[0]}")


def _lite(variant: int, width: float, depth: float) -> BackboneEntry:
    arguments = {"variant": variant, "width": width, "depth": depth}
    target = "tfdetect.models.efficientnet_lite:efficientnet_lite"
    return BackboneEntry(target, arguments, 32, presets=("imagenet",), **_IMAGENET)


_VIT_B = {"patch_size": 16, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
_untrained = partial(BackboneEntry, presets=())
BACKBONES = Registry(
    "backbone",
    {
        # keras.applications
        "densenet121": _application("DenseNet121", **_IMAGENET),
        "densenet169": _application("DenseNet169", **_IMAGENET),
        "densenet201": _application("DenseNet201", **_IMAGENET),
        "xception": _application("Xception", min_size=71),
        "efficientnetv2_b0": _application("EfficientNetV2B0", **_IMAGENET),
        "efficientnetv2_s": _application("EfficientNetV2S", scale=1 / 128),
        "efficientnet_lite0": _lite(0, 1.0, 1.0),
        "efficientnet_lite1": _lite(1, 1.0, 1.1),
        "efficientnet_lite2": _lite(2, 1.1, 1.2),
        "convnext_tiny": _application("ConvNeXtTiny", **_IMAGENET),
        "mobilenetv3_small": _application("MobileNetV3Small"),
        "mobilenetv3_large": _application("MobileNetV3Large"),
        # keras-hub
        "resnet18": _resnet("resnet_18_imagenet", [2, 2, 2, 2], "basic_block"),
        "resnet34": _resnet(None, [3, 4, 6, 3], "basic_block"),
        "resnet50": _resnet("resnet_50_imagenet", [3, 4, 6, 3], "bottleneck_block"),
        "resnet101": _resnet("resnet_101_imagenet", [3, 4, 23, 3], "bottleneck_block"),
        "swin_t": _swin("tiny", 96, [2, 2, 6, 2], [3, 6, 12, 24], 0.2),
        "swin_s": _swin("small", 96, [2, 2, 18, 2], [3, 6, 12, 24], 0.3),
        "swin_b": _swin("base", 128, [2, 2, 18, 2], [4, 8, 16, 32], 0.5),
        "deit_t": _deit("tiny", 192, 3),
        "deit_s": _deit("small", 384, 6),
        "deit_b": _deit("base", 768, 12),
        "vit_b": _hub(
            "ViTBackbone", "vit_base_patch16_224_imagenet", _VIT_B, 32, 16, "class_token", "vit_b",
            scaling={},
        ),
        "resnet50_dilated": BackboneEntry(
            f"{_MODELS}.segmentation_backbones:resnet50_dilated", {}, 32, 8, **_IMAGENET
        ),
        "deeplabv3_resnet50": BackboneEntry(
            f"{_MODELS}.segmentation_backbones:deeplabv3_resnet50", {}, 64, 32, **_IMAGENET
        ),
        "segformer_b0": BackboneEntry(
            f"{_MODELS}.segmentation_backbones:segformer_b0", {}, 64, 32, **_IMAGENET
        ),
        "clip": BackboneEntry(f"{_NETWORKS}.encoders:clip", {}, 28, **_CLIP),
        "clip_tokens": BackboneEntry(
            f"{_NETWORKS}.clip_tokens:clip_tokens", {}, 32, 16, **_CLIP
        ),
        "siglip": BackboneEntry(f"{_NETWORKS}.encoders:siglip", {}, 32, 16),
        "dinov2": BackboneEntry(f"{_NETWORKS}.encoders:dinov2", {}, 28, 14, **_IMAGENET),
        "dinov3": BackboneEntry(f"{_NETWORKS}.encoders:dinov3", {}, 32, 16, **_IMAGENET),
        # ours, and networks of published detectors; most have no pretrained weights
        "small_resnet": _untrained(f"{_MODELS}.small_resnet:small_resnet", {}, 16),
        "two_stream": _untrained(f"{_MODELS}.two_stream:two_stream", {}, 32, 2),
        "trace_statistics": _untrained(  # it reads 0..255 as they are
            f"{_MODELS}.trace_statistics:trace_statistics", {}, 32, scale=1.0, offset=0.0
        ),
        "frank_cnn": _untrained(f"{_NETWORKS}.frank:frank_cnn", {}, 16, 8),
        "none": _untrained(f"{_NETWORKS}.frank:none", {}, 8),
        "ladeda": _untrained(f"{_NETWORKS}.ladeda:ladeda", {}, 16, **_IMAGENET),
        "tiny_ladeda": _untrained(f"{_NETWORKS}.ladeda:tiny_ladeda", {}, 16, **_IMAGENET),
        # It reads 0..255 as they are.
        "gramnet": BackboneEntry(
            f"{_NETWORKS}.gramnet:gramnet", {}, 32, scale=1.0, offset=0.0
        ),
        "f3net": BackboneEntry(f"{_NETWORKS}.f3net:f3net", {}, 142, presets=("imagenet",)),
        "iidnet": _untrained(f"{_NETWORKS}.iidnet:iidnet", {}, 64, 8),
        "nixnet": _untrained(
            f"{_NETWORKS}.nixnet:nixnet", {}, 32, 8, scale=1 / 255, offset=0.0
        ),
        "graftnet": _untrained(f"{_NETWORKS}.graftnet:graftnet", {}, 32, 32),
    },
    BackboneEntry,
    "tfdetect.backbones",
    contract=Contract(
        "(shape, weights, **options) -> keras.Model from images to features",
        ("shape", "weights"),
    ),
)  # fmt: skip

HEADS = Registry(
    "head",
    {
        **_named(
            Entry, f"{_MODELS}.heads", "linear", "conv_dense", "flatten", "standardized", "hidden"
        ),
        "nearest_neighbors": Entry(f"{_MODELS}.nearest_neighbors:nearest_neighbors"),
        "top_pixels": Entry(f"{_MODELS}.top_pixels:top_pixels"),
    },
    Entry,
    group="tfdetect.heads",
    contract=Contract(
        "(features, outputs, dropout, l2, **options) -> logits [B, outputs]",
        ("features", "outputs", "dropout", "l2"),
    ),
)

MASK_HEADS = Registry(
    "mask head",
    {
        **_named(Entry, f"{_MODELS}.mask_heads", "decoder", "fcn", "linear"),
        "f3net": Entry(f"{_NETWORKS}.f3net:mask"),
        "iidnet": Entry(f"{_NETWORKS}.iidnet:mask"),
        "nixnet": Entry(f"{_NETWORKS}.nixnet:mask"),
        "graftnet": Entry(f"{_NETWORKS}.graftnet:mask"),
    },
    Entry,
    group="tfdetect.mask_heads",
    contract=Contract(
        '(image, features, maps, **options) -> {"mask": logits [B, H, W, 1]}',
        ("image", "features", "maps"),
    ),
)

LOSSES = Registry(
    "loss",
    {"cross_entropy": Entry("tfdetect.training.losses:cross_entropy")},
    Entry,
    group="tfdetect.losses",
    contract=Contract(
        "(classes, label_smoothing, **options) -> keras.losses.Loss of logits",
        ("classes", "label_smoothing"),
    ),
)

_by_image = partial(AugmentationEntry, by_image=True)
AUGMENTATIONS = Registry(
    "augmentation",
    {
        "flip": _by_image("tfdetect.imaging.geometry:random_flip"),
        "shift": _by_image("tfdetect.imaging.geometry:random_shift"),
        "warp": _by_image("tfdetect.imaging.geometry:random_warp"),
        "crop": _by_image("tfdetect.imaging.geometry:random_crop"),
        "jpeg": _by_image("tfdetect.imaging.random_degradations:random_jpeg"),
        "webp": _by_image("tfdetect.imaging.random_degradations:random_webp"),
        "blur": _by_image("tfdetect.imaging.random_degradations:random_blur"),
        "noise": _by_image("tfdetect.imaging.random_degradations:random_noise"),
        "downsample": _by_image("tfdetect.imaging.random_degradations:random_downsample"),
        "color": _by_image("tfdetect.imaging.color:random_color"),
        "gray": _by_image("tfdetect.imaging.color:random_gray"),
        "rand_augment": _by_image("tfdetect.imaging.color:rand_augment"),
        "erasing": _by_image("tfdetect.imaging.erase:random_erasing"),
        "patches": _by_image("tfdetect.imaging.erase:random_patches"),
        "mixup": AugmentationEntry("tfdetect.imaging.mix:mixup"),
        "cutmix": AugmentationEntry("tfdetect.imaging.mix:cutmix"),
        "forgery": AugmentationEntry("tfdetect.imaging.random_forgery:random_forgery"),
        "amplitude_mix": AugmentationEntry("tfdetect.imaging.frequency:amplitude_mix"),
        "phase_mix": AugmentationEntry("tfdetect.imaging.frequency:phase_mix"),
        "bands": _by_image("tfdetect.imaging.frequency:random_bands"),
        "spectral_noise": _by_image("tfdetect.imaging.frequency:spectral_noise"),
        "fourier_mix": AugmentationEntry("tfdetect.imaging.frequency:fourier_mix"),
        "keras_cv": AugmentationEntry("tfdetect.imaging.keras_cv_layers:keras_cv_layer"),
    },
    AugmentationEntry,
    group="tfdetect.augmentations",
    contract=Contract(
        "(images uint8 [B, h, w, 3], seed, **options) -> images",
        ("images", "seed"),
    ),
)

MASKS = Registry(
    "mask",
    _named(
        Entry, "tfdetect.synthesis.mask_makers", "brush", "polygon", "rectangle", "whole", "blob",
        "segments", "objects", "panoptic", "yolo", "person",
    ),
    Entry,
)  # fmt: skip
# Those that find what a photograph shows; the others draw a region or choose any one.
FOREGROUND_MASKS = ("objects", "panoptic", "yolo", "person")

_FILLS = "tfdetect.synthesis.fills"
FILLS = Registry(
    "fill",
    {
        **_named(Entry, _FILLS, "telea", "navier_stokes", "biharmonic", "copy_move", "splice"),
        "composite": Entry(f"{_FILLS}:splice"),
        **_named(Entry, _FILLS, "autoencoder", "vae", "diffusion"),
    },
    Entry,
)
