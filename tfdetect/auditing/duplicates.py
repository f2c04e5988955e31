"""Images that stand in a dataset more than once: by bytes, by pixels, or nearly."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tfdetect.data.catalog import Catalog
from tfdetect.imaging.pillow import opened, upright_rgb

DISTANCE = 6  # bits of 64 in which perceptual hashes of near duplicates differ at most, below 8
CORRELATION = 0.9  # of the pixels of near duplicates, at 32x32, at least
PAIRS = 50_000  # of candidates that are looked at
_SIDE = 32
_AT_ONCE = 4_000_000  # pairs of hashes that are compared
_FLAT = 4.0  # contrast below which a perceptual hash is noise


@dataclass(frozen=True)
class Duplicates:
    """What stands more than once, of one kind.

    Attributes:
        groups: number of different images that stand more than once.
        surplus: images of train and validation that could go without an image being lost, by
            class.
        surplus_in_test: the same of the test split.
        in_test: test images that stand in train or validation too, by class.
        in_validation: validation images that stand in train too.
        labels: images that stand under several labels.
        rows: int [n], rows of the catalog in such groups.
        group: int [n], which.
        complete: False where there were more candidates than could be looked at.
    """

    groups: int
    surplus: tuple[int, ...]
    surplus_in_test: tuple[int, ...]
    in_test: tuple[int, ...]
    in_validation: int
    labels: int
    rows: np.ndarray
    group: np.ndarray
    complete: bool = True


def by_column(table: pa.Table, column: str, classes: int) -> Duplicates:
    """Duplicates by equal values of a column: hash (bytes) or pixels."""
    values = table[column].combine_chunks().dictionary_encode()
    codes = pc.fill_null(values.indices, -1).to_numpy()
    counts = np.bincount(codes[codes >= 0], minlength=len(values.dictionary))
    rows = np.flatnonzero((codes >= 0) & (counts[codes] > 1))
    return _described(table, rows, codes[rows], classes)


def near(catalog: Catalog, table: pa.Table, classes: int) -> Duplicates:
    """Images that look alike and are not equal: perceptual hashes first, then their pixels.

    Args:
        table: the traits of the catalog's files.
    """
    first, second = candidates(table)
    complete = len(first) <= PAIRS
    if not complete:
        chosen = np.random.default_rng(0).choice(len(first), PAIRS, replace=False)
        first, second = first[np.sort(chosen)], second[np.sort(chosen)]
    alike = _alike(catalog.paths(table), first, second)
    first, second = first[alike], second[alike]
    size = table.num_rows
    graph = coo_array((np.ones(len(first), bool), (first, second)), (size, size))
    component = connected_components(graph, directed=False)[1]
    rows = np.flatnonzero(np.bincount(component)[component] > 1)
    return _described(table, rows, component[rows], classes, complete)


def candidates(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pairs whose perceptual hashes are near and whose pixels differ.

    Of images with equal hashes each is paired with the next one only.

    Returns:
        Two arrays of row numbers, int [pairs].
    """
    usable = pc.and_(pc.is_valid(table["phash"]), pc.greater(table["contrast"], _FLAT))
    rows = np.flatnonzero(pc.fill_null(usable, False).to_numpy())
    if not len(rows):
        return rows, rows
    hashes = pc.fill_null(table["phash"], 0).to_numpy()[rows]
    order = np.argsort(hashes, kind="stable")
    rows, hashes = rows[order], hashes[order]
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    pairs = [(rows[same], rows[same + 1])]
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
    unique, rows = hashes[starts], rows[starts]
    pairs += [(rows[first], rows[second]) for first, second in _neighbors(unique)]
    first, second = (np.concatenate(side) for side in zip(*pairs))
    pixels = table["pixels"].combine_chunks().dictionary_encode().indices.to_numpy()
    differ = pixels[first] != pixels[second]
    pair = np.sort(np.stack([first[differ], second[differ]], 1), 1)
    pair = np.unique(pair, axis=0)
    return pair[:, 0], pair[:, 1]


