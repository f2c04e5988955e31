"""`TrainingStream`: an endless stream of full training batches that can start at any step."""

import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfdetect.data.examples import Examples
from tfdetect.data.loading import (
    PREFETCH,
    WORKERS,
    ExampleLoader,
    load_batches,
    without_autotuning,
)
from tfdetect.data.sampling import Sampler, ShardPools
from tfdetect.data.sources import Files, Masks, Records, read_records
from tfdetect.imaging.draws import Part
from tfdetect.imaging.graph import traced_as_written

_ENDLESS = np.iinfo(np.int64).max


class TrainingStream:
    """An endless stream of full training batches.

    Which images a batch contains and how they are augmented depend only on the seed and the number
    of the batch. An image that cannot be read is left out, and the next one takes its place.

    Attributes:
        examples: the images and what is known of them.
        sampler: says which image is at which position.
        count: number of images in one pass: all of them or, with replay, so many that the new ones
            are drawn once.
        unreadable: names of images that were found unreadable while caching, and why.
    """

    def __init__(
        self,
        *,
        examples: Examples,
        sampler: Sampler,
        load: ExampleLoader,
        finish: Callable[..., tuple],
        count: int,
        decoded: tuple[tf.Tensor, ...] | None = None,
        unreadable: dict[str, str] | None = None,
        divisible: bool = False,
    ):
        """Compose a stream.

        Args:
            examples: the images and what is known of them.
            sampler: says which image is at which position.
            load: decodes one image and its mask.
            finish: makes a batch of loaded images.
            count: number of images in one pass.
            decoded: images uint8 [n, h, w, 3] and masks uint8 [n, h, w, 1] that are held in
                memory; None to read them for each batch.
            unreadable: names of images that are not among the examples, and why.
            divisible: whether `finish` can finish a part of a batch alone.
        """
        self.examples = examples
        self.sampler = sampler
        self.count = count
        self.unreadable = unreadable or {}
        self._load = load
        self._finish = finish
        self._decoded = decoded
        self._divisible = divisible
        with tf.device("CPU:0"):  # where tf.data runs
            self._skipped = tf.Variable(0, dtype=tf.int64, trainable=False)

    @property
    def batch_size(self) -> int:
        """Number of images in a batch."""
        return self.sampler.batch_size

    @property
    def load_size(self) -> tuple[int, int]:
        """(height, width) in pixels at which images are loaded."""
        return self._load.view.size

    @property
    def skipped_count(self) -> int:
        """Number of times that an image could not be read while streaming."""
        return int(self._skipped.numpy())

    def batches(self, start_step: int = 0, part: Part | None = None) -> tf.data.Dataset:
        """Return the batches from a step on.

        Args:
            start_step: number of batches that were taken before.
            part: the part of each batch that is wanted; None for all of it. The parts of a batch
                make up the whole one exactly, unless one of its images cannot be read.

        Returns:
            Batches (image float32 [B, H, W, 3] in 0..255, {"label": target}). With masks,
            targets also have a "mask", uint8 [B, H, W, 1]: 1 altered, 0 unaltered, 255 not
            known. A fake whose altered pixels were all cut off counts as authentic. With a
            teacher's answers they have "distill", float32 [B, logits]. With
            `data.balance: weight` a third part follows: weights float32 [B] for each target.
        """
        loaded = part if self._divisible else None
        if self._decoded is not None:
            batches = self._from_memory(start_step, self._decoded, loaded)
        elif isinstance(self.examples.images, Records):
            batches = self._from_shards(start_step, self.examples.images, loaded)
        else:
            batches = self._from_files(start_step, self.examples.images, loaded)
        if part is not loaded:  # an augmentation needed the whole batch
            batches = batches.map(
                traced_as_written(lambda *batch: tf.nest.map_structure(_own(part), batch))
            )
        return without_autotuning(batches.prefetch(PREFETCH))

    def _order(self, start_step: int, part: Part | None) -> tf.data.Dataset:
        """Return batches of (positions int64 [B], indices of images int64 [B])."""
        positions = tf.data.Dataset.range(start_step * self.batch_size, _ENDLESS)
        positions = positions.batch(self.batch_size, drop_remainder=True)
        own = _own(part)
        return positions.map(
            traced_as_written(lambda batch: (own(batch), own(self.sampler.indices(batch))))
        )

    def _from_memory(
        self, start_step: int, decoded: tuple[tf.Tensor, ...], part: Part | None
    ) -> tf.data.Dataset:
        @traced_as_written
        def gather(positions: tf.Tensor, indices: tf.Tensor) -> tuple:
            images = [tf.gather(each, indices) for each in decoded]
            return self._finish_batch(part, positions, indices, *images)

        return self._order(start_step, part).map(gather, WORKERS)

    def _from_files(self, start_step: int, images: Files, part: Part | None) -> tf.data.Dataset:
        masks = self.examples.masks

        @traced_as_written
        def load(position: tf.Tensor, index: tf.Tensor) -> tuple:
            item = images.path(index)
            mask = () if masks is None else (masks.load(index, item),)
            return position, index, *self._load(position, images.load(item), *mask)

        @traced_as_written
        def count(positions: tf.Tensor, *rest: tf.Tensor) -> tuple:
            return self._count_skipped(part, positions), *rest

        @traced_as_written
        def finish(*batch: tf.Tensor) -> tuple:
            return self._finish_batch(part, *batch)

        size = self.batch_size if part is None else part.size
        batches = load_batches(self._order(start_step, part), load, self.load_size, size)
        return batches.map(count).map(finish, WORKERS)

    def _from_shards(self, start_step: int, records: Records, part: Part | None) -> tf.data.Dataset:
        """Return batches from shards, which are read whole, several at a time.

        Images are drawn from these several shards; the next pool follows when all were taken.
        """
        batch_size = self.batch_size
        masks = self.examples.masks
        sources = [records] if masks is None else [records, masks.source]
        pools = ShardPools.of(
            lengths=records.lengths, largest_bytes=max(map(os.path.getsize, records.shards)),
            seed=self.sampler.seed,
        )  # fmt: skip
        first, skip = pools.find(start_step * batch_size)
        names, sizes = tf.constant(records.shards), tf.constant(records.lengths)
        starts = tf.cumsum(sizes, exclusive=True)
        image_specs = tuple(
            tf.TensorSpec([*self.load_size, channels], tf.uint8)
            for channels, _ in zip((3, 1), sources)
        )

        @traced_as_written
        def read_pool(pool: tf.Tensor) -> tuple:
            shards = pools.shards_in(pool)
            begin, size = tf.gather(starts, shards), tf.gather(sizes, shards)
            rows = tf.ragged.range(begin, begin + size).flat_values
            images_before = pool * int(records.lengths.sum()) // pools.pools_per_pass
            order = self.sampler.pool_order(rows, pool, images_before // batch_size)
            order = order[tf.where(pool == first, tf.constant(skip, tf.int64), 0) :]
            return read_records(tf.gather(names, shards)), rows, order

        @traced_as_written
        def split_pool(pool: tf.Tensor, rows: tf.Tensor, order: tf.Tensor) -> tf.data.Dataset:
            parts = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
            return parts.map(
                traced_as_written(lambda part: (tf.gather(rows, part), tf.gather(pool, part)))
            )

        def load_one(one: tuple) -> tuple:
            position, data, *mask = one
            decoded = (Masks.decode(each, records.max_pixels) for each in mask)
            return self._load(position, data, *decoded)

        @traced_as_written
        def load(step: tf.Tensor, batch: tuple) -> tuple:
            own = _own(part)
            indices, items = map(own, batch)
            positions = own(step * batch_size + tf.range(batch_size, dtype=tf.int64))
            images = tf.map_fn(
                load_one, (positions, *(s.load(items) for s in sources)),
                fn_output_signature=image_specs,
            )  # fmt: skip
            return self._finish_batch(part, positions, indices, *images)

        parts = tf.data.Dataset.range(first, _ENDLESS).map(read_pool).prefetch(1)
        parts = parts.flat_map(split_pool).rebatch(batch_size, drop_remainder=True)
        return parts.enumerate(start_step).map(load, WORKERS)

    def _count_skipped(self, part: Part | None, positions: tf.Tensor) -> tf.Tensor:
        """Count the images that were skipped within a batch, and return its positions unchanged."""
        size = self.batch_size if part is None else part.size
        numbers = positions
        if part is not None:  # numbered within this part of each batch
            batch, slot = positions // self.batch_size, positions % self.batch_size
            numbers = batch * size + slot - part.start
        gaps = numbers[-1] - numbers[0] + 1 - size
        with tf.control_dependencies([self._skipped.assign_add(gaps)]):
            return tf.identity(positions)

    def _finish_batch(
        self, part: Part | None, positions: tf.Tensor, indices: tf.Tensor, *images: tf.Tensor
    ) -> tuple:
        size = self.batch_size if part is None else part.size
        for each, channels in zip(images, (3, 1)):
            each.set_shape([size, *self.load_size, channels])
        if part is None:
            return self._finish(positions, indices, *images)
        return self._finish(positions, indices, *images, part=part)


def _own(part: Part | None) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function that cuts this part out of a tensor of a whole batch."""
    if part is None:
        return lambda batch: batch
    return lambda batch: batch[part.start : part.start + part.size]
