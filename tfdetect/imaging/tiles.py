"""Large images by overlapping tiles, whose maps are joined again without seams."""

from collections.abc import Callable

import tensorflow as tf

_OVERLAP = 4  # neighboring tiles share at least this part of a side
_CHUNK = 16  # tiles worked on at a time, so that memory does not grow with the image


def by_tiles(
    images: tf.Tensor, size: tuple[int, int], small: str, look: Callable
) -> tuple[tf.Tensor, tf.Tensor]:
    """Looks at images by tiles of `size`.

    Args:
        images: [B, H, W, 3], any size.
        size: (height, width) of a tile in pixels.
        small: what happens to a smaller side: "tile" repeats the image, "pad" adds black.
        look: tiles [n, *size, 3] -> answers float32 [n, C], maps float32 [n, *size, 1].

    Returns:
        Answers float32 [B, tiles of an image, C] and maps float32 [B, H, W, 1]. Where tiles
        overlap, their maps are blended, each fading out over a quarter of a side.
    """
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    (top, left), images = _enlarge(images, size, small)
    count, tall, wide = tf.unstack(tf.shape(images)[:3])
    rows, columns = _starts(tall, size[0]), _starts(wide, size[1])
    down, across = tf.size(rows), tf.size(columns)

    def cut(number: tf.Tensor) -> tf.Tensor:
        image, place = number // (down * across), number % (down * across)
        corner = [image, rows[place // across], columns[place % across], 0]
        return tf.slice(images, corner, [1, *size, images.shape[-1]])[0]

    def step(begin: tf.Tensor, answers: tf.TensorArray, maps: tf.TensorArray) -> tuple:
        numbers = tf.range(begin, tf.minimum(begin + _CHUNK, count * down * across))
        spec = tf.TensorSpec([*size, images.shape[-1]], images.dtype)
        answer, drawn = look(tf.map_fn(cut, numbers, fn_output_signature=spec))
        place = begin // _CHUNK
        return begin + _CHUNK, answers.write(place, answer), maps.write(place, drawn[..., 0])

    arrays = [tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False) for _ in range(2)]
    _, answers, maps = tf.while_loop(
        lambda begin, *_: begin < count * down * across, step, [0, *arrays],
        parallel_iterations=1,
    )  # fmt: skip
    answers, maps = answers.concat(), maps.concat()
    answers = tf.reshape(answers, [count, down * across, tf.shape(answers)[-1]])
    maps = tf.reshape(maps, [count, down, across, *size])
    whole = _join(maps, rows, columns, tall, wide)
    return answers, whole[:, top : top + height, left : left + width, None]


def _enlarge(images: tf.Tensor, size: tuple[int, int], small: str) -> tuple[list, tf.Tensor]:
    """Images no smaller than a tile, and where in them the old ones begin."""
    corner = []
    for axis, wanted in enumerate(size, 1):
        there = tf.shape(images)[axis]
        missing = tf.maximum(wanted - there, 0)
        if small == "tile":
            corner.append(tf.constant(0))
            images = tf.gather(images, tf.range(there + missing) % there, axis=axis)
            continue
        corner.append(missing // 2)
        paddings = [[0, 0]] * 4
        paddings[axis] = [missing // 2, missing - missing // 2]
        images = tf.pad(images, paddings)
    return corner, images


def _starts(length: tf.Tensor, side: int) -> tf.Tensor:
    """Where tiles begin, evenly spread, int32 [n]."""
    slack, step = length - side, side - side // _OVERLAP
    count = 1 + -(-slack // step)
    places = tf.linspace(0.0, tf.cast(slack, tf.float32), count)
    return tf.cast(tf.round(places), tf.int32)


def _join(
    maps: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Maps [B, rows, columns, h, w] of tiles as one map [B, H, W]."""
    count, down, across, tall, wide = tf.unstack(tf.shape(maps))
    whole = tf.transpose(maps, [0, 1, 3, 2, 4])
    whole = tf.reshape(whole, [count, down * tall, across * wide])
    for axis, (starts, side, length) in enumerate(
        ((rows, maps.shape[3], height), (columns, maps.shape[4], width)), 1
    ):
        first, second, share = _blend(starts, side, length)
        share = share[:, None] if axis == 1 else share
        first, second = (tf.gather(whole, places, axis=axis) for places in (first, second))
        whole = first * (1 - share) + second * share
    return whole


def _blend(starts: tf.Tensor, side: int, length: tf.Tensor) -> tuple:
    """For each place along a side: where it lies in two tiles, one after the other, and the
    second's share.
    """
    fade = max(1, side // _OVERLAP)
    place = tf.range(length)
    # The middle of each overlap is where the second tile takes over.
    begins = (starts[1:] + starts[:-1] + side - fade) // 2
    begun = tf.searchsorted(begins, place, side="right")
    first = tf.maximum(begun - 1, 0)
    since = place - tf.gather(tf.concat([[0], begins], 0), begun)
    share = tf.clip_by_value((tf.cast(since, tf.float32) + 0.5) / fade, 0, 1)
    share = tf.where(begun == 0, 0.0, share)

    def where(tile: tf.Tensor) -> tf.Tensor:
        return tile * side + tf.clip_by_value(place - tf.gather(starts, tile), 0, side - 1)

    return where(first), where(begun), share
