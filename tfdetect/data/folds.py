"""The folds of a cross-validation on train and validation together."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from tfdetect.core.columns import with_columns
from tfdetect.data.catalog import Catalog, compacted
from tfdetect.data.splits import components, group_fraction


def fold(catalog: Catalog, count: int, number: int) -> Catalog:
    """Return the dataset with one fold of train and validation together as validation.

    Args:
        catalog: the dataset.
        count: number of folds; a stable hash of its group decides which one a file is in. Groups
            of a union that hold identical files are in the fold of the first one.
        number: which fold validates, from 0.
    """
    table = catalog.table
    _, first, which = np.unique(components(table)[0], return_index=True, return_inverse=True)
    rows = table.select(["dataset", "group"]).take(pa.array(first)).to_pylist()
    folds = np.array([
        int(count * group_fraction(f"{row['dataset']} in folds", row["group"])) for row in rows
    ])[which.ravel()]  # fmt: skip
    splits = [
        "test" if split == "test" else "validation" if fold == number else "train"
        for split, fold in zip(table["split"].to_pylist(), folds.tolist())
    ]
    return replace(catalog, table=compacted(with_columns(table, split=pa.array(splits))))
