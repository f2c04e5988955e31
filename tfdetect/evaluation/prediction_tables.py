"""Which files to predict, predictions by generator, and as terminal table, CSV, JSON or Parquet."""

import glob
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tfdetect.core.errors import UserError, unknown
from tfdetect.data.scan import EXTENSIONS, UNSUPPORTED

FORMATS = (".csv", ".jsonl", ".parquet")


def collect(inputs: list[str]) -> list[str]:
    """Files to predict, in order, each once.

    A file is taken whatever its name; folders are searched for image extensions.

    Raises:
        UserError: an input that does not exist, or a folder or glob without images.
    """
    paths = []
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_dir():
            wanted = EXTENSIONS | UNSUPPORTED
            found = sorted(
                os.path.join(folder, name)
                for folder, _, names in os.walk(path)
                for name in names
                if Path(name).suffix.lower() in wanted and not name.startswith(".")
            )
            if not found:
                raise UserError(f"The folder {text!r} has no images "
                                f"({', '.join(sorted(EXTENSIONS))}).")  # fmt: skip
        elif path.exists():
            found = [str(path)]
        elif glob.has_magic(text):
            found = sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
            if not found:
                raise UserError(f"Nothing matches {text!r}.")
        else:
            raise UserError(f"There is no file or folder {text!r}.")
        paths += found
    return list(dict.fromkeys(paths))


def check_output(path: Path) -> None:
    """Refuses, before any work, an output file that could not be written."""
    if path.suffix.lower() not in FORMATS:
        raise unknown("output format", path.suffix or path.name, FORMATS)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"Cannot write {path}: {path.parent} is no folder that can be written.")


def write(table: pa.Table, path: Path) -> None:
    """Writes predictions in the format of the path's extension, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        pacsv.write_csv(table, temporary)
    elif suffix == ".parquet":
        pq.write_table(table, temporary)
    else:
        rows = (json.dumps(row, ensure_ascii=False) for row in table.to_pylist())
        temporary.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    os.replace(temporary, path)


def terminal(table: pa.Table) -> str:
    """Predictions as a table for the terminal."""
    from tabulate import tabulate

    classes = [c for c in table.column_names if c.startswith("probability_")]
    classes = classes if len(classes) > 2 else []  # P(fake) says all about two
    masks = "altered_share" in table.column_names
    rows = []
    for row in table.to_pylist():
        if row["error"] is not None:
            rows.append([row["path"], *["-"] * (2 + len(classes) + masks), row["error"]])
        else:
            numbers = [f"{row[c]:.4f}" for c in ("p_fake", *classes)]
            numbers += [f"{row['altered_share']:.1%}"] if masks else []
            verdict = f"unsure ({row['verdict']}?)" if row["unsure"] else row["verdict"]
            rows.append([row["path"], verdict, *numbers, ""])
    headers = [
        "file",
        "verdict",
        "P(fake)",
        *(f"P({c.removeprefix('probability_')})" for c in classes),
        *(["altered"] if masks else []),
        "error",
    ]
    if all(row[-1] == "" for row in rows):
        rows, headers = [row[:-1] for row in rows], headers[:-1]
    return tabulate(rows, headers, disable_numparse=True)


def by_generator(table: pa.Table, column: str = "generator") -> dict[str, pa.Table]:
    """Each generator's fakes with the authentic images filed with it, or with all of them."""
    names = np.array([n or "" for n in table[column].to_pylist()])
    labels = table["label"].to_numpy()
    parts = {}
    for name in sorted(set(names[labels > 0]) - {""}):
        own = names == name
        if not (own & (labels == 0)).any():
            own |= labels == 0
        parts[str(name)] = table.filter(pa.array(own))
    return parts
