"""The work behind `Detector.predict`: find the images, predict them, write masks and pages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfdetect.api.given_images import check_outside, find_given
from tfdetect.api.loaded_run import LoadedRun
from tfdetect.api.predictions import Predictions, with_errors
from tfdetect.core import console, storage
from tfdetect.core.columns import Column, Table
from tfdetect.core.errors import UserError
from tfdetect.core.files import FailedWrites, TemporaryFolder, check_writable
from tfdetect.core.run import Run
from tfdetect.core.text import from_os, user_path

if TYPE_CHECKING:
    from tfdetect.api.given_images import GivenImages, Image
    from tfdetect.forensics.region_pictures import MaskWriter


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of one detector, before the pages that explain them are written.

    Attributes:
        predictions: the verdicts.
        explain: writes the pages, if they are wanted, and returns the predictions with them.
    """

    predictions: Predictions
    explain: Callable[[], Predictions]


@contextmanager
def predicting(
    loaded: LoadedRun,
    images: Image | Iterable[Image],
    *,
    batch_size: int,
    masks: str | Path | None,
    pages: str | Path | None,
    progress: bool,
    on_stop: Callable[[Predictions], None] | None,
    max_pixels: int,
) -> Iterator[Verdicts]:
    """Yield the verdicts on images, whose pages can be written while the context is open.

    Until then, images that were fetched or given as pixels exist as files. The other arguments and
    the errors are those of `Detector.predict`.

    Args:
        loaded: the run of the detector.
    """
    run, failed = loaded.run, FailedWrites()
    if masks is not None:
        _check_masks(run, user_path(masks), images)
    if pages is not None:
        check_writable(user_path(pages), "--explain")
    authentic = run.class_names[:1]
    with TemporaryFolder() as folder:
        given = find_given(images, folder)
        # Fewer rows than inputs are never silent.
        if given.files.repeated or (progress and given.files.noteworthy):
            console.log(given.files.describe())
        writer = None if masks is None else _mask_writer(masks, given, failed, max_pixels)
        job = _Job(
            predict_files=loaded.file_predictor(allow_onnx=pages is None),
            given=given,
            writer=writer,
            failed=failed,
            batch_size=batch_size,
            max_pixels=max_pixels,
            on_stop=on_stop,
            authentic=authentic,
        )
        if given.files.entries:
            # Masks and pages need all files at the same time.
            at_once = masks is not None or pages is not None
            table = job.predict_in_turns(folder.path / "fetched", at_once, progress)
        else:
            table = job.predict(given.paths, 0, progress)
        rows = job.rows(table)
        if masks is not None:
            storage.publish(user_path(masks))

        def explain() -> Predictions:
            written: list[Path] = []
            if pages is not None:
                written = _write_pages(
                    loaded, table, given, user_path(pages), failed, max_pixels, progress
                )
            return Predictions(rows, written, failed.reasons, authentic)

        yield Verdicts(Predictions(rows, (), failed.reasons, authentic), explain)


def _check_masks(run: Run, folder: Path, images: Image | Iterable[Image]) -> None:
    """Check that masks of images can be predicted, and written into a folder.

    Raises:
        UserError: they cannot, or the folder is among the images.
    """
    from tfdetect.core.shipped_runs import LOCALIZER

    check_outside(folder, images)
    if not run.predicts_masks:
        raise UserError(
            f"{run.name} predicts no masks. Choose {LOCALIZER}, which comes with tfdetect, or "
            "a run that was trained with a model.mask_head; or leave the masks out."
        )
    check_writable(folder, "--masks")


def _mask_writer(
    folder: str | Path, given: GivenImages, failed: FailedWrites, max_pixels: int
) -> MaskWriter:
    from tfdetect.forensics.copies import find_copies_in_file
    from tfdetect.forensics.region_pictures import MaskWriter

    find_copies = partial(find_copies_in_file, max_pixels=max_pixels)
    return MaskWriter(user_path(folder), given.paths, failed, find_copies)


def _write_pages(
    loaded: LoadedRun,
    table: Table,
    given: GivenImages,
    folder: Path,
    failed: FailedWrites,
    max_pixels: int,
    progress: bool,
) -> list[Path]:
    """Write a page for each image; return the paths of those that could be written."""
    from tfdetect.evaluation.overlays import output_names
    from tfdetect.explanation.image_page import explain_files

    pages = [folder / f"{name}.html" for name in output_names(given.paths)]
    written = []
    with console.progress(len(pages), "explaining", "images", shown=progress) as bar:
        for page in explain_files(
            loaded.run, loaded.compiled, table, pages, failed, max_pixels, bar.set_step
        ):
            written.append(page)
            bar.advance()
    storage.publish(folder)
    return written


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The prediction of given images.

    Attributes:
        predict_files: from paths to their rows; see `LoadedRun.file_predictor`.
        given: the images.
        writer: writes the masks; None where none are wanted.
        failed: notes the masks and pages that cannot be written.
        batch_size: images per step.
        max_pixels: a file whose image has more pixels is not decoded.
        on_stop: called with the verdicts on the finished images if a signal ends the work.
        authentic: names of the detector's authentic class.
    """

    predict_files: Callable[..., Table]
    given: GivenImages
    writer: MaskWriter | None
    failed: FailedWrites
    batch_size: int
    max_pixels: int
    on_stop: Callable[[Predictions], None] | None
    authentic: Collection[str]

    def predict(self, paths: list[str], start: int, progress: bool) -> Table:
        """Return the rows of some of the given images, of which the first has the index `start`."""
        return self.predict_files(
            paths,
            batch_size=self.batch_size,
            progress=progress,
            on_mask=self.writer.write if self.writer else None,
            max_pixels=self.max_pixels,
            from_pixels=self.given.from_pixels[start : start + len(paths)],
            on_stop=self._keep_finished if len(paths) == len(self.given.paths) else None,
        )

    def predict_in_turns(self, folder: Path, at_once: bool, progress: bool) -> Table:
        """Return the rows of images of which some are at addresses.

        Args:
            folder: images are fetched into it, the next ones while some are predicted.
            at_once: whether all images are fetched first and kept until the end.
            progress: whether to show progress.
        """
        paths, tables = self.given.paths, list[Table]()
        turn = len(paths) if at_once else max(storage.TURN, self.batch_size)
        with console.progress(len(paths), "predicting", "images", shown=progress) as bar:
            for files, failed in storage.in_turns(paths, folder, turn):
                table = self.predict(files, bar.done, False)
                errors = table["error"].to_pylist()
                for number, reason in failed.items():
                    errors[number] = reason
                tables.append(table.with_column("error", Column.texts(errors)))
                bar.advance(len(files))
        return Table.concatenated(tables)

    def rows(self, table: Table) -> Table:
        """Return the rows of all images, and of the files and folders without any image."""
        return with_errors(self._named(table), self.given.files.unreadable)

    def _named(self, table: Table) -> Table:
        """Return rows with the names of the given images and what is known of copied regions."""
        if self.writer is not None:
            copied = self.writer.copied_fractions
            table = table.with_column("copied_fraction", Column(copied, np.isnan(copied)))
        return table.with_paths([from_os(name) for name in self.given.names])

    def _keep_finished(self, table: Table) -> None:
        """Pass the rows that were finished when the work ended to `on_stop`."""
        scores, errors = table["p_fake"].to_pylist(), table["error"].to_pylist()
        finished = [p is not None or error is not None for p, error in zip(scores, errors)]
        if self.on_stop is not None and any(finished):
            rows = self._named(table).take(np.flatnonzero(finished))
            self.on_stop(Predictions(rows, (), self.failed.reasons, self.authentic))
