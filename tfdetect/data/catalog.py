"""`Catalog`: one Arrow table with a row for every file: label, generator, group and split."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.run_info import TrainingImages
from tfdetect.core.spec import SPLITS
from tfdetect.core.text import counted, from_os, to_os
from tfdetect.data.masks import DatasetMasks
from tfdetect.data.scan_result import LEFT_OUT_SCHEMA
from tfdetect.data.splits import Carved, split_numbers
from tfdetect.imaging.mask_coding import STANDARD

_BATCH = 65_536  # rows that are held as Python values at once


@dataclass(frozen=True)
class Catalog:
    """The files of a dataset.

    Attributes:
        name: name of the dataset.
        roots: by `dataset`, the folder to which `path` and `mask` are relative.
        table: rows sorted by split, with the columns dataset, path, label (int32, 0 authentic),
            generator, mask, group, split, size (bytes), width, height, format and hash. A
            prepared dataset also has shard (path relative to the root) and record (number of
            the record in the shard). A mask is null for authentic images and where it is not
            known which pixels of a fake are altered; mask_coverage (float32) is the fraction of
            altered pixels in the image's mask file, null if there is none.
        skipped: images that cannot be used, with the columns path and error.
        warnings: what the user should know, such as unexpected numbers of files.
        masks: by `dataset`, what is known of its masks; without those that have none.
        left_out: images below the roots that are no part of the dataset, with the columns path and
            reason; see `Scan`.
        other: number of files below the roots that are no images, by kind; see `Scan`. For a
            prepared dataset, left_out and other are empty.
        max_pixels: images with more pixels are refused before they are decoded.
        carved: by `dataset`, which of its splits are carved by tfdetect because no folder, table or
            list names them. Prepared datasets are left out.
        several_frames: the number of images whose files have further frames or pages, which are
            not read; 0 for a prepared dataset.
    """

    name: str
    roots: dict[str, Path]
    table: pa.Table
    skipped: pa.Table
    warnings: tuple[str, ...] = ()
    masks: dict[str, DatasetMasks] = field(default_factory=dict)
    left_out: pa.Table = field(default_factory=LEFT_OUT_SCHEMA.empty_table)
    other: Counter[str] = field(default_factory=Counter)
    max_pixels: int = MAX_PIXELS
    carved: dict[str, Carved] = field(default_factory=dict)
    several_frames: int = 0

    def __repr__(self) -> str:
        return (
            f"Catalog({self.name!r}, {counted(self.table.num_rows, 'image')}, "
            f"{self.skipped.num_rows:,} that cannot be used)"
        )

    @property
    def total(self) -> int:
        """Number of all files below the roots; of a prepared dataset, of its images."""
        tables = self.table, self.skipped, self.left_out
        return sum(table.num_rows for table in tables) + self.other.total()

    @property
    def divided(self) -> bool:
        """Whether the dataset, and each part of a union, itself names splits of its images."""
        return Carved.ALL not in self.carved.values()

    def split(self, name: str) -> pa.Table:
        """Return the rows of one split, or of "all"; they share the table's memory."""
        if name == "all":
            return self.table
        split = self.table["split"].cast(pa.string())
        start = max(0, pc.index(split, name).as_py())
        return self.table.slice(start, pc.sum(pc.equal(split, name)).as_py())

    def paths(self, table: pa.Table, column: str = "path") -> pa.ChunkedArray:
        """Return the absolute paths of a table's rows, as `from_os` makes them.

        Null where `column` is.
        """
        roots = pa.array([from_os(root) for root in self.roots.values()])
        numbers = pc.index_in(table["dataset"], pa.array(list(self.roots)))
        return pc.binary_join_element_wise(pc.take(roots, numbers), table[column], "/")

    def files(self, table: pa.Table, column: str = "path") -> list[str]:
        """Return the absolute paths of a table's rows, to open files; "" for null."""
        return [to_os(path or "") for path in self.paths(table, column).to_pylist()]

    def fingerprint(self) -> str:
        """Return a hex digest of the path, content, label and split of every file.

        It also depends on how masks are read, where that is not the usual way.
        """
        digest = hashlib.sha256()
        for name, masks in sorted(self.masks.items()):
            if masks.coding != STANDARD:
                digest.update(f"{name}: {masks.coding}\n".encode())
        sizes = ["width", "height", "format"] if "shard" in self.table.column_names else []
        for column in ("path", "hash", "label", "split", *sizes):
            separator = ""
            for start in range(0, self.table.num_rows, _BATCH):
                batch = self.table[column].slice(start, _BATCH).to_pylist()
                digest.update((separator + "\n".join(map(str, batch))).encode())
                separator = "\n"
        return digest.hexdigest()[:16]

    def training_images(self) -> TrainingImages:
        """Return what kind of images a detector is trained on."""
        table = self.split("train")
        fakes = table.filter(pc.greater(table["label"], 0))
        sides = sorted_sides(table)
        return TrainingImages(
            generators=_most_frequent(fakes["generator"]),
            formats=_most_frequent(table["format"]),
            shorter_side=spread(sides[:, 0]), longer_side=spread(sides[:, 1]),
        )  # fmt: skip

    def describe_masks(self) -> list[str]:
        """Return a line on the masks of each dataset that has any."""
        return [f"Masks of {name}: {masks.describe()}" for name, masks in self.masks.items()]

    def counts(self, classes: list[str] | tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Return the number of files by split and class name."""
        groups = self.table.group_by(["split", "label"]).aggregate([([], "count_all")])
        pairs = {(r["split"], r["label"]): r["count_all"] for r in groups.to_pylist()}
        return {
            split: {name: pairs.get((split, label), 0) for label, name in enumerate(classes)}
            for split in SPLITS
            if any((split, label) in pairs for label in range(len(classes)))
        }


def shorter_sides(rows: pa.Table) -> np.ndarray:
    """Return the shorter side of each image of a catalog in pixels, int [n]."""
    return pc.min_element_wise(rows["width"], rows["height"]).to_numpy()


def sorted_sides(rows: pa.Table) -> np.ndarray:
    """Return the shorter and the longer side of each image of a catalog in pixels, int [n, 2]."""
    longer = pc.max_element_wise(rows["width"], rows["height"]).to_numpy()
    return np.stack([shorter_sides(rows), longer], axis=1)


def spread(sides: np.ndarray) -> tuple[int, int, int] | None:
    """Return the smallest, median and largest of some sides; None without any."""
    if not len(sides):
        return None
    return int(np.min(sides)), int(np.median(sides)), int(np.max(sides))


def _most_frequent(column: pa.ChunkedArray) -> tuple[str, ...]:
    """Return the values of a column of text, the most frequent first."""
    counts = column.cast(pa.string()).drop_null().value_counts().to_pylist()
    return tuple(row["values"] for row in sorted(counts, key=lambda row: -row["counts"]))


def compacted(table: pa.Table) -> pa.Table:
    """Return the rows of a catalog sorted by split, with repeated texts stored once."""
    numbers = split_numbers(table)
    order = None if (np.diff(numbers) >= 0).all() else pa.array(np.argsort(numbers, kind="stable"))
    names, columns = table.column_names, {}
    shared = table["group"].equals(table["hash"])  # if no group is named
    for name in names:  # one by one, so that little is held twice
        column = table[name]
        table = table.drop_columns(name)
        if name == "group" and shared:
            continue
        if name in ("dataset", "generator", "format", "split"):
            column = column.cast(pa.string()).combine_chunks().dictionary_encode()
        columns[name] = column if order is None else column.take(order)
    if shared:
        columns["group"] = columns["hash"]
    return pa.table({name: columns[name] for name in names})


def counts_text(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return numbers of images by split and class as text."""
    return "; ".join(
        f"{split} {' + '.join(f'{count:,} {name}' for name, count in classes.items())}"
        for split, classes in counts.items()
    )


def changed_counts(
    before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]
) -> str:
    """Return which numbers of images by split and class have changed, as text.

    Returns:
        For example "train 216 real, now 215". If all numbers are equal, the text says that names,
        contents, labels or splits changed.
    """
    pairs = {(split, name): None for counts in (before, now)
             for split, classes in counts.items() for name in classes}  # fmt: skip
    changes = []
    for split, name in pairs:
        old, new = (counts.get(split, {}).get(name, 0) for counts in (before, now))
        if old != new:
            changes.append(f"{split} {old:,} {name}, now {new:,}")
    return "; ".join(changes) or "as many images, but other files, labels or splits"
