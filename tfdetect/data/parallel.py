"""Reads many files in parallel processes into an Arrow table, and caches such tables."""

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tfdetect.core import console

Item = TypeVar("Item")

_MIN_FILES = 500  # fewer files are read in this process
_PR_SET_PDEATHSIG = 1  # of prctl: a signal for when the parent ends


def read_all(
    read: Callable[[Item], tuple],
    files: list[Item],
    schema: pa.Schema,
    description: str,
    progress: bool,
    failed: Callable[[Item], tuple],
) -> pa.Table:
    """Return one row for each file, in order.

    Args:
        read: returns a file's row; a function of a module, or a partial of one.
        files: the paths, or whatever else `read` takes.
        schema: columns of the rows.
        description: text of the progress bar.
        progress: whether to show the progress bar.
        failed: returns the row of a file that ends the process that reads it.
    """
    size = max(1, min(500, len(files) // 16 or 1))
    tasks = [files[i : i + size] for i in range(0, len(files), size)]

    def batches(results: Iterable[list[tuple]], bar: console.Progress) -> Iterator[pa.RecordBatch]:
        for rows in results:
            columns = [pa.array(c, f.type) for c, f in zip(zip(*rows), schema)]
            bar.advance(len(rows))
            yield pa.record_batch(columns, schema=schema)

    some = partial(_read_some, read)
    with console.progress(len(files), description, "files", shown=progress) as bar:
        if len(files) < _MIN_FILES:
            return pa.Table.from_batches(batches(map(some, tasks), bar), schema)
        results = _in_processes(some, tasks, failed)
        return pa.Table.from_batches(batches(results, bar), schema)


def _read_some(read: Callable[[Item], tuple], files: list[Item]) -> list[tuple]:
    return [read(file) for file in files]


def _in_processes(
    some: Callable[[list[Item]], list[tuple]],
    tasks: list[list[Item]],
    failed: Callable[[Item], tuple],
) -> Iterator[list[tuple]]:
    """Yield the rows of each task, in order; a file that kills its process costs its own row."""
    done = 0
    while done < len(tasks):
        with process_pool() as pool:
            try:
                futures = [pool.submit(some, task) for task in tasks[done:]]
                for future in futures:
                    yield future.result()
                    done += 1
            except BrokenProcessPool:
                pass
        if done < len(tasks):  # its process died, or one beside it: read its files one by one
            yield _one_by_one(some, tasks[done], failed)
            done += 1


def _one_by_one(
    some: Callable[[list[Item]], list[tuple]],
    files: list[Item],
    failed: Callable[[Item], tuple],
) -> list[tuple]:
    rows: list[tuple] = []
    while len(rows) < len(files):
        with process_pool(1) as pool:
            try:
                for file in files[len(rows) :]:
                    rows += pool.submit(some, [file]).result()
            except BrokenProcessPool:
                console.warn(f"{files[len(rows)]} ended the process that read it, and is skipped")
                rows.append(failed(files[len(rows)]))
    return rows


class _Pool(ProcessPoolExecutor):
    """Starts its processes without the script of the user, which may have no main guard."""

    def submit(self, *args: Any, **kwargs: Any) -> Future:
        with _hidden_main():
            return super().submit(*args, **kwargs)

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep a new process from importing the main script: what it runs is in modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def process_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Return a pool of worker processes, by default one for each core.

    They work whatever the calling script looks like, and end when this process ends, however it
    ends.
    """
    return _Pool(workers, get_context("spawn"), _end_with_parent, (os.getpid(),))


def _end_with_parent(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends the pool
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)


def read_cache(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Return a cached table, or None if there is none of this schema."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(schema) else None


def write_cache(path: Path, table: pa.Table) -> None:
    """Write a table whole or not at all; warn if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    except OSError as error:
        warnings.warn(
            f"Cannot write the cache {path}: {error}. The files will be read again next time.",
            stacklevel=2,
        )
