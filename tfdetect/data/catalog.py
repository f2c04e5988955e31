"""`Catalog`: one Arrow table with a row for every file: label, generator, group and split."""

import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.journal import Journal
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.load_spec import same_folders
from tfdetect.core.run_info import MaskInfo, TrainingImages
from tfdetect.core.spec import SPLITS, DatasetSpec
from tfdetect.core.text import counted, flag_words, from_os, to_os
from tfdetect.data.inspection import inspect
from tfdetect.data.masks import COVERAGE, DatasetMasks, coverage_by_class, read_masks
from tfdetect.data.scan import scan
from tfdetect.data.scan_result import LEFT_OUT_SCHEMA, SKIPPED_SCHEMA
from tfdetect.data.splits import (
    Carved,
    assign_splits,
    components,
    group_fraction,
    join_copies,
)
from tfdetect.imaging.mask_coding import STANDARD

_PREPARED_COLUMNS = (
    "dataset", "path", "label", "generator", "mask", "group", "split", "size", "width", "height",
    "format", "hash", "shard", "record",
)  # fmt: skip
_NO_TEST = (
    "no test split, because its folders or its table name splits, and none of them is test. What "
    "is measured on validation is optimistic: epoch, calibration and threshold are chosen on it. "
    "To get a test split, put images that nothing is chosen on into test/, or name no splits at "
    "all: then all three are carved"
)
_BATCH = 65_536  # rows that are held as Python values at once
SHARDS = "shards.jsonl"  # records, bytes and checksum of each shard of a prepared dataset


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
        carved: by `dataset`, what of its splits is carved, not named by folders, by its table or
            by lists. Without those of prepared datasets.
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
        """Return the paths of a table's rows, for functions that open files; "" for null."""
        return [to_os(path or "") for path in self.paths(table, column).to_pylist()]

    def fingerprint(self) -> str:
        """Return a hex digest of every file's path, content, label and split.

        And of how masks are read, where that is not the usual way.
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
        sides = shorter_sides(table)
        return TrainingImages(
            generators=_most_frequent(fakes["generator"]),
            formats=_most_frequent(table["format"]),
            shorter_side=tuple(int(f(sides)) for f in (np.min, np.median, np.max))
            if len(sides) else None,
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


def _most_frequent(column: pa.ChunkedArray) -> tuple[str, ...]:
    """Return the values of a column of text, the most frequent first."""
    counts = column.cast(pa.string()).drop_null().value_counts().to_pylist()
    return tuple(row["values"] for row in sorted(counts, key=lambda row: -row["counts"]))


def build_catalog(
    spec: DatasetSpec,
    roots: dict[str, Path],
    progress: bool,
    keep: Callable[[pa.Table], pa.Array] | None = None,
) -> Catalog:
    """Scan, inspect and split a dataset, or every part of a union.

    Args:
        spec: the dataset.
        roots: folder of the dataset, or of each part, by its name.
        progress: whether to show progress bars.
        keep: says which rows of `Scan.files` are of interest, bool [n]; the others are not read.
            By default all are.

    Raises:
        UserError: No file matches, or too many files are unreadable.
    """
    if spec.parts:
        catalog = _unite(spec, [_build(part.spec, roots, progress, keep) for part in spec.parts])
    else:
        catalog = _build(spec, roots, progress, keep)
    limit = max(each.max_pixels for each in spec.datasets)
    catalog = replace(catalog, table=_compact(catalog.table), max_pixels=limit)
    if catalog.divided and catalog.split("train").num_rows and not catalog.split("test").num_rows:
        hint = "" if spec.parts else _hint_at_shipped(spec, roots[spec.name])
        warning = f"{spec.name}: {_NO_TEST}{hint}"
        catalog = replace(catalog, warnings=(*catalog.warnings, warning))
    pa.default_memory_pool().release_unused()
    return catalog


def _hint_at_shipped(spec: DatasetSpec, root: Path) -> str:
    """Return how to read a folder as the shipped dataset whose folders have the same names."""
    if (found := same_folders(spec)) is None:
        return ""
    name, test = found
    flags = shlex.join(flag_words(dataset=name, data_dir=root))
    return (
        f". Its folders are named as those of {name}, of which {test}/ is test. If it is: {flags}"
    )


def _build(
    spec: DatasetSpec,
    roots: dict[str, Path],
    progress: bool,
    keep: Callable[[pa.Table], pa.Array] | None,
) -> Catalog:
    root = roots[spec.name].resolve()
    if spec.shards:
        return _read_prepared(spec, root, spec.shards)
    found = scan(spec, root)
    files = found.files if keep is None else found.files.filter(keep(found.files))
    content = inspect(spec, root, files, progress)
    for column in content.column_names:
        files = files.append_column(column, content[column])
    total = files.num_rows + found.skipped.num_rows
    bad = pc.is_valid(files["error"])
    skipped = pa.concat_tables([found.skipped, files.filter(bad).select(["path", "error"])])
    files = files.filter(pc.invert(bad)).drop("error")
    files, masks = read_masks(spec, root, files, found.left_out, progress)
    bad = pc.is_valid(files["error"])
    skipped = pa.concat_tables([skipped, files.filter(bad).select(["path", "error"])])
    unusable = {row["path"]: row["error"] for row in skipped.to_pylist()}
    check_unusable(spec, str(root), unusable, total)
    files = files.filter(pc.invert(bad))
    several = pc.sum(pc.greater(files["frames"], 1)).as_py() or 0
    files = files.drop_columns(["error", "mtime_ns", "frames"])
    files, carved = assign_splits(spec, files)
    names = pa.repeat(pa.scalar(spec.name), files.num_rows).dictionary_encode()
    files = files.add_column(0, "dataset", names.cast(pa.string()))
    warnings = (*found.warnings, *_count_warnings(spec, found.counts))
    if masks is not None:
        warnings += tuple(f"{spec.name}: {text}." for text in masks.remarks)
    return Catalog(
        spec.name, {spec.name: root}, files, skipped, warnings=warnings,
        masks={} if masks is None else {spec.name: masks}, left_out=found.left_out,
        other=found.other, carved={spec.name: carved}, several_frames=several,
    )  # fmt: skip


def _compact(table: pa.Table) -> pa.Table:
    """Return the rows with each split together, and with repeated texts stored once."""
    codes = pc.index_in(table["split"].cast(pa.string()), pa.array(SPLITS)).to_numpy()
    order = None if (np.diff(codes) >= 0).all() else pa.array(np.argsort(codes, kind="stable"))
    names, columns = table.column_names, {}
    shared = table["group"].equals(table["hash"])  # so it is if no group is named
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


def _read_prepared(spec: DatasetSpec, root: Path, shards: str) -> Catalog:
    """Return the catalog that `prepare` wrote, and check that every shard has its size."""
    try:
        table = pq.read_table(root / shards)
        journal = Journal(root / SHARDS, "shard", ("bytes",))
        sizes = {name: row["bytes"] for name, row in journal.read().items()}
        skipped = pacsv.read_csv(root / "skipped.csv")
        _check_prepared(spec, table)
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise UserError(f"The prepared dataset {root} cannot be read: {error}.") from error
    for shard in pc.unique(table["shard"]).to_pylist():
        path = root / shard
        size = path.stat().st_size if path.is_file() else None
        if size != sizes.get(shard):
            state = "is missing" if size is None else f"has {size:,} bytes, not {sizes[shard]:,}"
            raise UserError(
                f"The shard {path} {state}. Run the command that prepared the dataset again; "
                "it fixes the shard."
            )
    names = [spec.name, *pc.unique(table["dataset"]).to_pylist()]
    skipped = skipped.cast(SKIPPED_SCHEMA)
    catalog = Catalog(spec.name, dict.fromkeys(names, root), table, skipped)
    if COVERAGE in table.column_names:
        found = coverage_by_class(table, spec.class_names)
        masks = {spec.name: DatasetMasks(MaskInfo(coverage=found))} if found else {}
        return replace(catalog, masks=masks)
    warnings: tuple[str, ...] = ()
    if table["mask"].null_count < table.num_rows:
        warnings = (
            f"{spec.name}: it was prepared by an earlier version, which did not check masks. "
            "Prepare it again.",
        )
    coverage = pa.nulls(table.num_rows, pa.float32())
    return replace(catalog, table=table.append_column(COVERAGE, coverage), warnings=warnings)


def _check_prepared(spec: DatasetSpec, table: pa.Table) -> None:
    """Check the columns of a prepared dataset's catalog.

    Raises:
        ValueError: one is missing, or has values that cannot be.
    """
    if missing := [name for name in _PREPARED_COLUMNS if name not in table.column_names]:
        raise ValueError(f"{spec.shards} has no column {missing[0]}")
    labels = pc.unique(table["label"]).to_pylist()
    if wrong := [label for label in labels if label not in range(len(spec.classes))]:
        raise ValueError(f"{spec.shards} has the label {wrong[0]}, which is no class")
    splits = pc.unique(table["split"].cast(pa.string())).to_pylist()
    if wrong := [split for split in splits if split not in SPLITS]:
        raise ValueError(f"{spec.shards} has the split {wrong[0]!r}")


def _unite(spec: DatasetSpec, catalogs: list[Catalog]) -> Catalog:
    """Return one catalog of all parts, their labels mapped to the union's classes."""
    tables, skipped, left_out = list[pa.Table](), list[pa.Table](), list[pa.Table]()
    for part, found in zip(spec.parts, catalogs):
        labels = [spec.class_names.index(part.classes.get(n, n)) for n in part.spec.class_names]
        mapped = pc.take(pa.array(labels, pa.int32()), found.table["label"])
        tables.append(with_columns(found.table, label=mapped))
        for table, parts in ((found.skipped, skipped), (found.left_out, left_out)):
            paths = pc.binary_join_element_wise(found.name, table["path"], "/")
            parts.append(table.set_column(0, "path", paths))
    if len({"shard" in table.column_names for table in tables}) > 1:
        raise UserError(
            f"{spec.name} combines prepared datasets and files. Prepare its other parts too, or "
            "the union as a whole: python -m tfdetect.prepare --dataset a+b"
        )
    names = [name for c in catalogs for name in pc.unique(c.table["dataset"]).to_pylist()]
    if len(set(names)) < len(names):
        raise UserError(f"{spec.name} contains a dataset twice: {', '.join(sorted(names))}.")
    table, lines = pa.concat_tables(tables).combine_chunks(), list[str]()
    carved = {name: what for c in catalogs for name, what in c.carved.items()}
    if spec.split_rule > 1:
        table, lines = join_copies(table, carved)
    return Catalog(
        spec.name,
        {name: root for c in catalogs for name, root in c.roots.items()},
        table,
        pa.concat_tables(skipped),
        warnings=(*(w for c in catalogs for w in c.warnings), *lines),
        masks={name: masks for c in catalogs for name, masks in c.masks.items()},
        left_out=pa.concat_tables(left_out),
        other=sum((c.other for c in catalogs), Counter()),
        carved=carved,
        several_frames=sum(c.several_frames for c in catalogs),
    )


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
    return replace(catalog, table=_compact(with_columns(table, split=pa.array(splits))))


