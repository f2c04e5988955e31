"""Lists the files of a dataset by the pattern or manifest of its spec; opens none."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.errors import UserError
from tfdetect.core.spec import DatasetSpec, read_manifest

EXTENSIONS = {
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic",
    ".heif",
}  # fmt: skip


# Images by name that nobody here decodes: reported, not passed over in silence.
UNSUPPORTED = {".jp2", ".psd", ".ico", ".jxl", ".dng", ".cr2", ".nef", ".arw"}


def scan(spec: DatasetSpec, root: Path) -> tuple[pa.Table, pa.Table, Counter]:
    """Lists the files that match the spec's pattern or stand in its manifest; opens none.

    Returns:
        The files (path, label, generator, mask, group, folder_split, size,
        mtime_ns), sorted by path, the skipped ones (path, error), and the number of
        files, usable or not, by split's text and label.
    """
    rows, skipped, counts = _Rows(), [], Counter()
    candidates = _from_manifest(spec, root) if spec.manifest else _from_pattern(spec, root)
    for path, label, generator, mask, group, split, status in candidates:
        counts[split, label] += 1
        extension = os.path.splitext(path)[1].lower()
        if status is None:
            skipped.append((path, "no such file"))
        elif extension not in EXTENSIONS:
            kind = extension or "a name without extension"
            skipped.append((path, f"{kind} is not supported: use JPEG, PNG, WebP or TIFF"))
        elif status[0] == 0:
            skipped.append((path, "empty file"))
        elif mask and not os.path.exists(os.path.join(root, mask)):
            skipped.append((path, f"its mask {mask} is missing"))
        else:
            rows.append((path, label, generator, mask, group, split, *status))
    files = rows.table()
    if not files.num_rows:
        raise UserError(
            f"No images of {spec.name!r} in {root}: expected "
            + (f"those of {spec.manifest}" if spec.manifest else f"files like {spec.pattern}")
            + f" with the extensions {', '.join(sorted(EXTENSIONS))}."
            + (f" {len(skipped)} files there cannot be used." if skipped else "")
        )
    order = pc.sort_indices(files, [("path", "ascending")])
    return files.take(order).combine_chunks(), skipped_table(skipped), counts


class _Rows:
    """Rows of scanned files, kept as Arrow batches: a million take little memory."""

    SCHEMA = pa.schema([
        ("path", pa.string()), ("label", pa.int32()), ("generator", pa.string()),
        ("mask", pa.string()), ("group", pa.string()), ("folder_split", pa.string()),
        ("size", pa.int64()), ("mtime_ns", pa.int64()),
    ])  # fmt: skip

    def __init__(self):
        self._rows, self._batches = [], []

    def append(self, row: tuple) -> None:
        self._rows.append(row)
        if len(self._rows) == 50_000:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [pa.array(c, f.type) for c, f in zip(zip(*self._rows), self.SCHEMA)]
            self._batches.append(pa.record_batch(columns, schema=self.SCHEMA))
            self._rows = []

    def table(self) -> pa.Table:
        self._flush()
        return pa.Table.from_batches(self._batches, self.SCHEMA)


def _from_pattern(spec: DatasetSpec, root: Path) -> Iterator[tuple]:
    """Yields path, label, generator, mask, group, split and (size, mtime) of matching files."""
    pattern = re.compile(spec.pattern)
    labels = {f: label for label, c in enumerate(spec.classes) for f in c.folders}
    for path, size, mtime in _walk(str(root)):
        extension = os.path.splitext(path)[1].lower()
        if extension not in EXTENSIONS and extension not in UNSUPPORTED:
            continue
        match = pattern.fullmatch(path)
        if not match or match["class"] not in labels:
            continue
        found = match.groupdict()
        label = labels[found["class"]]
        kind = spec.classes[label]
        mask = kind.mask.format(**found) if kind.mask else None
        generator = _generator(spec, found.get("generator")) or kind.generator
        yield path, label, generator, mask, found.get("group"), found.get("split"), (size, mtime)


def _from_manifest(spec: DatasetSpec, root: Path) -> Iterator[tuple]:
    """Yields the same of a manifest's rows; (size, mtime) is None where there is no file."""
    labels = {f: label for label, c in enumerate(spec.classes) for f in c.folders}
    file = root / spec.manifest
    table = read_manifest(file, spec.columns)
    base = os.path.dirname(spec.manifest)

    def place(path: str) -> str:
        """The path from the root, as all others are; manifests may have absolute ones."""
        path = os.path.normpath(os.path.join(base, path))
        return os.path.relpath(path, root) if os.path.isabs(path) else path

    seen = set()
    rows = (row for batch in table.to_batches(10_000) for row in batch.to_pylist())
    for number, row in enumerate(rows, 1):
        path, text = row["path"], row["label"]
        if not path:
            raise UserError(f"{file}, row {number}: no path.")
        if text not in labels:
            raise UserError(
                f"{file}, row {number}: the label {text!r} is none of {', '.join(labels)}."
            )
        path = place(path)
        if path in seen:
            raise UserError(f"{file}, row {number}: {path} stands there twice.")
        seen.add(path)
        label = labels[text]
        # Masks of authentic images mark objects, not alterations.
        mask = row.get("mask") if label else None
        try:
            found = os.stat(os.path.join(root, path))
            status = (found.st_size, found.st_mtime_ns)
        except OSError:
            status = None
        yield (path, label,
               _generator(spec, row.get("generator")) or spec.classes[label].generator,
               place(mask) if mask else None,
               row.get("group"), row.get("split"), status)  # fmt: skip


def _walk(root: str):
    """Yields (path relative to root, size, mtime in ns) of every file below `root`."""
    stack = [""]
    while stack:
        folder = stack.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError as error:
            raise UserError(
                f"Cannot read {os.path.join(root, folder)}: {error.strerror}."
            ) from error
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    stack.append(path)
                elif entry.is_file():
                    status = entry.stat()
                    yield path, status.st_size, status.st_mtime_ns
            except OSError:
                continue  # vanished, or a link to nowhere


def _generator(spec: DatasetSpec, text: str | None) -> str | None:
    if not text:
        return None
    for piece, name in spec.generators.items():
        if piece in text.lower():
            return name
    return text.strip("/")


def skipped_table(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {"path": pa.array([r[0] for r in rows], pa.string()),
         "error": pa.array([r[1] for r in rows], pa.string())}
    )  # fmt: skip
