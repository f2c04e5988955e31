"""Every name an experiment may use, as "module:function" text.

Text, so that a wrong name is refused, with the nearest right one, before
TensorFlow is imported. To add a front-end, a backbone, a head, a mask head, an augmentation,
a mask maker or a fill, write one function and add one line here.
"""

import importlib
from collections.abc import Callable

from tfdetect.core.errors import unknown

FRONT_ENDS = {
    "srm": "tfdetect.models.residual_front_ends:srm",
    "bayar": "tfdetect.models.residual_front_ends:bayar",
    "residual": "tfdetect.models.residual_front_ends:residual",
    "npr": "tfdetect.models.residual_front_ends:npr",
    "wavelet": "tfdetect.models.residual_front_ends:wavelet",
    "dct": "tfdetect.models.spectral_front_ends:dct",
    "spectrum": "tfdetect.models.spectral_front_ends:spectrum",
    "fad": "tfdetect.models.spectral_front_ends:fad",
    "lfs": "tfdetect.models.spectral_front_ends:lfs",
    "simplest_patch": "tfdetect.models.patch_front_ends:simplest_patch",
}

BACKBONES = {
    "densenet121": "tfdetect.models.backbones:densenet121",
    "densenet169": "tfdetect.models.backbones:densenet169",
    "densenet201": "tfdetect.models.backbones:densenet201",
    "xception": "tfdetect.models.backbones:xception",
    "efficientnetv2_b0": "tfdetect.models.backbones:efficientnetv2_b0",
    "efficientnetv2_s": "tfdetect.models.backbones:efficientnetv2_s",
    "convnext_tiny": "tfdetect.models.backbones:convnext_tiny",
    "mobilenetv3_small": "tfdetect.models.backbones:mobilenetv3_small",
    "mobilenetv3_large": "tfdetect.models.backbones:mobilenetv3_large",
    "resnet18": "tfdetect.models.backbones:resnet18",
    "resnet34": "tfdetect.models.backbones:resnet34",
    "resnet50": "tfdetect.models.backbones:resnet50",
    "resnet101": "tfdetect.models.backbones:resnet101",
    "resnet50_dilated": "tfdetect.models.backbones:resnet50_dilated",
    "deeplabv3_resnet50": "tfdetect.models.backbones:deeplabv3_resnet50",
    "segformer_b0": "tfdetect.models.backbones:segformer_b0",
    "swin_t": "tfdetect.models.backbones:swin_t",
    "swin_s": "tfdetect.models.backbones:swin_s",
    "swin_b": "tfdetect.models.backbones:swin_b",
    "deit_t": "tfdetect.models.backbones:deit_t",
    "deit_s": "tfdetect.models.backbones:deit_s",
    "deit_b": "tfdetect.models.backbones:deit_b",
    "vit_b": "tfdetect.models.backbones:vit_b",
    "small_resnet": "tfdetect.models.small_resnet:small_resnet",
    "frank_cnn": "tfdetect.models.networks.frank:frank_cnn",
    "none": "tfdetect.models.networks.frank:none",
    "clip": "tfdetect.models.networks.encoders:clip",
    "siglip": "tfdetect.models.networks.encoders:siglip",
    "dinov2": "tfdetect.models.networks.encoders:dinov2",
    "dinov3": "tfdetect.models.networks.encoders:dinov3",
    "gramnet": "tfdetect.models.networks.gramnet:gramnet",
    "f3net": "tfdetect.models.networks.f3net:f3net",
    "iidnet": "tfdetect.models.networks.iidnet:iidnet",
    "nixnet": "tfdetect.models.networks.nixnet:nixnet",
    "graftnet": "tfdetect.models.networks.graftnet:graftnet",
}

HEADS = {
    "linear": "tfdetect.models.heads:linear",
    "conv_dense": "tfdetect.models.heads:conv_dense",
    "flatten": "tfdetect.models.heads:flatten",
    "hidden": "tfdetect.models.heads:hidden",
    "neighbors": "tfdetect.models.heads:neighbors",
    "top_pixels": "tfdetect.models.heads:top_pixels",
}

MASK_HEADS = {
    "decoder": "tfdetect.models.mask_heads:decoder",
    "fcn": "tfdetect.models.mask_heads:fcn",
    "linear": "tfdetect.models.mask_heads:linear",
    "f3net": "tfdetect.models.networks.f3net:mask",
    "iidnet": "tfdetect.models.networks.iidnet:mask",
    "nixnet": "tfdetect.models.networks.nixnet:mask",
    "graftnet": "tfdetect.models.networks.graftnet:mask",
}

AUGMENTATIONS = {
    "flip": "tfdetect.imaging.geometry:random_flip",
    "shift": "tfdetect.imaging.geometry:random_shift",
    "warp": "tfdetect.imaging.geometry:random_warp",
    "crop": "tfdetect.imaging.geometry:random_crop",
    "jpeg": "tfdetect.imaging.random_degradations:random_jpeg",
    "webp": "tfdetect.imaging.random_degradations:random_webp",
    "blur": "tfdetect.imaging.random_degradations:random_blur",
    "noise": "tfdetect.imaging.random_degradations:random_noise",
    "downsample": "tfdetect.imaging.random_degradations:random_downsample",
    "color": "tfdetect.imaging.color:random_color",
    "gray": "tfdetect.imaging.color:random_gray",
    "rand_augment": "tfdetect.imaging.color:rand_augment",
    "erasing": "tfdetect.imaging.erase:random_erasing",
    "patches": "tfdetect.imaging.erase:random_patches",
    "mixup": "tfdetect.imaging.mix:mixup",
    "cutmix": "tfdetect.imaging.mix:cutmix",
    "forgery": "tfdetect.imaging.random_forgery:random_forgery",
    "amplitude_mix": "tfdetect.imaging.frequency:amplitude_mix",
    "phase_mix": "tfdetect.imaging.frequency:phase_mix",
    "bands": "tfdetect.imaging.frequency:random_bands",
    "spectral_noise": "tfdetect.imaging.frequency:spectral_noise",
    "fourier_mix": "tfdetect.imaging.frequency:fourier_mix",
}

MASKS = {
    "brush": "tfdetect.synthesis.mask_makers:brush",
    "polygon": "tfdetect.synthesis.mask_makers:polygon",
    "rectangle": "tfdetect.synthesis.mask_makers:rectangle",
    "blob": "tfdetect.synthesis.mask_makers:blob",
    "segments": "tfdetect.synthesis.mask_makers:segments",
    "objects": "tfdetect.synthesis.mask_makers:objects",
}

FILLS = {
    "telea": "tfdetect.synthesis.fills:telea",
    "navier_stokes": "tfdetect.synthesis.fills:navier_stokes",
    "biharmonic": "tfdetect.synthesis.fills:biharmonic",
    "copy_move": "tfdetect.synthesis.fills:copy_move",
    "splice": "tfdetect.synthesis.fills:splice",
    "autoencoder": "tfdetect.synthesis.fills:autoencoder",
    "vae": "tfdetect.synthesis.fills:vae",
    "diffusion": "tfdetect.synthesis.fills:diffusion",
}


def resolve(kind: str, registry: dict[str, str], name: str) -> Callable:
    """Imports and returns the function registered under `name`.

    Raises:
        UserError: `name` is not registered.
    """
    if name not in registry:
        raise unknown(kind, name, registry)
    module, function = registry[name].split(":")
    return getattr(importlib.import_module(module), function)
