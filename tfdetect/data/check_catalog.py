"""Check that a dataset can be used: enough readable images, and every class in train."""

from collections.abc import Mapping
from itertools import islice

from tfdetect.core.errors import UserError
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog, counts_text


def too_many_unusable(spec: DatasetSpec, bad: int, total: int) -> bool:
    """Return whether a dataset has more unusable images than its spec allows.

    One or two are allowed in any case, unless they are half of the dataset or more: they say
    nothing about a small one.

    Args:
        spec: the dataset.
        bad: number of unusable images.
        total: number of images, usable or not.
    """
    return bad > spec.max_unreadable_fraction * total and (bad > 2 or 2 * bad >= total)


def check_unusable(spec: DatasetSpec, where: str, unusable: Mapping[str, str], total: int) -> None:
    """Check that most images of a dataset can be used.

    Args:
        spec: the dataset.
        where: its folder, for the message.
        unusable: why images cannot be used, by their path.
        total: number of images, usable or not.

    Raises:
        UserError: there are `too_many_unusable`.
    """
    bad = len(unusable)
    if not too_many_unusable(spec, bad, total):
        return
    examples = "\n".join(f"  {path}: {why}" for path, why in islice(unusable.items(), 5))
    raise UserError(
        f"{bad:,} of {counted(total, 'image')} in {where} cannot be used. Allowed are "
        f"{spec.max_unreadable_fraction:.0%} (max_unreadable_fraction in the dataset spec), and "
        "one or two images in any case if more than half of all can be used:\n"
        f"{examples}\nRemove these files, or raise max_unreadable_fraction. 'tfdetect audit' lists "
        "all of them."
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
                f"{', '.join(map(str, catalog.roots.values()))}. There are: {counts_text(counts)}. "
                "Add images of each class: where no folder names a split, a few of each class may "
                "all fall into one."
            )
    first, *fakes = (counts["validation"][name] for name in spec.class_names)
    if monitor == "auc" and not (first and any(fakes)):
        raise UserError(
            "training.monitor=auc picks the best epoch by the validation AUC, which is not defined "
            f"here: the validation split of {spec.name!r} has no "
            f"{'fakes' if first else 'authentic images'}. Add some, or pick the epoch by the "
            "log-loss: --set training.monitor=loss"
        )
