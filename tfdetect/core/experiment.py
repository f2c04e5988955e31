"""`Experiment`: everything that decides what one training does, validated and frozen."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from tfdetect.core import plugins, registry
from tfdetect.core.documents import (
    Document,
    Name,
    find,
    parse_yaml,
    read_yaml,
    shipped_names,
    validate,
)
from tfdetect.core.errors import UserError, nearest, shortened, unknown

# Numbers beyond these are slips of the pen; most end in a memory error or a night without result.
MAX_EPOCHS, MAX_BATCH, MAX_SIDE = 100_000, 65_536, 8192
Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]


def _registered(names: registry.Registry[Any], *more: str) -> AfterValidator:
    """Return the check of a name that must be registered, or be one of some more."""

    def check(name: str) -> str:
        plugins.load_listed()
        if name not in names and name not in more:
            raise ValueError(
                f"no such name.{nearest(name, names)} Available: {', '.join(sorted(names))}"
            )
        return name

    return AfterValidator(check)


class Augmentation(Document):
    """One step of an augmentation policy: a registered name and its parameters."""

    name: Annotated[str, _registered(registry.AUGMENTATIONS)]
    params: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        # In YAML it is flat: {name: warp, rotation: 20}.
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "params" not in value:
            rest = {k: v for k, v in value.items() if k != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "params": rest}
        return value


# Below these keys an override may add new ones.
_FREE = (
    "model.front_end_options.",
    "model.head_options.",
    "model.options.",
    "model.mask_options.",
    "training.loss_options.",
    "data.augment.",
)

# Added to resized pixels before they are rounded: many are halves but for errors of floats, which
# TensorFlow, Pillow and JavaScript would round differently.
RESIZING_BIAS = 0.00137

Resize = Literal["stretch", "crop", "pad", "window_tile", "window_pad"]  # see geometry.resize


def cuts_windows(policy: str) -> bool:
    """Return whether a resize policy takes windows of an image at its own resolution."""
    return policy.startswith("window_")


class Equalize(Document):
    """Brings all images to one encoding, so that a detector cannot tell classes by it.

    Each image is cropped on the grid of JPEG's blocks, without resizing, and encoded as JPEG once
    more. Crop and quality are random in training; otherwise the crop is the center, and the quality
    follows from the pixels, so that an image has one result wherever it is read.

    Attributes:
        side: longest side of the crop in pixels, a multiple of 8.
        quality: lowest and highest JPEG quality, 1 to 100.
        min_scale: in training, half of the images are shrunk before the crop, by a factor from
            this to 1, so that resizing alone reveals nothing; 1 never resizes.
        random_fraction: fraction of the images that training draws crop, quality and size of; it
            reads the others as evaluation does, anew in each epoch.
    """

    side: int = Field(512, ge=8, multiple_of=8)
    quality: tuple[int, int] = (80, 95)
    min_scale: float = Field(1.0, gt=0, le=1)
    random_fraction: float = Field(1.0, ge=0, le=1)

    @field_validator("quality")
    @classmethod
    def _range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1] <= 100:
            raise ValueError("must be a lowest and a highest quality, 1 to 100")
        return value


class Data(Document):
    """Which images are read and how they reach the detector.

    Attributes:
        dataset: name of a shipped dataset spec, a path to one, or a folder.
        image_size: (height, width) of the detector's input in pixels; one number for both.
        equalize: brings all images to one encoding before anything else; null leaves them as they
            are.
        resize: how an image becomes that size; the window policies take pixels as they are, at
            random positions in training and in the center otherwise.
        test_crops: windows per image whose probabilities are averaged at prediction.
        augment: augmentation steps of training images, in order.
        cache: keep decoded images in memory: "auto" where they fit, "memory" always, or "none".
        balance: of the classes in training: "sample" draws them equally often, "weight" weights
            the loss; "domain" draws them equally often and, within a class, every generator or
            source in proportion to the square root of its images, so that no large one dominates.
        dataset_weights: how often the datasets of a union are drawn in training, by name; by
            default in proportion to their sizes.
        keep_hashes: keep 16 bytes of hashes of each training image in the run, by which copies of
            training images are recognized later.
    """

    dataset: str | None = None
    image_size: tuple[Side, Side] = (224, 224)
    equalize: Equalize | None = None
    resize: Resize = "stretch"
    test_crops: Literal[1, 5, 9] = 1
    augment: tuple[Augmentation, ...] = ()
    cache: Literal["auto", "memory", "none"] = "auto"
    balance: Literal["none", "sample", "weight", "domain"] = "none"
    dataset_weights: dict[str, float] = {}
    keep_hashes: bool = True

    @model_validator(mode="after")
    def _windows(self):
        if self.test_crops > 1 and not cuts_windows(self.resize):
            raise ValueError("test_crops needs resize: window_tile or window_pad")
        return self

    @model_validator(mode="after")
    def _one_balance(self):
        if self.balance == "domain" and self.dataset_weights:
            raise ValueError("balance: domain draws by generator and source; drop dataset_weights")
        return self

    @field_validator("dataset_weights")
    @classmethod
    def _positive(cls, value: dict[str, float]) -> dict[str, float]:
        if any(not 0 < weight <= 1e6 for weight in value.values()):
            raise ValueError(
                "weights are above 0, at most 1,000,000; to exclude a dataset, do not name it"
            )
        return value

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if type(value) is int else value


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
        rank: of the product of two matrices that is added to the weights of each named layer.
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

    front_end: Annotated[str, _registered(registry.FRONT_ENDS, "pixels")] = "pixels"
    front_end_options: dict[str, Any] = {}
    with_pixels: bool = False
    backbone: Annotated[str, _registered(registry.BACKBONES)] = "small_resnet"
    options: dict[str, Any] = {}
    weights: str = "none"
    freeze: Freeze = Freeze()
    lora: LowRank | None = None
    head: Annotated[str, _registered(registry.HEADS)] = "linear"
    head_options: dict[str, Any] = {}
    dropout: float = Field(0.0, ge=0, lt=1)
    l2: float = Field(0.01, ge=0, le=1000)
    mask_head: Annotated[str, _registered(registry.MASK_HEADS)] | None = None
    mask_options: dict[str, Any] = {}

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
    learning_rate: float = Field(1e-3, gt=0, le=1000)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0, le=1000)
    clip_norm: float | None = Field(None, gt=0, le=1e6)


class Schedule(Document):
    """Learning rate over time.

    Attributes:
        name: "cosine" decays to 0; "step" multiplies the rate by `factor` every `step_epochs`
            epochs; "plateau" does so when the monitored metric has not improved by `min_delta` for
            `patience` epochs.
        warmup_epochs: epochs in which the rate of "cosine" rises from 0.
        min_lr: lowest learning rate of "plateau".
        stop_below_lr: training ends after an epoch whose learning rate is below this.
    """

    name: Literal["constant", "cosine", "step", "plateau"] = "constant"
    warmup_epochs: float = Field(0.0, ge=0, le=MAX_EPOCHS)
    factor: float = Field(0.1, gt=0, lt=1)
    step_epochs: int = Field(10, gt=0, le=MAX_EPOCHS)
    patience: int = Field(2, ge=0, le=MAX_EPOCHS)
    min_delta: float = Field(1e-4, ge=0, le=1000)
    min_lr: float = Field(1e-6, ge=0, le=1000)
    stop_below_lr: float = Field(0.0, ge=0, le=1000)


class Stage(Document):
    """One stage of fine-tuning.

    Attributes:
        epochs: its length.
        freeze: which layers of the backbone are frozen in it.
        lr_multiplier: factor on the optimizer's learning rate.
    """

    epochs: int = Field(gt=0, le=MAX_EPOCHS)
    freeze: Freeze = Freeze()
    lr_multiplier: float = Field(1.0, gt=0, le=1e6)


class MaskLoss(Document):
    """The loss of the mask: a mean over those pixels of each image whose truth is known.

    Attributes:
        name: "bce", binary cross-entropy; "focal" (Lin et al., ICCV 2017); "dice", 1 - Dice; or the
            sum of two.
        alpha: focal weight of altered pixels, 1 - alpha that of the others; null for equal
            weights. RetinaNet's 0.25 lowers the weight of altered pixels.
        gamma: focal exponent; 0 makes it binary cross-entropy.
        edge: extra weight, in BCE and focal, of pixels within two pixels of the border of the
            altered region.
        label_weight: factor on the loss of the label.
        mask_weight: factor on the loss of the mask; an auxiliary mask has half of it.
    """

    name: Literal["bce", "focal", "dice", "bce_dice", "focal_dice", "focal_bce"] = "bce"
    alpha: float | None = Field(0.25, ge=0, le=1)
    gamma: float = Field(2.0, ge=0, le=100)
    edge: float = Field(0.0, ge=0, le=1e6)
    label_weight: float = Field(1.0, ge=0, le=1e6)
    mask_weight: float = Field(1.0, ge=0, le=1e6)


class SharePoint(Document):
    """How much of what is drawn comes from where, at one step of a training.

    Attributes:
        step: number of batches that were taken before.
        shares: relative weight of each dataset or generator by its name; those that are not named
            are not drawn.
    """

    step: int = Field(ge=0, le=10**12)
    shares: dict[str, Annotated[float, Field(ge=0, le=1e6)]]

    @field_validator("shares")
    @classmethod
    def _draws_something(cls, value: dict[str, float]) -> dict[str, float]:
        if not any(value.values()):
            raise ValueError("at least one share is above 0")
        return value


class Curriculum(Document):
    """Which datasets or generators are drawn how often, over the steps of a training.

    Between two points shares change linearly; before the first and after the last they are
    constant. Within a dataset or generator `data.balance` decides. Images without a name, such as
    authentic images that name no generator, are drawn as often as without a curriculum.

    Attributes:
        by: "dataset", of a union, or "generator"; null for no curriculum.
        points: in the order of their steps.
    """

    by: Literal["dataset", "generator"] | None = None
    points: tuple[SharePoint, ...] = ()

    @model_validator(mode="after")
    def _ascends(self):
        steps = [point.step for point in self.points]
        if (self.by is None) != (not steps):
            raise ValueError("a curriculum has by (dataset or generator) and points")
        if any(b <= a for a, b in itertools.pairwise(steps)):
            raise ValueError(f"steps of the points ascend; received {steps}")
        return self

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the points, from 0 on."""
        first = (0,) if self.points and self.points[0].step else ()
        return (*first, *(point.step for point in self.points))

    @property
    def shares(self) -> tuple[dict[str, float], ...]:
        """The shares at `steps`."""
        found = tuple(point.shares for point in self.points)
        return found[:1] * (len(self.steps) - len(found)) + found


