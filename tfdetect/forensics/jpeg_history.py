"""Traces of JPEG compression in an image: its grid of blocks, an earlier compression, and regions
whose history differs from that of the rest. Nothing is trained, and only NumPy and Pillow are
needed.

- Grid: a block of 8 x 8 pixels that was compressed has many DCT coefficients that are almost 0,
  and more than the blocks that lie across it. Each pixel votes for the position of the grid whose
  block there has most (after Nikoukhah, Anger, Colom and Morel, ZERO, IPOL 2021).
- Earlier compression: a coefficient that was quantized with one step and then with another has a
  histogram with gaps and peaks. The histogram without an earlier compression is estimated from
  the image moved by half a block (after Bianchi and Piva, IEEE TIFS 2012).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.imaging.formats import read_bytes
from tfdetect.imaging.headers import read_header
from tfdetect.imaging.jpeg_tables import LIBJPEG_LUMINANCE, jpeg_quality
from tfdetect.imaging.pillow import opened, read_rgb, turned

MAX_ANALYZED = 1_000_000  # pixels: of a larger image its center is analyzed
MIN_SIDE = 64  # pixels; smaller images are not analyzed
MIN_REGION = 0.004  # fraction of the image that a region with another history covers at least
_ZERO = 0.5  # a smaller DCT coefficient counts as 0
_MAX_ZEROS = 57  # of the 63 coefficients of a block that is not flat
_WINDOW = 32  # pixels; side of the window in which votes are counted
_MIN_WINDOW_VOTES = 0.25  # fraction of a window's pixels that vote
_MIN_FOREIGN = 0.4  # fraction of a window's votes that another grid has
_MAX_OWN = 0.15  # fraction that the image's grid may have there
MIN_GRID = 4.0  # factor of a grid's votes over those of chance, from which there is a grid
_CLEAR_GRID = 8.0  # the same, from which regions with another grid are looked for
# DCT coefficients (row, column) whose histograms are looked at.
_FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0), (2, 2))
_MAX_STEP = 48  # largest quantization step of an earlier compression that is tried
_BINS = 60  # histograms reach from -_BINS to _BINS
_ROUNDING = 0.35  # standard deviation that rounding and clipping of pixels give a coefficient
MIN_EVIDENCE = 0.03  # mean log-likelihood ratio of a coefficient, in nats
# How clearly a region lacks an earlier compression: minus the mean of its log-likelihood ratios, as
# a multiple of the median of the image.
_MIN_CONTRAST = 1.0
_BLOCKS = 7  # side of the window in which log-likelihood ratios are added, in blocks


@dataclass(frozen=True)
class JpegHistory:
    """What the pixels of an image say about its JPEG compressions.

    Attributes:
        quality: libjpeg quality of the file's tables, 1 to 100; none if the file is no JPEG.
        standard: whether the tables are exactly those of libjpeg.
        grid: (x, y), 0 to 7, of the first whole block of the strongest grid; none without a grid.
        earlier_quality: libjpeg quality that an earlier compression on the same grid had about;
            none if there is no trace of one.
        evidence: for an earlier compression: mean log-likelihood ratio of a coefficient, in nats;
            none if there are no such coefficients: in a small image, a JPEG in CMYK and no JPEG.
        other_grid: bool [H, W], where the grid is another one than in the rest.
        once: bool [H, W], where there is no trace of the earlier compression of the rest.
    """

    quality: float | None
    standard: bool
    grid: tuple[int, int] | None
    earlier_quality: float | None
    evidence: float | None
    other_grid: np.ndarray
    once: np.ndarray

    @property
    def differs(self) -> np.ndarray:
        """Where the history differs from that of the rest, bool [H, W]."""
        return self.other_grid | self.once


def jpeg_history(file: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> JpegHistory:
    """Return what the pixels of an image say about its JPEG compressions.

    Args:
        file: a path, or the bytes of a file.
        max_pixels: images with more pixels are refused.

    Returns:
        The history. Its maps are of the upright image, its grid is that of the stored one.

    Raises:
        ImageError: the file cannot be read.
        Exception: the image is damaged; Pillow raises many kinds.
    """
    data = file if isinstance(file, bytes) else read_bytes(file, max_pixels)
    stored = _read_stored(data, max_pixels)
    quality, standard = jpeg_quality(stored.tables)
    size = stored.pixels.shape[:2]
    nothing = _upright(np.zeros(size, bool), stored.orientation)
    if min(size) < MIN_SIDE:
        return JpegHistory(quality, standard, None, None, None, nothing, nothing)
    top, left, part = _center(stored.pixels)
    votes = _votes(part)
    grid, strength = _main_grid(votes)
    other = np.zeros(part.shape, bool)
    if grid is not None and strength >= _CLEAR_GRID:
        other = _other_grids(votes, grid)
    earlier, evidence, once = None, None, np.zeros(part.shape, bool)
    if stored.steps is not None:
        earlier, evidence, once = _earlier(part, stored.steps)
    if grid is not None:  # the position in the whole image
        grid = ((grid[0] + left) % 8, (grid[1] + top) % 8)
    return JpegHistory(
        quality, standard, grid, earlier, evidence,
        *(_upright(_whole(mask, size, top, left), stored.orientation) for mask in (other, once)),
    )  # fmt: skip


class _Stored(NamedTuple):
    """What a file stores of an image.

    Attributes:
        pixels: luminance uint8 [H, W] or colors uint8 [H, W, 3], still to be turned.
        tables: a JPEG's quantization tables, 64 steps each; none of another file.
        steps: the quantization steps of the luminance, int [8, 8]; None if no table is its own.
        orientation: EXIF's, 1 to 8, by which the luminance is to be turned.
    """

    pixels: np.ndarray
    tables: dict[int, list[int]]
    steps: np.ndarray | None
    orientation: int


def _read_stored(data: bytes, max_pixels: int) -> _Stored:
    """Read the pixels: of a JPEG the decoder's own luminance, before any conversion.

    A JPEG in CMYK has none: its colors are read, as of other files.
    """
    with opened(data, max_pixels) as image:
        tables = dict(getattr(image, "quantization", None) or {})
        if tables and image.mode in ("RGB", "L"):
            image.draft("L", image.size)
            image.load()
            if image.mode == "L":
                steps = np.asarray(tables[min(tables)]).reshape(8, 8)
                return _Stored(np.asarray(image), tables, steps, read_header(data).orientation)
    return _Stored(np.asarray(read_rgb(data, max_pixels)), tables, None, 1)


def _upright(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Return a mask of a file's stored pixels as one of its upright image."""
    return np.asarray(turned(Image.fromarray(mask.astype(np.uint8)), orientation)) > 0


