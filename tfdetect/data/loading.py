"""tf.data pipelines that read, decode and batch images, without Python inside."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfdetect.core.run import View
from tfdetect.data.sources import Files, Records
from tfdetect.imaging.decode import decode
from tfdetect.imaging.geometry import resize, windows

WORKERS = os.cpu_count() or 1  # files or batches worked on at a time


PREFETCH = 2  # batches made ready beforehand


MEMORY_FRACTION = 0.25  # of the free memory that decoded images may take


MEMORY_LIMIT = 4 * 2**30  # bytes


# Of a decoded image, uint8 [H, W, 3], and its number, int64.
Change = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def load_image(data: tf.Tensor, size: tuple[int, int] | None, policy: str) -> tf.Tensor:
    """Decodes and resizes an encoded image. uint8 [*size, 3]; [H, W, 3] if size is None."""
    image = decode(data)
    return image if size is None else resize(image, size, policy)


def load_mask(data: tf.Tensor, size: tuple[int, int] | None, policy: str) -> tf.Tensor:
    """The same for a mask: 1 where altered (128 and above), uint8 [*size, 1]."""
    mask = tf.cast(decode(data)[..., :1] >= 128, tf.uint8)
    return mask if size is None else resize(mask, size, policy, nearest=True)


def load_pair(data: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes an image and its mask: uint8 [H, W, 3] and [H, W, 1], 1 where altered.

    Empty bytes give an empty mask; a mask of another size is brought to the image's.
    """
    image = decode(data)
    size = tf.shape(image)[:2]

    def draw() -> tf.Tensor:
        drawn = load_mask(mask, None, "")
        same = tf.reduce_all(tf.shape(drawn)[:2] == size)
        return tf.cond(same, lambda: drawn, lambda: tf.image.resize(drawn, size, "nearest"))

    empty = tf.zeros([size[0], size[1], 1], tf.uint8)
    mask = tf.cond(mask == "", lambda: empty, draw)
    mask.set_shape([None, None, 1])
    return image, mask


def image_dataset(
    source: Files | Records,
    size: tuple[int, int],
    policy: str,
    batch_size: int,
    masks: Files | Records | None = None,
) -> tf.data.Dataset:
    """Batches of (index into `source` int64 [b], image uint8 [b, *size, 3]), in order.

    With the source of their masks, a third part follows: uint8 [b, *size, 1], empty where
    there is none. An image that cannot be read is left out: its index does not appear.
    """

    def read(index: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        data = source.load(item)
        if masks is not None:
            image, mask = load_pair(data, masks.beside(index, item))
            return index, resize(image, size, policy), resize(mask, size, policy, nearest=True)
        return index, load_image(data, size, policy)

    images = source.stream().map(read, WORKERS)
    return without_autotuning(images.ignore_errors().batch(batch_size).prefetch(PREFETCH))


def view_dataset(
    source: Files | Records, views: list[View], batch_size: int, change: Change | None = None
) -> tf.data.Dataset:
    """Batches of (index int64 [b], images), in order; an image is decoded once for all views.

    Args:
        change: of each decoded image, before anything else.

    Images are a tuple of uint8 [b, crops, *size, 3], one for each view. An image that cannot be
    read is left out: its index does not appear.
    """
    if len(views) == 1 and views[0].crops == 1 and change is None:
        [view] = views
        images = image_dataset(source, view.size, view.policy, batch_size)
        return images.map(lambda index, image: (index, (image[:, None],)))

    def read(index: tf.Tensor, item: tf.Tensor) -> tuple:
        image = decode(source.load(item))
        image = change(image, index) if change else image
        return index, tuple(windows(image, v.size, v.policy, v.crops) for v in views)

    images = source.stream().map(read, WORKERS)
    return without_autotuning(images.ignore_errors().batch(batch_size).prefetch(PREFETCH))


def native_images(
    source: Files | Records, masks: Files | Records | None, change: Change | None = None
) -> tf.data.Dataset:
    """(index int64, image uint8 [H, W, 3], mask uint8 [H, W, 1]) one by one, in order.

    Without a source of masks they are empty. `change` is of images without one.
    """

    def read(index: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        mask = tf.constant("") if masks is None else masks.beside(index, item)
        image, mask = load_pair(source.load(item), mask)
        if change:
            image = change(image, index)
            mask = tf.zeros_like(image[..., :1])
        return index, image, mask

    return without_autotuning(source.stream().map(read, WORKERS).ignore_errors().prefetch(PREFETCH))


def load_images(
    source: Files | Records,
    size: tuple[int, int],
    policy: str,
    masks: Files | Records | None = None,
) -> tuple[Any, Any, Any]:
    """Decodes images into memory.

    Returns:
        Indices int64 [n], images uint8 [n, *size, 3], masks uint8 [n, *size, 1] or None.
    """
    channels = (3,) if masks is None else (3, 1)
    arrays = [np.empty((len(source), *size, c), np.uint8) for c in channels]
    kept = []
    for indices, *batches in image_dataset(source, size, policy, 256, masks=masks):
        for array, batch in zip(arrays, batches):
            array[len(kept) : len(kept) + len(batch)] = batch.numpy()
        kept.extend(indices.numpy())
    arrays = [array[: len(kept)] for array in arrays]
    return np.array(kept, np.int64), *(arrays if masks is not None else [*arrays, None])


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Switches tf.data's autotuning off.

    Its thread sleeps for up to a minute, and an iterator's end waits for it: after
    each validation, training stood still for as long.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
