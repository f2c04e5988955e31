"""Runs a detector over images: one row each, unreadable ones included."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf
from tqdm import tqdm

from tfdetect.core.run import Run
from tfdetect.data.loading import Change, native_images, view_dataset
from tfdetect.data.sources import Files, Records
from tfdetect.evaluation.mask_metrics import BINS, count_pixels
from tfdetect.models.inference import calibrated, predict_images, predict_views, predicts_masks

_PIXELS = 2**22  # of a batch of images at their own size, at most, where there are several


@dataclass(frozen=True)
class Truth:
    """The true masks of images.

    Attributes:
        source: where they lie; an image without one is untouched, if known.
        known: bool [n], whether an image's mask is known.
    """

    source: Files | Records
    known: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """What a detector drew on one image.

    Attributes:
        index: of the image in its source.
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
    on_mask: Callable[[Drawn], None] | None = None,
) -> pa.Table:
    """Predicts every file of `paths`: the table of `predict_source` after a column path."""
    table = predict_source(
        run, detector, Files(paths), batch_size, progress, on_mask=on_mask
    )  # fmt: skip
    return table.add_column(0, "path", pa.array(paths, pa.string()))


def predict_source(
    run: Run,
    detector: keras.Model,
    source: Files | Records,
    batch_size: int = 64,
    progress: bool = True,
    truth: Truth | None = None,
    on_mask: Callable[[Drawn], None] | None = None,
    change: Change | None = None,
) -> pa.Table:
    """Predicts every image of `source`.

    Args:
        truth: the true masks, to compare a detector's with.
        on_mask: called with each image's mask, if the detector draws masks.
        change: of each decoded image, given its number; not together with `truth`.

    Returns:
        A table with one row an image, in order: p_fake (float32, null where it
        cannot be read), p_fake_raw (before calibration), probability_<class> for each class,
        verdict (class name), unsure (bool: verdicts there are too often wrong), error (null where
        it was read). If the detector draws masks, also altered_share, the
        share of pixels with P(altered) of at least 0.5; and with the truth altered_pixels and
        untouched_pixels: their counts by P(altered), int32 [BINS], null where not known.
    """
    table = np.full((len(source), len(run.classes)), np.nan, np.float32)
    masks = _Masks(len(source), truth) if predicts_masks(detector) else None
    bar = tqdm(
        total=len(source),
        desc="predicting",
        unit=" images",
        disable=None if progress else True,
        delay=1,
    )
    with bar:
        if masks is None:
            for indices, answers in _labels(run, detector, source, batch_size, change):
                table[indices] = answers
                bar.update(len(indices))
        else:
            for drawn, answer in _drawn(run, detector, source, batch_size, truth, change):
                table[drawn.index] = answer
                masks.add(drawn)
                if on_mask is not None:
                    on_mask(drawn)
                bar.update()
    missing = np.isnan(table[:, 0])
    errors = [
        (source.error(i) or f"TensorFlow cannot decode it{' or its mask' if truth else ''}")
        if m
        else None
        for i, m in enumerate(missing)
    ]
    columns = _columns(run, table, missing)
    columns |= masks.columns(missing) if masks else {}
    return pa.table(columns | {"error": pa.array(errors, pa.string())})


def calibrate_table(table: pa.Table, run: Run) -> pa.Table:
    """A table of an uncalibrated run's predictions as the run, calibrated, would make it."""
    names = [f"probability_{name}" for name in run.classes]
    raw = np.stack([table[n].to_numpy(zero_copy_only=False) for n in names], 1)
    missing = table["p_fake"].is_null().to_numpy(zero_copy_only=False)
    for name, column in _columns(run, raw.astype(np.float32), missing).items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _columns(run: Run, raw: np.ndarray, missing: np.ndarray) -> dict[str, pa.Array]:
    """What follows from class probabilities before calibration, float32 [n, C]."""
    table = calibrated(tf.constant(raw), run.calibration).numpy()
    fake = table[:, 1:].sum(axis=1)
    verdicts = [None if m else run.classes[c] for m, c in zip(missing, _choose(run, table, fake))]
    low, high = run.unsure
    return {
        "p_fake": pa.array(fake, mask=missing),
        "p_fake_raw": pa.array(raw[:, 1:].sum(axis=1), mask=missing),
        **{f"probability_{name}": pa.array(np.ascontiguousarray(table[:, i]), mask=missing)
           for i, name in enumerate(run.classes)},
        "verdict": pa.array(verdicts, pa.string()),
        "unsure": pa.array((fake >= low) & (fake < high), mask=missing),
    }  # fmt: skip


class _Masks:
    """Collects the columns on masks."""

    def __init__(self, count: int, truth: Truth | None):
        self._shares = np.zeros(count, np.float32)
        self._truth = truth
        if truth is not None:
            self._counts = np.zeros((2, count, BINS), np.int32)

    def add(self, drawn: Drawn) -> None:
        self._shares[drawn.index] = (drawn.altered >= 0.5).mean()
        if self._truth is not None and self._truth.known[drawn.index]:
            self._counts[:, drawn.index] = count_pixels(drawn.altered, drawn.truth > 0)

    def columns(self, missing: np.ndarray) -> dict[str, pa.Array]:
        found = {"altered_share": pa.array(self._shares, mask=missing)}
        if self._truth is None:
            return found
        unknown = pa.array(missing | ~self._truth.known)
        for name, counts in zip(("altered_pixels", "untouched_pixels"), self._counts):
            found[name] = pa.FixedSizeListArray.from_arrays(
                pa.array(counts.ravel()), BINS, mask=unknown
            )
        return found


def _labels(
    run: Run, detector: keras.Model, source: Files | Records, size: int, change: Change | None
) -> Iterator[tuple]:
    """Indices and class probabilities of batches of images."""

    @tf.function(reduce_retracing=True)
    def answer(views: tuple[tf.Tensor, ...]) -> tf.Tensor:
        return predict_views(detector, views, run.info.get("flips", False))

    for indices, images in view_dataset(source, run.views, size, change):
        yield indices.numpy(), answer(images).numpy()


def _drawn(
    run: Run,
    detector: keras.Model,
    source: Files | Records,
    size: int,
    truth: Truth | None,
    change: Change | None,
) -> Iterator[tuple[Drawn, np.ndarray]]:
    """What is drawn on each image, and its class probabilities."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def answer(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return predict_images(detector, images, run.views)

    def of(batch: list[tuple]) -> Iterator[tuple[Drawn, np.ndarray]]:
        tables, maps = answer(tf.stack([image for _, image, _ in batch]))
        for (index, image, mask), table, drawn in zip(batch, tables.numpy(), maps.numpy()):
            yield Drawn(int(index), image.numpy(), drawn[..., 0], mask.numpy()[..., 0]), table

    batch = []
    for item in native_images(source, truth.source if truth else None, change):
        image = item[1]
        pixels = image.shape[0] * image.shape[1] * (len(batch) + 1)
        if batch and (
            batch[0][1].shape != image.shape or len(batch) >= size or pixels > _PIXELS
        ):  # fmt: skip
            yield from of(batch)
            batch = []
        batch.append(item)
    if batch:
        yield from of(batch)


def _choose(run: Run, table: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """The class of each row: the likeliest fake where P(fake) reaches the threshold."""
    best_fake = 1 + np.argmax(np.nan_to_num(table[:, 1:]), axis=1)
    return np.where(np.nan_to_num(fake) >= run.threshold, best_fake, 0)