class Distill(Document):
    """A loss that keeps a detector's answers near those of the run that it starts from.

    The cross-entropy between the two answers at a temperature, times its square (Li & Hoiem,
    Learning without Forgetting, TPAMI 2018; Hinton et al., 2015).

    Attributes:
        weight: of this loss, relative to that of the label; 0 for none.
        temperature: by which the logits of both are divided.
    """

    weight: float = Field(0.0, ge=0, le=1e6)
    temperature: float = Field(2.0, gt=0, le=1000)


class TensorBoard(Document):
    """What the TensorBoard log of a run shows beside curves; numbers are epochs in between.

    Attributes:
        histograms: epochs between histograms of the weights; 0 for none, true for 1.
        images: epochs between pictures of the validation images that are judged wrongly with the
            highest confidence; 0 for none, true for 1.
        embeddings: whether the features of validation images are written for the projector, at the
            end of the training.
    """

    histograms: int = Field(0, ge=0, le=MAX_EPOCHS)
    images: int = Field(0, ge=0, le=MAX_EPOCHS)
    embeddings: bool = False

    @field_validator("histograms", "images", mode="before")
    @classmethod
    def _every_epoch(cls, value: Any) -> Any:
        return int(value) if isinstance(value, bool) else value


THRESHOLD_RULES = ("balanced", "eer", "fpr_1", "fpr_5", "source_fpr_5")


