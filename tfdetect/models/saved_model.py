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

Detectors that predict masks also return P(altered) of each pixel: serving_default as mask,
float32 [B, H, W, 1]; encoded as mask_png, string [B], gray PNG of each image's size, 255 for 1.
"""

from collections.abc import Callable

import tensorflow as tf

from tfdetect.core.files import staged
from tfdetect.core.run import Run
from tfdetect.imaging.decode import decode
from tfdetect.imaging.geometry import windows
from tfdetect.models.inference import calibrated, predict_images, predict_views, predicts_masks
from tfdetect.models.saving import load_detector


def export_saved_model(run: Run) -> None:
    """Write `saved_model/` into the run's folder."""
    import keras

    detector = load_detector(run)
    names, views = tf.constant(list(run.class_names)), run.views
    has_masks = predicts_masks(detector)
    low, high = run.abstention_band

    def named(table: tf.Tensor, **masks: tf.Tensor) -> dict[str, tf.Tensor]:
        table = calibrated(table, run.calibration)
        fake = tf.reduce_sum(table[:, 1:], axis=1)
        most_likely = 1 + tf.argmax(table[:, 1:], axis=1)
        return {
            "class_names": tf.identity(names),
            "probabilities": table,
            "p_fake": fake,
            "verdict": tf.gather(names, tf.where(fake >= run.threshold, most_likely, 0)),
            "unsure": (fake >= low) & (fake < high),
            **masks,
        }

    def images_endpoint(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if has_masks:
            table, masks = predict_images(detector, images, views)
            return named(table, mask=masks)
        return named(
            predict_views(
                detector,
                [windows(images, v.size, v.policy, v.crops, v.equalize) for v in views],
            )
        )

    def encoded_endpoint(encoded_images: tf.Tensor) -> dict[str, tf.Tensor]:
        def load(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image = decode(data)
            return tuple(windows(image, v.size, v.policy, v.crops, v.equalize) for v in views)

        def predict(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            table, masks = predict_images(detector, decode(data)[None], views)
            gray = tf.cast(tf.round(masks[0] * 255), tf.uint8)
            return table[0], tf.io.encode_png(gray)

        if has_masks:
            specs = tf.TensorSpec([len(run.class_names)], tf.float32), tf.TensorSpec([], tf.string)
            table, masks = tf.map_fn(predict, encoded_images, fn_output_signature=specs)
            return named(table, mask_png=masks)
        specs = tuple(tf.TensorSpec([v.crops, *v.size, 3], tf.uint8) for v in views)
        return named(
            predict_views(detector, tf.map_fn(load, encoded_images, fn_output_signature=specs))
        )

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
