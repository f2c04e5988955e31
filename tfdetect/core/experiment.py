"""`Experiment`: everything that decides what one training does, validated and frozen."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from tfdetect.core import registry
from tfdetect.core.documents import Document, find, read_yaml, shipped_names, validate
from tfdetect.core.errors import UserError, nearest, unknown

# What multiples of pixels a backbone accepts: (smallest side, side must divide by this).
INPUT_SIZES = {
    "densenet121": (32, 1), "densenet169": (32, 1), "densenet201": (32, 1),
    "xception": (71, 1),
    "efficientnetv2_b0": (32, 1), "efficientnetv2_s": (32, 1),
    "convnext_tiny": (32, 1),
    "mobilenetv3_small": (32, 1), "mobilenetv3_large": (32, 1),
    "resnet18": (32, 1), "resnet34": (32, 1), "resnet50": (32, 1), "resnet101": (32, 1),
    "resnet50_dilated": (32, 8), "deeplabv3_resnet50": (64, 32), "segformer_b0": (32, 32),
    "swin_t": (224, 224), "swin_s": (224, 224), "swin_b": (224, 224),
    "deit_t": (32, 16), "deit_s": (32, 16), "deit_b": (32, 16),
    "vit_b": (32, 16),
    "small_resnet": (16, 1), "none": (8, 1), "frank_cnn": (16, 8),
    "clip": (28, 1), "siglip": (32, 16), "dinov2": (28, 14), "dinov3": (32, 16),
    "gramnet": (32, 1), "f3net": (142, 1), "iidnet": (64, 8), "nixnet": (32, 8),
    "graftnet": (32, 32),
}  # fmt: skip
# Those that leave another side than the image's; `options` are the front-end's.
FRONT_END_SIDES = {
    "lfs": lambda side, options: (side - 2) // 2 + 1,
    "npr": lambda side, options: side - side % 2,
    "simplest_patch": lambda side, options: options.get("output", 256),
}


class Augmentation(Document):
    """One step of an augmentation policy: a registered name and its parameters."""

    name: str
    params: dict[str, float | int | str | bool | list[float]] = {}

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        # Written flat in YAML: {name: warp, rotation: 20}.
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "params" not in value:
            rest = {k: v for k, v in value.items() if k != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "params": rest}
        return value

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        return _registered(value, registry.AUGMENTATIONS)


# Below these keys an override may add new ones.
_FREE = (
    "model.front_end_options.",
    "model.head_options.",
    "model.options.",
    "model.mask_options.",
    "data.augment.",
)

Resize = Literal["stretch", "crop", "pad", "window_tile", "window_pad"]  # see geometry.resize


class Data(Document):
    """What is read and how it reaches the detector."""

    dataset: str | None = None
    image_size: tuple[int, int] = (224, 224)  # height, width in pixels
    # The windows take pixels as they are: at random places in training, in the middle elsewhere.
    resize: Resize = "stretch"
    test_crops: Literal[1, 5, 9] = 1  # windows of an image whose probabilities are averaged
    augment: tuple[Augmentation, ...] = ()
    cache: Literal["auto", "memory", "none"] = "auto"
    balance: Literal["none", "sample", "weight"] = "none"  # of the classes in training
    dataset_weights: dict[str, float] = {}  # of a union's datasets in training; default: their sizes

    @model_validator(mode="after")
    def _windows(self):
        if self.test_crops > 1 and not self.resize.startswith("window"):
            raise ValueError("test_crops needs resize: window_tile or window_pad")
        return self

    @field_validator("dataset_weights")
    @classmethod
    def _positive(cls, value: dict[str, float]) -> dict[str, float]:
        if any(weight <= 0 for weight in value.values()):
            raise ValueError("weights must be above 0; to leave a dataset out, leave it out")
        return value

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value


class Freeze(Document):
    """Which backbone layers do not learn. Exactly one way, or none."""

    first: int | None = Field(None, ge=0)  # the first N layers
    fraction: float | None = Field(None, ge=0, le=1)  # the first fraction of the layers
    names: tuple[str, ...] = ()  # shell patterns on layer names

    @model_validator(mode="after")
    def _one(self):
        if sum([self.first is not None, self.fraction is not None, bool(self.names)]) > 1:
            raise ValueError("use one of first, fraction and names")
        return self


class Model(Document):
    """The detector: front-end, backbone, heads, weights.

    Attributes:
        front_end: fixed or learned filters before the backbone; "pixels" is none.
        front_end_options: keyword arguments of the front-end's function.
        with_pixels: give the backbone the image's own channels before those of the front-end.
        head_options: keyword arguments of the head's function.
        mask_head: draws which pixels were altered; none for a detector of labels alone.
        mask_options: keyword arguments of the mask head's function.
    """

    front_end: str = "pixels"
    front_end_options: dict[str, Any] = {}
    with_pixels: bool = False
    backbone: str = "small_resnet"
    options: dict[str, Any] = {}  # keyword arguments of the backbone's function
    weights: str = "none"  # none, imagenet, a preset's name, or a path to a run or .keras file
    freeze: Freeze = Freeze()
    head: str = "linear"
    head_options: dict[str, Any] = {}
    dropout: float = Field(0.0, ge=0, lt=1)
    l2: float = Field(0.01, ge=0)  # on the dense layers of conv_dense
    mask_head: str | None = None
    mask_options: dict[str, Any] = {}

    @field_validator("front_end")
    @classmethod
    def _front_end(cls, value: str) -> str:
        return value if value == "pixels" else _registered(value, registry.FRONT_ENDS)

    @field_validator("backbone")
    @classmethod
    def _backbone(cls, value: str) -> str:
        return _registered(value, registry.BACKBONES)

    @field_validator("head")
    @classmethod
    def _head(cls, value: str) -> str:
        return _registered(value, registry.HEADS)

    @field_validator("mask_head")
    @classmethod
    def _mask_head(cls, value: str | None) -> str | None:
        return value if value is None else _registered(value, registry.MASK_HEADS)

    @model_validator(mode="after")
    def _mask_for_head(self):
        if self.with_pixels and self.front_end == "pixels":
            raise ValueError("model.with_pixels needs a model.front_end")
        if self.head == "top_pixels" and self.mask_head is None:
            raise ValueError("the head top_pixels reads a mask: set model.mask_head")
        return self


class Optimizer(Document):
    """Optimizer; `weight_decay` is decoupled and spares biases and normalization."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)


