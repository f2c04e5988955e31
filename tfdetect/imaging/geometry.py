"""Resizing, and random flips, shifts and warps of whole batches, whose shapes are static."""

import math

import tensorflow as tf

fold_in = tf.random.experimental.stateless_fold_in  # (seed, number): a seed for another draw


def resize(
    image: tf.Tensor, size: tuple[int, int], policy: str, nearest: bool = False
) -> tf.Tensor:
    """Brings to `size`, with an antialiased bilinear filter; equal sizes pass untouched.

    Args:
        image: uint8 or float [H, W, C] or [B, H, W, C], 0..255.
        size: (height, width) in pixels.
        policy: "stretch" ignores the aspect ratio; "crop" scales until the image
            covers the size and cuts the middle; "pad" scales until it fits and
            pads with black. "window_tile" and "window_pad" cut the middle out without
            resampling, and tile a smaller image or pad it with black.
        nearest: takes the nearest pixel instead, for masks.

    Returns:
        uint8 of that size, rounded.
    """
    if policy.startswith("window"):
        return window(to_uint8(image), size, policy.removeprefix("window_"), (0.5, 0.5))
    height, width = size
    method = "nearest" if nearest else "bilinear"
    shape = tf.shape(image)
    now = shape[-3:-1]

    def change() -> tf.Tensor:
        pixels = tf.image.resize(image, _scaled(now, size, policy), method, antialias=not nearest)
        if policy != "stretch":
            pixels = tf.image.resize_with_crop_or_pad(pixels, height, width)
        return to_uint8(pixels)

    result = tf.cond(tf.reduce_all(now == [height, width]), lambda: to_uint8(image), change)
    result.set_shape([*image.shape[:-3], height, width, image.shape[-1]])
    return result


def restore(masks: tf.Tensor, now: tf.Tensor, policy: str) -> tf.Tensor:
    """Brings masks of resized images back to the images' own size: the inverse of `resize`.

    Args:
        masks: float32 [B, h, w, 1], of images resized to [h, w].
        now: int32 [2], height and width that the images had.
        policy: "stretch", "crop" or "pad".

    Returns:
        float32 [B, *now, 1]; 0 where the policy cut the image off.
    """
    if policy != "stretch":
        scaled = _scaled(now, masks.shape[1:3], policy)
        masks = tf.image.resize_with_crop_or_pad(masks, scaled[0], scaled[1])
    return tf.image.resize(masks, now)


def _scaled(now: tf.Tensor, size: tuple[int, int], policy: str) -> tf.Tensor:
    """The size, int32 [2], to which an image is scaled before it is cut or padded to `size`."""
    target = tf.constant([*size])
    if policy == "stretch":
        return target
    ratios = tf.cast(target, tf.float32) / tf.cast(now, tf.float32)
    ratio = tf.reduce_max(ratios) if policy == "crop" else tf.reduce_min(ratios)
    scaled = tf.cast(tf.round(tf.cast(now, tf.float32) * ratio), tf.int32)
    return tf.maximum(scaled, 1 if policy == "pad" else target)


def window(
    image: tf.Tensor, size: tuple[int, int], small: str, place: tuple[float, float] | tf.Tensor
) -> tf.Tensor:
    """Cuts a window out of an image without resampling.

    Args:
        image: [H, W, C] or [B, H, W, C].
        size: (height, width) of the window in pixels.
        small: what happens to a smaller side: "tile" repeats the image, "pad" adds black
            on both sides.
        place: where the window lies, down and across, from 0 to 1; 0.5 is the middle.
    """
    for axis, (wanted, where) in enumerate(zip(size, tf.unstack(tf.cast(place, tf.float32))), -3):
        there = tf.shape(image)[axis]
        slack = there - wanted
        start = tf.cast(tf.floor(where * tf.cast(slack + 1, tf.float32)), tf.int32)
        if small == "tile":
            start = tf.clip_by_value(start, 0, tf.maximum(slack, 0))
            image = tf.gather(image, (start + tf.range(wanted)) % there, axis=axis)
            continue
        before = tf.maximum(-slack, 0) // 2
        paddings = [[0, 0]] * image.shape.rank
        paddings[axis] = [before, tf.maximum(-slack, 0) - before]
        start = tf.clip_by_value(start, 0, tf.maximum(slack, 0))
        image = tf.gather(tf.pad(image, paddings), start + tf.range(wanted), axis=axis)
    image.set_shape([*image.shape[:-3], *size, image.shape[-1]])
    return image


