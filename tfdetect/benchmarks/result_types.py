"""The content of SUITE.json, the results of runs on a suite."""

from typing import NotRequired, TypedDict

from tfdetect.benchmarks.suite import ProtocolName
from tfdetect.core.run_results import Metrics


class BestThreshold(TypedDict):
    """The highest accuracy of any threshold on the images that it is measured on: optimistic."""

    value: float
    threshold: float


class SubsetResult(TypedDict):
    """What a run scored on one subset under one protocol.

    Attributes:
        count, unreadable: numbers of images.
        copies: number of images that the run was trained on, or copies of them; None where the run
            does not know its training images.
        images_per_second: images per second, with decoding.
        change: what was done to the images before the run saw them.
        metrics: for images `IMAGE_METRICS` at the protocol's threshold, or recall or fpr alone of
            one class; of masks `MASK_METRICS` over the altered images, and the image metrics.
        best_accuracy: the best accuracy of subsets with both classes.
        metadata: balanced accuracy and AUC of format and size alone, under this protocol.
        crop: side in pixels of the equalized crop.
        smaller: fraction of the images below it.
    """

    count: int
    unreadable: int
    copies: int | None
    images_per_second: float | None
    change: str
    metrics: Metrics
    best_accuracy: NotRequired[BestThreshold]
    metadata: NotRequired[Metrics]
    crop: NotRequired[int]
    smaller: NotRequired[float]


class ProtocolResult(TypedDict):
    """What a run scored under one protocol.

    Attributes:
        subsets: by name, in the order of the suite.
        mean: the mean of each metric over the subsets that are there.
        of: number of subsets of the suite.
        shared: whether subsets share images.
    """

    subsets: dict[str, SubsetResult]
    mean: Metrics
    of: int
    shared: bool


class SubsetFacts(TypedDict):
    """The data of a subset, as they were found.

    Attributes:
        dataset: its name.
        found: number of images by class.
        missing: why the subset cannot be scored; "" if it can.
        differences: from what was published.
    """

    dataset: str | None
    found: dict[str, int]
    missing: str
    differences: list[str]


class RunResult(TypedDict):
    """What one run scored.

    Attributes:
        name, path: the name and path of the run.
        key: `scoring.run_key`, of weights, views and calibration.
        parameters: the number of parameters of the detector.
        device: the device that it ran on.
        data: by subset.
        protocols: results by protocol.
    """

    name: str
    path: str
    key: str
    parameters: int
    device: str
    data: dict[str, SubsetFacts]
    protocols: dict[ProtocolName, ProtocolResult]


class SuiteResult(TypedDict):
    """The results of all runs on a suite.

    Attributes:
        schema: the version of the schema of this document.
        version: the version of tfdetect.
        suite, title, task: the name, title and task of the suite.
        metric: the suite's main one.
        runs: in the order in which they were first measured.
    """

    schema: int
    version: str
    suite: str
    title: str
    task: str
    metric: str
    runs: list[RunResult]


class PlannedScores(TypedDict):
    """Scores that a dry run names: of a run on one subset under one protocol."""

    run: str
    subset: str
    protocol: ProtocolName
    images: int
    scored: bool  # before
