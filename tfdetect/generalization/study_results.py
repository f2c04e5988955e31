"""The content of matrix.json, clusters.json, curve.json and variants.json.

A key that does not apply is not there.
"""

from typing import Literal, NotRequired, TypedDict, final

from tfdetect.core.run_results import Interval, Metrics

Kind = Literal["in_training", "unseen"]  # of a domain, to a training


def domain_word(by: str) -> str:
    """Return what a domain is called, where people read: "generator", "dataset" or "part".

    Args:
        by: what domains are; see `find_domains`.
    """
    return by if by in ("generator", "dataset") else "part"


CurvePart = Literal["error", "seen", "unseen"]


class Cell(TypedDict):
    """What a training scores on the test images of a domain."""

    count: int
    fakes: int  # of these images
    in_training: bool  # whether it was trained on the domain
    may_be_chance: bool  # whether the interval of the AUC reaches 0.5 or less
    metrics: Metrics  # of `measure_matrix.METRICS`; of localizers before them iou and pixel_ap


Cells = dict[str, dict[str, Cell]]  # by training, and by the domain of the test images


class ClusterResult(TypedDict):
    """The content of clusters.json; see `Clusters`."""

    of: NotRequired[str]  # what the values are, and of which matrix; not in matrix.json
    order: list[str]
    mutual: list[list[float]]
    correlation: list[list[float | None]]


@final
class MatrixResult(TypedDict):
    """The content of matrix.json."""

    experiment: str
    dataset: str
    by: str  # see `find_domains`
    domains: list[str]
    cells: Cells
    means: dict[str, dict[Kind, float | None]]  # by metric, over domains of a kind
    losses: Metrics  # see `measure_matrix.unseen_losses`
    clusters: NotRequired[ClusterResult]


class CurvePoint(TypedDict):
    """What the trainings of one size score."""

    size: int  # number of images, or of domains
    images: list[int]  # numbers of training images, by seed
    seeds: list[float]  # the error of each
    error: Interval
    may_be_chance: bool  # whether the interval of the error reaches 0.5 or more
    seen: NotRequired[Interval]  # by domains: the error on test images of those in training
    unseen: NotRequired[Interval]  # ... and of the others


@final
class CurveResult(TypedDict):
    """The content of curve.json."""

    experiment: str
    dataset: str
    by: str  # see `make_subsets`
    count: int  # of test images
    points: list[CurvePoint]  # smallest first
    fit: Metrics | None  # see `fit_power_law`; None for fewer than three points
    remarks: list[str]  # see `curve_remarks`


class SeedResult(TypedDict):
    """What one training of a variant scores."""

    seed: int
    metrics: dict[str, float]


class VariantResult(TypedDict):
    """What a variant scores."""

    name: str
    metrics: Metrics  # means over the seeds
    difference: Metrics | None  # from the first variant, paired; None of itself
    may_be_chance: bool  # whether the interval of the AUC reaches 0.5 or less
    runs: list[SeedResult]


@final
class VariantsResult(TypedDict):
    """The content of variants.json."""

    experiment: str
    dataset: str
    settings: dict[str, list[str]]  # by variant
    count: int  # of test images
    variants: list[VariantResult]
    remarks: list[str]  # see `variants_remarks`
