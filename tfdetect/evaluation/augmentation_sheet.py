"""Draw the effect of an augmentation policy on some images."""

from typing import TYPE_CHECKING

from tfdetect.core.errors import UserError
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan

if TYPE_CHECKING:
    from PIL import Image


def draw_augmentation(plan: Plan, catalog: Catalog, count: int, variants: int) -> "Image.Image":
    """Return a sheet of training images: each as loaded, then as the policy changes it.

    Args:
        plan: the experiment and its data.
        catalog: the dataset.
        count: number of images, the rows of the sheet.
        variants: number of augmented versions in each row.

    Returns:
        The sheet. Masks are shown in red where the dataset has any.

    Raises:
        UserError: none of the images can be read, or an augmentation refuses them.
    """
    import numpy as np
    import tensorflow as tf

    from tfdetect.core.run_info import View
    from tfdetect.data.augmentation import augment, check_policy
    from tfdetect.data.loading import load_images
    from tfdetect.data.sources import image_source, mask_source
    from tfdetect.evaluation.figures import contact_sheet

    data, table = plan.experiment.data, catalog.split("train")
    with_masks, classes = plan.experiment.model.mask_head is not None, len(plan.spec.class_names)
    policy = check_policy(data.augment, data.image_size, with_masks, classes)
    chosen = np.random.default_rng(plan.experiment.seed).permutation(table.num_rows)[:count]
    table = table.take(np.sort(chosen))
    source = mask_source(catalog, table) if table["mask"].null_count < len(table) else None
    kept, images, masks = load_images(image_source(catalog, table), View.of(data), source)
    if not len(kept):
        raise UserError(f"{catalog.name}: of {counted(len(table), 'image')} none can be read.")
    if masks is not None:
        masks = tf.constant(masks)
    targets = tf.one_hot(table["label"].to_numpy()[kept], classes)
    columns = [(images, masks)]
    for number in range(variants):
        position = tf.constant(number * len(kept), tf.int64)
        changed, _, changed_masks = augment(
            tf.constant(images), policy, data.image_size, plan.experiment.seed, position,
            targets, masks,
        )  # fmt: skip
        columns.append((changed.numpy(), changed_masks))
    sheet_masks = None
    if masks is not None:
        sheet_masks = np.stack([np.asarray(m) for _, m in columns], axis=1)
    return contact_sheet(np.stack([i for i, _ in columns], axis=1), sheet_masks)
