"""The keys of fusion.json: members and fusions on the same images, and what the fusion gains."""

from pathlib import Path
from typing import NotRequired, TypedDict, cast

from tfdetect.core.parsing import read_object
from tfdetect.core.run_results import Metrics

FILE = "fusion.json"


class FusionPart(TypedDict):
    """The metrics of members and of fusions, by name."""

    members: dict[str, Metrics]
    fusions: dict[str, Metrics]


class Thresholds(TypedDict):
    """Thresholds of P(fake) with the best balanced accuracy on validation, by name."""

    members: dict[str, float]
    fusions: dict[str, float]


class MemberPair(TypedDict):
    """How similar two members are."""

    members: list[str]
    correlation: float | None  # of the logits; None if the logits of a member are constant
    disagreement: float  # fraction of images with different verdicts
    both_wrong: float  # fraction of images with two wrong verdicts
    one_wrong: float  # fraction of images with one wrong verdict


class InferenceCost(TypedDict):
    """Number of parameters, and images per second without reading and decoding."""

    parameters: int
    images_per_second: float


class FusedMasks(TypedDict):
    """Which members the masks of a fusion come from."""

    predicted_by: list[str]  # members that predict masks
    weights: dict[str, float]  # of their masks in the fused one; empty if no masks are fused


class FusionsCompared(TypedDict):
    """Members and fusions side by side."""

    fusion: str  # the fusion that became the detector
    cross_fitted: bool  # see `Comparison`
    best_member: str  # with the lowest validation log-loss
    splits: dict[str, dict[str, FusionPart]]  # by split, and by dataset or "all"
    gains: dict[str, Metrics]  # by split, the fusion's metrics minus the best member's, paired
    thresholds: Thresholds
    similarity: list[MemberPair]  # of all pairs of members


class FusedNetwork(TypedDict):
    """The cost of members and fused detector, and what the members share."""

    inference_cost: dict[str, InferenceCost]  # by member, and "fused"
    shared_backbones: list[list[str]]  # pairs of members that share a backbone
    masks: NotRequired[FusedMasks]  # not in fusions of earlier versions


class FusionResult(FusionsCompared, FusedNetwork):
    """The content of fusion.json."""

    dataset: str
    warnings: list[str]


def read_fusion(folder: Path) -> FusionResult:
    """Return the content of fusion.json in the folder of a run."""
    return cast(FusionResult, read_object(folder / FILE))
