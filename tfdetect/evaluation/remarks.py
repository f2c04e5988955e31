"""Remarks on verdicts: frames that were not read, and masks that contradict the verdict."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfdetect.core.columns import Column, Table
from tfdetect.core.run import Run
from tfdetect.evaluation.verdict_words import percent

MANY = 0.01  # fraction of marked pixels from which a mask contradicts a verdict of authentic


def with_remarks(table: Table, run: Run, frames: Sequence[int]) -> Table:
    """Return predictions of files with the columns frames and remarks.

    Args:
        table: one row for each file.
        run: the run that gave the verdicts.
        frames: the number of frames or pages of each file; of any value where it was not read.
    """
    missing = table["p_fake"].absent
    table = table.with_column("frames", Column(np.array(frames, np.int64), missing))
    rows = zip(table.to_pylist(), missing)
    texts = [None if absent else "; ".join(remarks(run, row)) for row, absent in rows]
    return table.with_column("remarks", Column.texts(texts))


def remarks(run: Run, row: Mapping[str, Any]) -> list[str]:
    """Return the remarks on the verdict on an image, in a few words each.

    Args:
        run: the run that gave the verdict.
        row: its prediction; `frames` and `altered_fraction` where they are known.
    """
    found = []
    if (frames := row.get("frames") or 1) > 1:
        found.append(f"first of {frames:,} frames or pages")
    contradiction = mask_contradiction(run, row)
    if contradiction == "marked":
        found.append(f"authentic, but {percent(row['altered_fraction'])} of the pixels are marked")
    if contradiction == "empty":
        found.append(f"{row['verdict']}, but no pixel is marked")
    return found


def mask_contradiction(run: Run, row: Mapping[str, Any]) -> Literal["marked", "empty", ""]:
    """Return how the mask of an image contradicts its verdict, whatever the run's thresholds are.

    Args:
        run: the run that gave the verdict.
        row: its prediction.

    Returns:
        "marked" where the verdict is authentic and many pixels are marked, "empty" where it is fake
        and none is; "" where they agree, the verdict is inconclusive, or no mask is predicted.
    """
    fraction = row.get("altered_fraction")
    if fraction is None or row["inconclusive"]:
        return ""
    if row["verdict"] == run.class_names[0]:
        return "marked" if fraction >= MANY else ""
    return "" if fraction else "empty"


def frames_sentence(row: Mapping[str, Any]) -> list[str]:
    """Return the sentence that only the first frame was classified; [] if there are no others."""
    if (frames := row.get("frames") or 1) < 2:
        return []
    return [
        f"The file has {frames:,} frames or pages, and only the first was classified: the others "
        "may show something else."
    ]
