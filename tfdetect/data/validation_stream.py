"""Every image of a split once, in full batches."""

import numpy as np
import psutil
import pyarrow as pa
import tensorflow as tf

from tfdetect.core.experiment import Data
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import (
    MEMORY_FRACTION,
    MEMORY_LIMIT,
    PREFETCH,
    WORKERS,
    image_dataset,
    without_autotuning,
)
from tfdetect.data.sources import image_source, mask_source
from tfdetect.data.targets import empty_mask_is_authentic, mark_unknown, targets


def validation_data(
    catalog: Catalog,
    table: pa.Table,
    data: Data,
    classes: int,
    batch_size: int,
    with_masks: bool = False,
) -> tf.data.Dataset:
    """Full batches (image float32, targets, weights) of every image of a table once.

    Targets and weights are those of `TrainingData.batches`. The last batch is padded with
    images of weight 0, so that each example counts exactly once on any number of devices.
    """
    source = image_source(catalog, table)
    masks = mask_source(catalog, table) if with_masks else None
    images = image_dataset(source, data.image_size, data.resize, batch_size, masks=masks)
    labels = tf.constant(table["label"].to_numpy().astype(np.int64))
    masked = tf.constant(table["mask"].is_valid().to_numpy(zero_copy_only=False))

    def pad(indices: tf.Tensor, *batch: tf.Tensor) -> tuple:
        missing = batch_size - tf.shape(indices)[0]

        def full(x: tf.Tensor) -> tf.Tensor:
            x = tf.pad(x, [[0, missing]] + [[0, 0]] * (len(x.shape) - 1))
            x.set_shape([batch_size, *x.shape[1:]])
            return x

        own = tf.gather(labels, indices)
        target = {"label": targets(own, classes)}
        if with_masks:
            drawn = mark_unknown(batch[1], own, tf.gather(masked, indices))
            target = {"label": empty_mask_is_authentic(target["label"], drawn), "mask": drawn}
        weight = full(tf.ones([batch_size - missing]))
        target = {name: full(x) for name, x in target.items()}
        return full(batch[0]), target, dict.fromkeys(target, weight)

    padded = images.map(pad, WORKERS)
    size = len(source) * data.image_size[0] * data.image_size[1] * (4 if with_masks else 3)
    if data.cache != "none" and size <= min(
        MEMORY_LIMIT, MEMORY_FRACTION * psutil.virtual_memory().available
    ):
        padded = padded.cache()
    floats = padded.map(lambda x, y, w: (tf.cast(x, tf.float32), y, w), WORKERS)
    return without_autotuning(floats.prefetch(PREFETCH))


def unaugmented_images(
    catalog: Catalog, table: pa.Table, data: Data, batch_size: int, most: int = 50_000
) -> tf.data.Dataset:
    """Batches float32 [B, H, W, 3] of a table's images without augmentation, each once.

    Of more than `most` images, so many at equal distances in the table.
    """
    if table.num_rows > most:
        table = table.take(np.linspace(0, table.num_rows - 1, most).astype(np.int64))
    source = image_source(catalog, table)
    images = image_dataset(source, data.image_size, data.resize, batch_size)
    return without_autotuning(
        images.map(lambda _, x: tf.cast(x, tf.float32), WORKERS).prefetch(PREFETCH)
    )
