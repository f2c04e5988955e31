"""The columns of predictions, from the outputs of a detector. TensorFlow is not imported."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tfdetect.core import console
from tfdetect.core.columns import Column, Table, with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.feature_distance import FeatureDistance
from tfdetect.core.probability import EPSILON, SMALLEST
from tfdetect.core.process import Terminated, stopped_by
from tfdetect.core.run import Run
from tfdetect.core.text import counted
from tfdetect.data.training_hashes import TrainingHashes
from tfdetect.evaluation.domain import domain_columns, update_domain
from tfdetect.evaluation.mask_metrics import BINS, THRESHOLD, count_pixels
from tfdetect.evaluation.verdicts import (
    calibrated,
    is_fake,
    is_inconclusive,
    mask_is_shown,
    shown_mask,
)
from tfdetect.imaging.facts import Facts

if TYPE_CHECKING:
    import pyarrow as pa

NOT_A_NUMBER = (
    "the detector's output is NaN (not a number): it diverged, or its weights are damaged"
)
_USUAL = 0.95  # fraction of logits that are not clipped to fit a calibration
_CPU_PIXELS = 8 * 224 * 224  # of a batch


@dataclass(frozen=True)
class MaskPrediction:
    """The mask that a detector predicts for one image.

    Attributes:
        index: number of the image in its source.
        image: uint8 [H, W, 3].
        altered: P(altered), float32 [H, W].
        truth: uint8 [H, W], 1 where altered; all 0 where no truth was given.
    """

    index: int
    image: np.ndarray
    altered: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class ScoredBatch:
    """The outputs of a detector for some images of a source.

    Attributes:
        indices: numbers of the images in the source, int64 [b].
        table: class probabilities before calibration, float32 [b, C].
        facts: int64 [b, 5]; see `facts_in_graph`.
        features: float32 [b, F]; None of a detector without `with_features`.
        masks: one for each image, of a detector that predicts masks.
    """

    indices: np.ndarray
    table: np.ndarray
    facts: np.ndarray
    features: np.ndarray | None
    masks: Sequence[MaskPrediction] = ()


def cpu_batch(run: Run, batch_size: int) -> int:
    """Return the number of images that the CPU computes at once, at most `batch_size`.

    More are not faster there, and Ctrl-C waits for the end of a batch.
    """
    pixels = sum(view.crops * math.prod(view.size) for view in run.views)
    return max(1, min(batch_size, _CPU_PIXELS // pixels))


@contextmanager
def rows_kept(on_stop: Callable[[Table], None] | None, rows: Callable[[], Table]) -> Iterator[None]:
    """Pass on the finished rows if a signal, such as Ctrl-C, ends the work in this context.

    Args:
        on_stop: called with them; those of images that were not reached have neither P(fake) nor
            an error.
        rows: returns them.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | Terminated) or stopped_by(error)
        if stopped and on_stop is not None:
            on_stop(rows())
        raise


