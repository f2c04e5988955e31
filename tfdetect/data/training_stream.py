"""The training split as an endless stream of full batches that can start at any step."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfdetect.core.data_settings import Augmentation, Data, cuts_windows
from tfdetect.core.errors import UserError
from tfdetect.core.run_info import View
from tfdetect.core.training_settings import Curriculum
from tfdetect.data.augmentation import (
    augment,
    changes_each_image_alone,
    check_policy,
    mixes_targets,
)
from tfdetect.data.catalog import Catalog
from tfdetect.data.examples import Annotations, Examples, annotations_of, examples_of
from tfdetect.data.loading import (
    PREFETCH,
    WORKERS,
    ExampleLoader,
    fits_in_memory,
    load_images,
    without_autotuning,
)
from tfdetect.data.masks import check_masks
from tfdetect.data.sampling import Sampler, ShardPools
from tfdetect.data.sources import Files, Masks, Records, read_records
from tfdetect.data.strata import CONSTANT, Replay, strata_of
from tfdetect.data.targets import ANSWERS, empty_mask_is_authentic, mark_unknown, targets
from tfdetect.imaging.draws import Part, drawing_for
from tfdetect.imaging.graph import traced_as_written

_ENDLESS = np.iinfo(np.int64).max


def training_data(
    catalog: Catalog,
    table: pa.Table,
    data: Data,
    classes: int,
    batch_size: int,
    seed: int,
    with_masks: bool = False,
    curriculum: Curriculum = CONSTANT,
    replay: Replay | None = None,
    answers: np.ndarray | None = None,
) -> "TrainingStream":
    """Return the training stream over rows of a catalog.

    Args:
        catalog: the catalog that the table belongs to.
        table: rows of the catalog's table.
        data: the experiment's settings.
        classes: number of classes.
        batch_size: number of images in a batch.
        seed: integer that determines order and augmentation.
        with_masks: whether the detector predicts masks.
        curriculum: shares of datasets or generators over the steps.
        replay: old data among the images.
        answers: a teacher's answers of these rows, float32 [n, logits]; None without a teacher.

    Raises:
        UserError: Masks are wanted and there are none or it is not clear what they mean, the
            augmentation policy is not valid, or there are fewer images than one batch.
    """
    known = training_annotations(catalog, table, data, with_masks, curriculum, replay)
    known = replace(known, answers=answers)
    return stream_of(
        examples_of(catalog, table, known), data=data, classes=classes, batch_size=batch_size,
        seed=seed, curriculum=curriculum, replay=replay,
    )  # fmt: skip


def training_annotations(
    catalog: Catalog,
    table: pa.Table,
    data: Data,
    with_masks: bool,
    curriculum: Curriculum,
    replay: Replay | None,
) -> Annotations:
    """Return what a training needs to know of its images; see `training_data`.

    Raises:
        UserError: Masks are wanted and there are none or it is not clear what they mean.
    """
    known = annotations_of(
        table, with_masks=with_masks,
        with_datasets=bool(data.dataset_weights or replay or curriculum.by == "dataset"),
        with_generators=data.balance == "domain" or curriculum.by == "generator",
    )  # fmt: skip
    makes_masks = any(step.name == "forgery" for step in data.augment)
    if with_masks:
        check_masks(catalog.masks, "Or train without masks: an experiment without model.mask_head.")
    if known.has_mask is not None and not known.has_mask.any() and not makes_masks:
        raise UserError(
            f"{catalog.name} has no masks in its train split, which model.mask_head needs. "
            "Name them in the dataset spec, make forgeries with masks from photographs with "
            "python -m tfdetect.synthesize, or train without masks: --experiment small_images"
        )
    return known


def without_known_masks(catalog: Catalog, with_masks: bool) -> str:
    """Return where the masks of a training come from that has no known ones; "" where it has.

    Args:
        catalog: the data, checked by `training_annotations`.
        with_masks: whether the detector predicts masks.
    """
    if not with_masks or pc.any(catalog.split("train")["mask"].is_valid()).as_py():
        return ""
    return "No training image has a known mask: the augmentation 'forgery' makes all of them."


def check_count(images: int, batch_size: int) -> None:
    """Check that there are images for a batch."""
    if images < batch_size:
        raise UserError(
            f"The train split has {images} readable images, fewer than one batch of "
            f"{batch_size}. Use smaller batches: "
            f"--set training.batch_size={max(1, images // 2)}"
        )


def stream_of(
    examples: Examples,
    *,
    data: Data,
    classes: int,
    batch_size: int,
    seed: int,
    curriculum: Curriculum = CONSTANT,
    replay: Replay | None = None,
) -> "TrainingStream":
    """Compose the training stream of its parts: source, sampler, loader and finisher.

    Images are decoded into memory first if `data.cache` says so.

    Args:
        examples: the images and what is known of them.
        data: the experiment's settings.
        classes: number of classes.
        batch_size: number of images in a batch.
        seed: integer that determines order and augmentation.
        curriculum: shares of datasets or generators over the steps.
        replay: old data among the images.

    Raises:
        UserError: The augmentation policy is not valid, there are fewer images than one batch, or
            the curriculum names what is not among the images.
    """
    policy = check_policy(data.augment, data.image_size, examples.masks is not None, classes)
    view = View.of(data).model_copy(update={"size": _load_size(examples, data)})
    decoded, unreadable = None, dict[str, str]()
    if _is_cached(examples, data, view):
        examples, decoded, unreadable = _into_memory(examples, view)
    check_count(len(examples), batch_size)
    strata = strata_of(examples, data, classes, curriculum, replay)
    return TrainingStream(
        examples=examples,
        sampler=Sampler.of(strata, batch_size=batch_size, seed=seed),
        count=strata.images_per_pass,
        load=ExampleLoader(view=view, seed=seed, max_pixels=examples.images.max_pixels),
        finish=BatchFinisher.of(
            examples, policy=policy, size=data.image_size, classes=classes, seed=seed,
            weigh_classes=data.balance == "weight",
        ),
        decoded=decoded,
        unreadable=unreadable,
        divisible=changes_each_image_alone(data.augment),
    )  # fmt: skip


def _load_size(examples: Examples, data: Data) -> tuple[int, int]:
    """Return the size at which images are loaded: their own if the first step enlarges them."""
    own, wanted = examples.common_size, data.image_size
    if own is None:
        return wanted
    enlarges = (
        bool(data.augment) and data.augment[0].name in ("warp", "crop")
        and data.resize == "stretch"
        and all(side <= target for side, target in zip(own, wanted))
    )  # fmt: skip
    return own if enlarges else wanted


def _is_cached(examples: Examples, data: Data, view: View) -> bool:
    """Return whether the decoded images are held in memory."""
    if data.equalize is not None:
        return False  # each pass crops and encodes anew
    if cuts_windows(data.resize) and examples.common_size != data.image_size:
        return False  # each pass cuts other windows
    if data.cache != "auto":
        return data.cache == "memory"
    return fits_in_memory(len(examples), view.size, examples.channels)


def _into_memory(
    examples: Examples, view: View
) -> tuple[Examples, tuple[tf.Tensor, ...], dict[str, str]]:
    """Decode all images, and their masks.

    Returns:
        The examples that can be read; their images and masks, see `TrainingStream`; the names of
        the others, each with the reason.
    """
    kept, images, masks = load_images(examples.images, view, examples.masks)
    missing = np.setdiff1d(np.arange(len(examples)), kept)
    decoded = tuple(tf.constant(x) for x in (images, masks) if x is not None)
    return examples.take(kept), decoded, examples.find_unreadable(missing)


@dataclass(frozen=True, kw_only=True)
class BatchFinisher:
    """Turns loaded images into a training batch: labels, masks, augmentation, weights.

    Attributes:
        policy: the augmentation steps.
        size: (height, width) of the images in a batch, in pixels.
        classes: number of classes.
        seed: integer that determines the augmentation.
        labels: int32 [n], the class of each image of the split.
        has_mask: bool [n], which of them have a mask; None without masks.
        class_weights: float32 [classes], loss weight of each class; None for equal weights.
        answers: float32 [n, logits], a teacher's answers of each image; None without a teacher.
    """

    policy: tuple[Augmentation, ...]
    size: tuple[int, int]
    classes: int
    seed: int
    labels: tf.Tensor
    has_mask: tf.Tensor | None = None
    class_weights: tf.Tensor | None = None
    answers: tf.Tensor | None = None

    @classmethod
    def of(
        cls,
        examples: Examples,
        *,
        policy: tuple[Augmentation, ...],
        size: tuple[int, int],
        classes: int,
        seed: int,
        weigh_classes: bool,
    ) -> "BatchFinisher":
        """Build the finisher; `weigh_classes` makes all classes count alike in the loss."""
        weights = None
        if weigh_classes:
            counts = np.bincount(examples.labels, minlength=classes)
            weights = len(examples) / (classes * np.maximum(counts, 1))
            weights = tf.constant(weights, tf.float32)
        has_mask = None if examples.has_mask is None else tf.constant(examples.has_mask)
        answers = None if examples.answers is None else tf.constant(examples.answers)
        return cls(
            policy=policy, size=size, classes=classes, seed=seed,
            labels=tf.constant(examples.labels), has_mask=has_mask, class_weights=weights,
            answers=answers,
        )  # fmt: skip

    def __call__(
        self,
        positions: tf.Tensor,
        indices: tf.Tensor,
        images: tf.Tensor,
        masks: tf.Tensor | None = None,
        part: Part | None = None,
    ) -> tuple:
        """Finish a batch, or a part of one.

        Args:
            positions: int64 [B], positions in the stream, ascending.
            indices: int64 [B], which images of the split these are.
            images: uint8 [B, h, w, 3].
            masks: uint8 [B, h, w, 1], 1 where altered; None without masks.
            part: which part of its batch this is; None for all of it.

        Returns:
            Images, targets and, with class weights, weights; see `TrainingStream.batches`.
        """
        labels = tf.gather(self.labels, indices)
        target = targets(labels, self.classes)
        if self.classes > 2 and mixes_targets(self.policy):
            target = tf.one_hot(labels, self.classes)
        if masks is not None:
            masks = mark_unknown(masks, labels, tf.gather(self.has_mask, indices))
        first = positions[0] if part is None else positions[0] - part.start
        with drawing_for(part):
            images, target, masks = augment(
                images, self.policy, self.size, self.seed, first, target, masks
            )
        target = {"label": target}
        if masks is not None:
            target = {"label": empty_mask_is_authentic(target["label"], masks), "mask": masks}
        if self.answers is not None:
            target[ANSWERS] = tf.gather(self.answers, indices)
        batch = tf.cast(images, tf.float32), target
        if self.class_weights is None:
            return batch
        weights = {"label": tf.gather(self.class_weights, labels)}
        if masks is not None:
            weights["mask"] = tf.ones(images.shape[0])
        if self.answers is not None:
            weights[ANSWERS] = tf.ones(images.shape[0])
        return *batch, weights


class TrainingStream:
    """An endless stream of full training batches.

    Which images a batch holds and how they are augmented depend on the seed and the batch's
    number alone. An image that cannot be read is left out, and the next one takes its place.

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

        loaded = self._order(start_step, part).unbatch().map(load, WORKERS).ignore_errors()
        size = self.batch_size if part is None else part.size
        return loaded.batch(size, drop_remainder=True).map(count).map(finish, WORKERS)

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
            return self._load(position, data, *map(Masks.decode, mask))

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
        """Count the images that are missing between the positions of a batch; return these."""
        size = self.batch_size if part is None else part.size
        numbers = positions
        if part is not None:  # among the positions of this part
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
    """Return the function that takes a part of a batch."""
    if part is None:
        return lambda batch: batch
    return lambda batch: batch[part.start : part.start + part.size]
