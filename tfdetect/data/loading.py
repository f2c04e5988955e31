"""tf.data pipelines that read, decode and batch images, without Python functions in the graph."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import psutil
import tensorflow as tf

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.process import allowed_cores
from tfdetect.core.run_info import View
from tfdetect.data.mask_views import fit_mask, view_mask
from tfdetect.data.sources import Files, Masks, Records
from tfdetect.imaging.equalize import equalize_images, equalize_randomly
from tfdetect.imaging.facts_in_graph import facts_in_graph
from tfdetect.imaging.geometry import fold_in, resize, view_parts, window
from tfdetect.imaging.graph import traced_as_written
from tfdetect.imaging.partial import Picture, picture_parts
from tfdetect.imaging.read import decode_any

WORKERS = len(allowed_cores())  # files or batches processed at a time
PREFETCH = 2  # batches prepared in advance
# Largest number of pixels of an image with which a worker of a training stream loads whole batches:
# to hand over a single image takes as long as to decode one of 32 x 32 pixels.
FEW_PIXELS = 96 * 96
MAX_MEMORY_FRACTION = 0.25  # of the free memory, for decoded images
MAX_MEMORY_BYTES = 4 * 2**30  # for decoded images
# Numbers that are folded into the seed for the positions of windows and for equalization;
# augmentation steps have small numbers.
WINDOW_DRAWS = 2**31 - 1
EQUALIZE_DRAWS = 2**31 - 3

_DATA = tf.TensorSpec([], tf.string)  # an encoded image
_MASK = tf.TensorSpec([None, None, 1], tf.uint8)

# A change of a decoded image, from the image and its index, int64.
Change = Callable[[Picture, tf.Tensor], Picture]


@dataclass(frozen=True, kw_only=True)
class ExampleLoader:
    """Decodes one training image, and its mask, at the size that augmentation takes.

    Attributes:
        view: the size; the resize policy, which cuts windows at random positions; and how images
            are equalized (cropped and encoded) before, which images with masks cannot be.
        seed: determines the positions of windows and crops, and JPEG qualities.
        max_pixels: images with more pixels are refused before they are decoded.
    """

    view: View
    seed: int
    max_pixels: int = MAX_PIXELS

    def __call__(
        self, position: tf.Tensor, data: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        """Load one image.

        Args:
            position: int64 scalar, position in the training stream.
            data: scalar string, the encoded image.
            mask: its mask, uint8 [h, w, 1], as from `Masks.load`; None without masks.

        Returns:
            The image, uint8 [*size, 3], and with a mask also that of `view_mask`, uint8
            [*size, 1].
        """
        size, policy = self.view.size, self.view.policy
        image, corner = decode_any(data, self.max_pixels), None
        if self.view.equalize is not None:
            seed = fold_in([self.seed, EQUALIZE_DRAWS], position)
            image = equalize_randomly(image, self.view.equalize, seed)
        if cuts_windows(policy):
            corner = tf.random.stateless_uniform([2], fold_in([self.seed, WINDOW_DRAWS], position))
            seen = window(image, size, policy, corner)
        else:
            seen = resize(image, size, policy)
        if mask is None:
            return (seen,)
        return seen, view_mask(mask, image, size, policy, corner)


def load_batches(
    batches: tf.data.Dataset, load: Callable[..., tuple], size: tuple[int, int], batch_size: int
) -> tf.data.Dataset:
    """Return full batches of loaded elements, in order; those that cannot be loaded are left out.

    Args:
        batches: batches of what is loaded, such as indices of images. There must be many, because
            each worker loads whole batches if images are small.
        load: loads one element, called with one element of each part of a batch; an element for
            which it raises an error is left out.
        size: (height, width) of a loaded image in pixels.
        batch_size: number of elements in a full batch.
    """
    if size[0] * size[1] > FEW_PIXELS:
        loaded = batches.unbatch().map(load, WORKERS).ignore_errors()
        return loaded.batch(batch_size, drop_remainder=True)

    @traced_as_written
    def load_batch(*batch: tf.Tensor) -> tf.data.Dataset:
        elements = tf.data.Dataset.from_tensor_slices(batch)
        return elements.map(load).ignore_errors().batch(batch_size)

    loaded = batches.interleave(
        load_batch, cycle_length=WORKERS, num_parallel_calls=WORKERS, deterministic=True
    )
    return loaded.rebatch(batch_size, drop_remainder=True)


def image_dataset(
    source: Files | Records, view: View, batch_size: int, masks: Masks | None = None
) -> tf.data.Dataset:
    """Return batches of images in order; an image that cannot be read is left out.

    Args:
        source: the encoded images.
        view: size and resize policy, with one crop; images with masks are not equalized.
        batch_size: number of images in a batch; the last one may be smaller.
        masks: the masks, in the same order; None for no masks.

    Returns:
        Batches of indices into `source`, int64 [b], images, uint8 [b, *size, 3], and with masks
        those of `view_mask`, uint8 [b, *size, 1].
    """
    load = _image_loader(view, source.max_pixels, masks is not None)

    @traced_as_written
    def read(index: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rest = () if masks is None else (masks.load(index, item),)
        return index, *load(source.load(item), *rest)

    images = source.stream().map(read, WORKERS)
    return without_autotuning(images.ignore_errors().batch(batch_size).prefetch(PREFETCH))


@cache  # so that it is traced once
def _image_loader(view: View, max_pixels: int, with_mask: bool) -> Callable[..., tuple]:
    """Return a function of an encoded image, and its mask if wanted, for `image_dataset`."""
    size, policy = view.size, view.policy

    def load(data: tf.Tensor, mask: tf.Tensor | None = None) -> tuple[tf.Tensor, ...]:
        image = decode_any(data, max_pixels)
        if mask is None:
            return (resize(equalize_images(image, view.equalize), size, policy),)
        return resize(image, size, policy), view_mask(mask, image, size, policy)

    return _traced(load, _DATA, *[_MASK] * with_mask)


def _traced(function: Callable[..., tuple], *signature: tf.TensorSpec) -> Callable[..., tuple]:
    """Return a function as a graph, which pipelines call without tracing it again."""
    with tf.init_scope(), tf.device(None):
        return tf.function(
            function, input_signature=signature, autograph=False
        ).get_concrete_function()


def view_dataset(
    source: Files | Records,
    views: Sequence[View],
    batch_size: int,
    change: Change | None = None,
    facts: bool = False,
) -> tf.data.Dataset:
    """Return batches of images in several views; each image is decoded once for all of them.

    An image that cannot be read is left out: its index does not appear.

    Args:
        source: the encoded images.
        views: size, resize policy and number of crops of each view.
        batch_size: number of images in a batch; the last one may be smaller.
        change: applied to each decoded image before anything else, to the part that a view reads.
        facts: whether to return size, format and hashes of each image, too.

    Returns:
        Batches, in order, of indices into `source`, int64 [b], and images, a tuple of uint8
        [b, crops, *size, 3] with one tensor for each view. With `facts`, int64 [b, 5] of
        `facts_in_graph` follows.
    """
    load = None if change else _view_loader(tuple(views), source.max_pixels, facts)

    @traced_as_written
    def read(index: tf.Tensor, item: tf.Tensor) -> tuple:
        data = source.load(item)
        if load is not None:
            return index, *load(data)
        assert change is not None
        image = decode_any(data, source.max_pixels)
        known = (facts_in_graph(data, image),) if facts else ()
        return index, tuple(picture_parts(change(Picture.of(image), index), views)), *known

    images = source.stream().map(read, WORKERS)
    return without_autotuning(images.ignore_errors().batch(batch_size).prefetch(PREFETCH))


def read_files(source: Files, views: Sequence[View]) -> tuple[tf.Tensor, tuple, tf.Tensor] | None:
    """Return the views of a few files as one batch, as `view_dataset` with facts returns them.

    `view_dataset` traces and prepares a pipeline for each source, which takes a few hundred
    milliseconds; the function that this one calls for each file is traced only once.

    Args:
        source: the files.
        views: size, resize policy and number of crops of each view.

    Returns:
        A batch of `view_dataset`; None if no file can be read.
    """
    read = _file_reader(tuple(views), source.max_pixels)

    def attempt(index: int) -> tuple | None:
        with tf.device("CPU:0"):  # applies to this thread only
            try:
                return tf.constant(index, tf.int64), *read(source.path(index))
            except tf.errors.OpError:  # left out, as by `ignore_errors`
                return None

    with ThreadPoolExecutor(WORKERS) as pool, tf.device("CPU:0"):
        found = [each for each in pool.map(attempt, range(len(source))) if each is not None]
        return tf.nest.map_structure(lambda *parts: tf.stack(parts), *found) if found else None


@cache
def _view_loader(views: tuple[View, ...], max_pixels: int, facts: bool) -> Callable[..., tuple]:
    """Return a function from an encoded image to its views, and its facts if wanted."""

    def load(data: tf.Tensor) -> tuple:
        image = decode_any(data, max_pixels)
        known = (facts_in_graph(data, image),) if facts else ()
        return tuple(view_parts(image, views)), *known

    return _traced(load, _DATA)


@cache
def _file_reader(views: tuple[View, ...], max_pixels: int) -> Callable:
    """Return a function from the path of a file to its views and facts."""
    load = _view_loader(views, max_pixels, True)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def read(path: tf.Tensor) -> tuple:
        return load(Files.load(path))

    with tf.device("CPU:0"):
        return read.get_concrete_function()


def native_images(
    source: Files | Records, masks: Masks | None, change: Change | None = None
) -> tf.data.Dataset:
    """Return images one by one, in order, at their own size.

    Args:
        source: the encoded images.
        masks: the masks, in the same order; None for masks of zeros.
        change: applied to each decoded image. With masks it must not cut anything off, because a
            mask is resized to the size of the changed image.

    Returns:
        Elements: index, int64, image, uint8 [H, W, 3], mask, uint8 [H, W, 1], and int64 [5] of
        `facts_in_graph`.
    """
    load = None if change else _native_loader(source.max_pixels, masks is not None)

    @traced_as_written
    def read(index: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        data = source.load(item)
        mask = () if masks is None else (masks.load(index, item),)
        if load is not None:
            return index, *load(data, *mask)
        assert change is not None
        return index, *_native(data, *mask, max_pixels=source.max_pixels,
                               change=lambda picture: change(picture, index))  # fmt: skip

    return without_autotuning(source.stream().map(read, WORKERS).ignore_errors().prefetch(PREFETCH))


@cache
def _native_loader(max_pixels: int, with_mask: bool) -> Callable[..., tuple]:
    """Return `_native` as a graph, of an encoded image, and its mask if there are masks."""
    return _traced(partial(_native, max_pixels=max_pixels), _DATA, *[_MASK] * with_mask)


def _native(
    data: tf.Tensor,
    mask: tf.Tensor | None = None,
    *,
    max_pixels: int,
    change: Callable[[Picture], Picture] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return image, mask and facts of an element of `native_images`."""
    image = decode_any(data, max_pixels)
    facts = facts_in_graph(data, image)
    if change:
        image = change(Picture.of(image)).whole()
    if mask is None:
        return image, tf.zeros_like(image[..., :1]), facts
    return image, fit_mask(mask, tf.shape(image)[:2]), facts


