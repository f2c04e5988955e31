"""Inference: class probabilities of images, P(altered) of their pixels, and their features."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tfdetect.core.data_settings import TOP_PIXELS, cuts_windows
from tfdetect.core.probability import EPSILON, SMALLEST
from tfdetect.core.run import MAX_AUTHENTIC
from tfdetect.core.run_info import Calibration, View
from tfdetect.imaging.geometry import resize, restore
from tfdetect.imaging.resampling import to_uint8
from tfdetect.imaging.tiles import by_tiles
from tfdetect.models.feature_outputs import feature_width, features_of_images
from tfdetect.models.top_pixels import TopPixels


def predicts_masks(detector: keras.Model) -> bool:
    """Return whether a detector predicts which pixels were altered."""
    return any(name.startswith("mask") for name in detector.output)


def verdict_from_masks(detector: keras.Model) -> bool:
    """Return whether the verdict follows from the mask.

    Then P(fake) is 0.5 where P(altered) of some pixels is 0.5.
    """
    return any(isinstance(layer, TopPixels) for layer in detector.layers)


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Return class probabilities float32 [B, C] of logits [B, 1] (two classes) or [B, C].

    Every row adds up to 1, and images of different logits keep different probabilities in one of
    the columns as far as float32 goes, in every runtime. ONNX Runtime's sigmoid is approximate: it
    is 0 for logits below -18.
    """
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == 1:
        logits = tf.concat([tf.zeros_like(logits), logits], axis=1)
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
    fakes = tf.maximum(table[:, 1:], SMALLEST)
    fake = tf.reduce_sum(fakes, axis=1, keepdims=True)
    logit = tf.math.log(fake) - tf.math.log(tf.maximum(table[:, :1], SMALLEST))
    if calibration.knots is not None:
        x, y = (tf.constant(knots, tf.float32) for knots in calibration.knots)
        after = tf.clip_by_value(tf.searchsorted(x, logit[:, 0]), 1, x.shape[0] - 1)
        low, high = tf.gather(x, after - 1), tf.gather(x, after)
        position = tf.clip_by_value((logit[:, 0] - low) / (high - low), 0.0, 1.0)
        logit = tf.gather(y, after - 1) * (1 - position) + tf.gather(y, after) * position
        logit = logit[:, None]
    else:
        logit = calibration.scale * logit + calibration.shift
    after = probabilities(logit)
    return tf.concat([after[:, :1], fakes / fake * after[:, 1:]], axis=1)


def shown_masks(masks: tf.Tensor, p_fake: tf.Tensor, threshold: float) -> tf.Tensor:
    """Return P(altered) of images as it is shown; see also `evaluation.verdicts.shown_mask`.

    Args:
        masks: P(altered), float32 [B, H, W, 1].
        p_fake: float32 [B].
        threshold: P(fake) from which a mask is shown.

    Returns:
        float32 [B, H, W, 1], below 0.5 everywhere in images whose P(fake) is below the threshold.
    """
    shown = (p_fake >= threshold)[:, None, None, None]
    return tf.where(shown, masks, tf.minimum(masks, MAX_AUTHENTIC))


class Scores(NamedTuple):
    """The outputs of a detector for images.

    Attributes:
        table: class probabilities before calibration, float32 [B, C].
        features: float32 [B, F]; None of a detector without `with_features`.
        masks: P(altered), float32 [B, H, W, 1]; None of a detector without masks.
    """

    table: tf.Tensor
    features: tf.Tensor | None
    masks: tf.Tensor | None = None


def predict_views(
    detector: keras.Model, views: Sequence[tf.Tensor], flips: bool = False
) -> tf.Tensor:
    """Return class probabilities of images, float32 [B, C]; see `score_views`."""
    return score_views(detector, views, flips).table


def score_views(detector: keras.Model, views: Sequence[tf.Tensor], flips: bool = False) -> Scores:
    """Return class probabilities of images, and their features.

    Args:
        detector: maps images to logits; from `with_features` it gives features too.
        views: the detector's views of the images, [B, crops, H, W, 3] in 0..255 each.
        flips: average with the probabilities of the mirrored images.

    Returns:
        The scores; where there is one view, they are the means over an image's windows.
    """
    if flips:
        mirrored = predict_views(detector, [view[..., ::-1, :] for view in views])
        plain = score_views(detector, views)
        return plain._replace(table=(plain.table + mirrored) / 2)
    outputs = outputs_of_views(detector, views)
    table = mean_of_windows(probabilities(outputs["label"]), views)
    return Scores(table, features_of_images(outputs, tf.shape(views[0])[0]))


