"""MixUp and CutMix: they mix the images of a batch in pairs, and their targets."""

import tensorflow as tf

from tfdetect.core.options import Positive
from tfdetect.imaging.geometry import fold_in, in_rectangles
from tfdetect.imaging.resampling import to_uint8


def mixup(
    images: tf.Tensor, seed: tf.Tensor, targets: tf.Tensor, alpha: Positive = 0.2
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image and its target with another one's (Zhang et al., ICLR 2018).

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C], class probabilities.
        alpha: the weight of an image in its blend is drawn from Beta(alpha, alpha).

    Returns:
        Images uint8, rounded, and targets.
    """
    other, weights = draw_pairs(images, seed, alpha)
    weight = weights[:, None, None, None]
    pixels = tf.cast(images, tf.float32)
    mixed = pixels * weight + tf.gather(pixels, other) * (1 - weight)
    return to_uint8(mixed), blend_targets(targets, other, weights)


def cutmix(
    images: tf.Tensor,
    seed: tf.Tensor,
    targets: tf.Tensor,
    alpha: Positive = 1.0,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Paste a rectangle of another image into each image (Yun et al., ICCV 2019).

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C], class probabilities.
        alpha: the fraction of pixels that an image keeps is drawn from Beta(alpha, alpha).
        masks: uint8 [B, H, W, 1], or None; pasted with the images.

    Returns:
        Images uint8; targets, weighted by the fractions of pixels; and masks.
    """
    count, height, width, _ = images.shape
    other, weights = draw_pairs(images, seed, alpha)
    u = tf.random.stateless_uniform([2, count], fold_in(seed, 4))
    side = tf.sqrt(1 - weights)
    tall, wide = tf.round(side * height), tf.round(side * width)
    top, left = tf.floor(u[0] * (height - tall + 1)), tf.floor(u[1] * (width - wide + 1))
    inside = in_rectangles((height, width), top, left, tall, wide)[..., None]
    mixed = tf.where(inside, tf.gather(images, other), images)
    if masks is not None:
        masks = tf.where(inside, tf.gather(masks, other), masks)
    kept = 1 - tall * wide / (height * width)
    return mixed, blend_targets(targets, other, kept), masks


def draw_pairs(images: tf.Tensor, seed: tf.Tensor, alpha: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw with which image each one is mixed, and how much of it remains.

    Args:
        images: [B, H, W, 3]; only their number matters.
        seed: int32 [2].
        alpha: weights are drawn from Beta(alpha, alpha).

    Returns:
        Row of the other image int32 [B], and weight of the image itself float32 [B].
    """
    count = images.shape[0]
    other = tf.random.experimental.stateless_shuffle(tf.range(count), fold_in(seed, 1))
    a = tf.random.stateless_gamma([count], fold_in(seed, 2), alpha)
    b = tf.random.stateless_gamma([count], fold_in(seed, 3), alpha)
    return other, tf.math.divide_no_nan(a, a + b)


def blend_targets(targets: tf.Tensor, other: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Blend each target with another one's.

    Args:
        targets: float32 [B, 1 or C].
        other: int32 [B], row of the other target.
        weights: float32 [B], weight of the target itself, 0 to 1.

    Returns:
        float32 [B, 1 or C].
    """
    weights = weights[:, None]
    return targets * weights + tf.gather(targets, other) * (1 - weights)
