"""Finds files that several paths lead to, through links, and lets each count once."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tfdetect.core.errors import UserError
from tfdetect.core.spec import DatasetSpec
from tfdetect.data.scan_result import SAME_FILE, Scan


def count_once(spec: DatasetSpec, root: Path, found: Scan) -> None:
    """Let each file that several paths lead to count once in each split.

    Raises:
        UserError: A file is in two classes.
    """
    devices, inodes = (found.files[name].to_numpy() for name in ("device", "inode"))
    found.files = found.files.drop_columns(["device", "inode"])
    _, which, times = np.unique(inodes, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((times[which] > 1) & (inodes > 0))
    if not len(rows):
        return
    table = found.files.select(["path", "label", "folder_split"]).take(pa.array(rows)).to_pylist()
    by_file: dict[tuple[int, int], list[tuple[int, dict]]] = {}
    for number, row in zip(rows.tolist(), table):
        by_file.setdefault((devices[number], inodes[number]), []).append((number, row))
    again: dict[int, str] = {}
    leaks = []
    for same in by_file.values():
        kept: dict[str | None, str] = {}
        for number, row in same:
            first_row = same[0][1]
            if row["label"] != first_row["label"]:
                names = [spec.class_names[r["label"]] for r in (first_row, row)]
                raise UserError(
                    f"{first_row['path']} and {row['path']} in {root} are the same file, in the "
                    f"class {names[0]} and in the class {names[1]}. Remove one of the two links."
                )
            text = row["folder_split"]
            split = spec.splits.get(text, text) if text else None
            if split in kept:
                again[number] = kept[split]
            else:
                kept[split] = row["path"]
        if len(kept) > 1:
            leaks.append(" = ".join(kept.values()))
    if again:
        paths = pa.array([str(found.files["path"][number]) for number in again], pa.string())
        reasons = pa.array([f"{SAME_FILE} {path}" for path in again.values()], pa.string())
        more = pa.table({"path": paths, "reason": reasons})
        found.left_out = pa.concat_tables([found.left_out, more])
        keep = np.ones(found.files.num_rows, bool)
        keep[list(again)] = False
        found.files = found.files.filter(pa.array(keep)).combine_chunks()
        example = f"{paths[0]} is {next(iter(again.values()))}"
        found.warnings.append(
            f"{len(again):,} paths lead through links to files that count already: {example}"
        )
    if leaks:
        found.warnings.append(
            f"several splits have the same files through links: {', '.join(leaks[:3])}"
            + (f" and {len(leaks) - 3:,} more" if len(leaks) > 3 else "")
        )
