"""What an image file tells beside what it shows: one Arrow row of traits for each file."""

import functools
import hashlib
import io
import os
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.data.catalog import Catalog
from tfdetect.data.locate import cache_dir
from tfdetect.data.parallel import read_all, read_cache, write_cache
from tfdetect.imaging.pillow import opened, upright_rgb

BANDS = 16  # of the radial spectrum, from 0 to half a cycle a pixel
GRAY = 3.0  # mean spread of the channels, in gray levels, below which an image counts as gray
_SPECTRUM = tuple(f"band_{i:02}" for i in range(1, BANDS + 1))

_CACHE = "traits-2"  # another name when the same file gets other traits
# The luminance table of the JPEG standard (ITU T.81, annex K), in natural order: the tables of
# quality q in libjpeg are multiples of it.
_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip


@dataclass(frozen=True)
class Trait:
    """Something that should not tell the label.

    Attributes:
        group: format and size leave traces in the pixels that a detector sees; metadata and
            name do not, and content is what the picture shows.
        columns: of the traits' table.
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
    Trait("colorfulness", "content", ("spread",)),
    Trait("gray image", "content", ("gray",)),
    Trait("radial spectrum", "content", _SPECTRUM),
)

_OF_HEADER = pa.schema([
    ("mode", pa.string()), ("bits", pa.int32()), ("quality", pa.float32()),
    ("tables", pa.string()), ("subsampling", pa.string()), ("progressive", pa.bool_()),
    ("exif", pa.bool_()), ("icc", pa.bool_()), ("software", pa.string()),
])  # fmt: skip
_OF_PIXELS = pa.schema([
    ("pixels", pa.string()), ("phash", pa.uint64()), ("red", pa.float32()),
    ("green", pa.float32()), ("blue", pa.float32()), ("contrast", pa.float32()),
    ("spread", pa.float32()), *((name, pa.float32()) for name in _SPECTRUM),
])  # fmt: skip
_OF_CONTENT = pa.schema([*_OF_HEADER, *_OF_PIXELS])


def read_traits(catalog: Catalog, progress: bool = True) -> pa.Table:
    """The traits of every file of a catalog, in its order.

    Files are read in parallel processes; what was read once of a content is cached.

    Returns:
        The catalog's columns and those that `TRAITS` names, and `pixels` (a hash of the
        decoded pixels) and `phash` (a perceptual hash, uint64). Null where a file broke since.
    """
    table = catalog.table
    key = hashlib.sha256("\n".join(map(str, catalog.roots.values())).encode()).hexdigest()[:16]
    cache = cache_dir() / _CACHE / f"{catalog.name}-{key}.parquet"
    schema = pa.schema([("hash", pa.string()), *_OF_CONTENT])
    known = read_cache(cache, schema)
    known = schema.empty_table() if known is None else known
    missing = pc.invert(pc.is_in(table["hash"], known["hash"].combine_chunks()))
    todo = table.filter(missing)
    if todo.num_rows:
        first = np.unique(todo["hash"].to_numpy(), return_index=True)[1]
        todo = todo.take(pa.array(np.sort(first)))
        paths = catalog.paths(todo).to_pylist()
        found = read_all(_read, paths, _OF_CONTENT, "auditing files", progress)
        found = pa.table([todo["hash"], *found.columns], ["hash", *_OF_CONTENT.names])
        known = pa.concat_tables([known, found]).combine_chunks()
        known = known.filter(pc.is_in(known["hash"], table["hash"].combine_chunks()))
        write_cache(cache, known)
    places = pc.index_in(table["hash"], known["hash"].combine_chunks())
    for name in _OF_CONTENT.names:
        table = table.append_column(name, known[name].take(places))
    return _derived(table)


def read_headers(catalog: Catalog, table: pa.Table) -> pa.Table:
    """Some of a catalog's rows with the traits that need no pixels; reads files' headers."""
    rows = [_read_header(path) for path in catalog.paths(table).to_pylist()]
    for field, values in zip(_OF_HEADER, zip(*rows)):
        table = table.append_column(field, pa.array(values, field.type))
    return name_traits(table)


def _derived(table: pa.Table) -> pa.Table:
    """Adds what follows from a file's name and numbers."""
    area = pc.multiply(*(table[n].cast(pa.float64()) for n in ("width", "height")))
    density = pc.divide(table["size"].cast(pa.float64()), area)
    table = table.append_column("bytes_per_pixel", density)
    return name_traits(table.append_column("gray", pc.less(table["spread"], GRAY)))


