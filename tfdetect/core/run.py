"""`Run`: the folder that one training leaves behind. Reading one needs no TensorFlow.

Layout (schema 2):

    run.json             `RunInfo`: status, classes, views, calibration, dataset, versions, ...
    experiment.yaml      the resolved experiment; of an ensemble, ensemble.yaml: its members
    dataset.yaml         the dataset spec
    history.csv          one row an epoch
    model.keras          the best model (Keras); may be missing where exports/ has an ONNX file
    detector.onnx        an ONNX export that reads its weights from model.keras
    saved_model/         the same model for TensorFlow alone
    predictions/         <split>.parquet, one row an image
    metrics.json         metrics with intervals, by split
    transfer.json        of a run that started from another one: gain and forgetting
    figures/ report.html model_card.md
    skipped.csv          files that could not be read, with the reason
    logs/                training log and TensorBoard events
    state/               what --resume needs; gone when training is complete

A run is written as `<name>.partial` and renamed when whole.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError, nearest
from tfdetect.core.experiment import Experiment
from tfdetect.core.metric import Splits, metrics_of
from tfdetect.core.model_hubs import source_of
from tfdetect.core.packages import full_command
from tfdetect.core.parsing import read_object, read_text, read_yaml
from tfdetect.core.probability import add_to_logit, logit
from tfdetect.core.run_info import (
    SIZE_TOLERANCE,
    Calibration,
    MaskThreshold,
    RunInfo,
    View,
)
from tfdetect.core.run_migration import current_spec, migrate_experiment, migrate_spec
from tfdetect.core.run_results import SplitResults, Transfer
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import to_os, user_path

PARTIAL = ".partial"
TRANSFER = "transfer.json"
SHARED_ONNX = "detector.onnx"  # an ONNX export that reads its weights from model.keras
SHARED_DIGESTS = "tfdetect_files"  # its metadata entry: SHA-256 of the files it reads, by name
ONNX_FILES = ("exports/detector.onnx", SHARED_ONNX, "exports/detector_float16.onnx")
LOSSLESS = ("PNG", "BMP", "TIFF")  # formats that keep every pixel
MAX_AUTHENTIC = 0.499  # highest P(altered) of a pixel where no mask is shown


def partial_path(path: Path) -> Path:
    """Return where a run is written until it is finished, by its final path."""
    return path.with_name(path.name + PARTIAL)


def final_path(path: Path) -> Path:
    """Return the final path of a run, by that path or by its `partial_path`."""
    return path.with_name(path.name.removesuffix(PARTIAL))


class SideLimits(NamedTuple):
    """The sizes of images that a detector was made for, in pixels.

    Attributes:
        low, high: the shortest and the longest shorter side.
        longest: the longest longer side; none where it is not known.
    """

    low: float
    high: float
    longest: float | None


@dataclass(frozen=True)
class Run:
    """A run's folder and its `run.json`. Immutable: the `with_` methods return new ones.

    Attributes:
        migrated: whether the files in the folder are of schema 1.
    """

    path: Path
    info: RunInfo
    migrated: bool = False

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.info.status}, classes {', '.join(self.class_names)})"

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(PARTIAL)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order; index 0 is authentic."""
        return self.info.class_names

    @property
    def threshold(self) -> float:
        """P(fake) from which the verdict is fake."""
        return self.info.threshold

    @property
    def mask_threshold(self) -> float:
        """P(fake) from which the mask of an image is shown; 0 where every mask is."""
        chosen = self.info.mask_threshold
        return 0.0 if chosen is None else chosen.threshold

    @property
    def calibration(self) -> Calibration | None:
        """The calibration at the run's prior: what turns a raw logit into the reported one."""
        fitted, prior = self.info.calibration, self.info.prior
        if fitted is None or prior is None:
            return fitted
        return fitted.shifted(logit(prior) - logit(fitted.fake_fraction))

    @property
    def abstention_band(self) -> tuple[float, float]:
        """Lower and upper end of the P(fake) with inconclusive verdicts; equal if there are none.

        The band contains the threshold, also one that was chosen after it: no verdict is
        conclusive between the two.
        """
        band = self.info.abstention_band
        if band is None:
            return self.threshold, self.threshold
        return min(band.low, self.threshold), max(band.high, self.threshold)

    @property
    def in_domain_formats(self) -> tuple[str, ...]:
        """Formats of files in the domain of the detector; empty if formats are not compared.

        They are the formats of the training images. All lossless formats count as one, and WebP
        counts as lossless and as lossy. Formats are not compared if every image gets the same
        encoding (`data.equalize`).
        """
        training = self.info.dataset.training_images
        if training is None or all(view.equalize is not None for view in self.views):
            return ()
        lossless = LOSSLESS if {*LOSSLESS, "WEBP"} & set(training.formats) else ()
        return tuple(dict.fromkeys((*training.formats, *lossless)))

    @property
    def in_domain_sides(self) -> SideLimits | None:
        """The sizes of images in the domain of the detector.

        They follow from the training images and the images that the run was adapted to. None if
        the sizes of the training images are not recorded.
        """
        training, adapted = self.info.dataset.training_images, self.info.adaptation
        if training is None or training.shorter_side is None:
            return None
        known = [(training.shorter_side, training.longer_side)]
        while adapted is not None:
            if adapted.shorter_side is not None:
                known.append((adapted.shorter_side, adapted.longer_side))
            adapted = adapted.earlier
        low, high = min(s[0] for s, _ in known), max(s[2] for s, _ in known)
        longer = [side[2] for _, side in known if side is not None]
        longest = max(longer) * SIZE_TOLERANCE if len(longer) == len(known) else None
        return SideLimits(low / SIZE_TOLERANCE, high * SIZE_TOLERANCE, longest)

    @property
    def roots(self) -> dict[str, Path]:
        """Directory of each dataset when the run was trained, or the local copy of its address."""
        return {name: user_path(to_os(root)) for name, root in self.info.dataset.roots.items()}

    @property
    def views(self) -> tuple[View, ...]:
        """What the detector sees of an image; an ensemble may have several views."""
        return self.info.views

    @property
    def is_ensemble(self) -> bool:
        return (self.path / "ensemble.yaml").is_file()

    @property
    def predicts_masks(self) -> bool:
        """Whether the detector predicts which pixels were altered."""
        return self.info.predicts_masks

    @property
    def document(self) -> str:
        """The YAML document that the run was made from: its experiment, or its members."""
        name = "ensemble" if self.is_ensemble else "experiment"
        return read_text(self.path / f"{name}.yaml")

    @property
    def source(self) -> str | None:
        """Address of a run that was fetched from a hub, with its commit or version."""
        return source_of(self.path)

    def public_info(self) -> RunInfo:
        """Return the `RunInfo` without facts about the machine of the training."""
        dataset = self.info.dataset.model_copy(update={"roots": {}, "warnings": ()})
        return self.info.model_copy(update={"dataset": dataset, "command": "", "devices": "-"})

    @property
    def onnx_path(self) -> Path | None:
        """The ONNX export that is used for predictions; None if there is none.

        Single precision is preferred. An export that reads its weights from the Keras model is not
        used if that model is missing.
        """
        lacking = () if self.model_path.is_file() else (SHARED_ONNX,)
        files = (self.path / name for name in ONNX_FILES if name not in lacking)
        return next(filter(Path.is_file, files), None)

    @property
    def model_path(self) -> Path:
        return self.path / "model.keras"

    def experiment(self) -> Experiment:
        """Return the experiment of the training.

        Raises:
            UserError: the run is an ensemble, which has none of its own.
        """
        path = self.path / "experiment.yaml"
        data = read_yaml(path)
        if self.migrated:
            return validate(Experiment, migrate_experiment(data), str(path))
        return validate(Experiment, data, str(path), path)

    def dataset_spec(self) -> DatasetSpec:
        """Return the spec of the dataset that the run was trained on.

        Raises:
            UserError: the run was trained on no dataset that is known here.
        """
        path = self.path / "dataset.yaml"
        if not path.is_file():
            raise UserError(
                f"{self.name} was trained on no dataset that is known here. Give --dataset."
            )
        data = read_yaml(path)
        if self.migrated:
            return validate(DatasetSpec, migrate_spec(data), str(path))
        return validate(DatasetSpec, current_spec(data), str(path), path)

    @property
    def transfer(self) -> Transfer | None:
        """Gain and forgetting of a run that started from another one; None of other runs."""
        path = self.path / TRANSFER
        return cast(Transfer, read_object(path)) if path.is_file() else None

    @property
    def results(self) -> SplitResults:
        """The content of metrics.json, {} before the first evaluation."""
        path = self.path / "metrics.json"
        return cast(SplitResults, read_object(path)) if path.is_file() else {}

    @property
    def metrics(self) -> Splits:
        """The metrics of each split by name: `run.metrics["test"]["auc"]`.

        A name that is not there is a `UserError`, and a KeyError, that lists those that are.
        """
        return metrics_of(self.results)

    def with_info(self, **changes: Any) -> "Run":
        """Return the same run with other values in its `RunInfo`; nothing is written."""
        data = self.info.model_dump() | changes
        return replace(self, info=RunInfo.model_validate(data))

    def with_threshold(self, threshold: float | str | None) -> "Run":
        """Return the same run with another verdict threshold.

        Args:
            threshold: P(fake) in [0, 1], the name of an operating point, or none for no change.

        Raises:
            UserError: the run has no operating point of that name, or the number is out of range.
        """
        if threshold is None:
            return self
        if isinstance(threshold, str):
            points = self.info.operating_points
            if threshold not in points:
                raise UserError(
                    f"{self.name} has no operating point {threshold!r}."
                    f"{nearest(threshold, points)} It has: "
                    f"{', '.join(points) or 'none'}. They are chosen when the run is calibrated; "
                    "fpr_1 needs at least 100 authentic images, fpr_5 20, source_fpr_5 19 named "
                    "sources of them, and cost a price: "
                    f"{full_command('calibrate', self.path, dataset='MORE_IMAGES')}"
                )
            threshold = points[threshold].threshold
        elif not 0 <= threshold <= 1:
            raise UserError(f"A threshold of P(fake) lies between 0 and 1. Received: {threshold}.")
        return self.with_info(threshold=threshold)

    def with_mask_threshold(self, threshold: float | None) -> "Run":
        """Return the same run whose masks are shown from another P(fake) on.

        Args:
            threshold: P(fake) in [0, 1]; 0 shows every mask; none for no change.

        Raises:
            UserError: the run predicts no masks, or the number is out of range.
        """
        if threshold is None:
            return self
        if not self.predicts_masks:
            raise UserError(
                f"{self.name} predicts no masks; leave out the mask threshold, or "
                "choose a run that predicts them, such as localizer_photos."
            )
        if not 0 <= threshold <= 1:
            raise UserError(
                f"A mask threshold of P(fake) lies between 0 and 1. Received: {threshold}."
            )
        return self.with_info(mask_threshold=MaskThreshold(threshold=threshold))

    def with_prior(self, prior: float | str | None) -> "Run":
        """Return the same run for images of which a fraction `prior` is fake.

        P(fake) moves, and with it the thresholds, the operating points and the abstention band:
        they separate the same images as before.

        Args:
            prior: fraction in (0, 1); "validation" for the fraction among the images that the
                run was calibrated on; none for no change.

        Raises:
            UserError: the run is not calibrated, or the fraction is out of range.
        """
        if prior is None:
            return self
        fitted = self.info.calibration
        if fitted is None or self.info.prior is None:
            raise UserError(
                f"{self.name} is not calibrated, so a prior has no meaning for it. Calibrate it, "
                "on other labeled images (--dataset) if its validation images were too few, with: "
                f"{full_command('calibrate', self.path)}"
            )
        if isinstance(prior, str):
            if prior != "validation":
                raise UserError(f"A prior is a number or 'validation'. Received: {prior!r}.")
            prior = fitted.fake_fraction
        if not 0 < prior < 1:
            raise UserError(f"A prior lies between 0 and 1. Received: {prior}.")
        more = logit(prior) - logit(self.info.prior)

        band = self.info.abstention_band
        if band is not None:
            low, high = add_to_logit(band.low, more), add_to_logit(band.high, more)
            band = band.model_copy(update={"low": low, "high": high})
        return self.with_info(
            prior=prior, threshold=add_to_logit(self.threshold, more), abstention_band=band,
            **self.shifted_thresholds(more),
        )  # fmt: skip

    def shifted_thresholds(self, by: float) -> dict[str, Any]:
        """Return operating points and mask threshold after a constant is added to all logits.

        They separate the same images as before.
        """

        def at(point: Any) -> Any:
            return point.model_copy(update={"threshold": add_to_logit(point.threshold, by)})

        points, masks = self.info.operating_points, self.info.mask_threshold
        return {
            "operating_points": {name: at(point) for name, point in points.items()},
            "mask_threshold": masks and at(masks),
        }

    def with_views(self, crops: int | None = None, flips: bool = False) -> "Run":
        """Return the same run, to predict on other views of each image.

        Args:
            crops: number of windows of an image whose probabilities are averaged; none for no
                change.
            flips: average over the image and its mirror image.

        Raises:
            UserError: the run cannot do so.
        """
        changes: dict[str, Any] = {}
        if crops is not None:
            if len(self.views) > 1:
                raise UserError(
                    f"The members of {self.name} crop their own windows; leave out --crops."
                )
            [view] = self.views
            if crops > 1 and self.predicts_masks:
                raise UserError(
                    f"{self.name} predicts masks and reads whole images in tiles; use --crops=1."
                )
            if crops > 1 and not cuts_windows(view.policy):
                raise UserError(
                    "--crops works for runs that crop windows (data.resize: window_tile or "
                    f"window_pad); {self.name} was trained with {view.policy}."
                )
            changes["views"] = (view.model_copy(update={"crops": crops}),)
        if flips:
            if self.predicts_masks:
                raise UserError(f"{self.name} predicts masks; leave out --flips.")
            changes["flips"] = True
        return self.with_info(**changes) if changes else self
