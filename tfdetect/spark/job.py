"""The folder of a job on a cluster: what is to be done, and the parts that are finished.

    job.json            what the job is: a manifest
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
from tfdetect.core.files import staged, write_text
from tfdetect.core.locks import locked
from tfdetect.core.text import counted
from tfdetect.spark.partitions import MAX_ITEMS, divide

MANIFEST, ITEMS, PARTS = "job.json", "items.parquet", "parts"


@dataclass(frozen=True)
class Job:
    """The folder of a job.

    Attributes:
        folder: the folder, absolute.
        id: the ID of this job alone.
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


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other commands from working on the job in a folder meanwhile.

    Raises:
        UserError: another command does.
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
    """Return the job in a folder, which is begun if the folder is new or nothing is done in it.

    Args:
        folder: the folder of the job.
        what: what is done with the items and how, as JSON takes it; the keys are words for people.
        items: one row for each item.
        sizes: bytes of the items' files, [n].
        flag: the argument that chooses another folder.
        most: items in a partition.
        items_digest: `digest` of the items, where it is known.

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
    """Return the job in a folder and its manifest."""
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
        write_text(new / MANIFEST, json.dumps(found) + "\n")


def _check_same(
    folder: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    count_before: int,
    count_now: int,
    flag: str,
) -> None:
    """Check that a folder's job is the one that is asked for.

    Raises:
        UserError: it is another one.
    """
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if not differing:
        return
    key = differing[0]
    if key == "items":
        texts = [counted(count, "file") for count in (count_before, count_now)]
        if count_before == count_now:
            texts[1] += ", of which some have another name, size or time of change"
    else:
        texts = [f"{key} {json.dumps(known.get(key))}" for known in (before, now)]
    raise UserError(
        f"{folder} holds the parts of another job: {texts[0]} there, {texts[1]} here. Choose "
        f"another folder with {flag}, or remove it to begin anew."
    )


def file_stamps(paths: Iterable[str]) -> np.ndarray:
    """Return size in bytes and time of change in ns of files, int64 [n, 2]; 0 of those missing."""
    return np.fromiter((number for path in paths for number in _stamp(path)), np.int64).reshape(
        -1, 2
    )


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def digest(items: pa.Table) -> str:
    """Return a hex digest of the rows of a table; how they are stored does not matter."""
    found = hashlib.sha256("\n".join(map(str, items.schema)).encode())
    for batch in items.combine_chunks().to_batches(65_536):
        for column in batch.columns:
            found.update("\n".join(map(str, column.to_pylist())).encode())
            found.update(b"\0")
    return found.hexdigest()[:32]


def digest_files(paths: list[Path]) -> str:
    """Return a hex digest of the names and bytes of files, which need not all exist."""
    found = hashlib.sha256()
    for path in paths:
        if path.is_file():
            found.update(f"{path.name}\n".encode())
            with open(path, "rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:32]
