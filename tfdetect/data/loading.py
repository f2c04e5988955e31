"""tf.data pipelines that read, decode and batch images, without Python inside the graph."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import tensorflow as tf

from tfdetect.core.experiment import Equalize
from tfdetect.core.run_info import View
from tfdetect.data.sources import Files, Records
from tfdetect.imaging.decode import decode
from tfdetect.imaging.equalize import equalize_images, equalize_randomly
from tfdetect.imaging.geometry import fold_in, resize, window, windows

WORKERS = os.cpu_count() or 1  # files or batches processed at a time
PREFETCH = 2  # batches prepared in advance
MAX_MEMORY_FRACTION = 0.25  # of the free memory, for decoded images
MAX_MEMORY_BYTES = 4 * 2**30  # for decoded images
# Number of the random draws that position windows; augmentation steps have small numbers.
WINDOW_DRAWS = 2**31 - 1
EQUALIZE_DRAWS = 2**31 - 3
MASK_THRESHOLD = 128  # gray level from which a pixel of a mask image means "altered"

# Changes a decoded image, uint8 [H, W, 3], given its number, int64.
Change = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def load_image(
    data: tf.Tensor, size: tuple[int, int] | None, policy: str, equalizing: Equalize | None = None
) -> tf.Tensor:
    """Decode and resize an encoded image.

    Args:
        data: scalar string, the encoded image.
        size: (height, width) in pixels; None keeps the image's own.
        policy: how to resize; see `geometry.resize`.
        equalizing: how the image is cropped and encoded before.

    Returns:
        uint8 [*size, 3], or [H, W, 3] without a size.
    """
    image = equalize_images(decode(data), equalizing)
    return image if size is None else resize(image, size, policy)


def load_mask(data: tf.Tensor, size: tuple[int, int] | None, policy: str) -> tf.Tensor:
    """Decode and resize an encoded mask; arguments as for `load_image`.

    Returns:
        uint8 [*size, 1], or [H, W, 1] without a size: 1 where altered, 0 elsewhere.
    """
    mask = tf.cast(decode(data)[..., :1] >= MASK_THRESHOLD, tf.uint8)
    return mask if size is None else resize(mask, size, policy, nearest=True)


def load_pair(data: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode an image and its mask.

    Args:
        data: scalar string, the encoded image.
        mask: scalar string, the encoded mask; "" gives an empty mask. A mask of another size
            is resized to the image's.

    Returns:
        Image uint8 [H, W, 3] and mask uint8 [H, W, 1], 1 where altered.
    """
    image = decode(data)
    size = tf.shape(image)[:2]

    def decoded_mask() -> tf.Tensor:
        found = load_mask(mask, None, "")
        same_size = tf.reduce_all(tf.shape(found)[:2] == size)
        return tf.cond(same_size, lambda: found, lambda: tf.image.resize(found, size, "nearest"))

    empty = tf.zeros([size[0], size[1], 1], tf.uint8)
    mask = tf.cond(mask == "", lambda: empty, decoded_mask)
    mask.set_shape([None, None, 1])
    return image, mask


