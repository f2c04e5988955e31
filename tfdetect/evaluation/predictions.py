"""Runs a detector over images: one row for each, also for those that cannot be read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.run import EPSILON, Run
from tfdetect.core.text import from_os
from tfdetect.data.loading import Change, native_images, view_dataset
from tfdetect.data.sources import Files, Masks, Records
from tfdetect.data.training_hashes import TrainingHashes
from tfdetect.evaluation.domain import domain_columns, update_domain
from tfdetect.evaluation.mask_metrics import BINS, THRESHOLD, count_pixels
from tfdetect.evaluation.verdicts import is_fake, is_inconclusive
from tfdetect.imaging.formats import MAX_PIXELS
from tfdetect.imaging.image_facts import Facts
from tfdetect.models.feature_distance import FeatureDistance, with_features
from tfdetect.models.inference import (
    Scores,
    calibrated,
    predicts_masks,
    score_images,
    score_views,
)

MAX_BATCH_PIXELS = 2**22  # of a batch of several images at their own size


@dataclass(frozen=True)
class MaskTruth:
    """The true masks of images.

    Attributes:
        masks: the masks; of a known image without one the mask is empty.
        known: bool [n], whether an image's mask is known.
    """

    masks: Masks
    known: np.ndarray


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


def predict_files(
    run: Run,
    detector: keras.Model,
    paths: list[str],
    batch_size: int = 64,
    progress: bool = True,
    on_mask: Callable[[MaskPrediction], None] | None = None,
    max_pixels: int = MAX_PIXELS,
    from_pixels: Sequence[bool] = (),
) -> pa.Table:
    """Return the table of `predict_source` for files, with the column path first.

    Args:
        from_pixels: whether each file was written by tfdetect from an array of pixels, whose
            format says nothing; by default none was.
    """
    texts = [from_os(path) for path in paths]
    source = Files.checked(texts, max_pixels)
    table = predict_source(
        run, detector, source, batch_size, progress, on_mask=on_mask, from_pixels=from_pixels
    )
    return table.add_column(0, "path", pa.array(texts, pa.string()))


def predict_source(
    run: Run,
    detector: keras.Model,
    source: Files | Records,
    batch_size: int = 64,
    progress: bool = True,
    truth: MaskTruth | None = None,
    on_mask: Callable[[MaskPrediction], None] | None = None,
    change: Change | None = None,
    from_pixels: Sequence[bool] = (),
    own_validation: bool = False,
) -> pa.Table:
    """Predict every image of a source.

    Args:
        run: says how images are viewed, calibrated and judged.
        detector: the run's model.
        source: the encoded images.
        batch_size: images a batch, at most.
        progress: whether to show a progress bar.
        truth: true masks, to compare the predicted ones with.
        on_mask: called with each predicted mask, if the detector predicts masks.
        change: applied to each decoded image, given its number; not together with `truth`.
        from_pixels: see `predict_files`.
        own_validation: whether these are the validation images of the run itself, which are no
            copies of themselves.

    Returns:
        A table with one row for each image, in order:

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
        - error: the reason why the image cannot be read, or null

        If the detector predicts masks also altered_fraction, the fraction of pixels with
        P(altered) of at least 0.5; with the truth also altered_histogram and
        authentic_histogram, the numbers of truly altered and authentic pixels by P(altered),
        int32 [BINS], null where the truth is not known.
    """
    count = len(source)
    raw = np.full((count, len(run.class_names)), np.nan, np.float32)
    distances, facts = np.full(count, np.nan, np.float32), Facts.empty(count)
    masks = _MaskColumns(count, truth) if predicts_masks(detector) else None
    distance = None
    if run.info.domain is not None:
        distance = FeatureDistance.load(run.path, run.info.domain.rest)
        detector = with_features(detector)
    with console.progress(count, "predicting", "images", shown=progress) as bar:
        for batch in score_source(run, detector, source, batch_size, truth, change):
            raw[batch.indices] = batch.table
            facts.add(batch.indices, batch.facts)
            if distance is not None:
                distances[batch.indices] = distance(batch.features).numpy()
            for mask in batch.masks:
                assert masks is not None
                masks.add(mask)
                if on_mask is not None:
                    on_mask(mask)
            bar.advance(len(batch.indices))
    missing = np.isnan(raw[:, 0])
    unknown_reason = f"TensorFlow cannot decode it{' or its mask' if truth else ''}"
    errors = [(source.error(i) or unknown_reason) if m else None for i, m in enumerate(missing)]
    formats = facts.formats()
    formats[np.flatnonzero(from_pixels)] = None
    columns = _label_columns(run, raw, missing)
    columns |= domain_columns(run, facts.shorter_side, formats, distances, missing)
    columns["duplicate_of_train"] = _duplicates(run, facts, missing, own_validation)
    columns |= masks.columns(missing) if masks else {}
    return pa.table(columns | {"error": pa.array(errors, pa.string())})


def _duplicates(run: Run, facts: Facts, missing: np.ndarray, own_validation: bool) -> pa.Array:
    """Return the column duplicate_of_train, as far as the run's hashes tell."""
    hashes = TrainingHashes.load(run.path)
    if hashes is None:
        return pa.nulls(len(missing), pa.bool_())
    return pa.array(hashes.contain(facts.hashes, not own_validation), mask=missing)


