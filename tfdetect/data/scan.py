"""List the files of a dataset by the pattern or manifest of its spec, without decoding them."""

import os
import re
import stat
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.errors import UserError
from tfdetect.core.folder_names import contains, is_mask_folder
from tfdetect.core.image_names import IMAGE_SUFFIXES, hint, is_image, suffix_of
from tfdetect.core.manifest import read_manifest, row_number
from tfdetect.core.patterns import PathPattern
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted, from_os, to_os
from tfdetect.core.walk import Walk
from tfdetect.data.collected_files import CollectedFiles
from tfdetect.data.same_files import count_once
from tfdetect.data.scan_result import (
    IN_MASKS,
    IS_MASK,
    LEFT_OUT,
    MASK_FILE,
    OUTSIDE,
    Scan,
)
from tfdetect.data.split_lists import read_split_files

_MASK_NAME = re.compile(r"[^a-zA-Z0-9/](?:masks?|gts?|groundtruths?)\.[^./]*$", re.IGNORECASE)
_NEIGHBORS = (".jpg", ".png", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".JPG", ".PNG")
_BATCH = 10_000  # paths that are matched at a time
_NO_FILES = "links to nowhere, pipes and devices"


def scan(spec: DatasetSpec, root: Path) -> Scan:
    """List the files that match the spec's pattern, and all others; or those of its manifest.

    Args:
        spec: the dataset.
        root: its folder.

    Raises:
        UserError: No file can be used, one file is in two classes, a folder cannot be read, or
            the manifest has a mistake.
    """
    collected = CollectedFiles(os.fspath(root))
    if spec.manifest:
        _from_manifest(spec, root, spec.manifest, collected)
    else:
        _from_pattern(spec, root, collected)
    found = collected.scan()
    if not found.files.num_rows:
        raise UserError(
            f"No images of {spec.name!r} in {root}: expected "
            + (f"those of {spec.manifest}" if spec.manifest else f"paths like {spec.pattern}")
            + f". Found: {_files_found(found)}.{_only_masks(found)}{hint(found.other)}"
        )
    order = pc.sort_indices(found.files, [("path", "ascending")])
    found.files = found.files.take(order).combine_chunks()
    if spec.split_files:
        read_split_files(spec, root, found)
    count_once(spec, root, found)
    _name_masks(found)
    return found


def _only_masks(found: Scan) -> str:
    """Return what to do if there are only images that count as masks for their folder's name."""
    reasons = pc.unique(found.left_out["reason"]).to_pylist()
    if reasons != [IN_MASKS]:
        return ""
    return " If these are the images, rename their folder, or give that folder itself."


def _files_found(found: Scan) -> str:
    """Return how many files there are of each kind, with examples of images that are not used."""
    parts = [counted(found.files.num_rows, "image")]
    for table, column in ((found.skipped, "error"), (found.left_out, "reason")):
        if table.num_rows:
            first = table.slice(0, 1).to_pylist()[0]
            what = "cannot be used" if column == "error" else "left out"
            parts.append(f"{table.num_rows:,} {what} (the first: {first['path']}: {first[column]})")
    parts.append(f"{counted(found.other.total(), 'file')} of other kinds")
    return ", ".join(parts)


class _Status(NamedTuple):
    """Size in bytes, time of the last change in ns, and the numbers that identify a file."""

    size: int
    mtime_ns: int
    device: int
    inode: int


_NO_STATUS = _Status(-1, 0, 0, 0)


def _from_pattern(spec: DatasetSpec, root: Path, collected: CollectedFiles) -> None:
    """Collect all files below the root; those that match the pattern are the dataset's."""
    layout = _Layout(spec, root)
    walk = Walk(root)
    files = iter(walk)
    while batch := list(islice(files, _BATCH)):
        paths, statuses = [], []
        for file in batch:
            if is_image(walk.root, file.path):
                paths.append(from_os(file.path))
                statuses.append(file[1:])
            else:
                collected.add_other(file.path)
        layout.add(paths, statuses, [None] * len(paths), collected)
    walk.check_readable()
    collected.other.update(walk.left_out)
    unusable = {from_os(path): why for path, why in walk.unusable.items()}
    named = [path for path in unusable if suffix_of(path) in IMAGE_SUFFIXES]
    errors: list[str | None] = [unusable[path] for path in named]
    layout.add(named, [_NO_STATUS] * len(named), errors, collected)
    if others := len(unusable) - len(named):
        collected.other[_NO_FILES] += others
    if walk.loops:
        collected.warnings.append(
            "links to a folder above are not followed: "
            f"{', '.join(sorted(map(from_os, walk.loops))[:3])}"
        )


