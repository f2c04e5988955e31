"""Resizing, and random flips, shifts and warps of whole batches with static shapes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tensorflow as tf
from pydantic import Field

from tfdetect.core.data_settings import RESIZING_BIAS, Equalize, cuts_windows
from tfdetect.core.errors import UserError
from tfdetect.core.options import Fraction, FractionAbove0, FractionBelow1
from tfdetect.core.run_info import View
from tfdetect.imaging.draws import uniform
from tfdetect.imaging.equalize import equalize_images
from tfdetect.imaging.resampling import antialiased, to_uint8

fold_in = tf.random.experimental.stateless_fold_in  # (seed, number) -> seed of another draw


def resize(
    image: tf.Tensor, size: tuple[int, int], policy: str, nearest: bool = False
) -> tf.Tensor:
    """Resize images with an antialiased bilinear filter; images of that size are unchanged.

    Args:
        image: uint8 or float [H, W, C] or [B, H, W, C] in 0..255.
        size: (height, width) in pixels.
        policy: "stretch" ignores the aspect ratio; "crop" scales until the image covers the
            size and keeps the center; "pad" scales until the image fits and pads with black.
            "window_tile" and "window_pad" cut the center out without resampling, and repeat
            smaller images or pad them with black.
        nearest: use the nearest pixel instead of a filter, for masks.

    Returns:
        uint8 [*size, C] or [B, *size, C], rounded.
    """
    if cuts_windows(policy):
        return window(to_uint8(image), size, policy, (0.5, 0.5))
    height, width = size
    shape = tf.shape(image)
    current = shape[-3:-1]

    def change() -> tf.Tensor:
        target = _scaled(current, size, policy)

        if nearest:
            pixels = tf.image.resize(image, target, "nearest")
        else:  # a filter changes nothing where no side shrinks, and takes longer
            pixels = RESIZING_BIAS + tf.cond(
                tf.reduce_all(target >= current),
                lambda: tf.image.resize(image, target),
                lambda: antialiased(image, target),
            )
        if policy == "crop":
            pixels = _center(pixels, [height, width])
        elif policy == "pad":
            pixels = _padded(pixels, [height, width])
        return to_uint8(pixels)

    result = tf.cond(tf.reduce_all(current == [height, width]), lambda: to_uint8(image), change)
    result.set_shape([*image.shape[:-3], height, width, image.shape[-1]])
    return result


def restore(masks: tf.Tensor, original: tf.Tensor, policy: str) -> tf.Tensor:
    """Resize masks of resized images to the size that the images had: the inverse of `resize`.

    Args:
        masks: float32 [B, h, w, 1], masks of images that were resized to [h, w].
        original: int32 [2], height and width of the images before.
        policy: "stretch", "crop" or "pad".

    Returns:
        float32 [B, *original, 1]; 0 where the policy cut the image off.
    """
    if policy != "stretch":
        scaled = _scaled(original, masks.shape[1:3], policy)
        masks = tf.image.resize_with_crop_or_pad(masks, scaled[0], scaled[1])
    return tf.image.resize(masks, original)


def _center(image: tf.Tensor, size: list[int]) -> tf.Tensor:
    """Return the center of an image that is nowhere smaller.

    TensorFlow's `resize_with_crop_or_pad` does this too, in ten times as many operations.
    """
    top, left = tf.unstack((tf.shape(image)[-3:-1] - size) // 2)
    return image[..., top : top + size[0], left : left + size[1], :]


def _padded(image: tf.Tensor, size: list[int]) -> tf.Tensor:
    """Return an image that is nowhere larger in the middle of a black one."""
    missing = size - tf.shape(image)[-3:-1]
    sides = tf.stack([missing // 2, missing - missing // 2], axis=1)
    around = [[0, 0]] * (image.shape.rank - 3)
    return tf.pad(image, tf.concat([*([around] if around else []), sides, [[0, 0]]], axis=0))


def _scaled(current: tf.Tensor, size: tuple[int, int], policy: str) -> tf.Tensor:
    """Return the size, int32 [2], to which an image is scaled before it is cut or padded."""
    target = tf.constant([*size])
    if policy == "stretch":
        return target
    ratios = tf.cast(target, tf.float32) / tf.cast(current, tf.float32)
    ratio = tf.reduce_max(ratios) if policy == "crop" else tf.reduce_min(ratios)
    scaled = tf.cast(tf.round(tf.cast(current, tf.float32) * ratio), tf.int32)
    return tf.maximum(scaled, 1 if policy == "pad" else target)


def uncropped(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Return the part of an image [H, W, C] of which `resize` with "crop" keeps something."""
    current = tf.shape(image)[:2]
    scaled = tf.cast(_scaled(current, size, "crop"), tf.float32)
    parts = tf.cast(current, tf.float32) * tf.constant([*size], tf.float32) / scaled
    kept = tf.minimum(tf.cast(tf.math.ceil(parts), tf.int32), current)
    return tf.image.resize_with_crop_or_pad(image, kept[0], kept[1])


