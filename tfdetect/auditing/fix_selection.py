"""Chooses the images, splits and format of a fixed copy of a dataset.

Formats are unified after Grommelt et al., "Fake or JPEG?" (arXiv 2403.17608): images are cropped,
never resized; JPEG images below the common quality are removed; all images are encoded with that
quality.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.auditing.audit_dataset import Audit
from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.spec import SPLITS
from tfdetect.data.splits import carve, classes_of, group_fraction

JPEG_BLOCK = 8  # side in pixels of the blocks that JPEG encodes
_DEFAULT_QUALITY = 96  # of JPEG, if there are few JPEG images
_MIN_JPEG_FRACTION = 0.05  # of all images; a class with fewer JPEG images sets no common quality
_KEPT_FRACTION = 0.9  # of each class's images are at least as large as the common size


@dataclass(frozen=True)
class Selection:
    """The images of a fixed copy, and how they are written if their formats are unified.

    Attributes:
        table: rows of `Audit.traits`, with new splits and groups if the fix "splits" is applied,
            and with the column index, the row's number in `Audit.traits`.
        side: side in pixels of the square that is cropped out of each image; None keeps whole
            images.
        quality: JPEG quality, 1 to 100.
        steps: what was done, one sentence for each fix.
    """

    table: pa.Table
    side: int | None
    quality: int
    steps: tuple[str, ...]


def select_images(audit: Audit, fixes: list[str]) -> Selection:
    """Choose the images and splits of a fixed copy.

    Args:
        audit: the audit of the dataset.
        fixes: names of `FIXES`.

    Raises:
        UserError: a class would lose all of its images.
    """
    table, steps = audit.traits, list[str]()
    side, quality = None, _DEFAULT_QUALITY
    table = table.append_column("index", pa.array(np.arange(table.num_rows)))
    table = table.filter(pc.is_valid(table["pixels"]))  # the readable images
    if "duplicates" in fixes:
        table, removed = _without_duplicates(audit, table)
        steps.append(f"{removed:,} duplicates removed")
    if "splits" in fixes:
        table = _split_again(audit, table)
        steps.append("split again, by group")
    if "formats" in fixes:
        table, side, quality, step = _for_one_format(table)
        steps.append(step)
    if "balance" in fixes:
        table, removed = _balanced(table)
        steps.append(f"{removed:,} removed for balance")
    names = audit.spec.class_names
    left = np.bincount(table["label"].to_numpy(), minlength=len(names))
    if not left.all():
        lost = ", ".join(name for name, count in zip(names, left) if not count)
        raise UserError(
            f"Fixing {audit.spec.name} would leave no image of class {lost}: {'; '.join(steps)}. "
            "Name fewer fixes with --fixes."
        )
    return Selection(table, side, quality, tuple(steps))


def _without_duplicates(audit: Audit, table: pa.Table) -> tuple[pa.Table, int]:
    """Keep one image of each class and group of duplicates.

    Exact duplicates with several labels are all removed. If a group occurs in the test split, its
    images in other splits are removed, so that metrics on the test split stay comparable.

    Returns:
        The remaining rows, and the number of removed ones.
    """
    dropped = np.zeros(audit.traits.num_rows, bool)
    labels = audit.traits["label"].to_numpy()
    in_test = pc.equal(audit.traits["split"].cast(pa.string()), "test").to_numpy()
    for duplicates in (audit.exact, audit.near):
        rows, group = duplicates.rows, duplicates.group
        order = np.lexsort((rows, ~in_test[rows], labels[rows], group))  # test images first
        rows, group = rows[order], group[order]
        repeated = (group[1:] == group[:-1]) & (labels[rows[1:]] == labels[rows[:-1]])
        dropped[rows[1:][repeated]] = True
        group_in_test = np.bincount(group, in_test[rows], duplicates.groups) > 0
        dropped[rows[group_in_test[group] & ~in_test[rows]]] = True
        if duplicates is audit.exact:
            has_label = np.zeros((duplicates.groups, len(audit.spec.class_names)), bool)
            has_label[group, labels[rows]] = True
            dropped[rows[(has_label.sum(1) > 1)[group]]] = True
    return _filtered(table, ~dropped[table["index"].to_numpy()])


def _split_again(audit: Audit, table: pa.Table) -> pa.Table:
    """Split by a stable hash of the group; near duplicates count as one group."""
    groups = table["group"].to_pylist()
    near = np.full(audit.traits.num_rows, -1)
    near[audit.near.rows] = audit.near.group
    merged_group: dict[int, str] = {}  # by number of the group of near duplicates
    for row, number in enumerate(near[table["index"].to_numpy()]):
        if number >= 0:
            groups[row] = merged_group.setdefault(int(number), groups[row])
    names = sorted(set(groups))
    fractions = np.array([group_fraction(audit.spec.name, name) for name in names])
    code_of = {name: code for code, name in enumerate(names)}
    codes, labels = np.array([code_of[g] for g in groups], int), table["label"].to_numpy()
    present = classes_of(codes, labels, len(names), len(audit.spec.classes))
    carved = carve(fractions, audit.spec.test_fraction, audit.spec.validation_fraction, present)
    splits = pc.take(pa.array(SPLITS), pa.array(carved[codes]))
    return with_columns(table, group=pa.array(groups), split=splits)


def _for_one_format(table: pa.Table) -> tuple[pa.Table, int | None, int, str]:
    """Keep the images that can be cropped to one size and encoded again at one JPEG quality.

    The quality is the lowest median quality of a class. The side is the largest multiple of
    `JPEG_BLOCK` that keeps nine tenths of each class.

    Returns:
        The remaining rows, side and quality as in `Selection`, and what was done in a sentence.
    """
    labels = table["label"].to_numpy()
    classes = np.unique(labels)
    is_jpeg = pc.equal(table["format"].cast(pa.string()), "JPEG").to_numpy(zero_copy_only=False)
    quality = pc.fill_null(table["quality"], 100).to_numpy()
    medians = [
        np.median(quality[is_jpeg & (labels == c)]) for c in classes
        if (is_jpeg & (labels == c)).mean() > _MIN_JPEG_FRACTION
    ]  # fmt: skip
    common_quality = round(min(medians)) if medians else _DEFAULT_QUALITY
    keep = ~is_jpeg | (quality >= common_quality)
    width, height = table["width"].to_numpy(), table["height"].to_numpy()
    side = None
    if len(set(zip(width.tolist(), height.tolist()))) > 1:
        shorter = np.minimum(width, height)
        side = int(min(np.quantile(shorter[labels == c], 1 - _KEPT_FRACTION) for c in classes))
        side = max(1, side // JPEG_BLOCK * JPEG_BLOCK or side)
        keep &= shorter >= side
    kept, removed = _filtered(table, keep)
    cropped = f"cropped to {side}x{side} pixels and " if side else ""
    step = (
        f"{removed:,} too small or too compressed images removed, the others {cropped}encoded as "
        f"JPEG of quality {common_quality} without metadata"
    )
    return kept, side, common_quality, step


def _balanced(table: pa.Table) -> tuple[pa.Table, int]:
    """Keep equally many images of each class in each split, drawn by a hash of their content.

    A split without one of the classes is unchanged.

    Returns:
        The remaining rows, and the number of removed ones.
    """
    labels = table["label"].to_numpy()
    splits = table["split"].cast(pa.string()).to_numpy()
    order = np.argsort([group_fraction("balance", h) for h in table["hash"].to_pylist()])
    keep = np.zeros(len(labels), bool)
    for split in SPLITS:
        rows = [order[(labels == c)[order] & (splits == split)[order]] for c in np.unique(labels)]
        fewest = min(map(len, rows))
        for each in rows:
            keep[each[: fewest or None]] = True
    return _filtered(table, keep)


def _filtered(table: pa.Table, keep: np.ndarray) -> tuple[pa.Table, int]:
    """Return the rows to keep, bool [n], and the number of the others."""
    return table.filter(pa.array(keep)), int((~keep).sum())
