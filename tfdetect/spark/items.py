"""The items of a job on a cluster, and the rows that its tasks return, as Arrow tables."""

import json
from collections.abc import Iterable, Mapping

import pyarrow as pa

from tfdetect.core.text import to_os
from tfdetect.data.parallel import Paths


def items_of(files: Iterable) -> pa.Table:
    """Return one item for each file.

    Args:
        files: `Paths`, or tuples of values that JSON can express.

    Returns:
        A table with the column path or, for tuples, the column item, which is JSON.
    """
    if isinstance(files, Paths):
        return pa.table({"path": files.texts})
    return pa.table({"item": pa.array(map(json.dumps, files), pa.string())})


def files_of(items: pa.Table) -> list:
    """Return the paths or tuples from which `items_of` made items."""
    if "path" in items.column_names:
        return list(map(to_os, items["path"].to_pylist()))
    found = map(json.loads, items["item"].to_pylist())
    return [tuple(file) if isinstance(file, list) else file for file in found]


def items_with_rows(name: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return one item for each of several tables.

    Args:
        name: the name of the column that says which table an item is.
        tables: rows of a catalog, by what that column contains.

    Returns:
        A table with that column and the column rows: the table in Arrow's file format.
    """
    data = []
    for rows in tables.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        data.append(sink.getvalue().to_pybytes())
    return pa.table(
        {name: pa.array(list(tables), pa.string()), "rows": pa.array(data, pa.binary())}
    )


def unpack_rows(data: pa.Scalar) -> pa.Table:
    """Return the table that an item of `items_with_rows` contains."""
    return pa.ipc.open_file(data.as_buffer()).read_all()


def failed_row(schema: pa.Schema, **known: str) -> pa.Table:
    """Return the row of an item that failed: null but for the columns that are known."""
    return pa.Table.from_pylist([known], schema)
