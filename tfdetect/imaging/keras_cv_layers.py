"""Augmentation layers of keras-cv, whose random draws depend on our seeds alone.

keras-cv draws from a global generator and from TensorFlow's operation seeds, neither of which a
resumed training can continue. Here the generator and the factor samplers of a layer are replaced
by ones that draw statelessly, and a layer that still draws otherwise is refused.
"""

import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.errors import UserError, unknown
from tfdetect.core.options import Fraction
from tfdetect.imaging.geometry import fold_in
from tfdetect.imaging.resampling import to_uint8

_EXAMPLE = "{name: keras_cv, layer: GridMask, options: {ratio_factor: [0, 0.5]}}"
_MIXING = {"CutMix": "cutmix", "MixUp": "mixup", "FourierMix": "fourier_mix", "Mosaic": "cutmix"}
_NESTING = ("RandomApply", "RandomChoice", "RandomAugmentationPipeline", "RepeatedAugmentation")
_RESIZING = ("Resizing", "RandomAspectRatio", "Rescaling")
_NOT_OPTIONS = ("self", "kwargs", "seed", "value_range", "bounding_box_format")
# Operations whose results do not follow from their inputs.
_STATEFUL_DRAWS = re.compile(
    r"Random(Uniform|UniformInt|StandardNormal|Shuffle|Gamma|Poisson|PoissonV2)$|Rng|Multinomial"
    r"|(Parameterized)?TruncatedNormal$|Stateful(Uniform|Standard|Truncated|Random)|(Eager)?PyFunc"
)
_MASK_VALUES = (0, 1, 255)