def load_images(
    source: Files | Records, view: View, masks: Masks | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Decode images into memory.

    Args:
        source, view, masks: as for `image_dataset`.

    Returns:
        Indices of the readable images, int64 [n]; images, uint8 [n, *size, 3]; and masks, uint8
        [n, *size, 1], or None without masks.
    """
    channels = (3,) if masks is None else (3, 1)
    arrays = [np.empty((len(source), *view.size, c), np.uint8) for c in channels]
    kept: list[int] = []
    for indices, *batches in image_dataset(source, view, 256, masks):
        for array, batch in zip(arrays, batches):
            array[len(kept) : len(kept) + len(batch)] = batch.numpy()
        kept.extend(indices.numpy())
    images, *rest = (array[: len(kept)] for array in arrays)
    return np.array(kept, np.int64), images, rest[0] if rest else None


def fits_in_memory(images: int, size: tuple[int, int], channels: int) -> bool:
    """Return whether decoded images fit into the memory that they may take.

    Args:
        images: number of images.
        size: (height, width) of an image in pixels.
        channels: bytes per pixel.
    """
    free = psutil.virtual_memory().available
    needed = images * size[0] * size[1] * channels
    return needed <= min(MAX_MEMORY_BYTES, MAX_MEMORY_FRACTION * free)


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return a dataset without the autotuning and the graph rewriting of tf.data.

    The autotuning thread sleeps for up to a minute, and the end of an iterator waits for it: a
    training paused that long after each validation. Rewriting examines every function of the
    decoder for every device: a training on two devices started four minutes later.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)