ExportFormat = Literal[
    "saved_model",
    "saved_model_webp",
    "keras",
    "onnx",
    "onnx_float16",
    "litert",
    "litert_float16",
    "litert_int8",
    "openvino",
]
EXPORT_FORMATS: tuple[str, ...] = get_args(ExportFormat)


class Training(Document):
    """How the detector is trained.

    Attributes:
        epochs: number of epochs.
        stages: fine-tuning in several stages, each with a fresh optimizer and schedule:
            the head first, then more and more layers with smaller rates. They replace `epochs`
            and `model.freeze`.
        cache_features: with the whole backbone frozen, compute its features once, of so many
            differently augmented passes over the training split, and train the head on them.
        steps_per_epoch: batches per epoch; by default one pass over the training split.
        batch_size: images per step, over all devices together.
        accumulate: steps whose gradients are averaged before the weights change, for batches that
            do not fit into memory: a batch then has batch_size * accumulate images. The result is
            that of the larger batch, except for other random numbers of augmentation and dropout,
            and for batch normalization and losses of whole batches, which see batch_size images.
            For one device.
        loss: loss of the label; "cross_entropy", or one that is registered from outside.
        loss_options: keyword arguments of the loss's function.
        ema: momentum of an exponential moving average of the weights, such as 0.999; the average
            is what is validated and kept. 0 for none.
        monitor: metric of the validation split that picks the best epoch, and that early stopping
            and the plateau schedule watch; "iou" is the mask's, "loss" the label's log loss.
        early_stopping: end after so many epochs without improvement; null for never.
        threshold: P(fake) from which the verdict is fake, chosen on the validation split: the
            threshold of best "balanced" accuracy, of equal error rates ("eer"), of at most 1% or
            5% false positives ("fpr_1", "fpr_5"), of at most 5% on sources of authentic images
            not seen before ("source_fpr_5"; validation needs 19 named ones), or a number.
        precision: "auto" is half precision where the device computes in it, float32 elsewhere.
        deterministic: use deterministic kernels only; slower.
        checkpoint_minutes: minutes between the states that --resume needs, within an epoch.
        from_run: path of a run whose whole detector this one starts from; see
            `tfdetect train --from`.
        replay: fraction of each batch that is drawn from the training data of that run.
        distill: keeps the answers of that run.
        curriculum: shares of datasets or generators over the steps.
        tensorboard: histograms, images and embeddings in TensorBoard.
        export: formats in which the detector is exported, beside its Keras file; "onnx" lets
            `predict` answer without TensorFlow.
        track: trackers that get settings, metrics and the model: "mlflow", "wandb", or both.
    """

    epochs: int = Field(10, gt=0, le=MAX_EPOCHS)
    stages: tuple[Stage, ...] = ()
    cache_features: int = Field(0, ge=0, le=10_000)
    steps_per_epoch: int | None = Field(None, gt=0, le=100_000_000)
    batch_size: int = Field(32, gt=0, le=MAX_BATCH)
    accumulate: int = Field(1, gt=0, le=10_000)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Annotated[str, _registered(registry.LOSSES)] = "cross_entropy"
    loss_options: dict[str, Any] = {}
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema: float = Field(0.0, ge=0, lt=1)
    mask_loss: MaskLoss = MaskLoss()
    monitor: Literal["accuracy", "auc", "loss", "iou"] = "accuracy"
    early_stopping: int | None = Field(None, ge=0, le=MAX_EPOCHS)
    threshold: float | str = "balanced"
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    deterministic: bool = False
    checkpoint_minutes: float = Field(10.0, ge=0, le=1e6)
    from_run: str | None = None
    replay: float = Field(0.0, ge=0, lt=1)
    distill: Distill = Distill()
    curriculum: Curriculum = Curriculum()
    tensorboard: TensorBoard = TensorBoard()
    export: tuple[ExportFormat, ...] = ("saved_model", "onnx")
    track: tuple[Literal["mlflow", "wandb"], ...] = ()

    def steps_of_epoch(self, images: int) -> int:
        """Return the number of batches in one epoch.

        Args:
            images: number of images in one pass over the training data.
        """
        updates = max(1, round(images / (self.batch_size * self.accumulate)))
        return self.steps_per_epoch or updates * self.accumulate

    @model_validator(mode="before")
    @classmethod
    def _of_older_runs(cls, value: Any) -> Any:
        if isinstance(value, dict) and "tensorboard_histograms" in value:
            value = dict(value)
            histograms = value.pop("tensorboard_histograms")
            value.setdefault("tensorboard", {"histograms": histograms})
        return value

    @model_validator(mode="after")
    def _kept_in_one_way(self):
        if self.replay and self.curriculum.by:
            raise ValueError("use one of replay and curriculum: both say what is drawn how often")
        if self.distill.weight and self.cache_features:
            raise ValueError("distill reads images; it cannot be used with cache_features")
        return self

    @field_validator("threshold")
    @classmethod
    def _threshold(cls, value: float | str) -> float | str:
        if value in THRESHOLD_RULES or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError(f"must be {', '.join(THRESHOLD_RULES)} or a number between 0 and 1")


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
        return self

    @model_validator(mode="after")
    def _legal_size(self):
        backbone = registry.BACKBONES[self.model.backbone]
        smallest, multiple = backbone.min_size, backbone.multiple
        for size in self.data.image_size:
            side = size
            if self.model.front_end != "pixels":
                front_end = registry.FRONT_ENDS[self.model.front_end]
                side = front_end.output_side(size, self.model.front_end_options)
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


