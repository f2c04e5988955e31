"""tf.data pipelines that read, decode and batch images, without Python inside the graph."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import psutil
import tensorflow as tf

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.process import allowed_cores
from tfdetect.core.run_info import View
from tfdetect.data.sources import Files, Masks, Records
from tfdetect.data.targets import UNKNOWN
from tfdetect.imaging.equalize import equalize_images, equalize_randomly
from tfdetect.imaging.facts_in_graph import facts_in_graph
from tfdetect.imaging.geometry import fold_in, resize, uncropped, view_parts, window
from tfdetect.imaging.graph import rare_branch, traced_as_written
from tfdetect.imaging.partial import Picture, picture_parts
from tfdetect.imaging.read import decode_any

WORKERS = len(allowed_cores())  # files or batches processed at a time
PREFETCH = 2  # batches prepared in advance
# Pixels of an image up to which a worker of a training stream loads whole batches: handing over a
# single image takes as long as decoding one of 32 x 32.
FEW_PIXELS = 96 * 96
MAX_MEMORY_FRACTION = 0.25  # of the free memory, for decoded images
MAX_MEMORY_BYTES = 4 * 2**30  # for decoded images
# Number of the random draws that position windows; augmentation steps have small numbers.
WINDOW_DRAWS = 2**31 - 1
EQUALIZE_DRAWS = 2**31 - 3

# Changes a decoded image, given its number, int64.
Change = Callable[[Picture, tf.Tensor], Picture]


def fit_mask(mask: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return a mask at the size of its image.

    Args:
        mask: uint8 [h, w, 1], as from `Masks.load`.
        size: int32 [2], height and width of the image.

    Returns:
        uint8 [*size, 1]: resized to the nearest pixel where the size is another; empty if there
        is no mask.
    """
    same = tf.reduce_all(tf.shape(mask)[:2] == size)
    fitted = tf.cond(same, lambda: mask, lambda: _resized_mask(mask, size))
    fitted.set_shape([None, None, 1])
    return fitted


@rare_branch
def _resized_mask(mask: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.size(mask) == 0,
        lambda: tf.zeros([size[0], size[1], 1], tf.uint8),
        lambda: tf.image.resize(mask, size, "nearest"),
    )


