"""Degradations of fixed strength, which test a detector; for example "jpeg:65" or "blur:3".

The six of GenImage are side:112, side:64, jpeg:65, jpeg:30, blur:3 and blur:5
(Zhu et al., NeurIPS 2023).
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from tfdetect.core.data_settings import RESIZING_BIAS
from tfdetect.core.errors import UserError, unknown
from tfdetect.imaging.decode import decode_jpeg
from tfdetect.imaging.draws import normal_from
from tfdetect.imaging.partial import Picture, of_whole
from tfdetect.imaging.random_degradations import blur_reach, gaussian_blur, webp_again
from tfdetect.imaging.resampling import antialiased_part, to_uint8

BANDS = 8  # of radial frequency, from 0 to 0.5 cycles per pixel; the last includes the corners


@dataclass(frozen=True)
class Degradation:
    """One degradation.

    Attributes:
        name: kind and strength, for example "jpeg:65".
        kind: one of `KINDS`, for example "jpeg".
        strength: number within the kind's range, for example 65.
    """

    name: str
    kind: str
    strength: float

    def __call__(self, image: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Degrade one image.

        Args:
            image: uint8 [H, W, 3].
            number: int64 scalar, number of the image; noise depends on it alone.

        Returns:
            uint8 [h, w, 3].
        """
        return self.of(Picture.of(image), number).whole()

    def of(self, picture: Picture, number: tf.Tensor) -> Picture:
        """Return the degraded picture, of which any part can be read.

        Args:
            picture: the picture.
            number: int64 scalar, number of the image; noise depends on it alone.
        """
        return KINDS[self.kind].change(picture, self.strength, number)


@dataclass(frozen=True)
class Kind:
    """A kind of degradation.

    Attributes:
        text: what the strength means.
        done: what was done to an image, with {} for the strength.
        low: smallest strength.
        high: largest strength.
        grid: strengths to try, from mild to strong.
        change: from (picture, strength, number of the image) to the degraded picture.
    """

    text: str
    done: str
    low: float
    high: float
    grid: tuple[float, ...]
    change: Callable[[Picture, float, tf.Tensor], Picture]


_MCU = 16  # pixels: the side of the blocks of a JPEG whose colors have half its resolution


def _jpeg(picture: Picture, quality: float, _number: tf.Tensor) -> Picture:
    def again(pixels: tf.Tensor) -> tf.Tensor:
        return decode_jpeg(tf.io.encode_jpeg(pixels, quality=round(quality)))

    # Blocks are coded alone, but their colors are interpolated across borders when decoded.
    return picture.changed(again, reach=_MCU, grid=_MCU)


def _webp(picture: Picture, quality: float, _number: tf.Tensor) -> Picture:
    def again(pixels: tf.Tensor) -> tf.Tensor:
        made = tf.numpy_function(lambda x: webp_again(x, round(quality)), [pixels], tf.uint8)
        return tf.ensure_shape(made, [None, None, 3])

    return of_whole(again, picture)


