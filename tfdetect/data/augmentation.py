"""Applies the augmentation policy of an experiment to batches of images."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from tfdetect.core import registry
from tfdetect.core.data_settings import Augmentation
from tfdetect.core.errors import UserError
from tfdetect.core.options import check_options

# Arguments that the pipeline gives to an augmentation; all others are its parameters.
_FROM_PIPELINE = ("images", "seed", "size", "targets", "masks")


def augment(
    images: tf.Tensor,
    policy: tuple[Augmentation, ...],
    size: tuple[int, int],
    seed: int,
    position: tf.Tensor,
    targets: tf.Tensor | None = None,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Apply the steps of a policy in order.

    Random parameters depend on the seed, the number of the step and the position of the batch
    in the stream alone, so that they repeat on any number of workers and after a resume. A
    step that moves pixels moves those of the mask alike.

    Args:
        images: uint8 [B, h, w, 3].
        policy: the steps, as `check_policy` returns them.
        size: (height, width) of the result in pixels.
        seed: integer that determines the augmentation.
        position: int64 scalar, position of the batch's first image.
        targets: float32 [B, 1 or C]; needed by steps that mix images.
        masks: uint8 [B, h, w, 1], or None.

    Returns:
        Images uint8 [B, *size, 3], targets and masks.
    """
    for number, step in enumerate(policy):
        function = _function_of(step)
        accepted = inspect.signature(function).parameters
        offered = {"size": size, "targets": targets, "masks": masks}
        given = {name: value for name, value in offered.items() if name in accepted}
        step_seed = tf.random.experimental.stateless_fold_in([seed, number], position)
        apply = partial(function, **step.params)
        if not function.__module__.startswith("tfdetect."):
            apply = tf.function(apply)  # translates Python's `if` and `for` over tensors
        result = apply(images, step_seed, **given)
        images, *rest = result if isinstance(result, tuple) else (result,)
        if "targets" in accepted:
            targets, *rest = rest
        if "masks" in accepted:
            (masks,) = rest
    images.set_shape([images.shape[0], *size, 3])
    return images, targets, masks


def check_policy(
    policy: tuple[Augmentation, ...],
    size: tuple[int, int],
    with_masks: bool = False,
    classes: int = 2,
) -> tuple[Augmentation, ...]:
    """Return a policy with checked parameters, before any image is read.

    An augmentation whose parameters need a closer look has an attribute `check`, a function of
    the step's parameters, `size`, `with_masks` and `classes` that raises `UserError`.

    Args:
        policy: the steps.
        size: (height, width) of the augmented images in pixels.
        with_masks: whether the images have masks.
        classes: number of classes.

    Returns:
        The steps, whose parameters have the types of the functions that take them.

    Raises:
        UserError: A step has an unknown or missing parameter, a value of the wrong type or out of
            its range, or cannot be used with masks.
    """
    checked = []
    for step in policy:
        function = _function_of(step)
        where = f"data.augment, {step.name}"
        parameters = inspect.signature(function).parameters
        if with_masks and "targets" in parameters and "masks" not in parameters:
            raise UserError(
                f"{where}: this augmentation mixes images, but cannot mix their masks. Remove "
                "it from data.augment, or train without model.mask_head."
            )
        params = check_options(function, step.params, where, given=_FROM_PIPELINE)
        for name, parameter in parameters.items():
            required = parameter.default is parameter.empty and name not in _FROM_PIPELINE
            if required and name not in params:
                raise UserError(f"{where}: the parameter {name!r} is missing.")
        if check := getattr(function, "check", None):
            check(params, size, with_masks, classes)
        checked.append(step.model_copy(update={"params": params}))
    return tuple(checked)


def mixes_targets(policy: tuple[Augmentation, ...]) -> bool:
    """Return whether a step of the policy changes targets."""
    return any("targets" in inspect.signature(_function_of(step)).parameters for step in policy)


def changes_each_image_alone(policy: tuple[Augmentation, ...]) -> bool:
    """Return whether a part of a batch can be augmented without the rest of it."""
    return all(registry.AUGMENTATIONS[step.name].by_image for step in policy)


def _function_of(step: Augmentation) -> Callable[..., Any]:
    return registry.AUGMENTATIONS.load(step.name)
