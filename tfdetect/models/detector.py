"""`build_detector`: front-end, backbone and heads as one functional Keras model."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import layers

from tfdetect.core import registry
from tfdetect.core.entries import Registry
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.model_settings import Model
from tfdetect.core.options import check_options, check_required
from tfdetect.core.plugin_faults import calling, shape_text, wrong_result
from tfdetect.core.shipped_runs import run_folder
from tfdetect.core.storage import fetched
from tfdetect.core.text import user_path
from tfdetect.models.backbones import Backbone, build_backbone, check_backbone, inflate
from tfdetect.models.freezing import freeze
from tfdetect.models.grouped_convolutions import run_groups_as_depthwise
from tfdetect.models.initial_weights import is_weights_path, load_backbone
from tfdetect.models.low_rank import adapt
from tfdetect.models.pyramid import with_maps


def build_detector(experiment: Experiment, classes: int) -> keras.Model:
    """Build the detector of an experiment.

    Args:
        experiment: its `model` and `data.image_size` are used.
        classes: number of classes, 2 or more. Two classes have one logit, the
            logit of fake.

    Returns:
        A model from images [B, H, W, 3] in 0..255 to {"label": logits float32
        [B, 1 or classes]} and, with a mask head, "mask": logits float32 [B, H, W, 1] of
        altered pixels, and any auxiliary output of the mask head.

    Raises:
        UserError: weights cannot be loaded or do not fit, or an option is refused.
    """
    model = experiment.model
    images = keras.Input((*experiment.data.image_size, 3), name="image")

    # 1. The front-end, and the shape of the input of the backbone.
    filtered = build_front_end(model, images)
    shape = images.shape[1:]
    if filtered is not None:
        shape = (*filtered.shape[1:3], filtered.shape[3] + 3 * model.with_pixels)

    # 2. The backbone with its initial weights.
    is_path = is_weights_path(model.weights)
    backbone = _build_backbone(model, shape, "none" if is_path else model.weights)
    if is_path:
        path = fetched(run_folder(user_path(model.weights)))
        load_backbone(backbone.model, path, model.backbone)
    if model.lora is not None:
        adapt(backbone.model, model.lora)
    backbone.model.autocast = False  # its layers cast their inputs themselves
    x = _scale(model, images, filtered)

    # 3. The mask head, if any, and the head.
    outputs, mask = {}, {}
    if model.mask_head is None:
        features = backbone.model(x)
    else:
        network = with_maps(backbone.model, backbone.maps)
        network.autocast = False
        features, *maps = network(x)
        outputs = _call(
            registry.MASK_HEADS, model.mask_head, "model.mask_options", model.mask_options,
            x, features, maps,
        )  # fmt: skip
        if registry.MASK_HEADS.is_plugin(model.mask_head):
            _check_masks(model.mask_head, outputs, x)
        if model.head == "top_pixels":
            mask["mask"] = outputs["mask"]
    count = 1 if classes == 2 else classes
    logits = _call(
        registry.HEADS, model.head, "model.head_options", model.head_options,
        features, count, model.dropout, model.l2, **mask,
    )  # fmt: skip
    if registry.HEADS.is_plugin(model.head) and not _is_tensor(logits, (None, count)):
        raise wrong_result(registry.HEADS, model.head, shape_text(logits), f"float32 [B, {count}]")
    detector = keras.Model(
        images, {"label": logits, **outputs}, name=experiment.name.replace("/", "_")
    )
    freeze(detector, model.freeze)
    run_groups_as_depthwise(detector)
    return detector


def build_front_end(model: Model, images: keras.KerasTensor) -> keras.KerasTensor | None:
    """Return the output of a front-end as a symbolic tensor; None for the front-end `pixels`.

    Args:
        model: `front_end`, its options and `with_pixels` are used.
        images: float32 [B, H, W, 3] in 0..255, symbolic.

    Raises:
        UserError: an option is refused, or the output has another size than the image although
            `with_pixels` is set.
    """
    if model.front_end == "pixels":
        return None
    filtered = _call(
        registry.FRONT_ENDS, model.front_end, "model.front_end_options", model.front_end_options,
        images,
    )  # fmt: skip
    if registry.FRONT_ENDS.is_plugin(model.front_end):
        _check_filtered(model, images, filtered)
    if model.with_pixels and filtered.shape[1:3] != images.shape[1:3]:
        raise UserError(
            f"model.with_pixels: the front-end {model.front_end} changes the image's size from "
            f"{images.shape[1]} x {images.shape[2]} to {filtered.shape[1]} x {filtered.shape[2]}."
        )
    return filtered


def _is_tensor(value: Any, shape: tuple) -> bool:
    """Return whether a value is a symbolic tensor of floats of a shape."""
    return (
        isinstance(value, keras.KerasTensor)
        and tuple(value.shape) == shape
        and keras.backend.is_float_dtype(value.dtype)
    )


def _check_filtered(model: Model, images: keras.KerasTensor, filtered: Any) -> None:
    """Check what a front-end returned for images.

    Raises:
        UserError: it is no tensor [B, h, w, c], or not of the sides that `output_side` says.
    """
    name, side_of = model.front_end, registry.FRONT_ENDS[model.front_end].output_side
    with calling(registry.FRONT_ENDS, name, side_of):
        sides = [side_of(side, model.front_end_options) for side in images.shape[1:3]]
    channels = filtered.shape[-1] if isinstance(filtered, keras.KerasTensor) else None
    fits = channels is not None and all(type(side) is int for side in sides)
    if not fits or not _is_tensor(filtered, (None, *sides, channels)):
        wanted = f"float32 [B, {sides[0]}, {sides[1]}, c] (these sides are of its output_side)"
        raise wrong_result(registry.FRONT_ENDS, name, shape_text(filtered), wanted)


def _check_masks(name: str, outputs: Any, image: keras.KerasTensor) -> None:
    """Check what a mask head returned for what it reads.

    Raises:
        UserError: it is not "mask", and perhaps "mask_aux", of the size of the image.
    """
    shape = (*image.shape[:3], 1)
    if isinstance(outputs, dict) and outputs:
        received = ", ".join(f"{key!r}: {shape_text(x)}" for key, x in outputs.items())
        received = f"{{{received}}}"
    else:
        received = shape_text(outputs)
    if (
        not isinstance(outputs, dict)
        or not {"mask"} <= set(outputs) <= {"mask", "mask_aux"}
        or not all(_is_tensor(x, shape) for x in outputs.values())
    ):
        wanted = f'{{"mask": float32 [B, {shape[1]}, {shape[2]}, 1]}}'
        raise wrong_result(
            registry.MASK_HEADS, name, received, f'{wanted}, with "mask_aux" beside it or without,'
        )


def _scale(
    model: Model, images: keras.KerasTensor, filtered: keras.KerasTensor | None
) -> keras.KerasTensor:
    """Return the input of the backbone: scaled pixels, the front-end's output, or both."""
    if filtered is not None and not model.with_pixels:
        return filtered
    entry = registry.BACKBONES[model.backbone]
    # float32 also under mixed precision: half precision would round pixels.
    pixels = layers.Rescaling(
        _plain(entry.scale), _plain(entry.offset), dtype="float32", name="preprocess"
    )(images)
    if filtered is None:
        return pixels
    return layers.Concatenate(dtype="float32", name="pixels_and_filtered")([pixels, filtered])