class _Layout:
    """Assigns images to classes by the pattern of a spec, or a reason why they are left out."""

    def __init__(self, spec: DatasetSpec, root: Path):
        self.spec, self.root = spec, os.fspath(root)
        self.pattern = PathPattern(spec.pattern or "")
        self.folders = pa.array([f for c in spec.classes for f in c.folders], pa.string())
        self.labels = pa.array(
            [label for label, c in enumerate(spec.classes) for _ in c.folders], pa.int32()
        )
        self._reasons: dict[str, str | None] = {"": None}  # by folder
        self._mask_suffixes = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"]

    def add(
        self, paths: list[str], statuses: list[tuple], errors: list[str | None],
        collected: CollectedFiles,
    ) -> None:  # fmt: skip
        """Add images to what is collected.

        Args:
            paths: relative to the root.
            statuses: a `_Status` each.
            errors: why images cannot be used, where that is known.
            collected: where to add them.
        """
        if not paths:
            return
        found = self.pattern.extract(paths)
        texts = pc.if_else(found.is_valid(), found.field("class"), pa.scalar(None, pa.string()))
        labels = pc.take(self.labels, pc.index_in(texts, self.folders))
        reasons = self._reasons_of(paths, labels.is_valid().to_pylist())
        if any(reasons):
            left = [n for n, reason in enumerate(reasons) if reason is not None]
            collected.add_left_out(
                [paths[n] for n in left], [errors[n] or reasons[n] or "" for n in left]
            )
            keep = [n for n, reason in enumerate(reasons) if reason is None]
            if not keep:
                return
            paths, statuses = [paths[n] for n in keep], [statuses[n] for n in keep]
            errors = [errors[n] for n in keep]
            found, labels = found.take(pa.array(keep)), labels.take(pa.array(keep))
        columns = [
            pa.array(paths, pa.string()), labels, self._generators(found, labels),
            self._masks(found, labels), self._texts(found, "group"), self._texts(found, "split"),
            *(pa.array(c, f.type) for c, f in zip(zip(*statuses), list(CollectedFiles.NAMED)[6:])),
        ]  # fmt: skip
        collected.add(pa.record_batch(columns, schema=CollectedFiles.NAMED), errors)

    def _reasons_of(self, paths: list[str], matched: list[bool]) -> list[str | None]:
        """Return why images are left out, None for those that are not."""
        reasons: list[str | None] = []
        for path, is_match in zip(paths, matched):
            folder = path[: max(0, path.rfind("/"))]
            reason = self._left_out(folder)
            if reason is None and not is_match:
                in_masks = any(map(is_mask_folder, folder.split("/")))
                reason = IN_MASKS if in_masks else OUTSIDE
            if reason is None and self.spec.leave_out and is_mask_of_neighbor(self.root, path):
                reason = MASK_FILE
            reasons.append(reason)
        return reasons

    def _left_out(self, folder: str) -> str | None:
        """Return why all images of a folder are left out, or None."""
        if not self.spec.leave_out:
            return None
        if folder not in self._reasons:
            above, _, name = folder.rpartition("/")
            reason = self._left_out(above)
            if reason is None and contains(name, self.spec.leave_out):
                reason = IN_MASKS if is_mask_folder(name) else LEFT_OUT
            self._reasons[folder] = reason
        return self._reasons[folder]

    def _texts(self, found: pa.StructArray, group: str) -> pa.Array:
        """Return the texts of one of the pattern's groups, null where it is empty or missing."""
        if group not in self.pattern.groups:
            return pa.nulls(len(found), pa.string())
        text = found.field(group)
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)

    def _generators(self, found: pa.StructArray, labels: pa.Array) -> pa.Array:
        own = pa.array([c.generator for c in self.spec.classes], pa.string()).take(labels)
        texts = self._texts(found, "generator").dictionary_encode()
        names = [_generator(self.spec, text) for text in texts.dictionary.to_pylist()]
        return pc.coalesce(pa.array(names, pa.string()).take(texts.indices), own)

    def _masks(self, found: pa.StructArray, labels: pa.Array) -> pa.Array:
        templates = [c.mask for c in self.spec.classes]
        if not any(templates):
            return pa.nulls(len(found), pa.string())
        rows = zip(found.to_pylist(), labels.to_pylist())
        masks = [t.format(**row) if (t := templates[label]) else None for row, label in rows]
        masks = [self._with_suffix(m) if m and m.endswith(".*") else m for m in masks]
        return pa.array(masks, pa.string())

    def _with_suffix(self, mask: str) -> str:
        """Return the mask that exists for a path that ends in ".*", or the path."""
        base = os.path.join(self.root, to_os(mask[:-2]))
        for suffix in self._mask_suffixes:
            if os.path.exists(base + suffix):
                self._mask_suffixes.remove(suffix)
                self._mask_suffixes.insert(0, suffix)
                return mask[:-2] + suffix
        return mask


