"""The catalogue: one Arrow table of every file with label, generator, group and split.

Scanning reads names and sizes. Inspecting reads content (hash, dimensions, a
full decode) in parallel processes. Both are cached, and only files whose size
or time changed are inspected again.
"""

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tfdetect.data.files import read_all, read_cache, write_cache
from tfdetect.data.locate import cache_dir
from tfdetect.errors import UserError
from tfdetect.imaging.pillow import knows_heic, opened, upright_rgb
from tfdetect.spec import SPLITS, DatasetSpec, read_manifest

EXTENSIONS = {
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic",
    ".heif",
}  # fmt: skip
SHARDS = "shards.jsonl"  # what is known of a prepared dataset's shards
# Images by name that nobody here decodes: reported, not passed over in silence.
UNSUPPORTED = {".jp2", ".psd", ".ico", ".jxl", ".dng", ".cr2", ".nef", ".arw"}
BY_PILLOW = {"TIFF", "AVIF", "HEIF"}  # TensorFlow does not decode them
FORMATS = {"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", *BY_PILLOW}

_CONTENT_SCHEMA = pa.schema([
    ("hash", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("format", pa.string()),
    ("error", pa.string()),
])  # fmt: skip
_CONTENT = _CONTENT_SCHEMA.names
TRAIN = SPLITS.index("train")


@dataclass(frozen=True)
class Catalogue:
    """The resolved table of a dataset's files.

    Attributes:
        name: of the dataset.
        roots: folder that `path` and `mask` are relative to, by `dataset`.
        table: sorted by split; columns dataset, path, label (int32, 0 authentic), generator, mask,
            group, split, size (bytes), width, height, format, hash; of a prepared
            dataset also shard (relative to the root) and record (its number there).
        skipped: columns path, error: files that are not used, and why.
        warnings: what the user should know, such as unexpected counts.
    """

    name: str
    roots: dict[str, Path]
    table: pa.Table
    skipped: pa.Table
    warnings: tuple[str, ...] = ()

    def split(self, name: str) -> pa.Table:
        """The rows of one split, or of "all", in the table's order; shares its memory."""
        if name == "all":
            return self.table
        split = self.table["split"].cast(pa.string())
        start = max(0, pc.index(split, name).as_py())
        return self.table.slice(start, pc.sum(pc.equal(split, name)).as_py())

    def paths(self, table: pa.Table, column: str = "path") -> pa.ChunkedArray:
        """Absolute paths of a table's rows, as strings; null where `column` is."""
        roots = pa.array([str(root) for root in self.roots.values()])
        places = pc.index_in(table["dataset"], pa.array(list(self.roots)))
        return pc.binary_join_element_wise(pc.take(roots, places), table[column], "/")

    def fingerprint(self) -> str:
        """Hex digest of every file's path, content, label and split."""
        digest = hashlib.sha256()
        sizes = ["width", "height", "format"] if "shard" in self.table.column_names else []
        for column in ("path", "hash", "label", "split", *sizes):
            separator = ""
            for batch in self.table[column].chunks:  # however it is parted
                if len(batch):
                    text = separator + "\n".join(map(str, batch.to_pylist()))
                    digest.update(text.encode())
                    separator = "\n"
        return digest.hexdigest()[:16]

    def seen(self, split: str) -> dict[str, list]:
        """What a split's images are: generators and formats, most frequent first, and shorter_side
        (its least, median and largest number of pixels).
        """
        table, found = self.split(split), {}
        for column in ("generator", "format"):
            counts = table[column].cast(pa.string()).drop_null().value_counts().to_pylist()
            counts.sort(key=lambda row: -row["counts"])
            found[f"{column}s"] = [row["values"] for row in counts]
        sides = pc.min_element_wise(table["width"], table["height"]).to_numpy()
        if len(sides):
            found["shorter_side"] = [int(f(sides)) for f in (np.min, np.median, np.max)]
        return found

    def counts(self, classes: list[str] | tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Number of files by split and class name."""
        groups = self.table.group_by(["split", "label"]).aggregate([([], "count_all")])
        pairs = {(r["split"], r["label"]): r["count_all"] for r in groups.to_pylist()}
        return {
            split: {name: pairs.get((split, label), 0) for label, name in enumerate(classes)}
            for split in SPLITS
            if any((split, label) in pairs for label in range(len(classes)))
        }


def build_catalogue(spec: DatasetSpec, roots: dict[str, Path], progress: bool = True) -> Catalogue:
    """Scans, inspects and splits a dataset, or every part of a union.

    Args:
        roots: folder of the dataset, or of each part, by its name.

    Raises:
        UserError: no file matches, or too many files are unreadable.
    """
    if spec.parts:
        catalogue = _unite(spec, [_build(part.spec, roots, progress) for part in spec.parts])
    else:
        catalogue = _build(spec, roots, progress)
    catalogue = replace(catalogue, table=_compact(catalogue.table))
    pa.default_memory_pool().release_unused()
    return catalogue


def _build(spec: DatasetSpec, roots: dict[str, Path], progress: bool) -> Catalogue:
    root = roots[spec.name].resolve()
    if spec.shards:
        return _prepared(spec, root)
    files, skipped, counts = scan(spec, root)
    content = inspect(spec, root, files, progress)
    for column in _CONTENT:
        files = files.append_column(column, content[column])
    bad = pc.is_valid(files["error"])
    skipped = pa.concat_tables([skipped, files.filter(bad).select(["path", "error"])])
    _check_share(spec, root, skipped, sum(counts.values()))
    files = files.filter(pc.invert(bad)).drop_columns(["error", "mtime_ns"])
    files = _assign_splits(spec, files)
    names = pa.repeat(pa.scalar(spec.name), files.num_rows).dictionary_encode()
    files = files.add_column(0, "dataset", names.cast(pa.string()))
    return Catalogue(spec.name, {spec.name: root}, files, skipped, _count_warnings(spec, counts))


def _compact(table: pa.Table) -> pa.Table:
    """The rows with those of each split together; texts that repeat are stored once."""
    codes = pc.index_in(table["split"].cast(pa.string()), pa.array(SPLITS)).to_numpy()
    order = None if (np.diff(codes) >= 0).all() else pa.array(np.argsort(codes, kind="stable"))
    names, columns = table.column_names, {}
    shared = table["group"].equals(table["hash"])  # where no group is named
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


def _prepared(spec: DatasetSpec, root: Path) -> Catalogue:
    """The catalogue that `prepare` wrote; checks that every shard is there, in its size."""
    try:
        table = pq.read_table(root / spec.shards)
        lines = (root / SHARDS).read_text().splitlines()
        sizes = {row["shard"]: row["bytes"] for row in map(json.loads, filter(None, lines))}
        skipped = pacsv.read_csv(root / "skipped.csv")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"The prepared dataset {root} cannot be read: {error}") from error
    for shard in pc.unique(table["shard"]).to_pylist():
        path = root / shard
        size = path.stat().st_size if path.is_file() else None
        if size != sizes.get(shard):
            state = "is missing" if size is None else f"has {size:,} bytes, not {sizes[shard]:,}"
            raise UserError(
                f"The shard {path} {state}. The command that prepared the dataset mends it."
            )
    names = [spec.name, *pc.unique(table["dataset"]).to_pylist()]
    skipped = skipped.cast(pa.schema([("path", pa.string()), ("error", pa.string())]))
    return Catalogue(spec.name, dict.fromkeys(names, root), table, skipped)


def _unite(spec: DatasetSpec, catalogues: list[Catalogue]) -> Catalogue:
    """One catalogue of all parts, their labels mapped to the union's classes."""
    tables, skipped = [], []
    for part, found in zip(spec.parts, catalogues):
        labels = [spec.class_names.index(part.classes.get(n, n)) for n in part.spec.class_names]
        column = found.table.column_names.index("label")
        mapped = pc.take(pa.array(labels, pa.int32()), found.table["label"])
        tables.append(found.table.set_column(column, "label", mapped))
        paths = pc.binary_join_element_wise(found.name, found.skipped["path"], "/")
        skipped.append(found.skipped.set_column(0, "path", paths))
    if len({"shard" in table.column_names for table in tables}) > 1:
        raise UserError(
            f"{spec.name} unites prepared datasets with files. Prepare its other parts too, or "
            "the union as a whole: python -m tfdetect.prepare --dataset a+b"
        )
    if len(
        sets := [n for c in catalogues for n in pc.unique(c.table["dataset"]).to_pylist()]
    ) > len(set(sets)):
        raise UserError(f"{spec.name} holds a dataset twice: {', '.join(sorted(sets))}.")
    return Catalogue(
        spec.name,
        {name: root for c in catalogues for name, root in c.roots.items()},
        pa.concat_tables(tables).combine_chunks(),
        pa.concat_tables(skipped),
        tuple(w for c in catalogues for w in c.warnings),
    )


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
    return files.take(order).combine_chunks(), _skipped_table(skipped), counts


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
        if not match or match["klass"] not in labels:
            continue
        found = match.groupdict()
        label = labels[found["klass"]]
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


def inspect(spec: DatasetSpec, root: Path, files: pa.Table, progress: bool = True) -> pa.Table:
    """Reads every file's content, in parallel; unchanged files come from the cache.

    Returns:
        hash, width, height, format (null where unreadable) and error (null where
        readable), one row a file, in the order of `files`.
    """
    key = hashlib.sha256(f"{root}\n{spec.max_pixels}".encode()).hexdigest()[:16]
    cache = cache_dir() / "catalogues" / f"{spec.name}-{key}.parquet"
    stamps = files.select(["path", "size", "mtime_ns"])
    known = read_cache(cache, pa.schema([*stamps.schema, *_CONTENT_SCHEMA]))
    if known is not None and known.select(stamps.column_names).equals(stamps):
        return known.select(_CONTENT)
    row = pa.array(np.arange(files.num_rows))
    found = stamps.append_column("row", row)
    if known is None:
        for field in _CONTENT_SCHEMA:
            found = found.append_column(field, pa.nulls(files.num_rows, field.type))
    else:
        found = found.join(known, ["path", "size", "mtime_ns"]).sort_by("row")
    missing = pc.and_(pc.is_null(found["format"]), pc.is_null(found["error"]))
    todo = found.filter(missing)
    if todo.num_rows:
        new = read_all(
            partial(inspect_file, max_pixels=spec.max_pixels),
            [f"{root}/{path}" for path in todo["path"].to_pylist()],
            _CONTENT_SCHEMA, "inspecting files", progress,
        )  # fmt: skip
        new = pa.table([*todo.select([*stamps.column_names, "row"]).columns, *new.columns],
                       [*stamps.column_names, "row", *_CONTENT])  # fmt: skip
        old = found.filter(pc.invert(missing)).select(new.column_names)
        found = pa.concat_tables([old, new]).sort_by("row")
    write_cache(cache, found.drop_columns("row").combine_chunks())
    return found.select(_CONTENT)


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


def inspect_file(path: str, max_pixels: int) -> tuple:
    """Hash, width, height, format and error of one image file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        return None, None, None, None, error.strerror or type(error).__name__
    return inspect_bytes(data, max_pixels)


def inspect_bytes(data: bytes, max_pixels: int) -> tuple:
    """Hash, width, height, format and error of one encoded image."""
    from PIL import UnidentifiedImageError

    if not data:
        return None, None, None, None, "empty file"
    try:
        with opened(io.BytesIO(data)) as image:
            width, height = image.size
            kind = "JPEG" if image.format == "MPO" else image.format
            if kind not in FORMATS:
                return None, None, None, None, f"{kind} is not supported"
            if width * height > max_pixels:
                error = f"{width}x{height} pixels are more than {max_pixels}"
                return None, None, None, None, error
            image.load()
            if kind in BY_PILLOW:
                upright_rgb(image)
        return hashlib.blake2b(data, digest_size=16).hexdigest(), width, height, kind, None
    except UnidentifiedImageError:
        heic = data[4:11] in (b"ftyphei", b"ftyphev", b"ftypmif") and not knows_heic()
        error = 'HEIC needs pip install "tfdetect[heic]"' if heic else "not an image"
        return None, None, None, None, error
    except Exception as error:  # Pillow's plugins raise many kinds
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        return None, None, None, None, f"damaged: {reason}"


def _generator(spec: DatasetSpec, text: str | None) -> str | None:
    if not text:
        return None
    for piece, name in spec.generators.items():
        if piece in text.lower():
            return name
    return text.strip("/")


def _assign_splits(spec: DatasetSpec, files: pa.Table) -> pa.Table:
    """Adds group and split: from folder or manifest, or carved from train by group."""
    groups = pc.coalesce(files["group"], files["hash"]).combine_chunks().dictionary_encode()
    codes, names = _codes(groups), groups.dictionary
    grouped = files["group"].null_count < files.num_rows
    if grouped:
        names = pa.array(_linked(names.to_pylist(), spec.link, codes, files["hash"]))
        linked = names.dictionary_encode()
        names, codes = linked.dictionary, _codes(linked)[codes]
    texts = files["folder_split"].combine_chunks().dictionary_encode()
    meant = {
        t: spec.splits.get(t, spec.splits.get(t.lower())) for t in texts.dictionary.to_pylist()
    }
    if strange := [text for text, split in meant.items() if split is None]:
        raise UserError(
            f"{spec.name}: the split {strange[0]!r} is none of {', '.join(spec.splits)}."
        )
    numbers = np.array([SPLITS.index(s) for s in (*meant.values(), "train")], np.int8)
    given = numbers[_codes(texts)]  # the last where the text is null
    test = 0.0 if meant else spec.test_share
    validation = 0.0 if "validation" in meant.values() else spec.validation_share
    places = np.fromiter((group_fraction(spec.name, name.as_py()) for name in names), float)
    places[np.bincount(codes[given == TRAIN], minlength=len(names)) == 0] = 2  # nothing to carve
    splits = np.where(given == TRAIN, carve(places, test, validation)[codes], given)
    files = files.drop_columns(["group", "folder_split"])
    group = pc.take(names, pa.array(codes)) if grouped else files["hash"]  # no second copy
    files = files.append_column("group", group)
    return files.append_column("split", pc.take(pa.array(SPLITS), pa.array(splits)))


def fold(catalogue: Catalogue, count: int, number: int) -> Catalogue:
    """The same dataset with another part of train and validation together as validation.

    Args:
        count: number of parts, by a stable hash of the group.
        number: which of them, from 0.
    """
    table = catalogue.table
    groups, names = table["group"].to_pylist(), table["dataset"].to_pylist()
    part = {
        pair: int(count * group_fraction(f"{pair[0]} in folds", pair[1]))
        for pair in set(zip(names, groups))
    }
    splits = [
        "test" if split == "test" else "validation" if part[pair] == number else "train"
        for split, pair in zip(table["split"].to_pylist(), zip(names, groups))
    ]
    table = table.set_column(table.column_names.index("split"), "split", pa.array(splits))
    return replace(catalogue, table=_compact(table))


def carve(places: np.ndarray, test: float, validation: float) -> np.ndarray:
    """The split of each group as an index into `SPLITS`, by its place in [0, 1).

    In a small dataset no group may lie in a split's range; the nearest ones fill it then.
    """
    splits = np.full(len(places), TRAIN, np.int8)
    start = 0.0
    for split, share in (("test", test), ("validation", validation)):
        if not share:
            continue
        free = np.where((splits == TRAIN) & (places < 1), places, 2)
        chosen = free < start + share
        if not chosen.any():
            count = max(1, round(share * len(places)))
            chosen = np.argsort(free)[:count]
        splits[chosen] = SPLITS.index(split)
        start += share
    return splits


def _codes(column: pa.DictionaryArray) -> np.ndarray:
    """Indices into a column's dictionary, -1 where null."""
    return pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)


def _linked(names: list[str], link: str, codes: np.ndarray, hashes: pa.ChunkedArray) -> list[str]:
    """The first name of each group's connected component.

    Groups that share a piece of their names, or a file of the same content, are connected.

    Args:
        names: of the groups.
        link: text between the pieces of a name; empty where names are whole.
        codes: the group of each file, int [n], as an index into `names`.
        hashes: the content of each file, string [n].
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    contents = hashes.combine_chunks().dictionary_encode()
    rows, columns = [codes], [_codes(contents)]
    size = len(contents.dictionary)
    pieces: dict[str, int] = {}
    for group, name in enumerate(names):
        for piece in name.split(link) if link else ():
            rows.append([group])
            columns.append([size + pieces.setdefault(piece, len(pieces))])
    rows, columns = np.concatenate(rows), np.concatenate(columns) + len(names)
    size += len(pieces) + len(names)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), (size, size))
    _, component = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    for name, number in sorted(zip(names, component)):
        first.setdefault(number, name)
    return [first[number] for number in component[: len(names)]]


def group_fraction(name: str, group: str) -> float:
    """A stable number in [0, 1) for a group; adding files moves no old one."""
    digest = hashlib.blake2b(f"{name}\n{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _skipped_table(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {"path": pa.array([r[0] for r in rows], pa.string()),
         "error": pa.array([r[1] for r in rows], pa.string())}
    )  # fmt: skip


def _check_share(spec: DatasetSpec, root: Path, skipped: pa.Table, total: int) -> None:
    bad = skipped.num_rows
    # One or two bad files say nothing about a small dataset, unless they are half of it.
    if bad <= spec.max_bad_share * total or (bad <= 2 and 2 * bad < total):
        return
    examples = "\n".join(f"  {r['path']}: {r['error']}" for r in skipped.slice(0, 5).to_pylist())
    raise UserError(
        f"{bad} of {total} files in {root} cannot be used, more than the allowed share of "
        f"{spec.max_bad_share:.0%} (max_bad_share in the dataset spec):\n{examples}"
    )


def check_trainable(spec: DatasetSpec, catalogue: Catalogue) -> None:
    """Refuses a dataset that lacks a class in train, or has no validation split.

    Raises:
        UserError: it does.
    """
    counts = catalogue.counts(spec.class_names)
    for split in ("train", "validation"):
        empty = [n for n in spec.class_names if not counts.get(split, {}).get(n)]
        if empty == list(spec.class_names) or (empty and split == "train"):
            raise UserError(
                f"The {split} split of {spec.name!r} has no image of class "
                f"{', '.join(map(repr, empty))} in "
                f"{', '.join(map(str, catalogue.roots.values()))}. Counts: {counts}."
            )


def _count_warnings(spec: DatasetSpec, found: Counter) -> tuple[str, ...]:
    """Compares the folders' counts with those the spec expects."""
    labels = {name: label for label, name in enumerate(spec.class_names)}
    return tuple(
        f"{spec.name}: {found[split, labels[name]]:,} {name} files in {split}, expected {count:,}"
        for split, classes in spec.expected.items()
        for name, count in classes.items()
        if found[split, labels[name]] != count
    )
