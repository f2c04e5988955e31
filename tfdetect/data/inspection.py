"""Read image files: content hash, size, format, and whether they can be decoded."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.caches import cache_dir
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import from_os
from tfdetect.data.parallel import ENDED, Paths, read_all, read_cache, write_cache
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.frames import frames_of
from tfdetect.imaging.headers import read_header
from tfdetect.imaging.pillow import read_rgb

_RULES = 2  # to be raised whenever the same file would get another row
_SCHEMA = pa.schema([
    ("hash", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("format", pa.string()),
    ("frames", pa.int32()), ("error", pa.string()),
])  # fmt: skip

Content = tuple[str | None, int | None, int | None, str | None, int | None, str | None]


def inspect(spec: DatasetSpec, root: Path, files: pa.Table, progress: bool) -> pa.Table:
    """Read the content of every file in parallel; unchanged files come from the cache.

    Args:
        spec: the dataset.
        root: folder to which the paths are relative.
        files: columns path, size and mtime_ns.
        progress: whether to show a progress bar.

    Returns:
        Columns hash, width, height, format, frames (null if unreadable) and error (null if
        readable), in the order of `files`.
    """
    rules = f"{_RULES}\n{from_os(root)}\n{spec.max_pixels}"
    key = hashlib.sha256(rules.encode()).hexdigest()[:16]
    cache = cache_dir() / "catalogs" / f"{spec.name}-{key}.parquet"
    stamps = files.select(["path", "size", "mtime_ns"])
    known = read_cache(cache, pa.schema([*stamps.schema, *_SCHEMA]))
    if known is not None and known.select(stamps.column_names).equals(stamps):
        return known.select(_SCHEMA.names)
    found = stamps.append_column("row", pa.array(np.arange(files.num_rows)))
    if known is None:
        for field in _SCHEMA:
            found = found.append_column(field, pa.nulls(files.num_rows, field.type))
    else:
        found = found.join(known, ["path", "size", "mtime_ns"]).sort_by("row")
    missing = pc.and_(pc.is_null(found["format"]), pc.is_null(found["error"]))
    todo = found.filter(missing)
    if todo.num_rows:
        new = read_all(
            partial(inspect_file, max_pixels=spec.max_pixels),
            Paths(pc.binary_join_element_wise(from_os(root), todo["path"], "/")),
            _SCHEMA, "inspecting files", progress,
            _ended,
        )  # fmt: skip
        new = pa.table([*todo.select([*stamps.column_names, "row"]).columns, *new.columns],
                       [*stamps.column_names, "row", *_SCHEMA.names])  # fmt: skip
        old = found.filter(pc.invert(missing)).select(new.column_names)
        found = pa.concat_tables([old, new]).sort_by("row")
    write_cache(cache, found.drop_columns("row").combine_chunks())
    return found.select(_SCHEMA.names)


def inspect_file(path: str, max_pixels: int) -> Content:
    """Return hash, upright width and height, format, frames and error of one image file.

    Args:
        path: the file.
        max_pixels: images with more pixels are an error.
    """
    try:
        return inspect_bytes(read_bytes(path, max_pixels), max_pixels)
    except ImageError as error:
        return _failed(str(error))


def inspect_bytes(data: bytes, max_pixels: int) -> Content:
    """Return the same of one encoded image; see `inspect_file`."""
    try:
        size = read_rgb(data, max_pixels).size
        kind = read_header(data).container.upper()
    except ImageError as error:
        return _failed(str(error))
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return digest, *size, kind, frames_of(data, max_pixels), None


def _ended(path: str) -> Content:
    return _failed(ENDED)


def _failed(error: str) -> Content:
    return None, None, None, None, None, error
