"""`Journal`: a record of what a long command has done, so that it can be continued."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfdetect.core.errors import UserError
from tfdetect.core.locks import locked


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder, so that no other process writes into it meanwhile.

    Raises:
        UserError: another process holds the lock.
    """
    refusal = UserError(
        f"Another process is writing into {folder}. Wait until it is finished, or choose another "
        "folder."
    )
    with locked(folder / ".lock", refusal):
        yield


class Journal:
    """A file of rows, one line of JSON each, added as the work proceeds.

    A line that is no row, for example because it was cut off when the process was killed, is
    ignored. One process at a time may add.

    Args:
        path: the file.
        key: the column that identifies a row.
        columns: the columns that a row has at least.
    """

    def __init__(self, path: Path, key: str, columns: Sequence[str]):
        self._path, self._key = path, key
        self._columns = {key, *columns}

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the rows by their key; of several rows with the same key, the last one."""
        rows = {}
        if self._path.is_file():
            with open(self._path, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError):
                        continue
                    if isinstance(row, dict) and row.keys() >= self._columns:
                        rows[str(row[self._key])] = row
        return rows

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on the disk when this returns."""
        # Begins with a line break, because the line before may have been cut off.
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(row)}\n")
            file.flush()
            os.fsync(file.fileno())
