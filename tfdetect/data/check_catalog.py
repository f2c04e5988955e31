"""Check that a dataset can be used: enough readable images, and every class in train."""

from collections.abc import Mapping
from itertools import islice

from tfdetect.core.errors import UserError
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog, counts_text


def check_unusable(spec: DatasetSpec, where: str, unusable: Mapping[str, str], total: int) -> None:
    """Check that most images of a dataset can be used.

    Args:
        spec: the dataset.
        where: its folder, for the message.
        unusable: why images cannot be used, by their path.
        total: number of images, usable or not.

    Raises:
        UserError: More than the spec's max_unreadable_fraction, and more than two images or at
            least half of them.
    """
    bad = len(unusable)
    # One or two bad files say nothing about a small dataset, unless they are half of it or more.
    if bad <= spec.max_unreadable_fraction * total or (bad <= 2 and 2 * bad < total):
        return
    examples = "\n".join(f"  {path}: {why}" for path, why in islice(unusable.items(), 5))
    raise UserError(
        f"{bad:,} of {counted(total, 'image')} in {where} cannot be used, more than the allowed "
        f"fraction of {spec.max_unreadable_fraction:.0%} (max_unreadable_fraction in the dataset "
        "spec; besides, one of at least three images and two of at least five are allowed):\n"
        f"{examples}"
    )


def check_trainable(spec: DatasetSpec, catalog: Catalog, monitor: str = "") -> None:
    """Check that a dataset has every class in train, and a validation split.

    Args:
        spec, catalog: the dataset.
        monitor: the metric that picks the best epoch (`training.monitor`); "auc" needs authentic
            images and fakes in validation. By default it is not checked.

    Raises:
        UserError: It does not.
    """
    counts = catalog.counts(spec.class_names)
    for split in ("train", "validation"):
        empty = [n for n in spec.class_names if not counts.get(split, {}).get(n)]
        if empty == list(spec.class_names) or (empty and split == "train"):
            raise UserError(
                f"The {split} split of {spec.name!r} has no image of class "
                f"{', '.join(map(repr, empty))} in "
                f"{', '.join(map(str, catalog.roots.values()))}. There are: {counts_text(counts)}."
            )
    first, *fakes = (counts["validation"][name] for name in spec.class_names)
    if monitor == "auc" and not (first and any(fakes)):
        raise UserError(
            "training.monitor=auc picks the best epoch by the validation AUC, which is not defined "
            f"here: the validation split of {spec.name!r} has no "
            f"{'fakes' if first else 'authentic images'}. Add some, or pick the epoch by the "
            "log-loss: --set training.monitor=loss"
        )
