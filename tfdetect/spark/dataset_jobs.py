"""Reads and predicts the files of datasets on a cluster, for `audit` and `evaluate`."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tfdetect.core.run import Run
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.data.catalog import Catalog
from tfdetect.data.parallel import reading_by
from tfdetect.spark.executor import Task
from tfdetect.spark.job import alone, digest, file_stamps, open_job
from tfdetect.spark.run_job import run_job
from tfdetect.spark.session import spark_session
from tfdetect.spark.tasks import TENSORFLOW, PredictRows, ReadFiles, items_of, run_digest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_FLAG = "--spark-dir"


class DatasetJobs:
    """Does the work on the files of datasets on a cluster. Made by `dataset_jobs`.

    Every job has a folder of its own, named after what it does and a digest of its items, so that
    an interrupted one goes on and another list of files begins another one.
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
        files: list,
        schema: pa.Schema,
        description: str,
        progress: bool,
        failed: Callable[..., tuple],
    ) -> pa.Table:
        """Do what `data.parallel.read_all` does."""
        stamps = file_stamps([file if isinstance(file, str) else file[0] for file in files])
        items, sizes = items_of(files), stamps[:, 0]
        for name, column in zip(("size", "mtime_ns"), stamps.T):
            items = items.append_column(name, pa.array(column))
        task = ReadFiles(read, failed, schema)
        table = self._run(task, {"task": description, "how": repr_of(read)}, items, sizes,
                          description, "files", progress)  # fmt: skip
        return table.cast(schema)

    def predictor(
        self, run_path: Path, batch_size: int
    ) -> Callable[[Run, Catalog, pa.Table, bool], pa.Table]:
        """Return what predicts rows of a catalog for `evaluate_run`.

        Args:
            run_path: folder of the run, which every machine sees.
            batch_size: images a batch.
        """

        def predict(run: Run, catalog: Catalog, rows: pa.Table, own_validation: bool) -> pa.Table:
            run = replace(run, path=run_path.absolute())
            bare = replace(
                catalog, table=rows.slice(0, 0), skipped=catalog.skipped.slice(0, 0),
                left_out=catalog.left_out.slice(0, 0), warnings=(),
            )  # fmt: skip
            task = PredictRows(
                run, run_digest(run, TENSORFLOW), bare, batch_size, own_validation
            )  # fmt: skip
            what = {
                "task": "evaluate", "run": run.name, "files of the run": task.digest,
                "settings": digest(pa.table({"info": [run.info.model_dump_json()]})),
                "roots": [str(root) for root in catalog.roots.values()],
                "max_pixels": catalog.max_pixels, "own_validation": own_validation,
            }  # fmt: skip
            sizes = rows["size"].to_numpy()
            return self._run(task, what, rows, sizes, "predicting", "images", self._progress)

        return predict

    def _run(
        self,
        task: Task,
        what: Mapping[str, Any],
        items: pa.Table,
        sizes: np.ndarray,
        description: str,
        unit: str,
        progress: bool,
    ) -> pa.Table:
        key = digest(pa.table({"key": [repr(sorted(what.items())), digest(items)]}))[:12]
        folder = (self._folder / f"{description.replace(' ', '-')}-{key}").absolute()
        self.folders.append(folder)
        with alone(folder):
            job = open_job(folder, what, items, sizes, _FLAG)
            run_job(self._session, job, task, self._roots, description, unit, progress)
            return pa.concat_tables(job.results()).combine_chunks()


@contextmanager
def dataset_jobs(
    cluster: SparkCluster, folder: Path, roots: Mapping[str, Path], progress: bool
) -> Iterator[DatasetJobs]:
    """Yield what works on datasets on a cluster, and let it read their files meanwhile.

    Args:
        cluster: where to run. Spark starts when it is first needed.
        folder: for the parts; those of these jobs are removed when all is done.
        roots: folders of the datasets.
        progress: whether to show progress.
    """
    with ExitStack() as stack:
        session: list[SparkSession] = []

        def started() -> "SparkSession":
            if not session:
                session.append(stack.enter_context(spark_session(cluster, "tfdetect")))
            return session[0]

        jobs = DatasetJobs(started, folder, [str(r.resolve()) for r in roots.values()], progress)
        with reading_by(jobs.read_all):
            yield jobs
        for each in jobs.folders:
            shutil.rmtree(each, ignore_errors=True)
        with suppress(OSError):  # other jobs are in it
            folder.rmdir()


def repr_of(function: Callable) -> str:
    """Return what a function or a partial of one does, as the same text in every process."""
    keywords = getattr(function, "keywords", {})
    function = getattr(function, "func", function)
    return f"{function.__module__}.{function.__qualname__}({sorted(keywords.items())})"
