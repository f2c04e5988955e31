"""The content of fusion.json: members and fusions on the same images, and what the fusion gains."""

from pathlib import Path
from typing import NotRequired, TypedDict, cast

from tfdetect.core.parsing import read_object
from tfdetect.core.run_results import Metrics

FILE = "fusion.json"


class FusionPart(TypedDict):
    """The metrics of members and fusions, by name."""

    members: dict[str, Metrics]
    fusions: dict[str, Metrics]


class Thresholds(TypedDict):
    """P(fake) from which verdicts are fake, by name: of best balanced accuracy on validation."""

    members: dict[str, float]
    fusions: dict[str, float]


class MemberPair(TypedDict):
    """How alike two members are."""

    members: list[str]
    correlation: float | None  # of the logits; None where one is constant
    disagreement: float  # fraction of the images with different verdicts
    both_wrong: float  # fractions of the images with so many wrong verdicts
    one_wrong: float


class InferenceCost(TypedDict):
    """Number of parameters, and images per second of the network without decoding."""

    parameters: int
    images_per_second: float


class FusedMasks(TypedDict):
    """Where the masks of a fusion come from."""

    predicted_by: list[str]  # the members that predict masks
    weights: dict[str, float]  # of their masks in the fused one; empty where none are fused


class FusionsCompared(TypedDict):
    """Members and fusions side by side."""

    fusion: str  # that became the detector
    cross_fitted: bool  # see `Comparison`
    best_member: str  # by validation log-loss
    splits: dict[str, dict[str, FusionPart]]  # by split, and by dataset or "all"
    gains: dict[str, Metrics]  # by split, the fusion's metrics minus the best member's, paired
    thresholds: Thresholds
    similarity: list[MemberPair]  # of each two members


class FusionResult(FusionsCompared):
    """What `fuse` found."""

    dataset: str
    inference_cost: dict[str, InferenceCost]  # by member, and "fused"
    shared_backbones: list[list[str]]  # members that share one
    masks: NotRequired[FusedMasks]  # not in fusions of earlier versions
    warnings: list[str]


def read_fusion(folder: Path) -> FusionResult:
    """Return what a fusion found, from the folder of its run."""
    return cast(FusionResult, read_object(folder / FILE))
