"""Prepare the training stream: check the data, and compose the stream of its parts."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfdetect.core.data_settings import Data, cuts_windows
from tfdetect.core.errors import UserError
from tfdetect.core.run_info import View
from tfdetect.core.training_settings import Curriculum
from tfdetect.data.augmentation import changes_each_image_alone, check_policy, try_policy
from tfdetect.data.batch_finisher import BatchFinisher
from tfdetect.data.catalog import Catalog
from tfdetect.data.examples import Annotations, Examples, annotations_of, examples_of
from tfdetect.data.loading import ExampleLoader, fits_in_memory, load_images
from tfdetect.data.masks import check_masks
from tfdetect.data.sampling import Sampler
from tfdetect.data.strata import NO_CURRICULUM, Replay, strata_of
from tfdetect.data.training_stream import TrainingStream


def training_data(
    catalog: Catalog,
    table: pa.Table,
    data: Data,
    classes: int,
    batch_size: int,
    seed: int,
    with_masks: bool = False,
    curriculum: Curriculum = NO_CURRICULUM,
    replay: Replay | None = None,
    answers: np.ndarray | None = None,
) -> TrainingStream:
    """Return the training stream over rows of a catalog.

    Args:
        catalog: the catalog that the table belongs to.
        table: rows of the catalog's table.
        data: the experiment's settings.
        classes: number of classes.
        batch_size: number of images in a batch.
        seed: integer that determines order and augmentation.
        with_masks: whether the detector predicts masks.
        curriculum: fractions of datasets or generators over the steps.
        replay: which of the images are old data, and how often they are drawn.
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
    """Return the annotations that a training needs of its images; see `training_data`.

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


def no_masks_notice(catalog: Catalog, with_masks: bool) -> str:
    """Return a notice if no training image has a known mask, else "".

    Args:
        catalog: the data, which `training_annotations` has checked.
        with_masks: whether the detector predicts masks.
    """
    if not with_masks or pc.any(catalog.split("train")["mask"].is_valid()).as_py():
        return ""
    return "No training image has a known mask: the augmentation 'forgery' makes all of them."


def check_count(images: int, batch_size: int) -> None:
    """Check that there are images for at least one batch.

    Raises:
        UserError: there are fewer.
    """
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
    curriculum: Curriculum = NO_CURRICULUM,
    replay: Replay | None = None,
) -> TrainingStream:
    """Compose a training stream of examples, sampler, loader and finisher.

    If `data.cache` asks for it, all images are decoded into memory first.

    Args:
        examples: the images and what is known of them.
        data: the experiment's settings.
        classes: number of classes.
        batch_size: number of images in a batch.
        seed: integer that determines order and augmentation.
        curriculum: fractions of datasets or generators over the steps.
        replay: which of the images are old data, and how often they are drawn.

    Raises:
        UserError: The augmentation policy is not valid, there are fewer images than one batch, or
            the curriculum names what is not among the images.
    """
    policy = check_policy(data.augment, data.image_size, examples.masks is not None, classes)
    view = View.of(data).model_copy(update={"size": _load_size(examples, data)})
    try_policy(policy, view.size, data.image_size, batch_size, classes, examples.masks is not None)
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
    """Return the (height, width) at which images are loaded.

    It is `data.image_size`, or the images' own size if the first augmentation enlarges them anyway.
    """
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
        The examples that can be read; their images and masks (see `TrainingStream`); and why the
        others cannot be read, by their names.
    """
    kept, images, masks = load_images(examples.images, view, examples.masks)
    missing = np.setdiff1d(np.arange(len(examples)), kept)
    decoded = tuple(tf.constant(x) for x in (images, masks) if x is not None)
    return examples.take(kept), decoded, examples.find_unreadable(missing)
