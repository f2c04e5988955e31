"""Encoders that were trained on very many images, of keras-hub: features for a probe."""

from typing import Any

import keras
from keras import layers

from tfdetect.models.backbones import IMAGENET_OFFSET, IMAGENET_SCALE, Backbone, fetch

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Preset; then patch, width, layers, heads and width of the MLP.
_CLIP = {
    "b32": ("clip_vit_base_patch32", 32, 768, 12, 12, 3072),
    "b16": ("clip_vit_base_patch16", 16, 768, 12, 12, 3072),
    "l14": ("clip_vit_large_patch14", 14, 1024, 24, 16, 4096),
}
_SIGLIP = {
    "b16": ("siglip_base_patch16_224", 16, 768, 12, 12, 3072),
    "b16_2": ("siglip2_base_patch16_224", 16, 768, 12, 12, 3072),
    "l16_2": ("siglip2_large_patch16_256", 16, 1024, 24, 16, 4096),
}
_DINOV2 = {
    "s": ("dinov2_with_registers_small", 14, 384, 12, 6, 1536),
    "b": ("dinov2_with_registers_base", 14, 768, 12, 12, 3072),
    "l": ("dinov2_with_registers_large", 14, 1024, 24, 16, 4096),
}
_DINOV3 = {
    "s": ("dinov3_vit_small_lvd1689m", 16, 384, 12, 6, 1536),
    "b": ("dinov3_vit_base_lvd1689m", 16, 768, 12, 12, 3072),
    "l": ("dinov3_vit_large_lvd1689m", 16, 1024, 24, 16, 4096),
}


def clip(shape: tuple[int, int, int], weights: str, size: str = "l14", **layout: Any) -> Backbone:
    """CLIP's image embedding (Radford et al., ICML 2021): [B, 1, 1, 768] for l14.

    Args:
        shape: (height, width, 3), square; 224 pixels with weights.
        weights: "none", "imagenet" for those of OpenAI that belong to `size`, or a preset.
        size: "b32", "b16" or "l14".
        layout: without weights, other patch_size, hidden_dim, num_layers, num_heads or
            intermediate_dim than those of `size`.
    """
    import keras_hub

    preset, layout = _layout(_CLIP, size, layout)
    if weights == "none":
        encoder = keras_hub.models.CLIPVisionEncoder(**layout, image_shape=shape, name="clip")
        project = layers.Dense({"l14": 768}.get(size, 512), use_bias=False, name="projection")
    else:
        whole = _load(keras_hub.models.CLIPBackbone, preset, weights)
        encoder, project = whole.vision_encoder, whole.vision_projection
    scale = [1 / (255 * s) for s in _CLIP_STD]
    offset = [-m / s for m, s in zip(_CLIP_MEAN, _CLIP_STD)]
    return _embedding(encoder, shape, "clip", scale, offset, project)


def siglip(shape: tuple[int, int, int], weights: str, size: str = "b16", **layout: Any) -> Backbone:
    """SigLIP's image embedding (Zhai et al., ICCV 2023): [B, 1, 1, 768] for b16.

    Args:
        shape: (height, width, 3), square; 224 pixels with weights.
        weights, layout: as for `clip`.
        size: "b16", "b16_2" or "l16_2", the latter two SigLIP 2's; l16_2 takes 256 pixels.
    """
    import keras_hub

    preset, layout = _layout(_SIGLIP, size, layout)
    if weights == "none":
        encoder = keras_hub.models.SigLIPVisionEncoder(**layout, image_shape=shape, name="siglip")
    else:
        encoder = _load(keras_hub.models.SigLIPBackbone, preset, weights).vision_encoder
    return _embedding(encoder, shape, "siglip", 1 / 127.5, -1.0)


def dinov2(shape: tuple[int, int, int], weights: str, size: str = "b", **layout: Any) -> Backbone:
    """DINOv2's class token (Oquab et al., TMLR 2024), with registers: [B, 1, 1, 768] for b.

    Args:
        shape: (height, width, 3), square, sides that divide by 14.
        weights, layout: as for `clip`.
        size: "s", "b" or "l".
    """
    import keras_hub

    build = keras_hub.models.DINOV2Backbone
    return _dino(build, "dinov2", _DINOV2, shape, weights, size, layout, num_register_tokens=4)


def dinov3(shape: tuple[int, int, int], weights: str, size: str = "b", **layout: Any) -> Backbone:
    """DINOv3's class token (Siméoni et al., arXiv 2508.10104): [B, 1, 1, 768] for b.

    Args:
        shape: (height, width, 3), square, sides that divide by 16.
        weights, layout: as for `clip`.
        size: "s", "b" or "l".
    """
    import keras_hub

    build = keras_hub.models.DINOV3Backbone
    return _dino(build, "dinov3", _DINOV3, shape, weights, size, layout)


def _dino(
    build, name: str, sizes: dict, shape: tuple, weights: str, size: str, layout: dict, **more
):
    preset, layout = _layout(sizes, size, layout)
    if weights == "none":
        encoder = build(**layout, **more, image_shape=shape, name=name)
    else:
        encoder = _load(build, preset, weights, image_shape=shape)
    return _embedding(encoder, shape, name, IMAGENET_SCALE, IMAGENET_OFFSET)


def _layout(sizes: dict, size: str, changes: dict) -> tuple[str, dict]:
    """The preset of a size, and keras-hub's arguments for it."""
    if size not in sizes:
        raise ValueError(f"size is one of {', '.join(sizes)}, not {size!r}")
    keys = ("patch_size", "hidden_dim", "num_layers", "num_heads", "intermediate_dim")
    preset, *values = sizes[size]
    if extra := set(changes) - set(keys):
        raise ValueError(f"{', '.join(sorted(extra))} is none of size, {', '.join(keys)}")
    return preset, dict(zip(keys, values)) | changes


def _load(build, preset: str, weights: str, **arguments) -> keras.Model:
    name = preset if weights == "imagenet" else weights
    return fetch(name, lambda: build.from_preset(name, **arguments))


def _embedding(encoder: keras.Model, shape: tuple, name: str, scale, offset, project=None):
    """The encoder's embedding, or its first token, as features [B, 1, 1, C]."""
    (key, image), *_ = encoder.input.items()
    if tuple(image.shape[1:]) != tuple(shape):
        raise ValueError(f"these weights take images of {image.shape[1]} pixels (data.image_size)")
    inputs = keras.Input(shape)
    x = encoder({key: inputs})
    if len(x.shape) == 3:
        x = layers.Cropping1D((0, x.shape[1] - 1), name="class_token")(x)
    x = layers.Reshape((1, 1, x.shape[-1]), name="grid")(x)
    if project is not None:
        x = project(x)
    return Backbone(keras.Model(inputs, x, name=f"{name}_embedding"), scale, offset)
