"""Files at addresses such as s3://bucket/folder, by way of fsspec.

Every address has a place in the cache for a copy of it (`addresses`). Commands work on this copy:
`fetched` brings it up to date, and `publish` uploads what was written there. Images that are read
once, for verdicts, are fetched some at a time instead (`in_turns`).
"""

import os
import random
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tfdetect.core import console
from tfdetect.core.addresses import WEB, address_of, copies_folder, redacted
from tfdetect.core.disk import disk_error, replacing
from tfdetect.core.errors import UserError
from tfdetect.core.packages import with_extra
from tfdetect.core.text import printable

if TYPE_CHECKING:
    import sqlite3

    from fsspec import AbstractFileSystem

Result = TypeVar("Result")

# What is put there appears whole. Elsewhere it is renamed when it is whole.
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2")
_TOKENS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "modificationTime", "LastModified",
           "last_modified", "updated", "created")  # fmt: skip
# Uploaded last, in this order: a folder without them is not taken for a finished one.
_LAST = ("dataset_info.json", "dataset.yaml", "metrics.json", "run.json")
_PARALLEL = 32  # requests at a time
_TRIES = 4  # of a request
_FIRST_PAUSE = 0.5  # seconds before the second try; doubled before each further one
TURN = 256  # files that are fetched at a time, while the ones before are read


class Entry(NamedTuple):
    """A file at an address.

    Attributes:
        remote: its name for fsspec.
        size: size in bytes, if it is known.
        token: another one where the file has changed, "" if that is not known.
    """

    remote: str
    size: int | None
    token: str


def exists(path: Path) -> bool:
    """Return whether there is something at a path, or at the address of which it is the copy."""
    address = address_of(path)
    if address is None:
        return path.exists()
    with _messages(address):
        fs, remote = _filesystem(address)
        return _retried(lambda: fs.exists(remote))


def listing(path: Path, names: Collection[str] | None = None) -> dict[str, Entry]:
    """Return the files below the address of a local copy, by relative path; "" for a file itself.

    Args:
        path: the local copy.
        names: only these files below it, those of them that are there. A web server is asked for
            each of them, as it may list no folders.

    Raises:
        UserError: there is none, or it cannot be listed.
    """
    address = address_of(path)
    assert address is not None
    with _messages(address):
        fs, root = _filesystem(address)
        fs.invalidate_cache()
        if names is not None and address.startswith("http"):
            return _asked_for(fs, root.rstrip("/"), names)
        info = _retried(lambda: fs.info(root))
        page = address.startswith("http") and str(info.get("mimetype")).startswith("text/html")
        if info["type"] == "file" and not page:
            return {"": _entry(root, info)}
        found = _retried(lambda: fs.find(f"{root.rstrip('/')}/", detail=True))
    prefix, entries = root.strip("/") + "/", {}
    for name, info in found.items():
        own = name.lstrip("/").removeprefix(prefix)
        if own != name.lstrip("/") and not {"", ".", ".."} & set(own.split("/")):
            entries[own] = _entry(name, info)
    if not entries:
        raise UserError(f"There is no file or folder {redacted(address)}.")
    return entries if names is None else {name: entries[name] for name in names if name in entries}


def _asked_for(fs: "AbstractFileSystem", root: str, names: Collection[str]) -> dict[str, Entry]:
    """Return those files of these names that are there, each of which is asked for."""
    entries = {}

    def ask(name: str) -> None:
        remote = f"{root}/{name}"
        with suppress(FileNotFoundError):
            entries[name] = _entry(remote, _retried(lambda: fs.info(remote)))

    _each(ask, list(names))
    return entries


def fetched(path: Path, names: Collection[str] | None = None) -> Path:
    """Return a path; if it is the local copy of an address, it is up to date afterwards.

    Files that have changed, by size and entity tag or time of change, are fetched. A file that
    changes meanwhile is fetched again, so that the copy is one state of the whole.

    Args:
        path: a file or folder.
        names: only these files of the folder, by relative path, those of them that are there.

    Raises:
        UserError: there is nothing at the address, it cannot be read, or it changes all the time.
    """
    address = address_of(path)
    if address is None:
        return path
    found = listing(path, names)
    for _ in range(_TRIES):
        if not (stale := _stale(path, found, names)):
            return path
        with _messages(address):
            fs, _ = _filesystem(address)

            def get(name: str, fs: Any = fs, found: dict[str, Entry] = found) -> None:
                _get(fs, found[name], path / name)

            _each(get, stale, f"fetching {redacted(address)}")
        _note(path, {name: found[name] for name in stale})
        before, found = found, listing(path, names)
        if found == before:
            return path
    raise UserError(f"{redacted(address)} is being changed all the time. Try again later.")


