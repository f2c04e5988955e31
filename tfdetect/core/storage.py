"""Local copies of files at addresses such as s3://bucket/folder.

Every address has a local path in the cache (`addresses`), and commands work on the copy there:
`fetched` brings it up to date, and `publish` uploads what was written into it. Images that are read
only once, for verdicts, are fetched in batches instead (`in_turns`).
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tfdetect.core import console
from tfdetect.core.addresses import WEB, address_of, copies_folder, redacted
from tfdetect.core.copy_index import forget_files, record_files, recorded_files, stamp
from tfdetect.core.errors import UserError
from tfdetect.core.remote_files import (
    MAX_TRIES,
    OBJECT_STORES,
    RemoteFile,
    connected,
    download,
    for_each,
    list_files,
    retry,
    upload,
)

TURN = 256  # files that are fetched at a time, while those before are read
# Uploaded last, in this order: a folder without them is not taken for a complete one.
_UPLOADED_LAST = ("dataset_info.json", "dataset.yaml", "metrics.json", "run.json")

Turn = tuple[list[str], dict[int, str]]  # local files, and errors by position; see `in_turns`


def exists(path: Path) -> bool:
    """Return whether a path exists, or for a local copy, whether its address exists."""
    address = address_of(path)
    if address is None:
        return path.exists()
    with connected(address) as (fs, remote):
        return retry(lambda: fs.exists(remote))


def listing(path: Path, names: Collection[str] | None = None) -> dict[str, RemoteFile]:
    """Return the files at the address of a local copy, by relative path; see `list_files`."""
    address = address_of(path)
    assert address is not None
    return list_files(address, names)


def fetched(path: Path, names: Collection[str] | None = None) -> Path:
    """Return a path; the local copy of an address is brought up to date first.

    Files whose size, or entity tag or time of change, differs are fetched. If files change in the
    meantime, they are fetched again, so that the copy is one state of the whole folder.

    Args:
        path: a file or folder.
        names: fetch only these files of the folder, by relative path; missing ones are left out.

    Raises:
        UserError: the address does not exist, cannot be read, or does not stop changing.
    """
    address = address_of(path)
    if address is None:
        return path
    found = listing(path, names)
    for _ in range(MAX_TRIES):
        _remove_deleted(path, found, names)
        if not (stale := _stale_names(path, found)):
            return path
        _fetch_into(path, address, {name: found[name] for name in stale})
        before, found = found, listing(path, names)
        if found == before:
            return path
    raise UserError(f"{redacted(address)} is being changed all the time. Try again later.")


def _remove_deleted(
    path: Path, found: dict[str, RemoteFile], names: Collection[str] | None
) -> None:
    """Remove the files of a local copy that no longer exist at the address."""
    recorded = set(recorded_files(path))
    deleted = (recorded if names is None else recorded & set(names)) - set(found)
    for name in deleted:
        (path / name).unlink(missing_ok=True)
    forget_files(path, deleted)


def _stale_names(path: Path, found: dict[str, RemoteFile]) -> list[str]:
    """Return the names of the files at an address that differ from those of the local copy."""
    recorded = recorded_files(path)
    return [
        name for name, file in found.items()
        if not file.token
        or recorded.get(name) != (file.size, file.token, stamp(path / name))
    ]  # fmt: skip


def _fetch_into(path: Path, address: str, files: dict[str, RemoteFile]) -> None:
    """Download files into the local copy of an address and record their state."""
    with connected(address) as (fs, _):
        for_each(
            lambda name: download(fs, files[name], path / name),
            list(files), f"fetching {redacted(address)}",
        )  # fmt: skip
    record_files(path, files)


def in_turns(paths: Sequence[str], folder: Path, turn: int = TURN) -> Iterator[Turn]:
    """Yield local files in batches; the next batch is fetched while one is read.

    Args:
        paths: files; those that are local copies of addresses need not exist.
        folder: a new folder for what is fetched, which the caller removes at the end.
        turn: number of files of a batch.

    Yields:
        Local files, one for each path, which exist until the next batch; and the errors of those
        that could not be fetched, by position in the batch.

    Raises:
        UserError: no file of a batch can be fetched.
    """
    if not any(map(address_of, paths)):
        yield list(paths), {}
        return
    with ThreadPoolExecutor(1) as background:

        def fetch(start: int) -> Future[Turn]:
            return background.submit(_fetch_turn, paths[start : start + turn], folder / str(start))

        following = fetch(0)
        for start in range(0, len(paths), turn):
            fetched_files = following.result()
            is_last = start + turn >= len(paths)
            if not is_last:
                following = fetch(start + turn)
            yield fetched_files
            if not is_last:
                shutil.rmtree(folder / str(start))


def _fetch_turn(paths: Sequence[str], folder: Path) -> Turn:
    """Fetch one batch of `in_turns` into a folder."""
    folder.mkdir(parents=True)
    files, errors = list(paths), {}

    def fetch(position: int) -> None:
        path = paths[position]
        address = address_of(path)
        if address is None:
            return
        files[position] = str(folder / str(position) / Path(path).name)
        try:
            with connected(address) as (fs, remote):
                download(fs, RemoteFile(remote, None, ""), Path(files[position]))
        except UserError as error:
            errors[position] = str(error)

    for_each(fetch, range(len(paths)))
    if errors and len(errors) == len(paths):
        raise UserError(next(iter(errors.values())))
    return files, errors


def publish(path: Path) -> None:
    """Upload a finished file or folder, if it is in the local copy of an address.

    Only files that have changed are uploaded, those that describe a folder last. Files that were
    removed here are removed at the address. Hidden and unfinished files are not uploaded.

    Raises:
        UserError: the address cannot be written; the message says where the local result is.
    """
    address = address_of(path)
    if address is None or any(map(_is_unfinished, path.relative_to(copies_folder()).parts)):
        return
    names = _finished_files(path)
    recorded = recorded_files(path)
    changed = [
        name for name in names
        if name not in recorded or recorded[name].stamp != stamp(path / name)
    ]  # fmt: skip
    try:
        _upload_from(path, address, changed, removed=sorted(set(recorded) - set(names)))
    except UserError as error:
        cache = copies_folder().parent
        raise UserError(
            f"{error} The complete result is kept: {path.relative_to(cache)} in the cache, {cache}."
        ) from error
    if changed:
        found = listing(path)
        record_files(path, {name: found[name] for name in names if name in found})
        console.log(f"Uploaded to {redacted(address)}")


def _finished_files(path: Path) -> list[str]:
    """Return the relative paths of the files to upload from a folder; "" for a file itself."""
    if path.is_file():
        return [""]
    files = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
    return [file.as_posix() for file in files if not any(map(_is_unfinished, file.parts))]


def _upload_from(path: Path, address: str, changed: list[str], removed: list[str]) -> None:
    """Upload changed files of a local copy, and remove others at the address."""
    _check_scheme(address)
    last = [name for name in _UPLOADED_LAST if name in changed]
    first = [name for name in changed if name not in last]
    with connected(address) as (fs, root):

        def remote(name: str) -> str:
            return f"{root}/{name}" if name else root

        def put(name: str) -> None:
            upload(fs, path / name, remote(name))

        for_each(put, first, f"uploading {redacted(address)}")
        for name in last:
            put(name)
        for name in removed:
            with suppress(FileNotFoundError):
                fs.rm_file(remote(name))


def check_writable(path: Path) -> None:
    """Check that the storage at an address answers and can be written; writes nothing.

    Raises:
        UserError: the storage does not answer, is read-only, or has no such bucket.
    """
    address = address_of(path)
    if address is None:
        return
    _check_scheme(address)
    with connected(address) as (fs, _):
        scheme, _, rest = address.partition("://")
        bucket = rest.partition("/")[0]
        if scheme in OBJECT_STORES and not retry(lambda: fs.exists(bucket)):
            raise UserError(f"There is no bucket {scheme}://{bucket}, or it may not be read.")


def _check_scheme(address: str) -> None:
    if address.startswith(tuple(f"{scheme}:" for scheme in WEB)):
        raise UserError(f"{redacted(address)} can only be read. Choose another --output.")


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.endswith(".partial")
