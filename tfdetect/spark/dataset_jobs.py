"""`DatasetJobs`: work on datasets on a cluster, for `audit`, `evaluate`, `prepare`, `synthesize`,
`explain` and `matrix`.
"""

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.errors import UserError
from tfdetect.core.provenance import command_line
from tfdetect.core.run import Run
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.data.catalog import Catalog
from tfdetect.data.parallel import combined, reading_by
from tfdetect.spark.dataset_tasks import MakeForgeries, ReadFiles, TrainRuns, WriteShards
from tfdetect.spark.executor import Task
from tfdetect.spark.items import items_of, items_with_rows
from tfdetect.spark.job import alone, digest, file_stamps, open_job
from tfdetect.spark.partitions import MAX_ITEMS
from tfdetect.spark.run_job import run_job
from tfdetect.spark.run_tasks import TENSORFLOW, ExplainRows, PredictRows, run_digest
from tfdetect.spark.session import starting_spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tfdetect.data.plan import Plan
    from tfdetect.data.shard_writer import ShardRow, ShardWriter
    from tfdetect.explanation.image_explainer import ExplainedImage
    from tfdetect.synthesis.forge_task import ForgeTask
    from tfdetect.synthesis.forgery_plan import Item

_FLAG = "--spark-dir"
_MAX_EXPLAINED = 8  # images in a partition
_MAX_FORGERIES = 64  # in a partition; to make one takes as long as to read hundreds of files


