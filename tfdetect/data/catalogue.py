"""The catalogue: one Arrow table of every file with label, generator, group and split.

Scanning reads names and sizes. Inspecting reads content (hash, dimensions, a
full decode) in parallel processes. Both are cached, and only files whose size
or time changed are inspected again.
"""

import hashlib
import os
import re
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from tfdetect.data.locate import cache_dir
from tfdetect.errors import UserError
from tfdetect.spec import DatasetSpec

EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif"}
# Images by name that TensorFlow cannot decode: reported, not passed over in silence.
UNSUPPORTED = {".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".psd", ".ico"}
FORMATS = {"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF"}

_CONTENT = ("hash", "width", "height", "format", "error")


@dataclass(frozen=True)
class Catalogue:
    """The resolved table of a dataset's files.

    Attributes:
        name: of the dataset.
        root: folder that `path` is relative to.
        table: columns path, label (int32, 0 authentic), generator, mask, group,
            split, size (bytes), width, height, format, hash.
        skipped: columns path, error: files that are not used, and why.
        warnings: what the user should know, such as unexpected counts.
    """

    name: str
    root: Path
    table: pa.Table
    skipped: pa.Table
    warnings: tuple[str, ...] = ()

    def split(self, name: str) -> pa.Table:
        """The rows of one split, in the order of their paths."""
        return self.table.filter(pc.equal(self.table["split"], name))

    def paths(self, table: pa.Table) -> list[str]:
        """Absolute paths of a table's rows."""
        root = str(self.root)
        return [f"{root}/{path}" for path in table["path"].to_pylist()]

    def fingerprint(self) -> str:
        """Hex digest of every file's path, content, label and split."""
        digest = hashlib.sha256()
        for column in ("path", "hash", "label", "split"):
            digest.update("\n".join(map(str, self.table[column].to_pylist())).encode())
        return digest.hexdigest()[:16]

    def counts(self, classes: list[str] | tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Number of files by split and class name."""
        pairs = Counter(zip(self.table["split"].to_pylist(), self.table["label"].to_pylist()))
        return {
            split: {name: pairs[split, label] for label, name in enumerate(classes)}
            for split in ("train", "validation", "test")
            if any(pairs[split, label] for label in range(len(classes)))
        }


def build_catalogue(spec: DatasetSpec, root: Path, progress: bool = True) -> Catalogue:
    """Scans, inspects and splits a dataset.

    Raises:
        UserError: no file matches, a class is missing, or too many files are
            unreadable.
    """
    root = root.resolve()
    files, skipped = scan(spec, root)
    content = inspect(spec, root, files, progress)
    for column in _CONTENT:
        files = files.append_column(column, content[column])
    bad = pc.is_valid(files["error"])
    skipped = pa.concat_tables([skipped, files.filter(bad).select(["path", "error"])])
    _check_share(
        spec, root, skipped, files.num_rows + skipped.num_rows - files.filter(bad).num_rows
    )
    files = files.filter(pc.invert(bad)).drop_columns(["error", "mtime_ns"])
    files = _assign_splits(spec, files)
    catalogue = Catalogue(spec.name, root, files, skipped, _count_warnings(spec, files, skipped))
    _check_classes(spec, catalogue)
    return catalogue


def scan(spec: DatasetSpec, root: Path) -> tuple[pa.Table, pa.Table]:
    """Lists the files that match the spec's pattern; opens none.

    Returns:
        The files (path, label, generator, mask, group, folder_split, size,
        mtime_ns), sorted by path, and the skipped ones (path, error).
    """
    pattern = re.compile(spec.pattern)
    labels = {f: label for label, c in enumerate(spec.classes) for f in c.folders}
    rows, skipped = [], []
    for path, size, mtime in _walk(str(root)):
        extension = os.path.splitext(path)[1].lower()
        if extension not in EXTENSIONS and extension not in UNSUPPORTED:
            continue
        match = pattern.fullmatch(path)
        if not match:
            continue
        found = match.groupdict()
        if found["klass"] not in labels:
            continue
        if extension in UNSUPPORTED:
            skipped.append((path, f"{extension} is not supported: use JPEG, PNG, WebP, BMP or GIF"))
        elif size == 0:
            skipped.append((path, "empty file"))
        else:
            rows.append(
                (path, labels[found["klass"]], _generator(spec, found.get("generator")), None,
                 found.get("group"), found.get("split"), size, mtime)
            )  # fmt: skip
    if not rows:
        raise UserError(
            f"No images of {spec.name!r} in {root}: expected files like {spec.pattern} with the "
            f"extensions {', '.join(sorted(EXTENSIONS))}."
            + (f" {len(skipped)} files there cannot be used." if skipped else "")
        )
    rows.sort()
    names = ("path", "label", "generator", "mask", "group", "folder_split", "size", "mtime_ns")
    types = (pa.string(), pa.int32(), pa.string(), pa.string(), pa.string(), pa.string(),
             pa.int64(), pa.int64())  # fmt: skip
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows), types)]
    return pa.table(columns, names), _skipped_table(skipped)


def inspect(spec: DatasetSpec, root: Path, files: pa.Table, progress: bool = True) -> pa.Table:
    """Reads every file's content, in parallel; unchanged files come from the cache.

    Returns:
        hash, width, height, format (null where unreadable) and error (null where
        readable), one row a file, in the order of `files`.
    """
    key = hashlib.sha256(f"{root}\n{spec.max_pixels}".encode()).hexdigest()[:16]
    cache = cache_dir() / "catalogues" / f"{spec.name}-{key}.parquet"
    stamps = list(zip(*(files[c].to_pylist() for c in ("path", "size", "mtime_ns"))))
    known = _read_cache(cache)
    todo = [stamp[0] for stamp in stamps if stamp not in known]
    if todo:
        new = _inspect_files(str(root), todo, spec.max_pixels, progress)
        known |= {stamp: new[stamp[0]] for stamp in stamps if stamp[0] in new}
    results = [known[stamp] for stamp in stamps]
    types = (pa.string(), pa.int32(), pa.int32(), pa.string(), pa.string())
    columns = [pa.array(column, kind) for column, kind in zip(zip(*results), types)]
    table = pa.table(columns, list(_CONTENT))
    if todo:
        _write_cache(cache, files.select(["path", "size", "mtime_ns"]), table)
    return table


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
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the limit is max_pixels, checked below
    try:
        with open(path, "rb") as file:
            data = file.read()
        if not data:
            return None, None, None, None, "empty file"
        import io

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is none of our business
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if image.format not in FORMATS:
                    return None, None, None, None, f"{image.format} is not supported"
                if width * height > max_pixels:
                    error = f"{width}x{height} pixels are more than {max_pixels}"
                    return None, None, None, None, error
                image.load()
                kind = "JPEG" if image.format == "MPO" else image.format
        return hashlib.blake2b(data, digest_size=16).hexdigest(), width, height, kind, None
    except Image.UnidentifiedImageError:
        return None, None, None, None, "not an image"
    except Exception as error:  # Pillow's plugins raise many kinds
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        return None, None, None, None, f"damaged: {reason}"


def _inspect_chunk(task: tuple[str, list[str], int]) -> list[tuple]:
    root, paths, max_pixels = task
    return [inspect_file(f"{root}/{path}", max_pixels) for path in paths]


def _inspect_files(root: str, paths: list[str], max_pixels: int, progress: bool) -> dict:
    size = max(1, min(500, len(paths) // 16 or 1))
    tasks = [(root, paths[i : i + size], max_pixels) for i in range(0, len(paths), size)]
    results = {}
    bar = tqdm(total=len(paths), desc="inspecting files", unit=" files",
               disable=None if progress else True,
               delay=1.0)  # fmt: skip
    workers = min(len(tasks), os.cpu_count() or 1)
    with bar:
        if len(paths) < 500:  # not worth the processes
            chunks = map(_inspect_chunk, tasks)
            for (_, names, _), chunk in zip(tasks, chunks):
                results.update(zip(names, chunk))
                bar.update(len(chunk))
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for (_, names, _), chunk in zip(tasks, pool.map(_inspect_chunk, tasks)):
                    results.update(zip(names, chunk))
                    bar.update(len(chunk))
    return results


def _read_cache(path: Path) -> dict[tuple, tuple]:
    try:
        table = pq.read_table(path)
        stamps = zip(*(table[c].to_pylist() for c in ("path", "size", "mtime_ns")))
        return dict(zip(stamps, zip(*(table[c].to_pylist() for c in _CONTENT))))
    except (OSError, KeyError, pa.ArrowInvalid):
        return {}  # none yet, or a broken one: it is only a cache


def _write_cache(path: Path, stamps: pa.Table, content: pa.Table) -> None:
    for column in _CONTENT:
        stamps = stamps.append_column(column, content[column])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(stamps, temporary)
        os.replace(temporary, path)
    except OSError as error:
        warnings.warn(f"The catalogue could not be cached in {path.parent}: {error}", stacklevel=2)


def _generator(spec: DatasetSpec, text: str | None) -> str | None:
    if not text:
        return None
    for piece, name in spec.generators.items():
        if piece in text.lower():
            return name
    return text.strip("/")


def _assign_splits(spec: DatasetSpec, files: pa.Table) -> pa.Table:
    """Adds group and split: from the folder, or carved from train by group."""
    groups = pc.coalesce(files["group"], files["hash"])
    has_folders = bool(spec.splits)
    named = [spec.splits.get(s) if s else "train" for s in files["folder_split"].to_pylist()]
    provided = set(named)
    test_share = 0.0 if has_folders else spec.test_share
    carve_test = test_share if "test" not in provided else 0.0
    carve_validation = 0.0 if "validation" in provided else spec.validation_share
    splits = []
    for split, group in zip(named, groups.to_pylist()):
        if split == "train":
            place = group_fraction(spec.name, group)
            if place < carve_test:
                split = "test"
            elif place < carve_test + carve_validation:
                split = "validation"
        splits.append(split)
    files = files.drop_columns(["group", "folder_split"])
    files = files.append_column("group", groups)
    return files.append_column("split", pa.array(splits, pa.string()))


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


def _check_classes(spec: DatasetSpec, catalogue: Catalogue) -> None:
    counts = catalogue.counts(spec.class_names)
    for split in ("train", "validation"):
        empty = [n for n in spec.class_names if not counts.get(split, {}).get(n)]
        if empty == list(spec.class_names) or (empty and split == "train"):
            raise UserError(
                f"The {split} split of {spec.name!r} has no image of class "
                f"{', '.join(map(repr, empty))} in {catalogue.root}. Counts: {counts}."
            )


def _count_warnings(spec: DatasetSpec, files: pa.Table, skipped: pa.Table) -> tuple[str, ...]:
    """Compares the folders' counts with those the spec expects."""
    messages = []
    if not spec.expected:
        return ()
    labels = {name: label for label, name in enumerate(spec.class_names)}
    pattern = re.compile(spec.pattern)
    found = Counter()
    paths = files["path"].to_pylist() + skipped["path"].to_pylist()
    label_of = {f: i for i, c in enumerate(spec.classes) for f in c.folders}
    for path in paths:
        groups = pattern.fullmatch(path).groupdict()
        found[groups.get("split"), label_of[groups["klass"]]] += 1
    for split, classes in spec.expected.items():
        for name, count in classes.items():
            if (there := found[split, labels[name]]) != count:
                messages.append(
                    f"{spec.name}: {there:,} {name} files in {split}, expected {count:,}"
                )
    return tuple(messages)