class PredictionColumns:
    """Collects the outputs of a detector for images, and makes a table of them.

    Args:
        run: says how images are calibrated and classified.
        count: number of images.
        masks: whether the detector predicts masks.
        mask_known: bool [n], whether an image's true mask is known; none without the truth.
        on_mask: called with each predicted mask, which is empty where P(fake) is below the run's
            mask threshold.
    """

    def __init__(
        self,
        run: Run,
        count: int,
        masks: bool,
        mask_known: np.ndarray | None = None,
        on_mask: Callable[[MaskPrediction], None] | None = None,
    ):
        self._run, self._on_mask = run, on_mask
        self._raw = np.full((count, len(run.class_names)), np.nan, np.float32)
        self._undefined = np.zeros(count, bool)
        self._distances = np.full(count, np.nan, np.float32)
        self._facts = Facts.empty(count)
        self._masks = _MaskColumns(count, mask_known) if masks else None
        self._distance, self._hashes = _parts_of(run)

    def add(self, batch: ScoredBatch) -> None:
        """Add some images."""
        self._raw[batch.indices] = batch.table
        self._undefined[batch.indices] = np.isnan(batch.table).max(axis=1)
        self._facts.add(batch.indices, batch.facts)
        if self._distance is not None and batch.features is not None:
            self._distances[batch.indices] = self._distance(batch.features)
        if self._masks is None:
            return
        p_fake = calibrated(batch.table, self._run.calibration)[:, 1:].sum(axis=1)
        for mask, p in zip(batch.masks, p_fake):
            self._masks.add(mask)
            if self._on_mask is not None:
                altered = shown_mask(mask.altered, p, self._run.mask_threshold)
                self._on_mask(replace(mask, altered=altered))

    @property
    def missing(self) -> np.ndarray:
        """Images that were not added, or whose probabilities are no numbers, bool [n]."""
        return np.isnan(self._raw).max(axis=1)

    def check_defined(self) -> None:
        """Check that the detector answers in numbers, before its answers are measured.

        Images without one count as unreadable, with a warning.

        Raises:
            UserError: it does so for no image that could be read.
        """
        count, answers = int(self._undefined.sum()), int((~self.missing).sum())
        what = f"The output of {self._run.name} is NaN (not a number) for"
        if count and not answers:
            raise UserError(
                f"{what} all of {counted(count, 'image')}. Its training diverged, or its weights "
                "are damaged: train again with a lower learning rate, or copy the run again."
            )
        if count:
            console.warn(
                f"{what} {count:,} of {count + answers:,} images, which are counted as unreadable."
            )

    @property
    def logits(self) -> np.ndarray:
        """Logits of P(fake) before calibration, float32 [n]; nan where an image was not added.

        They differ where P(fake) is rounded to 0 or 1.
        """
        smallest = np.finfo(np.float32).tiny
        fake, authentic = self._raw[:, 1:].sum(axis=1), self._raw[:, 0]
        return np.log(np.maximum(fake, smallest)) - np.log(np.maximum(authentic, smallest))

    def table(
        self,
        errors: Sequence[str | None],
        from_pixels: Sequence[bool] = (),
        own_validation: bool = False,
    ) -> Table:
        """Return the table.

        Args:
            errors: why images are missing; of those without finite probabilities it is
                `NOT_A_NUMBER`.
            from_pixels: whether each file was written by tfdetect from an array of pixels, whose
                format says nothing; by default none was.
            own_validation: whether these are the validation images of the run itself, which are
                no copies of themselves.

        Returns:
            One row for each image, in order:

            - p_fake: float32, P(fake); null where the image cannot be read
            - p_fake_raw: float32, P(fake) before calibration
            - probability_<class>: float32, for each class
            - verdict: a class name
            - inconclusive: bool, whether P(fake) is inside the abstention band
            - in_domain: bool, whether the image is like the training images; null where not known
            - domain_reasons: in what it is unlike them, such as "size, features"; "" in nothing
            - feature_distance: float32, how far its features are from theirs; null where not known
            - duplicate_of_train: bool, whether the run was trained or selected on the image or on a
              copy of it; null where the run has no hashes of its training images
            - error: the reason why the image cannot be read or classified, or null

            If the detector predicts masks also altered_fraction, the fraction of pixels with
            P(altered) of at least 0.5 (0 where the mask is not shown); with the truth also
            mask_shown, whether P(fake) reaches the run's mask threshold, and altered_histogram
            and authentic_histogram, the numbers of truly altered and authentic pixels by
            P(altered), whether shown or not, int32 [BINS], null where the truth is not known.
        """
        missing, facts = self.missing, self._facts
        errors = [NOT_A_NUMBER if undefined else error
                  for undefined, error in zip(self._undefined, errors, strict=True)]  # fmt: skip
        formats = facts.formats()
        formats[np.flatnonzero(from_pixels)] = None
        columns = _label_columns(self._run, self._raw, missing)
        columns |= domain_columns(self._run, facts.sides, formats, self._distances, missing)
        columns["duplicate_of_train"] = _duplicates(self._hashes, facts, missing, own_validation)
        if self._masks:
            shown = mask_is_shown(columns["p_fake"].values, self._run.mask_threshold)
            columns |= self._masks.columns(shown, missing)
        return Table(columns | {"error": Column.texts(errors)})


def check_parts(run: Run) -> None:
    """Check the files by which a run compares images with those of its training.

    Raises:
        UserError: one of them is missing or damaged.
    """
    _parts_of(run)


def _parts_of(run: Run) -> tuple[FeatureDistance | None, TrainingHashes | None]:
    """Return the distance from the training images and their hashes, as far as a run has them."""
    distance = None
    if run.info.domain is not None:
        distance = FeatureDistance.load(run.path, run.info.domain.rest)
    return distance, TrainingHashes.load(run.path)


def _duplicates(
    hashes: TrainingHashes | None, facts: Facts, missing: np.ndarray, own_validation: bool
) -> Column:
    """Return the column duplicate_of_train, as far as the run's hashes tell."""
    if hashes is None:
        return Column.missing_bools(len(missing))
    return Column(hashes.contain(facts.hashes, not own_validation), missing)


def recalibrate(table: "pa.Table", run: Run, sides: np.ndarray | None = None) -> "pa.Table":
    """Return the predictions of a run without calibration as the same run, calibrated, makes them.

    Args:
        table: from `predict_source`, by `uncalibrated(run)`.
        run: the run with the calibration, threshold and abstention band that are wanted.
        sides: see `update_domain`.
    """
    raw, missing = _class_probabilities(table, run)
    columns = _label_columns(run, raw, missing) | update_domain(table, run, sides)
    columns |= _shown_columns(run, table, columns["p_fake"].values, missing)
    return with_columns(table, **{name: column.to_arrow() for name, column in columns.items()})


