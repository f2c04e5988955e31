"""Large pretrained image encoders of keras-hub: CLIP, SigLIP, DINOv2, DINOv3."""

from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from tfdetect.core.errors import UserError
from tfdetect.core.options import Count, check_options
from tfdetect.models.backbones import check_fixed, hub_preset, load_weights

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


def clip(
    shape: tuple[int, int, int],
    weights: str,
    size: Literal["b32", "b16", "l14"] = "l14",
    **layout: Any,
) -> keras.Model:
    """Return CLIP's image encoder (Radford et al., ICML 2021): [B, 1, 1, 768] for l14.

    Args:
        shape: (height, width, 3), square; 224 pixels with pretrained weights.
        weights: "none", "imagenet" for OpenAI's weights of `size`, or a preset's name.
        size: the size of the vision transformer.
        layout: without weights, patch_size, hidden_dim, num_layers, num_heads or
            intermediate_dim that replace those of `size`.
    """
    import keras_hub

    preset, layout = _layout(_CLIP, size, weights, layout)
    if weights == "none":
        encoder = keras_hub.models.CLIPVisionEncoder(**layout, image_shape=shape, name="clip")
        number_positions(encoder)
        project = layers.Dense(768 if size == "l14" else 512, use_bias=False, name="projection")
    else:
        whole = _load(keras_hub.models.CLIPBackbone, preset, weights)
        encoder, project = whole.vision_encoder, whole.vision_projection
    return _embedding(encoder, shape, "clip", project)


def siglip(
    shape: tuple[int, int, int],
    weights: str,
    size: Literal["b16", "b16_2", "l16_2"] = "b16",
    **layout: Any,
) -> keras.Model:
    """Return SigLIP's image encoder (Zhai et al., ICCV 2023): [B, 1, 1, 768] for b16.

    Args:
        shape: (height, width, 3), square; with pretrained weights 224 pixels, l16_2 256.
        weights: "none", "imagenet" for Google's weights of `size`, or a preset's name.
        size: b16_2 and l16_2 are SigLIP 2.
        layout: without weights, patch_size, hidden_dim, num_layers, num_heads or
            intermediate_dim that replace those of `size`.
    """
    import keras_hub

    preset, layout = _layout(_SIGLIP, size, weights, layout)
    if weights == "none":
        encoder = keras_hub.models.SigLIPVisionEncoder(**layout, image_shape=shape, name="siglip")
        number_positions(encoder)
    else:
        encoder = _load(keras_hub.models.SigLIPBackbone, preset, weights).vision_encoder
    return _embedding(encoder, shape, "siglip")


def dinov2(
    shape: tuple[int, int, int], weights: str, size: Literal["s", "b", "l"] = "b", **layout: Any
) -> keras.Model:
    """Return DINOv2 with registers (Oquab et al., TMLR 2024): class token [B, 1, 1, 768] for b.

    Args:
        shape: (height, width, 3), square, multiples of 14.
        weights: "none", "imagenet" for Meta's weights of `size`, or a preset's name.
        size: small, base or large.
        layout: without weights, patch_size, hidden_dim, num_layers, num_heads or
            intermediate_dim that replace those of `size`.
    """
    import keras_hub

    build = keras_hub.models.DINOV2Backbone
    return _dino(build, "dinov2", _DINOV2, shape, weights, size, layout, num_register_tokens=4)


def dinov3(
    shape: tuple[int, int, int], weights: str, size: Literal["s", "b", "l"] = "b", **layout: Any
) -> keras.Model:
    """Return DINOv3 (Simeoni et al., arXiv 2508.10104): class token [B, 1, 1, 768] for b.

    Args:
        shape: (height, width, 3), square, multiples of 16.
        weights: "none", "imagenet" for Meta's weights of `size`, or a preset's name.
        size: small, base or large.
        layout: without weights, patch_size, hidden_dim, num_layers, num_heads or
            intermediate_dim that replace those of `size`.
    """
    import keras_hub

    return _dino(keras_hub.models.DINOV3Backbone, "dinov3", _DINOV3, shape, weights, size, layout)


def _dino(
    build: Any, name: str, sizes: dict, shape: tuple, weights: str, size: str, layout: dict,
    **more: Any,
) -> keras.Model:  # fmt: skip
    preset, layout = _layout(sizes, size, weights, layout)
    if weights == "none":
        encoder = build(**layout, **more, image_shape=shape, name=name)
    else:
        encoder = _load(build, preset, weights, image_shape=shape)
    return _embedding(encoder, shape, name)


def number_positions(encoder: keras.Model) -> None:
    """Number the positions of a new encoder, all of which keras-hub leaves at 0.

    Each patch would get the same embedding of its position. Presets bring the right numbers.
    """
    for layer in encoder.layers:
        if (numbers := getattr(layer, "position_ids", None)) is not None:
            numbers.assign(np.arange(numbers.shape[-1])[None])


def _layout(sizes: dict, size: str, weights: str, changes: dict) -> tuple[str, dict]:
    """Return the preset of a size, and keras-hub's arguments for it."""
    preset, *values = sizes[size]
    changes = check_options(_transformer, changes, "model.options")
    check_fixed(weights, changes)
    return preset, _transformer(*values) | changes


def _transformer(
    patch_size: Count,
    hidden_dim: Count,
    num_layers: Count,
    num_heads: Count,
    intermediate_dim: Count,
) -> dict[str, int]:
    return {
        "patch_size": patch_size, "hidden_dim": hidden_dim, "num_layers": num_layers,
        "num_heads": num_heads, "intermediate_dim": intermediate_dim,
    }  # fmt: skip


def _load(build: Any, preset: str, weights: str, **arguments: Any) -> keras.Model:
    name = hub_preset(build, preset, weights)
    return load_weights(name, lambda: build.from_preset(name, **arguments))


def _embedding(
    encoder: keras.Model, shape: tuple, name: str, project: layers.Layer | None = None
) -> keras.Model:
    """Return the encoder's embedding, or its class token, as features [B, 1, 1, C]."""
    (key, image), *_ = encoder.input.items()
    if tuple(image.shape[1:]) != tuple(shape):
        raise UserError(
            f"model.weights: these weights take images of {image.shape[1]} pixels. Received: "
            f"data.image_size {shape[0]} x {shape[1]}."
        )
    inputs = keras.Input(shape)
    x = encoder({key: inputs})
    if len(x.shape) == 3:
        x = layers.Cropping1D((0, x.shape[1] - 1), name="class_token")(x)
    x = layers.Reshape((1, 1, x.shape[-1]), name="grid")(x)
    if project is not None:
        x = project(x)
    return keras.Model(inputs, x, name=f"{name}_embedding")
