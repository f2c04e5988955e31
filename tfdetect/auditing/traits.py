"""Reads traits of image files, such as format, size, metadata and color, into an Arrow table."""

import functools
import hashlib
import os
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.caches import cache_dir
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.text import from_os
from tfdetect.data.catalog import Catalog
from tfdetect.data.parallel import Paths, read_all, read_cache, write_cache
from tfdetect.imaging.formats import read_bytes
from tfdetect.imaging.jpeg_tables import jpeg_quality
from tfdetect.imaging.pillow import opened, read_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

BANDS = 16  # of the radial spectrum, from 0 to 0.5 cycles per pixel
MAX_GRAY_COLORFULNESS = 3.0  # mean difference of the channels, in 0..255, of a gray image
_SPECTRUM = tuple(f"band_{i:02}" for i in range(1, BANDS + 1))

_CACHE = "traits-4"  # rename it if a change gives the same file other traits


@dataclass(frozen=True)
class Trait:
    """A property of an image that should not predict its label.

    Attributes:
        name: shown in reports.
        group: "format" and "size" leave traces in the pixels, which a detector sees; "metadata"
            and "name" do not; "content" describes what the image shows.
        columns: columns of the table of traits.
    """

    name: str
    group: str
    columns: tuple[str, ...]


TRAITS = (
    Trait("file format", "format", ("format",)),
    Trait("color mode", "format", ("mode",)),
    Trait("bit depth", "format", ("bits",)),
    Trait("JPEG quality", "format", ("quality",)),
    Trait("JPEG tables", "format", ("tables",)),
    Trait("chroma subsampling", "format", ("subsampling",)),
    Trait("progressive", "format", ("progressive",)),
    Trait("width", "size", ("width",)),
    Trait("height", "size", ("height",)),
    Trait("aspect ratio", "size", ("aspect",)),
    Trait("extension", "metadata", ("extension",)),
    Trait("EXIF", "metadata", ("exif",)),
    Trait("color profile", "metadata", ("icc",)),
    Trait("software tag", "metadata", ("software",)),
    Trait("file name", "name", ("name_shape", "name_number", "name_length", "name_zeros")),
    Trait("bytes per pixel", "content", ("bytes_per_pixel",)),
    Trait("mean color", "content", ("red", "green", "blue")),
    Trait("contrast", "content", ("contrast",)),
    Trait("colorfulness", "content", ("colorfulness",)),
    Trait("gray image", "content", ("gray",)),
    Trait("radial spectrum", "content", _SPECTRUM),
)

_HEADER_SCHEMA = pa.schema([
    ("mode", pa.string()), ("bits", pa.int32()), ("quality", pa.float32()),
    ("tables", pa.string()), ("subsampling", pa.string()), ("progressive", pa.bool_()),
    ("exif", pa.bool_()), ("icc", pa.bool_()), ("software", pa.string()),
])  # fmt: skip
_PIXEL_SCHEMA = pa.schema([
    ("pixels", pa.string()), ("phash", pa.uint64()), ("red", pa.float32()),
    ("green", pa.float32()), ("blue", pa.float32()), ("contrast", pa.float32()),
    ("colorfulness", pa.float32()), *((name, pa.float32()) for name in _SPECTRUM),
])  # fmt: skip
_NAME_SCHEMA = pa.schema([
    ("extension", pa.string()), ("name_shape", pa.string()), ("name_number", pa.float64()),
    ("name_length", pa.int32()), ("name_zeros", pa.bool_()),
])  # fmt: skip
_PATH_BATCH = 65_536  # paths that are Python strings at once
_FILE_SCHEMA = pa.schema([*_HEADER_SCHEMA, *_PIXEL_SCHEMA])


