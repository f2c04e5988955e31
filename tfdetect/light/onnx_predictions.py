"""Verdicts on image files without TensorFlow: the table that `evaluation.predictions` gives."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from tfdetect.core import console
from tfdetect.core.columns import Table
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.process import allowed_cores
from tfdetect.core.run import Run
from tfdetect.core.text import from_os
from tfdetect.evaluation.prediction_columns import (
    MaskPrediction,
    PredictionColumns,
    ScoredBatch,
    cpu_batch,
    rows_kept,
)
from tfdetect.evaluation.remarks import with_remarks
from tfdetect.imaging.facts import facts_of
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.frames import frames_of
from tfdetect.imaging.pillow import read_rgb
from tfdetect.light.onnx_detector import LightDetector
from tfdetect.light.resample import view_parts

_PREFETCH = 2  # batches that are decoded while one is predicted

Item = tuple[np.ndarray, np.ndarray]  # pixels or parts, and facts


def read_image(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """Decode an image.

    Args:
        data: the bytes of a file.
        max_pixels: images with more pixels are refused.

    Returns:
        uint8 [H, W, 3], upright RGB, and its facts int64 [5]; see `imaging.facts`.

    Raises:
        ImageError: the file is of a refused kind, or damaged.
    """
    pixels = np.asarray(read_rgb(data, max_pixels))
    return pixels, facts_of(data, pixels)


def image_parts(run: Run, image: np.ndarray) -> list[np.ndarray]:
    """Return what a detector is given of an image: its windows, or for masks the whole image."""
    return [image] if run.predicts_masks else view_parts(image, run.views)


def predict_files(
    detector: LightDetector,
    paths: Sequence[str],
    *,
    batch_size: int = 64,
    progress: bool = True,
    on_mask: Callable[[MaskPrediction], None] | None = None,
    max_pixels: int = MAX_PIXELS,
    from_pixels: Sequence[bool] = (),
    threads: int | None = None,
    on_stop: Callable[[Table], None] | None = None,
) -> Table:
    """Return the table of `evaluation.predictions.predict_files`.

    Args:
        detector: the detector of a run.
        paths: files.
        batch_size: images a batch, at most; of large images fewer, and with masks one.
        progress: whether to show a progress bar.
        on_mask: called with each predicted mask, if the detector predicts masks.
        max_pixels: images with more pixels are refused.
        from_pixels: see `PredictionColumns.table`.
        threads: the number of threads that decode files; by default one for each core.
        on_stop: called with the rows so far if a signal ends the work; see `rows_kept`.
    """
    run, masks = detector.run, detector.run.predicts_masks
    columns = PredictionColumns(run, len(paths), masks, on_mask=on_mask)
    errors: list[str | None] = [None] * len(paths)
    frames = [0] * len(paths)

    def load(path: str) -> tuple[list[np.ndarray], np.ndarray, int] | ImageError:
        try:
            data = read_bytes(path, max_pixels)
            image, facts = read_image(data, max_pixels)
        except ImageError as error:
            return error
        return image_parts(run, image), facts, frames_of(data, max_pixels)

    def rows() -> Table:
        table = columns.table(errors, from_pixels).with_paths([from_os(path) for path in paths])
        return with_remarks(table, run, frames)

    size = 1 if masks else cpu_batch(run, batch_size)
    with (
        rows_kept(on_stop, rows),
        console.progress(len(paths), "predicting", "images", shown=progress) as bar,
    ):

        def show_tiles(done: int, total: int) -> None:
            bar.set_note(f"tile {done:,} of {total:,}" if done < total else "")

        for first, loaded in _in_batches(load, paths, size, threads or len(allowed_cores())):
            good = []
            for index, each in enumerate(loaded, first):
                if isinstance(each, ImageError):
                    errors[index] = str(each)
                else:
                    parts, facts, frames[index] = each
                    good.append((index, parts, facts))
            if good:
                columns.add(score_images(detector, good, show_tiles))
            bar.advance(len(loaded))
    return rows()


def score_images(
    detector: LightDetector,
    items: list[tuple[int, list[np.ndarray], np.ndarray]],
    on_tiles: Callable[[int, int], None] | None = None,
) -> ScoredBatch:
    """Return what the detector computes of some images; with masks, of one.

    Args:
        detector: the detector of a run.
        items: number, what `image_parts` returns, and facts of each image.
        on_tiles: see `light.numpy_tiles.by_tiles`.
    """
    numbers, parts, facts = zip(*items)
    indices = np.array(numbers)
    if not detector.run.predicts_masks:
        scores = detector.score(parts)
        return ScoredBatch(indices, scores.table, np.stack(facts), scores.features)
    [[image]] = parts
    scores = detector.score_pixels(image, on_tiles)
    assert scores.mask is not None
    mask = MaskPrediction(numbers[0], image, scores.mask, np.zeros(image.shape[:2], np.uint8))
    return ScoredBatch(indices, scores.table, np.stack(facts), scores.features, [mask])


def _in_batches(
    load: Callable, paths: Sequence[str], size: int, threads: int
) -> Iterator[tuple[int, list]]:
    """Yield the number of its first file and the loaded files of each batch, loading ahead."""
    if len(paths) == 1:  # nothing to load ahead of: a thread would take longer than a small image
        yield 0, [load(paths[0])]
        return
    with ThreadPoolExecutor(threads) as pool:
        starts = iter(range(0, len(paths), size))
        waiting: list[tuple[int, list[Future]]] = []

        def submit(count: int) -> None:
            for start in islice(starts, count):
                files = paths[start : start + size]
                waiting.append((start, [pool.submit(load, path) for path in files]))

        submit(1 + _PREFETCH)
        try:
            while waiting:
                start, futures = waiting.pop(0)
                yield start, [future.result() for future in futures]
                submit(1)
        finally:
            pool.shutdown(cancel_futures=True)
