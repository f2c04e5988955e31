"""tf.data pipelines: files or shards to batches, repeatable, resumable, without Python inside.

The order of training images is a pure function of (seed, position), so a run can
go on from any step, and the number of workers changes nothing.
"""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfdetect import registry
from tfdetect.data.catalogue import Catalogue
from tfdetect.data.sources import Files, Records, image_source, mask_source, read_records
from tfdetect.errors import UserError, unknown
from tfdetect.experiment import Augmentation, Data
from tfdetect.imaging.decode import decode
from tfdetect.imaging.geometry import fold, resize, window, windows
from tfdetect.run import View

WORKERS = os.cpu_count() or 1  # files or batches worked on at a time
_WINDOW = 2**31 - 1  # names the draw of a window's place, beside the numbers of the policy's steps
_AHEAD = 2  # batches made ready beforehand
_MEMORY_SHARE = 0.25  # of the free memory that decoded images may take
_MEMORY_LIMIT = 4 * 2**30  # bytes
_POOL = 128 * 2**20  # bytes of shards that images are drawn from at a time
UNKNOWN = 255  # in masks, where nobody knows whether a pixel was altered
_SHARDS = 2**31 - 2  # names the draws of the shards' order

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
    return _fixed(images.ignore_errors().batch(batch_size).prefetch(_AHEAD))


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
    return _fixed(images.ignore_errors().batch(batch_size).prefetch(_AHEAD))


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

    return _fixed(source.stream().map(read, WORKERS).ignore_errors().prefetch(_AHEAD))


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