def read_traits(catalog: Catalog, progress: bool) -> pa.Table:
    """Read the traits of every file of a catalog, in its order.

    Files are read in parallel processes; results are cached by the files' content.

    Args:
        catalog: the files.
        progress: whether to show progress.

    Returns:
        The catalog's columns, the columns that `TRAITS` names, `pixels` (a hash of the decoded
        pixels) and `phash` (a perceptual hash, uint64). Null where a file became unreadable.
    """
    table = catalog.table
    key = hashlib.sha256("\n".join(map(from_os, catalog.roots.values())).encode()).hexdigest()[:16]
    cache = cache_dir() / _CACHE / f"{catalog.name}-{key}.parquet"
    schema = pa.schema([("hash", pa.string()), *_FILE_SCHEMA])
    known = read_cache(cache, schema)
    known = schema.empty_table() if known is None else known
    missing = pc.invert(pc.is_in(table["hash"], known["hash"].combine_chunks()))
    todo = table.select(["dataset", "path", "hash"]).filter(missing)
    if todo.num_rows:
        codes = todo["hash"].combine_chunks().dictionary_encode().indices.to_numpy()
        first = np.unique(codes, return_index=True)[1]
        todo = todo.take(pa.array(np.sort(first)))
        paths = Paths(catalog.paths(todo))
        read = partial(_read_file, max_pixels=catalog.max_pixels)
        found = read_all(read, paths, _FILE_SCHEMA, "reading image traits", progress, _unreadable)
        found = pa.table([todo["hash"], *found.columns], schema)
        if known.num_rows:
            known = known.filter(pc.is_in(known["hash"], table["hash"].combine_chunks()))
            found = pa.concat_tables([known, found]).combine_chunks()
        known = found
        write_cache(cache, known)
    positions = pc.index_in(table["hash"], known["hash"].combine_chunks())
    in_order = np.array_equal(positions.to_numpy(), np.arange(known.num_rows))
    for name in _FILE_SCHEMA.names:
        column = known[name] if in_order else known[name].take(positions)
        table = table.append_column(name, column)
    return add_derived_traits(table)


def _unreadable(path: str) -> tuple:
    """Return the traits, all None, of a file that ends the process that reads it."""
    return (None,) * len(_FILE_SCHEMA)


def read_headers(catalog: Catalog, table: pa.Table) -> pa.Table:
    """Add the traits of file headers and file names to rows of a catalog; decodes no pixels."""
    rows = [_read_header(path, catalog.max_pixels) for path in catalog.files(table)]
    for field, values in zip(_HEADER_SCHEMA, zip(*rows)):
        table = table.append_column(field, pa.array(values, field.type))
    return add_name_traits(table)


def add_derived_traits(table: pa.Table) -> pa.Table:
    """Add the traits that are computed from other columns and from file names."""
    area = pc.multiply(*(table[n].cast(pa.float64()) for n in ("width", "height")))
    density = pc.divide(table["size"].cast(pa.float64()), area)
    table = table.append_column("bytes_per_pixel", density)
    return add_name_traits(
        table.append_column("gray", pc.less(table["colorfulness"], MAX_GRAY_COLORFULNESS))
    )


def add_name_traits(table: pa.Table) -> pa.Table:
    """Add the traits of file names and the aspect ratio to a catalog's rows."""
    names = [
        _name_traits(table["path"].slice(start, _PATH_BATCH).to_pylist())
        for start in range(0, table.num_rows, _PATH_BATCH)
    ]
    columns = {"aspect": pc.divide(table["width"].cast(pa.float64()), table["height"])}
    name_traits = pa.Table.from_batches(names, _NAME_SCHEMA)
    columns |= zip(name_traits.column_names, name_traits.columns)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _name_traits(paths: list[str]) -> pa.RecordBatch:
    """Return the traits of file names."""
    stems = [os.path.splitext(path.rpartition("/")[2])[0] for path in paths]
    numbers = [re.search(r"\d+", stem) for stem in stems]
    firsts = [n[0] if n else "" for n in numbers]
    columns = [
        [os.path.splitext(path)[1] for path in paths],
        list(map(name_shape, stems)),
        [float(n[:15]) if n else None for n in firsts],
        list(map(len, stems)),
        [len(n) > 1 and n[0] == "0" for n in firsts],
    ]
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, _NAME_SCHEMA)],
                           schema=_NAME_SCHEMA)  # fmt: skip


def name_shape(stem: str) -> str:
    """Return a file name's pattern: words become "a", numbers "9", the rest is unchanged."""
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d_]+", "a", stem))[:40]


