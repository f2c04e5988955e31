"""Predictions as terminal table, CSV, JSON or Parquet, and by generator."""

import importlib.util
import json
from collections.abc import Collection, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdetect.core import console
from tfdetect.core.addresses import address_of
from tfdetect.core.columns import Table
from tfdetect.core.disk import replacing
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.files import check_writable
from tfdetect.core.storage import publish
from tfdetect.core.text import printable, shell_command, with_escapes

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = (".csv", ".jsonl", ".parquet")


def check_output(path: Path, flag: str | None = "--output") -> None:
    """Check that an output file can be written.

    Args:
        path: the file.
        flag: the option that names it; None if there is none.

    Raises:
        UserError: the format is unknown or its package missing, or the directory is missing or
            read-only.
    """
    if path.suffix.lower() not in FORMATS:
        raise unknown("output format", path.suffix or path.name, FORMATS)
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("A .parquet file needs pyarrow: pip install pyarrow. .csv and .jsonl need "
                        "nothing more.")  # fmt: skip
    if not path.parent.is_dir() and address_of(path) is None:
        raise UserError(f"Cannot write {path}: there is no directory {path.parent}.")
    if path.is_dir():
        raise UserError(f"Cannot write {path}: it is a folder. Name a file.")
    check_writable(path.parent, flag)


def kept_splits(run: Path, dataset: str | None) -> set[str]:
    """Return the splits of which an evaluation left predictions in a run; see `read`."""
    return {file.stem for file in _folder(run, dataset).glob("*.parquet")}


def _folder(run: Path, dataset: str | None) -> Path:
    return (run / "evaluations" / dataset if dataset else run) / "predictions"


def read(run: Path, split: str, dataset: str | None = None) -> "pa.Table":
    """Return the predictions that an evaluation left in a run.

    Args:
        run: folder of the run.
        split: the split of the dataset.
        dataset: name of another dataset than the run's own.

    Raises:
        UserError: there are none, or the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = _folder(run, dataset) / f"{split}.parquet"
    command = shell_command("evaluate", run, dataset=dataset or None, split=split)
    way_out = f"Make them with: {command}"
    if not file.is_file():
        what = f"{split}{' of ' + dataset if dataset else ''}"
        raise UserError(f"{run.name} has no predictions of {what}. {way_out}")
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"The predictions {file} cannot be read: {printable(error)}. {way_out}"
        ) from error


def ranks_of(table: "pa.Table") -> np.ndarray:
    """Return the scores by which images are ranked, float [n]; nan for unreadable images.

    These are logits, which do not tie where P(fake) is rounded to 0 or 1; of tables without them,
    as older runs have, P(fake).
    """
    name = "logit" if "logit" in table.column_names else "p_fake"
    return table[name].to_numpy(zero_copy_only=False)


def write(table: Table, path: Path) -> None:
    """Write predictions in the format of the path's extension, whole or not at all."""
    write_all([table], path)


def write_all(tables: Iterable[Table], path: Path) -> None:
    """Write one file of several tables with the same columns, which come one after the other."""
    if address_of(path) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        _write_all(tables, path.suffix.lower(), temporary)
    publish(path)


def _write_all(tables: Iterable[Table], suffix: str, path: Path) -> None:
    if suffix == ".parquet":
        _write_parquet(tables, path)
        return
    as_text = _json_lines if suffix == ".jsonl" else Table.to_csv
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        for number, table in enumerate(tables):
            file.write(as_text(table, number == 0))


def _json_lines(table: Table, first: bool) -> str:
    rows = (
        json.dumps(row | {"path": with_escapes(row["path"])}, ensure_ascii=False)
        for row in table.to_pylist()
    )
    return "".join(row + "\n" for row in rows)


def _write_parquet(tables: Iterable[Table], path: Path) -> None:
    import pyarrow.parquet as pq

    arrow = (table.to_arrow() for table in tables)
    first = next(arrow)
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in chain([first], arrow):
            writer.write_table(table)


def write_parquet(table: "pa.Table", path: Path) -> None:
    """Write an Arrow table, whole or not at all."""
    import pyarrow.parquet as pq

    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def format_predictions(table: Table, authentic: Collection[str]) -> str:
    """Return predictions as a table for the terminal.

    Args:
        table: the predictions.
        authentic: what detectors call their authentic class; people read "authentic".
    """
    probabilities = [c for c in table.column_names if c.startswith("probability_")]
    several = "detector" in table.column_names
    # For two classes P(fake) is enough, and detectors have other classes.
    classes = probabilities if len(probabilities) > 2 and not several else []
    masks = [c for c in ("altered", "copied") if f"{c}_fraction" in table.column_names]
    domain = table["in_domain"].null_count < table.num_rows
    copies = True in table["duplicate_of_train"].to_pylist()
    remarks = "remarks" in table.column_names and any(table["remarks"].to_pylist())
    columns = 2 + len(classes) + len(masks) + domain + copies + several + remarks
    rows = []
    for row in table.to_pylist():
        if row["error"] is not None:
            rows.append([row["path"], *[None] * columns, row["error"]])
            continue
        numbers: list[str | None] = [f"{row[c]:.4f}" for c in ("p_fake", *classes)]
        fractions = [row[f"{c}_fraction"] for c in masks]
        numbers += [None if f is None else f"{f:.1%}" for f in fractions]
        verdict = "authentic" if row["verdict"] in authentic else row["verdict"]
        verdict = "inconclusive" if row["inconclusive"] else verdict
        notes = [_likeness(row)] if domain else []
        notes += ["yes" if row["duplicate_of_train"] else None] if copies else []
        notes += [row["detector"]] if several else []
        notes += [row["remarks"] or None] if remarks else []
        rows.append([row["path"], verdict, *numbers, *notes, None])
    headers = ["file", "verdict", "P(fake)"]
    headers += [f"P({name.removeprefix('probability_')})" for name in classes]
    headers += masks
    headers += (["like training images"] if domain else []) + (["known image"] if copies else [])
    headers += ["detector"] if several else []
    headers += (["remarks"] if remarks else []) + ["error"]
    if all(row[-1] is None for row in rows):
        rows, headers = [row[:-1] for row in rows], headers[:-1]
    return console.format_table(rows, headers, shortened=["file"])


def _likeness(row: dict[str, Any]) -> str | None:
    """Return whether an image is like the training images, and if not in what, for a table."""
    if row["in_domain"] is None:
        return None
    return "yes" if row["in_domain"] else f"no ({row['domain_reasons']})"


def by_generator(table: "pa.Table", column: str = "generator") -> dict[str, "pa.Table"]:
    """Return the images of each generator: its fakes and authentic images to compare them with.

    Args:
        table: the table with the columns label and `column`.
        column: the name of the generator, or null.

    Returns:
        By name, in alphabetical order. Authentic images that carry a generator's name are its
        own; a generator without any is compared with all authentic images.
    """
    import pyarrow as pa

    names = np.array([n or "" for n in table[column].to_pylist()])
    labels, parts = table["label"].to_numpy(), {}
    for name in sorted(set(names[labels > 0]) - {""}):
        own = names == name
        if not (own & (labels == 0)).any():
            own |= labels == 0
        parts[str(name)] = table.filter(pa.array(own))
    return parts


def shares_authentic(part: "pa.Table", column: str = "generator") -> bool:
    """Return whether a part of `by_generator` has authentic images that are not its own alone."""
    names = np.array([name or "" for name in part[column].to_pylist()])
    labels = part["label"].to_numpy()
    return bool((names[labels == 0] != names[labels > 0][0]).any())