def windows(image: tf.Tensor, size: tuple[int, int], policy: str, count: int) -> tf.Tensor:
    """What of an image a detector sees: 1, or with a window policy 5 or 9 windows.

    Args:
        image: uint8 or float [H, W, C] or [B, H, W, C], 0..255.
        size, policy: as for `resize`.
        count: 1, what `resize` gives; 5, the middle and the corners; 9, a grid of 3 x 3.

    Returns:
        uint8 [count, *size, C] or [B, count, *size, C].
    """
    if count == 1:
        parts = [resize(image, size, policy)]
    else:
        places = [(y, x) for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)]
        small = policy.removeprefix("window_")
        places = places[::2] if count == 5 else places
        parts = [window(to_uint8(image), size, small, place) for place in places]
    return tf.stack(parts, axis=-4)


def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Rounds and clips 0..255 to uint8; uint8 passes untouched."""
    if pixels.dtype == tf.uint8:
        return pixels
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)


def random_flip(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: float = 0.5,
    vertical: float = 0.0,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Mirrors each image left to right with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        vertical: probability of turning it upside down.
        masks: uint8 [B, H, W, 1], or none.

    Returns:
        Images and masks.
    """
    count, height, width, _ = images.shape
    chosen = tf.random.stateless_uniform([count, 1], seed) < probability
    columns = tf.range(width)
    rows = tf.tile(tf.range(height)[None], [count, 1])
    if vertical:
        turned = tf.random.stateless_uniform([count, 1], fold_in(seed, 1)) < vertical
        rows = tf.where(turned, height - 1 - rows, rows)
    return _take_both(images, masks, rows, tf.where(chosen, width - 1 - columns, columns))


