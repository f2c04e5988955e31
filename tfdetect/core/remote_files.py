"""Requests to the storage at an address, by way of fsspec: list, download and upload files.

Requests that fail for a while are repeated, and the errors of the storage's library become messages
without secrets. The local copies of addresses are kept by `storage`.
"""

import os
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tfdetect.core import console
from tfdetect.core.addresses import WEB, redacted
from tfdetect.core.disk import disk_error, replacing
from tfdetect.core.errors import UserError
from tfdetect.core.packages import with_extra
from tfdetect.core.text import printable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_TRIES = 4  # of a request
FIRST_PAUSE = 0.5  # seconds before the second try; doubled before each further one
_PARALLEL_REQUESTS = 32
# An upload appears there only when it is complete. Elsewhere it is renamed when it is complete.
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2")
# Keys under which fsspec's file systems report the version of a file, the best first.
_TOKENS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "modificationTime", "LastModified",
           "last_modified", "updated", "created")  # fmt: skip


class RemoteFile(NamedTuple):
    """A file at an address.

    Attributes:
        path: its path for fsspec.
        size: size in bytes; None if it is not known.
        token: entity tag or time of the last change, which differs after every change; "" if it is
            not known.
    """

    path: str
    size: int | None
    token: str


@contextmanager
def connected(address: str) -> "Iterator[tuple[AbstractFileSystem, str]]":
    """Yield the file system of an address, and the path of the address on it.

    Raises:
        UserError: a request within the context failed, or a package is missing; the message has no
            passwords or signatures.
    """
    name = redacted(address)
    scheme = address.partition(":")[0]
    try:
        import fsspec

        yield fsspec.core.url_to_fs(address)
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
                " Give the credentials as the library of this kind of storage expects them (for "
                "s3:// in AWS_PROFILE or ~/.aws)."
            )
        raise UserError(
            f"{name} cannot be used: {type(error).__name__}: {printable(lines[0]):.300}.{hint}"
        ) from None


def list_files(address: str, names: Collection[str] | None = None) -> dict[str, RemoteFile]:
    """Return the files below an address, by relative path; "" for a file itself.

    Args:
        address: a file or folder.
        names: return only these files below it; missing ones are left out. A web server is asked
            for each of them, because it may list no folders.

    Raises:
        UserError: there is no file, or the storage cannot be read.
    """
    is_web = address.startswith("http")
    with connected(address) as (fs, root):
        fs.invalidate_cache()
        if names is not None and is_web:
            return _request_each(fs, root.rstrip("/"), names)
        info = retry(lambda: fs.info(root))
        is_page = is_web and str(info.get("mimetype")).startswith("text/html")
        if info["type"] == "file" and not is_page:
            return {"": _remote_file(root, info)}
        found = retry(lambda: fs.find(f"{root.rstrip('/')}/", detail=True))
    prefix, files = root.strip("/") + "/", {}
    for path, info in found.items():
        relative = path.lstrip("/").removeprefix(prefix)
        if relative != path.lstrip("/") and not {"", ".", ".."} & set(relative.split("/")):
            files[relative] = _remote_file(path, info)
    if not files:
        raise UserError(f"There is no file or folder {redacted(address)}.")
    return files if names is None else {name: files[name] for name in names if name in files}


def _request_each(
    fs: "AbstractFileSystem", root: str, names: Collection[str]
) -> dict[str, RemoteFile]:
    """Return the named files that exist, with one request for each."""
    files = {}

    def request(name: str) -> None:
        path = f"{root}/{name}"
        with suppress(FileNotFoundError):
            files[name] = _remote_file(path, retry(lambda: fs.info(path)))

    for_each(request, list(names))
    return files


def _remote_file(path: str, info: dict[str, Any]) -> RemoteFile:
    tokens = (info[key] for key in _TOKENS if info.get(key) is not None)
    return RemoteFile(path, info.get("size"), str(next(tokens, "")))


def download(fs: "AbstractFileSystem", file: RemoteFile, target: Path) -> None:
    """Download a file; after an error the target is unchanged."""
    target.parent.mkdir(parents=True, exist_ok=True)

    def download_once() -> None:
        with replacing(target) as temporary:
            fs.get_file(file.path, str(temporary))
            if file.size is not None and temporary.stat().st_size != file.size:
                raise ConnectionError(f"{file.path} was received incompletely")

    retry(download_once)


def upload(fs: "AbstractFileSystem", source: Path, target: str) -> None:
    """Upload a file, which appears under its name only when it is complete."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if protocols & set(OBJECT_STORES):
        retry(lambda: fs.put_file(str(source), target))
        return
    folder, _, name = target.rpartition("/")
    temporary = f"{folder}/.{name}.{os.getpid()}"
    fs.makedirs(folder, exist_ok=True)
    retry(lambda: fs.put_file(str(source), temporary))
    if fs.exists(target):
        fs.rm_file(target)
    fs.mv(temporary, target)


def for_each(
    function: Callable[[Item], None], items: Sequence[Item], description: str | None = None
) -> None:
    """Call a function that makes requests with each item, many at a time.

    Args:
        function: called in threads; its first exception ends the rest.
        items: its arguments.
        description: text of a progress bar; None shows none.
    """
    shown = description is not None and len(items) > 1
    with (
        ThreadPoolExecutor(min(_PARALLEL_REQUESTS, len(items) or 1)) as pool,
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


def retry(function: Callable[[], Result]) -> Result:
    """Return the result of a function, which is called again after a pause if the network fails."""
    for number in range(MAX_TRIES - 1):
        try:
            return _checked_request(function)
        except (FileNotFoundError, PermissionError, IsADirectoryError, ImportError):
            raise
        except Exception as error:  # each storage's library has exceptions of its own
            if disk_error(error):
                raise
        time.sleep(FIRST_PAUSE * 2**number * random.uniform(0.5, 1.5))
    return _checked_request(function)


def _checked_request(function: Callable[[], Result]) -> Result:
    """Return the result of a function; raise the true cause of a FileNotFoundError.

    For web servers, fsspec reports every failed request as a missing file. The error that it
    raised from says what happened.
    """
    try:
        return function()
    except FileNotFoundError as error:
        cause = error.__cause__
        failed = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
        if cause is None or not failed or 400 <= getattr(cause, "status", 0) < 500:
            raise
    raise cause  # outside of the handler, so that the FileNotFoundError is not its context