def check_unusable(spec: DatasetSpec, where: str, unusable: Mapping[str, str], total: int) -> None:
    """Check that not too many images of a dataset cannot be used.

    Args:
        spec: the dataset.
        where: its folder, for the message.
        unusable: why images cannot be used, by their path.
        total: number of images, usable or not.

    Raises:
        UserError: More than the spec's max_unreadable_fraction, and more than two images or at
            least half of them.
    """
    bad = len(unusable)
    # One or two bad files say nothing about a small dataset, unless they are half of it or more.
    if bad <= spec.max_unreadable_fraction * total or (bad <= 2 and 2 * bad < total):
        return
    examples = "\n".join(f"  {path}: {why}" for path, why in islice(unusable.items(), 5))
    raise UserError(
        f"{bad:,} of {counted(total, 'image')} in {where} cannot be used, more than the allowed "
        f"fraction of {spec.max_unreadable_fraction:.0%} (max_unreadable_fraction in the dataset "
        "spec; besides, one of at least three images and two of at least five are allowed):\n"
        f"{examples}"
    )


def counts_text(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return numbers of images by split and class as text."""
    return "; ".join(
        f"{split} {' + '.join(f'{count:,} {name}' for name, count in classes.items())}"
        for split, classes in counts.items()
    )


def changed_counts(
    before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]
) -> str:
    """Return which numbers of images by split and class are others now, as text.

    Returns:
        For example "train 216 real, now 215"; that names or contents changed, where all are equal.
    """
    pairs = {(split, name): None for counts in (before, now)
             for split, classes in counts.items() for name in classes}  # fmt: skip
    changes = []
    for split, name in pairs:
        old, new = (counts.get(split, {}).get(name, 0) for counts in (before, now))
        if old != new:
            changes.append(f"{split} {old:,} {name}, now {new:,}")
    return "; ".join(changes) or "as many images, but other files, labels or splits"


def check_trainable(spec: DatasetSpec, catalog: Catalog, monitor: str = "") -> None:
    """Check that a dataset has every class in train, and a validation split.

    Args:
        spec, catalog: the dataset.
        monitor: the metric that picks the best epoch (`training.monitor`); "auc" needs authentic
            images and fakes in validation. By default it is not checked.

    Raises:
        UserError: It does not.
    """
    counts = catalog.counts(spec.class_names)
    for split in ("train", "validation"):
        empty = [n for n in spec.class_names if not counts.get(split, {}).get(n)]
        if empty == list(spec.class_names) or (empty and split == "train"):
            raise UserError(
                f"The {split} split of {spec.name!r} has no image of class "
                f"{', '.join(map(repr, empty))} in "
                f"{', '.join(map(str, catalog.roots.values()))}. There are: {counts_text(counts)}."
            )
    first, *fakes = (counts["validation"][name] for name in spec.class_names)
    if monitor == "auc" and not (first and any(fakes)):
        raise UserError(
            "training.monitor=auc picks the best epoch by the validation AUC, which is not defined "
            f"here: the validation split of {spec.name!r} has no "
            f"{'fakes' if first else 'authentic images'}. Add some, or pick the epoch by the "
            "log-loss: --set training.monitor=loss"
        )


def _count_warnings(spec: DatasetSpec, found: Counter) -> tuple[str, ...]:
    """Return a warning for each count that is not the one that the spec expects."""
    labels = {name: label for label, name in enumerate(spec.class_names)}
    return tuple(
        f"{spec.name}: expected {count:,} {name} files in {split}, found "
        f"{found[split, labels[name]]:,}"
        for split, classes in spec.expected_counts.items()
        for name, count in classes.items()
        if found[split, labels[name]] != count
    )
