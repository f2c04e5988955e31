"""Streams that show every image of a split once, without augmentation."""

import math

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfdetect.core.cluster import Cluster
from tfdetect.core.data_settings import Data
from tfdetect.core.run_info import View
from tfdetect.data.catalog import Catalog
from tfdetect.data.examples import annotations_of, examples_of
from tfdetect.data.loading import (
    PREFETCH,
    WORKERS,
    fits_in_memory,
    image_dataset,
    without_autotuning,
)
from tfdetect.data.sources import image_source
from tfdetect.data.targets import ANSWERS, empty_mask_is_authentic, mark_unknown, targets
from tfdetect.imaging.graph import traced_as_written

MAX_IMAGES = 50_000  # whose statistics layers learn


def validation_data(
    catalog: Catalog,
    table: pa.Table,
    data: Data,
    classes: int,
    batch_size: int,
    with_masks: bool = False,
    cluster: Cluster | None = None,
    answers: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Return full batches of every image of a table, each once.

    The last batch is padded with images of weight 0, so that each example counts exactly once
    on any number of devices. On a cluster each worker gets a part of the images, in as many
    batches as the others, each of which is its part of a global batch.

    Args:
        catalog: the catalog that the table belongs to.
        table: rows of the catalog's table.
        data: the experiment's settings.
        classes: number of classes.
        batch_size: number of images in a global batch.
        with_masks: whether the detector predicts masks.
        cluster: the workers that validate together; None for one process.
        answers: a teacher's answers of these rows, float32 [n, logits]; None without a teacher.

    Returns:
        Batches (image float32 [B, H, W, 3] in 0..255, targets, weights); targets and weights
        are those of `TrainingStream.batches`.
    """
    count = 0
    if cluster is not None:
        batch_size //= len(cluster)
        largest = math.ceil(table.num_rows / len(cluster))
        count = math.ceil(largest / batch_size)  # batches of every worker
        own_rows = np.arange(cluster.task, table.num_rows, len(cluster))
        table = table.take(own_rows)
        answers = None if answers is None else answers[own_rows]
    examples = examples_of(catalog, table, annotations_of(table, with_masks=with_masks))
    images = image_dataset(examples.images, View.of(data), batch_size, examples.masks)
    labels = tf.constant(examples.labels.astype(np.int64))
    has_mask = tf.constant(examples.has_mask) if with_masks else None
    told = None if answers is None else tf.constant(answers)

    @traced_as_written
    def pad(indices: tf.Tensor, *batch: tf.Tensor) -> tuple:
        missing = batch_size - tf.shape(indices)[0]

        def full(x: tf.Tensor) -> tf.Tensor:
            x = tf.pad(x, [[0, missing]] + [[0, 0]] * (len(x.shape) - 1))
            x.set_shape([batch_size, *x.shape[1:]])
            return x

        own = tf.gather(labels, indices)
        target = {"label": targets(own, classes)}
        if with_masks:
            masks = mark_unknown(batch[1], own, tf.gather(has_mask, indices))
            target = {"label": empty_mask_is_authentic(target["label"], masks), "mask": masks}
        if told is not None:
            target[ANSWERS] = tf.gather(told, indices)
        weight = full(tf.ones([batch_size - missing]))
        target = {name: full(x) for name, x in target.items()}
        return full(batch[0]), target, dict.fromkeys(target, weight)

    padded = images.map(pad, WORKERS)
    if cluster is not None:  # images that cannot be read may have cost a batch
        empty = tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), padded.element_spec)
        padded = padded.concatenate(tf.data.Dataset.from_tensors(empty).repeat()).take(count)
    if data.cache != "none" and fits_in_memory(len(examples), data.image_size, examples.channels):
        padded = padded.cache()
    to_floats = traced_as_written(lambda x, y, w: (tf.cast(x, tf.float32), y, w))
    floats = padded.map(to_floats, WORKERS)
    return without_autotuning(floats.prefetch(PREFETCH))


def unaugmented_images(
    catalog: Catalog, table: pa.Table, data: Data, batch_size: int
) -> tf.data.Dataset:
    """Return batches of a table's images without augmentation, each once.

    If there are more than `MAX_IMAGES`, this many at equal distances are taken.

    Args:
        catalog: the catalog that the table belongs to.
        table: rows of the catalog's table.
        data: the experiment's settings.
        batch_size: number of images in a batch; the last one may be smaller.

    Returns:
        Batches float32 [B, H, W, 3] in 0..255.
    """
    if table.num_rows > MAX_IMAGES:
        rows = np.linspace(0, table.num_rows - 1, MAX_IMAGES).astype(np.int64)
        table = table.take(rows)
    images = image_dataset(image_source(catalog, table), View.of(data), batch_size)
    to_floats = traced_as_written(lambda _, x: tf.cast(x, tf.float32))
    return without_autotuning(images.map(to_floats, WORKERS).prefetch(PREFETCH))
