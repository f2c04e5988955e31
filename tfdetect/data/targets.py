"""Labels and masks in the form that losses expect."""

import tensorflow as tf

ANSWERS = "distill"  # name of the target and output of a teacher's answers
UNKNOWN = 255  # in masks: nobody knows whether the pixel was altered


def targets(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Return labels in the form of the loss.

    Args:
        labels: int [B], 0 for authentic images.
        classes: number of classes.

    Returns:
        float32 [B, 1] for two classes, int64 [B] for more.
    """
    if classes == 2:
        return tf.cast(labels, tf.float32)[:, None]
    return tf.cast(labels, tf.int64)


def mark_unknown(masks: tf.Tensor, labels: tf.Tensor, has_mask: tf.Tensor) -> tf.Tensor:
    """Return masks that are empty for authentic images and `UNKNOWN` for fakes without a mask.

    Args:
        masks: uint8 [B, H, W, 1], 1 where altered.
        labels: int [B], 0 for authentic images.
        has_mask: bool [B], whether an image has a mask.

    Returns:
        uint8 [B, H, W, 1]: 0 unaltered, 1 altered, 255 not known.
    """
    authentic, known = (x[:, None, None, None] for x in (labels == 0, has_mask))
    return tf.where(authentic, tf.zeros_like(masks), tf.where(known, masks, UNKNOWN))


def empty_mask_is_authentic(target: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """Return targets with class 0 for images whose mask is known and has no altered pixel.

    Args:
        target: class probabilities [B, 1 or C], or class numbers [B].
        masks: uint8 [B, H, W, 1], as from `mark_unknown`.

    Returns:
        Targets of the same shape and type; those of other images are unchanged.
    """
    unaltered = tf.reduce_all(masks == 0, axis=[1, 2, 3])
    authentic = tf.zeros_like(target)
    if target.shape.rank == 2 and target.shape[1] > 1:
        authentic = tf.one_hot(tf.zeros_like(unaltered, tf.int32), target.shape[1])
    if target.shape.rank == 2:
        unaltered = unaltered[:, None]
    return tf.where(unaltered, authentic, target)
