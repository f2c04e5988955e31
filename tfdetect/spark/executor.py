"""What runs on the machines of a cluster: work through partitions and write their parts.

Spark starts Python processes on each machine. Each of them has a child process that loads the model
and opens the files: a damaged file may end the process that reads it, and then only the row of that
file is lost.
"""

import gc
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

import tfdetect
from tfdetect.core.disk import disk_error, replacing
from tfdetect.core.errors import UserError
from tfdetect.core.process_pool import end_pool, process_pool
from tfdetect.spark.job import ITEMS, MANIFEST, part_path

_PIECES = 16  # into which items that ended their process are divided, to find which of them did
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")

REPORT = pa.schema([
    ("partition", pa.int64()), ("rows", pa.int64()), ("seconds", pa.float64()),
    ("host", pa.string()), ("problem", pa.string()),
])  # fmt: skip
REPORT_FOR_SPARK = "partition long, rows long, seconds double, host string, problem string"

Function = Callable[[pa.Table], pa.Table]


class Task(Protocol):
    """What is done with the items of a job; an object that can be pickled."""

    def start(self, threads: int) -> Function:
        """Return a function from items to their rows, one for each; called in the child process.

        Args:
            threads: the number of threads that the function may use.

        Raises:
            UserError: this machine cannot do the task.
        """

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        """Return the row of an item that ends the process that reads it.

        Args:
            item: a table with this item alone.
            schema: the schema of the rows of the task.
        """


@dataclass(frozen=True)
class Assignment:
    """A job, as it is sent to every Spark task.

    Attributes:
        folder: the folder of the job.
        id: the ID of the job.
        task: the pickled `Task`.
        roots: folders that the machine must see.
        version: the version of tfdetect that the command has.
        threads: the number of threads that a Spark task may use.
    """

    folder: Path
    id: str
    task: bytes
    roots: tuple[str, ...]
    version: str
    threads: int

    def check(self) -> None:
        """Check that this machine can work on the job.

        Raises:
            UserError: it does not see all folders, or has another version of tfdetect.
        """
        try:
            manifest = (self.folder / MANIFEST).read_text(encoding="utf-8")
        except OSError:
            manifest = ""
        if self.id not in manifest:
            raise UserError(
                f"it does not see {self.folder}. The parts must be in a folder that every machine "
                "of the cluster has under the same path"
            )
        for root in self.roots:
            if not os.path.isdir(root):
                raise UserError(
                    f"it does not see {root}. Every machine of the cluster needs the files under "
                    "the same path"
                )
        if self.version != tfdetect.__version__:
            raise UserError(
                f"it has tfdetect {tfdetect.__version__}, but the command has {self.version}. "
                "Install the same version on every machine"
            )


def work(assignment: Assignment, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Work through partitions in a Python process of Spark.

    Args:
        assignment: the job.
        batches: batches with the numbers of partitions in their first column.

    Yields:
        A row of `REPORT` for each partition. An error that the user can fix becomes its `problem`
        and is not raised, because Spark would repeat the partition.
    """
    for batch in batches:
        for number in batch.column(0).to_pylist():
            start, rows, problem = time.monotonic(), 0, None
            try:
                rows = _write_part(assignment, number)
            except (UserError, OSError) as error:
                problem = disk_error(error) or str(error)
            row = {
                "partition": number, "rows": rows, "seconds": time.monotonic() - start,
                "host": socket.gethostname(), "problem": problem,
            }  # fmt: skip
            yield pa.RecordBatch.from_pylist([row], REPORT)


def _write_part(assignment: Assignment, number: int) -> int:
    """Write the rows of a partition; return how many there are."""
    child = _child_for(assignment)
    with pq.ParquetFile(assignment.folder / ITEMS) as file:
        items = file.read_row_group(number)
    rows = child.rows_of(items)
    with replacing(part_path(assignment.folder, number)) as temporary:
        pq.write_table(rows, temporary)
    return rows.num_rows


# --- the process of Spark and its child

_child: "_Child | None" = None


def _child_for(assignment: Assignment) -> "_Child":
    """Return the child process, set to a job; it lives as long as the process of Spark."""
    global _child
    if _child is None:
        _child = _Child()
    _child.prepare(assignment)
    return _child


class _Child:
    """A process that works on items; it is replaced when an item ends it."""

    def __init__(self) -> None:
        self._assignment: Assignment | None = None
        self._variables: dict[str, str] = {}
        self._pool: ProcessPoolExecutor | None = None

    def prepare(self, assignment: Assignment) -> None:
        """Change to another job, if it is not the one that the process works on already."""
        if assignment == self._assignment:
            return
        assignment.check()
        variables = dict.fromkeys(_THREADS, str(assignment.threads)) | _own_gpus()
        if variables != self._variables:
            self.end()  # only a new process reads them
        os.environ.update(variables)
        self._variables, self._assignment = variables, assignment
        self._task: Task = pickle.loads(assignment.task)
        self._schema: pa.Schema | None = None  # unknown until the process has begun
        gc.freeze()  # Spark collects garbage after each task, 0.06 s with all that is imported now

    def rows_of(self, items: pa.Table) -> pa.Table:
        """Return the rows of items; an item that ends the process gets the row `Task.failed`."""
        for _ in range(2 if items.num_rows == 1 else 1):  # another program may have ended it
            pool, schema = self._started()
            try:
                return pool.submit(_make_rows, items).result()
            except BrokenProcessPool:
                self.end()
        if items.num_rows == 1:
            return self._task.failed(items, schema)
        size = -(-items.num_rows // _PIECES)
        starts = range(0, items.num_rows, size)
        return pa.concat_tables([self.rows_of(items.slice(n, size)) for n in starts])

    def _started(self) -> tuple[ProcessPoolExecutor, pa.Schema]:
        """Return the pool of the process, which has loaded the task, and the schema of its rows.

        Raises:
            RuntimeError: the process ended while it loaded the task; no item is the reason.
            UserError: this machine cannot do the task.
        """
        if self._pool is None:
            self._pool, self._schema = process_pool(1), None
        if self._schema is None:
            assert self._assignment is not None
            try:
                self._schema = self._pool.submit(_load_task, self._assignment).result()
            except BrokenProcessPool:
                self.end()
                raise RuntimeError("The process that loads the model ended.") from None
            except BaseException:
                self.end()
                raise
        return self._pool, self._schema

    def end(self) -> None:
        """End the process."""
        if self._pool is not None:
            end_pool(self._pool)
            self._pool = None


def _own_gpus() -> dict[str, str]:
    """Return the variable that names the GPUs that Spark gave to this task, if it gave any."""
    from pyspark import TaskContext

    context = TaskContext.get()
    resources: dict[str, Any] = context.resources() if context is not None else {}
    if "gpu" not in resources:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(resources["gpu"].addresses)}


# --- in the child

_function: Function | None = None


def _load_task(assignment: Assignment) -> pa.Schema:
    """Load the task of a job, in place of the one before; return the schema of its rows."""
    global _function
    _function = None
    task: Task = pickle.loads(assignment.task)
    _function = task.start(assignment.threads)
    with pq.ParquetFile(assignment.folder / ITEMS) as file:
        return _function(file.schema_arrow.empty_table()).schema


def _make_rows(items: pa.Table) -> pa.Table:
    """Return the rows of items, by the task that `_load_task` loaded."""
    assert _function is not None
    return _function(items)
