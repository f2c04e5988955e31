"""Reads many files in parallel processes into an Arrow table, and caches such tables."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tfdetect.core import console

Item = TypeVar("Item")

_MIN_FILES = 500  # fewer files are read in this process


def read_all(
    read: Callable[[Item], tuple],
    files: list[Item],
    schema: pa.Schema,
    description: str,
    progress: bool,
) -> pa.Table:
    """Return one row for each file, in order.

    Args:
        read: returns a file's row; a function of a module, or a partial of one.
        files: the paths, or whatever else `read` takes.
        schema: columns of the rows.
        description: text of the progress bar.
        progress: whether to show the progress bar.
    """
    size = max(1, min(500, len(files) // 16 or 1))
    tasks = (files[i : i + size] for i in range(0, len(files), size))

    def batches(results: Iterable[list[tuple]], bar: console.Progress) -> Iterator[pa.RecordBatch]:
        for rows in results:
            columns = [pa.array(c, f.type) for c, f in zip(zip(*rows), schema)]
            bar.advance(len(rows))
            yield pa.record_batch(columns, schema=schema)

    some = partial(_read_some, read)
    with console.progress(len(files), description, "files", shown=progress) as bar:
        if len(files) < _MIN_FILES:
            return pa.Table.from_batches(batches(map(some, tasks), bar), schema)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            return pa.Table.from_batches(batches(pool.map(some, tasks), bar), schema)


def _read_some(read: Callable[[Item], tuple], files: list[Item]) -> list[tuple]:
    return [read(file) for file in files]


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
