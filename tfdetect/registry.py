"""Every name an experiment may use, as "module:function" text.

Text, so that a wrong name is refused, with the nearest right one, before
TensorFlow is imported. To add a backbone, a head or an augmentation, write one
function and add one line here.
"""

import importlib
from collections.abc import Callable

from tfdetect.errors import unknown

BACKBONES = {
    "densenet121": "tfdetect.models.backbones:densenet121",
    "xception": "tfdetect.models.backbones:xception",
    "resnet18": "tfdetect.models.backbones:resnet18",
    "resnet50": "tfdetect.models.backbones:resnet50",
    "swin_t": "tfdetect.models.backbones:swin_t",
    "small_resnet": "tfdetect.models.small_resnet:small_resnet",
}

HEADS = {
    "linear": "tfdetect.models.heads:linear",
    "conv_dense": "tfdetect.models.heads:conv_dense",
}

AUGMENTATIONS = {
    "flip": "tfdetect.imaging.geometry:random_flip",
    "shift": "tfdetect.imaging.geometry:random_shift",
    "warp": "tfdetect.imaging.geometry:random_warp",
    "jpeg": "tfdetect.imaging.degrade:random_jpeg",
    "blur": "tfdetect.imaging.degrade:random_blur",
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