def _from_manifest(spec: DatasetSpec, root: Path, manifest: str, collected: CollectedFiles) -> None:
    """Collect the files that the rows of the manifest name; files beside them are not looked at."""
    labels = {f: label for label, c in enumerate(spec.classes) for f in c.folders}
    file = root / manifest
    table = read_manifest(file, spec.columns)
    base = os.path.dirname(manifest)

    def relative(path: str) -> str:
        """Return the path relative to the root; manifests may have absolute paths."""
        path = os.path.normpath(os.path.join(base, path))
        return os.path.relpath(path, root) if os.path.isabs(path) else path

    seen = dict[str, int]()
    rows, errors = list[tuple](), list[str | None]()
    lines = (row for batch in table.to_batches(_BATCH) for row in batch.to_pylist())
    for index, row in enumerate(lines):
        number = row_number(file, index)
        path, text = row["path"], row["label"]
        if not path:
            raise UserError(f"{file}, row {number}: no path.")
        if text not in labels:
            raise UserError(
                f"{file}, row {number}: unknown label {text!r}. Known: {', '.join(labels)}."
            )
        path = relative(path)
        if path in seen:
            raise UserError(
                f"{file}, row {number}: {path} is listed twice, first in row {seen[path]}. Keep "
                "one of these rows."
            )
        seen[path] = number
        label = labels[text]
        mask = row.get("mask")
        generator = _generator(spec, row.get("generator")) or spec.classes[label].generator
        status, error = _status(os.path.join(root, to_os(path)))
        mask = relative(mask) if mask else None
        rows.append((path, label, generator, mask, row.get("group"), row.get("split"), *status))
        errors.append(error)
        if len(rows) == _BATCH:
            collected.add(_batch(rows), errors)
            rows, errors = [], []
    if rows:
        collected.add(_batch(rows), errors)


def _batch(rows: list[tuple]) -> pa.RecordBatch:
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows), CollectedFiles.NAMED)]
    return pa.record_batch(columns, schema=CollectedFiles.NAMED)


def _status(path: str) -> tuple[_Status, str | None]:
    """Return a file's status, and why it cannot be used."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return _NO_STATUS, "no such file"
    if not stat.S_ISREG(found.st_mode):
        is_folder = stat.S_ISDIR(found.st_mode)
        return _NO_STATUS, f"it is {'a folder' if is_folder else 'a pipe or device'}, not a file"
    return _Status(found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino), None


def is_mask_of_neighbor(root: str | Path, path: str) -> bool:
    """Return whether a file is named like a mask of an image next to it: x_mask.png, x.jpg.

    Args:
        root: a folder.
        path: the path of the file below it, as `from_os` makes it.
    """
    if (found := _MASK_NAME.search(path)) is None:
        return False
    base = os.path.join(root, to_os(path[: found.start()]))
    return any(os.path.exists(f"{base}{suffix}") for suffix in _NEIGHBORS)


def _name_masks(found: Scan) -> None:
    """Set the reason of images that are left out because they are masks of other images."""
    masks = pc.unique(found.files["mask"].drop_null())
    if not len(masks) or not found.left_out.num_rows:
        return
    is_mask = pc.is_in(found.left_out["path"], masks)
    reasons = pc.if_else(is_mask, IS_MASK, found.left_out["reason"])
    found.left_out = found.left_out.set_column(1, "reason", reasons)


def _generator(spec: DatasetSpec, text: str | None) -> str | None:
    """Return the generator of a text from a path, by the names of the spec; None without a text."""
    if not text:
        return None
    for piece, name in spec.generators.items():
        if piece in text.lower():
            return name
    return text.strip("/")
