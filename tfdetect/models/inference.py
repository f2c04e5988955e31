"""Inference: class probabilities of images, and P(altered) of their pixels."""

from collections.abc import Sequence
from functools import partial

import keras
import tensorflow as tf

from tfdetect.core.run_info import Calibration, View
from tfdetect.imaging.geometry import resize, restore, to_uint8
from tfdetect.imaging.tiles import by_tiles
from tfdetect.models.top_pixels import TopPixels

EPSILON = 1e-7  # lowest probability before a logarithm
MAX_AUTHENTIC = 0.499  # highest P(altered) of a pixel in an image that is called authentic


def predicts_masks(detector: keras.Model) -> bool:
    """Whether a detector predicts which pixels were altered."""
    return any(name.startswith("mask") for name in detector.output)


def verdict_from_masks(detector: keras.Model) -> bool:
    """Whether the verdict follows from the mask: P(fake) 0.5 is P(altered) 0.5 of some pixels."""
    return any(isinstance(layer, TopPixels) for layer in detector.layers)


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Return class probabilities float32 [B, C] of logits [B, 1] (two classes) or [B, C]."""
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == 1:
        return tf.sigmoid(tf.concat([-logits, logits], axis=1))
    return tf.nn.softmax(logits)


def calibrated(table: tf.Tensor, calibration: Calibration | None) -> tf.Tensor:
    """Return class probabilities with P(fake) calibrated.

    The ratios between the probabilities of the kinds of fakes are unchanged.

    Args:
        table: class probabilities float32 [B, C].
        calibration: see `evaluation.calibration.apply_calibration`; none for no change.

    Returns:
        float32 [B, C].
    """
    if calibration is None:
        return table
    fakes = table[:, 1:]
    fake = tf.reduce_sum(fakes, axis=1, keepdims=True)
    logit = tf.math.log(tf.clip_by_value(fake, EPSILON, 1.0))
    logit -= tf.math.log(tf.clip_by_value(table[:, :1], EPSILON, 1.0))
    if calibration.knots is not None:
        x, y = (tf.constant(knots, tf.float32) for knots in calibration.knots)
        after = tf.clip_by_value(tf.searchsorted(x, logit[:, 0]), 1, x.shape[0] - 1)
        low, high = tf.gather(x, after - 1), tf.gather(x, after)
        position = tf.clip_by_value((logit[:, 0] - low) / (high - low), 0.0, 1.0)
        logit = tf.gather(y, after - 1) * (1 - position) + tf.gather(y, after) * position
        logit = logit[:, None]
    else:
        logit = calibration.scale * logit + calibration.shift
    kinds = fakes / tf.maximum(fake, EPSILON)
    return tf.concat([tf.sigmoid(-logit), kinds * tf.sigmoid(logit)], axis=1)


def predict_views(
    detector: keras.Model, views: Sequence[tf.Tensor], flips: bool = False
) -> tf.Tensor:
    """Return class probabilities of images.

    Args:
        detector: maps images to logits.
        views: the detector's views of the images, [B, crops, H, W, 3] in 0..255 each.
        flips: average with the probabilities of the mirrored images.

    Returns:
        float32 [B, C], of one view the mean over an image's windows.
    """
    if flips:
        mirrored = [view[..., ::-1, :] for view in views]
        return (predict_views(detector, views) + predict_views(detector, mirrored)) / 2
    if len(views) > 1:  # an ensemble, whose members average their own windows
        parts = [tf.cast(v[:, 0] if v.shape[1] == 1 else v, tf.float32) for v in views]
        return probabilities(detector(parts, training=False)["label"])
    [windows] = views
    _, count, *shape = windows.shape
    flat = tf.reshape(tf.cast(windows, tf.float32), [-1, *shape])
    table = probabilities(detector(flat, training=False)["label"])
    return tf.reduce_mean(tf.reshape(table, [-1, count, table.shape[-1]]), axis=1)


def predict_tiles(detector: keras.Model, tiles: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return class probabilities of images of the detector's size, and P(altered) of their pixels.

    Where the verdict follows from the mask (the head top_pixels), the two agree: no pixel of an
    image that is called authentic has P(altered) 0.5.

    Args:
        detector: one that predicts masks.
        tiles: [N, H, W, 3] of its size, 0..255.

    Returns:
        float32 [N, C] and float32 [N, H, W, 1].
    """
    logits = detector(tf.cast(tiles, tf.float32), training=False)
    table, altered = probabilities(logits["label"]), tf.sigmoid(logits["mask"])
    if verdict_from_masks(detector):
        authentic = table[:, :1, None, None] > 0.5
        altered = tf.where(authentic, tf.minimum(altered, MAX_AUTHENTIC), altered)
    return table, altered


def predict_images(
    detector: keras.Model, images: tf.Tensor, views: Sequence[View]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return class probabilities of images, and P(altered) of their pixels; see `predict_tiles`.

    With a window policy images are read in overlapping tiles at native resolution, and the tile
    with the highest P(fake) gives the probabilities, because a forgery may be local.

    Args:
        detector: one that predicts masks.
        images: [B, H, W, 3], any size, 0..255.
        views: the detector's views of an image; if there are several, none has a window policy.

    Returns:
        float32 [B, C] and float32 [B, H, W, 1]. With the policy "crop" pixels outside of the crop
        have P(altered) 0.
    """
    if len(views) > 1:
        return _predict_images_of_views(detector, images, views)
    size, policy = views[0].size, views[0].policy
    predict = partial(predict_tiles, detector)
    if not policy.startswith("window"):
        table, masks = predict(resize(images, size, policy))
        return table, restore(masks, tf.shape(images)[1:3], policy)
    classes = max(2, detector.output["label"].shape[-1])
    tables, masks = by_tiles(to_uint8(images), size, policy.removeprefix("window_"), predict)
    most_fake = tf.argmin(tables[..., 0], axis=1)
    table = tf.gather(tables, most_fake, batch_dims=1)
    return tf.ensure_shape(table, [None, classes]), masks


def _predict_images_of_views(
    detector: keras.Model, images: tf.Tensor, views: Sequence[View]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the same of an ensemble with several views; its masks are averaged on the image."""
    parts = [tf.cast(resize(images, view.size, view.policy), tf.float32) for view in views]
    logits = detector(parts, training=False)
    maps = [
        restore(tf.sigmoid(logits[f"mask_{number}"]), tf.shape(images)[1:3], view.policy)
        for number, view in enumerate(views) if f"mask_{number}" in logits
    ]  # fmt: skip
    return probabilities(logits["label"]), tf.add_n(maps) / len(maps)
