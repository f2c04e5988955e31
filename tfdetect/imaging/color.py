"""Random color changes and RandAugment, with Keras's kernels and our own random parameters."""

import functools
import math
from collections.abc import Callable
from typing import Annotated

import keras
import tensorflow as tf
from pydantic import Field

from tfdetect.core.options import Fraction
from tfdetect.imaging.draws import uniform
from tfdetect.imaging.geometry import Affine, fold_in, warp
from tfdetect.imaging.random_degradations import change_some
from tfdetect.imaging.resampling import to_uint8


@functools.cache
def _layer(name: str, *arguments: float) -> keras.layers.Layer:
    """Return a Keras layer for its kernel alone; its random state, a variable, is not used."""
    with tf.init_scope():
        return getattr(keras.layers, name)(*arguments, value_range=(0, 255), dtype="float32")


def random_color(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 1.0,
    brightness: Fraction = 0.2,
    contrast: Fraction = 0.2,
    saturation: Fraction = 0.2,
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.02,
) -> tf.Tensor:
    """Change brightness, contrast, saturation and hue of each image with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        brightness: largest change up or down, as a fraction of 255.
        contrast: largest relative change up or down, 0 to 1.
        saturation: largest relative change up or down, 0 to 1.
        hue: largest rotation either way, as a fraction of the color circle, 0 to 0.5.

    Returns:
        uint8 [B, H, W, 3], rounded.
    """

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        draws = uniform([tf.shape(images)[0], 4], fold_in(seed, 1), -1.0, 1.0)
        u = tf.gather(draws, rows)
        x = _brightness(tf.cast(chosen, tf.float32), u[:, 0] * brightness)
        x = _contrast(x, u[:, 1] * contrast)
        x = _saturation(x, u[:, 2] * saturation)
        return to_uint8(_hue(x, u[:, 3] * hue))

    return change_some(images, seed, probability, change)


def random_gray(images: tf.Tensor, seed: tf.Tensor, probability: Fraction = 0.1) -> tf.Tensor:
    """Convert each image to gray with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.

    Returns:
        uint8 [B, H, W, 3].
    """

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(chosen))

    return change_some(images, seed, probability, change)


def rand_augment(
    images: tf.Tensor,
    seed: tf.Tensor,
    operations: Annotated[int, Field(ge=1, le=100)] = 2,
    magnitude: Fraction = 0.3,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Apply random ones of twelve operations in turn (RandAugment, Cubuk et al., NeurIPS 2020).

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        operations: number of operations for each image, 1 to 100.
        magnitude: 0 to 1, the part of each operation's range that is used.
        masks: uint8 [B, H, W, 1], or None; rotated, sheared and shifted with the images.

    Returns:
        Images uint8 [B, H, W, 3] and masks.
    """
    count, height, width, _ = images.shape
    for number in range(operations):
        own = fold_in(seed, number)
        draws = uniform([2, count], own, axis=1)
        kind = tf.cast(draws[0] * 12, tf.int32)
        level = (draws[1] * 2 - 1) * magnitude

        def level_of(
            operation: int, scale: float, kind: tf.Tensor = kind, level: tf.Tensor = level
        ) -> tf.Tensor:
            return tf.where(kind == operation, level * scale, 0.0)

        affine = Affine(
            angle=level_of(0, math.pi / 6), shear=level_of(1, 0.3),
            down=level_of(2, 0.45 * height), across=level_of(3, 0.45 * width),
        )  # fmt: skip
        images, masks = warp(images, (height, width), affine, masks)
        for operation, change in enumerate(_TONE_CHANGES, 4):
            images = _change_where(images, kind == operation, level, change)
    return images, masks


def _change_where(
    images: tf.Tensor, chosen: tf.Tensor, level: tf.Tensor, change: Callable
) -> tf.Tensor:
    """Apply `change(images float32 [n, H, W, 3], level float32 [n])` to the chosen images."""
    rows = tf.cast(tf.where(chosen)[:, 0], tf.int32)

    def changed() -> tf.Tensor:
        picked = tf.cast(tf.gather(images, rows), tf.float32)
        result = to_uint8(change(picked, tf.gather(level, rows)))
        return tf.tensor_scatter_nd_update(images, rows[:, None], result)

    result = tf.cond(tf.size(rows) > 0, changed, lambda: images)
    result.set_shape(images.shape)
    return result


def _brightness(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    layer = _layer("RandomBrightness", 1.0)
    return layer.transform_images(images, {"rgb_delta": level[:, None, None, None] * 255})


def _contrast(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    layer = _layer("RandomContrast", 1.0)
    return layer.transform_images(images, {"contrast_factor": 1 + level[:, None, None, None]})


def _saturation(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    layer = _layer("RandomColorDegeneration", 1.0)
    return layer.transform_images(images, {"factor": -level[:, None, None, None]})


def _hue(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    layer = _layer("RandomHue", 1.0)
    return layer.transform_images(images, {"factor": level})


def _sharpness(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    # 0.5 changes nothing, 0 blurs, 1 sharpens.
    layer = _layer("RandomSharpness", 1.0)
    return layer.transform_images(images, {"factor": 0.5 + level / 2})


def _posterize(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    layer = _layer("RandomPosterization", 8)
    bits = tf.cast(tf.round(tf.abs(level) * 6), tf.uint8)
    return layer.transform_images(images, {"shift_factor": bits})


def _solarize(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    layer = _layer("Solarization")
    thresholds = 255 * (1 - tf.abs(level))[:, None, None, None]
    return layer.transform_images(
        images, {"additions": tf.zeros_like(thresholds), "thresholds": thresholds}
    )


def _auto_contrast(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _layer("AutoContrast").transform_images(images)


def _equalize(images: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _layer("Equalization").transform_images(images, None)


_TONE_CHANGES = (
    _brightness, _contrast, _saturation, _sharpness, _posterize, _solarize, _auto_contrast,
    _equalize,
)  # fmt: skip
