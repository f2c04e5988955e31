"""Draws what an augmentation policy does to some images."""

from tfdetect.core.errors import UserError
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan


def draw_augmentation(plan: Plan, catalog: Catalog, count: int, variants: int):
    """A sheet of training images: each as loaded, then as the policy changes it.

    Args:
        count: number of images, rows of the sheet.
        variants: number of changed pictures in each row.

    Returns:
        A PIL image. Masks are drawn in red where the dataset has any.

    Raises:
        UserError: none of the images can be read, or a step refuses.
    """
    import numpy as np
    import tensorflow as tf

    from tfdetect.data.augmentation import augment, check_policy
    from tfdetect.data.loading import load_images
    from tfdetect.data.sources import image_source, mask_source
    from tfdetect.evaluation.figures import contact_sheet

    data, table = plan.experiment.data, catalog.split("train")
    check_policy(data.augment, with_masks=plan.experiment.model.mask_head is not None)
    picked = np.random.default_rng(plan.experiment.seed).permutation(table.num_rows)[:count]
    table = table.take(np.sort(picked))
    drawn = mask_source(catalog, table) if table["mask"].null_count < len(table) else None
    kept, images, masks = load_images(
        image_source(catalog, table), data.image_size, data.resize, drawn
    )
    if not len(kept):
        raise UserError(f"None of {len(table)} images of {catalog.name} can be read.")
    if masks is not None:
        masks = tf.constant(masks)
    targets = tf.one_hot(table["label"].to_numpy()[kept], len(plan.spec.class_names))
    columns = [(images, masks)]
    for number in range(variants):
        position = tf.constant(number * len(kept), tf.int64)
        changed, _, moved = augment(
            tf.constant(images), data.augment, data.image_size, plan.experiment.seed, position,
            targets, masks,
        )  # fmt: skip
        columns.append((changed.numpy(), moved))
    drawn = None if masks is None else np.stack([m for _, m in columns], axis=1)
    return contact_sheet(np.stack([i for i, _ in columns], axis=1), drawn)