def outputs_of_views(model: keras.Model, views: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return the outputs of a model for views of images, [B, crops, H, W, 3] in 0..255 each.

    A model of one view returns the outputs of each window, [B * crops, ...]. A model of several
    views is an ensemble, whose members average their own windows.
    """
    if len(views) > 1:
        parts = [tf.cast(v[:, 0] if v.shape[1] == 1 else v, tf.float32) for v in views]
        return model(parts, training=False)
    [windows] = views
    flat = tf.reshape(tf.cast(windows, tf.float32), [-1, *windows.shape[2:]])
    return model(flat, training=False)


def mean_of_windows(values: tf.Tensor, views: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the means [B, F] of outputs from `outputs_of_views` over the windows of each image."""
    if len(views) > 1:
        return values
    return tf.reduce_mean(tf.reshape(values, [-1, views[0].shape[1], values.shape[-1]]), axis=1)


def predict_images(
    detector: keras.Model, images: tf.Tensor, views: Sequence[View]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return class probabilities [B, C] and P(altered) [B, H, W, 1]; see `score_images`."""
    scores = score_images(detector, images, views)
    return scores.table, scores.masks


def score_tiles(detector: keras.Model, tiles: tf.Tensor) -> Scores:
    """Return the scores of images that have the input size of the detector.

    Where the verdict follows from the mask (the head top_pixels), the two agree: no pixel of an
    image that is called authentic has P(altered) 0.5.

    Args:
        detector: one that predicts masks; from `with_features` it gives features too.
        tiles: [N, H, W, 3] of its size, 0..255.
    """
    outputs = detector(tf.cast(tiles, tf.float32), training=False)
    table, altered = probabilities(outputs["label"]), tf.sigmoid(outputs["mask"])
    if verdict_from_masks(detector):
        authentic = table[:, :1, None, None] > 0.5
        altered = tf.where(authentic, tf.minimum(altered, MAX_AUTHENTIC), altered)
    return Scores(table, features_of_images(outputs, tf.shape(tiles)[0]), altered)


def score_images(detector: keras.Model, images: tf.Tensor, views: Sequence[View]) -> Scores:
    """Return class probabilities of images, P(altered) of their pixels, and their features.

    With a window policy images are read in overlapping tiles at native resolution, whose
    probabilities `pool_tiles` joins, because a forgery may be local. The features are the means
    over the tiles.

    Args:
        detector: one that predicts masks; from `with_features` it gives features too.
        images: [B, H, W, 3], any size, 0..255.
        views: the detector's views of an image; if there are several, none has a window policy.

    Returns:
        With the policy "crop" pixels outside of the crop have P(altered) 0.
    """
    if len(views) > 1:
        return _score_images_of_views(detector, images, views)
    size, policy = views[0].size, views[0].policy
    if not cuts_windows(policy):
        scores = score_tiles(detector, resize(images, size, policy))
        return scores._replace(masks=restore(scores.masks, tf.shape(images)[1:3], policy))
    classes, width = max(2, detector.output["label"].shape[-1]), feature_width(detector)

    def score(tiles: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        table, features, altered = score_tiles(detector, tiles)
        return table if features is None else tf.concat([table, features], 1), altered

    tiles, masks = by_tiles(to_uint8(images), size, policy, score)
    table = pool_tiles(tiles[..., :classes], masks, views[0].tile_pooling)
    table = tf.ensure_shape(table, [None, classes])
    if not width:
        return Scores(table, None, masks)
    features = tf.reduce_mean(tiles[..., classes:], axis=1)
    return Scores(table, tf.ensure_shape(features, [None, width]), masks)


def pool_tiles(tables: tf.Tensor, altered: tf.Tensor, pooling: str) -> tf.Tensor:
    """Return class probabilities [B, C] of images from those of their tiles.

    `light.numpy_tiles.pool_tiles` does the same for one image without TensorFlow.

    Args:
        tables: class probabilities of their tiles, float32 [B, tiles, C].
        altered: P(altered) of their pixels, float32 [B, H, W, 1].
        pooling: "max" or "top_pixels".
    """
    table = tf.gather(tables, tf.argmin(tables[..., 0], axis=1), batch_dims=1)
    if pooling == "max":
        return table
    pixels = tf.reshape(altered, [tf.shape(altered)[0], tf.reduce_prod(tf.shape(altered)[1:])])
    top, _ = tf.math.top_k(pixels, tf.maximum(1, tf.shape(pixels)[1] // TOP_PIXELS), sorted=False)
    top = tf.clip_by_value(top, EPSILON, 1 - EPSILON)
    logit = tf.reduce_mean(tf.math.log(top) - tf.math.log1p(-top), axis=1, keepdims=True)
    fakes = tf.maximum(table[:, 1:], SMALLEST)
    pooled = probabilities(logit)
    kinds = fakes / tf.reduce_sum(fakes, axis=1, keepdims=True)
    return tf.concat([pooled[:, :1], kinds * pooled[:, 1:]], axis=1)


def _score_images_of_views(
    detector: keras.Model, images: tf.Tensor, views: Sequence[View]
) -> Scores:
    """Return the scores of an ensemble with several views; its masks are averaged on the image."""
    parts = [tf.cast(resize(images, view.size, view.policy), tf.float32) for view in views]
    outputs = detector(parts, training=False)
    maps = [
        restore(tf.sigmoid(outputs[f"mask_{number}"]), tf.shape(images)[1:3], view.policy)
        for number, view in enumerate(views) if f"mask_{number}" in outputs
    ]  # fmt: skip
    features = features_of_images(outputs, tf.shape(images)[0])
    return Scores(probabilities(outputs["label"]), features, tf.add_n(maps) / len(maps))
