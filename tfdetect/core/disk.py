"""Single files that are written whole or not at all, and what a disk refuses."""

import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tfdetect.core.errors import UserError
from tfdetect.core.process import remove_unlocked

_STAGED = ".staged-"
_DISK_ERRORS = {
    errno.ENOSPC: "No space is left on the disk",
    errno.EDQUOT: "The disk quota is used up",
    errno.EFBIG: "A file is too large for this disk",
    errno.EROFS: "The disk is read-only",
    errno.EIO: "The disk has an input/output error",
    errno.EACCES: "Permission denied",
    errno.EPERM: "Permission denied",
    errno.ENAMETOOLONG: "A file name is too long for this disk",
}
_SQLITE_ERRORS = {8: errno.EROFS, 10: errno.EIO, 13: errno.ENOSPC}  # by its primary result codes
# TensorFlow and HDF5 give no number, only what the C library says of it.
_DISK_TEXTS = {
    os.strerror(number).lower(): number
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
}

_PLACE = "place_of_disk_error"  # attribute of an error: the path that was written
_numbers = itertools.count()
_cleaned: set[Path] = set()  # folders without leftovers of processes that are gone
_own: set[str] = set()  # names of what this process stages now


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, with the same extension, that takes the place of `path`.

    A reader sees the old or the new file, whole. After an exception, nothing is left; what a
    killed process left is removed by the next one that writes into the folder.
    """
    if path.parent not in _cleaned:
        remove_leftovers(path.parent)
        _cleaned.add(path.parent)
    with staged_name(path.parent, path.suffix) as temporary, errors_name(temporary, path):
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def errors_name(staged: Path, path: Path) -> Iterator[None]:
    """Make errors in this context name `path`: in place of `staged`, or where they name nothing.

    The system names no file when it cannot write on, and libraries such as HDF5 do not either.
    """

    def named(text: Any) -> Any:
        return text.replace(str(staged), str(path)) if isinstance(text, str) else text

    try:
        yield
    except OSError as error:
        if error.filename is not None:  # to set it to None would change the message
            error.filename = named(error.filename)
        if error.filename2 is not None:  # of a rename: where to
            error.filename2 = named(error.filename2)
            if error.filename2 == error.filename:
                del error.filename2
        _name_place(error, path, named)
        raise
    except Exception as error:
        if isinstance(error, UserError):
            error.args = tuple(map(named, error.args))
        _name_place(error, path, named)
        raise


def _name_place(error: Exception, path: Path, named: Callable[[Any], Any]) -> None:
    place = getattr(error, _PLACE, None)
    setattr(error, _PLACE, str(path) if place is None else named(place))


@contextmanager
def staged_name(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a path that names this process, so that a later one can remove what is left."""
    name = f"{_STAGED}{socket.gethostname()}-{os.getpid()}-{next(_numbers)}{suffix}"
    _own.add(name)
    try:
        yield folder / name
    finally:
        _own.discard(name)


def remove_leftovers(folder: Path) -> None:
    """Remove staged files and folders of processes that no longer exist."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(_STAGED)]
    except OSError:
        return
    for name in names:
        host, _, rest = name.removeprefix(_STAGED).rpartition("-")[0].rpartition("-")
        if host != socket.gethostname() or not rest.isdecimal() or name in _own:
            continue
        if int(rest) == os.getpid() or not psutil.pid_exists(int(rest)):
            path = folder / name
            if path.is_dir():
                remove_unlocked(path)
            else:
                path.unlink(missing_ok=True)


class DiskError(NamedTuple):
    """What the disk refused. The user can fix that: free space, allow access, change the folder.

    Attributes:
        number: its number, such as `errno.ENOSPC`.
        path: the file or folder; "" if it is not known.
    """

    number: int
    path: str

    def __str__(self) -> str:
        return _DISK_ERRORS[self.number] + (f": {self.path}" if self.path else "")


def disk_error(error: BaseException) -> str | None:
    """Return `find_disk_error` in words, such as "Permission denied: x.png"; or None."""
    found = find_disk_error(error)
    return None if found is None else str(found)


def find_disk_error(error: BaseException) -> DiskError | None:
    """Return what the disk refused if an error, or its cause, comes from the disk; else None."""
    place: str | None = None
    seen: BaseException | None = error
    while seen is not None:
        place = place or getattr(seen, _PLACE, None)
        number = _number_of(seen)
        if number is not None:
            name = getattr(seen, "filename2", None) or getattr(seen, "filename", None) or place
            return DiskError(number, os.fsdecode(name) if name else "")
        seen = seen.__cause__ or seen.__context__
    return None


def _number_of(error: BaseException) -> int | None:
    """Return the number of the disk's error that an exception stands for, or None."""
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return error.errno
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _SQLITE_ERRORS:
        return _SQLITE_ERRORS[code & 0xFF]
    text = str(error).lower()
    return next((number for phrase, number in _DISK_TEXTS.items() if phrase in text), None)


def room_left(path: str) -> int | None:
    """Return the bytes that are free on the disk of a path, which need not exist; None if unknown.

    Args:
        path: a file or folder; "" for none.
    """
    folder = Path(path).absolute() if path else None
    while folder is not None and not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return None if folder is None else psutil.disk_usage(str(folder)).free
    except OSError:
        return None