def load_experiment(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Load a shipped experiment by name, or a file by path.

    The plug-ins that it names are loaded.

    Args:
        name: of a shipped experiment, or the path of a YAML file.
        overrides: changes such as "training.epochs=5".

    Raises:
        UserError: unknown experiment, unknown key (names file, line and the
            nearest key) or illegal value.
    """
    path = find("experiment", "experiments", name)
    data = read_yaml(path)
    if isinstance(data.get("plugins"), list):
        data["plugins"] = [plugins.load_plugin(str(source)) for source in data["plugins"]]
    return _with_overrides(data, overrides, str(path), path)


def published() -> dict[str, Experiment]:
    """Return the shipped experiments that are published detectors, by name."""
    found = map(load_experiment, shipped_names("experiments"))
    return {experiment.name: experiment for experiment in found if experiment.published}


def load_model(name: str) -> Experiment:
    """Return a published detector's own experiment.

    Raises:
        UserError: no such detector.
    """
    if name not in shipped_names("experiments") or not load_experiment(name).published:
        raise unknown("detector", name, published())
    return load_experiment(name)


def with_model(experiment: Experiment, model: Experiment) -> Experiment:
    """Return the same data and training with another detector, at its own image size."""
    data = {"image_size": model.data.image_size, "resize": model.data.resize}
    return experiment.model_copy(update={
        "name": model.name, "description": model.description, "published": model.published,
        "model": model.model, "data": experiment.data.model_copy(update=data),
    })  # fmt: skip


def override(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Return the experiment with changes such as "training.epochs=5" applied."""
    if not overrides:
        return experiment
    return _with_overrides(experiment.as_data(), overrides, experiment.name)


def _with_overrides(
    data: dict[str, Any], overrides: Sequence[str], source: str, path: Path | None = None
) -> Experiment:
    plain = validate(Experiment, data, source, path)  # so that errors name the right place
    if not overrides:
        return plain
    data = plain.as_data()
    if any(text.startswith("model.backbone=") for text in overrides):
        data["model"]["options"] = {}  # they were another backbone's
    for text in overrides:
        _set(data, text)
    if any(text.startswith("plugins") for text in overrides) and isinstance(data["plugins"], list):
        data["plugins"] = [plugins.load_plugin(str(source)) for source in data["plugins"]]
    return validate(Experiment, data, ", ".join(overrides))


def _set(data: dict[str, Any], text: str) -> None:
    """Set the value that `KEY=VALUE` names; a part of the key is a key or a position in a list."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(
            f"A setting is KEY=VALUE, for example training.epochs=5. Received: {shortened(text)}."
        )
    node: Any = data
    parts = key.strip().split(".")
    for depth, name in enumerate(parts, 1):
        part: str | int = name
        if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            part = int(name)
        elif not isinstance(node, dict) or (part not in node and not key.startswith(_FREE)):
            choices = list(node) if isinstance(node, dict) else []
            above = "".join(f"{part}." for part in parts[: depth - 1])
            raise UserError(
                f"{text}: no key {above + name!r}.{nearest(name, map(str, choices), above)}"
                + (f" Keys there: {', '.join(map(str, choices))}." if choices else "")
            )
        if depth < len(parts):
            node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
    found = parse_yaml(value, f"{text:.80}")
    node[part] = _number(found) if isinstance(found, str) else found


def _number(text: str) -> str | float:
    # YAML 1.1 reads 1e-3 as text; a user means the number.
    try:
        found = float(text)
    except ValueError:
        return text
    return found if math.isfinite(found) else text
