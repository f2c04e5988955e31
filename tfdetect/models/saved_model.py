"""Writes a run's detector as a SavedModel that needs TensorFlow alone.

Two signatures, whose names are stable:

    serving_default   images: float32 [B, H, W, 3], 0..255, any H and W
    encoded           encoded_images: string [B], JPEG, PNG, WebP, BMP or GIF bytes

Both return class_names: string [C], class 0 authentic; probabilities: float32
[B, C]; p_fake: float32 [B], 1 - P(class 0).
"""

import shutil

import tensorflow as tf

from tfdetect.imaging.decode import decode
from tfdetect.imaging.geometry import windows
from tfdetect.models.detector import load_detector, probabilities
from tfdetect.run import Run


def export_saved_model(run: Run) -> None:
    """Writes `saved_model/` into the run's folder, whole or not at all."""
    import keras

    detector = load_detector(run)
    names, policy = tf.constant(run.classes), run.info["resize"]
    size, crops = tuple(run.info["image_size"]), run.info.get("crops", 1)

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:  # [B, crops, *size, 3]
        flat = tf.reshape(tf.cast(pixels, tf.float32), [-1, *size, 3])
        table = probabilities(detector(flat, training=False)["label"])
        table = tf.reduce_mean(tf.reshape(table, [-1, crops, table.shape[-1]]), axis=1)
        return {
            "class_names": tf.identity(names),
            "probabilities": table,
            "p_fake": tf.reduce_sum(table[:, 1:], axis=1),
        }

    def images_endpoint(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(windows(images, size, policy, crops))

    def encoded_endpoint(encoded_images: tf.Tensor) -> dict[str, tf.Tensor]:
        def load(data: tf.Tensor) -> tf.Tensor:
            return windows(decode(data), size, policy, crops)

        spec = tf.TensorSpec([crops, *size, 3], tf.uint8)
        return answer(tf.map_fn(load, encoded_images, fn_output_signature=spec))

    archive = keras.export.ExportArchive()
    archive.track(detector)
    images = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
    encoded = tf.TensorSpec([None], tf.string, name="encoded_images")
    archive.add_endpoint("serving_default", images_endpoint, input_signature=[images])
    archive.add_endpoint("encoded", encoded_endpoint, input_signature=[encoded])
    temporary, final = run.path / ".saved_model.tmp", run.path / "saved_model"
    shutil.rmtree(temporary, ignore_errors=True)
    archive.write_out(str(temporary), verbose=False)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
