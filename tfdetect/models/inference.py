"""What a detector says of images: class probabilities, and which pixels were altered."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfdetect.core.run_info import Calibration, View
from tfdetect.imaging.geometry import resize, restore, to_uint8
from tfdetect.imaging.tiles import by_tiles
from tfdetect.models.top_pixels import TopPixels

_TINY = 1e-7  # of a probability, before its logarithm
_BELOW = 0.499  # the highest P(altered) in what is called authentic


def predicts_masks(detector: keras.Model) -> bool:
    """Whether a detector says which pixels were altered."""
    return any(name.startswith("mask") for name in detector.output)


def verdict_from_masks(detector: keras.Model) -> bool:
    """Whether the verdict is the mask's own: P(fake) 0.5 is P(altered) 0.5 of some pixels."""
    return any(isinstance(layer, TopPixels) for layer in detector.layers)


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Class probabilities float32 [B, C] of logits [B, 1] (two classes) or [B, C]."""
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == 1:
        return tf.sigmoid(tf.concat([-logits, logits], axis=1))
    return tf.nn.softmax(logits)


def calibrated(table: tf.Tensor, calibration: Calibration | None) -> tf.Tensor:
    """Class probabilities [B, C] with P(fake) calibrated; which fake it is stays as likely.

    Args:
        calibration: see `evaluation.calibration.apply_calibration`; None changes nothing.
    """
    if calibration is None:
        return table
    fakes = table[:, 1:]
    fake = tf.reduce_sum(fakes, axis=1, keepdims=True)
    odds = tf.math.log(tf.clip_by_value(fake, _TINY, 1.0))
    odds -= tf.math.log(tf.clip_by_value(table[:, :1], _TINY, 1.0))
    if calibration.knots is not None:
        x, y = (tf.constant(knots, tf.float32) for knots in calibration.knots)
        after = tf.clip_by_value(tf.searchsorted(x, odds[:, 0]), 1, x.shape[0] - 1)
        low, high = tf.gather(x, after - 1), tf.gather(x, after)
        share = tf.clip_by_value((odds[:, 0] - low) / (high - low), 0.0, 1.0)
        odds = (tf.gather(y, after - 1) * (1 - share) + tf.gather(y, after) * share)[:, None]
    else:
        odds = calibration.scale * odds + calibration.shift
    now = tf.sigmoid(odds)
    return tf.concat([tf.sigmoid(-odds), fakes / tf.maximum(fake, _TINY) * now], axis=1)


def predict_views(
    detector: keras.Model, views: Sequence[tf.Tensor], flips: bool = False
) -> tf.Tensor:
    """Class probabilities of images.

    Args:
        views: what the detector sees of them, [B, crops, H, W, 3] of each view's size, 0..255.
        flips: whether to look at their mirror images too; the mean counts.

    Returns:
        float32 [B, C]; of one view the mean over an image's windows.
    """
    if flips:
        mirrored = [view[..., ::-1, :] for view in views]
        return (predict_views(detector, views) + predict_views(detector, mirrored)) / 2
    if len(views) > 1:  # an ensemble, whose members join their own windows
        parts = [tf.cast(v[:, 0] if v.shape[1] == 1 else v, tf.float32) for v in views]
        return probabilities(detector(parts, training=False)["label"])
    [windows] = views
    _, count, *shape = windows.shape
    flat = tf.reshape(tf.cast(windows, tf.float32), [-1, *shape])
    table = probabilities(detector(flat, training=False)["label"])
    return tf.reduce_mean(tf.reshape(table, [-1, count, table.shape[-1]]), axis=1)


def predict_images(
    detector: keras.Model, images: tf.Tensor, views: Sequence[View]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Class probabilities of images, and P(altered) of their pixels.

    Where the verdict is the mask's own (the head top_pixels), the two agree: no pixel of what
    is called authentic has P(altered) 0.5.

    With a window policy images are read by overlapping tiles at their own resolution, and the
    tile with the highest P(fake) gives the probabilities: a forgery may be in one place.

    Args:
        detector: one that draws masks.
        images: [B, H, W, 3], any size, 0..255.
        views: what it sees of them; of several, none cuts windows.

    Returns:
        float32 [B, C] and float32 [B, H, W, 1]. With the policy "crop" what lies outside the
        crop has P(altered) 0.
    """
    if len(views) > 1:
        return _of_several(detector, images, views)
    size, policy = views[0].size, views[0].policy
    agree = verdict_from_masks(detector)

    def look(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = detector(tf.cast(pixels, tf.float32), training=False)
        table, altered = probabilities(logits["label"]), tf.sigmoid(logits["mask"])
        if agree:
            authentic = table[:, :1, None, None] > 0.5
            altered = tf.where(authentic, tf.minimum(altered, _BELOW), altered)
        return table, altered

    if not policy.startswith("window"):
        table, masks = look(resize(images, size, policy))
        return table, restore(masks, tf.shape(images)[1:3], policy)
    classes = max(2, detector.output["label"].shape[-1])
    tables, masks = by_tiles(to_uint8(images), size, policy.removeprefix("window_"), look)
    surest = tf.argmin(tables[..., 0], axis=1)
    return tf.ensure_shape(tf.gather(tables, surest, batch_dims=1), [None, classes]), masks


def _of_several(
    detector: keras.Model, images: tf.Tensor, views: Sequence[View]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The same by an ensemble of several views: the mean of the masks it draws on them."""
    parts = [tf.cast(resize(images, view.size, view.policy), tf.float32) for view in views]
    logits = detector(parts, training=False)
    maps = [
        restore(tf.sigmoid(logits[f"mask_{number}"]), tf.shape(images)[1:3], view.policy)
        for number, view in enumerate(views) if f"mask_{number}" in logits
    ]  # fmt: skip
    return probabilities(logits["label"]), tf.add_n(maps) / len(maps)
