"""`build_catalog`: scan, inspect and split a dataset, or every part of a union."""

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import same_folders
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import flag_words
from tfdetect.data.catalog import Catalog, compacted
from tfdetect.data.check_catalog import check_unusable
from tfdetect.data.inspection import inspect
from tfdetect.data.masks import read_masks
from tfdetect.data.prepared_catalog import read_prepared
from tfdetect.data.scan import scan
from tfdetect.data.splits import assign_splits, join_copies

_NO_TEST = (
    "no test split, because its folders or its table name splits, and none of them is test. What "
    "is measured on validation is optimistic: epoch, calibration and threshold are chosen on it. "
    "To get a test split, put images that nothing is chosen on into test/, or name no splits at "
    "all: then all three are carved"
)


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
    catalog = replace(catalog, table=compacted(catalog.table), max_pixels=limit)
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
        return read_prepared(spec, root, spec.shards)
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
