"""Files that are written whole or not at all."""

import csv
import io
import os
import tempfile
from pathlib import Path

from tfdetect.core.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` so that a reader sees the old or the new file, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def check_writable(output: Path) -> None:
    """Fails early, before data are read, where a run could not be written.

    Raises:
        UserError: the folder for runs cannot be made or written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(
            f"Cannot write to {output}: {error.strerror}. Choose another folder with --output."
        ) from error


def csv_text(rows: list[dict], columns: list[str] | None = None) -> str:
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
