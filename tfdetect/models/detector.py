"""`build_detector`: front-end, backbone and heads as one functional Keras model."""

import fnmatch
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
from keras import layers

from tfdetect.core import registry
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment, Freeze, Model
from tfdetect.models.backbones import Backbone, inflate
from tfdetect.models.pyramid import with_maps
from tfdetect.models.spectral_front_ends import Standardize


def build_detector(experiment: Experiment, classes: int) -> keras.Model:
    """Builds the detector of an experiment.

    Args:
        experiment: its `model` and `data.image_size` are used.
        classes: number of classes, 2 or more. Two classes have one logit, the
            logit of fake.

    Returns:
        A model from images [B, H, W, 3] in 0..255 to {"label": logits float32
        [B, 1 or classes]} and, with a mask head, "mask": logits float32 [B, H, W, 1] of
        altered pixels, and what else the mask head is trained by.

    Raises:
        UserError: weights cannot be had or do not fit, or an option is refused.
    """
    model = experiment.model
    shape = (*experiment.data.image_size, 3)
    is_path = not model.weights.startswith(("kaggle://", "hf://")) and (
        model.weights.endswith(".keras") or os.sep in model.weights or (
            model.weights not in ("none", "imagenet") and Path(model.weights).is_dir()
        )
    )  # fmt: skip
    images = keras.Input(shape, name="image")
    filtered = None
    if model.front_end != "pixels":
        build = registry.resolve("front-end", registry.FRONT_ENDS, model.front_end)
        filtered = _options("front-end", "front_end_options", model.front_end, build, images,
                            **model.front_end_options)  # fmt: skip
        if model.with_pixels and filtered.shape[1:3] != images.shape[1:3]:
            raise UserError(
                f"model.with_pixels: the front-end {model.front_end} changes the image's size."
            )
        shape = (*filtered.shape[1:3], filtered.shape[3] + 3 * model.with_pixels)
    backbone = _build_backbone(model, shape, "none" if is_path else model.weights)
    if is_path:
        _load_backbone(backbone.model, Path(model.weights).expanduser())
    backbone.model.autocast = False  # its layers do that, those that want it

    x = filtered
    if filtered is None or model.with_pixels:
        # In float32 also under mixed precision: half precision would round pixels.
        x = layers.Rescaling(backbone.scale, backbone.offset, dtype="float32", name="preprocess")(
            images
        )
        if filtered is not None:
            x = layers.Concatenate(dtype="float32", name="pixels_and_filtered")([x, filtered])
    outputs, mask = {}, {}
    if model.mask_head is None:
        features = backbone.model(x)
    else:
        network = with_maps(backbone.model, backbone.maps)
        network.autocast = False
        features, *maps = network(x)
        draw = registry.resolve("mask head", registry.MASK_HEADS, model.mask_head)
        outputs = _options("mask head", "mask_options", model.mask_head, draw, x, features, maps,
                           **model.mask_options)  # fmt: skip
        if model.head == "top_pixels":
            mask["mask"] = outputs["mask"]
    head = registry.resolve("head", registry.HEADS, model.head)
    logits = _options(
        "head", "head_options", model.head, head, features, 1 if classes == 2 else classes,
        model.dropout, model.l2, **mask, **model.head_options,
    )  # fmt: skip
    detector = keras.Model(
        images, {"label": logits, **outputs}, name=experiment.name.replace("/", "_")
    )
    freeze(detector, model.freeze)
    return detector


def _build_backbone(model: Model, shape: tuple, weights: str) -> Backbone:
    build = registry.resolve("backbone", registry.BACKBONES, model.backbone)

    def make(shape: tuple, weights: str) -> Backbone:
        return _options("backbone", "options", model.backbone, build, shape, weights,
                        **model.options)  # fmt: skip

    if shape[-1] == 3 or weights == "none":
        return make(shape, weights)
    backbone = make(shape, "none")
    inflate(backbone.model, make((*shape[:2], 3), weights).model)
    return backbone