class Schedule(Document):
    """Learning rate over time.

    Attributes:
        name: "step" multiplies the rate by `factor` every `step_epochs` epochs; "plateau" does so
            when the monitored metric has not improved by `min_delta` for `patience` epochs.
        min_lr: lowest learning rate of "plateau".
        stop_below_lr: plateau ends the training instead of going below this rate.
    """

    name: Literal["constant", "cosine", "step", "plateau"] = "constant"
    warmup_epochs: float = Field(0.0, ge=0)  # cosine
    factor: float = Field(0.1, gt=0, lt=1)
    step_epochs: int = Field(10, gt=0)
    patience: int = Field(2, ge=0)
    min_delta: float = Field(1e-4, ge=0)
    min_lr: float = Field(1e-6, ge=0)
    stop_below_lr: float = Field(0.0, ge=0)


class Stage(Document):
    """One stage of fine-tuning: what is frozen, for how long, at which share of the rate."""

    epochs: int = Field(gt=0)
    freeze: Freeze = Freeze()
    lr_multiplier: float = Field(1.0, gt=0)


class MaskLoss(Document):
    """The loss of the mask, a mean over the pixels of each image whose truth is known.

    Attributes:
        name: "bce"; "focal" (Lin et al., ICCV 2017); "dice", 1 - Dice; or the sum of two.
        alpha: focal's weight of altered pixels, 1 - alpha that of the others; none for equal
            weights. RetinaNet's 0.25 lowers the weight of altered pixels.
        gamma: focal's exponent; 0 makes it BCE.
        edge: extra weight, in BCE and focal, of pixels within two pixels of the border of the
            altered region.
        label_weight, mask_weight: factors on the losses of the label and of the mask; an auxiliary
            mask counts half as much as the mask.
    """

    name: Literal["bce", "focal", "dice", "bce_dice", "focal_dice", "focal_bce"] = "bce"
    alpha: float | None = Field(0.25, ge=0, le=1)
    gamma: float = Field(2.0, ge=0)
    edge: float = Field(0.0, ge=0)
    label_weight: float = Field(1.0, ge=0)
    mask_weight: float = Field(1.0, ge=0)