class DatasetJobs:
    """Work on the files of datasets on a cluster; made by `dataset_jobs`.

    The folder of a job is named after what it does and a digest of its items. So the same job
    continues an interrupted one, and a job with other files begins a new folder.

    Attributes:
        folders: the folders of the jobs so far.
    """

    def __init__(
        self,
        session: Callable[[], "SparkSession"],
        folder: Path,
        roots: Sequence[str],
        progress: bool,
    ):
        self._session, self._folder, self._roots = session, folder, roots
        self._progress = progress
        self.folders: list[Path] = []

    def read_all(
        self,
        read: Callable[..., tuple],
        files: Sequence,
        schema: pa.Schema,
        description: str,
        progress: bool,
        failed: Callable[..., tuple],
    ) -> pa.Table:
        """Read files into a table; arguments and result are those of `data.parallel.read_all`."""
        stamps = file_stamps(file if isinstance(file, str) else file[0] for file in files)
        items, sizes = items_of(files), stamps[:, 0]
        for name, column in zip(("size", "mtime_ns"), stamps.T):
            items = items.append_column(name, pa.array(column))
        task = ReadFiles(read, failed, schema)
        what = {"task": description, "how": _describe(read)}
        parts = self._parts(task, what, items, sizes, description, "files", progress=progress)
        return _all_rows(parts).cast(schema)

    def predictor(
        self, run_path: Path, batch_size: int
    ) -> Callable[[Run, Catalog, pa.Table, bool], pa.Table]:
        """Return a function that predicts rows of a catalog, as `evaluate_run` takes it.

        Args:
            run_path: folder of the run, which every machine sees.
            batch_size: images per step.
        """

        def predict(run: Run, catalog: Catalog, rows: pa.Table, own_validation: bool) -> pa.Table:
            parts = self.predicted_parts(run_path, batch_size, run, catalog, rows, own_validation)
            return _all_rows(parts)

        return predict

    def predicted_parts(
        self,
        run_path: Path,
        batch_size: int,
        run: Run,
        catalog: Catalog,
        rows: pa.Table,
        own_validation: bool,
    ) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Predict rows of a catalog, and yield the rows of each part with their predictions.

        Args:
            run_path: folder of the run, which every machine sees.
            batch_size: images per step.
            run: the run, with its settings of verdicts and views.
            catalog: the dataset.
            rows: the rows of the catalog.
            own_validation: whether they are the run's own validation split.
        """
        run = replace(run, path=run_path.absolute())
        task = PredictRows(
            run, run_digest(run, TENSORFLOW), _without_rows(catalog), batch_size, own_validation
        )
        what = {
            "task": "evaluate", "run": run.name, "files of the run": task.digest,
            "settings": digest(pa.table({"info": [run.info.model_dump_json()]})),
            "roots": [str(root) for root in catalog.roots.values()],
            "max_pixels": catalog.max_pixels, "own_validation": own_validation,
        }  # fmt: skip
        sizes = rows["size"].to_numpy()
        yield from self._parts(task, what, rows, sizes, "predicting", "images")

    def explain(
        self, run_path: Path, stages: Sequence[str], run: Run, catalog: Catalog, rows: pa.Table
    ) -> "Iterator[ExplainedImage]":
        """Explain rows of a catalog, and yield the images; see `explain_set.ExplainElsewhere`.

        The images are pickles in the folder of parts, into which only this command writes.
        """
        run = replace(run, path=run_path.absolute())
        task = ExplainRows(run, run_digest(run, TENSORFLOW), _without_rows(catalog), tuple(stages))
        what = {"task": "explain", "run": run.name, "files of the run": task.digest,
                "stages": list(stages),
                "roots": [str(root) for root in catalog.roots.values()]}  # fmt: skip
        sizes = rows["size"].to_numpy()
        parts = self._parts(task, what, rows, sizes, "explaining", "images", _MAX_EXPLAINED)
        for _, found in parts:
            yield from (pickle.loads(each) for each in found["explained"].to_pylist() if each)

    def write_shards(
        self, writer: "ShardWriter", shards: Mapping[str, pa.Table]
    ) -> Iterator["ShardRow"]:
        """Write shards, and yield what `ShardWriter.write` returns for each.

        Args:
            writer: writes a shard.
            shards: the rows of the catalog in each shard, by the name of the shard.

        Raises:
            UserError: a shard ended the process that wrote it.
        """
        if not shards:
            return
        folder = writer.folder.absolute()
        task = WriteShards(_without_rows(writer.catalog), folder, writer.copies, writer.with_masks)
        what = {"task": "prepare", "folder": str(folder), "copies": repr(writer.copies)}
        sizes = np.array([pc.sum(rows["size"]).as_py() for rows in shards.values()])
        items = items_with_rows("shard", shards)
        found = _all_rows(self._parts(task, what, items, sizes, "writing shards", "shards"))
        for shard, text in zip(*(column.to_pylist() for column in found.columns)):
            if text is None:
                raise UserError(
                    f"The shard {shard} could not be written: its process ended. It may need too "
                    "much memory."
                )
            yield json.loads(text)

    def train_runs(self, plan: "Plan", parts: Mapping[Path, Catalog]) -> None:
        """Train runs, one at a time on each machine.

        Args:
            plan: the experiment and the dataset spec of all runs.
            parts: the catalog that each run is trained on, by the path of the run.

        Raises:
            UserError: a training ended its process, or this machine does not see the runs.
        """
        if not parts:
            return
        catalogs = {str(path.absolute()): catalog for path, catalog in parts.items()}
        first = next(iter(catalogs.values()))
        # Not `_without_rows`: a run lists the images that were skipped.
        task = TrainRuns(
            plan, replace(first, table=first.table.slice(0, 0)), command_line("matrix")
        )
        items = items_with_rows("path", {path: part.table for path, part in catalogs.items()})
        what = {"task": "matrix", "experiment": plan.experiment.to_yaml()}
        sizes = np.array([part.table.num_rows for part in catalogs.values()])
        found = _all_rows(self._parts(task, what, items, sizes, "training", "runs", most=1))
        for path, error in zip(*(column.to_pylist() for column in found.columns)):
            if error is not None:
                raise UserError(f"The training of {path} failed: {error}.")
            if not Path(path).is_dir():
                raise UserError(
                    f"{path} was trained on another machine, and this machine does not see it. The "
                    "--output must be a folder that all machines see under the same path."
                )

    def make_forgeries(self, task: "ForgeTask", items: "list[Item]") -> Iterator[dict[str, Any]]:
        """Make and write forgeries, and yield what `ForgeTask.make` returns for each."""
        if not items:
            return
        task = replace(task, source=task.source.absolute(), output=task.output.absolute())
        what = {"task": "synthesize", "how": repr(task)}
        sizes = file_stamps([str(task.source / item.photo) for item in items])[:, 0]
        parts = self._parts(
            MakeForgeries(task), what, items_of([astuple(item) for item in items]), sizes,
            "making forgeries", "images", _MAX_FORGERIES,
        )  # fmt: skip
        yield from map(json.loads, _all_rows(parts)["row"].to_pylist())

    def _parts(
        self,
        task: Task,
        what: Mapping[str, Any],
        items: pa.Table,
        sizes: np.ndarray,
        description: str,
        unit: str,
        most: int = MAX_ITEMS,
        progress: bool | None = None,
    ) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Run a job, and yield the items of each part with its rows.

        Args:
            task: what is done with the items.
            what: the description of the job for its manifest; see `open_job`.
            items: one row for each item.
            sizes: sizes of the files of the items in bytes, int [n].
            description: text of the progress bar, and the beginning of the name of the folder.
            unit: what the items are, in the plural, for the progress bar.
            most: number of items in a part, at most.
            progress: whether to show the progress bar; None for the setting of the command.
        """
        items_digest = digest(items)
        key = digest(pa.table({"key": [repr(sorted(what.items())), items_digest]}))[:12]
        folder = (self._folder / f"{description.replace(' ', '-')}-{key}").absolute()
        self.folders.append(folder)
        with alone(folder):
            job = open_job(folder, what, items, sizes, _FLAG, most, items_digest)
            shown = self._progress if progress is None else progress
            run_job(self._session, job, task, self._roots, description, unit, shown)
            starts = np.cumsum(job.rows) - job.rows
            for start, rows in zip(starts.tolist(), job.results()):
                yield items.slice(start, rows.num_rows), rows