@dataclass(frozen=True, kw_only=True)
class ExampleLoader:
    """Decodes one training image, and its mask, at the size that augmentation takes.

    Attributes:
        size: (height, width) in pixels.
        policy: how to resize; see `geometry.resize`. A window policy cuts at a random position.
        seed: integer that determines the positions of windows and crops, and JPEG qualities.
        equalizing: how an image is cropped and encoded before; not for images with masks.
    """

    size: tuple[int, int]
    policy: str
    seed: int
    equalizing: Equalize | None = None

    def __call__(
        self, position: tf.Tensor, data: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """Load one image.

        Args:
            position: int64 scalar, position in the training stream.
            data: scalar string, the encoded image.
            mask: scalar string, the encoded mask, "" if there is none; None without masks.

        Returns:
            Image uint8 [*size, 3], followed by the mask uint8 [*size, 1] if one was given.
        """
        parts = (decode(data),) if mask is None else load_pair(data, mask)
        if self.equalizing is not None:
            seed = fold_in([self.seed, EQUALIZE_DRAWS], position)
            parts = (equalize_randomly(parts[0], self.equalizing, seed), *parts[1:])
        if not self.policy.startswith("window"):
            return tuple(
                resize(part, self.size, self.policy, nearest=part.shape[-1] == 1) for part in parts
            )
        corner = tf.random.stateless_uniform([2], fold_in([self.seed, WINDOW_DRAWS], position))
        small = self.policy.removeprefix("window_")
        return tuple(window(part, self.size, small, corner) for part in parts)


def image_dataset(
    source: Files | Records,
    size: tuple[int, int],
    policy: str,
    batch_size: int,
    masks: Files | Records | None = None,
    equalizing: Equalize | None = None,
) -> tf.data.Dataset:
    """Return batches of images in order; an image that cannot be read is left out.

    Args:
        source: the encoded images.
        size: (height, width) in pixels.
        policy: how to resize; see `geometry.resize`.
        batch_size: number of images in a batch; the last one may be smaller.
        masks: the encoded masks, in the same order; None if they are not wanted.
        equalizing: how images are cropped and encoded before; not with masks.

    Returns:
        Batches of (index into `source` int64 [b], image uint8 [b, *size, 3]), followed by the
        mask uint8 [b, *size, 1] if wanted; it is empty for images without one.
    """

    def read(index: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        data = source.load(item)
        if masks is not None:
            image, mask = load_pair(data, masks.paired_with(index, item))
            return index, resize(image, size, policy), resize(mask, size, policy, nearest=True)
        return index, load_image(data, size, policy, equalizing)

    images = source.stream().map(read, WORKERS)
    return without_autotuning(images.ignore_errors().batch(batch_size).prefetch(PREFETCH))


def view_dataset(
    source: Files | Records, views: Sequence[View], batch_size: int, change: Change | None = None
) -> tf.data.Dataset:
    """Return batches of images in several views; each image is decoded once for all of them.

    An image that cannot be read is left out: its index does not appear.

    Args:
        source: the encoded images.
        views: size, resize policy and number of crops of each view.
        batch_size: number of images in a batch; the last one may be smaller.
        change: applied to each decoded image before anything else.

    Returns:
        Batches of (index into `source` int64 [b], images), in order. Images are a tuple of
        uint8 [b, crops, *size, 3], one for each view.
    """
    if len(views) == 1 and views[0].crops == 1 and change is None:
        [view] = views
        images = image_dataset(source, view.size, view.policy, batch_size, equalizing=view.equalize)
        return images.map(lambda index, image: (index, (image[:, None],)))

    def read(index: tf.Tensor, item: tf.Tensor) -> tuple:
        image = decode(source.load(item))
        image = change(image, index) if change else image
        return index, tuple(windows(image, v.size, v.policy, v.crops, v.equalize) for v in views)

    images = source.stream().map(read, WORKERS)
    return without_autotuning(images.ignore_errors().batch(batch_size).prefetch(PREFETCH))


def native_images(
    source: Files | Records, masks: Files | Records | None, change: Change | None = None
) -> tf.data.Dataset:
    """Return images one by one, in order, at their own size.

    Args:
        source: the encoded images.
        masks: the encoded masks, in the same order; None gives empty masks.
        change: applied to each decoded image; the mask is empty then.

    Returns:
        Elements (index int64, image uint8 [H, W, 3], mask uint8 [H, W, 1]).
    """

    def read(index: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        mask = tf.constant("") if masks is None else masks.paired_with(index, item)
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
    equalizing: Equalize | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Decode images into memory; arguments as for `image_dataset`.

    Returns:
        Indices of the readable images int64 [n], images uint8 [n, *size, 3], and masks uint8
        [n, *size, 1] or None.
    """
    channels = (3,) if masks is None else (3, 1)
    arrays = [np.empty((len(source), *size, c), np.uint8) for c in channels]
    kept: list[int] = []
    for indices, *batches in image_dataset(source, size, policy, 256, masks, equalizing):
        for array, batch in zip(arrays, batches):
            array[len(kept) : len(kept) + len(batch)] = batch.numpy()
        kept.extend(indices.numpy())
    images, *rest = (array[: len(kept)] for array in arrays)
    return np.array(kept, np.int64), images, rest[0] if rest else None


def fits_in_memory(images: int, size: tuple[int, int], channels: int) -> bool:
    """Return whether decoded images take no more memory than they may.

    Args:
        images: number of images.
        size: (height, width) in pixels.
        channels: bytes of a pixel.
    """
    free = psutil.virtual_memory().available
    needed = images * size[0] * size[1] * channels
    return needed <= min(MAX_MEMORY_BYTES, MAX_MEMORY_FRACTION * free)


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset with tf.data's autotuning switched off.

    The autotuning thread sleeps for up to a minute, and the end of an iterator waits for it:
    training stood still that long after each validation.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
