"""Applies the augmentation policy of an experiment to batches."""

import inspect

import tensorflow as tf

from tfdetect.core import registry
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.experiment import Augmentation


def augment(
    images: tf.Tensor,
    policy: tuple[Augmentation, ...],
    size: tuple[int, int],
    seed: int,
    position: tf.Tensor,
    targets: tf.Tensor | None = None,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Applies a policy's steps in order.

    Parameters are drawn from (seed, step's number, position of the batch in the
    stream) alone, so that they repeat whatever the number of workers. What moves an
    image moves its mask alike.

    Args:
        images: uint8 [B, h, w, 3].
        size: (height, width) of the result.
        position: int64 scalar, of the batch's first image.
        targets: float32 [B, 1 or C], which mixing steps need.
        masks: uint8 [B, h, w, 1], or none.

    Returns:
        Images uint8 [B, *size, 3], targets and masks.

    Raises:
        UserError: a step mixes what has masks and no mixed mask.
    """
    for number, step in enumerate(policy):
        function = registry.resolve("augmentation", registry.AUGMENTATIONS, step.name)
        known = inspect.signature(function).parameters
        params = dict(step.params)
        if "size" in known:
            params["size"] = size
        if "targets" in known:
            params["targets"] = targets
        if masks is not None and "targets" in known and "masks" not in known:
            raise UserError(f"The augmentation {step.name!r} has no meaning for masks.")
        if "masks" in known:
            params["masks"] = masks
        step_seed = tf.random.experimental.stateless_fold_in([seed, number], position)
        result = function(images, step_seed, **params)
        images, *rest = result if isinstance(result, tuple) else (result,)
        if "targets" in known:
            targets, *rest = rest
        if "masks" in known:
            (masks,) = rest
    images.set_shape([images.shape[0], *size, 3])
    return images, targets, masks


def check_policy(policy: tuple[Augmentation, ...]) -> None:
    """Checks the names and kinds of a policy's parameters.

    Raises:
        UserError: a step does not know a parameter, or takes another kind of value.
    """
    for step in policy:
        function = registry.resolve("augmentation", registry.AUGMENTATIONS, step.name)
        known = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in ("images", "seed", "size", "targets", "masks")
        }
        for name, value in step.params.items():
            if name not in known:
                raise unknown(f"parameter of the augmentation {step.name!r}", name, known)
            kind = "true or false" if isinstance(known[name], bool) else "a number"
            if isinstance(value, bool) != isinstance(known[name], bool) or isinstance(
                value, (str, list)
            ):
                raise UserError(
                    f"The augmentation {step.name!r} takes {kind} for {name!r}. Got {value!r}."
                )


def mixes(policy: tuple[Augmentation, ...]) -> bool:
    """Whether a step of the policy mixes targets."""
    functions = (
        registry.resolve("augmentation", registry.AUGMENTATIONS, step.name) for step in policy
    )
    return any("targets" in inspect.signature(f).parameters for f in functions)
