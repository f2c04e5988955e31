"""`Detector`: a finished run that gives verdicts on images, and `Predictions`, what it returns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tfdetect.api.arguments import RunLike, checked
from tfdetect.core import console, storage
from tfdetect.core.columns import Column, Table
from tfdetect.core.errors import UserError
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.run import Run, open_run
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.text import from_os, to_os, user_path

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd
    import PIL.Image
    import pyarrow as pa

    from tfdetect.data.image_files import ImageFiles
    from tfdetect.light.onnx_detector import LightDetector
    from tfdetect.spark.predict_table import WrittenPredictions

    Image = str | Path | np.ndarray | PIL.Image.Image


_SHOWN = 20  # predictions that a notebook or an interpreter shows


class Predictions(Sequence[dict[str, Any]]):
    """Verdicts on images: one row per image, in the order of the images.

    A row is a dict with these keys:

    - `path`: the file, or "image N" for the N-th image that was given as pixels.
    - `p_fake`: calibrated probability that the image is fake, 0 to 1; None where `error` is set.
    - `p_fake_raw`: the same before calibration.
    - `probability_<class>`: calibrated probability of each class.
    - `verdict`: name of the class.
    - `inconclusive`: whether P(fake) is in the abstention band, where verdicts are often wrong.
    - `in_domain`: whether the image is like those that the detector was trained on; None where
      that is not known. Outside of them a verdict says little.
    - `domain_reasons`: in what it is unlike them: `size`, `format`, `features`; "" in nothing.
    - `feature_distance`: how far its features are from theirs (about 1 for training images).
    - `duplicate_of_train`: whether the detector was trained on this image or a copy of it; None
      where the run keeps no hashes of its training images.
    - `altered_fraction`: fraction of pixels with P(altered) of at least 0.5, 0 where P(fake) is
      below the detector's mask threshold; only from detectors that predict masks.
    - `copied_fraction`: fraction of pixels in regions that are copies of other regions; only where
      masks are written.
    - `error`: why the image could not be read, or None.

    Attributes:
        pages: HTML pages that explain the verdicts, if they were asked for.
        unwritten: masks and pages that could not be written, with the reasons, by their paths.
    """

    def __init__(
        self,
        table: Table,
        pages: Sequence[Path] = (),
        unwritten: Mapping[Path, str] | None = None,
    ):
        self._table = table
        self.pages = list(pages)
        self.unwritten = dict(unwritten or {})

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Predictions: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | Predictions:
        if isinstance(index, slice):
            return Predictions(self._table.take(range(len(self))[index]))
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} predictions. Received index: {index}.")
        return next(iter(Predictions(self._table.take([index % len(self)]))))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._table.to_pylist():
            yield row | {"path": to_os(row["path"])}

    def __str__(self) -> str:
        from tfdetect.evaluation.prediction_tables import terminal

        return terminal(self._table)

    def __repr__(self) -> str:
        shown = str(self[:_SHOWN])
        more = len(self) - _SHOWN
        return f"{shown}\n... and {more:,} more" if more > 0 else shown

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return len(self) - self._table["error"].null_count

    @property
    def out_of_domain(self) -> int:
        """Number of images that are unlike the detector's training images."""
        return self._table["in_domain"].to_pylist().count(False)

    @property
    def duplicates_of_train(self) -> int:
        """Number of images that the detector was trained on, and of copies of them."""
        return self._table["duplicate_of_train"].to_pylist().count(True)

    def to_arrow(self) -> pa.Table:
        """Return the rows as a pyarrow table.

        Bytes of file names that are no UTF-8 are characters of the private use area in it.

        Raises:
            UserError: pyarrow is not installed.
        """
        return self._table.to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                "to_pandas() needs pandas: pip install pandas. Without pandas, iterate over the "
                "predictions."
            ) from None
        return pandas.DataFrame(
            {name: self._table[name].to_numpy() for name in self._table.column_names}
        )

    def write(self, path: str | Path) -> Path:
        """Write the rows to a .csv, .jsonl or .parquet file, by the name's ending.

        Raises:
            UserError: another ending, or the file cannot be written.
        """
        from tfdetect.evaluation import prediction_tables

        path = user_path(path)
        prediction_tables.check_output(path)
        prediction_tables.write(self._table, path)
        return path


