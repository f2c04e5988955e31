"""Builds backbones: a registered function, or a network of keras.applications or keras-hub."""

import inspect
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfdetect.core import registry
from tfdetect.core.errors import UserError, first_line, nearest, shortened
from tfdetect.core.options import check_options, check_required
from tfdetect.core.plugin_faults import calling, shape_text, wrong_result


@dataclass(frozen=True)
class Backbone:
    """A feature extractor, and which of its layers mask heads read.

    Attributes:
        model: scaled images [B, H, W, 3] -> features [B, h, w, c].
        maps: names of the layers whose outputs mask heads take; none for those that
            `pyramid.Pyramid` finds.
    """

    model: keras.Model
    maps: list[str] | None = None


def build_backbone(
    name: str, shape: tuple[int, int, int], weights: str, options: dict[str, Any] | None = None
) -> Backbone:
    """Build a registered backbone.

    Args:
        name: a name in `registry.BACKBONES`.
        shape: (height, width, channels) of its input.
        weights: "none", "imagenet", or a preset's name.
        options: keyword arguments of its function, as `model.options` has them.

    Raises:
        UserError: no such backbone, a refused option, or weights that do not exist or cannot be
            loaded.
    """
    function, checked = check_backbone(name, weights, options or {})
    try:
        with calling(registry.BACKBONES, name):
            made = function(shape, weights, **checked)
    except UserError:
        raise
    except Exception as error:
        # Options of another library, whose ranges no signature names.
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
        if not checked or inspect.Parameter.VAR_KEYWORD not in kinds:
            raise
        raise UserError(
            f"model.options: {name} cannot be built with {checked!r:.200}: "
            f"{first_line(error)[:200]}"
        ) from error
    found = made if isinstance(made, Backbone) else Backbone(made)
    if registry.BACKBONES.is_plugin(name):
        _check_network(name, found.model, shape)
    return found


def _check_network(name: str, model: Any, shape: tuple[int, int, int]) -> None:
    """Check that what a plug-in returned reads images of a shape and returns a feature map.

    Raises:
        UserError: it does not.
    """
    wanted = (
        f"a functional keras.Model from images [B, {', '.join(map(str, shape))}] to one tensor of "
        "features [B, h, w, c]"
    )
    try:
        inputs, features = model.input, model.output
    except (AttributeError, ValueError):  # no model, or one that is not built of layers
        raise wrong_result(registry.BACKBONES, name, shortened(model), wanted) from None
    fits = isinstance(inputs, keras.KerasTensor) and isinstance(features, keras.KerasTensor)
    if fits:
        sides = inputs.shape[1:]
        fits = len(sides) == 3 and all(a in (None, b) for a, b in zip(sides, shape))
        fits = fits and len(features.shape) == 4 and features.shape[-1] is not None
    if not fits:
        received = f"a model from {_structure(inputs)} to {_structure(features)}"
        raise wrong_result(registry.BACKBONES, name, received, wanted)


def _structure(tensors: Any) -> str:
    """Return the shapes of a tensor or of several."""
    if isinstance(tensors, dict):
        tensors = list(tensors.values())
    if not isinstance(tensors, list | tuple):
        return shape_text(tensors)
    return f"{len(tensors)} tensors, {' and '.join(map(shape_text, tensors))}"


def check_backbone(
    name: str, weights: str, options: dict[str, Any]
) -> tuple[Callable, dict[str, Any]]:
    """Check weights and options of a backbone as far as its registry entry and signature say.

    Returns:
        The backbone's function, and the options as it takes them.

    Raises:
        UserError: no such backbone, no such weights, or a refused option.
    """
    presets = registry.BACKBONES.get_entry(name).presets
    if presets is not None and weights not in ("none", *presets):
        raise no_such_weights(name, weights, presets)
    function = registry.BACKBONES.load(name)
    given = [*list(inspect.signature(function).parameters)[:2], *_fixed(function)]
    checked = check_options(function, options, "model.options", given)
    if registry.BACKBONES.is_plugin(name):
        check_required(function, checked, "model.options", given)
    return function, checked


