"""Scores the subsets of a suite with a run, once for each protocol; finished scores are reused."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import keras
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from tfdetect.benchmarks.subset_data import SubsetData, equalizing
from tfdetect.benchmarks.suite import PUBLISHED, Protocol, ProtocolName, Suite
from tfdetect.core import console
from tfdetect.core.data_settings import Equalize
from tfdetect.core.disk import replacing
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.text import counted, file_name
from tfdetect.data.loading import Change
from tfdetect.data.sources import image_source
from tfdetect.evaluation.evaluate_run import complete, mask_truth
from tfdetect.evaluation.predictions import predict_source
from tfdetect.imaging.equalize import equalize, quality_of_pixels
from tfdetect.imaging.partial import of_whole
from tfdetect.imaging.resampling import antialiased, to_uint8
from tfdetect.models.saving import load_detector

_RULES = 2  # to be raised whenever the same images would get other scores
_FACTS = b"tfdetect.benchmark"  # key of what a file of scores says about itself


@dataclass(frozen=True)
class ScoreFacts:
    """What a file of scores says about itself.

    Attributes:
        images: digest of the paths, contents and labels.
        change: what was done to the images before the run saw them.
        parameters: the number of parameters of the detector.
        seconds: the seconds that scoring took, with decoding.
        device: the device that it ran on.
        rules: version of the scoring.
    """

    images: str
    change: str
    parameters: int
    seconds: float
    device: str
    rules: int = _RULES


@dataclass(frozen=True)
class SubsetScores:
    """The predictions for one subset, from `evaluate_run.complete`, and how they were made."""

    table: pa.Table
    facts: ScoreFacts


def check_runs(runs: Sequence[Run], suites: Sequence[Suite]) -> None:
    """Check that runs can be measured on suites.

    Raises:
        UserError: a suite compares masks, and a run predicts none; or a run has no Keras model.
    """
    for run in runs:
        if not run.model_path.is_file():
            raise UserError(
                f"{run.name} has no {run.model_path.name}, which benchmarks need. Its exports only "
                "predict."
            )
        for suite in suites:
            if suite.task == "masks" and not run.predicts_masks:
                raise UserError(
                    f"The suite {suite.name!r} compares masks, and {run.name} predicts none. Give "
                    "a localizer, such as saved_models/localizer_photos."
                )


class Scorer:
    """Scores images with one run. The detector is loaded when the first images need it.

    Args:
        run: the run.
        folder: for the scores of all runs.
        batch_size: images a batch.
        progress: whether to show progress bars.
        log: called with each line.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        batch_size: int,
        progress: bool,
        log: console.Log,
    ):
        self.run, self.key = run, run_key(run)
        self._folder = folder / file_name(f"{run.name}-{self.key}")
        self._batch_size, self._progress, self._log = batch_size, progress, log

    @cached_property
    def _detector(self) -> keras.Model:
        return load_detector(self.run)

    def score(self, suite: Suite, data: SubsetData, protocol: ProtocolName) -> SubsetScores:
        """Return the scores of a subset under a protocol, from the file if they are there.

        Args:
            suite: the suite.
            data: the subset; it is not missing.
            protocol: "published" or "equalized".

        """
        assert data.catalog is not None
        settings = equalizing(suite, data.rows)
        path, images, change = self._file(suite, data, protocol, settings)
        if known := _read(path, images, change):
            self._log(f"  {data.subset.name}, {protocol}: scored before")
            return known
        self._log(f"  {data.subset.name}, {protocol}: {counted(data.rows.num_rows, 'image')}")
        detector, start = self._detector, time.perf_counter()
        table = predict_source(
            self.run, detector, image_source(data.catalog, data.rows), self._batch_size,
            self._progress, change=_change(suite, protocol, settings),
            truth=mask_truth(data.catalog, data.rows) if suite.task == "masks" else None,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        facts = ScoreFacts(images, change, detector.count_params(), round(seconds, 3), device())
        table = complete(data.rows, table)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            text = json.dumps(asdict(facts))
            pq.write_table(table.replace_schema_metadata({_FACTS: text}), temporary)
        return SubsetScores(table, facts)

    def has_scored(self, suite: Suite, data: SubsetData, protocol: ProtocolName) -> bool:
        """Return whether a file has the scores of a subset under a protocol; see `score`."""
        file = self._file(suite, data, protocol, equalizing(suite, data.rows))
        return _read(*file) is not None

    def _file(
        self, suite: Suite, data: SubsetData, protocol: ProtocolName, settings: Equalize
    ) -> tuple[Path, str, str]:
        """Return the file of a subset's scores, the digest of its images, and their change."""
        images, change = digest(data.rows), describe_change(suite, protocol, settings)
        what = hashlib.sha256(f"{images}\n{change}".encode()).hexdigest()[:12]
        name = file_name(f"{suite.name}-{data.subset.name}-{what}", ".parquet")
        return self._folder / name, images, change


def run_key(run: Run) -> str:
    """Return a hex digest of what decides a run's scores: weights, views and calibration."""
    with open(run.model_path, "rb") as file:
        found = hashlib.file_digest(file, "sha256")
    info = run.info
    parts = [*info.views, info.calibration]
    texts = [part.model_dump_json() if part is not None else "" for part in parts]
    found.update(f"{texts}{info.flips}{info.prior}{list(info.class_names)}".encode())
    return found.hexdigest()[:12]


def digest(rows: pa.Table) -> str:
    """Return a hex digest of the paths, contents and labels of images."""
    found = hashlib.sha256()
    for name in ("path", "hash", "label"):
        found.update("\n".join(map(str, rows[name].to_pylist())).encode())
    return found.hexdigest()[:16]


def describe_change(suite: Suite, protocol: ProtocolName, settings: Equalize) -> str:
    """Return in words what is done to images before a run sees them; "" for nothing."""
    if protocol == PUBLISHED:
        return describe_protocol(suite.protocol)
    low, high = settings.quality
    crop = "" if suite.task == "masks" else f"center of {settings.side} pixels without resizing, "
    return f"{crop}JPEG of quality {low} to {high} by the pixels"


def describe_protocol(protocol: Protocol) -> str:
    """Return in words what a published protocol does to images; "" for nothing."""
    parts = []
    if protocol.stretch:
        parts.append(f"resized to {protocol.stretch} x {protocol.stretch} pixels")
    if protocol.shorter_side:
        parts.append(f"shorter side resized to {protocol.shorter_side} pixels")
    if protocol.crop:
        parts.append(f"center of {protocol.crop} pixels")
    return ", ".join(parts)


def device() -> str:
    """Return what TensorFlow computes on, for people."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return f"{len(gpus)} x {name}" if len(gpus) > 1 else name


def _change(suite: Suite, protocol: ProtocolName, settings: Equalize) -> Change | None:
    if protocol != PUBLISHED:
        return lambda picture, number: of_whole(lambda image: _encoded(image, settings), picture)
    published = as_published(suite.protocol)
    if published is None:
        return None
    return lambda picture, number: of_whole(published, picture)


def _encoded(image: tf.Tensor, settings: Equalize) -> tf.Tensor:
    return equalize(image, settings, quality=quality_of_pixels(image, settings))


def as_published(protocol: Protocol) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Return what a published protocol does to images; None for nothing."""
    if not (protocol.stretch or protocol.shorter_side or protocol.crop):
        return None

    def change(image: tf.Tensor) -> tf.Tensor:
        height, width = tf.unstack(tf.shape(image)[:2])
        if protocol.stretch:
            image = _resized(image, [protocol.stretch] * 2, protocol.antialias)
        if protocol.shorter_side:
            ratio = protocol.shorter_side / tf.minimum(height, width)
            size = tf.cast(tf.round(tf.cast([height, width], tf.float64) * ratio), tf.int32)
            image = _resized(image, size, protocol.antialias)
        if protocol.crop:
            size = tf.minimum(tf.shape(image)[:2], protocol.crop)
            top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
            image = image[top : top + size[0], left : left + size[1]]
        return image

    return change


def _resized(image: tf.Tensor, size: tf.Tensor | list[int], antialias: bool) -> tf.Tensor:
    return to_uint8(antialiased(image, size) if antialias else tf.image.resize(image, size))


def _read(path: Path, images: str, change: str) -> SubsetScores | None:
    """Return the scores in a file; None if there are none, or they are of something else."""
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        facts = ScoreFacts(**json.loads(table.schema.metadata[_FACTS]))
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        return None  # another program's file, or an older version's: it is written again
    same = (facts.images, facts.change, facts.rules) == (images, change, _RULES)
    return SubsetScores(table, facts) if same else None