class Training(Document):
    """How the detector learns.

    Attributes:
        stages: fine-tuning in several stages, each with a fresh optimizer and schedule:
            the head first, then more and more layers with smaller rates. They take the
            place of `epochs` and of `model.freeze`.
        cache_features: with the whole backbone frozen, compute its features once, of so many
            differently augmented passes over the training split, and train the head on them.
        ema: momentum of a moving average of the weights, such as 0.999; the average is what is
            validated and kept. 0 for none.
    """

    epochs: int = Field(10, gt=0)
    stages: tuple[Stage, ...] = ()
    cache_features: int = Field(0, ge=0)
    steps_per_epoch: int | None = Field(None, gt=0)  # default: one pass over train
    batch_size: int = Field(32, gt=0)  # over all devices together
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema: float = Field(0.0, ge=0, lt=1)
    mask_loss: MaskLoss = MaskLoss()
    # Of validation, picks the best model; iou is the mask's.
    monitor: Literal["accuracy", "auc", "loss", "iou"] = "accuracy"
    early_stopping: int | None = Field(None, ge=0)  # patience in epochs
    # auto: half precision where the device computes in it, float32 elsewhere.
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    deterministic: bool = False
    checkpoint_minutes: float = Field(10.0, ge=0)  # between states to resume from within an epoch


class Published(Document):
    """Of an experiment that is a detector somebody published.

    Attributes:
        paper: who, where, when.
        good_at: what it is for, in some words.
        parameters: trainable ones, of the whole network with its published head.
        logits: of the published head.
    """

    paper: str
    good_at: str
    parameters: int
    logits: int = 1