def _plain(value: float | tuple[float, ...]) -> float | list[float]:
    return list(value) if isinstance(value, tuple) else value


def _build_backbone(model: Model, shape: tuple, weights: str) -> Backbone:
    def make(shape: tuple, weights: str) -> Backbone:
        return build_backbone(model.backbone, shape, weights, model.options)

    if shape[-1] == 3 or weights == "none":
        return make(shape, weights)
    backbone = make(shape, "none")
    inflate(backbone.model, make((*shape[:2], 3), weights).model)
    return backbone


def _call(
    known: Registry[Any], name: str, key: str, options: dict[str, Any], *arguments: Any,
    **more: Any,
) -> Any:  # fmt: skip
    """Call a registered function with its arguments and with the options of the experiment.

    The options are checked first.

    Args:
        known: the registry of the function.
        name: its name there.
        key: the key of the options in the experiment, for messages.
        options: the options of the experiment.
        arguments: positional arguments that are not options.
        more: keyword arguments that are not options.
    """
    function, checked = _checked(known, name, key, options, len(arguments), more)
    with calling(known, name):
        return function(*arguments, **more, **checked)


def _checked(
    known: Registry[Any], name: str, key: str, options: dict[str, Any], positional: int,
    more: Iterable[str] = (),
) -> tuple[Callable, dict[str, Any]]:  # fmt: skip
    """Return a registered function and its options, checked; see `_call`.

    Args:
        known, name, key, options: as `_call` takes them.
        positional: number of its first parameters that are not options.
        more: names of keyword arguments that are not options.
    """
    function = known.load(name)
    given = {*list(inspect.signature(function).parameters)[:positional], *more}
    checked = check_options(function, options, key, given)
    check_required(function, checked, key, given)
    return function, checked


def check_model(model: Model) -> None:
    """Check the options of a detector by the signatures of its parts; nothing is built.

    Raises:
        UserError: an option is unknown or out of its range, options are given for a part that the
            detector does not have, or the weights do not exist.
    """
    check_backbone(
        model.backbone, "none" if is_weights_path(model.weights) else model.weights, model.options
    )
    more = ("mask",) if model.head == "top_pixels" else ()
    _checked(registry.HEADS, model.head, "model.head_options", model.head_options, 4, more)
    if model.front_end != "pixels":
        _checked(registry.FRONT_ENDS, model.front_end, "model.front_end_options",
                 model.front_end_options, 1)  # fmt: skip
    elif model.front_end_options:
        raise UserError(
            f"model.front_end_options: there is no front-end to take "
            f"{', '.join(model.front_end_options)}. Set model.front_end."
        )
    if model.mask_head is not None:
        _checked(registry.MASK_HEADS, model.mask_head, "model.mask_options", model.mask_options, 3)
    elif model.mask_options:
        raise UserError(
            f"model.mask_options: there is no mask head to take {', '.join(model.mask_options)}. "
            "Set model.mask_head."
        )