def in_turns(
    paths: Sequence[str], folder: Path, turn: int = TURN
) -> Iterator[tuple[list[str], dict[int, str]]]:
    """Yield local files, some at a time; those after them are fetched meanwhile.

    Args:
        paths: files, of which some may be local copies of addresses that are not there.
        folder: a new one for what is fetched, which the caller removes in the end.
        turn: number of files at a time.

    Yields:
        Files, which exist until the next turn, one for each path; and why some could not be
        fetched, by their number in the turn.

    Raises:
        UserError: none of the files of a turn can be fetched.
    """
    if not any(map(address_of, paths)):
        yield list(paths), {}
        return
    starts = range(0, len(paths), turn)
    with ThreadPoolExecutor(1) as ahead:

        def fetch(start: int) -> "Future[tuple[list[str], dict[int, str]]]":
            return ahead.submit(_turn, paths[start : start + turn], folder / str(start))

        waiting = fetch(0)
        for start in starts:
            found = waiting.result()
            if start + turn < len(paths):
                waiting = fetch(start + turn)
            yield found
            if start + turn < len(paths):
                shutil.rmtree(folder / str(start))


def _turn(paths: Sequence[str], folder: Path) -> tuple[list[str], dict[int, str]]:
    """Fetch some files into a folder; see `in_turns`."""
    folder.mkdir(parents=True)
    files, failed = list(paths), {}

    def fetch(number: int) -> None:
        path, address = paths[number], address_of(paths[number])
        if address is None:
            return
        files[number] = str(folder / str(number) / Path(path).name)
        try:
            with _messages(address):
                fs, remote = _filesystem(address)
                _get(fs, Entry(remote, None, ""), Path(files[number]))
        except UserError as error:
            failed[number] = str(error)

    _each(fetch, range(len(paths)))
    if failed and len(failed) == len(paths):
        raise UserError(next(iter(failed.values())))
    return files, failed


def publish(path: Path) -> None:
    """Upload a finished file or folder, if it is in the local copy of an address.

    Only what has changed is uploaded, a folder's description last (`_LAST`); what was removed here
    is removed there. Hidden and unfinished files stay here.

    Raises:
        UserError: it cannot be written; the message says where the whole result is.
    """
    address = address_of(path)
    if address is None or any(map(_is_unfinished, path.relative_to(copies_folder()).parts)):
        return
    names = [""] if path.is_file() else [
        name for each in path.rglob("*") if each.is_file()
        and not any(map(_is_unfinished, Path(name := each.relative_to(path).as_posix()).parts))
    ]  # fmt: skip
    known = _known(path)
    changed = [name for name in names if known.get(name, ())[2:] != _stamp(path / name)]
    gone = sorted(set(known) - set(names))
    try:
        with _messages(address):
            _check_scheme(address)
            fs, root = _filesystem(address)

            def put(name: str) -> None:
                _put(fs, path / name, f"{root}/{name}" if name else root)

            last = sorted(filter(_LAST.__contains__, changed), key=_LAST.index)
            first = [name for name in changed if name not in last]
            _each(put, first, f"uploading {redacted(address)}")
            for name in last:
                put(name)
            for name in gone:
                with suppress(FileNotFoundError):
                    fs.rm_file(f"{root}/{name}" if name else root)
    except UserError as error:
        cache = copies_folder().parent
        raise UserError(
            f"{error} The whole result is kept: {path.relative_to(cache)} in the cache, {cache}."
        ) from error
    if changed:
        found = listing(path)
        _note(path, {name: found[name] for name in names if name in found})
        console.log(f"Uploaded to {redacted(address)}")


def check_writable(path: Path) -> None:
    """Check that the storage of an address answers and can be written at all; writes nothing.

    Raises:
        UserError: it cannot.
    """
    address = address_of(path)
    if address is None:
        return
    with _messages(address):
        _check_scheme(address)
        fs, remote = _filesystem(address)
        scheme, _, rest = address.partition("://")
        bucket = rest.partition("/")[0]
        if scheme in _OBJECT_STORES and not _retried(lambda: fs.exists(bucket)):
            raise UserError(f"There is no bucket {scheme}://{bucket}, or it may not be read.")


def _check_scheme(address: str) -> None:
    if address.startswith(tuple(f"{scheme}:" for scheme in WEB)):
        raise UserError(f"{redacted(address)} can only be read. Choose another --output.")


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.endswith(".partial")


def _filesystem(address: str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of an address, and the path there."""
    import fsspec

    return fsspec.core.url_to_fs(address)


def _entry(remote: str, info: dict[str, Any]) -> Entry:
    tokens = (info[key] for key in _TOKENS if info.get(key) is not None)
    return Entry(remote, info.get("size"), str(next(tokens, "")))


def _get(fs: "AbstractFileSystem", entry: Entry, target: Path) -> None:
    """Fetch a file, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)

    def get() -> None:
        with replacing(target) as temporary:
            fs.get_file(entry.remote, str(temporary))
            if entry.size is not None and temporary.stat().st_size != entry.size:
                raise ConnectionError(f"{entry.remote} came without its end")

    _retried(get)


