"""Find files that several paths lead to, through links, and count each of them once."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tfdetect.core.errors import UserError
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted, listed
from tfdetect.data.scan_result import SAME_FILE, Scan


def count_once(spec: DatasetSpec, root: Path, found: Scan) -> None:
    """Leave out rows so that each file counts once in each split, however many paths lead to it.

    Raises:
        UserError: A file is in two classes.
    """
    again: dict[int, str] = {}  # rows of further paths, with the path that counts
    leaks = []
    for same in _rows_by_file(found):
        _check_one_class(spec, root, list(same.values()))
        kept: dict[str | None, str] = {}
        for number, row in same.items():
            text = row["folder_split"]
            split = spec.splits.get(text, text) if text else None
            if split in kept:
                again[number] = kept[split]
            else:
                kept[split] = row["path"]
        if len(kept) > 1:
            leaks.append(" = ".join(kept.values()))
    if again:
        _leave_out(found, again)
    if leaks:
        found.warnings.append(f"several splits have the same files through links: {listed(leaks)}")


def _rows_by_file(found: Scan) -> list[dict[int, dict]]:
    """Return, for each file that several paths lead to, its rows by their numbers.

    The columns that identify files are removed from the scan.
    """
    devices, inodes = (found.files[name].to_numpy() for name in ("device", "inode"))
    found.files = found.files.drop_columns(["device", "inode"])
    _, which, times = np.unique(inodes, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((times[which] > 1) & (inodes > 0))
    table = found.files.select(["path", "label", "folder_split"]).take(pa.array(rows)).to_pylist()
    by_file: dict[tuple[int, int], dict[int, dict]] = {}
    for number, row in zip(rows.tolist(), table):
        by_file.setdefault((devices[number], inodes[number]), {})[number] = row
    return list(by_file.values())


def _check_one_class(spec: DatasetSpec, root: Path, rows: list[dict]) -> None:
    """Check that all paths to a file are in the same class.

    Raises:
        UserError: They are not.
    """
    first = rows[0]
    for row in rows:
        if row["label"] != first["label"]:
            names = [spec.class_names[each["label"]] for each in (first, row)]
            raise UserError(
                f"{first['path']} and {row['path']} in {root} are the same file, in the class "
                f"{names[0]} and in the class {names[1]}. Remove one of the two links."
            )


def _leave_out(found: Scan, again: dict[int, str]) -> None:
    """Move rows to the images that are left out.

    Args:
        found: the scan.
        again: for each row, the path to the same file that counts.
    """
    paths = pa.array([str(found.files["path"][number]) for number in again], pa.string())
    reasons = pa.array([f"{SAME_FILE} {path}" for path in again.values()], pa.string())
    more = pa.table({"path": paths, "reason": reasons})
    found.left_out = pa.concat_tables([found.left_out, more])
    keep = np.ones(found.files.num_rows, bool)
    keep[list(again)] = False
    found.files = found.files.filter(pa.array(keep)).combine_chunks()
    example = f"{paths[0]} is {next(iter(again.values()))}"
    found.warnings.append(
        f"{counted(len(again), 'path')} through links to files that count already: {example}"
    )