def random_shift(
    images: tf.Tensor, seed: tf.Tensor, pixels: int = 2, masks: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Shifts each image by whole pixels, so that nothing is interpolated; edges are mirrored.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        pixels: largest shift, either way, each axis.
        masks: uint8 [B, H, W, 1], or none.

    Returns:
        Images and masks.
    """
    count, height, width, _ = images.shape
    down, across = tf.unstack(
        tf.random.stateless_uniform([2, count, 1], seed, -pixels, pixels + 1, tf.int32)
    )

    def mirrored(places: tf.Tensor, size: int) -> tf.Tensor:
        places = tf.where(places < 0, -1 - places, places)
        return tf.where(places >= size, 2 * size - 1 - places, places)

    rows = mirrored(tf.range(height) + down, height)
    columns = mirrored(tf.range(width) + across, width)
    return _take_both(images, masks, rows, columns)


def _take_both(images: tf.Tensor, masks: tf.Tensor | None, rows: tf.Tensor, columns: tf.Tensor):
    """Rows and columns of images and, where there are any, of their masks."""
    return _take(images, rows, columns), None if masks is None else _take(masks, rows, columns)


@tf.function(jit_compile=True)
def _take(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Rows and columns of each image, int32 [B, H] and [B, W]."""
    return _at(images, rows[:, :, None], columns[:, None])


def random_warp(
    images: tf.Tensor,
    seed: tf.Tensor,
    size: tuple[int, int],
    rotation: float = 0.0,
    shift: float = 0.0,
    zoom: float = 0.0,
    shear: float = 0.0,
    flip: bool = False,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Rotates, shifts, zooms, shears, mirrors and enlarges in one bilinear interpolation.

    The parameters have the meaning they have in Keras's ImageDataGenerator;
    pixels from outside repeat the nearest edge.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        size: (height, width) of the result in pixels.
        rotation: largest angle in degrees, either way.
        shift: largest shift as a share of the side, either way, each axis.
        zoom: scale is drawn from 1 - zoom to 1 + zoom, each axis.
        shear: largest shear angle in degrees, either way.
        flip: mirror left to right with probability 0.5.
        masks: uint8 [B, H, W, 1], or none; sampled at the nearest pixel.

    Returns:
        Images uint8 [B, *size, 3] and masks.
    """
    count, height, width, _ = images.shape
    u = tf.unstack(tf.random.stateless_uniform([7, count], seed, -1.0, 1.0))
    return warp(
        images,
        size,
        angle=u[0] * (rotation * math.pi / 180),
        shear=u[1] * (shear * math.pi / 180),
        down=u[2] * shift * height,
        across=u[3] * shift * width,
        zoom_y=1 + u[4] * zoom,
        zoom_x=1 + u[5] * zoom,
        mirror=(u[6] < 0) & flip,
        masks=masks,
    )


def random_crop(
    images: tf.Tensor,
    seed: tf.Tensor,
    size: tuple[int, int],
    lowest: float = 0.5,
    ratio: float = 4 / 3,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Cuts a random window out of each image and resizes it, in one bilinear interpolation.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        size: (height, width) of the result in pixels.
        lowest: the window's share of the image's area is drawn from this to 1.
        ratio: largest ratio of its sides' shares, either way.
        masks: uint8 [B, H, W, 1], or none; sampled at the nearest pixel.

    Returns:
        Images uint8 [B, *size, 3] and masks.
    """
    count, height, width, _ = images.shape
    u = tf.unstack(tf.random.stateless_uniform([4, count], seed))
    area = lowest + u[0] * (1 - lowest)
    stretch = tf.exp((u[1] * 2 - 1) * math.log(ratio))
    tall, wide = tf.minimum(tf.sqrt(area * stretch), 1.0), tf.minimum(tf.sqrt(area / stretch), 1.0)
    zero = tf.zeros(count)
    return warp(
        images, size, zero, zero, (u[2] - 0.5) * (1 - tall) * height,
        (u[3] - 0.5) * (1 - wide) * width, tall, wide, tf.zeros(count, tf.bool), masks,
    )  # fmt: skip


def warp(
    images, size, angle, shear, down, across, zoom_y, zoom_x, mirror, masks=None
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Warps each image by one affine map, with ImageDataGenerator's order of its parts.

    Args:
        images: uint8 [B, H, W, 3].
        size: (height, width) of the result in pixels.
        angle, shear: float32 [B], radians.
        down, across: float32 [B], pixels of the input.
        zoom_y, zoom_x: float32 [B]; above 1 shows more of the image, smaller.
        mirror: bool [B], left to right.
        masks: uint8 [B, H, W, 1], or none; sampled at the nearest pixel.

    Returns:
        Images uint8 [B, *size, 3] and masks; pixels from outside repeat the nearest edge.
    """
    _, height, width, _ = images.shape
    cos, sin = tf.cos(angle), tf.sin(angle)
    scale_y = zoom_y * (height / size[0])
    scale_x = zoom_x * tf.where(mirror, -1.0, 1.0) * (width / size[1])
    # From output to input pixels, about the middle: rotation (shift + shear (zoom x)).
    yy, yx = cos * scale_y, -(cos * tf.sin(shear) + sin * tf.cos(shear)) * scale_x
    xy, xx = sin * scale_y, (cos * tf.cos(shear) - sin * tf.sin(shear)) * scale_x
    middle_y, middle_x = (size[0] - 1) / 2, (size[1] - 1) / 2
    y0 = (height - 1) / 2 + cos * down - sin * across - yy * middle_y - yx * middle_x
    x0 = (width - 1) / 2 + sin * down + cos * across - xy * middle_y - xx * middle_x
    maps = tf.stack([yy, yx, y0, xy, xx, x0])
    nearest = None if masks is None else _nearest(masks, maps, size)
    return _bilinear(images, maps, size), nearest


# One fused loop, seven times as fast on CPUs as ImageProjectiveTransformV3.
@tf.function(jit_compile=True)
def _bilinear(images: tf.Tensor, maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Bilinear samples of each image under its affine map, float32 [6, B]: y then x."""
    _, height, width, _ = images.shape
    y, x = _places(images, maps, size)
    top, left = tf.cast(y, tf.int32), tf.cast(x, tf.int32)
    bottom, right = tf.minimum(top + 1, height - 1), tf.minimum(left + 1, width - 1)
    down = (y - tf.cast(top, tf.float32))[..., None]
    across = (x - tf.cast(left, tf.float32))[..., None]
    pixels = tf.cast(images, tf.float32)
    above = _at(pixels, top, left) * (1 - across) + _at(pixels, top, right) * across
    below = _at(pixels, bottom, left) * (1 - across) + _at(pixels, bottom, right) * across
    return tf.cast(above * (1 - down) + below * down + 0.5, tf.uint8)


@tf.function(jit_compile=True)
def _nearest(images: tf.Tensor, maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """The nearest pixels of each image under its affine map, float32 [6, B]: y then x."""
    y, x = _places(images, maps, size)
    return _at(images, tf.cast(y + 0.5, tf.int32), tf.cast(x + 0.5, tf.int32))


def _places(images: tf.Tensor, maps: tf.Tensor, size: tuple[int, int]):
    """Where each pixel of the result lies in the image: y and x, float32 [B, *size]."""
    _, height, width, _ = images.shape
    yy, yx, y0, xy, xx, x0 = tf.unstack(maps[:, :, None, None])
    row = tf.range(size[0], dtype=tf.float32)[:, None]
    column = tf.range(size[1], dtype=tf.float32)
    y = tf.clip_by_value(yy * row + yx * column + y0, 0.0, height - 1.0)
    x = tf.clip_by_value(xy * row + xx * column + x0, 0.0, width - 1.0)
    return y, x


def _at(images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Pixels [B, h, w, c] at int32 [B, h, w]."""
    count, height, width, channels = images.shape
    first = tf.range(count)[:, None, None] * (height * width)
    return tf.gather(tf.reshape(images, [-1, channels]), first + rows * width + columns)
