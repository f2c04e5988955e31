"""The types of metrics.json: what `evaluation.measure` finds out about a run, by split.

A key that does not apply is not there.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

# A metric with its 95% interval: value, low and high; None where one is not defined.
Interval = Mapping[str, float | None]
Metrics = dict[str, Interval]


class PointResult(TypedDict):
    """What a threshold of P(fake) gives; None for the rate of a class that is missing.

    Attributes:
        precision: by the fraction of fakes among all images, as text.
    """

    threshold: float
    fpr: Interval | None
    tpr: Interval | None
    precision: Metrics


class AbstentionResult(TypedDict):
    """How good verdicts are outside of the abstention band.

    Attributes:
        low, high, error_rate: of the band.
        chosen_on: the images that it was chosen on, in words.
        coverage: fraction of the images that get a verdict.
        accuracy: of these verdicts; None without any.
    """

    low: float
    high: float
    error_rate: float
    chosen_on: str
    coverage: Interval
    accuracy: Interval | None


class MaskResult(TypedDict, total=False):
    """The metrics of predicted masks, of images whose true masks are known.

    Attributes:
        count, altered: numbers of images, and of those with altered pixels.
        batch_iou: mean IoU of the pixels of batches.
        best: threshold of P(altered) and iou_altered, chosen on these very images.
    """

    count: int
    altered: int
    metrics: Metrics
    batch_iou: float
    best: dict[str, float]


class PartResult(TypedDict, total=False):
    """The metrics of some images.

    Attributes:
        count: number of images that could be read.
        balanced: whether both classes count the same, however few images one has.
        metrics: by name; of images of one class only its rate.
        confusion: counts [true class][verdict].
        class_accuracy: of more than two classes.
        constant: a warning where every verdict is the same.
        operating_points: by name, "verdict" first.
        prior: fraction of fakes to which log-loss, Brier score and ECE are weighted.
        uncalibrated: log_loss and ece of the raw scores, where the run is calibrated.
    """

    count: int
    balanced: bool
    metrics: Metrics
    confusion: list[list[int]]
    masks: MaskResult
    class_accuracy: float
    constant: str
    operating_points: dict[str, PointResult]
    abstention: AbstentionResult
    prior: float
    uncalibrated: dict[str, float]


class UnseenResult(PartResult):
    """The metrics of all generators that the run was not trained on, and their names."""

    generators: list[str]


class DomainResult(TypedDict, total=False):
    """How many images are like the training images.

    Attributes:
        in_domain: fraction of the images.
        reasons: numbers of the others by what is unlike.
        inside, outside: count and metrics of both.
    """

    in_domain: Interval
    reasons: dict[str, int]
    inside: PartResult
    outside: PartResult


class VideoResult(TypedDict):
    """The metrics of videos.

    Attributes:
        count, frames: numbers of videos, and of images that belong to one.
        by: how videos are told, as `VideoNames` takes it.
    """

    count: int
    frames: int
    by: str
    metrics: Metrics


class SplitResult(PartResult, total=False):
    """The metrics of a split, and of parts of it.

    Attributes:
        unreadable: number of images that could not be read.
        mask_coverage: by class, how much the mask files cover: the values of a `MaskCoverage`.
        domain: where the run knows its training images.
        without_duplicates: of images that are not known from training or selection.
        datasets, generators: of each dataset of a union, and of each generator. A generator without
            authentic images of its own is compared with all of them (balanced).
        before: `verdict_metrics` by the run as it was, where it was calibrated again.
        videos: where they were asked for.
        metadata_baseline: count and metrics of a classifier that sees format and size alone.
    """

    unreadable: int
    mask_coverage: dict[str, dict[str, Any]]
    domain: DomainResult
    without_duplicates: PartResult
    datasets: dict[str, PartResult]
    generators: dict[str, PartResult]
    unseen_generators: UnseenResult
    before: dict[str, float]
    videos: VideoResult
    metadata_baseline: dict[str, Any]


Results = dict[str, SplitResult]  # the content of metrics.json