class Detector:
    """A finished run that gives verdicts on images. `tfdetect.load` returns one.

    The model is loaded when it is first needed.

    Attributes:
        run: the run, for example for `run.metrics["test"]["auc"]`.
    """

    def __init__(self, run: Run):
        self.run = run

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
                images); or a PIL image.
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
            One row per image. A file that cannot be read, or a folder without images, has a row
            with its `error`. A mask or a page that cannot be written is in `unwritten`; the others
            are written.

        Raises:
            UserError: a path does not exist, an array is not an image, or no image can be read.
        """
        import numpy as np

        from tfdetect.core.files import FailedWrites, check_writable
        from tfdetect.evaluation.overlays import MaskWriter, output_names
        from tfdetect.forensics.copies import find_copies_in_file

        if masks is not None:
            _check_outside(user_path(masks), images)
            if not self.run.predicts_masks:
                raise UserError(
                    f"{self.name} predicts no masks. Choose a run that was trained with a "
                    "model.mask_head, or leave the masks out."
                )
            check_writable(user_path(masks), "--masks")
        if pages is not None:
            check_writable(user_path(pages), "--explain")
        with tempfile.TemporaryDirectory() as folder:
            paths, names, files = _paths_of(images, Path(folder))
            if progress and (files.unreadable or files.other):
                console.log(files.describe())
            failed = FailedWrites()
            writer = None
            if masks is not None:
                find = partial(find_copies_in_file, max_pixels=max_pixels)
                writer = MaskWriter(user_path(masks), paths, failed, find)
            from_pixels = [Path(path).parent == Path(folder) for path in paths]
            predict_files = self._file_predictor(light=pages is None)

            def named(table: Table) -> Table:
                if writer is not None:
                    copied = writer.copied_fractions
                    column = Column(copied, np.isnan(copied))
                    table = table.with_column("copied_fraction", column)
                return table.with_first("path", Column.texts([from_os(name) for name in names]))

            def keep(table: Table) -> None:
                unreached = [p is None and error is None for p, error in zip(
                    table["p_fake"].to_pylist(), table["error"].to_pylist())]  # fmt: skip
                done = np.flatnonzero(~np.array(unreached))
                if on_stop is not None and len(done):
                    on_stop(Predictions(named(table).take(done), (), failed.reasons))

            def predict(chosen: list[str], start: int, progress: bool) -> Table:
                return predict_files(
                    chosen, batch_size, progress, writer.write if writer else None, max_pixels,
                    from_pixels[start : start + len(chosen)],
                    on_stop=keep if len(chosen) == len(paths) else None,
                )  # fmt: skip

            if files.entries:
                # The files of masks and pages are all there at once.
                turn = max(storage.TURN, batch_size) if masks is None and pages is None else None
                table = _predicted_in_turns(predict, paths, Path(folder), turn, progress)
            else:
                table = predict(paths, 0, progress)
            rows = named(table)
            rows = rows.extended([{"path": from_os(path), "error": reason}
                                  for path, reason in files.unreadable.items()])  # fmt: skip
            if masks is not None:
                storage.publish(user_path(masks))
            found = Predictions(rows, (), failed.reasons)
            if on_verdicts is not None:
                on_verdicts(found)
            if pages is None:
                return found
            from tfdetect.explanation.image_page import explain_files

            targets = [user_path(pages) / f"{name}.html" for name in output_names(paths)]
            written = []
            with console.progress(len(targets), "explaining", "images", shown=progress) as bar:
                for page in explain_files(
                    self.run, self.keras_model, table, targets, failed, max_pixels
                ):
                    written.append(page)
                    bar.advance(1)
            storage.publish(user_path(pages))
        return Predictions(rows, written, failed.reasons)

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

    def _file_predictor(self, light: bool) -> Callable[..., Table]:
        """Return `predict_files` of the ONNX export, if that is possible, or else TensorFlow's."""
        if light and self._light_detector is not None:
            from tfdetect.light.onnx_predictions import predict_files as predict_light

            return partial(predict_light, self._light_detector)
        detector = self.keras_model
        from tfdetect.evaluation.predictions import Scorer, predict_files

        return partial(predict_files, self.run, Scorer(self.run, detector))

    @cached_property
    def _light_detector(self) -> LightDetector | None:
        from tfdetect.light.onnx_detector import light_detector

        return light_detector(self.run)


@checked
def load(run: RunLike) -> Detector:
    """Return the detector of a finished run.

    Args:
        run: the run's folder, for example "saved_models/cifake_small_resnet", or its address on a
            hub: "hf://USER/REPOSITORY@REVISION" or "kaggle://USER/MODEL/FRAMEWORK/VARIATION". It
            is downloaded once into the cache; `run.source` has its commit.

    Raises:
        UserError: there is no such run, it is unfinished or corrupt, or the hub does not answer or
            has files that are not safe.
    """
    return Detector(run if isinstance(run, Run) else open_run(run))


