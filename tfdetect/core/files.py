"""Files and folders that are written whole or not at all."""

import csv
import ctypes
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tfdetect.core.errors import UserError
from tfdetect.core.text import csv_cell

if TYPE_CHECKING:
    import pyarrow as pa

_STAGED, _OLD = ".staged-", ".replaced"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old or the new file, whole."""
    temporary = path.with_name(f".{os.getpid()}.{path.name[:100]}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)


def check_writable(output: Path) -> None:
    """Fail early, before data are read, where a run could not be written.

    Raises:
        UserError: the directory for runs cannot be created or written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(
            f"Cannot write to {output}: {error.strerror}. Choose another directory with --output."
        ) from error


def csv_text(rows: Sequence[Mapping | Sequence], columns: Sequence[str] | None = None) -> str:
    """Return rows as CSV; the columns are by default all keys, in the order of appearance.

    Text that a spreadsheet would run as a formula begins with an apostrophe.

    Args:
        rows: mappings from column names to values, or sequences in the order of `columns`.
        columns: the headings.
    """
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(csv_cell, columns))
    for row in rows:
        values = map(row.get, columns) if isinstance(row, Mapping) else row
        table.writerow(map(csv_cell, values))
    return text.getvalue()


def write_csv(table: "pa.Table", path: Path) -> None:
    """Write an Arrow table for people, as `csv_text` writes rows, whole or not at all."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pacsv

    for number, name in enumerate(table.column_names):
        column = table[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if (
            pa.types.is_string(column.type)
            and pc.any(pc.match_substring_regex(column, r"^[=+\-@]|[^ -~]")).as_py()
        ):
            cells = pa.array(map(csv_cell, column.to_pylist()), pa.string())
            table = table.set_column(number, name, cells)
    temporary = path.with_name(f".{os.getpid()}.{path.name[:100]}.tmp")
    pacsv.write_csv(table, temporary)
    os.replace(temporary, path)


@contextmanager
def staged(
    folder: Path, copy: bool = False, linked: tuple[str, ...] = ()
) -> Iterator[Path]:  # fmt: skip
    """Yield a folder to write into, which takes the place of `folder` in one step.

    It has the same name, so that what is written may mention it. After an exception, `folder` is
    as it was; after a kill, it is the old or the new one, and what was left beside it goes with
    the next call.

    Args:
        copy: start from the content of `folder`, not from nothing.
        linked: names in `folder` that share their files with it instead of being copied; for
            files that are replaced, never written in place.
    """
    recover(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    above = folder.parent / f"{_STAGED}{os.getpid()}-{folder.name}"
    new = above / folder.name
    above.mkdir()
    try:
        if copy and folder.is_dir():
            _copy(folder, new, linked)
        else:
            new.mkdir()
        yield new
        if folder.exists():
            _exchange(new, folder)
        else:
            new.rename(folder)
    finally:
        shutil.rmtree(above, ignore_errors=True)


def _copy(source: Path, target: Path, linked: tuple[str, ...]) -> None:
    target.mkdir()
    for entry in source.iterdir():
        function = _link if entry.name in linked else shutil.copy2
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name, copy_function=function)
        else:
            function(entry, target / entry.name)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _exchange(new: Path, old: Path) -> None:
    """Exchange two folders in one step, or, where the system cannot, in two; see `recover`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        paths = (os.fsencode(new), os.fsencode(old))
        if not libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
            return
    aside = old.with_name(f".{old.name}{_OLD}")
    shutil.rmtree(aside, ignore_errors=True)
    old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def recover(folder: Path) -> None:
    """Bring back a folder whose exchange was killed between its two steps."""
    aside = folder.with_name(f".{folder.name}{_OLD}")
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that are gone left staged for this folder."""
    for entry in folder.parent.glob(f"{_STAGED}*-{folder.name}"):
        number = entry.name.removeprefix(_STAGED).split("-", 1)[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(entry, ignore_errors=True)
