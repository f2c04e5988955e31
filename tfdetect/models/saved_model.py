"""Exports a run's detector as a SavedModel that needs only TensorFlow.

It has two signatures with stable names:

    serving_default   images: float32 [B, H, W, 3], 0..255, any H and W
    encoded           encoded_images: string [B], JPEG, PNG, WebP, BMP or GIF bytes

Both return:

    class_names     string [C]; class 0 is the authentic one
    probabilities   float32 [B, C], calibrated as the run is
    p_fake          float32 [B], 1 - P(class 0)
    verdict         string [B], a class name, by the run's threshold
    unsure          bool [B], whether p_fake is in the run's abstention band
    in_domain       bool [B], whether the image is like the training images
    domain_reasons  string [B], in what it is unlike them: "size, format, features", or ""

The last two are missing where the run does not know its training images; serving_default sees
no format.

Detectors that predict masks also return P(altered) of each pixel: serving_default as mask,
float32 [B, H, W, 1]; encoded as mask_png, string [B], gray PNG of each image's size, 255 for 1.
"""

from collections.abc import Callable

import tensorflow as tf

from tfdetect.core.files import staged
from tfdetect.core.run import Run
from tfdetect.core.run_info import TrainingImages
from tfdetect.imaging.decode import decode
from tfdetect.imaging.geometry import windows
from tfdetect.imaging.image_facts import SIGNATURES, first_bytes, is_format
from tfdetect.models.feature_distance import FeatureDistance, feature_width, with_features
from tfdetect.models.inference import (
    Scores,
    calibrated,
    predicts_masks,
    score_images,
    score_views,
)
from tfdetect.models.saving import load_detector


def export_saved_model(run: Run) -> None:
    """Write `saved_model/` into the run's folder."""
    import keras

    detector, domain = load_detector(run), _Domain(run)
    if run.info.domain is not None:
        detector = with_features(detector)
    names, views = tf.constant(list(run.class_names)), run.views
    has_masks = predicts_masks(detector)
    low, high = run.abstention_band

    def named(scores: Scores, known: dict[str, tf.Tensor], **masks: tf.Tensor) -> dict:
        table = calibrated(scores.table, run.calibration)
        fake = tf.reduce_sum(table[:, 1:], axis=1)
        most_likely = 1 + tf.argmax(table[:, 1:], axis=1)
        return {
            "class_names": tf.identity(names),
            "probabilities": table,
            "p_fake": fake,
            "verdict": tf.gather(names, tf.where(fake >= run.threshold, most_likely, 0)),
            "unsure": (fake >= low) & (fake < high),
            **domain(features=scores.features, **known),
            **masks,
        }

    def images_endpoint(images: tf.Tensor) -> dict[str, tf.Tensor]:
        count, *size, _ = tf.unstack(tf.shape(images))
        known = {"side": tf.fill([count], tf.minimum(*size))}
        if has_masks:
            scores = score_images(detector, images, views)
            return named(scores, known, mask=scores.masks)
        parts = [windows(images, v.size, v.policy, v.crops, v.equalize) for v in views]
        return named(score_views(detector, parts), known)

    def encoded_endpoint(encoded_images: tf.Tensor) -> dict[str, tf.Tensor]:
        def facts(data: tf.Tensor, image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"side": tf.reduce_min(tf.shape(image)[:2]), "start": first_bytes(data)}

        def load(data: tf.Tensor) -> tuple:
            image = decode(data)
            parts = tuple(windows(image, v.size, v.policy, v.crops, v.equalize) for v in views)
            return parts, facts(data, image)

        def predict(data: tf.Tensor) -> tuple:
            image = decode(data)
            table, features, masks = score_images(detector, image[None], views)
            assert masks is not None
            gray = tf.cast(tf.round(masks[0] * 255), tf.uint8)
            features = tf.zeros([1, 0]) if features is None else features
            return table[0], features[0], tf.io.encode_png(gray), facts(data, image)

        known = {"side": tf.TensorSpec([], tf.int32), "start": tf.TensorSpec([], tf.int64)}
        if has_masks:
            specs = (
                tf.TensorSpec([len(run.class_names)], tf.float32),
                tf.TensorSpec([feature_width(detector)], tf.float32),
                tf.TensorSpec([], tf.string),
                known,
            )
            table, features, masks, known = tf.map_fn(
                predict, encoded_images, fn_output_signature=specs
            )
            return named(Scores(table, features), known, mask_png=masks)
        parts = tuple(tf.TensorSpec([v.crops, *v.size, 3], tf.uint8) for v in views)
        parts, known = tf.map_fn(load, encoded_images, fn_output_signature=(parts, known))
        return named(score_views(detector, parts), known)

    archive = keras.export.ExportArchive()
    images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
    encoded = tf.TensorSpec([None], tf.string, name="encoded_images")
    archive.add_endpoint("serving_default", _traced(images_endpoint, images))
    archive.add_endpoint("encoded", _traced(encoded_endpoint, encoded))
    with staged(run.path / "saved_model") as folder:
        archive.write_out(str(folder), verbose=False)


def _traced(endpoint: Callable, spec: tf.TensorSpec) -> tf.types.experimental.GenericFunction:
    """Return an endpoint traced for one signature; from a signature, Keras would trace it twice."""
    function = tf.function(endpoint, autograph=False)
    function.get_concrete_function(spec)
    return function


class _Domain:
    """The outputs in_domain and domain_reasons; the same rule as `evaluation.domain`."""

    def __init__(self, run: Run):
        self._training = run.info.dataset.training_images or TrainingImages()
        self._known = run.info.domain
        if self._known is not None:
            self._distance = FeatureDistance.load(run.path, self._known.rest)

    def __call__(
        self, features: tf.Tensor | None, side: tf.Tensor, start: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Return the outputs; none where nothing is known.

        Args:
            features: float32 [B, F].
            side: the shorter one of each image in pixels, int32 [B].
            start: first 8 bytes of each file, int64 [B]; None where there are no files.
        """
        unlike = {}
        if self._training.alike_sides is not None:
            low, high = self._training.alike_sides
            pixels = tf.cast(side, tf.float32)
            unlike["size"] = (pixels < low) | (pixels > high)
        if self._training.formats and start is not None:
            unlike["format"] = is_format(start, SIGNATURES) & ~is_format(
                start, self._training.formats
            )
        if self._known is not None:
            unlike["features"] = self._distance(features) > self._known.limit
        if not unlike:
            return {}
        reasons = tf.fill(tf.shape(side), "")
        for name, rows in unlike.items():
            longer = tf.where(reasons == "", name, reasons + ", " + name)
            reasons = tf.where(rows, longer, reasons)
        return {"in_domain": reasons == "", "domain_reasons": reasons}