def _put(fs: "AbstractFileSystem", source: Path, remote: str) -> None:
    """Upload a file, which appears whole."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if protocols & set(_OBJECT_STORES):
        _retried(lambda: fs.put_file(str(source), remote))
        return
    above, _, name = remote.rpartition("/")
    temporary = f"{above}/.{name}.{os.getpid()}"
    fs.makedirs(above, exist_ok=True)
    _retried(lambda: fs.put_file(str(source), temporary))
    if fs.exists(remote):
        fs.rm_file(remote)
    fs.mv(temporary, remote)


def _each(function: Callable[[Any], None], items: Sequence, description: str | None = None) -> None:
    """Call a function with many items at a time."""
    shown = description is not None and len(items) > 1
    with (
        ThreadPoolExecutor(min(_PARALLEL, len(items) or 1)) as pool,
        console.progress(len(items), description or "", "files", shown=shown) as bar,
    ):
        tasks = [pool.submit(function, item) for item in items]
        try:
            for task in tasks:
                task.result()
                bar.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _retried(function: Callable[[], Result]) -> Result:
    """Return what a function returns, tried again after a while where the network fails."""
    for number in range(_TRIES - 1):
        try:
            return _asked(function)
        except (FileNotFoundError, PermissionError, IsADirectoryError, ImportError):
            raise
        except Exception as error:  # each library has kinds of its own
            if disk_error(error):
                raise
        time.sleep(_FIRST_PAUSE * 2**number * random.uniform(0.5, 1.5))
    return _asked(function)


def _asked(function: Callable[[], Result]) -> Result:
    """Return what a function returns; a request that failed is not taken for a missing file.

    For web servers, fsspec says that a file is missing, whatever happened; the cause is in the
    error that it raised from.
    """
    try:
        return function()
    except FileNotFoundError as error:
        cause = error.__cause__
        failed = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
        if cause is None or not failed or 400 <= getattr(cause, "status", 0) < 500:
            raise
    raise cause  # out of the handler: the error that it caused is not its context


@contextmanager
def _messages(address: str) -> Iterator[None]:
    """Make the errors of the storage's library messages without secrets."""
    name = redacted(address)
    scheme = address.partition(":")[0]
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        if disk_error(error):
            raise
        raise UserError(f"There is no file or folder {name}.") from None
    except ImportError as error:
        package = with_extra("storage") if scheme in ("s3", "s3a", *WEB) else "fsspec"
        raise UserError(
            f"{name} needs another package: pip install '{package}' ({printable(error):.200})"
        ) from None
    except Exception as error:
        if disk_error(error):
            raise
        lines = redacted(str(error)).strip().splitlines() or [""]
        hint = ""
        if isinstance(error, PermissionError) or "credential" in str(error).lower():
            hint = (
                " Give the credentials as the library of this kind of storage takes them (for "
                "s3:// AWS_PROFILE or ~/.aws)."
            )
        raise UserError(
            f"{name} cannot be used: {type(error).__name__}: {printable(lines[0]):.300}.{hint}"
        ) from None


# --- what is known of the copies: a table of files, with sizes and tokens there and stamps here


@contextmanager
def _index() -> "Iterator[sqlite3.Connection]":
    import sqlite3

    copies_folder().mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(copies_folder() / "index.sqlite", timeout=60)) as database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, token TEXT, "
            "local_size INTEGER, local_mtime INTEGER) WITHOUT ROWID"
        )
        with database:
            yield database


def _known(path: Path) -> dict[str, tuple]:
    """Return size and token there, and size and time here, of the files of a copy, by name."""
    root = path.relative_to(copies_folder()).as_posix()
    with _index() as database:
        rows = database.execute(
            "SELECT * FROM files WHERE path = ? OR path > ? AND path < ?",
            (root, f"{root}/", f"{root}0"),  # 0 comes after / in ASCII
        ).fetchall()
    return {row[0][len(root) + 1 :]: row[1:] for row in rows}


def _stale(path: Path, found: dict[str, Entry], names: Collection[str] | None) -> list[str]:
    """Return the files that are to be fetched; forget and remove those that are gone there."""
    known = _known(path)
    gone = sorted(set(known if names is None else names) & set(known) - set(found))
    for name in gone:
        (path / name).unlink(missing_ok=True)
    root = path.relative_to(copies_folder()).as_posix()
    with _index() as database:
        keys = [(f"{root}/{name}" if name else root,) for name in gone]
        database.executemany("DELETE FROM files WHERE path = ?", keys)
    return [
        name for name, entry in found.items()
        if not entry.token or known.get(name) != (entry.size, entry.token, *_stamp(path / name))
    ]  # fmt: skip


def _note(path: Path, entries: dict[str, Entry]) -> None:
    """Note that local files are the ones at the address."""
    root = path.relative_to(copies_folder()).as_posix()
    rows = [
        (f"{root}/{name}" if name else root, entry.size, entry.token, *_stamp(path / name))
        for name, entry in entries.items()
    ]
    with _index() as database:
        database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)


def _stamp(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of change in ns of a file; 0 of one that is missing."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
