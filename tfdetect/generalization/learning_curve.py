"""Learning curves: the test error over the number of training images, generators or contents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.data.catalog import Catalog
from tfdetect.data.check_catalog import check_trainable
from tfdetect.data.plan import Plan
from tfdetect.evaluation.intervals import bootstrap, complement, interval, may_be_chance, numbers
from tfdetect.evaluation.verdicts import is_fake
from tfdetect.generalization.domains import find_domains, restrict
from tfdetect.generalization.measure_matrix import test_scores
from tfdetect.generalization.study_remarks import curve_remarks
from tfdetect.generalization.study_results import CurvePart, CurvePoint, CurveResult, domain_word

IMAGES = "images"
DEFAULT_POINTS = 5  # of a curve, where there are so many
MIN_POINTS = 4  # of a curve, for a fit of three parameters
_EXPONENTS = np.geomspace(0.02, 3, 160)  # candidates of the power law's exponent


@dataclass(frozen=True)
class TrainingSubset:
    """Training data of one point of a curve.

    Attributes:
        size: number of images, or of domains.
        seed: the seed of the training, and of the order in which images or domains join.
        catalog: the catalog with all test images.
        domains: those in training; empty for all.
    """

    size: int
    seed: int
    catalog: Catalog
    domains: frozenset[str] = frozenset()

    @property
    def images(self) -> int:
        """Number of training images."""
        return self.catalog.split("train").num_rows


def make_subsets(
    plan: Plan,
    catalog: Catalog,
    by: str,
    points: int | None,
    seeds: Sequence[int],
    equal_images: bool,
) -> dict[str, TrainingSubset]:
    """Return nested subsets of the training data: each contains the smaller ones of its seed.

    Sizes are halved from all down to the smallest point. By images, validation is that of the
    whole dataset; by domains, training and validation have images of the chosen ones alone.

    Args:
        plan: the plan of the trainings.
        catalog: all images.
        by: "images", or what `find_domains` takes.
        points: number of sizes; by default 5, or as many as there are.
        seeds: the seeds of the trainings.
        equal_images: by domains, whether all subsets have as many training images as the smallest.

    Returns:
        The subsets by the names of their trainings, smallest first.

    Raises:
        UserError: there are too few images or domains for so many points.
    """
    domains = None if by == IMAGES else find_domains(catalog, by)
    total = catalog.split("train").num_rows if domains is None else len(domains.names)
    most = int(np.log2(total)) + 1 if total else 0
    points = min(DEFAULT_POINTS, max(2, most)) if points is None else points
    sizes = sorted({round(total / 2**k) for k in range(points)})
    if len(sizes) < points or sizes[0] < 1:
        raise UserError(
            f"{total:,} {'training images' if domains is None else f'{domain_word(by)}s'} give "
            f"{most} points, each half of the next; a curve of {points} is asked for."
        )
    found: dict[str, TrainingSubset] = {}
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(domains.names if domains else [])
        for size in sizes:
            name = f"{size} seed {seed}"
            if domains is None:
                found[name] = TrainingSubset(size, seed, _first_images(catalog, size, seed))
            else:
                chosen = frozenset(map(str, order[:size]))
                found[name] = TrainingSubset(size, seed, restrict(catalog, domains, chosen), chosen)
    if equal_images and domains is not None:
        fewest = min(subset.images for subset in found.values())
        for name, subset in found.items():
            part = _first_images(subset.catalog, fewest, subset.seed)
            found[name] = replace(subset, catalog=part)
    for subset in found.values():
        check_trainable(plan.spec, subset.catalog)
    return found


def _first_images(catalog: Catalog, count: int, seed: int) -> Catalog:
    """Return a catalog with some training images: of each class the first of a random order."""
    table = catalog.table
    train = np.array(table["split"].to_pylist()) == "train"
    labels, keep = table["label"].to_numpy(), ~train
    fraction = count / train.sum()
    for label in np.unique(labels):
        rows = np.flatnonzero(train & (labels == label))
        order = np.random.default_rng([seed, int(label)]).permutation(rows)
        keep[order[: round(fraction * len(rows))]] = True
    return replace(catalog, table=table.filter(pa.array(keep)))


def measure_curve(
    plan: Plan, subsets: dict[str, TrainingSubset], runs: dict[str, Run], catalog: Catalog, by: str
) -> CurveResult:
    """Measure the runs of a curve on the test split, and fit a power law.

    The error is the mean of the error rates of authentic images and of fakes, at the threshold of
    each run. Intervals resample the test images, the same for all runs.

    Args:
        plan: the plan of the trainings.
        subsets: the subsets from `make_subsets`.
        runs: the runs of the same names.
        catalog: all images.
        by: as for `make_subsets`.
    """
    scores = {name: test_scores(run, catalog)[0] for name, run in runs.items()}
    readable = np.isfinite(np.stack(list(scores.values()))).all(axis=0)
    fake = catalog.split("test")["label"].to_numpy()[readable] > 0
    wrong = np.stack([is_fake(scores[n][readable], runs[n].threshold) != fake for n in subsets])
    every = list(subsets.values())
    sizes = sorted({subset.size for subset in every})
    of_size = {size: [i for i, s in enumerate(every) if s.size == size] for size in sizes}
    parts: dict[CurvePart, np.ndarray] = {"error": np.ones(wrong.shape, bool)}
    if by != IMAGES:
        parts |= _seen_and_unseen(every, catalog, by, readable)

    def errors(weights: np.ndarray) -> dict[tuple[CurvePart, int], np.ndarray]:
        rates = {part: _error_rates(wrong, fake, rows, weights) for part, rows in parts.items()}
        return {
            (part, size): each[..., members].mean(axis=-1)
            for part, each in rates.items() for size, members in of_size.items()
        }  # fmt: skip

    def fit(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = errors(weights)
        curve = np.stack([found["error", size] for size in sizes], axis=-1)
        return fit_power_law(np.array(sizes, float), curve)

    measured = bootstrap(errors, len(fake))
    fitted = None
    if len(sizes) >= 3:
        fitted = bootstrap(fit, len(fake), bounded=False)
        for name, found in fitted.items():
            value, low, high = numbers(found)
            fitted[name] = interval(value, max(0.0, low), high)  # no parameter is negative
    each = (wrong[:, fake].mean(axis=1) + wrong[:, ~fake].mean(axis=1)) / 2
    points: list[CurvePoint] = []
    for size, members in of_size.items():
        points.append({
            "size": size,
            "images": [every[i].images for i in members],
            "seeds": [float(each[i]) for i in members],
            "error": measured["error", size],
            "may_be_chance": may_be_chance(complement(measured["error", size])),
        })  # fmt: skip
        if by != IMAGES:
            points[-1]["seen"] = measured["seen", size]
            points[-1]["unseen"] = measured["unseen", size]
    return {
        "experiment": plan.experiment.name, "dataset": plan.spec.name, "by": by,
        "count": len(fake), "points": points, "fit": fitted,
        "remarks": curve_remarks(points, fitted is not None),
    }  # fmt: skip


def _seen_and_unseen(
    subsets: Sequence[TrainingSubset], catalog: Catalog, by: str, readable: np.ndarray
) -> dict[CurvePart, np.ndarray]:
    """Return which test images are of a domain in training and which of others.

    Args:
        subsets: the subsets of training images, k of them.
        catalog: all images.
        by: what domains are.
        readable: bool [test images], of n of them predictions are known.

    Returns:
        "seen" and "unseen", bool [k, n] each; images that belong to every domain are in both.
    """
    domains = find_domains(catalog, by)
    test = np.array(catalog.table["split"].to_pylist()) == "test"
    seen = np.stack([domains.rows(subset.domains)[test][readable] for subset in subsets])
    shared = domains.rows(frozenset())[test][readable]
    some_unseen = np.array([len(s.domains) < len(domains.names) for s in subsets])
    return {"seen": seen, "unseen": (~seen | shared) & some_unseen[:, None]}


def _error_rates(
    wrong: np.ndarray, fake: np.ndarray, rows: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the mean of the error rates of authentic images and of fakes, float [..., k].

    Args:
        wrong: bool [k, n], whether each run's verdict on an image is wrong.
        fake: bool [n].
        rows: bool [k, n], which images count.
        weights: float [..., n].
    """
    with np.errstate(invalid="ignore"):
        rates = [
            weights @ (wrong & rows & kind).T / (weights @ (rows & kind).T)
            for kind in (fake, ~fake)
        ]
    return (rates[0] + rates[1]) / 2


