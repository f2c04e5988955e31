"""`RunInfo`: the typed content of run.json, schema 2."""

from typing import Annotated, Final, Literal

from pydantic import Field, PositiveInt

from tfdetect.core.choices import TilePooling
from tfdetect.core.data_settings import Data, Equalize, Resize
from tfdetect.core.documents import Document, Name
from tfdetect.core.spec import MaskChannel

SCHEMA_VERSION: Final = 2
MAX_THRESHOLD = 1 + 2**-20  # just above the largest P(fake): from there on nothing is called fake
SIZE_TOLERANCE = 1.5  # factor on the training images' sides, within which an image is like them

Status = Literal["training", "interrupted", "complete", "converted"]


class View(Document):
    """How a detector reads an image: size, resizing, crops and encoding.

    Attributes:
        size: height and width in pixels.
        policy: how the image is brought to that size; see `imaging.geometry.resize`.
        crops: number of windows of the image whose outputs are averaged.
        equalize: how the image is cropped and encoded before; none leaves it as it is.
        tile_pooling: how P(fake) of an image follows from its tiles; see `Data`.
    """

    size: tuple[PositiveInt, PositiveInt]
    policy: Resize
    crops: int = Field(1, ge=1)
    equalize: Equalize | None = None
    tile_pooling: TilePooling = "max"

    @classmethod
    def of(cls, data: Data) -> "View":
        """Return the view of a detector that is trained with such settings."""
        return cls(
            size=data.image_size, policy=data.resize, crops=data.test_crops, equalize=data.equalize,
            tile_pooling=data.tile_pooling,
        )  # fmt: skip


# Products with logits stay finite in float32.
Coefficient = Annotated[float, Field(ge=-1e9, le=1e9)]


class Calibration(Document):
    """A monotone map from the logit that a detector computes to a calibrated logit.

    It is kept as it was fitted, so it assumes that `fake_fraction` of the images are fake;
    `RunInfo.prior` says for which fraction the run reports probabilities.

    Attributes:
        method: how it was fitted; "shift" is a shift alone.
        scale, shift: calibrated logit = scale * logit + shift, for temperature and Platt.
        knots: raw and calibrated logits between which isotonic regression interpolates.
        images: number of images that it was fitted on.
        fake_fraction: fraction of fakes among them.
        log_loss: before and after the calibration, in nats, on these images.
        dataset: name of these images where they are not the run's own validation images.
    """

    method: Literal["temperature", "platt", "isotonic", "shift"]
    scale: Coefficient = 1.0
    shift: Coefficient = 0.0
    knots: tuple[tuple[Coefficient, ...], tuple[Coefficient, ...]] | None = None
    images: int = Field(ge=1)
    fake_fraction: float = Field(gt=0, lt=1)
    log_loss: tuple[float, float]
    dataset: str = ""

    def shifted(self, by: float) -> "Calibration":
        """Return the calibration whose logits are higher by a constant."""
        if self.knots is None:
            return self.model_copy(update={"shift": self.shift + by})
        raw, calibrated = self.knots
        return self.model_copy(update={"knots": (raw, tuple(value + by for value in calibrated))})


class OperatingPoint(Document):
    """A threshold of P(fake) chosen on validation, and the rates that it gives there.

    Attributes:
        authentic, fakes: numbers of images that it was chosen on; none in older runs.
        dataset: name of the dataset that `calibrate` chose it on; "" for the run's own validation
            split; none in older runs.
    """

    threshold: float = Field(ge=0, le=MAX_THRESHOLD)
    fpr: float = Field(ge=0, le=1)
    tpr: float = Field(ge=0, le=1)
    authentic: int | None = Field(None, ge=1)
    fakes: int | None = Field(None, ge=1)
    dataset: str | None = None


class MaskThreshold(Document):
    """P(fake) from which the mask of an image is shown; below, its mask is empty.

    Attributes:
        empty: fraction of new authentic images, like those that it was chosen on, whose masks are
            empty, on average over such choices; none where somebody gave the threshold.
        empty_bound: the bound that 95 of 100 such choices keep.
        authentic: number of authentic images that it was chosen on.
        dataset: name of their dataset.
    """

    threshold: float = Field(ge=0, le=MAX_THRESHOLD)
    empty: float | None = Field(None, gt=0, lt=1)
    empty_bound: float | None = Field(None, ge=0, le=1)
    authentic: int | None = Field(None, ge=1)
    dataset: str = ""


