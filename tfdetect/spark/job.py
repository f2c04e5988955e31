"""The folder of a job on a cluster: what is to be done, and the parts that are finished.

    job.json            the manifest: what the job is
    items.parquet       the items, one row group for each partition
    parts/00000.parquet the rows of a finished partition

A part appears whole or not at all. All machines of the cluster need to see the folder under the
same path.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import tfdetect
from tfdetect.core.disk import replacing
from tfdetect.core.errors import UserError
from tfdetect.core.files import staged, write_json
from tfdetect.core.locks import locked
from tfdetect.core.text import counted
from tfdetect.spark.partitions import MAX_ITEMS, divide

MANIFEST, ITEMS, PARTS = "job.json", "items.parquet", "parts"


@dataclass(frozen=True)
class Job:
    """The folder of a job.

    Attributes:
        folder: the folder, absolute.
        id: the unique ID of the job.
        rows: number of items in each partition.
        sizes: bytes of the files of each partition.
    """

    folder: Path
    id: str
    rows: np.ndarray
    sizes: np.ndarray

    @property
    def total(self) -> int:
        """Number of items."""
        return int(self.rows.sum())

    def part(self, number: int) -> Path:
        """Return the file of a partition's rows."""
        return part_path(self.folder, number)

    def missing(self) -> list[int]:
        """Return the partitions without a finished part, those with the largest files first.

        A part that cannot be read or has another number of rows counts as missing.
        """
        todo = [n for n in range(len(self.rows)) if not self._is_finished(n)]
        return sorted(todo, key=lambda number: -int(self.sizes[number]))

    def _is_finished(self, number: int) -> bool:
        try:
            return pq.read_metadata(self.part(number)).num_rows == self.rows[number]
        except (OSError, pa.ArrowException):
            return False

    def results(self) -> Iterator[pa.Table]:
        """Yield the rows of each partition, in the order of the items, one part at a time."""
        for number in range(len(self.rows)):
            yield pq.read_table(self.part(number))


def part_path(folder: Path, number: int) -> Path:
    """Return the file of a partition's rows in the folder of a job."""
    return folder / PARTS / f"{number:05d}.parquet"


def has_all_parts(folder: Path) -> bool:
    """Return whether a folder holds a job and a file for each of its parts, whole or not."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all(part_path(folder, number).is_file() for number in range(len(found["rows"])))
    except (OSError, ValueError, LookupError, TypeError):
        return False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the job in a folder, so that no other command works on it at the same time.

    Raises:
        UserError: another command works on it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    refusal = UserError(
        f"Another command is working on the job in {folder}. Wait until it is finished, or choose "
        "another folder."
    )
    with locked(folder.with_name(f".{folder.name}.lock"), refusal):
        yield


def open_job(
    folder: Path,
    what: Mapping[str, Any],
    items: pa.Table,
    sizes: np.ndarray,
    flag: str,
    most: int = MAX_ITEMS,
    items_digest: str | None = None,
) -> Job:
    """Return the job in a folder; begin it if the folder is new or has no finished part.

    Args:
        folder: the folder of the job.
        what: what is done with the items and how, as values for JSON; messages contain the keys.
        items: one row for each item.
        sizes: sizes of the files of the items in bytes, int [n].
        flag: the argument that chooses another folder, for messages.
        most: number of items in a partition, at most.
        items_digest: the `digest` of the items, if the caller knows it.

    Raises:
        UserError: the folder holds another job, or other files.
    """
    items_digest = items_digest or digest(items)
    manifest = {**what, "items": items_digest, "tfdetect": tfdetect.__version__}
    path = folder / MANIFEST
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"{folder} holds other files. Choose a new folder for the parts with {flag}."
            )
        _begin(folder, manifest, items, divide(sizes, most), sizes)
    job, before = _read(folder, flag)
    if before != manifest and not any((folder / PARTS).iterdir()):
        _begin(folder, manifest, items, divide(sizes, most), sizes)
        job, before = _read(folder, flag)
    _check_same(folder, before, manifest, job.total, items.num_rows, flag)
    return job


def _read(folder: Path, flag: str) -> tuple[Job, dict[str, Any]]:
    """Return the job in a folder and its manifest.

    Raises:
        UserError: job.json cannot be read.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        job = Job(
            folder, found["id"], np.array(found["rows"], np.int64),
            np.array(found["sizes"], np.int64),
        )  # fmt: skip
        return job, dict(found["manifest"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. Remove the folder, or choose another one with {flag}."
        ) from error


def _begin(
    folder: Path,
    manifest: Mapping[str, Any],
    items: pa.Table,
    bounds: np.ndarray,
    sizes: np.ndarray,
) -> None:
    """Write the folder of a new job; `bounds` are those of `divide`."""
    ends = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
    found = {
        "id": uuid.uuid4().hex,
        "manifest": dict(manifest),
        "rows": np.diff(bounds).tolist(),
        "sizes": np.diff(ends[bounds]).tolist(),
    }
    with staged(folder) as new:
        (new / PARTS).mkdir()
        with (
            replacing(new / ITEMS) as temporary,
            pq.ParquetWriter(temporary, items.schema) as writer,
        ):
            for start, end in pairwise(bounds):
                writer.write_table(items.slice(start, end - start), int(end - start))
        write_json(new / MANIFEST, found)


def _check_same(
    folder: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    count_before: int,
    count_now: int,
    flag: str,
) -> None:
    """Check that the job in a folder is the same as a new job.

    Args:
        folder: the folder.
        before, now: the manifests of the job in the folder and of the new job.
        count_before, count_now: their numbers of items.
        flag: the argument that chooses another folder.

    Raises:
        UserError: the manifests differ.
    """
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if not differing:
        return
    key = differing[0]
    if key == "items":
        texts = [counted(count, "file") for count in (count_before, count_now)]
        if count_before == count_now:
            texts[1] += ", some of them with another name, size or modification time"
    else:
        texts = [f"{key} {json.dumps(known.get(key))}" for known in (before, now)]
    raise UserError(
        f"{folder} holds the parts of another job: {texts[0]} there, {texts[1]} here. Choose "
        f"another folder with {flag}, or remove this one to start again."
    )


def file_stamps(paths: Iterable[str]) -> np.ndarray:
    """Return size in bytes and modification time in ns of files, int64 [n, 2]; 0 if missing."""
    return np.fromiter((number for path in paths for number in _stamp(path)), np.int64).reshape(
        -1, 2
    )


def _stamp(path: str) -> tuple[int, int]:
    """Return size in bytes and modification time in ns of a file; 0 if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def digest(items: pa.Table) -> str:
    """Return a hex digest of the rows of a table, whatever the chunks that hold them."""
    found = hashlib.sha256("\n".join(map(str, items.schema)).encode())
    for batch in items.combine_chunks().to_batches(65_536):
        for column in batch.columns:
            found.update("\n".join(map(str, column.to_pylist())).encode())
            found.update(b"\0")
    return found.hexdigest()[:32]


def digest_files(paths: list[Path]) -> str:
    """Return a hex digest of the names and bytes of the files that exist."""
    found = hashlib.sha256()
    for path in paths:
        if path.is_file():
            found.update(f"{path.name}\n".encode())
            with open(path, "rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:32]
