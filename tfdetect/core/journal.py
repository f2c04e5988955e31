"""`Journal`: what a long command has done, kept so that it can go on where it stopped."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tfdetect.core.errors import UserError


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing into a folder meanwhile.

    Raises:
        UserError: another one is.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"Another process is writing into {folder}.") from None
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


class Journal:
    """Rows of what is done, a line of JSON each, added when it is whole.

    A line that a kill cut off is passed over. Needs no lock: one process adds.
    """

    def __init__(self, path: Path, key: str):
        """Takes the file and the column that names a row."""
        self._path, self._key = path, key

    def read(self) -> dict[str, dict[str, Any]]:
        """The rows by name; of several of one name, the last."""
        rows = {}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                rows[row[self._key]] = row
        return rows

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row; it is on the disk when this returns."""
        # A line break first: the line before may have been cut off.
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(row)}\n")
            file.flush()
            os.fsync(file.fileno())
