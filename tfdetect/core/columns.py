"""`Table`: columns of values that may be missing, without Arrow, which the light runtime lacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdetect.core.text import csv_cell

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """Values of one kind, one for each row.

    Attributes:
        values: bool, a number, or text (dtype object) of each row, [n]; or numbers [n, m].
        missing: bool [n], which values do not exist; none if all do.
    """

    values: np.ndarray
    missing: np.ndarray | None = None

    @classmethod
    def texts(cls, texts: Sequence[str | None]) -> "Column":
        """Return a column of text; None is missing."""
        values = np.empty(len(texts), object)
        values[:] = texts
        return cls(values, np.array([text is None for text in texts], bool))

    @classmethod
    def missing_bools(cls, count: int) -> "Column":
        """Return a column of type bool in which all values are missing."""
        return cls(np.zeros(count, bool), np.ones(count, bool))

    @classmethod
    def from_arrow(cls, array: "pa.ChunkedArray") -> "Column":
        """Return the column of an array that `to_arrow` made, unless it is of numbers [n, m]."""
        import pyarrow as pa

        missing = array.is_null().to_numpy()
        if pa.types.is_string(array.type):
            return cls.texts(array.to_pylist())
        values = array.fill_null(False if pa.types.is_boolean(array.type) else 0).to_numpy()
        return cls(values, missing)

    @property
    def absent(self) -> np.ndarray:
        """Which values are missing, bool [n]."""
        return np.zeros(len(self.values), bool) if self.missing is None else self.missing

    @property
    def null_count(self) -> int:
        """Number of missing values."""
        return int(self.absent.sum())

    def to_pylist(self) -> list:
        """Return the values as Python has them, None where missing."""
        values = self.values.tolist()
        if self.missing is None:
            return values
        return [None if absent else value for value, absent in zip(values, self.missing)]

    def to_numpy(self) -> np.ndarray:
        """Return the values; missing numbers are NaN, other missing values None."""
        if self.missing is None or not self.missing.any():
            return self.values
        if self.values.dtype.kind in "Ob":
            values = self.values.astype(object)
            values[self.missing] = None
            return values
        kind = self.values.dtype if self.values.dtype.kind == "f" else np.float64
        values = self.values.astype(kind)
        values[self.missing] = np.nan
        return values

    def to_arrow(self) -> "pa.Array":
        """Return an Arrow array."""
        import pyarrow as pa

        if self.values.ndim == 2:
            mask = None if self.missing is None else pa.array(self.missing)
            flat = pa.array(self.values.ravel())
            return pa.FixedSizeListArray.from_arrays(flat, self.values.shape[1], mask=mask)
        kind = pa.string() if self.values.dtype == object else None
        return pa.array(np.ascontiguousarray(self.values), kind, mask=self.missing)

    def all_missing(self, count: int) -> "Column":
        """Return a column of the same kind whose `count` values are all missing."""
        values = np.zeros((count, *self.values.shape[1:]), self.values.dtype)
        if values.dtype == object:
            values[:] = None
        return Column(values, np.ones(count, bool))

    def take(self, rows: np.ndarray) -> "Column":
        """Return the values of some rows, int64 [k]."""
        return Column(self.values[rows], None if self.missing is None else self.missing[rows])


class Table:
    """Columns of the same length, by name and in order.

    `to_pylist`, `num_rows` and `column_names` are called as an Arrow table calls them.
    """

    def __init__(self, columns: Mapping[str, Column]):
        self._columns = dict(columns)

    @classmethod
    def from_arrow(cls, table: "pa.Table") -> "Table":
        """Return the table that `to_arrow` was called on, without columns of numbers [n, m]."""
        return cls({name: Column.from_arrow(table[name]) for name in table.column_names})

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    @property
    def num_rows(self) -> int:
        return len(next(iter(self._columns.values())).values) if self._columns else 0

    def with_paths(self, paths: Sequence[str]) -> "Table":
        """Return the table with these paths as its first column, instead of its column `path`."""
        others = {key: each for key, each in self._columns.items() if key != "path"}
        return Table({"path": Column.texts(paths), **others})

    def with_column(self, name: str, column: Column) -> "Table":
        """Return the table with a column replaced, or added at the end if its name is new."""
        return Table({**self._columns, name: column})

    @classmethod
    def concatenated(cls, tables: Sequence["Table"]) -> "Table":
        """Return the rows of several tables, one after the other.

        A column that a table lacks has no values in its rows.
        """
        columns = {}
        for name in dict.fromkeys(name for table in tables for name in table.column_names):
            like = next(t[name] for t in tables if name in t.column_names)
            parts = [
                table[name] if name in table.column_names else like.all_missing(table.num_rows)
                for table in tables
            ]
            columns[name] = Column(
                np.concatenate([part.values for part in parts]),
                np.concatenate([part.absent for part in parts]),
            )
        return cls(columns)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Table":
        """Return some rows, by number."""
        numbers = np.asarray(rows, np.int64)
        return Table({name: column.take(numbers) for name, column in self._columns.items()})

    def extended(self, rows: Sequence[Mapping[str, str]]) -> "Table":
        """Return the table with more rows, in which only some columns of text have values."""
        if not rows:
            return self
        more = {
            name: Column.texts([row.get(name) for row in rows])
            if column.values.dtype == object else column.all_missing(len(rows))
            for name, column in self._columns.items()
        }  # fmt: skip
        return Table.concatenated([self, Table(more)])

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return one dict for each row."""
        lists = [column.to_pylist() for column in self._columns.values()]
        return [dict(zip(self._columns, row)) for row in zip(*lists)]

    def to_arrow(self) -> "pa.Table":
        """Return an Arrow table."""
        import pyarrow as pa

        return pa.table({name: column.to_arrow() for name, column in self._columns.items()})

    def to_csv(self, heading: bool = True) -> str:
        """Return the table as CSV: text in quotation marks, nothing where a value is missing.

        Text that a spreadsheet would run as a formula begins with an apostrophe.

        Args:
            heading: whether the names of the columns come first.
        """
        cells = [_csv_cells(column) for column in self._columns.values()]
        rows = [*([map(_quoted, self._columns)] if heading else []), *zip(*cells)]
        return "".join(",".join(row) + "\n" for row in rows)


def _csv_cells(column: Column) -> list[str]:
    """Return the cells of a column in CSV; numbers have as many digits as their type holds."""
    if column.values.dtype == object:
        return ["" if text is None else _quoted(text) for text in column.to_pylist()]
    texts = column.values.astype(str).tolist()
    if column.values.dtype == bool:
        texts = [text.lower() for text in texts]
    return ["" if missing else text for text, missing in zip(texts, column.absent)]


def _quoted(text: str) -> str:
    return '"' + csv_cell(text).replace('"', '""') + '"'


def with_columns(table: "pa.Table", **columns: "pa.Array | pa.ChunkedArray") -> "pa.Table":
    """Return an Arrow table in which columns of these names are replaced."""
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def numbers_of(table: "pa.Table", name: str) -> np.ndarray:
    """Return a column of numbers of an Arrow table, [n]; nan where a value is missing."""
    return table[name].to_numpy(zero_copy_only=False)
