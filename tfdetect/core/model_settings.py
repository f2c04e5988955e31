"""The section `model` of an experiment: front-end, backbone, heads and initial weights."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tfdetect.core import registry
from tfdetect.core.documents import Document
from tfdetect.core.plugins import registered


class Freeze(Document):
    """Which layers of the backbone are frozen; at most one of the three is set.

    Attributes:
        first: the first N layers.
        fraction: the first fraction of the layers.
        names: layers whose names match one of these shell patterns.
    """

    first: int | None = Field(None, ge=0, le=100_000)
    fraction: float | None = Field(None, ge=0, le=1)
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one(self):
        if sum([self.first is not None, self.fraction is not None, bool(self.names)]) > 1:
            raise ValueError("use one of first, fraction and names")
        return self


class LowRank(Document):
    """Low-rank adaptation: the backbone is frozen, but for small matrices beside its weights.

    Attributes:
        rank: the rank of the product of two matrices that is added to the weights of each named
            layer.
        targets: dense layers of the backbone whose names match one of these shell patterns; by
            default the queries and values of attention.
        alpha: the product is multiplied by alpha / rank; by default by 1.
        start: "zero": the product is 0 at first. "residual": it starts as the smallest singular
            components of the weights, and the larger ones are frozen, as Effort does.
    """

    rank: int = Field(8, gt=0, le=4096)
    targets: tuple[str, ...] = ()
    alpha: float | None = Field(None, gt=0, le=1e6)
    start: Literal["zero", "residual"] = "zero"


class Model(Document):
    """The detector: front-end, backbone, heads, weights.

    Attributes:
        front_end: fixed or learned filters before the backbone; "pixels" for none.
        front_end_options: keyword arguments of the front-end's function.
        with_pixels: give the backbone the image's own channels before those of the front-end.
        backbone: feature extractor.
        options: keyword arguments of the backbone's function.
        weights: initial weights of the backbone: "none", "imagenet", a preset's name, or a path
            to a run or a .keras file.
        freeze: which layers of the backbone are not trained.
        lora: low-rank adaptation of the backbone, in place of `freeze`; null for none.
        head: classifier on the features.
        head_options: keyword arguments of the head's function.
        dropout: fraction that the head drops in training.
        l2: L2 regularization of the head's dense layers, where it has any.
        mask_head: predicts which pixels were altered; null for a detector of labels alone.
        mask_options: keyword arguments of the mask head's function.
    """

    front_end: Annotated[str, registered(registry.FRONT_ENDS, "pixels")] = "pixels"
    front_end_options: dict[str, Any] = {}
    with_pixels: bool = False
    backbone: Annotated[str, registered(registry.BACKBONES)] = "small_resnet"
    options: dict[str, Any] = {}
    weights: str = "none"
    freeze: Freeze = Freeze()
    lora: LowRank | None = None
    head: Annotated[str, registered(registry.HEADS)] = "linear"
    head_options: dict[str, Any] = {}
    dropout: float = Field(0.0, ge=0, lt=1)
    l2: float = Field(0.01, ge=0, le=1000)
    mask_head: Annotated[str, registered(registry.MASK_HEADS)] | None = None
    mask_options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _mask_for_head(self):
        if self.with_pixels and self.front_end == "pixels":
            raise ValueError("model.with_pixels needs a model.front_end")
        if self.head == "top_pixels" and self.mask_head is None:
            raise ValueError("the head top_pixels reads a mask: set model.mask_head")
        return self
