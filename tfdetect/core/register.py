"""Decorators that register a user's own function, for use by its name in experiments.

Each raises a `UserError` if the name is taken.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tfdetect.core.entries import Registry, same_side
from tfdetect.core.errors import UserError, UserTypeError, shortened
from tfdetect.core.registry import (
    AUGMENTATIONS,
    BACKBONES,
    FRONT_ENDS,
    HEADS,
    LOSSES,
    MASK_HEADS,
)
from tfdetect.core.text import name_problem

Decorator = Callable[[Callable], Callable]


def register_backbone(
    name: str,
    *,
    min_size: int = 1,
    multiple: int | Callable[[Mapping[str, Any]], int] = 1,
    scale: float | tuple[float, ...] = 1 / 127.5,
    offset: float | tuple[float, ...] = -1.0,
    presets: tuple[str, ...] | None = None,
) -> Decorator:
    """Register a backbone: (shape, weights, **options) -> keras.Model from images to features.

    The model takes pixels scaled as `pixel * scale + offset` from 0..255, by default to -1..1, and
    returns features [B, h, w, c].

    Args:
        name: what experiments call it, as `model.backbone`.
        min_size: smallest side of an image in pixels.
        multiple: each side must be divisible by this; a function of `model.options` where it
            depends on them.
        scale: factor on pixels, one number or one per channel.
        offset: what is added after scaling, one number or one per channel.
        presets: names of pretrained weights that `model.weights` may have beside "none"; () if
            there are none. By default the function is given any name, and checks it itself.
    """
    return _registering(
        BACKBONES, name, min_size=min_size, multiple=multiple, scale=scale, offset=offset,
        presets=presets,
    )  # fmt: skip


def register_front_end(
    name: str, *, output_side: Callable[[int, Mapping[str, Any]], int] = same_side
) -> Decorator:
    """Register a front-end: (images [B, H, W, 3] in 0..255, **options) -> float32 [B, h, w, c].

    Args:
        name: what experiments call it, as `model.front_end`.
        output_side: (side in pixels, options) -> side after the front-end; by default unchanged.
    """
    return _registering(FRONT_ENDS, name, output_side=output_side)


def register_head(name: str) -> Decorator:
    """Register a head: (features, outputs, dropout, l2, **options) -> logits [B, outputs].

    Args:
        name: what experiments call it, as `model.head`.
    """
    return _registering(HEADS, name)


def register_mask_head(name: str) -> Decorator:
    """Register a mask head: (image, features, maps, **options) -> {"mask": logits [B, H, W, 1]}.

    Args:
        name: what experiments call it, as `model.mask_head`.
    """
    return _registering(MASK_HEADS, name)


def register_loss(name: str) -> Decorator:
    """Register a loss: (classes, label_smoothing, **options) -> keras.losses.Loss of logits.

    With two classes there is one logit and targets are [B, 1] in 0..1; with more, targets are
    class numbers [B, 1] or, after mixing augmentations, probabilities [B, classes].

    Args:
        name: what experiments call it, as `training.loss`.
    """
    return _registering(LOSSES, name)


def register_augmentation(name: str) -> Decorator:
    """Register an augmentation: (images uint8 [B, h, w, 3], seed, **options) -> images.

    It must take all its randomness from `seed`, int32 [2], with stateless ops, so that an
    interrupted training resumes exactly. A function with parameters `targets` or `masks` gets
    and returns those too.

    Args:
        name: what experiments call it, in `data.augment`.
    """
    return _registering(AUGMENTATIONS, name)


def _registering(registry: Registry[Any], name: str, **facts: Any) -> Decorator:
    """Return a decorator that adds a function to a registry, with what is known of it."""
    if problem := name_problem(name):
        raise UserError(
            f"The name of a {registry.kind} is what experiments call it: {problem}. "
            f"Received: {shortened(name)}."
        )

    def decorate(function: Callable) -> Callable:
        if not callable(function):
            raise UserTypeError(
                f"The {registry.kind} {name!r} is a function. Received: {shortened(function)}."
            )
        registry.add(name, registry.entry_type(function, **facts))
        return function

    return decorate