def _neighbors(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of different hashes that differ in at most `DISTANCE` bits; a pair may come twice.

    Of two hashes that near, one of the four quarters differs in one bit at most: so only hashes
    whose quarters do are compared (Norouzi et al., Fast Search in Hamming Space, CVPR 2012).
    """
    for band in range(4):
        quarter = (hashes >> np.uint64(16 * band)).astype(np.uint16)
        order = np.argsort(quarter, kind="stable")
        quarter = quarter[order].astype(np.int64)
        starts = np.searchsorted(quarter, np.arange(2**16 + 1))
        for flipped in (0, *(1 << bit for bit in range(16))):
            mine = np.flatnonzero(quarter & flipped == 0)
            other = quarter[mine] ^ flipped
            begin = starts[other] if flipped else mine + 1
            count = starts[other + 1] - begin
            ends = np.cumsum(count)
            cuts = np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, _AT_ONCE))
            for low, high in zip(cuts, [*cuts[1:], len(mine)]):
                some = count[low:high]
                first = np.repeat(mine[low:high], some)
                within = np.arange(len(first)) - np.repeat(np.cumsum(some) - some, some)
                second = np.repeat(begin[low:high], some) + within
                first, second = order[first], order[second]
                close = np.bitwise_count(hashes[first] ^ hashes[second]) <= DISTANCE
                yield first[close], second[close]


def _alike(paths: pa.ChunkedArray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether the images of each pair of rows show the same, bool [pairs]."""
    needed, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    pictures = np.stack([_small(path) for path in paths.take(pa.array(needed)).to_pylist()] or
                        [np.zeros(3 * _SIDE**2, np.float32)])  # fmt: skip
    one, other = places[: len(first)], places[len(first) :]
    alike = np.zeros(len(first), bool)
    for start in range(0, len(first), 10_000):
        part = slice(start, start + 10_000)
        alike[part] = (pictures[one[part]] * pictures[other[part]]).sum(1) > CORRELATION
    return alike


def _small(path: str) -> np.ndarray:
    """An image's pixels at 32x32, centerd, of length one; zeros where it cannot be read."""
    from PIL import Image

    try:
        with opened(path) as image:
            image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            small = upright_rgb(image).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except Exception:  # broken since; Pillow's plugins raise many kinds
        return np.zeros(3 * _SIDE**2, np.float32)
    pixels = np.asarray(small, np.float32)
    pixels = (pixels - pixels.mean((0, 1))).ravel()
    return pixels / max(1e-6, float(np.linalg.norm(pixels)))


def _described(
    table: pa.Table, rows: np.ndarray, group: np.ndarray, classes: int, complete: bool = True
) -> Duplicates:
    group = np.unique(group, return_inverse=True)[1]
    count = int(group.max()) + 1 if len(group) else 0
    labels = table["label"].to_numpy()[rows]
    splits = table["split"].cast(pa.string()).to_numpy()[rows]
    has = {
        name: np.bincount(group, splits == name, count) > 0
        for name in ("train", "validation", "test")
    }
    learned = has["train"] | has["validation"]
    by_label = np.stack([np.bincount(group, labels == c, count) for c in range(classes)])
    # One image of a group is no surplus, of each class and of each side of the test split.
    surplus, surplus_in_test = (
        tuple(
            int(np.maximum(0, np.bincount(group, (labels == c) & part, count) - 1).sum())
            for c in range(classes)
        )
        for part in (splits != "test", splits == "test")
    )
    return Duplicates(
        groups=count,
        surplus=surplus,
        surplus_in_test=surplus_in_test,
        in_test=tuple(
            int(((splits == "test") & (labels == c) & learned[group]).sum()) for c in range(classes)
        ),
        in_validation=int(((splits == "validation") & has["train"][group]).sum()),
        labels=int(((by_label > 0).sum(0) > 1)[group].sum()),
        rows=rows,
        group=group,
        complete=complete,
    )
