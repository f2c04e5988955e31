"""What runs on the machines of a cluster: works through partitions and writes their parts.

Spark starts Python processes on each machine. Such a process has a child that loads the model and
opens the files, because a damaged file may end the process that reads it: that file costs one row.
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

_PIECES = 16  # into which the items of a process that ended are divided, to find which one it was
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
        """Return the function that makes rows of items, one for each; called in the child.

        Args:
            threads: the number of threads that it may use.

        Raises:
            UserError: it cannot work on this machine.
        """

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        """Return the row, of a schema, of an item that ends the process that reads it."""


@dataclass(frozen=True)
class Assignment:
    """What every Spark task is told of its job.

    Attributes:
        folder: the folder of the job.
        id: the ID of the job.
        task: the pickled `Task`.
        roots: folders that the machine must see.
        version: the version of tfdetect, where the job was begun.
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
            UserError: it lacks folders, or has another version of tfdetect.
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
                f"it has tfdetect {tfdetect.__version__}, and the command is of {self.version}. "
                "Install the same version on every machine"
            )


def work(assignment: Assignment, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Work through partitions in a Python process of Spark.

    Args:
        assignment: the job.
        batches: batches with numbers of partitions.

    Yields:
        A row of `REPORT` for each partition. What the user can fix is a `problem` there; Spark
        would only try it again.
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
    """Return the child, ready for a job; Spark's processes live on, and so does it."""
    global _child
    if _child is None:
        _child = _Child()
    _child.prepare(assignment)
    return _child


class _Child:
    """A process that does the tasks of jobs, and is replaced when an item ends it."""

    def __init__(self) -> None:
        self._assignment: Assignment | None = None
        self._variables: dict[str, str] = {}
        self._pool: ProcessPoolExecutor | None = None

    def prepare(self, assignment: Assignment) -> None:
        """Take a job, if it is another one than before; the process goes on with it."""
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
        """Return the rows of items; those that end the process get the row of a failed one."""
        for _ in range(2 if items.num_rows == 1 else 1):  # another program may have ended it
            pool, schema = self._started()
            try:
                return pool.submit(_do, items).result()
            except BrokenProcessPool:
                self.end()
        if items.num_rows == 1:
            return self._task.failed(items, schema)
        size = -(-items.num_rows // _PIECES)
        starts = range(0, items.num_rows, size)
        return pa.concat_tables([self.rows_of(items.slice(n, size)) for n in starts])

    def _started(self) -> tuple[ProcessPoolExecutor, pa.Schema]:
        """Return the pool of the child, which has loaded what it needs, and the schema of rows.

        What fails here is no item's fault.
        """
        if self._pool is None:
            self._pool, self._schema = process_pool(1), None
        if self._schema is None:
            assert self._assignment is not None
            try:
                self._schema = self._pool.submit(_begin, self._assignment).result()
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


def _begin(assignment: Assignment) -> pa.Schema:
    """Load what a task needs, instead of what another one needed; return its rows' schema."""
    global _function
    _function = None
    task: Task = pickle.loads(assignment.task)
    _function = task.start(assignment.threads)
    with pq.ParquetFile(assignment.folder / ITEMS) as file:
        return _function(file.schema_arrow.empty_table()).schema


def _do(items: pa.Table) -> pa.Table:
    assert _function is not None
    return _function(items)
