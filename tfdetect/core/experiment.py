"""`Experiment`: everything that decides what one training does, validated and frozen."""

from typing import Any

from pydantic import Field, model_validator

from tfdetect.core import plugins, registry
from tfdetect.core.data_settings import Data, cuts_windows
from tfdetect.core.documents import Document, Name
from tfdetect.core.model_settings import Freeze, Model
from tfdetect.core.plugin_faults import calling
from tfdetect.core.training_settings import Training


class Published(Document):
    """Facts about a detector that somebody published.

    Attributes:
        paper: authors, venue and year.
        use_case: what it is for, in a few words.
        parameters: number of trainable parameters of the whole network with its published head.
        logits: number of logits of the published head.
    """

    paper: str
    use_case: str
    parameters: int = Field(ge=0)
    logits: int = Field(1, ge=1, le=1000)


class Experiment(Document):
    """A reproducible configuration of one training.

    Attributes:
        name: default name of its runs.
        description: one line for people.
        published: facts about the detector, of those that `tfdetect models` lists.
        plugins: Python files or modules that register parts of the user's own; see
            `tfdetect.core.plugins`.
        seed: fixes shuffling, augmentation and initialization.
        data: which images are read.
        model: the detector.
        training: how it is trained.
    """

    name: Name
    description: str = ""
    published: Published | None = None
    plugins: tuple[str, ...] = ()
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()

    @model_validator(mode="before")
    @classmethod
    def _plugins(cls, value: Any) -> Any:
        # Before the names that they register are looked up.
        if isinstance(value, dict) and isinstance(value.get("plugins"), list | tuple):
            plugins.check_loaded(str(source) for source in value["plugins"])
        return value

    @model_validator(mode="after")
    def _frozen(self):
        frozen = self.model.freeze.fraction == 1 and not self.training.stages
        if self.training.cache_features and (not frozen or self.model.mask_head):
            raise ValueError(
                "training.cache_features needs model.freeze: {fraction: 1}, no training.stages and "
                "no model.mask_head"
            )
        return self

    @model_validator(mode="after")
    def _adapted(self):
        rules = [self.model.freeze, *(stage.freeze for stage in self.training.stages)]
        if self.model.lora is not None and any(rule != Freeze() for rule in rules):
            raise ValueError("model.lora freezes the whole backbone: leave freeze out")
        return self

    @model_validator(mode="after")
    def _accumulated(self):
        steps, accumulate = self.training.steps_per_epoch, self.training.accumulate
        if steps and steps % accumulate:
            raise ValueError(
                f"training.steps_per_epoch ({steps}) must be a multiple of training.accumulate "
                f"({accumulate})"
            )
        return self

    @model_validator(mode="after")
    def _drawn_by_one_rule(self):
        by = self.training.curriculum.by
        if by and (self.data.dataset_weights or self.data.balance == "domain"):
            raise ValueError(
                "training.curriculum says how often datasets or generators are drawn; leave out "
                "data.dataset_weights and data.balance: domain"
            )
        if self.training.distill.weight and self.model.mask_head is not None:
            raise ValueError(
                "training.distill keeps verdicts, not masks; it is for detectors without a "
                "mask_head. training.replay is for both"
            )
        return self

    @model_validator(mode="after")
    def _masks(self):
        if self.model.mask_head is not None and self.data.equalize is not None:
            raise ValueError("data.equalize crops images; it is for detectors without a mask_head")
        if self.training.monitor == "iou" and self.model.mask_head is None:
            raise ValueError("training.monitor: iou needs a model.mask_head")
        if self.model.mask_head is not None and self.data.test_crops > 1:
            raise ValueError("a detector with a mask_head reads tiles; data.test_crops must be 1")
        of_pixels = self.model.head == "top_pixels" and cuts_windows(self.data.resize)
        if self.data.tile_pooling != "max" and not of_pixels:
            raise ValueError(
                "data.tile_pooling: top_pixels needs model.head: top_pixels, and data.resize: "
                "window_tile or window_pad"
            )
        return self

    @model_validator(mode="after")
    def _legal_size(self):
        backbone = registry.BACKBONES[self.model.backbone]
        smallest, multiple = backbone.sides(self.model.options)
        for size in self.data.image_size:
            side = size
            if self.model.front_end != "pixels":
                front_end = registry.FRONT_ENDS[self.model.front_end]
                with calling(registry.FRONT_ENDS, self.model.front_end, front_end.output_side):
                    side = front_end.output_side(size, self.model.front_end_options)
                if type(side) is not int:  # of an option that `check_options` will refuse
                    continue
            if side < smallest or side % multiple:
                below = max(smallest, side // multiple * multiple)
                legal = sorted({below, max(smallest, -(-side // multiple) * multiple)})
                raise ValueError(
                    f"{self.model.backbone} does not take images of {side} pixels a side"
                    f"{' after the front-end' if side != size else ''}; the "
                    f"nearest legal {'sizes are' if len(legal) > 1 else 'size is'} "
                    f"{' and '.join(map(str, legal))} (data.image_size)"
                )
        return self

    def as_data(self) -> dict[str, Any]:
        """Return the resolved experiment as plain data, as YAML has it."""
        data = super().as_data()
        data["data"]["augment"] = [
            {"name": step["name"], **step["params"]} for step in data["data"]["augment"]
        ]
        return data
