"""Labels and masks as losses expect them."""

import tensorflow as tf

UNKNOWN = 255  # in masks, where nobody knows whether a pixel was altered


def mark_unknown(masks: tf.Tensor, labels: tf.Tensor, masked: tf.Tensor) -> tf.Tensor:
    """Masks uint8 [B, H, W, 1] with 255, not known, for fakes without a mask.

    Those of class 0 are empty.

    Args:
        labels: int [B].
        masked: bool [B], whether there is a mask.
    """
    authentic, masked = (x[:, None, None, None] for x in (labels == 0, masked))
    return tf.where(authentic, tf.zeros_like(masks), tf.where(masked, masks, UNKNOWN))


def empty_mask_is_authentic(target: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """Class 0 for images whose known mask has no altered pixel; other targets as they are.

    Args:
        target: [B, 1 or C], or class numbers [B].
        masks: uint8 [B, H, W, 1].
    """
    untouched = tf.reduce_all(masks == 0, axis=[1, 2, 3])
    authentic = tf.zeros_like(target)
    if target.shape.rank == 2 and target.shape[1] > 1:
        authentic = tf.one_hot(tf.zeros_like(untouched, tf.int32), target.shape[1])
    if target.shape.rank == 2:
        untouched = untouched[:, None]
    return tf.where(untouched, authentic, target)


def targets(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Labels as the loss wants them: float32 [B, 1] for two classes, int64 [B] for more."""
    if classes == 2:
        return tf.cast(labels, tf.float32)[:, None]
    return tf.cast(labels, tf.int64)
