"""Read many files in parallel processes into an Arrow table, and cache such tables."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, overload

import pyarrow as pa
import pyarrow.parquet as pq

from tfdetect.core import console
from tfdetect.core.disk import disk_error, replacing
from tfdetect.core.errors import first_line
from tfdetect.core.process_pool import end_pool, process_pool
from tfdetect.core.text import to_os

Item = TypeVar("Item")
Row = TypeVar("Row")

# Why there is nothing known of a file whose reader ended.
ENDED = "the process that read it ended: it may need too much memory"
_MIN_FILES = 500  # fewer files are read in this process
_BATCH = 65_536  # paths that are held as Python texts at once

# Takes the arguments of `read_all` and returns what it does.
Reader = Callable[..., pa.Table]
_reader: ContextVar[Reader | None] = ContextVar("reader", default=None)


@contextmanager
def reading_by(reader: Reader | None) -> Iterator[None]:
    """Replace `read_all` by another function in this context, for example on a cluster."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


class Paths(Sequence[str]):
    """Paths for functions that open files, stored in Arrow so that a million take little memory.

    Attributes:
        texts: the paths as `from_os` makes them, without null.
    """

    def __init__(self, texts: pa.ChunkedArray):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, int):
            return to_os(self.texts[index].as_py())
        return list(map(to_os, self.texts[index].to_pylist()))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BATCH):
            yield from self[start : start + _BATCH]


def read_all(
    read: Callable[[Item], tuple],
    files: Sequence[Item],
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
        failed: returns the row of a file that ends the process that reads it; also a function of
            a module, or a partial of one.
    """
    if len(files) >= _MIN_FILES and (reader := _reader.get()) is not None:
        return reader(read, files, schema, description, progress, failed)
    size = max(1, min(500, len(files) // 16 or 1))
    tasks = [list(files[i : i + size]) for i in range(0, len(files), size)]

    def batches(results: Iterable[list[tuple]], bar: console.Progress) -> Iterator[pa.RecordBatch]:
        for rows in results:
            columns = [pa.array(c, f.type) for c, f in zip(zip(*rows), schema)]
            bar.advance(len(rows))
            yield pa.record_batch(columns, schema=schema)

    def skipped(file: Item) -> tuple:
        name = file if isinstance(file, str) else next(iter(file))  # type: ignore[call-overload]
        console.warn(f"{name} ended the process that read it, and is skipped")
        return failed(file)

    some = partial(_read_some, read)
    with console.progress(len(files), description, "files", shown=progress) as bar:
        if len(files) < _MIN_FILES:
            return pa.Table.from_batches(batches(map(some, tasks), bar), schema)
        with Work(some, tasks, skipped) as work:
            return combined(pa.Table.from_batches(batches(work, bar), schema))


def combined(table: pa.Table) -> pa.Table:
    """Return a table of one chunk; column by column, so that little is held twice."""
    schema, columns = table.schema, []
    for name in schema.names:
        columns.append(table[name].combine_chunks())
        table = table.drop_columns(name)
    return pa.table(columns, schema)


def _read_some(read: Callable[[Item], tuple], files: list[Item]) -> list[tuple]:
    return [read(file) for file in files]


class Work(Generic[Item, Row]):
    """Tasks in worker processes, begun at once; iterating gives the rows of each task, in order.

    A file that kills its process costs its own row alone.
    """

    def __init__(
        self,
        function: Callable[[list[Item]], list[Row]],
        tasks: list[list[Item]],
        failed: Callable[[Item], Row],
        workers: int | None = None,
    ):
        """Begin.

        Args:
            function: returns one row for each file of a task; of a module, or a partial of one.
            tasks: lists of files.
            failed: returns the row of a file that ends the process that works on it.
            workers: number of processes; by default one for each core.
        """
        self._function, self._tasks, self._failed = function, tasks, failed
        self._workers = workers
        self._begin(0)

    def _begin(self, first: int) -> None:
        self._pool = process_pool(self._workers)
        self._futures: list[Future[list[Row]]] = []
        with suppress(BrokenProcessPool):  # already: found when the rows are asked for
            for task in self._tasks[first:]:
                self._futures.append(self._pool.submit(self._function, task))

    def __iter__(self) -> Iterator[list[Row]]:
        done = 0
        while done < len(self._tasks):
            futures = iter(self._futures)
            with suppress(BrokenProcessPool):
                for future in futures:
                    rows = future.result()
                    done += 1
                    yield rows
            if done < len(self._tasks):  # its process died, or one beside it
                end_pool(self._pool)
                yield self._one_by_one(self._tasks[done])
                done += 1
                self._begin(done)

    def _one_by_one(self, files: list[Item]) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < len(files):
            with process_pool(1) as pool:
                try:
                    for file in files[len(rows) :]:
                        rows += pool.submit(self._function, [file]).result()
                except BrokenProcessPool:
                    rows.append(self._failed(files[len(rows)]))
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, value: Any, traceback: Any) -> None:
        self._pool.__exit__(kind, value, traceback)


def read_cache(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Return a cached table, or None if there is none of this schema."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(schema) else None


def write_cache(path: Path, table: pa.Table) -> None:
    """Write a table to the cache, whole or not at all; warn if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            pq.write_table(table, temporary)
    except OSError as error:
        reason = disk_error(error) or first_line(error)
        console.warn(
            f"the cache {path} cannot be written ({reason}), so the files will be read again next "
            "time; TFDETECT_CACHE names another folder for caches"
        )
