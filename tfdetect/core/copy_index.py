"""The index of the local copies of addresses: which state of each remote file a copy has.

It is an SQLite table in the cache, beside the copies. `storage` compares it with the files at the
address to find what to download, and with the local files to find what to upload.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tfdetect.core.addresses import copies_folder
from tfdetect.core.remote_files import RemoteFile

if TYPE_CHECKING:
    import sqlite3


class Stamp(NamedTuple):
    """State of a local file.

    Attributes:
        size: size in bytes; 0 if the file is missing.
        mtime: time of the last change in ns; 0 if the file is missing.
    """

    size: int
    mtime: int


class CopiedFile(NamedTuple):
    """State of a file when it was last equal at the address and here.

    Attributes:
        size: size in bytes at the address; None if it is not known.
        token: see `RemoteFile`.
        stamp: state of the local file.
    """

    size: int | None
    token: str
    stamp: Stamp


def stamp(path: Path) -> Stamp:
    """Return the state of a local file."""
    try:
        status = path.stat()
    except OSError:
        return Stamp(0, 0)
    return Stamp(status.st_size, status.st_mtime_ns)


def recorded_files(path: Path) -> dict[str, CopiedFile]:
    """Return the recorded files of a local copy, by relative path; "" for a file itself."""
    root = _key(path)
    with _index() as database:
        rows = database.execute(
            "SELECT * FROM files WHERE path = ? OR path > ? AND path < ?",
            (root, f"{root}/", f"{root}0"),  # 0 comes after / in ASCII
        ).fetchall()
    return {
        key[len(root) + 1 :]: CopiedFile(size, token, Stamp(*local))
        for key, size, token, *local in rows
    }


def record_files(path: Path, files: Mapping[str, RemoteFile]) -> None:
    """Record that local files are equal to those at the address.

    Args:
        path: the local copy.
        files: the files at the address, by path relative to the copy.
    """
    rows = [
        (_key(path, name), file.size, file.token, *stamp(path / name))
        for name, file in files.items()
    ]
    with _index() as database:
        database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)


def forget_files(path: Path, names: Iterable[str]) -> None:
    """Remove files of a local copy from the index, by relative path."""
    keys = [(_key(path, name),) for name in names]
    with _index() as database:
        database.executemany("DELETE FROM files WHERE path = ?", keys)


def _key(path: Path, name: str = "") -> str:
    root = path.relative_to(copies_folder()).as_posix()
    return f"{root}/{name}" if name else root


@contextmanager
def _index() -> "Iterator[sqlite3.Connection]":
    """Yield the index, opened for one transaction."""
    import sqlite3

    copies_folder().mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(copies_folder() / "index.sqlite", timeout=60)) as database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, token TEXT, "
            "local_size INTEGER, local_mtime INTEGER) WITHOUT ROWID"
        )
        with database:
            yield database