def recalibrate(table: pa.Table, run: Run) -> pa.Table:
    """Return the predictions of a run without calibration as the same run, calibrated, makes them.

    Args:
        table: from `predict_source`, by `uncalibrated(run)`.
        run: with the calibration, threshold and abstention band that are wanted.
    """
    raw, missing = _class_probabilities(table, run)
    for name, column in (_label_columns(run, raw, missing) | update_domain(table, run)).items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def uncalibrated(run: Run) -> Run:
    """Return the run without calibration, so that P(fake) is the detector's own score."""
    return run.with_calibration(None, None, {}, None, run.threshold)


def raw_logits(table: pa.Table, run: Run) -> np.ndarray:
    """Return the logits of P(fake) in predictions of a run without calibration, float64 [n]."""
    raw, _ = _class_probabilities(table, run)
    fake, authentic = raw[:, 1:].sum(axis=1), raw[:, 0]
    fake, authentic = (np.clip(p.astype(np.float64), EPSILON, 1) for p in (fake, authentic))
    return np.log(fake) - np.log(authentic)


def _class_probabilities(table: pa.Table, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [n, C] and which rows are missing."""
    columns = [table[f"probability_{name}"] for name in run.class_names]
    raw = np.stack([column.to_numpy(zero_copy_only=False) for column in columns], 1)
    return raw.astype(np.float32), table["p_fake"].is_null().to_numpy(zero_copy_only=False)


def _label_columns(run: Run, raw: np.ndarray, missing: np.ndarray) -> dict[str, pa.Array]:
    """Return the columns that follow from class probabilities before calibration, [n, C]."""
    table = calibrated(tf.constant(raw), run.calibration).numpy()
    p_fake = table[:, 1:].sum(axis=1)
    likeliest_fake = 1 + np.argmax(np.nan_to_num(table[:, 1:]), axis=1)
    labels = np.where(is_fake(p_fake, run.threshold), likeliest_fake, 0)
    verdicts = [None if m else run.class_names[label] for m, label in zip(missing, labels)]
    return {
        "p_fake": pa.array(p_fake, mask=missing),
        "p_fake_raw": pa.array(raw[:, 1:].sum(axis=1), mask=missing),
        **{f"probability_{name}": pa.array(np.ascontiguousarray(table[:, i]), mask=missing)
           for i, name in enumerate(run.class_names)},
        "verdict": pa.array(verdicts, pa.string()),
        "inconclusive": pa.array(is_inconclusive(p_fake, run.abstention_band), mask=missing),
    }  # fmt: skip


class _MaskColumns:
    """Collects the columns about masks."""

    def __init__(self, count: int, truth: MaskTruth | None):
        self._fractions = np.zeros(count, np.float32)
        self._truth = truth
        self._histograms = np.zeros((2, count if truth else 0, BINS), np.int32)

    def add(self, mask: MaskPrediction) -> None:
        self._fractions[mask.index] = (mask.altered >= THRESHOLD).mean()
        if self._truth is not None and self._truth.known[mask.index]:
            self._histograms[:, mask.index] = count_pixels(mask.altered, mask.truth > 0)

    def columns(self, missing: np.ndarray) -> dict[str, pa.Array]:
        found = {"altered_fraction": pa.array(self._fractions, mask=missing)}
        if self._truth is None:
            return found
        unknown = pa.array(missing | ~self._truth.known)
        for name, counts in zip(("altered_histogram", "authentic_histogram"), self._histograms):
            found[name] = pa.FixedSizeListArray.from_arrays(
                pa.array(counts.ravel()), BINS, mask=unknown
            )
        return found


@dataclass(frozen=True)
class ScoredBatch:
    """What a detector computes of some images of a source.

    Attributes:
        indices: numbers of the images in the source, int64 [b].
        table: class probabilities before calibration, float32 [b, C].
        facts: int64 [b, 5]; see `image_facts`.
        features: float32 [b, F]; None of a detector without `with_features`.
        masks: one for each image, of a detector that predicts masks.
    """

    indices: np.ndarray
    table: np.ndarray
    facts: np.ndarray
    features: np.ndarray | None
    masks: Sequence[MaskPrediction] = ()


def score_source(
    run: Run,
    detector: keras.Model,
    source: Files | Records,
    batch_size: int,
    truth: MaskTruth | None = None,
    change: Change | None = None,
) -> Iterator[ScoredBatch]:
    """Yield what a detector computes of the images that can be read; see `predict_source`."""
    if predicts_masks(detector):
        yield from _score_masks(run, detector, source, batch_size, truth, change)
        return

    @tf.function(reduce_retracing=True)
    def score(views: tuple[tf.Tensor, ...]) -> Scores:
        return score_views(detector, views, run.info.flips)

    for indices, images, facts in view_dataset(source, run.views, batch_size, change, facts=True):
        yield _batch(indices.numpy(), facts.numpy(), score(images))


def _score_masks(
    run: Run,
    detector: keras.Model,
    source: Files | Records,
    size: int,
    truth: MaskTruth | None,
    change: Change | None,
) -> Iterator[ScoredBatch]:
    """Yield the same with the masks; the images of a batch have the same size."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def score(images: tf.Tensor) -> Scores:
        return score_images(detector, images, run.views)

    def score_batch(batch: list[tuple]) -> ScoredBatch:
        indices, images, truths, facts = zip(*batch)
        scores = score(tf.stack(images))
        masks = [
            MaskPrediction(int(index), image.numpy(), altered[..., 0], mask.numpy()[..., 0])
            for index, image, mask, altered in zip(indices, images, truths, scores.masks.numpy())
        ]
        return _batch(np.array([int(i) for i in indices]), np.stack(facts), scores, masks)

    batch: list[tuple] = []  # neighbors of the same size
    for item in native_images(source, truth.masks if truth else None, change):
        image = item[1]
        pixels = image.shape[0] * image.shape[1] * (len(batch) + 1)
        fits = batch and batch[0][1].shape == image.shape
        if batch and (not fits or len(batch) >= size or pixels > MAX_BATCH_PIXELS):
            yield score_batch(batch)
            batch = []
        batch.append(item)
    if batch:
        yield score_batch(batch)


def _batch(
    indices: np.ndarray, facts: np.ndarray, scores: Scores, masks: Sequence[MaskPrediction] = ()
) -> ScoredBatch:
    features = None if scores.features is None else scores.features.numpy()
    return ScoredBatch(indices, scores.table.numpy(), facts, features, masks)