def no_such_weights(name: str, weights: str, presets: Collection[str]) -> UserError:
    """Return the error for a backbone without the pretrained weights that were asked for.

    Args:
        name: the name of the backbone.
        weights: what was asked for.
        presets: the names that exist, beside "none".
    """
    known = ", ".join(["none", *presets])
    return UserError(
        f"model.weights: {name} has no pretrained weights {weights!r}.{nearest(weights, presets)} "
        f"Use {known}, or the path of a run or .keras file."
    )


def _fixed(function: Callable) -> list[str]:
    """Return the names of the arguments that a registry entry binds."""
    return list(getattr(function, "keywords", {}))


_APPLICATION_GIVEN = (  # arguments of keras.applications that are no options
    "include_top", "weights", "input_tensor", "input_shape", "pooling", "classes",
    "classifier_activation", "include_preprocessing", "name",
)  # fmt: skip


def keras_application(
    shape: tuple[int, int, int], weights: str, *, network: str, **options: Any
) -> keras.Model:
    """Return a network of keras.applications without its top.

    Args:
        shape: (height, width, channels).
        weights: "none" or "imagenet".
        network: name of the function in keras.applications.
        options: further arguments of that function, for example `alpha` of MobileNetV3.
    """
    build = getattr(keras.applications, network)
    options = check_options(build, options, "model.options", _APPLICATION_GIVEN)
    if "include_preprocessing" in inspect.signature(build).parameters:
        options["include_preprocessing"] = False  # the detector scales images itself
    arguments = {
        "include_top": False, "weights": None if weights == "none" else weights,
        "input_shape": shape, **options,
    }  # fmt: skip
    with warnings.catch_warnings():  # front-ends may leave any number of channels
        warnings.filterwarnings("ignore", "This model usually expects 1 or 3 input channels")
        return load_weights(weights, lambda: build(**arguments))


_HUB_GIVEN = ("self", "image_shape", "data_format", "dtype", "name")  # these are no options
# What a keras-hub backbone returns, and the number of leading tokens that are the features.
_LEADING_TOKENS = {"class_token": 1, "distilled": 2}