@dataclass(frozen=True)
class Strata:
    """Draws from groups of images in fixed shares, each group reshuffled every pass over it.

    Which image stands at a position of the stream is a pure function of the seed.
    Every batch has each stratum's share, to one image.

    Attributes:
        members: indices of images, stratum after stratum, int64 [n].
        starts: where each stratum begins in `members`, int64 [s].
        sizes: images of each, int64 [s].
        bounds: cumulated shares, float64 [s + 1] from 0 to 1.
    """

    members: tf.Tensor
    starts: tf.Tensor
    sizes: tf.Tensor
    bounds: tf.Tensor

    @classmethod
    def of(cls, keys: tf.Tensor, shares: tf.Tensor) -> "Strata":
        """Strata of images by their key, int32 [n], and the share of each key, float64 [s].

        The share of a key that no image has goes to the others.
        """
        count = shares.shape[0]
        sizes = tf.math.bincount(keys, None, count, count, tf.int64)
        sizes = tf.ensure_shape(sizes, [count])
        shares = tf.where(sizes > 0, shares, tf.zeros_like(shares))
        bounds = tf.cumsum(shares / tf.reduce_sum(shares))
        bounds = tf.where(bounds > 1 - 1e-12, tf.ones_like(bounds), bounds)
        bounds = tf.pad(bounds, [[1, 0]])
        members = tf.argsort(keys, stable=True) if count > 1 else tf.range(tf.size(keys))
        return cls(tf.cast(members, tf.int64), tf.cumsum(sizes, exclusive=True), sizes, bounds)

    def indices(self, positions: tf.Tensor, batch: int, seed: int | tf.Tensor) -> tf.Tensor:
        """The images at positions of the stream, int64 [n], which begin with a batch."""
        place = positions % batch
        number = tf.cast(positions // batch, tf.float64)
        if self.sizes.shape[0] > 1:  # so that no replica gets one stratum only
            place = shuffle(place, [seed, positions // batch, -1], batch)
        # Images of the strata up to each before this batch, and those up to it in this batch.
        before = tf.cast(tf.floor(number[:, None] * batch * self.bounds), tf.int64)
        inside = tf.cast(tf.floor((number[:, None] + 1) * batch * self.bounds), tf.int64) - before
        stratum = tf.reduce_sum(tf.cast(place[:, None] >= inside[:, 1:], tf.int64), axis=1)

        def at(table: tf.Tensor, offset: int = 0) -> tf.Tensor:
            return tf.gather(table, stratum + offset, batch_dims=1)

        drawn = at(before, 1) - at(before) + place - at(inside)
        size = tf.gather(self.sizes, stratum)
        shuffled = shuffle(drawn % size, [seed, drawn // size, stratum], size)
        start = tf.gather(self.starts, stratum)
        return tf.gather(self.members, start + shuffled)


def shuffle(index: tf.Tensor, seed: list, size: tf.Tensor | int) -> tf.Tensor:
    """Where each index in [0, size) goes in the permutation that the seed names. int64 [n]."""
    count = tf.shape(index)
    seeds = tf.stack([tf.broadcast_to(tf.cast(s, tf.int64), count) for s in seed], axis=1)
    last = tf.broadcast_to(tf.cast(size, tf.int64) - 1, count)
    # tf.random.experimental.index_shuffle pads a batch of seeds along the wrong axis.
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=seeds, max_index=last, rounds=4)


@dataclass
class TrainingData:
    """The training split as an endless stream of full batches.

    Attributes:
        count: number of images that one pass goes over.
        broken: names of images that were found unreadable while caching, and why.
    """

    source: Files | Records
    labels: np.ndarray  # int32 [n]
    data: Data
    classes: int
    batch_size: int
    seed: int
    native: tuple[int, int] | None = None  # size of every image, where all agree
    datasets: np.ndarray | None = None  # str [n], each image's, where data.weights names them
    masks: Files | Records | None = None  # their masks, where they are to be drawn
    masked: np.ndarray | None = None  # bool [n], which images have one
    broken: dict[str, str] = field(default_factory=dict)
    _images: list[tf.Tensor] | None = None  # and masks

    def __post_init__(self):
        check_policy(self.data.augment)
        with tf.device("CPU:0"):  # where tf.data runs
            self._lost = tf.Variable(0, dtype=tf.int64, trainable=False)
        if self.cached:
            kept, images, masks = load_images(
                self.source, self.load_size, self.data.resize, self.masks
            )
            self.broken = self.find_broken(np.setdiff1d(np.arange(len(self.source)), kept))
            self.labels = self.labels[kept]
            self.datasets = None if self.datasets is None else self.datasets[kept]
            self.masked = None if self.masked is None else self.masked[kept]
            self._images = [tf.constant(x) for x in (images, masks) if x is not None]
        # Outside the graphs, each of which would hold a copy.
        self._keys, self._shares = map(tf.constant, self._find_strata())
        self._strata = Strata.of(self._keys, self._shares)
        self._labels = tf.constant(self.labels)
        self._masked = None if self.masked is None else tf.constant(self.masked)
        if self.count < self.batch_size:
            raise UserError(
                f"The train split has {self.count} readable images, fewer than one batch of "
                f"{self.batch_size}. Lower it: --set training.batch_size={max(1, self.count // 2)}"
            )

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def load_size(self) -> tuple[int, int]:
        """Size at which images are loaded: their own where the warp also enlarges."""
        target = self.data.image_size
        steps = self.data.augment
        folds = (
            self.native is not None
            and bool(steps) and steps[0].name in ("warp", "crop")
            and self.data.resize == "stretch"
            and all(have <= want for have, want in zip(self.native, target))
        )  # fmt: skip
        return self.native if folds else target

    @property
    def cached(self) -> bool:
        """Whether the decoded images are held in memory."""
        if self.data.resize.startswith("window") and self.native != self.data.image_size:
            return False  # another window each time
        if self.data.cache != "auto":
            return self.data.cache == "memory"
        channels = 3 if self.masks is None else 4
        size = len(self.source) * self.load_size[0] * self.load_size[1] * channels
        return size <= min(_MEMORY_LIMIT, _MEMORY_SHARE * psutil.virtual_memory().available)

    @property
    def lost(self) -> int:
        """Number of files that could not be read while streaming."""
        return int(self._lost.numpy())

    def find_broken(self, indices: np.ndarray | None = None) -> dict[str, str]:
        """Names of the images, or of those at `indices`, that cannot be read, and why."""
        indices = range(len(self.source)) if indices is None else indices
        errors = ((self.source.name(i), self._error(i)) for i in indices)
        return {name: error for name, error in errors if error}

    def _error(self, index: int) -> str | None:
        error = self.source.error(index)
        if error is None and self.masks is not None and self.masked[index]:
            error = self.masks.error(index)
            return error and f"its mask: {error}"
        return error

    def batches(self, start_step: int = 0) -> tf.data.Dataset:
        """Batches (image float32 [B, H, W, 3] in 0..255, {"label": target}) from a step on.

        With masks the targets have a "mask", uint8 [B, H, W, 1]: 1 altered, 0 not, 255 not
        known. What is left of a fake without an altered pixel counts as authentic. With
        data.balance "weight" a third part follows: weights float32 [B] by target.
        """
        if self._images is None and isinstance(self.source, Records):
            return _fixed(self._from_shards(start_step).prefetch(_AHEAD))
        blocks = tf.data.Dataset.range(start_step * self.batch_size, np.iinfo(np.int64).max)
        blocks = blocks.batch(self.batch_size, drop_remainder=True).map(self._order)
        if self._images is not None:
            return _fixed(blocks.map(self._from_memory, WORKERS).prefetch(_AHEAD))

        def load(position: tf.Tensor, index: tf.Tensor) -> tuple:
            item = self.source.path(index)
            mask = () if self.masks is None else (self.masks.beside(index, item),)
            return position, index, *self._load(position, self.source.load(item), *mask)

        loaded = blocks.unbatch().map(load, WORKERS).ignore_errors()
        loaded = loaded.batch(self.batch_size, drop_remainder=True)
        return _fixed(loaded.map(self._count_lost).map(self._finish, WORKERS).prefetch(_AHEAD))

    def _load(self, position: tf.Tensor, data: tf.Tensor, mask: tf.Tensor | None = None) -> tuple:
        """One image as it enters augmentation, uint8 [*load_size, 3], and its mask if wanted."""
        pair = (decode(data),) if mask is None else load_pair(data, mask)
        size, policy = self.load_size, self.data.resize
        if not policy.startswith("window"):
            return (*(resize(x, size, policy, nearest=x.shape[-1] == 1) for x in pair),)
        place = tf.random.stateless_uniform([2], fold([self.seed, _WINDOW], position))
        small = policy.removeprefix("window_")
        return (*(window(x, size, small, place) for x in pair),)

    def _from_shards(self, start_step: int) -> tf.data.Dataset:
        """Batches from shards, which are read whole, several at a time and in a new order each
        pass; images are drawn from these several.
        """
        source, batch = self.source, self.batch_size
        lengths = source.lengths
        largest = max(map(os.path.getsize, source.shards))
        several = max(1, min(len(lengths), _POOL // largest))
        pools = -(-len(lengths) // several)  # in one pass

        def shards_of(number: tf.Tensor) -> tf.Tensor:
            place = tf.range(len(lengths), dtype=tf.int64)
            order = shuffle(place, [self.seed, number // pools, _SHARDS], len(lengths))
            return order[number % pools * several :][:several]

        # Where in which pool the stream starts: whole pools are passed over unread.
        passes, skip = divmod(start_step * batch, self.count)
        first = passes * pools
        while skip >= (size := lengths[shards_of(tf.constant(first, tf.int64))].sum()):
            first, skip = first + 1, skip - size
        names, sizes = tf.constant(source.shards), tf.constant(lengths)
        starts = tf.cumsum(sizes, exclusive=True)

        def draw(number: tf.Tensor) -> tuple:
            shards = shards_of(number)
            begin, size = tf.gather(starts, shards), tf.gather(sizes, shards)
            rows = tf.ragged.range(begin, begin + size).flat_values
            strata = Strata.of(tf.gather(self._keys, rows), self._shares)
            seed = tf.random.stateless_uniform(
                [], fold([self.seed, _SHARDS], number), None, None, tf.int64
            )
            order = strata.indices(tf.range(tf.size(rows, tf.int64)), batch, seed)
            order = order[tf.where(number == first, tf.constant(skip, tf.int64), 0) :]
            return read_records(tf.gather(names, shards)), rows, order

        def deal(records: tf.Tensor, rows: tf.Tensor, order: tf.Tensor) -> tf.data.Dataset:
            blocks = tf.data.Dataset.from_tensor_slices(order).batch(batch)
            return blocks.map(lambda block: (tf.gather(rows, block), tf.gather(records, block)))

        def load(number: tf.Tensor, part: tuple) -> tuple:
            indices, items = part
            positions = number * batch + tf.range(batch, dtype=tf.int64)
            sources = (source,) if self.masks is None else (source, self.masks)
            channels = (3, 1)[: len(sources)]
            images = tf.map_fn(
                lambda one: self._load(*one), (positions, *(s.load(items) for s in sources)),
                fn_output_signature=tuple(
                    tf.TensorSpec([*self.load_size, c], tf.uint8) for c in channels
                ),
            )  # fmt: skip
            return self._finish(positions, indices, *images)

        numbers = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        blocks = numbers.map(draw).prefetch(1).flat_map(deal)
        return blocks.rebatch(batch, drop_remainder=True).enumerate(start_step).map(load, WORKERS)

    def _find_strata(self) -> tuple[np.ndarray, np.ndarray]:
        """Groups of images that are drawn from in fixed shares: datasets, classes, or all.

        Returns:
            Each image's group, int32 [n], and each group's share, float64 [s].
        """
        keys = np.zeros(self.count, np.int32)
        names = ["all"]
        if self.data.weights:
            names, keys = np.unique(self.datasets, return_inverse=True)
            if extra := set(self.data.weights) - set(names):
                raise unknown("dataset in data.weights", sorted(extra)[0], names)
        shares = np.bincount(keys) / self.count
        if self.data.weights:
            shares = np.array([self.data.weights.get(n, 1.0) for n in names])
        if self.data.balance == "sample":
            pairs, codes = np.unique(keys * self.classes + self.labels, return_inverse=True)
            sets = pairs // self.classes
            shares, keys = (shares / np.bincount(sets))[sets], codes
        return keys.astype(np.int32), shares

    def _order(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Positions in the endless stream to indices of images."""
        return positions, self._strata.indices(positions, self.batch_size, self.seed)

    def _from_memory(self, positions: tf.Tensor, indices: tf.Tensor) -> tuple:
        return self._finish(positions, indices, *(tf.gather(x, indices) for x in self._images))

    def _count_lost(self, positions: tf.Tensor, *rest: tf.Tensor) -> tuple:
        gaps = positions[-1] - positions[0] + 1 - self.batch_size
        with tf.control_dependencies([self._lost.assign_add(gaps)]):
            return tf.identity(positions), *rest

    def _finish(
        self,
        positions: tf.Tensor,
        indices: tf.Tensor,
        images: tf.Tensor,
        masks: tf.Tensor | None = None,
    ) -> tuple:
        size = self.data.image_size
        images.set_shape([self.batch_size, *self.load_size, 3])
        labels = tf.gather(self._labels, indices)
        target = targets(labels, self.classes)
        if self.classes > 2 and mixes(self.data.augment):
            target = tf.one_hot(labels, self.classes)
        if masks is not None:
            masks.set_shape([self.batch_size, *self.load_size, 1])
            masks = mark_unknown(masks, labels, tf.gather(self._masked, indices))
        images, target, masks = augment(
            images, self.data.augment, size, self.seed, positions[0], target, masks
        )
        target = {"label": target}
        if masks is not None:
            target = {"label": untouched_is_authentic(target["label"], masks), "mask": masks}
        batch = tf.cast(images, tf.float32), target
        if self.data.balance != "weight":
            return batch
        counts = np.bincount(self.labels, minlength=self.classes)
        weights = self.count / (self.classes * np.maximum(counts, 1))
        weights = {"label": tf.gather(tf.constant(weights, tf.float32), labels)}
        if masks is not None:
            weights["mask"] = tf.ones(self.batch_size)
        return *batch, weights


def mark_unknown(masks: tf.Tensor, labels: tf.Tensor, masked: tf.Tensor) -> tf.Tensor:
    """Masks uint8 [B, H, W, 1] with 255, not known, for fakes without a mask.

    Those of class 0 are empty.

    Args:
        labels: int [B].
        masked: bool [B], whether there is a mask.
    """
    authentic, masked = (x[:, None, None, None] for x in (labels == 0, masked))
    return tf.where(authentic, tf.zeros_like(masks), tf.where(masked, masks, UNKNOWN))


def untouched_is_authentic(target: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
    """Class 0 for images whose known mask has no altered pixel; other targets as they are.

    Args:
        target: [B, 1 or C], or class numbers [B].
        masks: uint8 [B, H, W, 1].
    """
    untouched = tf.reduce_all(masks == 0, axis=[1, 2, 3])
    authentic = tf.zeros_like(target)
    if target.shape.rank == 2 and target.shape[1] > 1:
        authentic = tf.one_hot(tf.zeros_like(untouched, tf.int32), target.shape[1])
    if target.shape.rank == 2:
        untouched = untouched[:, None]
    return tf.where(untouched, authentic, target)


def augment(
    images: tf.Tensor,
    policy: tuple[Augmentation, ...],
    size: tuple[int, int],
    seed: int,
    position: tf.Tensor,
    targets: tf.Tensor | None = None,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Applies a policy's steps in order.

    Parameters are drawn from (seed, step's number, position of the batch in the
    stream) alone, so that they repeat whatever the number of workers. What moves an
    image moves its mask alike.

    Args:
        images: uint8 [B, h, w, 3].
        size: (height, width) of the result.
        position: int64 scalar, of the batch's first image.
        targets: float32 [B, 1 or C], which mixing steps need.
        masks: uint8 [B, h, w, 1], or none.

    Returns:
        Images uint8 [B, *size, 3], targets and masks.

    Raises:
        UserError: a step mixes what has masks and no mixed mask.
    """
    for number, step in enumerate(policy):
        function = registry.resolve("augmentation", registry.AUGMENTATIONS, step.name)
        known = inspect.signature(function).parameters
        params = dict(step.params)
        if "size" in known:
            params["size"] = size
        if "targets" in known:
            params["targets"] = targets
        if masks is not None and "targets" in known and "masks" not in known:
            raise UserError(f"The augmentation {step.name!r} has no meaning for masks.")
        if "masks" in known:
            params["masks"] = masks
        step_seed = tf.random.experimental.stateless_fold_in([seed, number], position)
        result = function(images, step_seed, **params)
        images, *rest = result if isinstance(result, tuple) else (result,)
        if "targets" in known:
            targets, *rest = rest
        if "masks" in known:
            (masks,) = rest
    images.set_shape([images.shape[0], *size, 3])
    return images, targets, masks


def check_policy(policy: tuple[Augmentation, ...]) -> None:
    """Checks the names and kinds of a policy's parameters.

    Raises:
        UserError: a step does not know a parameter, or takes another kind of value.
    """
    for step in policy:
        function = registry.resolve("augmentation", registry.AUGMENTATIONS, step.name)
        known = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in ("images", "seed", "size", "targets", "masks")
        }
        for name, value in step.params.items():
            if name not in known:
                raise unknown(f"parameter of the augmentation {step.name!r}", name, known)
            kind = "true or false" if isinstance(known[name], bool) else "a number"
            if isinstance(value, bool) != isinstance(known[name], bool) or isinstance(
                value, (str, list)
            ):
                raise UserError(
                    f"The augmentation {step.name!r} takes {kind} for {name!r}. Got {value!r}."
                )


def mixes(policy: tuple[Augmentation, ...]) -> bool:
    """Whether a step of the policy mixes targets."""
    functions = (
        registry.resolve("augmentation", registry.AUGMENTATIONS, step.name) for step in policy
    )
    return any("targets" in inspect.signature(f).parameters for f in functions)


def targets(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Labels as the loss wants them: float32 [B, 1] for two classes, int64 [B] for more."""
    if classes == 2:
        return tf.cast(labels, tf.float32)[:, None]
    return tf.cast(labels, tf.int64)


def training_data(
    catalogue: Catalogue,
    table: pa.Table,
    data: Data,
    classes: int,
    batch_size: int,
    seed: int,
    with_masks: bool = False,
) -> TrainingData:
    """The training stream over a table of the catalogue.

    Raises:
        UserError: masks are wanted and there are none, or images are fewer than one batch.
    """
    heights, widths = pc.unique(table["height"]), pc.unique(table["width"])
    one = len(heights) == len(widths) == 1
    native = (heights[0].as_py(), widths[0].as_py()) if one else None
    masks = {}
    if with_masks:
        masked = table["mask"].is_valid().to_numpy(zero_copy_only=False)
        if not masked.any() and not any(step.name == "forgery" for step in data.augment):
            raise UserError(
                f"{catalogue.name} has no masks in its train split, which model.mask_head needs. "
                "Name them in the spec, make forgeries with masks from photographs with "
                "python -m tfdetect.synthesize, or train without: --experiment small_images"
            )
        masks = {"masks": mask_source(catalogue, table), "masked": masked}
    return TrainingData(
        image_source(catalogue, table), table["label"].to_numpy(),
        data, classes, batch_size, seed, native,
        table["dataset"].to_numpy() if data.weights else None, **masks,
    )  # fmt: skip


def validation_data(
    catalogue: Catalogue,
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
    source = image_source(catalogue, table)
    masks = mask_source(catalogue, table) if with_masks else None
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
            target = {"label": untouched_is_authentic(target["label"], drawn), "mask": drawn}
        weight = full(tf.ones([batch_size - missing]))
        target = {name: full(x) for name, x in target.items()}
        return full(batch[0]), target, dict.fromkeys(target, weight)

    padded = images.map(pad, WORKERS)
    size = len(source) * data.image_size[0] * data.image_size[1] * (4 if with_masks else 3)
    if data.cache != "none" and size <= min(
        _MEMORY_LIMIT, _MEMORY_SHARE * psutil.virtual_memory().available
    ):
        padded = padded.cache()
    floats = padded.map(lambda x, y, w: (tf.cast(x, tf.float32), y, w), WORKERS)
    return _fixed(floats.prefetch(_AHEAD))


def untouched_images(
    catalogue: Catalogue, table: pa.Table, data: Data, batch_size: int, most: int = 50_000
) -> tf.data.Dataset:
    """Batches float32 [B, H, W, 3] of a table's images without augmentation, each once.

    Of more than `most` images, so many at equal distances in the table.
    """
    if table.num_rows > most:
        table = table.take(np.linspace(0, table.num_rows - 1, most).astype(np.int64))
    source = image_source(catalogue, table)
    images = image_dataset(source, data.image_size, data.resize, batch_size)
    return _fixed(images.map(lambda _, x: tf.cast(x, tf.float32), WORKERS).prefetch(_AHEAD))


def _fixed(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Switches tf.data's autotuning off.

    Its thread sleeps for up to a minute, and an iterator's end waits for it: after
    each validation, training stood still for as long.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
