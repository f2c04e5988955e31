"""Predict image files on a cluster, and write the predictions as one table."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tfdetect.core import addresses, console
from tfdetect.core.columns import Table
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.text import from_os, user_path
from tfdetect.data.image_files import ImageFiles, find_images
from tfdetect.evaluation import prediction_tables
from tfdetect.light.onnx_detector import light_detector
from tfdetect.spark.job import Job, alone, file_stamps, has_all_parts, open_job
from tfdetect.spark.run_job import run_job
from tfdetect.spark.run_tasks import ONNX, TENSORFLOW, PredictFiles, run_digest
from tfdetect.spark.session import starting_spark


@dataclass
class WrittenPredictions:
    """A table of predictions in a file, which may be too large for memory.

    Attributes:
        output: the file.
        parts: folder with the parts of the table as Parquet files, from which the same command
            continues an interrupted job.
        rows: number of images.
        unreadable: number of images that could not be read.
        out_of_domain: number of images that are unlike the detector's training images.
        duplicates_of_train: number of images that the detector was trained on, and of copies.
    """

    output: Path
    parts: Path
    rows: int = 0
    unreadable: int = 0
    out_of_domain: int = 0
    duplicates_of_train: int = 0

    def count(self, table: Table) -> None:
        """Count the rows of a part of the table."""
        self.rows += table.num_rows
        self.unreadable += table.num_rows - table["error"].null_count
        self.out_of_domain += table["in_domain"].to_pylist().count(False)
        self.duplicates_of_train += table["duplicate_of_train"].to_pylist().count(True)


def predict_to_table(
    run: Run,
    images: Sequence[str],
    output: Path,
    cluster: SparkCluster,
    *,
    batch_size: int,
    progress: bool,
    max_pixels: int,
) -> WrittenPredictions:
    """Predict files on a cluster and write the table that `predict` writes.

    The same call continues an interrupted one, whose finished parts are in the folder of parts.

    Args:
        run: the run, with its settings of verdicts and views.
        images: files, folders or patterns.
        output: the table; .csv, .jsonl or .parquet.
        cluster: the cluster to run on; its folder is by default `output` with the ending .parts.
        batch_size: images per step.
        progress: whether to show progress.
        max_pixels: images with more pixels are refused.

    Raises:
        UserError: a path does not exist, the folder of parts holds another job, or the cluster
            cannot do it.
    """
    prediction_tables.check_output(output)
    if cluster.folder is None and addresses.address_of(output) is not None:
        raise UserError(
            "The output is at an address, but the parts of the table need a folder that all "
            "machines see: give it with --spark-dir."
        )
    folder = (cluster.folder or output.with_name(f"{output.name}.parts")).absolute()
    name, at_once = f"tfdetect predict {run.name}", not has_all_parts(folder)
    with starting_spark(cluster, name, at_once) as session:
        found = find_images(images)
        if found.repeated or (progress and found.noteworthy):
            console.log(found.describe())
        items, sizes = _items(found)
        task, what = _task(run, batch_size, max_pixels)
        with alone(folder):
            job = open_job(folder, what, items, sizes, "--spark-dir")
            run_job(session, job, task, _roots(images), "predicting", "images", progress)
            written = WrittenPredictions(output, folder)
            prediction_tables.write_all(_counted(_tables(job, found), written), output)
    return written


def _task(run: Run, batch_size: int, max_pixels: int) -> tuple[PredictFiles, dict[str, Any]]:
    """Return the task of the machines, and its description for the manifest; see `open_job`."""
    runtime = TENSORFLOW if light_detector(run) is None else ONNX
    # Other machines have another working directory.
    base, run = os.getcwd(), replace(run, path=run.path.absolute())
    task = PredictFiles(
        run, addresses.address_of(run.path), run_digest(run, runtime), runtime, base, batch_size,
        max_pixels,
    )  # fmt: skip
    return task, {
        "task": "predict", "run": run.name, "files of the run": task.digest,
        "threshold": run.threshold, "mask_threshold": run.mask_threshold, "prior": run.info.prior,
        "crops": run.views[0].crops, "flips": run.info.flips, "runtime": runtime,
        "max_pixels": max_pixels,
    }  # fmt: skip


def _items(found: ImageFiles) -> tuple[pa.Table, np.ndarray]:
    """Return the items of a job, and the sizes of the files in bytes, 0 if unknown."""
    stamps = file_stamps(found.paths)
    tokens: list[str | None] = []
    for number, path in enumerate(found.paths):
        entry = found.entries.get(path)
        tokens.append(entry and entry.token)
        if entry is not None:
            stamps[number, 0] = entry.size or 0
    shown = addresses.shown if found.entries else str  # where there are no addresses
    texts = pa.array((from_os(shown(path)) for path in found.paths), pa.string())
    columns = {"path": texts, "size": stamps[:, 0], "mtime_ns": stamps[:, 1]}
    if found.entries:
        columns["token"] = pa.array(tokens, pa.string())
    return pa.table(columns), stamps[:, 0]


def _roots(images: Sequence[str]) -> list[str]:
    """Return the folders that a machine needs to see."""
    given = [user_path(image) for image in images]
    paths = [os.path.abspath(path) for path in given if addresses.address_of(path) is None]
    folders = {path if os.path.isdir(path) else os.path.dirname(path) for path in paths}
    return sorted(filter(os.path.isdir, folders))


def _tables(job: Job, found: ImageFiles) -> Iterator[Table]:
    """Yield the table in parts; the last one ends with the files that could not be opened."""
    errors = [{"path": from_os(path), "error": reason} for path, reason in found.unreadable.items()]
    last = None
    for part in job.results():
        if last is not None:
            yield last
        last = Table.from_arrow(part)
    if last is not None:
        yield last.extended(errors)


def _counted(tables: Iterable[Table], written: WrittenPredictions) -> Iterator[Table]:
    """Yield tables, and count their rows."""
    for table in tables:
        written.count(table)
        yield table
