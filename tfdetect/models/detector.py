"""`build_detector`: front-end, backbone and heads as one functional Keras model."""

import fnmatch
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from tfdetect.core import registry
from tfdetect.core.entries import Registry
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.model_settings import Freeze, Model
from tfdetect.core.options import check_options
from tfdetect.core.shipped_runs import SHIPPED, run_folder
from tfdetect.core.storage import fetched
from tfdetect.core.text import user_path
from tfdetect.models.backbones import Backbone, build_backbone, check_backbone, inflate
from tfdetect.models.grouped_convolutions import run_groups_as_depthwise
from tfdetect.models.low_rank import adapt, adapted_layers, freeze_all_but_low_rank
from tfdetect.models.pyramid import with_maps
from tfdetect.models.spectral_front_ends import Standardize


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

    # 1. The front-end, and what the backbone will read.
    filtered = build_front_end(model, images)
    shape = images.shape[1:]
    if filtered is not None:
        shape = (*filtered.shape[1:3], filtered.shape[3] + 3 * model.with_pixels)

    # 2. The backbone with its initial weights.
    is_path = _is_path(model.weights)
    backbone = _build_backbone(model, shape, "none" if is_path else model.weights)
    if is_path:
        path = fetched(run_folder(user_path(model.weights)))
        load_backbone(backbone.model, path, model.backbone)
    if model.lora is not None:
        adapt(backbone.model, model.lora)
    backbone.model.autocast = False  # its layers cast, those that should
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
        if model.head == "top_pixels":
            mask["mask"] = outputs["mask"]
    logits = _call(
        registry.HEADS, model.head, "model.head_options", model.head_options,
        features, 1 if classes == 2 else classes, model.dropout, model.l2, **mask,
    )  # fmt: skip
    detector = keras.Model(
        images, {"label": logits, **outputs}, name=experiment.name.replace("/", "_")
    )
    freeze(detector, model.freeze)
    run_groups_as_depthwise(detector)
    return detector


def build_front_end(model: Model, images: keras.KerasTensor) -> keras.KerasTensor | None:
    """Return the output of a front-end, as a symbolic tensor; none of `pixels`.

    Args:
        model: `front_end`, its options and `with_pixels` are used.
        images: float32 [B, H, W, 3] in 0..255, symbolic.

    Raises:
        UserError: an option is wrong, or the output has another size than pixels beside it.
    """
    if model.front_end == "pixels":
        return None
    filtered = _call(
        registry.FRONT_ENDS, model.front_end, "model.front_end_options", model.front_end_options,
        images,
    )  # fmt: skip
    if model.with_pixels and filtered.shape[1:3] != images.shape[1:3]:
        raise UserError(
            f"model.with_pixels: the front-end {model.front_end} changes the image's size from "
            f"{images.shape[1]} x {images.shape[2]} to {filtered.shape[1]} x {filtered.shape[2]}."
        )
    return filtered


def _scale(
    model: Model, images: keras.KerasTensor, filtered: keras.KerasTensor | None
) -> keras.KerasTensor:
    """Return what the backbone reads: scaled pixels, the front-end's output, or both."""
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
    """Call a registered function with arguments and with options that are checked before.

    Args:
        known: where the function is registered.
        name: its name there.
        key: the experiment's key of the options.
        options: the options of the experiment.
        arguments: positional arguments.
        more: keyword arguments that are no options.
    """
    function, checked = _checked(known, name, key, options, len(arguments), more)
    return function(*arguments, **more, **checked)


def _checked(
    known: Registry[Any], name: str, key: str, options: dict[str, Any], positional: int,
    more: Iterable[str] = (),
) -> tuple[Callable, dict[str, Any]]:  # fmt: skip
    """Return a registered function and its options, checked; see `_call`.

    Args:
        known, name, key, options: as `_call` takes them.
        positional: number of its first arguments that are no options.
        more: names of keyword arguments that are no options.
    """
    function = known.load(name)
    given = {*list(inspect.signature(function).parameters)[:positional], *more}
    return function, check_options(function, options, key, given)


