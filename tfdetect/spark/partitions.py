"""Divide the items of a job into partitions that take about the same time."""

import numpy as np

MAX_ITEMS = 4_096  # of a partition
MAX_BYTES = 64 * 2**20  # of the files of a partition that has more than one


def divide(sizes: np.ndarray, max_items: int = MAX_ITEMS, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Return the bounds of partitions.

    A partition holds consecutive items. It ends where it has `max_items`, and before a file with
    which it would have more than `max_bytes`. So large files among small ones get partitions of
    their own, and no machine works on one partition long after the others have finished.

    Args:
        sizes: the sizes of the files of the items in bytes, int [n].
        max_items: number of items in a partition, at most.
        max_bytes: the largest size in bytes of a partition with more than one item.

    Returns:
        Ascending indices of items, int64 [partitions + 1], from 0 to n.
    """
    ends = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
    bounds = [0]
    while bounds[-1] < len(sizes):
        start = bounds[-1]
        within = int(np.searchsorted(ends, ends[start] + max_bytes, "right")) - 1
        bounds.append(min(max(within, start + 1), start + max_items, len(sizes)))
    return np.array(bounds, np.int64)
