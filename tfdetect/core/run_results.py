"""The content of metrics.json, and of comparisons such as transfer.json.

A key that does not apply is not there.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NotRequired, TypedDict

# A metric with its 95% interval: value, low and high; None where one is not defined.
Interval = Mapping[str, float | None]
Metrics = dict[str, Interval]


class PointResult(TypedDict):
    """The rates at a threshold of P(fake); None for the rate of a class without images."""

    threshold: float
    fpr: Interval | None
    tpr: Interval | None
    precision: Metrics  # by the fraction of fakes among all images


class AbstentionResult(TypedDict):
    """How good verdicts are outside of the abstention band."""

    low: float
    high: float
    error_rate: float
    chosen_on: str  # images, in words
    coverage: Interval  # fraction of the images that get a verdict
    accuracy: Interval | None


class MaskResult(TypedDict, total=False):
    """The metrics of predicted masks, of images whose true masks are known."""

    count: int
    altered: int  # images with altered pixels
    metrics: Metrics
    batch_iou: float
    best: dict[str, float]  # threshold of P(altered) and iou_altered, chosen on these very images


class ClassResult(TypedDict):
    """How well the images of one class are recognized; None where there are none."""

    count: int
    recall: Interval  # fraction of the class's images whose verdict names it
    precision: Interval  # fraction of the verdicts that name it that are right


class PartResult(TypedDict, total=False):
    """The metrics of a part of the images."""

    count: int  # images that could be read
    balanced: bool  # both classes count the same, however few images one has
    metrics: Metrics  # of images of one class only its rate
    confusion: list[list[int]]  # [true class][verdict]
    classes: dict[str, ClassResult]  # by name, of three or more classes
    masks: MaskResult
    constant: str  # a warning where every verdict is the same
    operating_points: dict[str, PointResult]  # "verdict" first
    abstention: AbstentionResult
    prior: float  # fraction of fakes to which log-loss, Brier score and ECE are weighted
    uncalibrated: dict[str, float]  # log_loss and ece of the raw scores of a calibrated run


class UnseenResult(PartResult):
    """The metrics of all generators that the run was not trained on, and their names."""

    generators: list[str]


class DomainResult(TypedDict, total=False):
    """How many images are like the training images, and the metrics of both kinds."""

    in_domain: Interval
    reasons: dict[str, int]  # numbers of the other images by what is unlike
    inside: PartResult
    outside: PartResult


class VideoResult(TypedDict):
    """The metrics of videos."""

    count: int
    frames: int  # images that belong to a video
    by: str  # see `VideoNames`
    metrics: Metrics


class BaselineResult(TypedDict):
    """The metrics of a classifier that sees only the format and the size of files."""

    count: int
    balanced_accuracy: Interval
    auc: Interval


class SplitResult(PartResult, total=False):
    """The metrics of a split, and of parts of it.

    A generator without authentic images of its own is compared with all of them (balanced).
    """

    unreadable: int
    mask_coverage: dict[str, dict[str, Any]]  # by class, the values of a `MaskCoverage`
    domain: DomainResult  # where the run knows its training images
    without_duplicates: PartResult  # images that are not known from training or selection
    datasets: dict[str, PartResult]  # of a union
    generators: dict[str, PartResult]
    unseen_generators: UnseenResult
    before: dict[str, float]  # `verdict_metrics` before the run was calibrated again
    videos: VideoResult
    metadata_baseline: BaselineResult


SplitResults = dict[str, SplitResult]  # the content of metrics.json


class RunPair(TypedDict):
    """How two runs differ. P-values are adjusted for the number of pairs by Holm's method."""

    one: str
    other: str
    metrics: Metrics  # of one minus those of the other, paired
    mcnemar: NotRequired[float]  # of the verdicts
    delong: NotRequired[float]  # of the AUC
    wilcoxon: NotRequired[float]  # of masks, of the IoU


class Compared(TypedDict):
    """Runs on the same images; without runs and pairs where these are of one class."""

    count: int
    runs: dict[str, Metrics]
    pairs: list[RunPair]


class MasksCompared(Compared):
    """Localizers on the same images, whose true masks are known."""

    altered: int  # images with altered pixels


class RunsCompared(Compared):
    """The result of `evaluation.paired.compare`."""

    masks: NotRequired[MasksCompared]  # where all runs predict masks


class PartTransfer(RunsCompared):
    """A run, "after", and the one that it started from, "before", on images of one dataset."""

    dataset: str
    split: str


class Transfer(TypedDict):
    """The content of transfer.json. A part is None where its images allow no comparison."""

    parent: str  # name of the run that the training started from
    new: PartTransfer | None
    old: PartTransfer | None


def ordered(splits: Iterable[str]) -> list[str]:
    """Return the names of splits, the most important first."""
    order = ("test", "all", "validation", "train")
    return sorted(splits, key=lambda s: order.index(s) if s in order else len(order))
