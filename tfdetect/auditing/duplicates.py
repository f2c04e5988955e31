"""Finds exact duplicates (by bytes or decoded pixels) and near duplicates in a dataset."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.data.catalog import Catalog
from tfdetect.data.parallel import read_all
from tfdetect.data.splits import connected
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.pillow import read_rgb

MAX_HASH_DISTANCE = 6  # differing bits of 64 of perceptual hashes; below 8, see _hash_neighbors
MIN_CORRELATION = 0.9  # of the pixels of near duplicates at 32x32
MAX_PAIRS = 50_000  # candidates whose pixels are compared
_THUMBNAIL_SIDE = 32  # pixels
_CACHED_THUMBNAILS = 4_096  # in each process, 12 kB each: an image may be in many pairs
_CHUNK_PAIRS = 250_000  # pairs of hashes that are compared at once
_MIN_CONTRAST = 4.0  # below it a perceptual hash is noise


@dataclass(frozen=True)
class Duplicates:
    """Duplicates of one kind (same bytes, same pixels, or near).

    Attributes:
        groups: number of different images that occur more than once.
        redundant: number of images of train and validation, by class, that could be removed
            without losing a distinct image.
        redundant_test: the same of the test split.
        test_leaks: number of test images, by class, that also occur in train or validation.
        validation_leaks: number of validation images that also occur in train.
        label_conflicts: number of images that occur under several labels.
        rows: int [n], rows of the catalog that belong to such groups.
        group: int [n], the number of each row's group.
        complete: False if there were more candidate pairs than `MAX_PAIRS`, which are compared.
        uncompared: number of candidate pairs that could not be compared, because an image cannot be
            read any more or ended the process that read it.
    """

    groups: int
    redundant: tuple[int, ...]
    redundant_test: tuple[int, ...]
    test_leaks: tuple[int, ...]
    validation_leaks: int
    label_conflicts: int
    rows: np.ndarray
    group: np.ndarray
    complete: bool
    uncompared: int = 0


def exact_duplicates(table: pa.Table, column: str, classes: int) -> Duplicates:
    """Return the duplicates by equal values of one column.

    Args:
        table: rows with label, split and `column`.
        column: "hash" (equal bytes) or "pixels" (equal decoded pixels).
        classes: number of classes.
    """
    values = table[column].combine_chunks().dictionary_encode()
    codes = pc.fill_null(values.indices, -1).to_numpy()
    counts = np.bincount(codes[codes >= 0], minlength=len(values.dictionary))
    rows = np.flatnonzero((codes >= 0) & (counts[codes] > 1))
    return _summarize(table, rows, codes[rows], classes)


def near_duplicates(catalog: Catalog, table: pa.Table, classes: int, progress: bool) -> Duplicates:
    """Return images that look alike but differ in pixels.

    Pairs with similar perceptual hashes are candidates; their pixels are compared.

    Args:
        table: the traits of the catalog's files.
        classes: number of classes.
        progress: whether to show progress.
    """
    first, second = candidate_pairs(table)
    complete = len(first) <= MAX_PAIRS
    if not complete:
        chosen = np.random.default_rng(0).choice(len(first), MAX_PAIRS, replace=False)
        first, second = first[np.sort(chosen)], second[np.sort(chosen)]
    compared = _pixels_correlate(catalog, table, first, second, progress)
    similar = pc.fill_null(compared, False).to_numpy()
    first, second = first[similar], second[similar]
    component = connected(first, second, table.num_rows)
    rows = np.flatnonzero(np.bincount(component)[component] > 1)
    found = _summarize(table, rows, component[rows], classes, complete)
    return replace(found, uncompared=compared.null_count)


def candidate_pairs(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of rows with similar perceptual hashes and different pixels.

    Among images with equal hashes, each is paired only with the next one.

    Returns:
        Two arrays of row numbers, int [pairs].
    """
    usable = pc.and_(pc.is_valid(table["phash"]), pc.greater(table["contrast"], _MIN_CONTRAST))
    rows = np.flatnonzero(pc.fill_null(usable, False).to_numpy())
    if not len(rows):
        return rows, rows
    hashes = pc.fill_null(table["phash"], 0).to_numpy()[rows]
    order = np.argsort(hashes, kind="stable")
    rows, hashes = rows[order], hashes[order]
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
    unique, first_rows = hashes[starts], rows[starts]
    near = ((first_rows[one], first_rows[other]) for one, other in _hash_neighbors(unique))
    pixels, pairs = table["pixels"].combine_chunks(), []
    for first, second in chain([(rows[same], rows[same + 1])], near):
        differ = pc.not_equal(*(pixels.take(pa.array(side)) for side in (first, second)))
        pairs.append(np.sort(np.stack([first, second], 1)[differ.to_numpy(False)], 1))
    pair = np.unique(np.concatenate(pairs), axis=0)
    return pair[:, 0], pair[:, 1]