def image_traits(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple:
    """Return the traits of one encoded image, in the order of the schema.

    Raises:
        Exception: Pillow cannot decode the image; its plugins raise many kinds.
    """
    with opened(data, max_pixels) as image:
        header = _header_traits(data[:64], image)
    return (*header, *_pixel_traits(read_rgb(data, max_pixels)))


def _header_traits(start: bytes, image: "Image") -> tuple:
    """Return the traits of an opened image's header; decodes nothing.

    Args:
        start: the first 64 bytes of the file.
        image: a Pillow image.
    """
    from PIL import ExifTags, JpegImagePlugin

    info, quality, tables, sampling = image.info, None, None, None
    exif = image.getexif() if "exif" in info else {}
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        quality, standard = jpeg_quality(image.quantization)
        digest = hashlib.blake2b(repr(sorted(image.quantization.items())).encode())
        tables = f"libjpeg {quality:.0f}" if standard else digest.hexdigest()[:8]
        code = JpegImagePlugin.get_sampling(image)
        sampling = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(code, "other")
        sampling = "gray" if image.mode == "L" else sampling
    elif image.format == "WEBP":
        tables = "lossless" if b"VP8L" in start else "lossy"
    return (
        image.mode, _bit_depth(start, image), quality, tables, sampling,
        bool(info.get("progressive") or info.get("interlace")), "exif" in info,
        "icc_profile" in info,
        str(exif.get(ExifTags.Base.Software, "") or info.get("Software", ""))[:40] or None,
    )  # fmt: skip


def _pixel_traits(rgb: "Image") -> tuple:
    """Return the traits of the pixels of a Pillow image in RGB."""
    import imagehash

    digest = hashlib.blake2b(repr(rgb.size).encode(), digest_size=16)
    digest.update(rgb.tobytes())
    small = rgb.reduce(max(1, min(rgb.size) // 256))
    array = np.asarray(small, np.float32)
    phash = int(np.packbits(imagehash.phash(small).hash.ravel()).view(">u8")[0])
    return (
        digest.hexdigest(), phash, *map(float, array.mean((0, 1))),
        float(array.mean(2).std()), float((array.max(2) - array.min(2)).mean()),
        *map(float, radial_spectrum(np.asarray(rgb.convert("L"), np.float32))),
    )  # fmt: skip


def _bit_depth(start: bytes, image: "Image") -> int:
    """Return the bits per channel; of a PNG from its header, as Pillow's mode does not say."""
    if image.format == "PNG":
        return start[24]
    return 16 if image.mode.startswith("I") else 8


def radial_spectrum(gray: np.ndarray) -> np.ndarray:
    """Return the radial power spectrum of an image's center.

    The center is a square whose side is the largest power of two that fits, at most 256.

    Args:
        gray: float [h, w].

    Returns:
        float [BANDS], log10 of each band's fraction of the power, from low to high frequencies up
        to 0.5 cycles per pixel.
    """
    side = 1 << min(8, int(min(gray.shape)).bit_length() - 1)
    y, x = (gray.shape[0] - side) // 2, (gray.shape[1] - side) // 2
    patch = gray[y : y + side, x : x + side]
    window, band = _rings(side)
    power = np.abs(np.fft.rfft2((patch - patch.mean()) * window)) ** 2
    sums = np.bincount(band.ravel(), power.ravel(), BANDS + 1)[:BANDS]
    return np.log10((sums + 1e-9) / (sums.sum() + 1e-6))


@functools.cache
def _rings(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a Hann window, float [side, side], and the band of each frequency, int."""
    window = np.hanning(side + 1)[:side]
    vertical, horizontal = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    band = np.minimum(np.hypot(vertical, horizontal) * 2 * BANDS, BANDS).astype(int)
    return window[:, None] * window, band


def _read_header(path: str, max_pixels: int) -> tuple:
    """Return the header traits of a file, all None if it cannot be read."""
    try:
        data = read_bytes(path, max_pixels)
        with opened(data, max_pixels) as image:
            return _header_traits(data[:64], image)
    except Exception:  # see `_read_file`
        return (None,) * len(_HEADER_SCHEMA)


def _read_file(path: str, max_pixels: int) -> tuple:
    """Return all traits of a file, all None if it cannot be read."""
    try:
        return image_traits(read_bytes(path, max_pixels), max_pixels)
    except Exception:  # broken since the catalog was built; Pillow's plugins raise many kinds
        return (None,) * len(_FILE_SCHEMA)
