"""Runs a detector over images: one row each, unreadable ones included."""

from collections.abc import Iterator

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf
from tqdm import tqdm

from tfdetect.data.pipeline import image_dataset
from tfdetect.data.sources import Files, Records
from tfdetect.models.detector import probabilities
from tfdetect.run import Run


def predict_files(
    run: Run, detector: keras.Model, paths: list[str], batch_size: int = 64, progress: bool = True
) -> pa.Table:
    """Predicts every file of `paths`: the table of `predict_images` after a column path."""
    table = predict_images(run, detector, Files(paths), batch_size, progress)
    return table.add_column(0, "path", pa.array(paths, pa.string()))


def predict_images(
    run: Run,
    detector: keras.Model,
    source: Files | Records,
    batch_size: int = 64,
    progress: bool = True,
) -> pa.Table:
    """Predicts every image of `source`.

    Returns:
        A table with one row an image, in order: p_fake (float32, null where it
        cannot be read), probability_<class> for each class, verdict (class name),
        error (null where it was read).
    """
    table = np.full((len(source), len(run.classes)), np.nan, np.float32)
    bar = tqdm(
        total=len(source),
        desc="predicting",
        unit=" images",
        disable=None if progress else True,
        delay=1,
    )
    with bar:
        for indices, answers in _batches(run, detector, source, batch_size):
            table[indices] = answers
            bar.update(len(indices))
    missing = np.isnan(table[:, 0])
    errors = [
        (source.error(i) or "TensorFlow cannot decode it") if m else None
        for i, m in enumerate(missing)
    ]
    fake = table[:, 1:].sum(axis=1)
    verdicts = [None if m else run.classes[c] for m, c in zip(missing, _choose(run, table, fake))]
    columns = {
        "p_fake": pa.array(fake, mask=missing),
        **{f"probability_{name}": pa.array(np.ascontiguousarray(table[:, i]), mask=missing)
           for i, name in enumerate(run.classes)},
        "verdict": pa.array(verdicts, pa.string()),
        "error": pa.array(errors, pa.string()),
    }  # fmt: skip
    return pa.table(columns)


def _batches(
    run: Run, detector: keras.Model, source: Files | Records, size: int
) -> Iterator[tuple]:
    shape, crops = tuple(run.info["image_size"]), run.info.get("crops", 1)

    @tf.function(reduce_retracing=True)
    def answer(images: tf.Tensor) -> tf.Tensor:
        windows = tf.reshape(tf.cast(images, tf.float32), [-1, *shape, 3])
        table = probabilities(detector(windows, training=False)["label"])
        return tf.reduce_mean(tf.reshape(table, [-1, crops, table.shape[-1]]), axis=1)

    for indices, images in image_dataset(source, shape, run.info["resize"], size, crops):
        yield indices.numpy(), answer(images).numpy()


def _choose(run: Run, table: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """The class of each row: the likeliest fake where P(fake) reaches the threshold."""
    best_fake = 1 + np.argmax(np.nan_to_num(table[:, 1:]), axis=1)
    return np.where(np.nan_to_num(fake) >= run.info.get("threshold", 0.5), best_fake, 0)
