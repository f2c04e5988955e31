"""Random erasing and patch masking: they hide parts of an image from the detector."""

import tensorflow as tf

from tfdetect.core.options import Count, Fraction, FractionAbove0
from tfdetect.imaging.draws import uniform
from tfdetect.imaging.geometry import fold_in, in_rectangles


def random_erasing(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    min_area: FractionAbove0 = 0.02,
    max_area: FractionAbove0 = 0.33,
) -> tf.Tensor:
    """Fill a rectangle of each image with noise, with `probability` (Zhong et al., AAAI 2020).

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        min_area: smallest area of the rectangle, as a fraction of the image.
        max_area: largest area of the rectangle. Its aspect ratio is from 1:3 to 3:1.

    Returns:
        uint8 [B, H, W, 3].
    """
    count, height, width, _ = images.shape
    u = tf.unstack(uniform([5, count], seed, axis=1))
    area = (min_area + u[1] * (max_area - min_area)) * height * width
    ratio = tf.exp((u[2] * 2 - 1) * tf.math.log(3.0))
    tall = tf.minimum(tf.sqrt(area * ratio), height)
    wide = tf.minimum(area / tall, width)
    top, left = u[3] * (height - tall), u[4] * (width - wide)
    inside = in_rectangles((height, width), top, left, tall, wide)
    inside &= (u[0] < probability)[:, None, None]
    noise = uniform(images.shape, fold_in(seed, 1), 0, 256, tf.int32)
    return tf.where(inside[..., None], tf.cast(noise, tf.uint8), images)


def random_patches(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    patch_size: Count = 16,
    max_fraction: Fraction = 0.75,
) -> tf.Tensor:
    """Blacken random square patches of each image with `probability`.

    This is the random mask of SAFE (Li et al., KDD 2025).

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        patch_size: side of the patches in pixels.
        max_fraction: largest fraction of black patches; it is drawn from 0 to this.

    Returns:
        uint8 [B, H, W, 3].
    """
    count, height, width, _ = images.shape
    u = uniform([2, count, 1, 1], seed, axis=1)
    fraction = tf.where(u[0] < probability, u[1] * max_fraction, 0.0)
    shape = [count, -(-height // patch_size), -(-width // patch_size)]
    black = uniform(shape, fold_in(seed, 1)) < fraction
    black = tf.repeat(tf.repeat(black, patch_size, axis=1), patch_size, axis=2)
    black = black[:, :height, :width]
    return tf.where(black[..., None], tf.constant(0, tf.uint8), images)