def _center(pixels: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Return the corner of the part that is analyzed, which is on the file's grid.

    Args:
        pixels: see `_Stored`.

    Returns:
        Its first row and column, and its luminance, float32 [h, w].
    """
    height, width = pixels.shape[:2]
    top = left = 0
    if height * width > MAX_ANALYZED:
        factor = (MAX_ANALYZED / (height * width)) ** 0.5
        rows, columns = int(height * factor) // 8 * 8, int(width * factor) // 8 * 8
        top, left = (height - rows) // 2 // 8 * 8, (width - columns) // 2 // 8 * 8
        pixels = pixels[top : top + rows, left : left + columns]
    part = pixels.astype(np.float32)
    if part.ndim == 3:
        part = part @ np.array([0.299, 0.587, 0.114], np.float32)
    return top, left, part


def _whole(part: np.ndarray, size: tuple[int, ...], top: int, left: int) -> np.ndarray:
    whole = np.zeros(size, bool)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole


def _dct_matrix() -> np.ndarray:
    k = np.arange(8)
    matrix = np.sqrt(2 / 8) * np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / 16)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


_DCT = _dct_matrix()


def _coefficients(gray: np.ndarray, y: int, x: int) -> np.ndarray:
    """Return the DCT of all whole blocks of the grid at (y, x), float32 [rows, columns, 8, 8]."""
    rows, columns = (gray.shape[0] - y) // 8, (gray.shape[1] - x) // 8
    blocks = gray[y : y + 8 * rows, x : x + 8 * columns].reshape(rows, 8, columns, 8)
    return np.einsum(
        "ua,racb,vb->rcuv", _DCT, np.ascontiguousarray(blocks) - 128, _DCT, optimize=True
    )


def _votes(gray: np.ndarray) -> np.ndarray:
    """Return for each pixel the grid (8 * y + x) whose block has most zeros there, int8; or -1."""
    height, width = gray.shape
    zeros = np.zeros((height, width), np.uint8)
    for y in range(8):
        for x in range(8):
            small = np.abs(_coefficients(gray, y, x)) < _ZERO
            small[..., 0, 0] = False
            count = small.sum((-2, -1), dtype=np.uint8)
            zeros[y : y + 8 * count.shape[0] : 8, x : x + 8 * count.shape[1] : 8] = count
    best = np.zeros((height, width), np.uint8)
    vote = np.full((height, width), -1, np.int8)
    for y in range(8):
        for x in range(8):
            count = zeros[y : height - 7 : 8, x : width - 7 : 8]
            spread = np.repeat(np.repeat(count, 8, 0), 8, 1)
            area = (slice(y, y + spread.shape[0]), slice(x, x + spread.shape[1]))
            more, same = spread > best[area], spread == best[area]
            vote[area] = np.where(more, 8 * y + x, np.where(same, -1, vote[area]))
            best[area] = np.maximum(best[area], spread)
    vote[best > _MAX_ZEROS] = -1  # the steps between flat blocks, as in a sky, look like a grid
    return vote


def _main_grid(votes: np.ndarray) -> tuple[tuple[int, int] | None, float]:
    """Return the (x, y) of the grid with most votes, and their multiple of chance."""
    counts = np.bincount(votes[votes >= 0], minlength=64)
    total = counts.sum()
    if total < 64 * 64:
        return None, 0.0
    best = int(counts.argmax())
    strength = float(64 * counts[best] / total)
    return ((best % 8, best // 8) if strength >= MIN_GRID else None), strength


def _other_grids(votes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return where another grid than that of the image has most votes, bool [h, w]."""
    own = 8 * grid[1] + grid[0]
    voting = _box(votes >= 0, _WINDOW)
    own_votes = _box(votes == own, _WINDOW)
    found = np.zeros(votes.shape, bool)
    counts = np.bincount(votes[votes >= 0], minlength=64)
    least = max(MIN_REGION * votes.size, _WINDOW**2)
    for other in np.flatnonzero(counts >= least / 4):
        if other == own:
            continue
        here = _box(votes == other, _WINDOW)
        region = (
            (voting >= _MIN_WINDOW_VOTES)
            & (here >= _MIN_FOREIGN * voting)
            & (own_votes <= _MAX_OWN * voting)
        )
        if region.sum() >= least / 4:
            # The votes themselves show the border better than windows do.
            near = _box(region, _WINDOW // 2) > 0
            near &= _box(votes == other, 17) >= 0.4 * np.maximum(_box(votes >= 0, 17), 1e-3)
            found |= near
    return _large(found, least)


def _earlier(gray: np.ndarray, steps: np.ndarray) -> tuple[float | None, float, np.ndarray]:
    """Look for an earlier compression on the same grid.

    Args:
        gray: float32 [h, w], beginning on the grid.
        steps: quantization steps of the file's luminance, int [8, 8].

    Returns:
        Its libjpeg quality, None without a trace; the evidence; where the trace is missing.
    """
    nowhere = np.zeros(gray.shape, bool)
    blocks, shifted = _coefficients(gray, 0, 0), _coefficients(gray, 4, 4)
    table, gains, ratios = np.zeros((8, 8)), [], []
    for u, v in _FREQUENCIES:
        step = float(steps[u, v])
        values = np.clip(np.rint(blocks[..., u, v] / step), -_BINS, _BINS).astype(np.int64)
        histogram = np.bincount(values.ravel() + _BINS, minlength=2 * _BINS + 1)
        if histogram[_BINS] > 0.98 * histogram.sum():  # almost all are 0: no histogram to speak of
            continue
        gain, earlier_step, ratio = _likeliest_step(histogram, shifted[..., u, v], step)
        gains.append(gain)
        if ratio is not None and gain > MIN_EVIDENCE / 2:
            table[u, v] = earlier_step
            ratio[_BINS] = 0.0  # flat blocks, whose coefficients are all 0, say nothing
            ratios.append(ratio[values + _BINS])
    if len(gains) < 2:
        return None, 0.0, nowhere
    evidence = float(np.mean(gains))
    if evidence < MIN_EVIDENCE or not ratios:
        return None, evidence, nowhere
    mask = nowhere.copy()
    pixels = np.repeat(np.repeat(_compressed_once(np.sum(ratios, axis=0)), 8, 0), 8, 1)
    mask[: pixels.shape[0], : pixels.shape[1]] = pixels
    quality = _nearest_quality(table, table > 0)
    return quality, evidence, _large(mask, max(MIN_REGION * mask.size, _WINDOW**2))


def _likeliest_step(
    histogram: np.ndarray, shifted: np.ndarray, step: float
) -> tuple[float, int, np.ndarray | None]:
    """Find the quantization step before the file's that explains coefficients of a frequency best.

    Args:
        histogram: of the file's coefficients, int [2 * _BINS + 1].
        shifted: coefficients off the grid, as they were before any quantization.
        step: the file's step.

    Returns:
        By how much it explains a coefficient better than one compression does, in nats; the step;
        the logarithmic ratios for each value, [2 * _BINS + 1]. 0, 0 and None if none is better.
    """
    once = np.log(_expected(shifted, 1.0, step))
    best: tuple[float, int, np.ndarray | None] = 0.0, 0, None
    for candidate in range(2, _MAX_STEP + 1):
        if candidate == step:
            continue
        ratio = np.log(_expected(shifted, float(candidate), step)) - once
        gain = float((histogram * ratio).sum() / histogram.sum())
        if gain > best[0]:
            best = gain, candidate, ratio
    return best


def _compressed_once(ratios: np.ndarray) -> np.ndarray:
    """Return the blocks that lack the trace of an earlier compression, bool like the ratios.

    Args:
        ratios: how much likelier two compressions are for each block, logarithmic, [rows, columns].
    """
    padded = _box(ratios, _BLOCKS)
    scale = np.median(padded)
    once = (padded < -0.25 * scale) & (scale > 0)
    # A region of the photograph itself, whose texture is unusual, is below 0 too, but less so.
    labels = _components(once)
    sums = np.bincount(labels.ravel(), padded.ravel())
    means = sums / np.maximum(np.bincount(labels.ravel()), 1)
    return once & (means <= -_MIN_CONTRAST * scale)[labels]


def _expected(values: np.ndarray, first: float, second: float) -> np.ndarray:
    """Return the probabilities [2 * _BINS + 1] of values after quantization with two steps."""
    level, count = np.unique(np.rint(values / first), return_counts=True)
    centers = level * first
    edges = (np.arange(-_BINS, _BINS + 2) - 0.5) * second
    edges[0], edges[-1] = -1e9, 1e9
    z = np.clip((edges[None] - centers[:, None]) / _ROUNDING * 1.702, -60, 60)
    below = 1 / (1 + np.exp(-z))  # the normal distribution, nearly
    chance = (count[:, None] * np.diff(below, axis=1)).sum(0)
    chance += 0.5  # a histogram of few coefficients knows little of rare values
    return chance / chance.sum()


def _nearest_quality(table: np.ndarray, known: np.ndarray) -> float:
    """Return the libjpeg quality whose luminance steps are nearest to some known ones."""
    tables = LIBJPEG_LUMINANCE.reshape(100, 8, 8)
    errors = np.abs(np.log(tables[:, known]) - np.log(table[known])).sum(1)
    return float(errors.argmin() + 1)


def _box(values: np.ndarray, side: int) -> np.ndarray:
    """Return the mean in a window around each element, float32; edges are repeated."""
    result = values.astype(np.float64)
    for axis in (0, 1):
        before, after = side // 2, side - side // 2 - 1
        padding = [(0, 0), (0, 0)]
        padding[axis] = (before + 1, after)
        padded = np.cumsum(np.pad(result, padding, "edge"), axis=axis)
        length = values.shape[axis]
        upper = padded.take(np.arange(side, side + length), axis)
        result = (upper - padded.take(np.arange(length), axis)) / side
    return result.astype(np.float32)


def _large(mask: np.ndarray, least: float) -> np.ndarray:
    """Return the connected parts of a mask with at least so many pixels, seen on cells of 8."""
    rows, columns = mask.shape[0] // 8, mask.shape[1] // 8
    cells = mask[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).mean((1, 3)) >= 0.5
    labels = _components(cells)
    areas = np.bincount(labels.ravel()) * 64
    areas[0] = 0
    kept = (areas >= least)[labels]
    result = np.zeros(mask.shape, bool)
    result[: rows * 8, : columns * 8] = np.repeat(np.repeat(kept, 8, 0), 8, 1)
    return result & mask


def _components(cells: np.ndarray) -> np.ndarray:
    """Return the number of each cell's connected part, int [h, w]; 0 where there is none."""
    labels = np.where(cells, np.arange(1, cells.size + 1).reshape(cells.shape), 0)
    while True:  # the largest number spreads
        padded = np.pad(labels, 1)
        spread = np.maximum.reduce([
            padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2],
            padded[1:-1, 2:],
        ])  # fmt: skip
        spread = np.where(cells, spread, 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    return np.unique(labels, return_inverse=True)[1].reshape(cells.shape) if cells.any() else labels
