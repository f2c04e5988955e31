"""Overlapping tiles of a large image and their joined maps in NumPy, as `imaging.tiles` in TF."""

from collections.abc import Callable

import numpy as np

from tfdetect.core.data_settings import TILE_BATCH, TILE_OVERLAP, TOP_PIXELS
from tfdetect.core.probability import EPSILON, SMALLEST


def by_tiles(
    image: np.ndarray,
    size: tuple[int, int],
    policy: str,
    predict: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    on_tiles: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Apply a detector to an image by tiles.

    Args:
        image: uint8 [H, W, 3], of any size.
        size: (height, width) of a tile in pixels.
        policy: what to do with a side that is too short: "window_tile" repeats the image,
            "window_pad" adds black.
        predict: from tiles uint8 [n, *size, 3] to outputs float32 [n, C] and maps float32
            [n, *size].
        on_tiles: called with the number of tiles that are done and that of all.

    Returns:
        Outputs float32 [tiles, C] and a map float32 [H, W]. Where tiles overlap, their maps are
        blended.
    """
    height, width = image.shape[:2]
    (top, left), image = _enlarge(image, size, policy)
    rows, columns = (tile_starts(image.shape[axis], size[axis]) for axis in (0, 1))
    corners = [(row, column) for row in rows for column in columns]
    outputs, maps = [], []
    for begin in range(0, len(corners), TILE_BATCH):
        end = min(begin + TILE_BATCH, len(corners))
        tiles = [image[y : y + size[0], x : x + size[1]] for y, x in corners[begin:end]]
        output, predicted = predict(np.stack(tiles))
        outputs.append(output)
        maps.append(predicted)
        if on_tiles is not None:
            on_tiles(end, len(corners))
    tiled = np.concatenate(maps).reshape(len(rows), len(columns), *size)
    whole = _join(tiled, rows, columns, image.shape[0], image.shape[1])
    return np.concatenate(outputs), whole[top : top + height, left : left + width]


def pool_tiles(tables: np.ndarray, altered: np.ndarray, pooling: str) -> np.ndarray:
    """Return class probabilities of an image.

    Args:
        tables: those of its tiles, float32 [tiles, C]; class 0 is the authentic one.
        altered: P(altered) of its pixels, float32 [H, W].
        pooling: "max" takes the tile with the highest P(fake). "top_pixels" does so for the ratios
            between the kinds of fakes alone; P(fake) has the mean logit of the half percent of
            pixels with the highest P(altered).

    Returns:
        float32 [C].
    """
    table = tables[tables[:, 0].argmin()]
    if pooling == "max":
        return table
    count = max(1, altered.size // TOP_PIXELS)
    top = np.partition(altered, altered.size - count, axis=None)[-count:]
    top = np.clip(top, np.float32(EPSILON), np.float32(1 - EPSILON))
    logit = (np.log(top) - np.log1p(-top)).mean()
    fake, authentic = 1 / (1 + np.exp([-logit, logit]))
    fakes = np.maximum(table[1:], np.float32(SMALLEST))
    return np.concatenate([[authentic], fakes / fakes.sum() * fake]).astype(np.float32)


def _enlarge(image: np.ndarray, size: tuple[int, int], policy: str) -> tuple[list, np.ndarray]:
    """Return an image no smaller than a tile, and where the given one begins in it."""
    corner = []
    for axis, wanted in enumerate(size):
        length = image.shape[axis]
        missing = max(wanted - length, 0)
        if policy == "window_tile":
            corner.append(0)
            if missing:
                image = image.take(np.arange(wanted) % length, axis)
            continue
        corner.append(missing // 2)
        widths = [(0, 0)] * 3
        widths[axis] = (missing // 2, missing - missing // 2)
        image = np.pad(image, widths)
    return corner, image


def tile_starts(length: int, side: int) -> np.ndarray:
    """Return where tiles begin along a side, evenly spaced, int64 [n]."""
    slack, step = length - side, side - side // TILE_OVERLAP
    count = 1 + -(-slack // step)
    return np.rint(np.linspace(0.0, slack, count, dtype=np.float32)).astype(np.int64)


def _join(
    maps: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Join the maps [rows, columns, h, w] of tiles to one map [H, W]."""
    down, across, tall, wide = maps.shape
    whole = maps.transpose(0, 2, 1, 3).reshape(down * tall, across * wide)
    for axis, (starts, side, length) in enumerate(((rows, tall, height), (columns, wide, width))):
        first, second, weight = _blend(starts, side, length)
        weight = weight[:, None] if axis == 0 else weight
        whole = whole.take(first, axis) * (1 - weight) + whole.take(second, axis) * weight
    return whole


def _blend(starts: np.ndarray, side: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each position along a side its index in two tiles and the second's weight."""
    fade = max(1, side // TILE_OVERLAP)
    position = np.arange(length)
    begins = (starts[1:] + starts[:-1] + side - fade) // 2  # in the middle of each overlap
    begun = np.searchsorted(begins, position, side="right")
    since = position - np.concatenate([[0], begins])[begun]
    weight = np.clip((since.astype(np.float32) + 0.5) / fade, 0, 1)
    weight = np.where(begun == 0, 0, weight).astype(np.float32)

    def where(tile: np.ndarray) -> np.ndarray:
        return tile * side + np.clip(position - starts[tile], 0, side - 1)

    return where(np.maximum(begun - 1, 0)), where(begun), weight