def view_mask(
    mask: tf.Tensor,
    image: tf.Tensor,
    size: tuple[int, int],
    policy: str,
    position: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the part of a mask that belongs to what a detector sees of its image.

    An empty result means that nothing altered is in view. Where resizing lost the few altered
    pixels that are in view, or the whole mask is empty, the result is `UNKNOWN` everywhere: that
    does not make a fake authentic.

    Args:
        mask: uint8 [h, w, 1], as from `Masks.load`; an image without a mask gets an empty one.
        image: the whole image, uint8 [H, W, 3].
        size: (height, width) of the view in pixels.
        policy: how to resize; see `geometry.resize`.
        position: the position of the window, down and across, from 0 to 1; the center by default.

    Returns:
        uint8 [*size, 1].
    """

    def view() -> tf.Tensor:
        whole = fit_mask(mask, tf.shape(image)[:2])
        if position is None:
            seen = resize(whole, size, policy, nearest=True)
        else:
            seen = window(whole, size, policy, position)
        shows = tf.reduce_max(seen) > 0
        return tf.cond(shows, lambda: seen, lambda: _empty_view(whole, size, policy))

    result = tf.cond(tf.size(mask) == 0, lambda: tf.zeros([*size, 1], tf.uint8), view)
    result.set_shape([*size, 1])
    return result


@rare_branch
def _empty_view(mask: tf.Tensor, size: tuple[int, int], policy: str) -> tf.Tensor:
    """Return a view of a mask uint8 [H, W, 1] without altered pixels: 0, or `UNKNOWN`."""
    if policy in ("stretch", "pad"):  # they cut nothing off
        return tf.fill([*size, 1], tf.constant(UNKNOWN, tf.uint8))
    cut_off = tf.reduce_max(mask) > 0
    if policy == "crop":
        cut_off &= tf.reduce_max(uncropped(mask, size)) == 0
    return tf.fill([*size, 1], tf.where(cut_off, tf.constant(0, tf.uint8), UNKNOWN))


@dataclass(frozen=True, kw_only=True)
class ExampleLoader:
    """Decodes one training image, and its mask, at the size that augmentation takes.

    Attributes:
        view: size and policy, which cuts windows at random positions, and how the image is cropped
            and encoded before, which is not for images with masks.
        seed: integer that determines the positions of windows and crops, and JPEG qualities.
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
            mask: uint8 [h, w, 1], its mask as from `Masks.load`; None without masks.

        Returns:
            Image uint8 [*size, 3], followed by the mask uint8 [*size, 1] of `view_mask` if one
            was given.
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
    """Return full batches of what is loaded, in order; what cannot be loaded is left out.

    Args:
        batches: what is to be loaded, such as indices of images, in batches. There must be many:
            workers share out the batches, not their elements, where images are small.
        load: called with one element of each part of a batch; its errors leave the element out.
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
        view: what is seen of an image, one crop; with masks images are not equalized.
        batch_size: number of images in a batch; the last one may be smaller.
        masks: the masks, in the same order; None if they are not wanted.

    Returns:
        Batches of (index into `source` int64 [b], image uint8 [b, *size, 3]), followed by the
        mask uint8 [b, *size, 1] of `view_mask` if wanted.
    """
    size, policy = view.size, view.policy

    @traced_as_written
    def read(index: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image = decode_any(source.load(item), source.max_pixels)
        if masks is None:
            return index, resize(equalize_images(image, view.equalize), size, policy)
        mask = view_mask(masks.load(index, item), image, size, policy)
        return index, resize(image, size, policy), mask

    images = source.stream().map(read, WORKERS)
    return without_autotuning(images.ignore_errors().batch(batch_size).prefetch(PREFETCH))


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
        change: applied to each decoded image before anything else, as far as a view reads it.
        facts: whether to return what is known of each image besides its pixels.

    Returns:
        Batches of (index into `source` int64 [b], images), in order. Images are a tuple of
        uint8 [b, crops, *size, 3], one for each view. With `facts`, int64 [b, 5] follows; see
        `facts_in_graph`.
    """

    @traced_as_written
    def read(index: tf.Tensor, item: tf.Tensor) -> tuple:
        data = source.load(item)
        image = decode_any(data, source.max_pixels)
        known = (facts_in_graph(data, image),) if facts else ()
        if change:
            parts = picture_parts(change(Picture.of(image), index), views)
        else:
            parts = view_parts(image, views)
        return index, tuple(parts), *known

    images = source.stream().map(read, WORKERS)
    return without_autotuning(images.ignore_errors().batch(batch_size).prefetch(PREFETCH))


def read_files(source: Files, views: Sequence[View]) -> tuple[tf.Tensor, tuple, tf.Tensor] | None:
    """Return all images that `view_dataset` gives of few files, as one batch with facts.

    A pipeline is traced and prepared for each source, which takes a few hundred milliseconds; this
    is traced once.

    Returns:
        A batch of `view_dataset`; None if no file can be read.
    """
    read = _file_reader(tuple(views), source.max_pixels)

    def attempt(index: int) -> tuple | None:
        with tf.device("CPU:0"):  # it holds for one thread
            try:
                return tf.constant(index, tf.int64), *read(source.path(index))
            except tf.errors.OpError:  # as `ignore_errors`
                return None

    with ThreadPoolExecutor(WORKERS) as pool, tf.device("CPU:0"):
        found = [each for each in pool.map(attempt, range(len(source))) if each is not None]
        return tf.nest.map_structure(lambda *parts: tf.stack(parts), *found) if found else None


@cache
def _file_reader(views: tuple[View, ...], max_pixels: int) -> Callable:
    """Return a function from the path of a file to its views and facts."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def read(path: tf.Tensor) -> tuple:
        data = Files.load(path)
        image = decode_any(data, max_pixels)
        return tuple(view_parts(image, views)), facts_in_graph(data, image)

    with tf.device("CPU:0"):
        return read.get_concrete_function()


def native_images(
    source: Files | Records, masks: Masks | None, change: Change | None = None
) -> tf.data.Dataset:
    """Return images one by one, in order, at their own size.

    Args:
        source: the encoded images.
        masks: the masks, in the same order; None gives empty masks.
        change: applied to each decoded image. With masks it must not cut anything off: a mask is
            resized to the size of the changed image.

    Returns:
        Elements (index int64, image uint8 [H, W, 3], mask uint8 [H, W, 1], facts int64 [5] as of
        `facts_in_graph`).
    """

    @traced_as_written
    def read(index: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, ...]:
        data = source.load(item)
        image = decode_any(data, source.max_pixels)
        facts = facts_in_graph(data, image)
        if change:
            image = change(Picture.of(image), index).whole()
        if masks is None:
            return index, image, tf.zeros_like(image[..., :1]), facts
        return index, image, fit_mask(masks.load(index, item), tf.shape(image)[:2]), facts

    return without_autotuning(source.stream().map(read, WORKERS).ignore_errors().prefetch(PREFETCH))


def load_images(
    source: Files | Records, view: View, masks: Masks | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Decode images into memory; arguments as for `image_dataset`.

    Returns:
        Indices of the readable images int64 [n], images uint8 [n, *size, 3], and masks uint8
        [n, *size, 1] or None.
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
    """Return the dataset with tf.data's autotuning and rewriting switched off.

    The autotuning thread sleeps for up to a minute, and the end of an iterator waits for it:
    training stood still that long after each validation. Rewriting looks at every function of the
    decoder for every device: a training on two devices began four minutes later.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)