def _scale(picture: Picture, factor: float | tf.Tensor, _number: tf.Tensor) -> Picture:
    shape = tf.cast(picture.size, tf.float32)
    after = tf.maximum(tf.cast(tf.round(shape * factor), tf.int32), 1)

    def read(start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        pixels = antialiased_part(picture.read, picture.size, after, start, size)
        return to_uint8(pixels + RESIZING_BIAS)

    return Picture(after, read)


def _side(picture: Picture, pixels: float, number: tf.Tensor) -> Picture:
    shorter = tf.cast(tf.reduce_min(picture.size), tf.float32)
    scaled, shrinks = _scale(picture, pixels / shorter, number), shorter > pixels

    def read(start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        return tf.cond(shrinks, lambda: scaled.read(start, size), lambda: picture.read(start, size))

    return Picture(tf.where(shrinks, scaled.size, picture.size), read)


def _blur(picture: Picture, sigma: float, _number: tf.Tensor) -> Picture:
    def blurred(pixels: tf.Tensor) -> tf.Tensor:
        sigmas = tf.constant([sigma], tf.float32)
        return to_uint8(gaussian_blur(pixels[None], sigmas, sigma)[0])

    return picture.changed(blurred, reach=blur_reach(sigma))


def _noise(picture: Picture, sigma: float, number: tf.Tensor) -> Picture:
    seed = tf.stack([tf.cast(number, tf.int32), round(1000 * sigma)])

    def read(start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        shape = tf.stack([size[0], picture.size[1], 3])  # whole rows
        first = tf.cast(start[0], tf.int64) * tf.cast(shape[1] * shape[2], tf.int64)
        grain = normal_from(seed, first, shape)[:, start[1] : start[1] + size[1]]
        return to_uint8(tf.cast(picture.read(start, size), tf.float32) + grain * sigma)

    return picture._replace(read=read)


def _crop(picture: Picture, fraction: float, _number: tf.Tensor) -> Picture:
    shape = tf.cast(picture.size, tf.float32)
    after = tf.maximum(tf.cast(tf.round(shape * fraction), tf.int32), 1)
    corner = (picture.size - after) // 2
    return Picture(after, lambda start, size: picture.read(start + corner, size))


def _brightness(picture: Picture, factor: float, _number: tf.Tensor) -> Picture:
    return picture.changed(lambda pixels: to_uint8(tf.cast(pixels, tf.float32) * factor))


def _band(picture: Picture, number: float, _number: tf.Tensor) -> Picture:
    return of_whole(lambda image: _without_band(image, number), picture)


def _without_band(image: tf.Tensor, number: float) -> tf.Tensor:
    height, width = tf.unstack(tf.shape(image)[:2])
    pixels = tf.transpose(tf.cast(image, tf.float32), [2, 0, 1])
    down = tf.abs((tf.range(height) + height // 2) % height - height // 2) / height
    across = tf.range(width // 2 + 1) / width
    radius = tf.sqrt(down[:, None] ** 2 + across[None] ** 2)  # cycles per pixel
    which = tf.minimum(tf.cast(radius * 2 * BANDS, tf.int32), BANDS - 1) + 1
    kept = (which != round(number)) | (radius == 0)
    spectrum = tf.signal.rfft2d(pixels) * tf.cast(kept, tf.complex64)
    without = tf.signal.irfft2d(spectrum, [height, width])
    return to_uint8(tf.transpose(without, [1, 2, 0]))


def _social(picture: Picture, times: float, number: tf.Tensor) -> Picture:
    for step in range(round(times)):
        picture = _jpeg(_scale(picture, 0.8, number), 85 - 10 * step, number)
    return picture


KINDS = {
    "jpeg": Kind("JPEG quality", "saved once more, as JPEG of quality {:g}",
                 1, 100, (95, 85, 75, 65, 50, 30), _jpeg),
    "webp": Kind("WebP quality", "saved once more, as WebP of quality {:g}",
                 1, 100, (90, 75, 50, 30), _webp),
    "side": Kind("shorter side in pixels after shrinking",
                 "shrunk to a shorter side of {:g} pixels", 1, 10_000, (112, 64), _side),
    "scale": Kind("resize factor", "resized to {:g} times the width and height",
                  0.01, 4, (0.9, 0.75, 0.5, 0.25), _scale),
    "screenshot": Kind("enlargement by a display",
                       "enlarged {:g} times, as in a screenshot of a scaled display",
                       1, 4, (1.25, 1.5), _scale),
    "blur": Kind("sigma of a Gaussian blur in pixels", "blurred (Gaussian, sigma {:g} pixels)",
                 0.01, 20, (1, 2, 3, 5), _blur),
    "noise": Kind("sigma of Gaussian noise in gray levels",
                  "overlaid with noise (Gaussian, sigma {:g} of 255 gray levels)",
                  0.01, 100, (2, 5, 10, 20), _noise),
    "crop": Kind("fraction of each side in a center crop",
                 "cropped to the middle, {:g} times the width and height",
                 0.01, 1, (0.9, 0.75, 0.5), _crop),
    "darker": Kind("factor on brightness", "darkened to {:g} times the brightness",
                   0.01, 1, (0.8, 0.6), _brightness),
    "brighter": Kind("factor on brightness", "brightened to {:g} times the brightness",
                     1, 10, (1.2, 1.5), _brightness),
    "social": Kind("times shrunk to 0.8 and saved as JPEG (85, 75, ...)",
                   "shrunk to 0.8 times the width and height and saved as JPEG, as by a social "
                   "network, {:g} times in a row (quality 85, then 10 less each time)",
                   1, 5, (1, 2, 3), _social),
    "band": Kind(f"removed band of frequencies, of {BANDS}, from low to high",
                 f"filtered: band {{:g}} of {BANDS} of its frequencies removed (1 is the lowest)",
                 1, BANDS, tuple(range(1, BANDS + 1)), _band),
}  # fmt: skip

SETS = {
    "genimage": ("side:112", "side:64", "jpeg:65", "jpeg:30", "blur:3", "blur:5"),
    "grid": tuple(
        f"{kind}:{strength:g}" for kind, k in KINDS.items() for strength in k.grid if kind != "band"
    ),
    "bands": tuple(f"band:{number}" for number in KINDS["band"].grid),
    "reencode": ("jpeg:96",),
}


def done_to(name: str) -> str:
    """Return what a degradation such as "jpeg:96" did to an image, in words."""
    kind, _, strength = name.partition(":")
    return KINDS[kind].done.format(float(strength))


def parse_degradations(text: str) -> list[Degradation]:
    """Return the degradations that a text names, each once, in order.

    Args:
        text: names of degradations or sets, for example "genimage,noise:5".

    Raises:
        UserError: A name is unknown, or a strength is missing or out of range.
    """
    names = [n for part in text.split(",") for n in SETS.get(part.strip(), (part.strip(),))]
    return list({found.name: found for found in map(_parse, names)}.values())


def _parse(name: str) -> Degradation:
    kind, _, strength = name.partition(":")
    if kind not in KINDS:
        raise unknown("degradation", kind, [*KINDS, *SETS])
    known = KINDS[kind]
    try:
        value = float(strength)
    except ValueError:
        value = float("nan")
    if not known.low <= value <= known.high:
        raise UserError(
            f"{kind} takes a number from {known.low:g} to {known.high:g} ({known.text}), for "
            f"example {kind}:{known.grid[0]:g}. Received: {name!r}."
        )
    return Degradation(f"{kind}:{value:g}", kind, value)