def _paths_of(
    images: Image | Iterable[Image], folder: Path
) -> tuple[list[str], list[str], ImageFiles]:
    """The files of the images and what to call them; pixels are written into `folder` as PNG.

    Also what else was found where images were looked for.
    """
    from tfdetect.data.image_files import ImageFiles, images_of

    found = ImageFiles()
    paths: list[str] = []
    names: list[str] = []
    for number, image in enumerate(_each(images), 1):
        if isinstance(image, str | Path):
            files = images_of(str(image))
            found.extend(files)
            paths += files.paths
            names += map(storage.shown, files.paths)
        else:
            file = folder / f"image_{number:04d}.png"
            _as_pil(image, number).save(file, compress_level=1)
            paths.append(str(file))
            names.append(f"image {number}")
    if not paths:
        found.check()
    return paths, names, found


def _predicted_in_turns(
    predict: Callable[[list[str], int, bool], Table],
    paths: list[str],
    folder: Path,
    turn: int | None,
    progress: bool,
) -> Table:
    """Predict files of which some are at addresses; the next ones are fetched meanwhile."""
    tables: list[Table] = []
    with console.progress(len(paths), "predicting", "images", shown=progress) as bar:
        for files, failed in storage.in_turns(paths, folder / "fetched", turn or len(paths)):
            table = predict(files, bar.done, False)
            errors = table["error"].to_pylist()
            for number, reason in failed.items():
                errors[number] = reason
            tables.append(table.with_column("error", Column.texts(errors)))
            bar.advance(len(files))
    return Table.concatenated(tables)


def _each(images: Any) -> Iterator[Any]:
    """The single images, whether one was given, a list, or an array of several."""
    if isinstance(images, str | Path) or not isinstance(images, Iterable) or _is_pil(images):
        yield images
        return
    shape = getattr(images, "shape", None)
    if shape is not None and len(shape) in (2, 3):
        yield images
        return
    yield from images


def _check_outside(masks: Path, images: Any) -> None:
    """Refuse a folder for masks below a folder of images, which would hold them next time."""
    folders = images if isinstance(images, list | tuple) else [images]
    for folder in (Path(each) for each in folders if isinstance(each, str | Path)):
        if folder.is_dir() and masks.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"The folder for masks, {masks}, is inside the folder of images {folder}: the next "
                "prediction would take the masks for images. Choose a folder outside of it."
            )


def _is_pil(image: Any) -> bool:
    from PIL import Image

    return isinstance(image, Image.Image)


def _as_pil(image: Any, number: int) -> PIL.Image.Image:
    """A PIL image that PNG can hold, upright.

    Raises:
        UserError: it is neither a PIL image nor a uint8 array of one.
    """
    import numpy as np
    from PIL import Image, ImageOps

    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise UserError(f"Image {number} has no pixels: its size is {image.size}.")
        if image.mode in ("F", "I"):
            raise UserError(
                f"Image {number} has the mode {image.mode!r}, whose values have no fixed range. "
                "Give a mode with 8 bits, such as RGB or L, or I;16."
            )
        try:
            upright = ImageOps.exif_transpose(image)
            upright.load()
        except (OSError, SyntaxError) as error:
            raise UserError(f"Image {number} cannot be decoded: {error}") from error
        return upright if upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else (
            upright.convert("RGB")
        )  # fmt: skip
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype.kind not in "biuf":
        raise UserError(
            f"Image {number} is of type {type(image).__name__}. Give a path, a PIL image or an "
            "array of pixels."
        )
    if pixels.dtype != np.uint8:
        how = {"f": ". From values 0 to 1: (image * 255).round().astype('uint8')", "b": ""}.get(
            pixels.dtype.kind, ". If the values lie in 0 to 255: image.astype('uint8')"
        )
        raise UserError(
            f"Image {number} has values of type {pixels.dtype}. Give uint8 values from 0 to 255"
            f"{how}"
        )
    if pixels.size == 0:
        raise UserError(f"Image {number} has no pixels: its shape is {list(pixels.shape)}.")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise UserError(
            f"Image {number} has the shape {list(pixels.shape)}. Give [height, width, 3] (RGB), "
            "[height, width, 4] (RGBA) or [height, width] (gray)."
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
