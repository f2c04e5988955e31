"""`predict_with_each`: the verdicts of several detectors, each on its own images, as one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tfdetect.api.detect import Detector
from tfdetect.api.prediction_job import Verdicts, predicting
from tfdetect.api.predictions import Predictions
from tfdetect.data.image_files import find_images


def predict_with_each(
    parts: Sequence[tuple[Detector, Sequence[str]]],
    images: Sequence[str],
    *,
    batch_size: int,
    masks: Path | None,
    pages: Path | None,
    progress: bool,
    on_verdicts: Callable[[Predictions], None],
    on_stop: Callable[[Predictions], None],
    max_pixels: int,
) -> Predictions:
    """Return the verdicts of detectors, each on its own images, as one table.

    Args:
        parts: the detectors, each with the images that it classifies.
        images: paths, folders and patterns of all images, in the order of the rows. Files and
            folders without images, which no detector gets, have rows, too.
        pages: folder for pages that explain the verdicts. Several detectors have a folder each in
            it, because their pages may have the same names.
        on_verdicts: called with the verdicts of all detectors before the first page is made.
        on_stop: called with the verdicts on the finished images if a signal ends the work.
        batch_size, masks, progress, max_pixels: see `Detector.predict`.
    """
    if len(parts) == 1:
        [(detector, own)] = parts
        return detector.predict(
            own, batch_size=batch_size, masks=masks, pages=pages, progress=progress,
            on_verdicts=on_verdicts, on_stop=on_stop, max_pixels=max_pixels,
        )  # fmt: skip
    verdicts: dict[str, Verdicts] = {}

    def predictions() -> dict[str, Predictions]:
        return {name: each.predictions for name, each in verdicts.items()}

    def stopped(name: str, finished: Predictions) -> None:
        on_stop(Predictions.joined({**predictions(), name: finished}, [], {}))

    files = find_images(images)
    with ExitStack() as stack:
        for detector, own in parts:
            name = detector.name
            context = predicting(
                detector.loaded, own, batch_size=batch_size, masks=masks,
                pages=None if pages is None else pages / name, progress=progress,
                on_stop=partial(stopped, name), max_pixels=max_pixels,
            )  # fmt: skip
            verdicts[name] = stack.enter_context(context)
        on_verdicts(Predictions.joined(predictions(), files.paths, files.unreadable))
        explained = {name: each.explain() for name, each in verdicts.items()}
    return Predictions.joined(explained, files.paths, files.unreadable)