class Experiment(Document):
    """A reproducible configuration of one training.

    Attributes:
        name: what runs of it are called.
        seed: fixes splits' order, shuffling, augmentation and initialization.
        published: for those that `tfdetect models` lists.
    """

    name: str
    description: str = ""
    published: Published | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()

    @model_validator(mode="after")
    def _frozen(self):
        frozen = self.model.freeze.fraction == 1 and not self.training.stages
        if self.training.cache_features and (not frozen or self.model.mask_head):
            raise ValueError(
                "training.cache_features needs model.freeze: {fraction: 1}, no training.stages and no "
                "model.mask_head"
            )
        return self

    @model_validator(mode="after")
    def _masks(self):
        if self.training.monitor == "iou" and self.model.mask_head is None:
            raise ValueError("training.monitor: iou needs a model.mask_head")
        if self.model.mask_head is not None and self.data.test_crops > 1:
            raise ValueError("a detector with a mask_head reads tiles; data.test_crops must be 1")
        return self

    @model_validator(mode="after")
    def _legal_size(self):
        smallest, multiple = INPUT_SIZES[self.model.backbone]
        changed = FRONT_END_SIDES.get(self.model.front_end)
        for side in self.data.image_size:
            if changed is not None:
                side = changed(side, self.model.front_end_options)
            if side < smallest or side % multiple:
                below = max(smallest, side // multiple * multiple)
                legal = sorted({below, max(smallest, -(-side // multiple) * multiple)})
                raise ValueError(
                    f"{self.model.backbone} does not take images of {side} pixels a side"
                    f"{' after the front-end' if changed else ''}; the "
                    f"nearest legal {'sizes are' if len(legal) > 1 else 'size is'} "
                    f"{' and '.join(map(str, legal))} (data.image_size)"
                )
        return self

    def to_yaml(self) -> str:
        """The resolved experiment as YAML that `load_experiment` reads back."""
        return yaml.safe_dump(self.as_data(), sort_keys=False)

    def as_data(self) -> dict[str, Any]:
        """The resolved experiment as it stands in YAML."""
        data = self.model_dump(mode="json")
        data["data"]["augment"] = [
            {"name": step["name"], **step["params"]} for step in data["data"]["augment"]
        ]
        return data


def load_experiment(name: str, overrides: list[str] = ()) -> Experiment:
    """Loads a shipped experiment by name, or a file by path, with `a.b=c` overrides.

    Raises:
        UserError: unknown experiment, unknown key (names file, line and the
            nearest key) or illegal value.
    """
    path = find("experiment", "experiments", name)
    return _with_overrides(read_yaml(path), overrides, str(path), path)


def published() -> dict[str, Experiment]:
    """The shipped experiments that are published detectors, by name."""
    found = map(load_experiment, shipped_names("experiments"))
    return {experiment.name: experiment for experiment in found if experiment.published}


def load_model(name: str) -> Experiment:
    """A published detector's own experiment.

    Raises:
        UserError: no such detector.
    """
    if name not in shipped_names("experiments") or not load_experiment(name).published:
        raise unknown("detector", name, published())
    return load_experiment(name)


def with_model(experiment: Experiment, model: Experiment) -> Experiment:
    """The same data and training with another detector, at its own image size."""
    data = {"image_size": model.data.image_size, "resize": model.data.resize}
    return experiment.model_copy(update={
        "name": model.name, "description": model.description, "published": model.published,
        "model": model.model, "data": experiment.data.model_copy(update=data),
    })  # fmt: skip


def override(experiment: Experiment, overrides: list[str]) -> Experiment:
    """Returns `experiment` with `a.b=c` overrides applied."""
    if not overrides:
        return experiment
    return _with_overrides(experiment.as_data(), overrides, experiment.name)


def _with_overrides(data: dict, overrides: list[str], source: str, path: Path | None = None):
    plain = validate(Experiment, data, source, path)  # so that errors name the right place
    if not overrides:
        return plain
    data = plain.as_data()
    if any(text.startswith("model.backbone=") for text in overrides):
        data["model"]["options"] = {}  # they were another backbone's
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--set takes KEY=VALUE, for example training.epochs=5. Got {text!r}.")
        node, parts = data, key.strip().split(".")
        for depth, part in enumerate(parts):
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                part = int(part)
            elif not isinstance(node, dict) or (part not in node and not key.startswith(_FREE)):
                choices = list(node) if isinstance(node, dict) else []
                raise UserError(
                    f"--set {text}: no key {'.'.join(parts[: depth + 1])!r}."
                    f"{nearest(part, map(str, choices))}"
                    + (f" Keys there: {', '.join(map(str, choices))}." if choices else "")
                )
            if depth == len(parts) - 1:
                try:
                    node[part] = yaml.safe_load(value)
                except yaml.YAMLError as error:
                    raise UserError(f"--set {text}: {value!r} is not YAML.") from error
                if isinstance(node[part], str):
                    node[part] = _number(node[part])
            else:
                node = node[part]
    return validate(Experiment, data, "--set " + " --set ".join(overrides))


def _number(text: str) -> str | float:
    # YAML 1.1 reads 1e-3 as text; a user means the number.
    try:
        return float(text)
    except ValueError:
        return text


def _registered(name: str, names: dict[str, str]) -> str:
    if name not in names:
        raise ValueError(f"no such name.{nearest(name, names)} Choices: {', '.join(sorted(names))}")
    return name
