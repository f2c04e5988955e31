"""`CollectedFiles`: the files of a dataset and their use, collected while a folder is scanned."""

import os
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.image_names import suffix_of
from tfdetect.core.text import to_os
from tfdetect.data.scan_result import IS_MASK, LEFT_OUT_SCHEMA, SKIPPED_SCHEMA, Scan


class CollectedFiles:
    """Collects the files and their use in Arrow batches, so that a million take little memory.

    Attributes:
        root: the folder of the dataset.
        other, counts, warnings: see `Scan`.
    """

    NAMED = pa.schema([
        ("path", pa.string()), ("label", pa.int32()), ("generator", pa.string()),
        ("mask", pa.string()), ("group", pa.string()), ("folder_split", pa.string()),
        ("size", pa.int64()), ("mtime_ns", pa.int64()), ("device", pa.uint64()),
        ("inode", pa.uint64()),
    ])  # fmt: skip

    def __init__(self, root: str):
        self.root = root
        self.other: Counter[str] = Counter()
        self.counts: Counter[tuple[str | None, int]] = Counter()
        self.warnings: list[str] = []
        self._batches: list[tuple[pa.RecordBatch, list[str | None]]] = []
        self._left: list[pa.RecordBatch] = []

    def add(self, named: pa.RecordBatch, errors: list[str | None]) -> None:
        """Add files of the dataset; the masks among them are separated at the end.

        Args:
            named: rows of `NAMED`.
            errors: why files cannot be used, where that is known.
        """
        self._batches.append((named, errors if any(errors) else []))

    def add_left_out(self, paths: list[str], reasons: list[str]) -> None:
        """Add images that are no part of the dataset."""
        columns = [pa.array(paths, pa.string()), pa.array(reasons, pa.string())]
        self._left.append(pa.record_batch(columns, schema=LEFT_OUT_SCHEMA))

    def add_other(self, path: str) -> None:
        """Add a file that is no image."""
        self.other[suffix_of(path) or "no suffix"] += 1

    def scan(self) -> Scan:
        """Return all that was collected, with the masks separated from the images."""
        masks, files, skipped = self._masks(), [], list[pa.RecordBatch]()
        for named, known in self._batches:
            errors = known or [None] * named.num_rows
            if len(masks):
                is_mask = pc.is_in(named["path"], masks)
                paths = named["path"].filter(is_mask).to_pylist()
                self.add_left_out(paths, [IS_MASK] * len(paths))
                errors = [e for e, mask in zip(errors, is_mask.to_pylist()) if not mask]
                named = named.filter(pc.invert(is_mask))
            for row in named.select(["folder_split", "label"]).to_pylist():
                self.counts[row["folder_split"], row["label"]] += 1
            errors = self._errors(named, errors)
            if any(errors):
                good = pa.array([error is None for error in errors])
                bad = named["path"].filter(pc.invert(good))
                columns = [bad, pa.array(filter(None, errors), pa.string())]
                skipped.append(pa.record_batch(columns, schema=SKIPPED_SCHEMA))
                named = named.filter(good)
            files.append(named)
        return Scan(
            pa.Table.from_batches(files, self.NAMED),
            pa.Table.from_batches(skipped, SKIPPED_SCHEMA),
            pa.Table.from_batches(self._left, LEFT_OUT_SCHEMA),
            self.other, self.counts, self.warnings,
        )  # fmt: skip

    def _masks(self) -> pa.Array:
        """Return the files of the dataset that are masks of other images of it."""
        table = pa.Table.from_batches([named for named, _ in self._batches], self.NAMED)
        if table["mask"].null_count == table.num_rows:
            return pa.array([], pa.string())
        of_others = pc.not_equal(table["path"], table["mask"])
        masks = pc.unique(table["mask"].filter(of_others))
        return pc.unique(table["path"].filter(pc.is_in(table["path"], masks)))

    def _errors(self, named: pa.RecordBatch, errors: list[str | None]) -> list[str | None]:
        """Return why files cannot be used, as far as can be told without opening them."""
        empty = pc.equal(named["size"], 0).to_pylist()
        labels, masks = named["label"].to_pylist(), None
        if named["mask"].null_count < named.num_rows:
            masks = named["mask"].to_pylist()
        errors = list(errors)
        for number, known in enumerate(errors):
            if known is not None:
                continue
            if empty[number]:
                errors[number] = "empty file"
            elif (
                masks is not None and (mask := masks[number]) is not None and labels[number]
                and not os.path.exists(os.path.join(self.root, to_os(mask)))
            ):  # fmt: skip
                errors[number] = f"its mask {mask} is missing"
        return errors
