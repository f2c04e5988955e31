"""Forgeries made inside the pipeline, so that each epoch sees new ones.

Masks are free-form strokes or blobs. Fills are the fast kinds: another region of the image,
another image of the batch, a smooth fill from the mask's edge, and the image itself shrunk and
enlarged again. Fills that need a model or a solver are made by `tfdetect.synthesize`.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import tensorflow as tf
from pydantic import Field

from tfdetect.core.errors import UserError
from tfdetect.core.options import Count, Fraction
from tfdetect.imaging.geometry import fold_in, take
from tfdetect.imaging.resampling import to_uint8

Fill = Literal["copied", "spliced", "smooth", "resampled"]

_MAX_STROKES = 3  # in a mask
_MAX_SEGMENTS = 11  # in a stroke
_LEVEL_GRID = 64  # side in pixels of the small noise image from which a blob's level is taken


def random_forgery(
    images: tf.Tensor,
    seed: tf.Tensor,
    targets: tf.Tensor,
    probability: Fraction = 0.5,
    min_area: Fraction = 0.02,
    max_area: Fraction = 0.4,
    edge: Annotated[int, Field(ge=0, le=100)] = 2,
    label: Count = 1,
    fills: Annotated[Sequence[Fill], Field(min_length=1)] = get_args(Fill),
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Alter a region of authentic images with `probability`, and change their targets to fake.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C]; only images of class 0 are altered.
        probability: 0 to 1.
        min_area: smallest altered area, as a fraction of the image.
        max_area: largest altered area.
        edge: width in pixels of the soft edge inside the mask, 0 to 100.
        label: the class of altered images, if there are several fake classes.
        fills: what regions are filled with, each as often; a repeated name is more frequent.
        masks: uint8 [B, H, W, 1], or None; 1 where altered.

    Returns:
        Images uint8, targets and masks. Outside its mask an image is unchanged.
    """
    count, height, width, _ = images.shape
    fake = targets[:, 0] if targets.shape[1] == 1 else 1 - targets[:, 0]
    u = tf.random.stateless_uniform([2, count], fold_in(seed, 1))
    chosen = (u[0] < probability) & (fake == 0)
    holes = free_form_masks(fold_in(seed, 2), (count, height, width), min_area, max_area)
    holes &= chosen[:, None, None, None]
    makers = {
        "copied": lambda: _copied(images, fold_in(seed, 3)),
        "spliced": lambda: _spliced(images, fold_in(seed, 4)),
        "smooth": lambda: _smooth(images, holes),
        "resampled": lambda: _resampled(images),
    }
    names = [name for name in makers if name in fills]
    kinds = tf.stack([makers[name]() for name in names])
    numbers = tf.constant([names.index(name) for name in fills])
    kind = tf.gather(numbers, tf.cast(u[1] * len(fills), tf.int32))
    filled = tf.gather(tf.transpose(kinds, [1, 0, 2, 3, 4]), kind, batch_dims=1)
    alpha = _soften(holes, edge)
    pixels = tf.cast(images, tf.float32)
    forged = to_uint8(pixels * (1 - alpha) + tf.cast(filled, tf.float32) * alpha)
    images = tf.where(holes, forged, images)
    classes = targets.shape[1]
    forged_target = tf.one_hot(0 if classes == 1 else label, classes)
    targets = tf.where(chosen[:, None], forged_target, targets)
    if masks is not None:
        masks = tf.where(holes, tf.ones_like(masks), masks)
    return images, targets, masks


def _check_label(
    params: dict[str, Any], size: tuple[int, int], with_masks: bool, classes: int
) -> None:
    if params.get("label", 1) >= classes:
        raise UserError(
            f"data.augment, forgery.label: a fake class, from 1 to {classes - 1}. Received: "
            f"{params['label']}."
        )


random_forgery.check = _check_label  # type: ignore[attr-defined]