def window(
    image: tf.Tensor, size: tuple[int, int], policy: str, position: tuple[float, float] | tf.Tensor
) -> tf.Tensor:
    """Cut a window out of an image without resampling.

    Args:
        image: [H, W, C] or [B, H, W, C].
        size: (height, width) of the window in pixels.
        policy: what to do with a side that is too short: "window_tile" repeats the image,
            "window_pad" adds black on both sides.
        position: where the window lies, down and across, from 0 to 1; 0.5 is the center.

    Returns:
        [*size, C] or [B, *size, C], of the image's type.
    """
    fractions = tf.unstack(tf.cast(position, tf.float32))
    for axis, (wanted, where) in enumerate(zip(size, fractions), -3):
        length = tf.shape(image)[axis]
        start = window_start(length, wanted, where)
        if policy == "window_tile":
            image = tf.gather(image, (start + tf.range(wanted)) % length, axis=axis)
            continue
        missing = tf.maximum(wanted - length, 0)
        paddings = [[0, 0]] * image.shape.rank
        paddings[axis] = [missing // 2, missing - missing // 2]
        image = tf.gather(tf.pad(image, paddings), start + tf.range(wanted), axis=axis)
    image.set_shape([*image.shape[:-3], *size, image.shape[-1]])
    return image


def window_start(length: tf.Tensor, wanted: int | tf.Tensor, where: float | tf.Tensor) -> tf.Tensor:
    """Return where a window begins along a side, int32; 0 on a side that is too short.

    Args:
        length: the side of the image in pixels, int32.
        wanted: the side of the window.
        where: its position, from 0 to 1; 0.5 is the center.
    """
    slack = length - wanted
    start = tf.cast(tf.floor(where * tf.cast(slack + 1, tf.float32)), tf.int32)
    return tf.clip_by_value(start, 0, tf.maximum(slack, 0))


def windows(
    image: tf.Tensor,
    size: tuple[int, int],
    policy: str,
    count: int,
    equalizing: Equalize | None = None,
) -> tf.Tensor:
    """Return the parts of an image that a detector is given.

    Args:
        image: uint8 or float [H, W, C] or [B, H, W, C] in 0..255.
        size: (height, width) of a part in pixels.
        policy: how to resize; see `resize`.
        count: 1 for the result of `resize`; with a window policy also 5 for the center and the
            corners, or 9 for a grid of 3 x 3.
        equalizing: how the image is cropped and encoded before.

    Returns:
        uint8 [count, *size, C] or [B, count, *size, C].
    """
    if equalizing is not None:
        image = equalize_images(to_uint8(image), equalizing)
    if count == 1:
        parts = [resize(image, size, policy)]
    else:
        positions = [(y, x) for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)]
        positions = positions[::2] if count == 5 else positions
        parts = [window(to_uint8(image), size, policy, position) for position in positions]
    return tf.stack(parts, axis=-4)


def view_parts(image: tf.Tensor, views: Sequence[View]) -> list[tf.Tensor]:
    """Return the `windows` that a detector is given of an image, for each of its views."""
    return [windows(image, v.size, v.policy, v.crops, v.equalize) for v in views]