def _all_rows(parts: Iterator[tuple[pa.Table, pa.Table]]) -> pa.Table:
    """Return the rows of all parts of a job as one table."""
    return combined(pa.concat_tables(rows for _, rows in parts))


@contextmanager
def dataset_jobs(
    cluster: SparkCluster, folder: Path, roots: Mapping[str, Path], progress: bool
) -> Iterator[DatasetJobs]:
    """Yield a `DatasetJobs`; while it exists, `data.parallel.read_all` reads files on the cluster.

    Args:
        cluster: the cluster to run on. Spark starts in the background.
        folder: where the folders of jobs are made; they are removed at the end without an error.
        roots: folders of the datasets, which every machine must see.
        progress: whether to show progress.
    """
    with starting_spark(cluster, "tfdetect") as session:
        jobs = DatasetJobs(session, folder, [str(r.resolve()) for r in roots.values()], progress)
        with reading_by(jobs.read_all):
            yield jobs
        for each in jobs.folders:
            shutil.rmtree(each, ignore_errors=True)
        with suppress(OSError):  # other jobs are in it
            folder.rmdir()


def _without_rows(catalog: Catalog) -> Catalog:
    """Return a catalog without its rows, small enough to be sent to every machine."""
    return replace(
        catalog, table=catalog.table.slice(0, 0), skipped=catalog.skipped.slice(0, 0),
        left_out=catalog.left_out.slice(0, 0), warnings=(),
    )  # fmt: skip


def _describe(function: Callable) -> str:
    """Return the name of a function, or of a partial with its keywords; equal in all processes."""
    keywords = getattr(function, "keywords", {})
    function = getattr(function, "func", function)
    return f"{function.__module__}.{function.__qualname__}({sorted(keywords.items())})"