def fit_power_law(sizes: np.ndarray, errors: np.ndarray) -> dict[str, np.ndarray]:
    """Fit error = scale * size**-exponent + floor by least squares, all three not negative.

    For a given exponent the other two follow from linear regression, so the exponents of a grid
    are tried and no start value is needed. With three points, the floor is 0.

    Args:
        sizes: float [p].
        errors: float [..., p].

    Returns:
        Values [...]: scale (the part of the error at the largest size that falls), exponent,
        floor, and the errors at twice and ten times the largest size.
    """
    x = (sizes / sizes[-1])[None, :] ** -_EXPONENTS[:, None]  # [e, p]
    y = errors[..., None, :]  # [..., 1, p]
    slope = (x * y).sum(-1) / (x**2).sum(-1)
    floor = np.zeros_like(slope)
    if len(sizes) >= MIN_POINTS:
        centered = x - x.mean(-1, keepdims=True)
        free = (centered * y).sum(-1) / (centered**2).sum(-1)
        above = y.mean(-1) - free * x.mean(-1)
        use = (above > 0) & (free >= 0)
        flat = above > y.mean(-1)  # the error rises: no part of it falls
        slope = np.where(use, free, np.where(flat, 0, slope))
        floor = np.where(use, above, np.where(flat, y.mean(-1), 0))
    loss = ((slope[..., None] * x + floor[..., None] - y) ** 2).sum(-1)
    best = loss.argmin(-1)
    scale, constant = (np.take_along_axis(v, best[..., None], -1)[..., 0] for v in (slope, floor))
    exponent = _EXPONENTS[best]
    return {
        "scale": scale, "exponent": exponent, "floor": constant,
        "twice": scale * 2.0**-exponent + constant,
        "tenfold": scale * 10.0**-exponent + constant,
    }  # fmt: skip
