"""Splits large images into overlapping tiles, and joins the tiles' maps without seams."""

from collections.abc import Callable

import tensorflow as tf

from tfdetect.core.data_settings import TILE_BATCH, TILE_OVERLAP


def by_tiles(
    images: tf.Tensor, size: tuple[int, int], policy: str, predict: Callable
) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply a detector to images by tiles.

    Args:
        images: [B, H, W, 3], of any size.
        size: (height, width) of a tile in pixels.
        policy: what to do with a side that is too short: "window_tile" repeats the image,
            "window_pad" adds black.
        predict: from tiles [n, *size, 3] to outputs float32 [n, C] and maps float32
            [n, *size, 1].

    Returns:
        Outputs float32 [B, tiles of an image, C] and maps float32 [B, H, W, 1]. Where tiles
        overlap, their maps are blended; each fades out over a quarter of a side.
    """
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    (top, left), images = _enlarge(images, size, policy)
    count, tall, wide = tf.unstack(tf.shape(images)[:3])
    rows, columns = _starts(tall, size[0]), _starts(wide, size[1])
    down, across = tf.size(rows), tf.size(columns)

    def cut(number: tf.Tensor) -> tf.Tensor:
        image, tile = number // (down * across), number % (down * across)
        corner = [image, rows[tile // across], columns[tile % across], 0]
        return tf.slice(images, corner, [1, *size, images.shape[-1]])[0]

    def step(begin: tf.Tensor, outputs: tf.TensorArray, maps: tf.TensorArray) -> tuple:
        numbers = tf.range(begin, tf.minimum(begin + TILE_BATCH, count * down * across))
        spec = tf.TensorSpec([*size, images.shape[-1]], images.dtype)
        output, predicted = predict(tf.map_fn(cut, numbers, fn_output_signature=spec))
        chunk = begin // TILE_BATCH
        outputs, maps = outputs.write(chunk, output), maps.write(chunk, predicted[..., 0])
        return begin + TILE_BATCH, outputs, maps

    arrays = [tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False) for _ in range(2)]
    _, outputs, maps = tf.while_loop(
        lambda begin, *_: begin < count * down * across, step, [0, *arrays], parallel_iterations=1
    )
    outputs, maps = outputs.concat(), maps.concat()
    outputs = tf.reshape(outputs, [count, down * across, tf.shape(outputs)[-1]])
    maps = tf.reshape(maps, [count, down, across, *size])
    whole = _join(maps, rows, columns, tall, wide)
    return outputs, whole[:, top : top + height, left : left + width, None]


def _enlarge(images: tf.Tensor, size: tuple[int, int], policy: str) -> tuple[list, tf.Tensor]:
    """Return images no smaller than a tile, and where the given ones begin in them."""
    corner = []
    for axis, wanted in enumerate(size, 1):
        length = tf.shape(images)[axis]
        missing = tf.maximum(wanted - length, 0)
        if policy == "window_tile":
            corner.append(tf.constant(0))
            images = tf.gather(images, tf.range(length + missing) % length, axis=axis)
            continue
        corner.append(missing // 2)
        paddings = [[0, 0]] * 4
        paddings[axis] = [missing // 2, missing - missing // 2]
        images = tf.pad(images, paddings)
    return corner, images


def _starts(length: tf.Tensor, side: int) -> tf.Tensor:
    """Return where tiles begin, evenly spaced, int32 [n]."""
    slack, step = length - side, side - side // TILE_OVERLAP
    count = 1 + -(-slack // step)
    starts = tf.linspace(0.0, tf.cast(slack, tf.float32), count)
    return tf.cast(tf.round(starts), tf.int32)


def _join(
    maps: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Join the maps [B, rows, columns, h, w] of tiles to one map [B, H, W]."""
    count, down, across, tall, wide = tf.unstack(tf.shape(maps))
    whole = tf.transpose(maps, [0, 1, 3, 2, 4])
    whole = tf.reshape(whole, [count, down * tall, across * wide])
    for axis, (starts, side, length) in enumerate(
        ((rows, maps.shape[3], height), (columns, maps.shape[4], width)), 1
    ):
        first, second, weight = _blend(starts, side, length)
        weight = weight[:, None] if axis == 1 else weight
        first, second = (tf.gather(whole, indices, axis=axis) for indices in (first, second))
        whole = first * (1 - weight) + second * weight
    return whole


def _blend(starts: tf.Tensor, side: int, length: tf.Tensor) -> tuple:
    """Return for each position along a side its index in two tiles and the second's weight."""
    fade = max(1, side // TILE_OVERLAP)
    position = tf.range(length)
    # The second tile takes over in the middle of each overlap.
    begins = (starts[1:] + starts[:-1] + side - fade) // 2
    begun = tf.searchsorted(begins, position, side="right")
    first = tf.maximum(begun - 1, 0)
    since = position - tf.gather(tf.concat([[0], begins], 0), begun)
    weight = tf.clip_by_value((tf.cast(since, tf.float32) + 0.5) / fade, 0, 1)
    weight = tf.where(begun == 0, 0.0, weight)

    def where(tile: tf.Tensor) -> tf.Tensor:
        return tile * side + tf.clip_by_value(position - tf.gather(starts, tile), 0, side - 1)

    return where(first), where(begun), weight