def check_model(model: Model) -> None:
    """Check the options of a detector by the signatures of its parts; nothing is built.

    Raises:
        UserError: an option is unknown, out of its range or of a part that there is none of, or
            there are no such weights.
    """
    check_backbone(
        model.backbone, "none" if _is_path(model.weights) else model.weights, model.options
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


def _is_path(weights: str) -> bool:
    """Return whether `model.weights` is a path of a run or a .keras file, not a preset's name."""
    if weights.startswith(("kaggle://", "hf://")) or weights in ("none", "imagenet"):
        return False
    is_file_or_run = weights.endswith(".keras") or os.sep in weights or weights in SHIPPED
    return is_file_or_run or Path(weights).is_dir()


def learn_statistics(
    detector: keras.Model, images: Callable[[], Iterable], head: bool = True
) -> None:
    """Compute the statistics of training images that layers of a front-end or a head need.

    Args:
        detector: its `Standardize` layers are set.
        images: returns batches float32 [B, H, W, 3] in 0..255; called only if a layer needs them.
        head: whether to set those of the head.
    """
    last = None if head else detector.layers.index(backbone_of(detector))
    for layer in detector.layers[:last]:
        if isinstance(layer, Standardize):
            before = keras.Model(detector.inputs[0], layer.input)
            layer.learn(before.predict_on_batch(batch) for batch in images())


def freeze(detector: keras.Model, rule: Freeze) -> None:
    """Freeze the layers of the backbone that the rule names, and unfreeze the others.

    Where layers are adapted by low-rank matrices, these alone are trained.
    Frozen batch normalization uses its moving averages. A compiled detector must be
    compiled again.

    Raises:
        UserError: a pattern matches no layer, or there are fewer layers than are to be frozen.
    """
    backbone = backbone_of(detector)
    if adapted_layers(backbone):
        freeze_all_but_low_rank(backbone)
        return
    leaves = backbone_layers(backbone)
    for leaf in leaves:
        leaf.trainable = True
    if rule.names:
        for pattern in rule.names:
            chosen = [leaf for leaf in leaves if fnmatch.fnmatch(leaf.name, pattern)]
            if not chosen:
                raise UserError(
                    f"model.freeze.names: no layer matches {pattern!r}. The backbone's layers "
                    f"are {', '.join(leaf.name for leaf in leaves[:6])}, ..."
                )
            for leaf in chosen:
                leaf.trainable = False
        return
    count = rule.first if rule.first is not None else round((rule.fraction or 0) * len(leaves))
    if count > len(leaves):
        raise UserError(f"model.freeze.first: {count}, but there are {len(leaves)} layers.")
    for leaf in leaves[:count]:
        leaf.trainable = False


def describe(detector: keras.Model, name: str) -> str:
    """Return one line on a detector's size and frozen layers, for its backbone's name."""
    backbone = backbone_of(detector)
    leaves = backbone_layers(backbone)
    frozen = sum(not layer.trainable for layer in leaves)
    trainable = sum(int(keras.ops.size(v)) for v in detector.trainable_variables)
    what = f"{frozen} of {len(leaves)} backbone layers frozen"
    if adapted := adapted_layers(backbone):
        what = f"low-rank matrices in {len(adapted)} layers"
    return (
        f"{name}: {detector.count_params():,} parameters, {trainable:,} of them trainable; {what}"
    )


def backbone_of(detector: keras.Model) -> keras.Model:
    """Return the backbone inside a detector."""
    return next(layer for layer in detector.layers if isinstance(layer, keras.Model))


def features_of(detector: keras.Model) -> keras.KerasTensor:
    """Return the output of a detector's backbone within the detector, as a symbolic tensor."""
    return backbone_of(detector)._inbound_nodes[-1].output_tensors[0]


def backbones_of(
    detector: keras.Model, members: Sequence[str]
) -> list[tuple[str, keras.Model, keras.KerasTensor]]:
    """Return each backbone of a detector with what to call it and its feature map [B, h, w, C].

    Those of an ensemble are called by the names of its members. Backbones whose features have no
    positions, such as class tokens, are left out.
    """
    found, called = [], {f"backbone_{number}": name for number, name in enumerate(members)}
    for layer in detector.layers:
        if isinstance(layer, keras.Model):
            features = layer._inbound_nodes[-1].output_tensors[0]
            if len(features.shape) == 4 and 1 not in features.shape[1:3]:
                found.append((called.get(layer.name, "backbone"), layer, features))
    return found


def filtered_of(detector: keras.Model) -> keras.KerasTensor | None:
    """Return the output of a detector's front-end, as a symbolic tensor; none without one."""
    names = {layer.name for layer in detector.layers}
    if "pixels_and_filtered" in names:
        return detector.get_layer("pixels_and_filtered").input[1]
    if "preprocess" in names or not any(isinstance(v, keras.Model) for v in detector.layers):
        return None
    return backbone_of(detector)._inbound_nodes[-1].input_tensors[0]


def backbone_layers(backbone: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a backbone in order, with those of nested models in their position."""
    leaves = []
    for layer in backbone.layers:
        leaves += backbone_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return leaves


def load_backbone(backbone: keras.Model, path: Path, name: str) -> None:
    """Copy the weights of the backbone of a name from a run or a .keras file.

    Raises:
        UserError: there is no such file, or it contains no backbone of the same layers.
    """
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"model.weights: there is no run and no .keras file at {path}. Train one first, or "
            "set another path."
        )
    import tfdetect.models.register_layers  # noqa: F401

    try:
        source = keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises many kinds for a bad file
        raise UserError(f"model.weights: {file} cannot be read: {error}") from error
    nested = [layer for layer in source.layers if isinstance(layer, keras.Model)]
    for candidate in [*nested, source]:
        values = _fitting(candidate.get_weights(), backbone)
        if values is not None:
            backbone.set_weights(values)
            return
    raise UserError(
        f"model.weights: {file} contains no backbone of the same layers as {name}. Set "
        "model.backbone and model.options to those of that run."
    )


def _fitting(values: list[np.ndarray], backbone: keras.Model) -> list[np.ndarray] | None:
    """Return the weights of a network as a backbone takes them; None if they do not fit.

    Where the backbone reads a front-end's channels behind those that the network reads, the first
    kernel gets zeros for them, so that both compute the same at first.
    """
    shapes = [tuple(v.shape) for v in backbone.weights]
    if [v.shape for v in values] == shapes:
        return values
    if len(values) != len(shapes) or [v.shape for v in values[1:]] != shapes[1:]:
        return None
    first, wanted = values[0], shapes[0]
    more = wanted[-2] - first.shape[-2] if len(wanted) == first.ndim == 4 else 0
    if more < 1 or (*first.shape[:2], wanted[-2], first.shape[-1]) != wanted:
        return None
    return [np.pad(first, [(0, 0), (0, 0), (0, more), (0, 0)]), *values[1:]]
