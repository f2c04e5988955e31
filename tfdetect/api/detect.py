"""`Detector`: a finished run that gives verdicts on images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.api.arguments import RunLike, checked, run_of
from tfdetect.api.predictions import Predictions, with_errors
from tfdetect.core import console, storage
from tfdetect.core.columns import Column, Table
from tfdetect.core.errors import UserError
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.text import from_os, user_path

if TYPE_CHECKING:
    import keras

    from tfdetect.api.given_images import GivenImages, Image
    from tfdetect.core.files import FailedWrites
    from tfdetect.evaluation.overlays import MaskWriter
    from tfdetect.evaluation.predictions import CompiledDetector
    from tfdetect.light.onnx_detector import LightDetector
    from tfdetect.spark.predict_table import WrittenPredictions


class Detector:
    """A finished run that gives verdicts on images. `tfdetect.load` returns one.

    The model is loaded when it is first needed.

    Attributes:
        run: the run, for example for `run.metrics["test"]["auc"]`.
    """

    def __init__(self, run: RunLike):
        self.run = run_of(run)

    def __repr__(self) -> str:
        return f"Detector({str(self.run.path)!r}, classes {', '.join(self.class_names)})"

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order; index 0 is authentic."""
        return self.run.class_names

    @property
    def threshold(self) -> float:
        """P(fake) from which the verdict is fake."""
        return self.run.threshold

    @cached_property
    def keras_model(self) -> keras.Model:
        """The Keras model: images float32 [B, H, W, 3] in 0..255 to a dict of logits.

        Its inputs have the sizes of `run.views`; calibration and threshold are the run's and not
        part of the model.
        """
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
        from tfdetect.models.saving import load_detector

        return load_detector(self.run)

    @checked
    def with_options(
        self,
        *,
        threshold: float | str | None = None,
        prior: float | str | None = None,
        crops: int | None = None,
        flips: bool = False,
        mask_threshold: float | None = None,
    ) -> Detector:
        """Return a detector with other settings that shares the model; the run on disk stays.

        Args:
            threshold: P(fake) from which the verdict is fake, 0 to 1, or the name of one of the
                run's operating points, such as "fpr_1".
            prior: fraction of fakes to expect among such images, 0 to 1, or "validation" for the
                fraction in the run's validation split.
            crops: average over so many crops of each image: 1, 5 or 9.
            flips: average over each image and its mirror image.
            mask_threshold: P(fake) from which the mask of an image is shown, 0 to 1; below, its
                mask is empty. 0 shows every mask.

        Raises:
            UserError: a value is out of range, or the run cannot do so.
        """
        run = self.run.with_views(crops=crops, flips=flips).with_prior(prior)
        detector = Detector(run.with_threshold(threshold).with_mask_threshold(mask_threshold))
        if "keras_model" in self.__dict__:
            detector.__dict__["keras_model"] = self.keras_model
        return detector

    @checked
    def predict(
        self,
        images: Image | Iterable[Image],
        *,
        batch_size: int = 64,
        masks: str | Path | None = None,
        pages: str | Path | None = None,
        progress: bool = True,
        on_verdicts: Callable[[Predictions], None] | None = None,
        on_stop: Callable[[Predictions], None] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Predictions:
        """Return a verdict for each image.

        Args:
            images: one image or several. An image is the path of a file, of a folder (all images
                below it) or a glob pattern, or an address of one such as s3://bucket/folder; a
                uint8 array [H, W, 3] of RGB values (or [H, W] for gray, [N, H, W, 3] for N
                images); a PIL image; or the bytes of an encoded image, also of an open file.
            batch_size: images per step.
            masks: folder for four PNG files per image: mask, P(altered), copied regions and
                overlay; for detectors that predict masks. The rows then have `copied_fraction`.
            pages: folder for an HTML page per image that explains the verdict.
            progress: whether to show progress on stderr.
            on_verdicts: called with the predictions before the first page is made, which takes
                much longer than the verdicts.
            on_stop: called with the verdicts on the finished images if Ctrl-C or another signal
                ends the work.
            max_pixels: a file whose image has more pixels is not decoded.

        Returns:
            One row per image, also of a file that is given twice: by its path again, in a folder or
            by a link. A file that cannot be read, or a folder without images, has a row with its
            `error`. A mask or a page that cannot be written is in `unwritten`; the others
            are written.

        Raises:
            UserError: a path does not exist, an array is not an image, or no image can be read.
        """
        with self._predicted(
            images, batch_size=batch_size, masks=masks, pages=pages, progress=progress,
            on_stop=on_stop, max_pixels=max_pixels,
        ) as verdicts:  # fmt: skip
            if on_verdicts is not None:
                on_verdicts(verdicts.predictions)
            return verdicts.explained()

    @contextmanager
    def _predicted(
        self,
        images: Image | Iterable[Image],
        *,
        batch_size: int,
        masks: str | Path | None,
        pages: str | Path | None,
        progress: bool,
        on_stop: Callable[[Predictions], None] | None,
        max_pixels: int,
    ) -> Iterator[_Verdicts]:
        """Give the verdicts on images; their pages can be made while the context is open.

        Images that were fetched or given as pixels are files until then. See `predict` for the
        arguments and errors.
        """
        from tfdetect.api.given_images import find_given
        from tfdetect.core.files import FailedWrites, check_writable

        if masks is not None:
            self._check_masks(user_path(masks), images)
        if pages is not None:
            check_writable(user_path(pages), "--explain")
        failed = FailedWrites()
        authentic = self.class_names[:1]
        with tempfile.TemporaryDirectory() as folder:
            given = find_given(images, Path(folder))
            # Fewer rows than inputs are never silent.
            if given.files.repeated or (progress and given.files.noteworthy):
                console.log(given.files.describe())
            writer = None if masks is None else _mask_writer(masks, given, failed, max_pixels)
            job = _Job(
                self._file_predictor(light=pages is None), given, writer, failed, batch_size,
                max_pixels, on_stop, authentic,
            )  # fmt: skip
            if given.files.entries:
                # The files of masks and pages are all there at once.
                at_once = masks is not None or pages is not None
                table = job.predict_in_turns(Path(folder, "fetched"), at_once, progress)
            else:
                table = job.predict(given.paths, 0, progress)
            rows = job.rows(table)
            if masks is not None:
                storage.publish(user_path(masks))

            def explained() -> Predictions:
                written = []
                if pages is not None:
                    count = len(given.paths)
                    with console.progress(count, "explaining", "images", shown=progress) as bar:
                        for page in self._explain(
                            table, given, user_path(pages), failed, max_pixels, bar.set_step
                        ):
                            written.append(page)
                            bar.advance()
                    storage.publish(user_path(pages))
                return Predictions(rows, written, failed.reasons, authentic)

            yield _Verdicts(Predictions(rows, (), failed.reasons, authentic), explained)

    @checked
    def predict_to_table(
        self,
        images: str | Path | Sequence[str | Path],
        output: str | Path,
        cluster: SparkCluster,
        *,
        batch_size: int = 64,
        progress: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> WrittenPredictions:
        """Give a verdict on each file on a Spark cluster, and write the table of `predict`.

        Every machine needs the files, the run and the folder of parts under the same paths. The
        same call continues an interrupted one.

        Args:
            images: paths of files, of folders or glob patterns.
            output: a .csv, .jsonl or .parquet file.
            cluster: where to run, such as `tfdetect.SparkCluster("spark://host:7077")`. Its folder
                for the parts is by default `output` with the ending .parts.
            batch_size: images per step.
            progress: whether to show progress on stderr.
            max_pixels: a file whose image has more pixels is not decoded.

        Raises:
            UserError: a path does not exist, pyspark or Java is missing, the folder of parts
                holds another job, or the cluster cannot do it.
        """
        from tfdetect.spark.predict_table import predict_to_table

        paths = [images] if isinstance(images, str | Path) else images
        return predict_to_table(
            self.run, [str(path) for path in paths], user_path(output), cluster,
            batch_size=batch_size, progress=progress, max_pixels=max_pixels,
        )  # fmt: skip

    def _check_masks(self, folder: Path, images: Image | Iterable[Image]) -> None:
        """Check that masks of images can be predicted, and written into a folder.

        Raises:
            UserError: they cannot, or the folder is among the images.
        """
        from tfdetect.api.given_images import check_outside
        from tfdetect.api.shipped import LOCALIZER
        from tfdetect.core.files import check_writable

        check_outside(folder, images)
        if not self.run.predicts_masks:
            raise UserError(
                f"{self.name} predicts no masks. Choose {LOCALIZER}, which comes with tfdetect, or "
                "a run that was trained with a model.mask_head; or leave the masks out."
            )
        check_writable(folder, "--masks")

    def _file_predictor(self, light: bool) -> Callable[..., Table]:
        """Return `predict_files` of the ONNX export, if that is possible, or else TensorFlow's."""
        if light and self._light_detector is not None:
            from tfdetect.light.onnx_predictions import predict_files as predict_light

            return partial(predict_light, self._light_detector)
        compiled = self._compiled
        from tfdetect.evaluation.predictions import predict_files

        return partial(predict_files, self.run, compiled)

    def _explain(
        self,
        table: Table,
        given: GivenImages,
        folder: Path,
        failed: FailedWrites,
        max_pixels: int,
        on_step: Callable[[str], None],
    ) -> Iterator[Path]:
        """Write a page for each image; yield those that are written."""
        from tfdetect.evaluation.overlays import output_names
        from tfdetect.explanation.image_page import explain_files

        pages = [folder / f"{name}.html" for name in output_names(given.paths)]
        return explain_files(self.run, self._compiled, table, pages, failed, max_pixels, on_step)

    @cached_property
    def _compiled(self) -> CompiledDetector:
        model = self.keras_model  # loads TensorFlow with its messages off
        from tfdetect.evaluation.predictions import CompiledDetector

        return CompiledDetector(self.run, model)

    @cached_property
    def _light_detector(self) -> LightDetector | None:
        from tfdetect.light.onnx_detector import light_detector

        return light_detector(self.run)


@dataclass(frozen=True)
class _Verdicts:
    """The verdicts of one detector, before the pages that explain them.

    Attributes:
        predictions: the verdicts.
        explained: writes the pages, if they are wanted; returns the predictions with them.
    """

    predictions: Predictions
    explained: Callable[[], Predictions]


@dataclass(frozen=True)
class _Job:
    """The prediction of given images.

    Attributes:
        predict_files: from paths to their rows; see `Detector._file_predictor`.
        given: the images.
        writer: writes the masks; None where none are wanted.
        failed: notes the masks and pages that cannot be written.
        batch_size: images per step.
        max_pixels: a file whose image has more pixels is not decoded.
        on_stop: called with the verdicts on the finished images if a signal ends the work.
        authentic: what the detector calls its authentic class.
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
        """Return the rows of some images, the first of which is number `start` of the given."""
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
        """Return the rows of images some of which are at addresses.

        Args:
            folder: the next ones are fetched into it meanwhile.
            at_once: whether all of them are fetched first, and are there until the end.
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
        """Return the rows of all images, and of files and folders that have none."""
        return with_errors(self._named(table), self.given.files.unreadable)

    def _named(self, table: Table) -> Table:
        """Return rows with the names of the given images and what is known of copied regions."""
        import numpy as np

        if self.writer is not None:
            copied = self.writer.copied_fractions
            table = table.with_column("copied_fraction", Column(copied, np.isnan(copied)))
        return table.with_paths([from_os(name) for name in self.given.names])

    def _keep_finished(self, table: Table) -> None:
        """Hand over the rows that were finished when the work ended."""
        import numpy as np

        scores, errors = table["p_fake"].to_pylist(), table["error"].to_pylist()
        finished = [p is not None or error is not None for p, error in zip(scores, errors)]
        if self.on_stop is not None and any(finished):
            rows = self._named(table).take(np.flatnonzero(finished))
            self.on_stop(Predictions(rows, (), self.failed.reasons, self.authentic))


def _mask_writer(
    folder: str | Path, given: GivenImages, failed: FailedWrites, max_pixels: int
) -> MaskWriter:
    from tfdetect.evaluation.overlays import MaskWriter
    from tfdetect.forensics.copies import find_copies_in_file

    find_copies = partial(find_copies_in_file, max_pixels=max_pixels)
    return MaskWriter(user_path(folder), given.paths, failed, find_copies)


def predict_with_each(
    parts: Sequence[tuple[Detector, Sequence[str]]],
    images: Sequence[str],
    *,
    pages: Path | None,
    on_verdicts: Callable[[Predictions], None],
    on_stop: Callable[[Predictions], None],
    **options: Any,
) -> Predictions:
    """Return the verdicts of detectors, each on its own images, as one table.

    Args:
        parts: the detectors with the images that each classifies.
        images: paths, folders and patterns of all images, whose order the rows have. Files and
            folders without images, which no detector is given, have rows, too.
        pages: folder for pages that explain the verdicts; see `Detector.predict`. Several detectors
            have a folder each in it, because their pages may have the same names.
        on_verdicts: called with the verdicts of all detectors before the first page is made.
        on_stop: called with the verdicts on the finished images if a signal ends the work.
        options: of `Detector.predict`.
    """
    if len(parts) == 1:
        [(detector, own)] = parts
        return detector.predict(
            own, pages=pages, on_verdicts=on_verdicts, on_stop=on_stop, **options
        )
    from tfdetect.data.image_files import find_images

    given: dict[str, _Verdicts] = {}

    def predictions() -> dict[str, Predictions]:
        return {name: each.predictions for name, each in given.items()}

    def stopped(name: str, finished: Predictions) -> None:
        on_stop(Predictions.joined({**predictions(), name: finished}, [], {}))

    files = find_images(images)
    with ExitStack() as stack:
        for detector, own in parts:
            name = detector.name
            given[name] = stack.enter_context(
                detector._predicted(
                    own,
                    pages=None if pages is None else pages / name,
                    on_stop=partial(stopped, name),
                    **options,
                )
            )
        on_verdicts(Predictions.joined(predictions(), files.paths, files.unreadable))
        explained = {name: each.explained() for name, each in given.items()}
    return Predictions.joined(explained, files.paths, files.unreadable)


@checked
def load(run: RunLike) -> Detector:
    """Return the detector of a finished run.

    Args:
        run: the run's folder, for example "saved_models/my_run"; the name of a detector that comes
            with tfdetect: "photo_detector", "localizer_photos" or "cifake_small_resnet"; or its
            address on a hub: "hf://USER/REPOSITORY@REVISION" or
            "kaggle://USER/MODEL/FRAMEWORK/VARIATION". It is downloaded once into the cache;
            `run.source` has its commit.

    Raises:
        UserError: there is no such run, it is unfinished or corrupt, or the hub does not answer or
            has files that are not safe.
    """
    return Detector(run_of(run))