class Adaptation(Document):
    """How a finished run was adapted to images of another kind.

    Attributes:
        kind: "threshold" where only the threshold was chosen, on authentic images alone; "shift"
            where one constant was added to the logits.
        dataset: name of the dataset that it was adapted to.
        authentic, fakes: numbers of its images.
        false_positive_rate: the false positive rate that the threshold promises for new authentic
            images like these, on average over such choices; none for a shift.
        rate_bound: the bound that 95 of 100 such choices keep; none for a shift.
        stricter: the operating point, or the number, that is the threshold because it is higher
            than what these images chose; None if these images chose the threshold.
        shift: the shift that was added to the calibrated logits; none for a threshold.
        shift_interval: its 95% interval.
        log_loss: before and after the shift, in nats, on these images.
        shorter_side, longer_side: the sides of these images: smallest, median and largest, in
            pixels; none in older runs.
        earlier: the last adaptation of the other kind, if it still has an effect.
    """

    kind: Literal["threshold", "shift"]
    dataset: Name
    authentic: int = Field(ge=0)
    fakes: int = Field(ge=0)
    false_positive_rate: float | None = Field(None, gt=0, lt=1)
    rate_bound: float | None = Field(None, ge=0, le=1)
    stricter: str | float | None = None
    shift: float | None = None
    shift_interval: tuple[float, float] | None = None
    log_loss: tuple[float, float] | None = None
    shorter_side: tuple[int, int, int] | None = None
    longer_side: tuple[int, int, int] | None = None
    earlier: "Adaptation | None" = None

    def of_kind(self, kind: Literal["threshold", "shift"]) -> "Adaptation | None":
        """Return the adaptation of a kind, this one or the earlier one; None if neither is."""
        found = next((a for a in (self, self.earlier) if a is not None and a.kind == kind), None)
        return found and found.model_copy(update={"earlier": None})


class AbstentionBand(Document):
    """P(fake) from `low` up to, not including, `high`: the verdict is "inconclusive".

    Attributes:
        error_rate: fraction of authentic images at or above `high`, and of fakes below `low`,
            that was allowed on validation.
        coverage: fraction of the validation images that were outside of the band when it was
            chosen. `calibrate` on authentic images alone may raise its upper end afterwards.
    """

    low: float
    high: float
    error_rate: float = Field(gt=0, lt=1)
    coverage: float = Field(ge=0, le=1)


class TrainingImages(Document):
    """The kinds of training images, by which images of other kinds are recognized.

    Attributes:
        generators, formats: most frequent first.
        shorter_side, longer_side: smallest, median and largest, in pixels. The longer side is none
            in older runs.
    """

    generators: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    shorter_side: tuple[int, int, int] | None = None
    longer_side: tuple[int, int, int] | None = None


class MaskCoverage(Document):
    """How much of the images of one class their masks cover.

    Attributes:
        count: number of masks.
        empty: those without an altered pixel. A fake with such a mask counts as one whose altered
            pixels are not known.
        full: those in which every pixel is altered.
        missing: number of fakes without a mask, whose altered pixels are not known either.
        quantiles: smallest, quartiles and largest fraction of altered pixels, 0 to 1; none
            without masks.
    """

    count: int = Field(ge=0)
    empty: int = Field(0, ge=0)
    full: int = Field(0, ge=0)
    missing: int = Field(0, ge=0)
    quantiles: tuple[float, float, float, float, float] | None = None


class MaskInfo(Document):
    """The masks of one dataset: how they are read, and how much they cover.

    Attributes:
        channel, values, inverted: as mask_channel, mask_values and mask_inverted of a dataset
            spec.
        bits: the number of bits of a value, 8 or 16.
        detected: whether channel or values were detected, not given by the spec.
        coverage: by class.
        resized: number of masks that are resized to their images.
        orphans: number of mask files that belong to no image.
    """

    channel: MaskChannel = "gray"
    values: tuple[int, int] = (0, 255)
    inverted: bool = False
    bits: Literal[8, 16] = 8
    detected: bool = False
    coverage: dict[str, MaskCoverage] = {}
    resized: int = 0
    orphans: int = 0


class DatasetInfo(Document):
    """The data of a training.

    Attributes:
        roots: directory of the dataset, or of each part of a union, at that time.
        fingerprint: hex digest of every file's path, content, label and split.
        counts: number of images by split and class.
        skipped: number of images that could not be used.
        left_out: number of images in its folders that are no part of it.
        other_files: number of files in its folders that are no images.
        masks: the masks of each dataset that has masks, by its name.
    """

    name: str
    fingerprint: str
    roots: dict[str, str] = {}
    counts: dict[str, dict[str, int]] = {}
    skipped: int = 0
    left_out: int = 0
    other_files: int = 0
    warnings: tuple[str, ...] = ()
    training_images: TrainingImages | None = None
    masks: dict[str, MaskInfo] = {}


class Domain(Document):
    """Where the features of an image are unlike those of the training images.

    The distance is `core.feature_distance.FeatureDistance`; its arrays are in domain.npy.

    Attributes:
        limit: distance beyond which an image is outside of the detector's domain.
        rest: see `FeatureDistance`.
        false_alarm_rate: fraction of images like those of validation that lie beyond the limit.
        training_images, validation_images: numbers of images that the distance was fitted to, and
            that the limit was chosen on.
    """

    limit: float = Field(gt=0, allow_inf_nan=False)
    rest: float = Field(gt=0, allow_inf_nan=False)
    false_alarm_rate: float = Field(gt=0, lt=1)
    training_images: int = Field(ge=1)
    validation_images: int = Field(ge=1)


