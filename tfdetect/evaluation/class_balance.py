"""Put the balanced accuracy before the accuracy where classes have different numbers of images."""

from collections.abc import Iterable, Sequence

MAX_IMBALANCE = 1.25  # of the classes' numbers, up to which accuracy comes first


def unequal(authentic: int, fakes: int) -> bool:
    """Return whether accuracy rewards calling everything the class with more images."""
    few, many = sorted((authentic, fakes))
    return many > MAX_IMBALANCE * few


def unequal_classes(confusion: Sequence[Sequence[int]]) -> bool:
    """Return whether authentic images and fakes are `unequal`.

    Args:
        confusion: number of images, [true class][verdict]; empty if they are not known.
    """
    authentic, *fakes = [sum(row) for row in confusion] or [0]
    return unequal(authentic, sum(fakes))


def in_order(names: Iterable[str], balanced_first: bool) -> list[str]:
    """Return names of metrics in the order in which they are shown.

    Args:
        names: keys of `metrics.NAMES`.
        balanced_first: whether the classes are `unequal`; then balanced accuracy, if it is among
            the names, becomes the first.
    """
    return sorted(names, key=lambda name: balanced_first and name != "balanced_accuracy")
