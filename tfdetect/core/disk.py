"""Single files that are written whole or not at all, and what a disk refuses."""

import errno
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

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
    with staged_name(path.parent, path.suffix) as temporary:
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


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


def disk_error(error: BaseException) -> str | None:
    """Return what the disk refused if an error, or its cause, comes from the disk; else None.

    The user can fix that: free space, allow access, choose another folder.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_ERRORS:
            name = seen.filename2 or seen.filename
            return _DISK_ERRORS[seen.errno] + (f": {os.fsdecode(name)}" if name else "")
        code = getattr(seen, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _SQLITE_ERRORS:
            return _DISK_ERRORS[_SQLITE_ERRORS[code & 0xFF]]
        text = str(seen).lower()
        for phrase, number in _DISK_TEXTS.items():
            if phrase in text:
                return _DISK_ERRORS[number]
        seen = seen.__cause__ or seen.__context__
    return None
