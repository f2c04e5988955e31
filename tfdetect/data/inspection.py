"""Reads the content of image files: hash, size, format, and whether they decode."""

import hashlib
import io
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.spec import DatasetSpec
from tfdetect.data.locate import cache_dir
from tfdetect.data.parallel import read_all, read_cache, write_cache
from tfdetect.imaging.pillow import knows_heic, opened, upright_rgb

BY_PILLOW = {"TIFF", "AVIF", "HEIF"}  # TensorFlow does not decode them


FORMATS = {"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", *BY_PILLOW}


_CONTENT_SCHEMA = pa.schema([
    ("hash", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("format", pa.string()),
    ("error", pa.string()),
])  # fmt: skip


CONTENT = _CONTENT_SCHEMA.names


def inspect(spec: DatasetSpec, root: Path, files: pa.Table, progress: bool = True) -> pa.Table:
    """Reads every file's content, in parallel; unchanged files come from the cache.

    Returns:
        hash, width, height, format (null where unreadable) and error (null where
        readable), one row a file, in the order of `files`.
    """
    key = hashlib.sha256(f"{root}\n{spec.max_pixels}".encode()).hexdigest()[:16]
    cache = cache_dir() / "catalogs" / f"{spec.name}-{key}.parquet"
    stamps = files.select(["path", "size", "mtime_ns"])
    known = read_cache(cache, pa.schema([*stamps.schema, *_CONTENT_SCHEMA]))
    if known is not None and known.select(stamps.column_names).equals(stamps):
        return known.select(CONTENT)
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
                       [*stamps.column_names, "row", *CONTENT])  # fmt: skip
        old = found.filter(pc.invert(missing)).select(new.column_names)
        found = pa.concat_tables([old, new]).sort_by("row")
    write_cache(cache, found.drop_columns("row").combine_chunks())
    return found.select(CONTENT)


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
