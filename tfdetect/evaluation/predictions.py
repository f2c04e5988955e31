"""Predict images with a detector: one row per image, also for those that cannot be read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.columns import Column, Table
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.run import Run
from tfdetect.core.text import from_os
from tfdetect.data.loading import Change, native_images, read_files, view_dataset
from tfdetect.data.sources import Files, Masks, Records
from tfdetect.evaluation.prediction_columns import (
    MaskPrediction,
    PredictionColumns,
    ScoredBatch,
    cpu_batch,
    rows_kept,
)
from tfdetect.evaluation.remarks import with_remarks
from tfdetect.evaluation.verdicts import calibrated
from tfdetect.imaging.frames import frames_of
from tfdetect.imaging.partial import Picture, picture_parts
from tfdetect.models.feature_outputs import with_features
from tfdetect.models.inference import Scores, predicts_masks, score_images, score_views

# Changes a batch of the views of images, uint8 [B, crops, H, W, 3] each, given their numbers [B].
Alter = Callable[[np.ndarray, tuple[np.ndarray, ...]], tuple[np.ndarray, ...]]

MAX_BATCH_PIXELS = 2**22  # of a batch of several images at their own size


class CompiledDetector:
    """A detector that is compiled once, for several passes over images.

    Args:
        run: says how images are viewed.
        detector: the run's model.
        features: whether to compute features; by default if the run knows those of its training
            images.

    Attributes:
        model: the detector.
        predicts_masks: whether the detector predicts masks.
        views, images: computes `Scores`, of the views of images, or of images of one size at their
            own size, [B, H, W, 3]; for detectors with masks.
    """

    def __init__(self, run: Run, detector: keras.Model, features: bool | None = None):
        self.model, self.predicts_masks = detector, predicts_masks(detector)
        if run.info.domain is not None if features is None else features:
            detector = with_features(detector)

        # With signatures, so that no size of a batch or of an image is traced anew.
        views = tuple(tf.TensorSpec([None, v.crops, *v.size, 3], tf.uint8) for v in run.views)
        images = tf.TensorSpec([None, None, None, 3], tf.uint8)

        @tf.function(input_signature=[views], autograph=False)
        def of_views(views: tuple[tf.Tensor, ...]) -> Scores:
            return score_views(detector, views, run.info.flips)

        @tf.function(input_signature=[images], autograph=False)
        def of_images(images: tf.Tensor) -> Scores:
            return score_images(detector, images, run.views)

        self.views, self.images = of_views, of_images


@dataclass(frozen=True)
class MaskTruth:
    """The true masks of images.

    Attributes:
        masks: the masks; of a known image without one the mask is empty.
        known: bool [n], whether an image's mask is known.
    """

    masks: Masks
    known: np.ndarray


def predict_files(
    run: Run,
    detector: keras.Model | CompiledDetector,
    paths: list[str],
    *,
    batch_size: int = 64,
    progress: bool = True,
    on_mask: Callable[[MaskPrediction], None] | None = None,
    max_pixels: int = MAX_PIXELS,
    from_pixels: Sequence[bool] = (),
    on_stop: Callable[[Table], None] | None = None,
) -> Table:
    """Return the table of `PredictionColumns` for files, with the column path first.

    Args:
        on_stop: called with the rows so far if a signal ends the work; see `rows_kept`.
        from_pixels: whether each file was written by tfdetect from an array of pixels, whose
            format says nothing; by default none was.
    """
    texts = [from_os(path) for path in paths]
    source = Files.checked(texts, max_pixels)
    compiled = _compiled(run, detector)
    columns = PredictionColumns(run, len(source), compiled.predicts_masks, on_mask=on_mask)

    def table(errors: Sequence[str | None]) -> Table:
        found = columns.table(errors, from_pixels).with_paths(texts)
        frames = [
            0 if missing else frames_of(path, max_pixels)
            for path, missing in zip(paths, columns.missing)
        ]
        return with_remarks(found, run, frames)

    with rows_kept(on_stop, lambda: table([None] * len(paths))):
        _fill(columns, score_source(run, compiled, source, batch_size), len(source), progress)
    return table(_errors(columns, source))


def predict_source(
    run: Run,
    detector: keras.Model | CompiledDetector,
    source: Files | Records,
    batch_size: int = 64,
    progress: bool = True,
    truth: MaskTruth | None = None,
    on_mask: Callable[[MaskPrediction], None] | None = None,
    change: Change | None = None,
    own_validation: bool = False,
    alter: Alter | None = None,
) -> pa.Table:
    """Predict every image of a source.

    Args:
        run: says how images are viewed, calibrated and classified.
        detector: the run's model, or what it is compiled to.
        source: the encoded images.
        batch_size: images a batch, at most.
        progress: whether to show a progress bar.
        truth: true masks, to compare the predicted ones with.
        on_mask: called with each predicted mask, if the detector predicts masks.
        change: applied to each decoded image, given its number; with `truth` it must not cut
            anything off.
        own_validation: whether these are the validation images of the run itself, which are no
            copies of themselves.
        alter: applied to each batch of views; only of a detector without masks.

    Returns:
        The table of `PredictionColumns`, with one row for each image, in order, and with logit,
        by which images are ranked: that of P(fake) before calibration, float32.

    Raises:
        UserError: the detector's output is a number for no image.
    """
    compiled, known = _compiled(run, detector), truth.known if truth else None
    columns = PredictionColumns(run, len(source), compiled.predicts_masks, known, on_mask)
    batches = score_source(run, compiled, source, batch_size, truth, change, alter)
    _fill(columns, batches, len(source), progress)
    columns.check_defined()
    errors = _errors(columns, source, " or its mask" if truth else "")
    table = columns.table(errors, own_validation=own_validation).to_arrow()
    return table.append_column("logit", Column(columns.logits, columns.missing).to_arrow())


def predict_changed(
    run: Run, detector: CompiledDetector, image: tf.Tensor, changes: Iterable[Change]
) -> Iterator[float | None]:
    """Yield P(fake) of an image after each of some changes.

    A change is made as far as the detector reads the image, one after the other, so that the memory
    does not grow with their number.

    Args:
        run: says how images are viewed and calibrated.
        detector: the run's compiled model.
        image: uint8 [H, W, 3].
        changes: the changes, all of image number 0.

    Yields:
        P(fake); None where a change is impossible, such as WebP of more than 16,383 pixels a side.
    """
    for change in changes:
        try:
            with tf.device("CPU:0"):  # as in a pipeline: other devices round differently
                picture = change(Picture.of(image), tf.constant(0, tf.int64))
                if detector.predicts_masks:
                    given = picture.whole()[None]
                else:
                    given = tuple(part[None] for part in picture_parts(picture, run.views))
        except (tf.errors.OpError, ValueError):
            yield None
            continue
        score = detector.images if detector.predicts_masks else detector.views
        yield float(calibrated(score(given).table.numpy(), run.calibration)[:, 1:].sum())


def _compiled(run: Run, detector: keras.Model | CompiledDetector) -> CompiledDetector:
    return detector if isinstance(detector, CompiledDetector) else CompiledDetector(run, detector)


def _fill(
    columns: PredictionColumns, batches: Iterator[ScoredBatch], count: int, progress: bool
) -> None:
    with console.progress(count, "predicting", "images", shown=progress) as bar:
        for batch in batches:
            columns.add(batch)
            bar.advance(len(batch.indices))


def _errors(
    columns: PredictionColumns, source: Files | Records, what: str = ""
) -> list[str | None]:
    """Return why images could not be read, None for the others."""
    unknown_reason = f"TensorFlow cannot decode it{what}"
    return [
        (source.error(i) or unknown_reason) if missing else None
        for i, missing in enumerate(columns.missing)
    ]


def score_source(
    run: Run,
    compiled: CompiledDetector,
    source: Files | Records,
    batch_size: int,
    truth: MaskTruth | None = None,
    change: Change | None = None,
    alter: Alter | None = None,
) -> Iterator[ScoredBatch]:
    """Yield the outputs of a detector for the images that can be read; see `predict_source`."""
    if compiled.predicts_masks:
        yield from _score_masks(compiled, source, batch_size, truth, change)
        return
    size = batch_size
    if not alter and not tf.config.list_logical_devices("GPU"):
        size = cpu_batch(run, batch_size)
    if isinstance(source, Files) and len(source) <= size and change is None:
        batch = read_files(source, run.views)
        batches: Iterable = [] if batch is None else [batch]
    else:
        batches = view_dataset(source, run.views, size, change, facts=True)
    for indices, images, facts in batches:
        if alter:
            images = alter(indices.numpy(), tuple(image.numpy() for image in images))
            images = tuple(map(tf.constant, images))
        yield _batch(indices.numpy(), facts.numpy(), compiled.views(images))


def _score_masks(
    compiled: CompiledDetector,
    source: Files | Records,
    size: int,
    truth: MaskTruth | None,
    change: Change | None,
) -> Iterator[ScoredBatch]:
    """Yield the same with the masks; the images of a batch have the same size."""

    def score_batch(batch: list[tuple]) -> ScoredBatch:
        indices, images, truths, facts = zip(*batch)
        scores = compiled.images(tf.stack(images))
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