def free_form_masks(
    seed: tf.Tensor, shape: tuple[int, int, int], min_area: float = 0.0, max_area: float = 1.0
) -> tf.Tensor:
    """Draw strokes as DeepFillv2 does, or blobs if strokes cover too little or too much.

    Args:
        seed: int32 [2].
        shape: number of masks, height and width in pixels.
        min_area: smallest area as a fraction of the mask, to within about 0.01.
        max_area: largest area.

    Returns:
        bool [B, H, W, 1], True in the mask.
    """
    masks = _strokes(seed, *shape)
    area = tf.reduce_mean(tf.cast(masks, tf.float32), [1, 2])[:, None, None]
    fits = (area >= min_area) & (area <= max_area)
    return tf.where(fits, masks, _blobs(fold_in(seed, 9), shape, min_area, max_area))[..., None]


@tf.function(jit_compile=True, autograph=False)
def _strokes(seed: tf.Tensor, count: int, height: int, width: int) -> tf.Tensor:
    """Draw strokes of the same distribution as `mask_makers.brush`; bool [B, H, W]."""
    radius, scale = math.hypot(height, width) / 8, math.sqrt(height * width) / 256
    u = tf.random.stateless_uniform([6, count, _MAX_STROKES], fold_in(seed, 1))
    strokes = tf.floor(1 + u[0, :, :1] * _MAX_STROKES)
    segments = tf.floor(4 + u[1] * (_MAX_SEGMENTS - 3))
    segments = tf.where(tf.range(_MAX_STROKES, dtype=tf.float32) < strokes, segments, 0.0)
    mean, spread = 2 * math.pi / 5, 2 * math.pi / 15
    low, high = mean - u[2] * spread, mean + u[3] * spread
    start = tf.random.stateless_uniform([2, count, _MAX_STROKES], fold_in(seed, 2))
    x, y = start[0] * width, start[1] * height
    half = (12 + u[4] * 28) * scale / 2
    turn = tf.random.stateless_uniform([_MAX_SEGMENTS, count, _MAX_STROKES], fold_in(seed, 3))
    length = tf.random.stateless_normal([_MAX_SEGMENTS, count, _MAX_STROKES], fold_in(seed, 4))
    length = tf.clip_by_value(radius + length * (radius // 2), 0.0, 2 * radius)
    rows = tf.range(height, dtype=tf.float32)[:, None]
    columns = tf.range(width, dtype=tf.float32)[None]

    def draw_segment(
        number: tf.Tensor, x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Draw one segment of each stroke, and move to its end."""
        angle = low + turn[number] * (high - low)
        angle = tf.where(number % 2 == 0, 2 * math.pi - angle, angle)
        to_x = tf.clip_by_value(x + length[number] * tf.cos(angle), 0.0, width)
        to_y = tf.clip_by_value(y + length[number] * tf.sin(angle), 0.0, height)
        reach = tf.where(tf.cast(number, tf.float32) < segments, half, -1.0)
        for stroke in range(_MAX_STROKES):
            ends = (t[:, stroke, None, None] for t in (x, y, to_x, to_y, reach))
            x0, y0, x1, y1, half_width = ends
            across, down = x1 - x0, y1 - y0
            along = (columns - x0) * across + (rows - y0) * down
            # The nearest point of the segment, from 0 at its start to 1 at its end.
            at = tf.clip_by_value(along / tf.maximum(across**2 + down**2, 1e-3), 0.0, 1.0)
            distance = (columns - x0 - at * across) ** 2 + (rows - y0 - at * down) ** 2
            mask |= (distance <= half_width**2) & (half_width > 0)
        return number + 1, to_x, to_y, mask

    # A loop of the graph: to compile each segment by itself takes seconds.
    first = tf.constant(0), x, y, tf.zeros([count, height, width], tf.bool)
    *_, mask = tf.while_loop(lambda number, *_: number < _MAX_SEGMENTS, draw_segment, first)
    return mask


def _blobs(
    seed: tf.Tensor, shape: tuple[int, int, int], min_area: float, max_area: float
) -> tf.Tensor:
    """Draw blobs: smooth noise above the level that gives a random area; bool [B, H, W]."""
    count, height, width = shape
    area = tf.random.stateless_uniform([count], fold_in(seed, 1), min_area, max_area)
    noise = tf.random.stateless_normal([count, 9, 9, 1], fold_in(seed, 2))
    small = tf.sort(
        tf.reshape(tf.image.resize(noise, [_LEVEL_GRID, _LEVEL_GRID], "bicubic"), [count, -1])
    )
    rank = tf.cast((1 - area) * (_LEVEL_GRID * _LEVEL_GRID - 1), tf.int32)
    level = tf.gather(small, rank, batch_dims=1)
    return tf.image.resize(noise, [height, width], "bicubic")[..., 0] > level[:, None, None]


def _copied(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return each image shifted by an eighth to a half of its sides, edges mirrored."""
    count, height, width, _ = images.shape
    u = tf.random.stateless_uniform([2, count, 1], seed, -1.0, 1.0)

    def indices(side: int, draw: tf.Tensor) -> tf.Tensor:
        move = tf.sign(draw) * (1 / 8 + 3 / 8 * tf.abs(draw)) * side
        moved = tf.range(side) + tf.cast(move, tf.int32)
        moved = tf.where(moved < 0, -1 - moved, moved)
        return tf.where(moved >= side, 2 * side - 1 - moved, moved)

    return take(images, indices(height, u[0]), indices(width, u[1]))


def _spliced(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return for each image another of the batch."""
    count = images.shape[0]
    step = tf.random.stateless_uniform([], seed, 1, max(2, count), tf.int32)
    return tf.roll(images, step, 0)


def _resampled(images: tf.Tensor) -> tf.Tensor:
    """Return each image shrunk to a quarter of its sides and enlarged again."""
    _, height, width, _ = images.shape
    small = tf.image.resize(images, [max(1, height // 4), max(1, width // 4)], "area")
    return to_uint8(tf.image.resize(small, [height, width], "bicubic"))


def _smooth(images: tf.Tensor, holes: tf.Tensor) -> tf.Tensor:
    """Fill holes from their edges, from coarse to fine (push-pull; Gortler et al., 1996)."""
    weight = 1 - tf.cast(holes, tf.float32)
    color = tf.cast(images, tf.float32) * weight
    levels = [(color, weight)]
    while min(color.shape[1:3]) > 1:
        color, weight = map(_halved, levels[-1])
        levels.append((color, weight))
    filled = tf.zeros_like(levels[-1][0])
    for color, weight in reversed(levels):
        known = tf.math.divide_no_nan(color, weight)
        filled = tf.image.resize(filled, color.shape[1:3], "bilinear")
        trust = tf.minimum(weight * 4, 1)
        filled = known * trust + filled * (1 - trust)
    return to_uint8(filled)


def _halved(x: tf.Tensor) -> tf.Tensor:
    """Return means of 2 x 2 pixels; an odd edge is padded with zeros."""
    count, height, width, channels = x.shape
    x = tf.pad(x, [[0, 0], [0, height % 2], [0, width % 2], [0, 0]])
    x = tf.reshape(x, [count, -(-height // 2), 2, -(-width // 2), 2, channels])
    return tf.reduce_mean(x, [2, 4])


@tf.function(jit_compile=True, autograph=False)
def _soften(holes: tf.Tensor, edge: int) -> tf.Tensor:
    """Return the opacity of fills, float32 [B, H, W, 1].

    It is 0 outside the holes, above 0 inside, and 1 farther than `edge` pixels from their edge.
    """
    inside = tf.cast(holes, tf.float32)
    if edge <= 0:
        return inside
    height, width = inside.shape[1:3]
    padded = tf.pad(inside[..., 0], [[0, 0], [edge, edge], [edge, edge]], "SYMMETRIC")
    offsets = range(2 * edge + 1)
    rows = tf.add_n([padded[:, i : i + height] for i in offsets])
    near = tf.add_n([rows[:, :, i : i + width] for i in offsets])[..., None] / len(offsets) ** 2
    minimum = 1 / (edge + 1)
    return inside * (minimum + (1 - minimum) * tf.clip_by_value(2 * near - 1, 0, 1))
