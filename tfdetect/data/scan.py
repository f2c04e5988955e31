"""Lists the files of a dataset by the pattern or manifest of its spec, without opening them."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.errors import UserError
from tfdetect.core.folder_spec import read_manifest
from tfdetect.core.patterns import PathPattern
from tfdetect.core.spec import DatasetSpec

EXTENSIONS = {
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic",
    ".heif",
}  # fmt: skip
# Image formats that are not decoded: their files are reported as skipped.
UNSUPPORTED = {".jp2", ".psd", ".ico", ".jxl", ".dng", ".cr2", ".nef", ".arw"}


def scan(spec: DatasetSpec, root: Path) -> tuple[pa.Table, pa.Table, Counter]:
    """List the files that match the spec's pattern or that its manifest names.

    Args:
        spec: the dataset.
        root: its folder.

    Returns:
        The files, sorted by path (columns path, label, generator, mask, group, folder_split,
        size in bytes, mtime_ns); the skipped files (columns path, error); and the number of
        files, usable or not, by the text of their split and their label.

    Raises:
        UserError: No file can be used, or the manifest has a mistake.
    """
    rows, skipped = _Rows(), list[tuple[str, str]]()
    counts: Counter[tuple[str | None, int]] = Counter()
    if spec.manifest:
        candidates = _from_manifest(spec, root, spec.manifest)
    else:
        candidates = _from_pattern(spec, root)
    for found in candidates:
        counts[found.split, found.label] += 1
        error = _error(found, root)
        if error is None and found.status is not None:
            rows.append((*found[:-1], *found.status))
        else:
            skipped.append((found.path, error or "no such file"))
    files = rows.table()
    if not files.num_rows:
        raise UserError(
            f"No images of {spec.name!r} in {root}: expected "
            + (f"those of {spec.manifest}" if spec.manifest else f"paths like {spec.pattern}")
            + f" with the extensions {', '.join(sorted(EXTENSIONS))}."
            + (f" {len(skipped)} files there cannot be used." if skipped else "")
        )
    order = pc.sort_indices(files, [("path", "ascending")])
    return files.take(order).combine_chunks(), _skipped_table(skipped), counts


class _File(NamedTuple):
    """A file that the pattern or the manifest names.

    Attributes:
        path: path relative to the root.
        label: its class.
        generator: name of its generator, if known.
        mask: path of its mask relative to the root, if it has one.
        group: name of its group, if known.
        split: text of its split, if the folder or the manifest names one.
        status: size in bytes and time of the last change in ns; None if there is no such file.
    """

    path: str
    label: int
    generator: str | None
    mask: str | None
    group: str | None
    split: str | None
    status: tuple[int, int] | None


def _error(file: _File, root: Path) -> str | None:
    """Return why a file cannot be used, as far as can be told without opening it."""
    extension = os.path.splitext(file.path)[1].lower()
    if file.status is None:
        return "no such file"
    if extension not in EXTENSIONS:
        kind = extension or "a name without extension"
        return f"{kind} is not supported: use JPEG, PNG, WebP or TIFF"
    if file.status[0] == 0:
        return "empty file"
    if file.label and file.mask and not os.path.exists(os.path.join(root, file.mask)):
        return f"its mask {file.mask} is missing"
    return None


class _Rows:
    """Rows of scanned files, kept as Arrow batches, so that a million take little memory."""

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


def _from_pattern(spec: DatasetSpec, root: Path) -> Iterator[_File]:
    """Yield the files whose paths match the pattern."""
    pattern = PathPattern(spec.pattern or "")
    labels = {f: label for label, c in enumerate(spec.classes) for f in c.folders}
    files = (
        file for file in _walk(str(root))
        if os.path.splitext(file[0])[1].lower() in EXTENSIONS | UNSUPPORTED
    )  # fmt: skip
    while batch := list(islice(files, 10_000)):
        for (path, size, mtime), found in zip(batch, pattern.match([file[0] for file in batch])):
            if found is None or found["class"] not in labels:
                continue
            label = labels[found["class"]]
            kind = spec.classes[label]
            mask = kind.mask.format(**found) if kind.mask else None
            generator = _generator(spec, found.get("generator")) or kind.generator
            yield _File(path, label, generator, mask, found.get("group") or None,
                        found.get("split") or None, (size, mtime))  # fmt: skip


def _from_manifest(spec: DatasetSpec, root: Path, manifest: str) -> Iterator[_File]:
    """Yield the files that the rows of the manifest name."""
    labels = {f: label for label, c in enumerate(spec.classes) for f in c.folders}
    file = root / manifest
    table = read_manifest(file, spec.columns)
    base = os.path.dirname(manifest)

    def relative(path: str) -> str:
        """Return the path relative to the root; manifests may have absolute paths."""
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
                f"{file}, row {number}: unknown label {text!r}. Known: {', '.join(labels)}."
            )
        path = relative(path)
        if path in seen:
            raise UserError(f"{file}, row {number}: {path} is listed twice.")
        seen.add(path)
        label = labels[text]
        mask = row.get("mask")
        try:
            found = os.stat(os.path.join(root, path))
            status = (found.st_size, found.st_mtime_ns)
        except OSError:
            status = None
        generator = _generator(spec, row.get("generator")) or spec.classes[label].generator
        yield _File(path, label, generator, relative(mask) if mask else None,
                    row.get("group"), row.get("split"), status)  # fmt: skip


def _walk(root: str) -> Iterator[tuple[str, int, int]]:
    """Yield (path relative to root, size, mtime in ns) of every file below `root`."""
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
    """Return the name of the generator that a text means, or None."""
    if not text:
        return None
    for piece, name in spec.generators.items():
        if piece in text.lower():
            return name
    return text.strip("/")


def _skipped_table(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {"path": pa.array([r[0] for r in rows], pa.string()),
         "error": pa.array([r[1] for r in rows], pa.string())}
    )  # fmt: skip