def with_verdicts_of_run(table: "pa.Table", run: Run) -> "pa.Table":
    """Return predictions with the verdicts that a run gives to their probabilities as they are.

    Args:
        table: from a run with this calibration, with every mask's fraction as if it were shown.
        run: the run with the threshold, abstention band and mask threshold that are wanted.
    """
    probabilities, missing = _class_probabilities(table, run)
    p_fake = table["p_fake"].to_numpy(zero_copy_only=False)
    columns = _verdict_columns(run, probabilities, p_fake, missing) | update_domain(table, run)
    columns |= _shown_columns(run, table, p_fake, missing)
    return with_columns(table, **{name: column.to_arrow() for name, column in columns.items()})


def uncalibrated(run: Run) -> Run:
    """Return the run without calibration, so that P(fake) is the detector's own score.

    It shows every mask.
    """
    return run.with_info(
        calibration=None, prior=None, operating_points={}, abstention_band=None, mask_threshold=None
    )


def raw_logits(table: "pa.Table", run: Run) -> np.ndarray:
    """Return the logits of P(fake) in predictions of a run without calibration, float64 [n].

    They are clipped to 16, or to what 95% of them do not exceed, so that a few certain images do
    not decide what is fitted to them, and many do.
    """
    raw, _ = _class_probabilities(table, run)
    fake, authentic = raw[:, 1:].sum(axis=1), raw[:, 0]
    fake, authentic = (np.clip(p.astype(np.float64), SMALLEST, 1) for p in (fake, authentic))
    logits = np.log(fake) - np.log(authentic)
    sizes = np.append(np.abs(logits[~np.isnan(logits)]), 0)
    most = max(-np.log(EPSILON), np.quantile(sizes, _USUAL))
    return np.clip(logits, -most, most)


def _class_probabilities(table: "pa.Table", run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [n, C] and which rows are missing."""
    columns = [table[f"probability_{name}"] for name in run.class_names]
    raw = np.stack([column.to_numpy(zero_copy_only=False) for column in columns], 1)
    return raw.astype(np.float32), table["p_fake"].is_null().to_numpy(zero_copy_only=False)


def _label_columns(run: Run, raw: np.ndarray, missing: np.ndarray) -> dict[str, Column]:
    """Return the columns that follow from class probabilities before calibration, [n, C]."""
    table = calibrated(raw, run.calibration)
    p_fake = table[:, 1:].sum(axis=1)
    return {
        "p_fake": Column(p_fake, missing),
        "p_fake_raw": Column(raw[:, 1:].sum(axis=1), missing),
        **{f"probability_{name}": Column(table[:, i], missing)
           for i, name in enumerate(run.class_names)},
        **_verdict_columns(run, table, p_fake, missing),
    }  # fmt: skip


def _verdict_columns(
    run: Run, probabilities: np.ndarray, p_fake: np.ndarray, missing: np.ndarray
) -> dict[str, Column]:
    """Return the columns that follow from calibrated class probabilities [n, C] and P(fake) [n]."""
    likeliest_fake = 1 + np.argmax(np.nan_to_num(probabilities[:, 1:]), axis=1)
    labels = np.where(is_fake(p_fake, run.threshold), likeliest_fake, 0)
    verdicts = [None if m else run.class_names[label] for m, label in zip(missing, labels)]
    return {
        "verdict": Column.texts(verdicts),
        "inconclusive": Column(is_inconclusive(p_fake, run.abstention_band), missing),
    }


def _shown_columns(
    run: Run, table: "pa.Table", p_fake: np.ndarray, missing: np.ndarray
) -> dict[str, Column]:
    """Return the columns about shown masks; {} for predictions without masks.

    Args:
        run: the run with the mask threshold.
        table: predictions with every mask shown.
        p_fake: P(fake) of the images, float32 [n].
        missing: images that could not be read, bool [n].
    """
    if "mask_shown" not in table.column_names:
        return {}
    shown = mask_is_shown(p_fake, run.mask_threshold)
    fractions = np.where(shown, table["altered_fraction"].to_numpy(zero_copy_only=False), 0)
    return {
        "altered_fraction": Column(fractions, missing | np.isnan(fractions)),
        "mask_shown": Column(shown, missing),
    }


class _MaskColumns:
    """Collects the columns about masks."""

    def __init__(self, count: int, known: np.ndarray | None):
        self._fractions = np.zeros(count, np.float32)
        self._known = known
        self._histograms = np.zeros((2, 0 if known is None else count, BINS), np.int32)

    def add(self, mask: MaskPrediction) -> None:
        self._fractions[mask.index] = (mask.altered >= THRESHOLD).mean()
        if self._known is not None and self._known[mask.index]:
            self._histograms[:, mask.index] = count_pixels(mask.altered, mask.truth > 0)

    def columns(self, shown: np.ndarray, missing: np.ndarray) -> dict[str, Column]:
        found = {"altered_fraction": Column(np.where(shown, self._fractions, 0), missing)}
        if self._known is None:
            return found
        found["mask_shown"] = Column(shown, missing)
        for name, counts in zip(("altered_histogram", "authentic_histogram"), self._histograms):
            found[name] = Column(counts, missing | ~self._known)
        return found
