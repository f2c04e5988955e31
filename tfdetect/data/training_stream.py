"""The training split as an endless stream of full batches, resumable at any step."""

import os
from dataclasses import dataclass, field

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfdetect.core.errors import UserError, unknown
from tfdetect.core.experiment import Data
from tfdetect.data.augmentation import augment, check_policy, mixes
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import (
    MEMORY_FRACTION,
    MEMORY_LIMIT,
    PREFETCH,
    WORKERS,
    load_images,
    load_pair,
    without_autotuning,
)
from tfdetect.data.sampling import Strata, shuffle
from tfdetect.data.sources import Files, Records, image_source, mask_source, read_records
from tfdetect.data.targets import empty_mask_is_authentic, mark_unknown, targets
from tfdetect.imaging.decode import decode
from tfdetect.imaging.geometry import fold, resize, window

_WINDOW = 2**31 - 1  # names the draw of a window's place, beside the numbers of the policy's steps


_POOL = 128 * 2**20  # bytes of shards that images are drawn from at a time


_SHARDS = 2**31 - 2  # names the draws of the shards' order


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
    datasets: np.ndarray | None = None  # str [n], each image's, where data.dataset_weights names them
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
        return size <= min(MEMORY_LIMIT, MEMORY_FRACTION * psutil.virtual_memory().available)

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
            return without_autotuning(self._from_shards(start_step).prefetch(PREFETCH))
        blocks = tf.data.Dataset.range(start_step * self.batch_size, np.iinfo(np.int64).max)
        blocks = blocks.batch(self.batch_size, drop_remainder=True).map(self._order)
        if self._images is not None:
            return without_autotuning(blocks.map(self._from_memory, WORKERS).prefetch(PREFETCH))

        def load(position: tf.Tensor, index: tf.Tensor) -> tuple:
            item = self.source.path(index)
            mask = () if self.masks is None else (self.masks.beside(index, item),)
            return position, index, *self._load(position, self.source.load(item), *mask)

        loaded = blocks.unbatch().map(load, WORKERS).ignore_errors()
        loaded = loaded.batch(self.batch_size, drop_remainder=True)
        return without_autotuning(
            loaded.map(self._count_lost).map(self._finish, WORKERS).prefetch(PREFETCH)
        )

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
        if self.data.dataset_weights:
            names, keys = np.unique(self.datasets, return_inverse=True)
            if extra := set(self.data.dataset_weights) - set(names):
                raise unknown("dataset in data.dataset_weights", sorted(extra)[0], names)
        shares = np.bincount(keys) / self.count
        if self.data.dataset_weights:
            shares = np.array([self.data.dataset_weights.get(n, 1.0) for n in names])
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
            target = {"label": empty_mask_is_authentic(target["label"], masks), "mask": masks}
        batch = tf.cast(images, tf.float32), target
        if self.data.balance != "weight":
            return batch
        counts = np.bincount(self.labels, minlength=self.classes)
        weights = self.count / (self.classes * np.maximum(counts, 1))
        weights = {"label": tf.gather(tf.constant(weights, tf.float32), labels)}
        if masks is not None:
            weights["mask"] = tf.ones(self.batch_size)
        return *batch, weights


def training_data(
    catalog: Catalog,
    table: pa.Table,
    data: Data,
    classes: int,
    batch_size: int,
    seed: int,
    with_masks: bool = False,
) -> TrainingData:
    """The training stream over a table of the catalog.

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
                f"{catalog.name} has no masks in its train split, which model.mask_head needs. "
                "Name them in the spec, make forgeries with masks from photographs with "
                "python -m tfdetect.synthesize, or train without: --experiment small_images"
            )
        masks = {"masks": mask_source(catalog, table), "masked": masked}
    return TrainingData(
        image_source(catalog, table), table["label"].to_numpy(),
        data, classes, batch_size, seed, native,
        table["dataset"].to_numpy() if data.dataset_weights else None, **masks,
    )  # fmt: skip
