"""Functions of the Python API that list names and build plain Keras models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfdetect.api.arguments import Overrides, override_texts, plain
from tfdetect.api.checked import checked
from tfdetect.core.errors import UserError, UserTypeError, shortened, unknown
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run_command import lacks_memory

if TYPE_CHECKING:
    import keras


def list_backbones() -> list[str]:
    """Return the names of the backbones that `create_detector` and experiments know."""
    from tfdetect.core.registry import BACKBONES

    return sorted(BACKBONES)


def list_experiments() -> list[str]:
    """Return the names of the shipped experiments."""
    from tfdetect.core.shipped_documents import shipped_names

    return sorted(shipped_names("experiments"))


def list_datasets() -> list[str]:
    """Return the names of the shipped dataset specs."""
    from tfdetect.core.shipped_documents import shipped_names

    return sorted(shipped_names("data_specs"))


def list_detectors() -> list[str]:
    """Return the names of the published detectors, for `train(model=...)`."""
    from tfdetect.core.load_experiment import published

    return sorted(published())


_MAX_CLASSES = 65_536  # far beyond what is of use; more end in a memory error


@checked
def create_detector(
    name: str,
    image_size: int | tuple[int, int] | None = None,
    classes: int = 2,
    *,
    weights: str | None = None,
    overrides: Overrides = (),
) -> keras.Model:
    """Return an untrained detector as a plain Keras model.

    Args:
        name: a published detector, of `list_detectors()`, as `train --model` trains it, or a
            backbone, of `list_backbones()`. If a name is in both, it is the detector.
        image_size: side in pixels, or height and width; by default 224, or what the published
            detector takes.
        classes: number of classes, at most 65,536; two have one logit, the logit of fake.
        weights: "none", "imagenet", a preset's name, or the path of a run or .keras file; by
            default none.
        overrides: further values of the experiment, for example {"model.head": "hidden"}.

    Returns:
        A model from images float32 [B, H, W, 3] in 0..255 to a dict: "label", logits float32
        [B, 1 or classes], and with a mask head "mask", logits float32 [B, H, W, 1].

    Raises:
        UserError: an unknown name, an illegal size or value, or not enough memory.
    """
    from tfdetect.core.experiment import Experiment
    from tfdetect.core.load_experiment import load_model, override

    if not 2 <= classes <= _MAX_CLASSES:
        raise UserError(f"A detector has 2 to {_MAX_CLASSES:,} classes. Received: {classes:,}.")
    size = None if image_size is None else _checked_size(image_size)
    changes: dict[str, Any] = {}
    if name in list_detectors():
        base = load_model(name)
        changes = {} if size is None else {"data.image_size": size}
    elif name in list_backbones():
        base = Experiment(name=name)
        changes = {"model.backbone": name, "data.image_size": size or 224}
    else:
        raise unknown("backbone or detector", name, {*list_backbones(), *list_detectors()})
    changes["model.weights"] = "none" if weights is None else weights
    experiment = override(base, [*override_texts(changes), *override_texts(overrides)])
    import_tensorflow()
    from tfdetect.models.detector import build_detector

    try:
        return build_detector(experiment, classes)
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise UserError(
            "This detector does not fit into the memory that is free. Take a smaller backbone or "
            "image_size, or other options of the model."
        ) from error


def _checked_size(image_size: Any) -> int | list[int]:
    """Return a side, or a height and a width, as whole numbers that an experiment allows."""
    from tfdetect.core.data_settings import MAX_SIDE

    given = plain(image_size)
    sides = given if isinstance(given, list) else [given]
    if any(type(side) is not int for side in sides) or len(sides) not in (1, 2):
        raise UserTypeError(
            "create_detector(): image_size is a whole number of pixels, or a height and a width "
            f"such as (224, 320). Received: {shortened(image_size)}, of type "
            f"{type(image_size).__name__}."
        )
    if not all(0 < side <= MAX_SIDE for side in sides):
        raise UserError(
            f"create_detector(): image_size is 1 to {MAX_SIDE:,} pixels a side. "
            f"Received: {shortened(image_size)}."
        )
    return sides[0] if len(sides) == 1 else sides
