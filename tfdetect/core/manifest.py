"""Reads manifests: tables that list the images of a dataset, as CSV, JSON Lines or Parquet."""

import codecs
import io
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import addresses, console, storage
from tfdetect.core.errors import UserError, first_line, nearest
from tfdetect.core.spec import COLUMNS
from tfdetect.core.text import from_os, to_os

if TYPE_CHECKING:
    import pyarrow as pa

_BYTES, _WINDOWS = "surrogateescape", "cp1252"
_FILE_NAME = "file_name"  # the column path in metadata tables of Hugging Face
_said: set[Path] = set()  # manifests whose encoding was said
_CHECKED_ROWS = 20  # with a path that is not ASCII, to find the encoding


def read_manifest(path: Path, columns: dict[str, str]) -> "pa.Table":
    """Read a manifest.

    A CSV table is in UTF-8 or, with a byte order mark, in UTF-16. Another encoding is found by the
    files that it names, and said. Cells are separated by commas, semicolons or tabs.

    Args:
        path: table in CSV, JSON Lines (one object a line) or Parquet.
        columns: the table's own names of the columns in `COLUMNS`, where they differ. The column
            path may also be called file_name, as in metadata tables of Hugging Face.

    Returns:
        Those of `COLUMNS` that the manifest has, as strings, null where empty.

    Raises:
        UserError: The table cannot be read, or has no column path or label.
    """
    import pyarrow as pa

    names = {column: columns.get(column, column) for column in COLUMNS}
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"The manifest {path} is not a file that can be read.")
        table = _READERS.get(path.suffix, _read_csv)(path, names)
        if "path" not in (*columns, *table.column_names) and _FILE_NAME in table.column_names:
            names["path"] = _FILE_NAME
        _check_columns(path, table.column_names, names, columns)
        found = pa.table({
            column: _text(table[name])
            for column, name in names.items()
            if name in table.column_names
        })  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"There is no manifest {path}.") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"The manifest {path} cannot be read: {first_line(error)}.") from error
    _check_paths(path, found)
    if found["label"].null_count:
        import pyarrow.compute as pc

        row = row_number(path, pc.index(pc.is_null(found["label"]), True).as_py())
        raise UserError(
            f"The manifest {path}, row {row}: the label is empty. Name the class of each image, or "
            "leave the row out."
        )
    return found


def row_number(path: Path, index: int) -> int:
    """Return the number that a spreadsheet shows for a row: the header of a CSV file is row 1.

    Of the other kinds of tables, which have no header, the first row is row 1.

    Args:
        path: the path of the manifest.
        index: the index of the row below the header, from 0.
    """
    return index + (1 if path.suffix in _READERS else 2)


def fetch(root: Path, manifest: str, columns: dict[str, str]) -> None:
    """Fetch a manifest and the files that it names, if it is at an address.

    Args:
        root: the local copy of the dataset's folder.
        manifest: the table in it.
        columns: see `read_manifest`.

    Raises:
        UserError: the table cannot be fetched or read.
    """
    if addresses.address_of(root) is None:
        return
    table = read_manifest(storage.fetched(root / manifest), columns)
    named = [table[column] for column in ("path", "mask") if column in table.column_names]
    base = os.path.dirname(manifest)
    names = {
        os.path.normpath(os.path.join(base, name))
        for cells in named for name in cells.to_pylist() if name
    }  # fmt: skip
    storage.fetched(root, [n for n in names if not os.path.isabs(n) and n[:3] != "../"])


def _read_parquet(path: Path, names: dict[str, str]) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(path)


def _read_json_lines(path: Path, names: dict[str, str]) -> "pa.Table":
    import pyarrow.json as pajson

    return pajson.read_json(path)


_READERS = {".parquet": _read_parquet, ".jsonl": _read_json_lines}
MANIFEST_SUFFIXES = (".csv", *_READERS)


def _read_csv(path: Path, names: dict[str, str]) -> "pa.Table":
    """Return a CSV table, its columns of interest as strings."""
    import pyarrow as pa

    with open(path, "rb") as file:
        head = file.read(4096)
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if wide else "utf8"
    if not wide and b"\0" in head:
        raise UserError(
            f"The manifest {path} is not text in UTF-8: it may be UTF-16 without a byte order mark "
            'or a spreadsheet. Save it as "CSV UTF-8".'
        )
    try:
        return _parse(path, head.decode("utf-16" if wide else "latin-1", "ignore"), encoding, names)
    except pa.ArrowInvalid as error:
        if "UTF" not in str(error):
            raise
    return _read_other(path, names)


def _read_other(path: Path, names: dict[str, str]) -> "pa.Table":
    """Return a CSV table that is not in UTF-8, in the encoding in which its files exist."""
    content = path.read_bytes()
    texts = {_BYTES: from_os(content.decode("utf-8", "surrogateescape"))}
    with suppress(UnicodeDecodeError):  # it has bytes that Windows-1252 does not define
        texts[_WINDOWS] = content.decode(_WINDOWS)
    for encoding, text in texts.items():
        table = _parse(io.BytesIO(text.encode()), text[:4096], "utf8", names)
        paths = table[names["path"]].to_pylist() if names["path"] in table.column_names else []
        odd = [name for name in paths if name and not name.isascii()][:_CHECKED_ROWS]
        exist = any(os.path.lexists(os.path.join(path.parent, to_os(name))) for name in odd)
        if exist or (not odd and encoding == _WINDOWS):
            what = "Windows-1252" if encoding == _WINDOWS else "the encoding of the file names"
            if path not in _said:
                console.warn(f"The manifest {path} is not in UTF-8. It is read in {what}.")
            _said.add(path)
            return table
    raise UserError(
        f"The manifest {path} is not in UTF-8, and the files that it names exist neither as it "
        'stands nor in Windows-1252. Save it as "CSV UTF-8".'
    )


def _parse(
    source: "Path | io.BytesIO", head: str, encoding: str, names: dict[str, str]
) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.csv as pacsv

    first = head.splitlines()[0] if head.strip() else ""
    delimiter = max(",;\t", key=first.count)  # a comma, where none occurs
    return pacsv.read_csv(
        source,
        pacsv.ReadOptions(encoding=encoding),
        pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys((*names.values(), _FILE_NAME), pa.string())
        ),
    )


def _check_columns(
    path: Path, found: list[str], names: dict[str, str], columns: dict[str, str]
) -> None:
    missing = {}
    for column, name in names.items():
        if found.count(name) > 1:
            raise UserError(f"The manifest {path} has the column {name!r} twice.")
        if name not in found and (column in ("path", "label") or column in columns):
            missing[column] = name
    if missing:
        given = ", ".join(f"{column}: NAME" for column in missing)
        no_columns = " and no column ".join(map(repr, missing.values()))
        raise UserError(
            f"The manifest {path} has no column {no_columns}."
            f"{nearest(next(iter(missing.values())), found)} It has: {', '.join(found)}. Rename "
            f"columns, or write a dataset spec beside it, with manifest: {path.name}, columns: "
            f"{{{given}}} and classes."
        )


def _check_paths(path: Path, table: "pa.Table") -> None:
    """Refuse paths that no file can have."""
    import pyarrow.compute as pc

    for column in ("path", "mask"):
        if column not in table.column_names:
            continue
        cells = table[column]
        if pc.any(pc.match_substring(cells, "\0")).as_py():
            raise UserError(f"The manifest {path} has a {column} with a null character.")
        if (pc.max(pc.binary_length(cells)).as_py() or 0) > 4000:
            raise UserError(f"The manifest {path} has a {column} of more than 4,000 bytes.")


def _text(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Return a column as strings, null where empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