def _options(kind: str, key: str, name: str, build: Callable, *arguments, **options):
    """What `build` makes; that it refuses an option is the user's mistake."""
    try:
        return build(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"The {kind} {name} refuses model.{key}: {error}") from error


def learn_statistics(detector: keras.Model, images: Callable[[], Iterable]) -> None:
    """Learns what layers of a front-end take from training images before the first step.

    Args:
        images: makes batches float32 [B, H, W, 3] in 0..255; called only if a layer needs them.
    """
    for layer in detector.layers:
        if isinstance(layer, Standardize):
            before = keras.Model(detector.inputs[0], layer.input)
            layer.learn(before.predict_on_batch(batch) for batch in images())


def freeze(detector: keras.Model, rule: Freeze) -> None:
    """Makes those layers of the backbone untrainable that the rule names, and no others.

    Frozen batch normalization uses its moving averages. A compiled detector must be
    compiled again.
    """
    leaves = backbone_layers(backbone_of(detector))
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


def describe(detector: keras.Model) -> str:
    """One line on size and freezing, for the terminal and the run."""
    backbone = backbone_of(detector)
    leaves = backbone_layers(backbone)
    frozen = sum(not layer.trainable for layer in leaves)
    trainable = sum(int(keras.ops.size(v)) for v in detector.trainable_variables)
    return (
        f"{backbone.name}: {detector.count_params():,} parameters, {trainable:,} of them "
        f"trainable; {frozen} of {len(leaves)} backbone layers frozen"
    )


def backbone_of(detector: keras.Model) -> keras.Model:
    """The backbone inside a detector."""
    return next(layer for layer in detector.layers if isinstance(layer, keras.Model))


def features_of(detector: keras.Model) -> keras.KerasTensor:
    """What a detector's backbone gives within the detector, as a symbolic tensor."""
    return backbone_of(detector)._inbound_nodes[-1].output_tensors[0]


def backbones_of(detector: keras.Model) -> list[tuple[str, keras.KerasTensor]]:
    """Names of a detector's backbones (an ensemble has several), and the maps of features they
    give within it, [B, h, w, C]; those that keep no places, such as class tokens, are left out.
    """
    found = []
    for layer in detector.layers:
        if isinstance(layer, keras.Model):
            features = layer._inbound_nodes[-1].output_tensors[0]
            if len(features.shape) == 4 and 1 not in features.shape[1:3]:
                found.append((layer.name, features))
    return found


def filtered_of(detector: keras.Model) -> keras.KerasTensor | None:
    """What a detector's front-end gives within the detector; None if it sees pixels alone."""
    names = {layer.name for layer in detector.layers}
    if "pixels_and_filtered" in names:
        return detector.get_layer("pixels_and_filtered").input[1]
    if "preprocess" in names or not any(isinstance(v, keras.Model) for v in detector.layers):
        return None
    return backbone_of(detector)._inbound_nodes[-1].input_tensors[0]


def backbone_layers(backbone: keras.Model) -> list[keras.layers.Layer]:
    """The backbone's layers in order, those of models inside it in their place."""
    leaves = []
    for layer in backbone.layers:
        leaves += backbone_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return leaves


def _load_backbone(backbone: keras.Model, path: Path) -> None:
    """Copies the backbone's weights out of a run or a .keras file."""
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"model.weights: there is no run and no .keras file at {path}. Train it first, or set "
            "another path."
        )
    try:
        source = keras.saving.load_model(file, compile=False)
    except Exception as error:  # Keras raises many kinds for a bad file
        raise UserError(f"model.weights: {file} cannot be read: {error}") from error
    nested = [layer for layer in source.layers if isinstance(layer, keras.Model)]
    for candidate in [*nested, source]:
        shapes = [v.shape for v in candidate.weights]
        if shapes == [v.shape for v in backbone.weights]:
            backbone.set_weights(candidate.get_weights())
            return
    raise UserError(f"model.weights: {file} holds another backbone than {backbone.name}.")
