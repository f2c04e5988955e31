"""Lists the files below a folder. Every command that takes a folder finds its files this way."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tfdetect.core.errors import UserError
from tfdetect.core.text import counted

# What operating systems and archivers put beside images, in lower case. Files and folders whose
# names begin with a dot are left out as well.
JUNK = frozenset({
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "lost+found", "$recycle.bin",
    "system volume information", "@eadir", "#recycle", "__pycache__",
})  # fmt: skip
# A folder is entered so many times at most. Folders full of links to each other would otherwise
# be walked along every path through them.
_MAX_VISITS = 64
_SPECIAL = {
    stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


class FoundFile(NamedTuple):
    """A regular file, or a link to one.

    Attributes:
        path: path relative to the walk's root, with forward slashes. Bytes that are no UTF-8 are
            surrogates, as `os.fsdecode` makes them.
        size: size in bytes.
        mtime_ns: time of the last change, in ns.
        device: number of the file system; with `inode` it identifies the file.
        inode: number of the file there.
    """

    path: str
    size: int
    mtime_ns: int
    device: int
    inode: int


class Walk:
    """The files below a folder, in no particular order.

    Links to files and folders are followed, but a folder is never entered below itself. Files
    that can be reached by several paths come once for each path. Hidden names and junk are left
    out and counted; pipes, devices and sockets are never opened.

    The attributes are complete when the iteration has ended.

    Attributes:
        root: the folder.
        unreadable: why folders cannot be listed, by their relative path.
        unusable: why other entries are no files (links to nowhere, pipes), by their relative path.
        loops: links that lead to one of the folders above them.
    """

    def __init__(self, root: str | Path):
        self.root = os.fspath(root)
        self.unreadable: dict[str, str] = {}
        self.unusable: dict[str, str] = {}
        self.loops: list[str] = []
        self._left_out: list[tuple[str, bool]] = []  # path, and whether it is a folder

    def __iter__(self) -> Iterator[FoundFile]:
        for path, entry in self._entries():
            try:
                found = entry.stat()
            except OSError as error:
                self.unusable[path] = _reason(error)
                continue
            yield FoundFile(path, found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)

    def paths(self) -> Iterator[str]:
        """Yield the relative paths alone, which is faster."""
        for path, _ in self._entries():
            yield path

    @cached_property
    def left_out(self) -> Counter[str]:
        """Number of files with hidden names and of junk, by the name that leaves them out.

        Folders are counted with all files below them; links there are not followed.
        """
        counts: Counter[str] = Counter()
        for path, is_folder in self._left_out:
            name = path.rpartition("/")[2]
            key = name if is_folder or name.lower() in JUNK else "hidden"
            counts[key] += _count(os.path.join(self.root, path)) if is_folder else 1
        return +counts

    def check_readable(self) -> None:
        """Check that every folder was listed.

        Raises:
            UserError: One could not be, so that files may be missing.
        """
        for path, reason in self.unreadable.items():
            more = len(self.unreadable) - 1
            raise UserError(
                f"Cannot read {os.path.join(self.root, path)}: {reason}"
                + (f" ({counted(more, 'further folder')} cannot be read)" if more else "")
                + ". Change its permissions, or move it elsewhere."
            )

    def _entries(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the relative paths and entries of regular files."""
        # Each folder on the stack has the chain of folders above it: ((device, inode), chain).
        stack: list[tuple[str, str, _Chain]] = []
        visits: Counter[tuple[int, int]] = Counter()
        try:
            self._push(stack, visits, self.root, "", _above(self.root))
        except OSError as error:
            self.unreadable[""] = _reason(error)
        while stack:
            folder, prefix, chain = stack.pop()
            for path, entry in self._listed(folder, prefix):
                try:
                    if entry.is_file():
                        yield path, entry
                    elif entry.is_dir():
                        self._push(stack, visits, entry.path, f"{path}/", chain)
                    else:
                        self.unusable[path] = kind(entry.path)
                except OSError as error:
                    self.unusable[path] = _reason(error)

    def _listed(self, folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the relative paths and entries of a folder; note what is left out."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = prefix + entry.name
                    if is_junk(entry.name):
                        self._left_out.append((path, entry.is_dir(follow_symlinks=False)))
                    else:
                        yield path, entry
        except OSError as error:
            self.unreadable[prefix.rstrip("/")] = _reason(error)

    def _push(
        self,
        stack: list[tuple[str, str, "_Chain"]],
        visits: Counter[tuple[int, int]],
        folder: str,
        prefix: str,
        chain: "_Chain",
    ) -> None:
        """Add a folder to the stack, unless it is one of the folders above it."""
        found = os.stat(folder)
        key = found.st_dev, found.st_ino
        above = chain
        while above is not None:
            if above[0] == key:
                self.loops.append(prefix.rstrip("/"))
                return
            above = above[1]
        visits[key] += 1
        if visits[key] <= _MAX_VISITS:
            stack.append((folder, prefix, (key, chain)))
        else:
            self.unusable[prefix.rstrip("/")] = (
                f"a folder that {_MAX_VISITS} other paths lead to already"
            )


_Chain = tuple[tuple[int, int], "_Chain"] | None


def subfolders(folder: str | Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, by the rules of `Walk`.

    Raises:
        UserError: the folder cannot be read.
    """
    return sorted(entry.name for entry in _visible(folder) if _is(entry, folder=True))


def files_in(folder: str | Path) -> Iterator[str]:
    """Yield the names of the files in a folder, by the rules of `Walk`.

    Raises:
        UserError: the folder cannot be read.
    """
    return (entry.name for entry in _visible(folder) if _is(entry, folder=False))


def _visible(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_junk(entry.name):
                    yield entry
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {_reason(error)}.") from error


def _is(entry: os.DirEntry[str], folder: bool) -> bool:
    """Return whether an entry is a folder, or a regular file."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:
        return False  # a link that leads nowhere


def is_junk(name: str) -> bool:
    """Return whether a file or folder of this name is left out: hidden names, and `JUNK`."""
    return name.startswith(".") or name.lower() in JUNK


def _above(root: str) -> _Chain:
    """Return the chain of the folders above the root of a walk."""
    chain: _Chain = None
    for folder in reversed(Path(os.path.realpath(root)).parents):
        found = os.stat(folder)
        chain = (found.st_dev, found.st_ino), chain
    return chain


def kind(path: str) -> str:
    """Return the kind of an entry that is neither a file nor a folder, in words."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to a file that does not exist"
    return _SPECIAL.get(stat.S_IFMT(mode), "not a regular file")


def _count(folder: str) -> int:
    """Return the number of entries below a folder that are no folders."""
    return sum(len(names) + sum(os.path.islink(os.path.join(parent, f)) for f in folders)
               for parent, folders, names in os.walk(folder))  # fmt: skip


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
