"""Measure mask files: their coverage, and their size compared with their images; with a cache."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.caches import cache_dir
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import to_os
from tfdetect.data.parallel import ENDED, read_all, read_cache, write_cache
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.headers import read_header
from tfdetect.imaging.mask_coding import (
    Detection,
    MaskCoding,
    MaskError,
    MaskSurvey,
    altered_pixels,
    detect_coding,
    survey_mask,
    values_of,
)
from tfdetect.imaging.pillow import opened

_SURVEYED = 256  # masks whose values decide on the coding
_MAX_ASPECT_DIFFERENCE = 0.02  # of a mask's shape from its image's

_STAMPS = pa.schema([
    ("mask", pa.string()), ("mask_size", pa.int64()), ("mask_mtime_ns", pa.int64()),
    ("width", pa.int32()), ("height", pa.int32()), ("mtime_ns", pa.int64()),
])  # fmt: skip
_MEASURED = pa.schema([
    ("coverage", pa.float32()), ("highest", pa.int32()), ("resized", pa.bool_()),
    ("turned", pa.bool_()), ("error", pa.string()),
])  # fmt: skip
_CACHED = pa.schema([*_STAMPS, *_MEASURED])
_DETECTION = b"tfdetect_mask_detection"  # of the cache's schema: the detection, as JSON


class MeasuredMasks(NamedTuple):
    """The masks of the images that name one, an array [m] each.

    Attributes:
        labels: int, of the images.
        paths: str.
        errors: str, why masks cannot be used; None where they can.
        failed: bool, whether there is such a reason.
        coverage: fraction of altered pixels; nan where it failed.
        highest: largest value.
        resized: bool, whether the mask has another size than its image, and the same shape.
        turned: bool, whether the image names an EXIF orientation and the mask does not.
    """

    labels: np.ndarray
    paths: np.ndarray
    errors: np.ndarray
    failed: np.ndarray
    coverage: np.ndarray
    highest: np.ndarray
    resized: np.ndarray
    turned: np.ndarray

    @classmethod
    def of(cls, masked: pa.Table, measured: pa.Table) -> "MeasuredMasks":
        """Return the columns of images, and the `_MEASURED` ones of their masks."""
        errors = measured["error"].to_numpy(zero_copy_only=False)
        failed = np.array([error is not None for error in errors])
        flags = (pc.fill_null(measured[name], False) for name in ("resized", "turned"))
        return cls(
            masked["label"].to_numpy(), masked["mask"].to_numpy(zero_copy_only=False), errors,
            failed, np.where(failed, np.nan, measured["coverage"].to_numpy()),
            measured["highest"].to_numpy(),
            *(flag.to_numpy(zero_copy_only=False) & ~failed for flag in flags),
        )  # fmt: skip


def measure_masks(
    spec: DatasetSpec, root: Path, masked: pa.Table, progress: bool
) -> tuple[MeasuredMasks, Detection]:
    """Read the mask of each image; unchanged masks come from the cache.

    Args:
        spec: the dataset.
        root: folder to which the paths are relative.
        masked: images with a mask, at least one, with the columns label, path, mask, width,
            height, format and mtime_ns.
        progress: whether to show a progress bar.

    Returns:
        What was measured, and how the masks are coded.
    """
    stamps = _stamp(root, masked)
    given = spec.mask_channel, spec.mask_values, bool(spec.mask_inverted)
    read_as = f"{root}\n{spec.max_pixels}\n{given}".encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(read_as).hexdigest()[:16]
    cache = cache_dir() / "catalogs" / f"{spec.name}-{digest}.masks.parquet"
    known = read_cache(cache, _CACHED)
    before = _detection_of(known)
    if known is not None and before and known.select(_STAMPS.names).equals(stamps):
        return MeasuredMasks.of(masked, known), before
    detection = detect_coding(_survey_some(root, stamps, spec.max_pixels), *given)
    if known is None or before is None or before.coding != detection.coding:
        known = _CACHED.empty_table()
    # Each row of the cache by its stamp; a mask may belong to several images.
    row_of = dict(zip(_keys(known), range(known.num_rows)))
    cached = np.array([row_of.get(key, -1) for key in _keys(stamps)])
    kept, todo = np.flatnonzero(cached >= 0), np.flatnonzero(cached < 0)
    columns = (stamps["mask"], masked["path"], masked["width"], masked["height"], masked["format"])
    items = list(zip(*(column.take(pa.array(todo)).to_pylist() for column in columns)))
    items = [(f"{root}/{mask}", f"{root}/{path}", *rest) for mask, path, *rest in items]
    new = read_all(
        partial(measure_mask, coding=detection.coding, max_pixels=spec.max_pixels), items,
        _MEASURED, "reading masks", progress, _ended,
    )  # fmt: skip
    old = known.select(_MEASURED.names).take(pa.array(cached[kept]))
    order = np.argsort(np.concatenate([kept, todo]))
    measured = pa.concat_tables([old, new.cast(_MEASURED)]).take(pa.array(order)).combine_chunks()
    result = pa.table([*stamps.columns, *measured.columns], _CACHED)
    write_cache(cache, result.replace_schema_metadata({_DETECTION: json.dumps(asdict(detection))}))
    return MeasuredMasks.of(masked, measured), detection


def _stamp(root: Path, masked: pa.Table) -> pa.Table:
    """Return the `_STAMPS` of each row; size and time are null where there is no mask file."""
    sizes: list[int | None] = []
    times: list[int | None] = []
    for mask in masked["mask"].to_pylist():
        try:
            status = os.stat(f"{root}/{to_os(mask)}")
            sizes.append(status.st_size)
            times.append(status.st_mtime_ns)
        except OSError:
            sizes.append(None)
            times.append(None)
    columns = [masked["mask"], pa.array(sizes, pa.int64()), pa.array(times, pa.int64()),
               masked["width"], masked["height"], masked["mtime_ns"]]  # fmt: skip
    return pa.table(columns, _STAMPS).combine_chunks()


def _keys(table: pa.Table) -> Iterator[tuple]:
    return zip(*(table[name].to_pylist() for name in _STAMPS.names))


def _detection_of(known: pa.Table | None) -> Detection | None:
    text = ((known is not None and known.schema.metadata) or {}).get(_DETECTION)
    if not text:
        return None
    found = json.loads(text)
    coding = found.pop("coding")
    coding["values"] = tuple(coding["values"])
    return Detection(MaskCoding(**coding), **found)


def _survey_some(root: Path, stamps: pa.Table, max_pixels: int) -> list[MaskSurvey]:
    """Return the values of masks spread over the dataset, of those that can be read."""
    readable = np.flatnonzero(stamps["mask_size"].is_valid())
    if not len(readable):
        return []
    sample = readable[np.unique(np.linspace(0, len(readable) - 1, _SURVEYED).astype(int))]
    surveys = (_survey(f"{root}/{stamps['mask'][row]}", max_pixels) for row in sample.tolist())
    return [found for found in surveys if found is not None]


def _survey(path: str, max_pixels: int) -> MaskSurvey | None:
    try:
        with opened(to_os(path), max_pixels) as mask:
            return survey_mask(mask)
    except Exception:  # measuring the mask says what is wrong; Pillow's plugins raise many kinds
        return None


Item = tuple[str, str, int, int, str]  # paths of mask and image; the image's size and format


def measure_mask(item: Item, coding: MaskCoding, max_pixels: int) -> tuple:
    """Return the `_MEASURED` columns of one mask.

    Args:
        item: paths of the mask and its image; upright width and height, and format, of the image.
        coding: what the mask's pixels mean.
        max_pixels: masks with more pixels are an error.
    """
    path, image, width, height, kind = item
    try:
        data = read_bytes(to_os(path), max_pixels)
        own_orientation = read_header(data).orientation
        with opened(data, max_pixels) as mask:
            values = values_of(mask, coding.channel, coding.bits)
    except (ImageError, MaskError) as error:
        return _failed(str(error))
    except Exception as error:  # Pillow's plugins raise many kinds
        return _failed(f"it is damaged: {(str(error) or type(error).__name__)[:120]}")
    altered = altered_pixels(values, coding)
    orientation = image_orientation(image, kind, max_pixels)
    size = width, height
    found = values.shape[1], values.shape[0]
    resized, mismatch = compare_sizes(found, size, orientation)
    if mismatch:
        return _failed(mismatch)
    turned = orientation > 1 and own_orientation == 1
    coverage = np.count_nonzero(altered) / altered.size
    return coverage, int(values.max()), resized, turned, None


def _ended(item: tuple) -> tuple:
    return _failed(ENDED)


def _failed(error: str) -> tuple:
    return None, None, None, None, f"its mask cannot be used: {error}"


def compare_sizes(
    mask: tuple[int, int], image: tuple[int, int], orientation: int = 1
) -> tuple[bool, str | None]:
    """Compare the size of a mask with that of its image.

    Args:
        mask, image: width and height in pixels, upright.
        orientation: EXIF orientation of the image, 1 to 8.

    Returns:
        Whether the mask has to be resized, and why it does not fit, or None.
    """
    if mask == image:
        return False, None
    (width, height), (wanted_width, wanted_height) = mask, image
    sizes = f"it has {width}x{height} pixels and the image {wanted_width}x{wanted_height}"
    if mask == image[::-1]:
        if orientation >= 5:
            return False, (
                f"{sizes}: it was drawn before the image was turned by its EXIF orientation"
            )
        return False, f"{sizes}: one of them is turned by 90 degrees"
    # Rounding to whole pixels changes the aspect ratio of small masks.
    slack = _MAX_ASPECT_DIFFERENCE + 1 / min(width, height)
    if abs(width * wanted_height / (height * wanted_width) - 1) > slack:
        return False, f"{sizes}, which is another shape"
    return True, None


def image_orientation(path: str, kind: str, max_pixels: int) -> int:
    """Return the orientation that an image file names, 1 to 8; 1 if it names none."""
    if kind in ("BMP", "GIF"):
        return 1
    try:
        return read_header(read_bytes(to_os(path), max_pixels)).orientation
    except ImageError:  # broken since the catalog read it
        return 1
