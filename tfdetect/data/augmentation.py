"""Applies the augmentation policy of an experiment to batches of images."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from tfdetect.core import registry
from tfdetect.core.data_settings import Augmentation
from tfdetect.core.errors import UserError
from tfdetect.core.options import check_options, check_required
from tfdetect.core.plugin_faults import calling, shape_text, wrong_result

# Arguments that the pipeline gives to an augmentation by name, if it has them.
_BY_NAME = ("size", "targets", "masks")


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
        if registry.AUGMENTATIONS.is_plugin(step.name):
            apply = tf.function(apply)  # translates Python's `if` and `for` over tensors
        with calling(registry.AUGMENTATIONS, step.name):
            result = apply(images, step_seed, **given)
        if registry.AUGMENTATIONS.is_plugin(step.name):
            result = _checked_result(step.name, result, images, given)
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
        given = [*list(parameters)[:2], *_BY_NAME]
        params = check_options(function, step.params, where, given)
        check_required(function, params, where, given)
        if check := getattr(function, "check", None):
            check(params, size, with_masks, classes)
        checked.append(step.model_copy(update={"params": params}))
    return tuple(checked)


def try_policy(
    policy: tuple[Augmentation, ...],
    load_size: tuple[int, int],
    size: tuple[int, int],
    batch_size: int,
    classes: int,
    with_masks: bool,
) -> None:
    """Apply a policy with a plug-in to one batch, so that its errors are named before the training.

    Args:
        policy: the steps, as `check_policy` returns them.
        load_size: (height, width) of the images as they are loaded, in pixels.
        size: (height, width) of the result, in pixels.
        batch_size: number of images in a batch.
        classes: number of classes.
        with_masks: whether the images have masks.

    Raises:
        UserError: a step of a plug-in raises an error or returns what it must not.
    """
    if not any(registry.AUGMENTATIONS.is_plugin(step.name) for step in policy):
        return
    images = tf.random.stateless_uniform(
        [batch_size, *load_size, 3], [0, 0], maxval=256, dtype=tf.int32
    )
    masks = tf.zeros([batch_size, *load_size, 1], tf.uint8) if with_masks else None
    targets = tf.zeros([batch_size, 1 if classes == 2 else classes])
    position = tf.constant(0, tf.int64)
    augment(tf.cast(images, tf.uint8), policy, size, 0, position, targets, masks)


def _checked_result(
    name: str, result: Any, images: tf.Tensor, given: dict[str, Any]
) -> tuple[tf.Tensor, ...]:
    """Return what a plug-in returned, after a check that it is what it got, changed.

    Args:
        name: the name of the augmentation.
        result: what its function returned.
        images: the images that it got, uint8 [B, h, w, 3].
        given: what else it got, by name.

    Raises:
        UserError: it has another number, shape or type; where TensorFlow knows a shape only when
            it runs, an error of TensorFlow follows then.
    """
    count, sides = images.shape[0], given.get("size", images.shape[1:3])
    wanted = {"images": (tf.uint8, [count, *sides, 3])}
    if given.get("targets") is not None:
        wanted["targets"] = (given["targets"].dtype, [count, *given["targets"].shape[1:]])
    if given.get("masks") is not None:
        wanted["masks"] = (given["masks"].dtype, [count, *sides, 1])
    parts = result if isinstance(result, tuple | list) else (result,)
    names = ["images", *(key for key in ("targets", "masks") if key in given)]
    expected = ", ".join(
        f"{key} {wanted[key][0].name} {wanted[key][1]}" if key in wanted else f"{key} None"
        for key in names
    )
    fits = len(parts) == len(names)
    for key, part in zip(names, parts):
        if key in wanted:
            dtype, shape = wanted[key]
            fits &= tf.is_tensor(part) and part.dtype == dtype
            fits = fits and part.shape.is_compatible_with(shape)
    if not fits:
        received = ", ".join(map(shape_text, parts)) or "nothing"
        raise wrong_result(registry.AUGMENTATIONS, name, received, expected)
    return tuple(
        tf.ensure_shape(part, wanted[key][1]) if key in wanted else None
        for key, part in zip(names, parts)
    )


def mixes_targets(policy: tuple[Augmentation, ...]) -> bool:
    """Return whether a step of the policy changes targets."""
    return any("targets" in inspect.signature(_function_of(step)).parameters for step in policy)


def changes_each_image_alone(policy: tuple[Augmentation, ...]) -> bool:
    """Return whether a part of a batch can be augmented without the rest of it."""
    return all(registry.AUGMENTATIONS[step.name].by_image for step in policy)


def _function_of(step: Augmentation) -> Callable[..., Any]:
    return registry.AUGMENTATIONS.load(step.name)