def keras_hub_backbone(
    shape: tuple[int, int, int],
    weights: str,
    *,
    network: str,
    preset: str | None,
    layout: dict[str, Any],
    features: str = "map",
    name: str | None = None,
    **options: Any,
) -> keras.Model:
    """Return a backbone of keras-hub whose features are a map [B, h, w, c].

    Args:
        shape: (height, width, channels).
        weights: "none", "imagenet" for `preset`, or another preset's name.
        network: name of the class in keras_hub.models.
        preset: its ImageNet weights; none where keras-hub has none.
        layout: arguments of the class.
        features: what the class returns: "map"; "grid", tokens that stand for positions at stride
            32; "class_token" or "distilled", tokens of which the first one or two are the features.
        name: the name of the model, for tokens.
        options: arguments of the class that replace those of `layout`.
    """
    import keras_hub

    build = getattr(keras_hub.models, network)
    options = check_options(build.__init__, options, "model.options", _HUB_GIVEN, closed=True)
    if features == "grid":
        ignore_mask_warnings()
    backbone = from_keras_hub(build, preset, weights, {"image_shape": shape, **layout}, options)
    if features == "map":
        return backbone
    inputs = keras.Input(shape)
    tokens = backbone(inputs)
    width = tokens.shape[-1]
    if features == "grid":
        grid = (shape[0] // 32, shape[1] // 32, width)
        x = keras.layers.Reshape(grid, name="grid")(tokens)
    else:
        count = _LEADING_TOKENS[features]
        x = keras.layers.Cropping1D((0, tokens.shape[1] - count), name="leading")(tokens)
        x = keras.layers.Reshape((1, count, width), name="grid")(x)
    return keras.Model(inputs, x, name=name)


def from_keras_hub(
    build: Any, preset: str | None, weights: str, arguments: dict[str, Any],
    options: dict[str, Any],
) -> keras.Model:  # fmt: skip
    """Return a keras-hub backbone with random weights, or with those of a preset.

    Args:
        build: the class.
        preset: what "imagenet" stands for; none where there are no such weights.
        weights: "none", "imagenet", or a preset's name.
        arguments: the arguments of the class, for random weights.
        options: the options of the experiment, which replace arguments.

    Raises:
        UserError: no such weights, or options beside weights, which are of one network.
    """
    if weights == "none":
        return build(**arguments | options)
    check_fixed(weights, options)
    if preset is None and weights == "imagenet":
        raise UserError(
            f"model.weights: keras-hub has no ImageNet weights for this {build.__name__}. Use "
            "none, the path of a run or .keras file, or another backbone, for example resnet50."
        )
    chosen = hub_preset(build, preset, weights)
    shape = arguments["image_shape"]
    return load_weights(
        chosen, lambda: build.from_preset(chosen, image_shape=shape, load_weights=True)
    )


def check_fixed(weights: str, options: dict[str, Any]) -> None:
    """Check that no option changes a network whose pretrained weights are loaded.

    Raises:
        UserError: one would.
    """
    if weights != "none" and options:
        raise UserError(
            f"model.options: {', '.join(options)} cannot be changed with model.weights={weights}, "
            "which are of one network. Leave the options out, or set model.weights=none."
        )


def hub_preset(build: Any, preset: str | None, weights: str) -> str:
    """Return the name by which keras-hub knows weights.

    Args:
        build: a class of keras-hub.
        preset: what "imagenet" stands for, if there is such a preset.
        weights: "imagenet", a preset's name, or its address, such as "kaggle://...".

    Raises:
        UserError: keras-hub has no such preset of the class.
    """
    chosen = preset if preset is not None and weights == "imagenet" else weights
    if "://" not in chosen and chosen not in build.presets:
        names = ([] if preset is None else ["imagenet"]) + sorted(build.presets)
        raise no_such_weights(build.__name__, weights, names)
    return chosen


def ignore_mask_warnings() -> None:
    """Silence keras-hub's Swin, which warns about the attention masks that it passes on itself."""
    warnings.filterwarnings(
        "ignore", r"(?s).*was passed an input with a mask attached", UserWarning
    )


def inflate(target: keras.Model, source: keras.Model) -> None:
    """Copy the weights of a network for three channels into the same one for another number.

    Where the shapes differ, in the first kernel, it is repeated along its channels and divided
    by how often, so that the activations keep their scale.
    """
    for new, old in zip(target.weights, source.weights, strict=True):
        value = old.numpy()
        if value.shape != new.shape:
            channels = new.shape[-2]
            repeated = np.resize(
                np.moveaxis(value, -2, 0), (channels, *value.shape[:2], value.shape[-1])
            )
            value = np.moveaxis(repeated, 0, -2) * (value.shape[-2] / channels)
        new.assign(value)


def load_weights(weights: str, build: Callable[[], keras.Model]) -> keras.Model:
    """Return the model that `build` makes; a failed download becomes a `UserError`.

    Args:
        weights: what is downloaded; "none" for nothing.
        build: makes the model.
    """
    if weights == "none":
        return build()
    try:
        return build()
    except UserError:
        raise
    except Exception as error:  # what the HTTP and hub libraries raise
        reason = first_line(error)[:200]
        raise UserError(
            f"The weights {weights!r} could not be loaded: {reason}\n"
            "Weights are downloaded once and then kept. Without a network, train from scratch "
            "(--set model.weights=none), start from a run or a .keras file "
            "(--set model.weights=PATH), or copy the download caches ~/.keras and "
            "~/.cache/kagglehub from a machine that has them."
        ) from error