def keras_cv_layer(
    images: tf.Tensor,
    seed: tf.Tensor,
    layer: str,
    options: dict[str, Any] | None = None,
    probability: Fraction = 1.0,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Apply an augmentation layer of keras-cv to each image with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        layer: name of a layer of `keras_cv.layers`, for example GridMask.
        options: keyword arguments of the layer. `value_range` is always 0 to 255.
        probability: 0 to 1.
        masks: uint8 [B, H, W, 1], or None; the layer moves them with the images.

    Returns:
        Images uint8 [B, H, W, 3], rounded, and masks.
    """
    draws = _StatelessDraws()
    built = _build(layer, options or {}, draws)
    inputs = {"images": tf.cast(images, tf.float32)}
    if masks is not None:
        inputs["segmentation_masks"] = tf.cast(masks, tf.float32)

    # In a graph always, since eagerly a layer draws only in the branch that it takes; and with
    # AutoGraph, which some layers need.
    @tf.function
    def run(inputs: dict[str, tf.Tensor], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        if _draws_per_batch(built):
            draws.start(seed)
            return built(inputs)
        return _map_images(built, draws, inputs, seed)

    outputs = run(inputs, fold_in(seed, 0))
    _check_shape(layer, images.shape, outputs["images"].shape)
    chosen = tf.random.stateless_uniform([tf.shape(images)[0]], fold_in(seed, 1)) < probability
    chosen = chosen[:, None, None, None]
    changed = tf.where(chosen, to_uint8(outputs["images"]), images)
    if masks is not None:
        masks = tf.where(chosen, to_uint8(outputs["segmentation_masks"]), masks)
    return changed, masks


def check(params: dict[str, Any], size: tuple[int, int], with_masks: bool, classes: int) -> None:
    """Check a step's parameters by building the layer and applying it once.

    Args:
        params: the step's parameters.
        size: (height, width) of the images in pixels.
        with_masks: whether the images have masks, which the layer has to move.
        classes: not used.

    Raises:
        UserError: keras-cv is not installed; the layer or an option is unknown; the layer mixes
            labels, changes the size of images, cannot move masks, or draws random numbers in a
            way that a resumed training could not repeat.
    """
    name = params["layer"]

    def apply(images: tf.Tensor, masks: tf.Tensor, seed: tf.Tensor) -> tuple:
        changed, moved = keras_cv_layer(
            images, seed, name, params.get("options"), masks=masks if with_masks else None
        )
        return (changed, moved) if with_masks else (changed,)

    pixels, masks = _sample(size)
    try:
        built = _build(name, params.get("options") or {}, _StatelessDraws())
        if with_masks and not _moves_masks(built):
            raise UserError(
                f"keras_cv.layers.{name} cannot move masks with the images, so a detector with "
                "masks cannot be trained with it. Use another layer, or a step of tfdetect such "
                "as warp, crop or rand_augment."
            )
        traced = tf.function(apply, autograph=False).get_concrete_function(
            tf.TensorSpec(pixels.shape, tf.uint8), tf.TensorSpec(masks.shape, tf.uint8),
            tf.TensorSpec([2], tf.int32),
        )  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # keras-cv raises what TensorFlow raises on values that do not fit
        raise UserError(
            f"keras_cv.layers.{name} cannot be applied with these options to images of "
            f"{size[0]} x {size[1]} pixels: {_reason(error)}"
        ) from error
    _check_draws(name, traced)
    if with_masks:
        _check_mask_values(name, traced, pixels, masks)


keras_cv_layer.check = check  # type: ignore[attr-defined]


class _StatelessDraws:
    """Stands in for a layer's `tf.random.Generator`: a draw depends on the seed and its number."""

    def __init__(self) -> None:
        self._seed: tf.Tensor | None = None
        self._number = 0

    def start(self, seed: tf.Tensor) -> None:
        """Begin a sequence of draws from a seed, int32 [2]."""
        self._seed, self._number = seed, 0

    def _next(self) -> tf.Tensor:
        self._number += 1
        return fold_in(self._seed, self._number)

    def uniform(
        self, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32,
        name: str | None = None,
    ) -> tf.Tensor:  # fmt: skip
        """Draw uniformly, as `tf.random.Generator.uniform`."""
        return tf.random.stateless_uniform(shape, self._next(), minval, maxval, dtype, name)

    def normal(
        self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32,
        name: str | None = None,
    ) -> tf.Tensor:  # fmt: skip
        """Draw from a normal distribution, as `tf.random.Generator.normal`."""
        return tf.random.stateless_normal(shape, self._next(), mean, stddev, dtype, name)


def _layers() -> dict[str, type]:
    """Return the augmentation layers of keras-cv by name."""
    if importlib.util.find_spec("keras_cv") is None:
        raise UserError(
            'The augmentation keras_cv needs keras-cv: pip install "tfdetect[keras-cv]"'
        )
    import keras_cv

    bases = _bases()
    found = {name: getattr(keras_cv.layers, name) for name in dir(keras_cv.layers)}
    return {
        name: layer for name, layer in found.items()
        if isinstance(layer, type) and issubclass(layer, bases) and layer not in bases
    }  # fmt: skip


def _bases() -> tuple[type, type]:
    from keras_cv import layers

    return layers.BaseImageAugmentationLayer, layers.VectorizedBaseImageAugmentationLayer


def _draws_per_batch(layer: keras.layers.Layer) -> bool:
    """Return whether one call draws for all images of a batch, not for a single one."""
    return isinstance(layer, _bases()[1])


def _build(name: str, options: dict[str, Any], draws: _StatelessDraws) -> keras.layers.Layer:
    """Return the layer, with stateless draws.

    Raises:
        UserError: The layer or an option is unknown, or the layer is of no use here.
    """
    layers = _layers()
    if name not in layers:
        raise unknown("layer of keras_cv.layers", name, layers)
    if name in _MIXING:
        raise UserError(
            f"keras_cv.layers.{name} mixes images and labels. Use the augmentation "
            f"{_MIXING[name]!r} of tfdetect instead, which draws from the experiment's seed."
        )
    if name in _NESTING:
        raise UserError(
            f"keras_cv.layers.{name} takes other layers. List these as steps of their own, each "
            "with a probability."
        )
    if name in _RESIZING:
        raise UserError(
            f"keras_cv.layers.{name} changes the size or the range of images, which "
            "data.image_size and the detector determine. Use the step warp or crop instead."
        )
    parameters = inspect.signature(layers[name]).parameters
    known = {n: p for n, p in parameters.items() if n not in _NOT_OPTIONS}
    for option in options:
        if option not in known:
            raise unknown(f"option of keras_cv.layers.{name}", option, known)
    missing = [n for n, p in known.items() if p.default is p.empty and n not in options]
    if missing:
        raise UserError(
            f"keras_cv.layers.{name} needs the option {missing[0]!r}. Example: {_EXAMPLE}"
        )
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    if "value_range" in parameters:
        arguments["value_range"] = (0, 255)
    with tf.init_scope(), _float32():
        layer = layers[name](**arguments)
    _replace_draws(layer, draws)
    return layer


@contextmanager
def _float32() -> Iterator[None]:
    """Keep layers, and those that they create, out of the training's half precision."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _replace_draws(layer: keras.layers.Layer, draws: _StatelessDraws) -> None:
    from keras_cv.core import FactorSampler

    for part in layer._flatten_layers():
        if hasattr(part, "_random_generator"):
            part._random_generator = draws
        for name, value in list(vars(part).items()):
            if isinstance(value, FactorSampler):
                setattr(part, name, _stateless(value, draws))


def _stateless(sampler: Any, draws: _StatelessDraws) -> Callable[..., tf.Tensor]:
    """Return a factor sampler of keras-cv with stateless draws."""
    from keras_cv.core import NormalFactorSampler, UniformFactorSampler

    def uniform(shape: Any = (), dtype: Any = "float32") -> tf.Tensor:
        return draws.uniform(shape, sampler.lower, sampler.upper, dtype)

    def normal(shape: Any = (), dtype: Any = "float32") -> tf.Tensor:
        drawn = draws.normal(shape, sampler.mean, sampler.stddev, dtype)
        return tf.clip_by_value(drawn, sampler.min_value, sampler.max_value)

    if isinstance(sampler, UniformFactorSampler):
        return uniform
    return normal if isinstance(sampler, NormalFactorSampler) else sampler


def _moves_masks(layer: keras.layers.Layer) -> bool:
    """Return whether a layer, or the layers that it is made of, can be given masks."""
    for base in _bases():
        if isinstance(layer, base):
            names = ("augment_segmentation_mask", "augment_segmentation_masks", "_augment")
            return any(
                getattr(type(layer), name, None) is not getattr(base, name, None) for name in names
            )
    return False


def _reason(error: Exception) -> str:
    """Return the one line of an error of Keras or TensorFlow that says what is wrong."""
    text = str(error).strip()
    marked = re.search(r"\x1b\[1m(.+?)\x1b\[0m", text, re.DOTALL)
    lines = (marked.group(1) if marked else text).strip().splitlines() or [type(error).__name__]
    return lines[0 if marked else -1].strip()[:200]


def _map_images(
    layer: keras.layers.Layer,
    draws: _StatelessDraws,
    inputs: dict[str, tf.Tensor],
    seed: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Apply a layer to one image at a time, each with a seed of its own."""

    def apply(item: tuple[dict[str, tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
        image, number = item
        draws.start(fold_in(seed, number))
        return layer(image)

    numbers = tf.range(tf.shape(inputs["images"])[0])
    types = dict.fromkeys(inputs, tf.float32)
    return tf.map_fn(apply, (inputs, numbers), fn_output_signature=types)


def _sample(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [2, *size, 3] and masks uint8 [2, *size, 1] with all mask values."""
    rng = np.random.default_rng(0)
    masks = rng.choice(np.array(_MASK_VALUES, np.uint8), (2, *size, 1))
    return rng.integers(0, 256, (2, *size, 3), np.uint8), masks


def _check_draws(name: str, traced: Any) -> None:
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(n for function in graph.library.function for n in function.node_def)]
    if any(_STATEFUL_DRAWS.match(node.op) for node in nodes):
        raise UserError(
            f"keras_cv.layers.{name} draws random numbers that do not follow from a seed, so a "
            "resumed training could not repeat them. Use another layer, or a step of tfdetect "
            "such as rand_augment."
        )


def _check_shape(name: str, given: tf.TensorShape, found: tf.TensorShape) -> None:
    if not found.is_compatible_with(given):
        raise UserError(
            f"keras_cv.layers.{name} changes images of shape {tuple(given[1:])} to shape "
            f"{tuple(found[1:])}. A step must keep the size that data.image_size names."
        )


def _check_mask_values(name: str, traced: Any, pixels: np.ndarray, masks: np.ndarray) -> None:
    for number in range(3):
        seed = tf.constant([number, 1], tf.int32)
        _, moved = traced(tf.constant(pixels), tf.constant(masks), seed)
        if set(np.unique(moved)) != set(_MASK_VALUES):
            raise UserError(
                f"keras_cv.layers.{name} changes the values of masks (0 unaltered, 1 altered, "
                "255 not known), so a detector with masks cannot be trained with it. Use another "
                "layer, or a step of tfdetect such as warp."
            )
