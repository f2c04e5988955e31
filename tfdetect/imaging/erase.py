"""Random erasing and patch masking: parts of an image that a detector must do without."""

import tensorflow as tf

from tfdetect.imaging.geometry import fold_in


def random_erasing(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: float = 0.5,
    lowest: float = 0.02,
    highest: float = 0.33,
) -> tf.Tensor:
    """Fills a rectangle of each image with noise (Zhong et al., AAAI 2020), with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        lowest, highest: the rectangle's share of the image; its sides differ up to
            threefold.

    Returns:
        uint8 [B, H, W, 3].
    """
    count, height, width, _ = images.shape
    u = tf.unstack(tf.random.stateless_uniform([5, count], seed))
    area = (lowest + u[1] * (highest - lowest)) * height * width
    ratio = tf.exp((u[2] * 2 - 1) * tf.math.log(3.0))
    tall = tf.minimum(tf.sqrt(area * ratio), height)
    wide = tf.minimum(area / tall, width)
    top, left = u[3] * (height - tall), u[4] * (width - wide)
    rows, columns = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)
    inside_y = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    inside_x = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    inside = inside_y[:, :, None] & inside_x[:, None] & (u[0] < probability)[:, None, None]
    noise = tf.random.stateless_uniform(images.shape, fold_in(seed, 1), 0, 256, tf.int32)
    return tf.where(inside[..., None], tf.cast(noise, tf.uint8), images)


def random_patches(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: float = 0.5,
    patch: int = 16,
    highest: float = 0.75,
) -> tf.Tensor:
    """Blackens random patches of each image with `probability` (SAFE's random mask).

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        patch: side of the square patches in pixels.
        highest: the share of blackened patches is drawn from 0 to this.

    Returns:
        uint8 [B, H, W, 3].
    """
    count, height, width, _ = images.shape
    share = tf.random.stateless_uniform([2, count, 1, 1], seed)
    share = tf.where(share[0] < probability, share[1] * highest, 0.0)
    shape = [count, -(-height // patch), -(-width // patch)]
    black = tf.random.stateless_uniform(shape, fold_in(seed, 1)) < share
    black = tf.repeat(tf.repeat(black, patch, axis=1), patch, axis=2)[:, :height, :width]
    return tf.where(black[..., None], tf.constant(0, tf.uint8), images)
