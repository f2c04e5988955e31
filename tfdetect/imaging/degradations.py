"""Degradations of fixed strength, to test a detector with; named as "jpeg:65" or "blur:3".

GenImage's six are side:112, side:64, jpeg:65, jpeg:30, blur:3 and blur:5
(Zhu et al., NeurIPS 2023).
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from PIL import Image

from tfdetect.core.errors import UserError, unknown
from tfdetect.imaging.geometry import to_uint8
from tfdetect.imaging.random_degradations import gaussian_blur

BANDS = 8  # of radial frequency, from 0 to half a cycle a pixel; the last has the corners too


@dataclass(frozen=True)
class Degradation:
    """One degradation.

    Attributes:
        name: as it was asked for, "jpeg:65".
        kind: "jpeg".
        strength: 65.
    """

    name: str
    kind: str
    strength: float

    def __call__(self, image: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Degrades one image.

        Args:
            image: uint8 [H, W, 3].
            number: of the image, int64: noise depends on it, and on nothing else.

        Returns:
            uint8 [h, w, 3].
        """
        return KINDS[self.kind].change(image, self.strength, number)


@dataclass(frozen=True)
class Kind:
    """A kind of degradation.

    Attributes:
        text: what it does with its strength.
        low, high: between which the strength lies.
        grid: strengths to try, from mild to strong.
    """

    text: str
    low: float
    high: float
    grid: tuple[float, ...]
    change: Callable[[tf.Tensor, float, tf.Tensor], tf.Tensor]


def jpeg(image: tf.Tensor, quality: float, _number: tf.Tensor) -> tf.Tensor:
    data = tf.io.encode_jpeg(image, quality=round(quality))
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def webp(image: tf.Tensor, quality: float, _number: tf.Tensor) -> tf.Tensor:
    def encode(pixels: np.ndarray) -> np.ndarray:
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "WEBP", quality=round(quality))
        with Image.open(data) as decoded:
            return np.asarray(decoded.convert("RGB"))

    return tf.ensure_shape(tf.numpy_function(encode, [image], tf.uint8), [None, None, 3])


def scale(image: tf.Tensor, factor: float | tf.Tensor, _number: tf.Tensor) -> tf.Tensor:
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    size = tf.maximum(tf.cast(tf.round(shape * factor), tf.int32), 1)
    return to_uint8(tf.image.resize(image, size, antialias=True))


def side(image: tf.Tensor, pixels: float, number: tf.Tensor) -> tf.Tensor:
    shorter = tf.cast(tf.reduce_min(tf.shape(image)[:2]), tf.float32)
    return tf.cond(
        shorter > pixels, lambda: scale(image, pixels / shorter, number), lambda: image
    )  # fmt: skip


def blur(image: tf.Tensor, sigma: float, _number: tf.Tensor) -> tf.Tensor:
    return to_uint8(gaussian_blur(image[None], tf.constant([sigma], tf.float32), sigma)[0])


def noise(image: tf.Tensor, sigma: float, number: tf.Tensor) -> tf.Tensor:
    seed = tf.stack([tf.cast(number, tf.int32), round(1000 * sigma)])
    grain = tf.random.stateless_normal(tf.shape(image), seed) * sigma
    return to_uint8(tf.cast(image, tf.float32) + grain)


def crop(image: tf.Tensor, share: float, _number: tf.Tensor) -> tf.Tensor:
    shape = tf.shape(image)[:2]
    size = tf.maximum(tf.cast(tf.round(tf.cast(shape, tf.float32) * share), tf.int32), 1)
    top, left = tf.unstack((shape - size) // 2)
    return image[top : top + size[0], left : left + size[1]]


def brightness(image: tf.Tensor, factor: float, _number: tf.Tensor) -> tf.Tensor:
    return to_uint8(tf.cast(image, tf.float32) * factor)


def band(image: tf.Tensor, number: float, _number: tf.Tensor) -> tf.Tensor:
    height, width = tf.unstack(tf.shape(image)[:2])
    pixels = tf.transpose(tf.cast(image, tf.float32), [2, 0, 1])
    down = tf.abs((tf.range(height) + height // 2) % height - height // 2) / height
    across = tf.range(width // 2 + 1) / width
    radius = tf.sqrt(down[:, None] ** 2 + across[None] ** 2)  # cycles a pixel
    which = tf.minimum(tf.cast(radius * 2 * BANDS, tf.int32), BANDS - 1) + 1
    kept = (which != round(number)) | (radius == 0)
    spectrum = tf.signal.rfft2d(pixels) * tf.cast(kept, tf.complex64)
    without = tf.signal.irfft2d(spectrum, [height, width])
    return to_uint8(tf.transpose(without, [1, 2, 0]))


def social(image: tf.Tensor, times: float, number: tf.Tensor) -> tf.Tensor:
    for step in range(round(times)):
        image = jpeg(scale(image, 0.8, number), 85 - 10 * step, number)
    return image


KINDS = {
    "jpeg": Kind("JPEG of that quality", 1, 100, (95, 85, 75, 65, 50, 30), jpeg),
    "webp": Kind("WebP of that quality", 1, 100, (90, 75, 50, 30), webp),
    "side": Kind("shrunk until the shorter side has that many pixels", 1, 10_000, (112, 64), side),
    "scale": Kind("resized by that factor", 0.01, 4, (0.9, 0.75, 0.5, 0.25), scale),
    "screenshot": Kind("resized up by that factor, as by a display", 1, 4, (1.25, 1.5), scale),
    "blur": Kind("Gaussian blur of that sigma in pixels", 0.01, 20, (1, 2, 3, 5), blur),
    "noise": Kind("Gaussian noise of that sigma in gray levels", 0.01, 100, (2, 5, 10, 20), noise),
    "crop": Kind("the middle, of that share of each side", 0.01, 1, (0.9, 0.75, 0.5), crop),
    "darker": Kind("multiplied by that", 0.01, 1, (0.8, 0.6), brightness),
    "brighter": Kind("multiplied by that", 1, 10, (1.2, 1.5), brightness),
    "social": Kind("so many times shrunk to 0.8 and saved as JPEG (85, 75, ...)", 1, 5, (1, 2, 3),
                   social),
    "band": Kind(f"without that one of {BANDS} bands of frequencies, low to high", 1, BANDS,
                 tuple(range(1, BANDS + 1)), band),
}  # fmt: skip

SETS = {
    "genimage": ("side:112", "side:64", "jpeg:65", "jpeg:30", "blur:3", "blur:5"),
    "grid": tuple(
        f"{kind}:{strength:g}" for kind, k in KINDS.items() for strength in k.grid if kind != "band"
    ),
    "bands": tuple(f"band:{number}" for number in KINDS["band"].grid),
    "reencode": ("jpeg:96",),
}


def parse_degradations(text: str) -> list[Degradation]:
    """Degradations of a text such as "genimage,noise:5", each once, in order.

    Raises:
        UserError: an unknown name, or a strength that is none or out of range.
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
            f"{kind} takes a strength from {known.low:g} to {known.high:g} ({known.text}), such as "
            f"{kind}:{known.grid[0]:g}. Got {name!r}."
        )
    return Degradation(f"{kind}:{value:g}", kind, value)
