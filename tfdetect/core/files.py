"""Files and folders that are written whole or not at all, also at addresses."""

import csv
import ctypes
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tfdetect.core import storage
from tfdetect.core.disk import disk_error, errors_name, remove_leftovers, replacing, staged_name
from tfdetect.core.errors import UserError
from tfdetect.core.process import deferred_signals, lock_directory
from tfdetect.core.text import csv_cell

if TYPE_CHECKING:
    import pyarrow as pa

_OLD = ".replaced"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people and programs, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_writable(output: Path, flag: str | None = "--output", instead: str = "") -> None:
    """Check that a folder can be written, before data are read; nothing is created.

    Args:
        output: the folder, which need not exist.
        flag: the argument that chooses another folder; None if there is none.
        instead: without a flag, what else can be done; by default to choose another folder.

    Raises:
        UserError: it cannot be created or written.
    """
    storage.check_writable(output)
    folder = output.absolute()
    try:
        while not os.path.lexists(folder):
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        way_out = (
            f"Choose another folder with {flag}."
            if flag
            else f"Allow writing to it, or {instead or 'choose another folder'}."
        )
        raise UserError(f"Cannot write to {output}: {error.strerror}. {way_out}") from error


class FailedWrites:
    """Files that could not be written, while the work on the others goes on.

    Attributes:
        reasons: why, by the file's path, without an ending where several files share it.
    """

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    @contextmanager
    def skipping(self, path: Path) -> Iterator[None]:
        """Suppress an error of the writing in this context, and record `path` with the reason."""
        try:
            yield
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            self.reasons[path] = disk_error(error) or reason or str(error)


class TemporaryFolder:
    """A temporary folder that is made when it is first asked for, and removed at the end.

    What may need one often does not, and some file systems take milliseconds to remove it.
    """

    def __init__(self) -> None:
        self._made: tempfile.TemporaryDirectory[str] | None = None

    @property
    def path(self) -> Path:
        """The folder."""
        if self._made is None:
            self._made = tempfile.TemporaryDirectory()
        return Path(self._made.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._made is not None:
            self._made.cleanup()


def csv_text(
    rows: Iterable[Mapping | Sequence],
    columns: Sequence[str] | None = None,
    for_people: bool = True,
) -> str:
    """Return rows as CSV; the columns are by default all keys, in the order of appearance.

    Args:
        rows: mappings from column names to values, or sequences in the order of `columns`.
        columns: the headings.
        for_people: let text that a spreadsheet would run as a formula begin with an apostrophe;
            not for tables that programs read again.
    """
    rows = list(rows)
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *(list(map(r.get, columns)) if isinstance(r, Mapping) else r for r in rows)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [map(csv_cell, line) for line in lines] if for_people else lines
    )
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
    with replacing(path) as temporary:
        pacsv.write_csv(table, temporary)


@contextmanager
def staged(
    folder: Path,
    copy: bool = False,
    linked: tuple[str, ...] = (),
    beside: Path | None = None,
) -> Iterator[Path]:
    """Yield a folder to write into, which takes the place of `folder` in one step.

    It has the same name, so that what is written may mention it. After an exception, `folder` is
    as it was; after a kill, it is the old or the new one, and what was left beside it goes with
    the next call.

    Args:
        copy: start from the content of `folder`, not from nothing.
        linked: names in `folder` that share their files with it instead of being copied; for
            files that are replaced, never written in place.
        beside: stage next to this folder, on the same disk, instead of next to `folder`.
    """
    name, given = folder.name, folder
    folder = folder.resolve() if folder.is_symlink() else folder
    recover(folder)
    with _staged_folder(beside or folder) as above, errors_name(above / name, given):
        new = above / name
        if copy and folder.is_dir():
            copy_folder(folder, new, linked)
        else:
            new.mkdir()
        yield new
        folder.parent.mkdir(parents=True, exist_ok=True)
        exchange(new, folder)


@contextmanager
def merged(folder: Path) -> Iterator[Path]:
    """Yield a new folder whose files are placed into `folder` at the end.

    This is for folders that the user named, which may hold other things: those stay. After an
    exception, `folder` is as it was. Where it holds nothing else, it is replaced in one step.
    Otherwise the finished files are moved one after the other, so that a kill in these
    milliseconds leaves some files of before, each one whole.
    """
    name, given, folder = folder.name or "results", folder, folder.resolve()
    inside = folder.is_dir() and _is_fixed(folder)
    with (
        _staged_folder(folder / name if inside else folder) as above,
        errors_name(above / name, given),
    ):
        new = above / name
        new.mkdir()
        yield new
        if not folder.is_dir() or (not inside and _may_replace(folder, new)):
            exchange(new, folder)
        else:
            _move_into(new, folder)
            storage.publish(folder)


@contextmanager
def _staged_folder(folder: Path) -> Iterator[Path]:
    """Yield a new hidden folder next to `folder`, removed at the end with all that it holds.

    A signal that arrives while it is removed waits until that is done.
    """
    above = folder.absolute().parent
    above.mkdir(parents=True, exist_ok=True)
    remove_leftovers(above)
    with staged_name(above) as hidden:
        hidden.mkdir()
        lock = lock_directory(hidden)
        try:
            yield hidden
        finally:
            with deferred_signals():
                shutil.rmtree(hidden, ignore_errors=True)
                if lock is not None:
                    os.close(lock)


def _is_fixed(folder: Path) -> bool:
    """Return whether a folder cannot be exchanged: a mount point, or its parent is not writable."""
    return os.path.ismount(folder) or not os.access(folder.parent, os.W_OK)


def _may_replace(folder: Path, new: Path) -> bool:
    """Return whether a folder contains nothing that `new` lacks, so that it can be replaced."""
    if folder == Path.cwd():
        return False
    names = {path.relative_to(new) for path in new.rglob("*")}
    return all(path.relative_to(folder) in names for path in folder.rglob("*"))


def _move_into(new: Path, folder: Path) -> None:
    """Move all files of one folder to the same relative paths in another."""
    for parent, folders, files in os.walk(new):
        target = folder / Path(parent).relative_to(new)
        for name in folders:
            (target / name).mkdir(exist_ok=True)
        for name in files:
            os.replace(Path(parent, name), target / name)


def copy_folder(source: Path, target: Path, linked: tuple[str, ...] = ()) -> None:
    """Copy a folder; see `staged` for `linked`."""
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


def exchange(new: Path, old: Path) -> None:
    """Exchange two folders in one step; if `old` does not exist, `new` takes its name.

    On systems that cannot do so it takes two steps, and `recover` repairs what a kill between them
    leaves. If `old` is the local copy of an address, it is uploaded.
    """
    _exchange(new, old)
    storage.publish(old)


def _exchange(new: Path, old: Path) -> None:
    if not old.exists():
        new.rename(old)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        paths = (os.fsencode(new), os.fsencode(old))
        if not libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
            return
    aside = old.with_name(f".{old.name}{_OLD}")
    with deferred_signals(), errors_name(aside, old):
        shutil.rmtree(aside, ignore_errors=True)
        old.rename(aside)
        new.rename(old)
        shutil.rmtree(aside, ignore_errors=True)


def recover(folder: Path) -> None:
    """Bring back a folder whose exchange was killed between its two steps."""
    aside = folder.with_name(f".{folder.name}{_OLD}")
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
