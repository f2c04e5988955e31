"""Writes a run's detector as a SavedModel that needs TensorFlow alone.

Two signatures, whose names are stable:

    serving_default   images: float32 [B, H, W, 3], 0..255, any H and W
    encoded           encoded_images: string [B], JPEG, PNG, WebP, BMP or GIF bytes

Both return class_names: string [C], class 0 authentic; probabilities: float32
[B, C], calibrated as the run is; p_fake: float32 [B], 1 - P(class 0); verdict: string [B], a class
name by the run's threshold; unsure: bool [B], whether p_fake lies where the run's verdicts are too
often wrong. Detectors with a mask also return P(altered) of
each pixel: serving_default as mask, float32 [B, H, W, 1]; encoded as mask_png, string [B], gray
PNG of each image's size, 255 for 1.
"""

import shutil

import tensorflow as tf

from tfdetect.core.run import Run
from tfdetect.imaging.decode import decode
from tfdetect.imaging.geometry import windows
from tfdetect.models.inference import calibrated, predict_images, predict_views, predicts_masks
from tfdetect.models.saving import load_detector


def export_saved_model(run: Run) -> None:
    """Writes `saved_model/` into the run's folder, whole or not at all."""
    import keras

    detector = load_detector(run)
    names, views = tf.constant(list(run.class_names)), run.views
    masked = predicts_masks(detector)

    low, high = run.abstention_band

    def named(table: tf.Tensor, **masks: tf.Tensor) -> dict[str, tf.Tensor]:
        table = calibrated(table, run.calibration)
        fake = tf.reduce_sum(table[:, 1:], axis=1)
        likeliest = 1 + tf.argmax(table[:, 1:], axis=1)
        return {
            "class_names": tf.identity(names),
            "probabilities": table,
            "p_fake": fake,
            "verdict": tf.gather(names, tf.where(fake >= run.threshold, likeliest, 0)),
            "unsure": (fake >= low) & (fake < high),
            **masks,
        }

    def images_endpoint(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if masked:
            table, masks = predict_images(detector, images, views)
            return named(table, mask=masks)
        return named(
            predict_views(detector, [windows(images, v.size, v.policy, v.crops) for v in views])
        )

    def encoded_endpoint(encoded_images: tf.Tensor) -> dict[str, tf.Tensor]:
        def load(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image = decode(data)
            return tuple(windows(image, view.size, view.policy, view.crops) for view in views)

        def draw(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            table, masks = predict_images(detector, decode(data)[None], views)
            gray = tf.cast(tf.round(masks[0] * 255), tf.uint8)
            return table[0], tf.io.encode_png(gray)

        if masked:
            specs = tf.TensorSpec([len(run.class_names)], tf.float32), tf.TensorSpec([], tf.string)
            table, masks = tf.map_fn(draw, encoded_images, fn_output_signature=specs)
            return named(table, mask_png=masks)
        specs = tuple(tf.TensorSpec([v.crops, *v.size, 3], tf.uint8) for v in views)
        return named(
            predict_views(detector, tf.map_fn(load, encoded_images, fn_output_signature=specs))
        )

    archive = keras.export.ExportArchive()
    images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
    encoded = tf.TensorSpec([None], tf.string, name="encoded_images")
    archive.add_endpoint("serving_default", images_endpoint, input_signature=[images])
    archive.add_endpoint("encoded", encoded_endpoint, input_signature=[encoded])
    temporary, final = run.path / ".saved_model.tmp", run.path / "saved_model"
    shutil.rmtree(temporary, ignore_errors=True)
    archive.write_out(str(temporary), verbose=False)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
