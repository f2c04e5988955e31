"""`Detector`: a finished run that gives verdicts on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.api.arguments import RunLike, run_of
from tfdetect.api.checked import checked
from tfdetect.api.loaded_run import LoadedRun
from tfdetect.api.predictions import Predictions
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.text import user_path

if TYPE_CHECKING:
    import keras

    from tfdetect.api.given_images import Image
    from tfdetect.spark.predict_table import WrittenPredictions


class Detector:
    """A finished run that gives verdicts on images. `tfdetect.load` returns one.

    The model is loaded when it is first needed.

    Attributes:
        run: the run, for example for `run.metrics["test"]["auc"]`.
    """

    def __init__(self, run: RunLike):
        self.run = run_of(run)
        self.loaded = LoadedRun(self.run)  # for other modules of this package

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

    @property
    def keras_model(self) -> keras.Model:
        """The Keras model: images float32 [B, H, W, 3] in 0..255 to a dict of logits.

        Its inputs have the sizes of `run.views`; calibration and threshold are the run's and not
        part of the model.
        """
        return self.loaded.keras_model

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
        """Return a detector with other settings and the same model; the run on disk is unchanged.

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
        run = run.with_threshold(threshold).with_mask_threshold(mask_threshold)
        detector = Detector(run)
        detector.loaded = self.loaded.with_run(run)
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
            One row per image. A file that is given twice, by its path again, in a folder or by a
            link, has one row, so match rows with files by `path`. A file that cannot be read, or a
            folder without images, has a row with its `error`. A mask or a page that cannot be
            written is in `unwritten`; the others are written.

        Raises:
            UserError: a path does not exist, an array is not an image, or no image can be read.
        """
        from tfdetect.api.prediction_job import predicting

        with predicting(
            self.loaded, images, batch_size=batch_size, masks=masks, pages=pages, progress=progress,
            on_stop=on_stop, max_pixels=max_pixels,
        ) as verdicts:  # fmt: skip
            if on_verdicts is not None:
                on_verdicts(verdicts.predictions)
            return verdicts.explain()

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