def random_flip(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    vertical_probability: Fraction = 0.0,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Flip each image left to right, and upside down, with a probability each.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: probability of a flip left to right, 0 to 1.
        vertical_probability: probability of a flip upside down, 0 to 1.
        masks: uint8 [B, H, W, 1], or None.

    Returns:
        Images uint8 [B, H, W, 3] and masks.
    """
    count, height, width, _ = images.shape
    chosen = uniform([count, 1], seed) < probability
    columns = tf.range(width)
    rows = tf.tile(tf.range(height)[None], [count, 1])
    if vertical_probability:
        u = uniform([count, 1], fold_in(seed, 1))
        rows = tf.where(u < vertical_probability, height - 1 - rows, rows)
    return _take_both(images, masks, rows, tf.where(chosen, width - 1 - columns, columns))


def random_shift(
    images: tf.Tensor,
    seed: tf.Tensor,
    pixels: Annotated[int, Field(ge=0)] = 2,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Shift each image by whole pixels, without interpolation; edges are mirrored.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        pixels: largest shift in pixels along each axis, in both directions; at most a side.
        masks: uint8 [B, H, W, 1], or None.

    Returns:
        Images uint8 [B, H, W, 3] and masks.
    """
    count, height, width, _ = images.shape
    down, across = tf.unstack(uniform([2, count, 1], seed, -pixels, pixels + 1, tf.int32, axis=1))

    def mirrored(indices: tf.Tensor, size: int) -> tf.Tensor:
        indices = tf.where(indices < 0, -1 - indices, indices)
        return tf.where(indices >= size, 2 * size - 1 - indices, indices)

    rows = mirrored(tf.range(height) + down, height)
    columns = mirrored(tf.range(width) + across, width)
    return _take_both(images, masks, rows, columns)


def _check_shift(
    params: dict[str, Any], size: tuple[int, int], with_masks: bool, classes: int
) -> None:
    if params.get("pixels", 0) > min(size):
        raise UserError(
            f"data.augment, shift.pixels: at most the image's side, {min(size)} (data.image_size). "
            f"Received: {params['pixels']}."
        )


random_shift.check = _check_shift  # type: ignore[attr-defined]


def _take_both(
    images: tf.Tensor, masks: tf.Tensor | None, rows: tf.Tensor, columns: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return rows and columns of images and, if there are any, of their masks."""
    return take(images, rows, columns), None if masks is None else take(masks, rows, columns)


def in_rectangles(
    size: tuple[int, int], top: tf.Tensor, left: tf.Tensor, tall: tf.Tensor, wide: tf.Tensor
) -> tf.Tensor:
    """Return which pixels are inside of a rectangle, for each image of a batch.

    Args:
        size: (height, width) of the images in pixels.
        top, left: float32 [B], where the rectangle begins.
        tall, wide: float32 [B], its sides.

    Returns:
        bool [B, H, W].
    """
    rows, columns = (tf.range(side, dtype=tf.float32) for side in size)
    down = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    across = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    return down[:, :, None] & across[:, None]


@tf.function(jit_compile=True, autograph=False)
def take(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Return rows and columns of each image.

    Args:
        images: [B, H, W, C].
        rows: int32 [B, h].
        columns: int32 [B, w].

    Returns:
        [B, h, w, C], of the images' type.
    """
    return _at(images, rows[:, :, None], columns[:, None])


def random_warp(
    images: tf.Tensor,
    seed: tf.Tensor,
    size: tuple[int, int],
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0,
    shift: Fraction = 0.0,
    zoom: FractionBelow1 = 0.0,
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0,
    flip: bool = False,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Rotate, shift, zoom, shear, flip and resize in one bilinear interpolation.

    The parameters mean what they mean in Keras's ImageDataGenerator. Outside the image its
    edge is repeated.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        size: (height, width) of the result in pixels.
        rotation: largest angle in degrees, in both directions, 0 to 180.
        shift: largest shift along each axis, as a fraction of the side, in both directions.
        zoom: the scale of each axis is drawn from 1 - zoom to 1 + zoom; below 1.
        shear: largest shear angle in degrees, in both directions, below 90.
        flip: flip left to right with probability 0.5.
        masks: uint8 [B, H, W, 1], or None; the nearest pixel is used.

    Returns:
        Images uint8 [B, *size, 3] and masks.
    """
    count, height, width, _ = images.shape
    u = tf.unstack(uniform([7, count], seed, -1.0, 1.0, axis=1))
    affine = Affine(
        angle=u[0] * (rotation * math.pi / 180), shear=u[1] * (shear * math.pi / 180),
        down=u[2] * shift * height, across=u[3] * shift * width,
        zoom_y=1 + u[4] * zoom, zoom_x=1 + u[5] * zoom, mirror=(u[6] < 0) & flip,
    )  # fmt: skip
    return warp(images, size, affine, masks)


def random_crop(
    images: tf.Tensor,
    seed: tf.Tensor,
    size: tuple[int, int],
    min_area: FractionAbove0 = 0.5,
    max_aspect_ratio: Annotated[float, Field(ge=1, le=100)] = 4 / 3,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Cut a random window out of each image and resize it, in one bilinear interpolation.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        size: (height, width) of the result in pixels.
        min_area: smallest area of the window, as a fraction of the image; it is drawn from
            this to 1.
        max_aspect_ratio: largest change of the aspect ratio, in both directions, 1 to 100; 1 keeps
            it.
        masks: uint8 [B, H, W, 1], or None; the nearest pixel is used.

    Returns:
        Images uint8 [B, *size, 3] and masks.
    """
    count, height, width, _ = images.shape
    u = tf.unstack(uniform([4, count], seed, axis=1))
    area = min_area + u[0] * (1 - min_area)
    stretch = tf.exp((u[1] * 2 - 1) * math.log(max_aspect_ratio))
    tall, wide = tf.minimum(tf.sqrt(area * stretch), 1.0), tf.minimum(tf.sqrt(area / stretch), 1.0)
    down, across = (u[2] - 0.5) * (1 - tall) * height, (u[3] - 0.5) * (1 - wide) * width
    return warp(images, size, Affine(down=down, across=across, zoom_y=tall, zoom_x=wide), masks)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """An affine map of each image of a batch; its parts have ImageDataGenerator's order.

    Attributes:
        angle: float32 [B], rotation in radians.
        shear: float32 [B], shear angle in radians.
        down: float32 [B], vertical shift in pixels of the input.
        across: float32 [B], horizontal shift in pixels of the input.
        zoom_y: float32 [B], vertical scale; above 1 shows more of the image, smaller.
        zoom_x: float32 [B], horizontal scale.
        mirror: bool [B], whether to flip left to right.
    """

    angle: tf.Tensor | float = 0.0
    shear: tf.Tensor | float = 0.0
    down: tf.Tensor | float = 0.0
    across: tf.Tensor | float = 0.0
    zoom_y: tf.Tensor | float = 1.0
    zoom_x: tf.Tensor | float = 1.0
    mirror: tf.Tensor | bool = False


def warp(
    images: tf.Tensor, size: tuple[int, int], affine: Affine, masks: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Warp each image by one affine map.

    Args:
        images: uint8 [B, H, W, 3].
        size: (height, width) of the result in pixels.
        affine: how.
        masks: uint8 [B, H, W, 1], or None; the nearest pixel is used.

    Returns:
        Images uint8 [B, *size, 3] and masks. Outside the image its edge is repeated.
    """
    count, height, width, _ = images.shape
    down, across, shear = affine.down, affine.across, affine.shear
    cos, sin = tf.cos(affine.angle), tf.sin(affine.angle)
    scale_y = affine.zoom_y * (height / size[0])
    scale_x = affine.zoom_x * tf.where(affine.mirror, -1.0, 1.0) * (width / size[1])
    # From output to input pixels, about the center: rotation (shift + shear (zoom x)).
    yy, yx = cos * scale_y, -(cos * tf.sin(shear) + sin * tf.cos(shear)) * scale_x
    xy, xx = sin * scale_y, (cos * tf.cos(shear) - sin * tf.sin(shear)) * scale_x
    middle_y, middle_x = (size[0] - 1) / 2, (size[1] - 1) / 2
    y0 = (height - 1) / 2 + cos * down - sin * across - yy * middle_y - yx * middle_x
    x0 = (width - 1) / 2 + sin * down + cos * across - xy * middle_y - xx * middle_x
    maps = tf.stack([tf.broadcast_to(each, [count]) for each in (yy, yx, y0, xy, xx, x0)])
    nearest = None if masks is None else _nearest(masks, maps, size)
    return _bilinear(images, maps, size), nearest


# One fused loop, seven times as fast on CPUs as ImageProjectiveTransformV3.
@tf.function(jit_compile=True, autograph=False)
def _bilinear(images: tf.Tensor, maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Return bilinear samples of each image under its affine map, float32 [6, B]: y, then x."""
    _, height, width, _ = images.shape
    y, x = _coordinates(images, maps, size)
    top, left = tf.cast(y, tf.int32), tf.cast(x, tf.int32)
    bottom, right = tf.minimum(top + 1, height - 1), tf.minimum(left + 1, width - 1)
    down = (y - tf.cast(top, tf.float32))[..., None]
    across = (x - tf.cast(left, tf.float32))[..., None]
    pixels = tf.cast(images, tf.float32)
    above = _at(pixels, top, left) * (1 - across) + _at(pixels, top, right) * across
    below = _at(pixels, bottom, left) * (1 - across) + _at(pixels, bottom, right) * across
    return tf.cast(above * (1 - down) + below * down + 0.5, tf.uint8)


@tf.function(jit_compile=True, autograph=False)
def _nearest(images: tf.Tensor, maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Return the nearest pixels of each image under its affine map, float32 [6, B]: y, then x."""
    y, x = _coordinates(images, maps, size)
    return _at(images, tf.cast(y + 0.5, tf.int32), tf.cast(x + 0.5, tf.int32))


def _coordinates(
    images: tf.Tensor, maps: tf.Tensor, size: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return where each pixel of the result lies in the image: y and x, float32 [B, *size]."""
    _, height, width, _ = images.shape
    yy, yx, y0, xy, xx, x0 = tf.unstack(maps[:, :, None, None])
    row = tf.range(size[0], dtype=tf.float32)[:, None]
    column = tf.range(size[1], dtype=tf.float32)
    y = tf.clip_by_value(yy * row + yx * column + y0, 0.0, height - 1.0)
    x = tf.clip_by_value(xy * row + xx * column + x0, 0.0, width - 1.0)
    return y, x


def _at(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Return the pixels [B, h, w, c] at rows and columns int32 [B, h, w]."""
    count, height, width, channels = images.shape
    first = tf.range(count)[:, None, None] * (height * width)
    return tf.gather(tf.reshape(images, [-1, channels]), first + rows * width + columns)