def name_traits(table: pa.Table) -> pa.Table:
    """Adds to a catalog's rows what follows from their names and sizes."""
    paths = table["path"].to_pylist()
    stems = [os.path.splitext(path.rpartition("/")[2])[0] for path in paths]
    numbers = [re.search(r"\d+", stem) for stem in stems]
    firsts = [n[0] if n else "" for n in numbers]
    columns = {
        "aspect": pc.divide(table["width"].cast(pa.float64()), table["height"]),
        "extension": pa.array([os.path.splitext(path)[1] for path in paths], pa.string()),
        "name_shape": pa.array([name_shape(stem) for stem in stems], pa.string()),
        "name_number": pa.array([float(n[:15]) if n else None for n in firsts], pa.float64()),
        "name_length": pa.array(list(map(len, stems)), pa.int32()),
        "name_zeros": pa.array([len(n) > 1 and n[0] == "0" for n in firsts], pa.bool_()),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def name_shape(stem: str) -> str:
    """A file name's pattern: runs of letters as a, of digits as 9; the rest as it is."""
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d_]+", "a", stem))[:40]


def jpeg_quality(tables: dict[int, list[int]]) -> tuple[float | None, bool]:
    """The libjpeg quality, 1 to 100, whose luminance table is nearest, and whether it is equal.

    Args:
        tables: quantization tables in natural order, as Pillow gives them.
    """
    if not tables:
        return None, False
    errors = ((_SCALED - np.asarray(tables[min(tables)])) ** 2).sum(1)
    best = int(errors.argmin())
    return float(best + 1), bool(errors[best] == 0)


def _scaled() -> np.ndarray:
    """libjpeg's luminance tables of the qualities 1 to 100, int [100, 64]."""
    q = np.arange(1, 101)[:, None]
    scale = np.where(q < 50, 5000 // q, 200 - 2 * q)
    return np.clip((_LUMINANCE * scale + 50) // 100, 1, 255)


_SCALED = _scaled()


def traits_of(data: bytes) -> tuple:
    """The traits of one encoded image, in the order of the schema.

    Raises:
        Exception: of many kinds, where Pillow cannot decode it.
    """
    with opened(io.BytesIO(data)) as image:
        header = _header(data[:64], image)
        rgb = upright_rgb(image)
    return (*header, *_pixels(rgb))


def _header(start: bytes, image) -> tuple:
    """What an image's header tells, and its first bytes; decodes nothing."""
    from PIL import ExifTags, JpegImagePlugin

    info, quality, tables, sampling = image.info, None, None, None
    exif = image.getexif() if "exif" in info else {}
    if image.format in ("JPEG", "MPO"):
        quality, standard = jpeg_quality(image.quantization)
        digest = hashlib.blake2b(repr(sorted(image.quantization.items())).encode())
        tables = f"libjpeg {quality:.0f}" if standard else digest.hexdigest()[:8]
        code = JpegImagePlugin.get_sampling(image)
        sampling = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(code, "other")
        sampling = "gray" if image.mode == "L" else sampling
    elif image.format == "WEBP":
        tables = "lossless" if b"VP8L" in start else "lossy"
    return (
        image.mode, _bits(start, image), quality, tables, sampling,
        bool(info.get("progressive") or info.get("interlace")), "exif" in info,
        "icc_profile" in info,
        str(exif.get(ExifTags.Base.Software, "") or info.get("Software", ""))[:40] or None,
    )  # fmt: skip


def _pixels(rgb) -> tuple:
    """What the pixels of a Pillow image in RGB tell."""
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


def _bits(start: bytes, image) -> int:
    """Bits a channel, of a PNG from its header: Pillow's mode does not tell."""
    if image.format == "PNG":
        return start[24]
    return 16 if image.mode.startswith("I") else 8


def radial_spectrum(gray: np.ndarray) -> np.ndarray:
    """log10 of the share of power a band, of the largest power of two up to 256 in the center.

    Args:
        gray: float [h, w].

    Returns:
        float [BANDS], from low to high frequencies up to half a cycle a pixel.
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
    """A Hann window, float [side, side], and each frequency's band, int [side, side // 2 + 1]."""
    window = np.hanning(side + 1)[:side]
    vertical, horizontal = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    band = np.minimum(np.hypot(vertical, horizontal) * 2 * BANDS, BANDS).astype(int)
    return window[:, None] * window, band


def _read_header(path: str) -> tuple:
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            file.seek(0)
            with opened(file) as image:
                return _header(start, image)
    except Exception:  # as below
        return (None,) * len(_OF_HEADER)


def _read(path: str) -> tuple:
    try:
        with open(path, "rb") as file:
            return traits_of(file.read())
    except Exception:  # it broke since the catalog was made, or one of Pillow's plugins fails
        return (None,) * len(_OF_CONTENT)
