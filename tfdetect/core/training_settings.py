"""The section `training` of an experiment: how the detector is trained, chosen and exported."""

import itertools
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tfdetect.core import registry
from tfdetect.core.choices import ExportFormat
from tfdetect.core.documents import Document
from tfdetect.core.model_settings import Freeze
from tfdetect.core.plugins import registered

# Numbers beyond these are slips of the pen; most end in a memory error or a night without result.
MAX_EPOCHS, MAX_BATCH = 100_000, 65_536


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
            raise ValueError("the steps of the points must ascend")
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
    """A loss that keeps a detector's answers near those of another run, its teacher.

    The cross-entropy between the two answers at a temperature, times its square (Hinton et al.,
    2015; with the run that a training starts from, Li & Hoiem, Learning without Forgetting, TPAMI
    2018).

    Attributes:
        weight: the weight of this loss, relative to that of the label; 0 for none.
        temperature: divisor of the logits of both.
        teacher: name or path of a run of the same classes, an ensemble for example; by default the
            run that the training starts from.
        asked: "each_step": the teacher computes its answers of the augmented images of each batch,
            so that it must see images as the detector does. "once": of each image as it is, before
            the training; it may see images in any way, as the members of an ensemble do, and steps
            take no longer. Augmentation must not mix images then.
    """

    weight: float = Field(0.0, ge=0, le=1e6)
    temperature: float = Field(2.0, gt=0, le=1000)
    teacher: str | None = None
    asked: Literal["each_step", "once"] = "each_step"

    @model_validator(mode="after")
    def _teacher_is_heard(self):
        if self.teacher is not None and not self.weight:
            raise ValueError("with a teacher, distill.weight must be above 0: 1, for example")
        if self.asked == "once" and self.teacher is None:
            raise ValueError("asked: once needs a run that is asked: name it with distill.teacher")
        return self


class TensorBoard(Document):
    """What the TensorBoard log of a run shows beside curves; numbers are epochs in between.

    Attributes:
        histograms: epochs between histograms of the weights; 0 for none, true for 1.
        images: epochs between pictures of the validation images that are misclassified with the
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
        precision: "auto" is half precision where the device computes faster in it, else float32.
        deterministic: use deterministic kernels only; slower.
        checkpoint_minutes: minutes between the states that --resume needs, within an epoch.
        from_run: path of a run whose whole detector this one starts from; see
            `tfdetect train --from`.
        replay: fraction of each batch that is drawn from the training data of that run.
        distill: keeps the answers of that run, or of another one.
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
    loss: Annotated[str, registered(registry.LOSSES)] = "cross_entropy"
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

    @property
    def total_epochs(self) -> int:
        """Number of epochs of the whole training, of all stages together."""
        return sum(stage.epochs for stage in self.stages) or self.epochs

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