class Ancestor(Document):
    """The run that a training started from, as it was at that time.

    Attributes:
        name: the name of the run.
        model: first 16 hex digits of the SHA-256 of its model.keras.
        dataset: name of its dataset.
        fingerprint: the fingerprint of that dataset; see `DatasetInfo`.
        datasets: names of the dataset's parts, by which the images of a replay are known.
        replay: fraction of each batch that was drawn from that dataset.
        distill: weight of the loss that kept its answers.
    """

    name: Name
    model: str
    dataset: str
    fingerprint: str
    datasets: tuple[str, ...] = ()
    replay: float = Field(0.0, ge=0, lt=1)
    distill: float = Field(0.0, ge=0)


class Teacher(Document):
    """The run whose answers a training learned besides the labels.

    Attributes:
        name: the name of the run.
        model: first 16 hex digits of the SHA-256 of its model.keras.
        weight, temperature, asked: the settings of the loss; see `Distill`.
    """

    name: Name
    model: str
    weight: float = Field(gt=0)
    temperature: float = Field(gt=0)
    asked: Literal["each_step", "once"] = "each_step"


class PublishedWeights(Document):
    """The file that a run was converted from.

    Attributes:
        file: its name.
        sha256: the SHA-256 of its bytes, hex digits.
    """

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class RunInfo(Document):
    """Everything that a run records about itself in run.json.

    Attributes:
        schema_version: the version of the schema of this document.
        status: "training" while it is trained; "complete"; "interrupted" after Ctrl-C;
            "converted" from published weights.
        class_names: in label order; index 0 is the authentic class.
        views: what the detector sees of an image; an ensemble may have several views.
        predicts_masks: whether the detector predicts which pixels were altered.
        flips: whether the outputs of an image and of its mirror image are averaged.
        pretraining: whether the run was trained on what images show, not on fakes; such a run is
            only for `model.weights`.
        threshold: P(fake) from which the verdict is fake.
        prior: fraction of fakes that P(fake), thresholds and band assume; none if uncalibrated.
        calibration: from the detector's logit to P(fake), as it was fitted; none if uncalibrated.
        operating_points: thresholds by name, such as "fpr_1", chosen on validation.
        abstention_band: P(fake) for which the verdict is inconclusive; none if too few
            validation images allow one.
        mask_threshold: P(fake) from which masks are shown; none where all are, and in older runs.
        adaptation: how the run was adapted to other images after its training; None if it was not.
        domain: how images unlike the training images are recognized by their features; none if
            there are too few images, or the training images were not at hand.
        dataset: the data of the training.
        published_weights: the published weights that the run was converted from; none of a run that
            was trained.
        fusion: how the members of an ensemble are fused.
        members: names of the runs that an ensemble was fused from; empty for other runs.
        cross_fitted: for an ensemble, whether calibration, thresholds, band and figures are based
            on scores of validation images by fusions that were fitted without their groups; none
            of other runs, and of ensembles of earlier versions.
        lineage: the run that the training started from, the one that this started from, and so on.
        teacher: another run whose answers it learned.
        epochs: number of epochs trained.
        best: best value of the monitored metric on validation.
        diverged: number of the epoch in which loss or predictions became infinite or nan, so that
            the training ended and the best epoch before it was kept; None if they did not.
        training_seconds: time of the training, without evaluation.
        parameters: number of parameters of the detector.
        precision: the precision of the training, as Keras's policies are called.
        stopped_early: a search stopped this trial.
        seed: the seed of initialization, order and augmentation.
        devices: the devices that trained.
        command: the command that repeats the training.
        created: date and time in UTC, ISO 8601.
        versions: the versions of the packages that matter, by name.
        git_revision: the git revision of the source code; none outside of a repository.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    status: Status
    class_names: tuple[Name, ...] = Field(min_length=2)
    views: tuple[View, ...] = Field(min_length=1)
    predicts_masks: bool = False
    flips: bool = False
    pretraining: bool = False
    threshold: float = Field(0.5, ge=0, le=MAX_THRESHOLD)
    prior: float | None = Field(None, gt=0, lt=1)
    calibration: Calibration | None = None
    operating_points: dict[str, OperatingPoint] = {}
    abstention_band: AbstentionBand | None = None
    mask_threshold: MaskThreshold | None = None
    adaptation: Adaptation | None = None
    domain: Domain | None = None
    dataset: DatasetInfo
    published_weights: PublishedWeights | None = None
    fusion: str | None = None
    members: tuple[str, ...] = ()
    cross_fitted: bool | None = None
    lineage: tuple[Ancestor, ...] = ()
    teacher: Teacher | None = None
    epochs: int | None = None
    best: float | None = None
    diverged: int | None = None
    training_seconds: int | None = None
    parameters: int | None = None
    precision: str | None = None
    stopped_early: bool = False
    seed: int = 0
    devices: str = "-"
    command: str = ""
    created: str = ""
    versions: dict[str, str] = {}
    git_revision: str | None = None