def _hash_neighbors(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions of unequal hashes that differ in at most `MAX_HASH_DISTANCE` bits.

    A pair may come twice. If two hashes differ in fewer than 8 bits, at least one of their four
    quarters differs in at most one bit, so only hashes with such quarters are compared (Norouzi
    et al., Fast Search in Hamming Space, CVPR 2012).
    """
    for band in range(4):
        quarter = (hashes >> np.uint64(16 * band)).astype(np.uint16)
        order = np.argsort(quarter, kind="stable")
        quarter = quarter[order].astype(np.int64)
        starts = np.searchsorted(quarter, np.arange(2**16 + 1))
        for flipped in (0, *(1 << bit for bit in range(16))):
            ones = np.flatnonzero(quarter & flipped == 0)  # of each pair, one side
            wanted = quarter[ones] ^ flipped
            begin = starts[wanted] if flipped else ones + 1
            count = starts[wanted + 1] - begin
            ends = np.cumsum(count)
            cuts = np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, _CHUNK_PAIRS))
            for low, high in zip(cuts, [*cuts[1:], len(ones)]):
                some = count[low:high]
                first = np.repeat(ones[low:high], some)
                within = np.arange(len(first)) - np.repeat(np.cumsum(some) - some, some)
                second = np.repeat(begin[low:high], some) + within
                first, second = order[first], order[second]
                distance = np.bitwise_count(hashes[first] ^ hashes[second])
                close = distance <= MAX_HASH_DISTANCE
                yield first[close], second[close]


def _pixels_correlate(
    catalog: Catalog, table: pa.Table, first: np.ndarray, second: np.ndarray, progress: bool
) -> pa.ChunkedArray:
    """Return whether the thumbnails of each pair of rows correlate; null if one is unreadable."""
    if not len(first):
        return pa.chunked_array([], pa.bool_())
    sides = (catalog.files(table.take(pa.array(rows))) for rows in (first, second))
    schema = pa.schema([("similar", pa.bool_())])
    read = partial(_correlate, max_pixels=catalog.max_pixels)
    pairs = list(zip(*sides, strict=True))
    found = read_all(read, pairs, schema, "comparing similar images", progress, _not_compared)
    _normalized_thumbnail.cache_clear()  # files may change before the next audit
    return found["similar"]


def _correlate(pair: tuple[str, str], max_pixels: int) -> tuple[bool | None]:
    """Return whether the thumbnails of two files correlate; None if one cannot be read any more."""
    try:
        one, other = (_normalized_thumbnail(path, max_pixels) for path in pair)
    except ImageError:
        return (None,)
    return (bool((one * other).sum() > MIN_CORRELATION),)


def _not_compared(pair: tuple[str, str]) -> tuple[None]:
    return (None,)


@functools.lru_cache(_CACHED_THUMBNAILS)
def _normalized_thumbnail(path: str, max_pixels: int) -> np.ndarray:
    """Return an image's thumbnail of 32x32 pixels, flattened, with zero mean and unit norm."""
    from PIL import Image

    small = read_rgb(path, max_pixels, min_side=2 * _THUMBNAIL_SIDE)
    small = small.resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32)
    pixels = (pixels - pixels.mean((0, 1))).ravel()
    return pixels / max(1e-6, float(np.linalg.norm(pixels)))


def _summarize(
    table: pa.Table, rows: np.ndarray, group: np.ndarray, classes: int, complete: bool = True
) -> Duplicates:
    """Count what the groups of duplicates mean for splits and labels.

    Args:
        rows: int [n], rows of `table` that belong to a group.
        group: int [n], any number per group.
    """
    group = np.unique(group, return_inverse=True)[1]
    count = int(group.max()) + 1 if len(group) else 0
    labels = table["label"].to_numpy()[rows]
    splits = table["split"].take(pa.array(rows)).cast(pa.string()).to_numpy()
    occurs_in = {
        name: np.bincount(group, splits == name, count) > 0
        for name in ("train", "validation", "test")
    }
    learned = occurs_in["train"] | occurs_in["validation"]
    by_label = np.stack([np.bincount(group, labels == c, count) for c in range(classes)])
    # One image of each group and class is not redundant, on each side of the test split.
    redundant, redundant_test = (
        tuple(
            int(np.maximum(0, np.bincount(group, (labels == c) & part, count) - 1).sum())
            for c in range(classes)
        )
        for part in (splits != "test", splits == "test")
    )
    return Duplicates(
        groups=count,
        redundant=redundant,
        redundant_test=redundant_test,
        test_leaks=tuple(
            int(((splits == "test") & (labels == c) & learned[group]).sum()) for c in range(classes)
        ),
        validation_leaks=int(((splits == "validation") & occurs_in["train"][group]).sum()),
        label_conflicts=int(((by_label > 0).sum(0) > 1)[group].sum()),
        rows=rows,
        group=group,
        complete=complete,
    )
