"""Strata of images: how often each class, dataset or generator is drawn over a training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfdetect.core.data_settings import Data
from tfdetect.core.errors import unknown
from tfdetect.core.training_settings import Curriculum
from tfdetect.data.examples import Annotations

NO_CURRICULUM = Curriculum()  # the same fractions all the time


@dataclass(frozen=True)
class Strata:
    """Groups of images, each of which gives a fraction of every batch.

    Attributes:
        of_images: int32 [n], the stratum of each image.
        weights: float64 [s] or, at each of p points, [p, s]: the weight of each stratum.
        images_per_pass: all of them or, with replay, so many that the new ones are drawn once.
        points: the batches at which the weights are given; they change linearly in between.
    """

    of_images: np.ndarray
    weights: np.ndarray
    images_per_pass: int
    points: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Replay:
    """Old training data that are drawn among the new ones.

    Attributes:
        datasets: names of the old datasets.
        fraction: the fraction of each batch that is drawn from them, above 0 and below 1.
    """

    datasets: frozenset[str]
    fraction: float


def strata_of(
    images: Annotations,
    data: Data,
    classes: int,
    curriculum: Curriculum,
    replay: Replay | None,
) -> Strata:
    """Group the images of a training by how often they are drawn.

    Args:
        images: what is known of them; with their datasets for `data.dataset_weights`, replay and a
            curriculum of datasets, with their generators for a curriculum of generators.
        data: the experiment's settings.
        classes: number of classes.
        curriculum: shares of datasets or generators over the steps.
        replay: old data among the images; there is no curriculum with it.

    Raises:
        UserError: `data.dataset_weights` or the curriculum names what is not among the images.
    """
    strata, weights = _balanced(images, data, classes)

    def balance(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        some = images.take(rows)
        names = set() if some.datasets is None else set(some.datasets.tolist())
        own = {name: weight for name, weight in data.dataset_weights.items() if name in names}
        return _balanced(some, data.model_copy(update={"dataset_weights": own}), classes)

    if replay is not None:
        assert images.datasets is not None
        old = np.isin(images.datasets, sorted(replay.datasets))
        shares = {"old": replay.fraction, "new": 1 - replay.fraction}
        strata, weights = scheduled_strata(
            balance, np.where(old, "old", "new"), [shares], "part of the data"
        )
        return Strata(strata, weights, images_per_pass=round((~old).sum() / shares["new"]))
    if curriculum.by is not None:
        groups = images.datasets if curriculum.by == "dataset" else images.generators
        assert groups is not None
        strata, weights = scheduled_strata(
            balance, groups, curriculum.shares, f"{curriculum.by} in training.curriculum"
        )
        return Strata(strata, weights, len(images), curriculum.steps)
    return Strata(strata, weights, len(images))


def _balanced(images: Annotations, data: Data, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the stratum of each image and the weights of the strata, by `data.balance`."""
    return find_strata(
        images.labels, classes=classes, balance_classes=data.balance == "sample",
        datasets=images.datasets, dataset_weights=data.dataset_weights,
        domains=images.generators if data.balance == "domain" else None,
    )  # fmt: skip


def find_strata(
    labels: np.ndarray,
    *,
    classes: int,
    balance_classes: bool = False,
    datasets: np.ndarray | None = None,
    dataset_weights: Mapping[str, float] | None = None,
    domains: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Group images into strata, each of which gives a fixed fraction of every batch.

    Args:
        labels: int [n], the class of each image.
        classes: number of classes.
        balance_classes: whether all classes of a dataset get the same weight.
        datasets: str [n], the dataset of each image; needed with `dataset_weights`.
        dataset_weights: the weight of each dataset by its name; 1 for those not named. By
            default datasets count by their number of images.
        domains: str [n], the generator or source of each image. With them every class has the same
            weight, and a domain within it by the square root of its number of images.

    Returns:
        The stratum of each image, int32 [n], and the weight of each stratum, float64 [s].

    Raises:
        UserError: `dataset_weights` names a dataset that no image belongs to.
    """
    if domains is not None:
        codes = np.unique(domains, return_inverse=True)[1]
        pairs, own, sizes = np.unique(
            codes * classes + labels, return_inverse=True, return_counts=True
        )
        label = pairs % classes
        totals = np.bincount(label, np.sqrt(sizes))
        return own.astype(np.int32), np.sqrt(sizes) / totals[label]
    strata: np.ndarray = np.zeros(len(labels), np.int32)
    weights = np.ones(1)
    if dataset_weights:
        if datasets is None:
            raise ValueError("dataset_weights needs the dataset of each image")
        names, strata = np.unique(datasets, return_inverse=True)
        _check_dataset_names(dataset_weights, names.tolist())
        weights = np.array([dataset_weights.get(name, 1.0) for name in names])
    if balance_classes:
        pairs, codes = np.unique(strata * classes + labels, return_inverse=True)
        dataset = pairs // classes
        weights, strata = (weights / np.bincount(dataset))[dataset], codes
    return strata.astype(np.int32), weights


def _check_dataset_names(weights: Mapping[str, float], names: Sequence[str]) -> None:
    if extra := sorted(set(weights) - set(names)):
        raise unknown("dataset in data.dataset_weights", extra[0], names)


def scheduled_strata(
    base: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    groups: np.ndarray,
    shares: Sequence[Mapping[str, float]],
    what: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide strata by groups of images, whose shares of what is drawn are given.

    Args:
        base: returns strata and weights of some images, from their indices, as `find_strata` does.
        groups: str [n], the group of each image; "" for none. Images of no group are drawn as
            often as without shares.
        shares: at each of p points, the relative weight of each group by its name; 0 for the
            others.
        what: calls the groups in messages.

    Returns:
        The stratum of each image, int32 [n], and the weight of each stratum, float64 [p, s].

    Raises:
        UserError: `shares` names a group that no image belongs to.
    """
    names, codes = np.unique(groups.astype(str), return_inverse=True)
    for point in shares:
        if extra := sorted(set(point) - set(names.tolist())):
            raise unknown(what, extra[0], [name for name in names.tolist() if name])
    strata, weights = base(np.arange(len(groups)))
    of_each = (weights / np.bincount(strata, minlength=len(weights)))[strata] / weights.sum()
    without = float(of_each[codes == names.tolist().index("")].sum()) if "" in names else 0.0
    divided, columns = np.zeros(len(groups), np.int32), list[np.ndarray]()
    for number, name in enumerate(names.tolist()):
        rows = np.flatnonzero(codes == number)
        own, inner = base(rows)
        divided[rows] = own + sum(column.shape[1] for column in columns)
        outer = [
            (1 - without) * point.get(name, 0.0) / sum(point.values()) if name else without
            for point in shares
        ]
        columns.append(np.outer(outer, inner / inner.sum()))
    return divided, np.concatenate(columns, axis=1)
