"""Read the catalog of a prepared dataset, whose images are in shards."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tfdetect.core.errors import UserError
from tfdetect.core.journal import Journal
from tfdetect.core.run_info import MaskInfo
from tfdetect.core.spec import SPLITS, DatasetSpec
from tfdetect.data.catalog import Catalog
from tfdetect.data.masks import COVERAGE, DatasetMasks, coverage_by_class
from tfdetect.data.scan_result import SKIPPED_SCHEMA

SHARDS = "shards.jsonl"  # records, bytes and checksum of each shard of a prepared dataset
_PREPARED_COLUMNS = (
    "dataset", "path", "label", "generator", "mask", "group", "split", "size", "width", "height",
    "format", "hash", "shard", "record",
)  # fmt: skip


def read_prepared(spec: DatasetSpec, root: Path, shards: str) -> Catalog:
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
