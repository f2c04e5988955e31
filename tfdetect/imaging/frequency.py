"""Augmentation in the Fourier domain: it changes amplitudes, phases and bands of images."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import tensorflow as tf
from pydantic import Field

from tfdetect.core.options import Fraction, FractionAbove0, Positive
from tfdetect.imaging.draws import normal
from tfdetect.imaging.geometry import fold_in
from tfdetect.imaging.mix import blend_targets, draw_pairs
from tfdetect.imaging.random_degradations import change_some, uniform_for
from tfdetect.imaging.resampling import to_uint8

Gain = Annotated[float, Field(ge=0, le=1000)]


def amplitude_mix(
    images: tf.Tensor,
    seed: tf.Tensor,
    targets: tf.Tensor,
    probability: Fraction = 0.5,
    max_weight: Fraction = 1.0,
    blend: Fraction = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix an image's Fourier amplitudes with those of another image of its class.

    Phases stay. After Xu et al. (CVPR 2021). The class is the same because amplitudes carry
    the traces of generators.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C]; they are not changed.
        probability: 0 to 1.
        max_weight: largest weight of the other image; it is drawn from 0 to this.
        blend: weight of the changed image in the result, 0 to 1.

    Returns:
        Images uint8, rounded, and targets.
    """

    def change(own: tf.Tensor, other: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        amplitude = tf.abs(own)
        mixed = amplitude + weight * (tf.abs(other) - amplitude)
        return own * tf.cast(tf.math.divide_no_nan(mixed, amplitude), own.dtype)

    return _mix(images, seed, targets, probability, max_weight, blend, change), targets


def phase_mix(
    images: tf.Tensor,
    seed: tf.Tensor,
    targets: tf.Tensor,
    probability: Fraction = 0.5,
    max_weight: Fraction = 0.3,
    blend: Fraction = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn an image's Fourier phases toward those of another image of its class.

    Amplitudes stay.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C]; they are not changed.
        probability: 0 to 1.
        max_weight: largest weight of the other image; it is drawn from 0 to this.
        blend: weight of the changed image in the result, 0 to 1.

    Returns:
        Images uint8, rounded, and targets.
    """

    def change(own: tf.Tensor, other: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        # Between opposite phases there is none in the middle; then the image keeps its own.
        between = _unit(own) * tf.cast(1 - weight, own.dtype)
        between += _unit(other) * tf.cast(weight, own.dtype)
        direction = tf.where(tf.abs(between) > 1e-6, _unit(between), _unit(own))
        return tf.cast(tf.abs(own), own.dtype) * direction

    return _mix(images, seed, targets, probability, max_weight, blend, change), targets


def random_bands(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    min_gain: Gain = 0.0,
    max_gain: Gain = 2.0,
    bandwidth: FractionAbove0 = 0.15,
    blend: Fraction = 1.0,
) -> tf.Tensor:
    """Weaken or strengthen a random band of frequencies of each image with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        min_gain: smallest factor on the band's amplitudes, 0 to 1000.
        max_gain: largest factor on the band's amplitudes, 0 to 1000.
        bandwidth: width of the band, as a fraction of the highest frequency along an axis. The
            mean of an image is in no band.
        blend: weight of the changed image in the result, 0 to 1.

    Returns:
        uint8 [B, H, W, 3], rounded.
    """
    _, height, width, _ = images.shape
    radius = _radius(height, width)

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        gain = uniform_for(images, seed, rows, min_gain, max_gain)[:, None, None, None]
        start = uniform_for(images, fold_in(seed, 2), rows, 0.0, 1.0 - bandwidth)
        start = start[:, None, None, None]
        inside = (radius > start) & (radius <= start + bandwidth)
        return _changed(chosen, lambda x: x * tf.cast(tf.where(inside, gain, 1.0), x.dtype), blend)

    return change_some(images, seed, probability, change)


def spectral_noise(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    max_sigma: Annotated[float, Field(ge=0, le=10)] = 0.3,
    blend: Fraction = 1.0,
) -> tf.Tensor:
    """Multiply Fourier amplitudes by noise with `probability`, the same for all colors.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        max_sigma: largest standard deviation of the logarithm of the factors, 0 to 10; it is drawn
            from 0 to this.
        blend: weight of the changed image in the result, 0 to 1.

    Returns:
        uint8 [B, H, W, 3], rounded.
    """
    count, height, width, _ = images.shape

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        sigma = uniform_for(images, seed, rows, 0.0, max_sigma)[:, None, None, None]
        noise = normal([count, 1, height, width // 2 + 1], fold_in(seed, 2))
        noise *= tf.cast(_radius(height, width) > 0, tf.float32)  # not of the mean
        factor = tf.exp(sigma * tf.gather(noise, rows))
        return _changed(chosen, lambda x: x * tf.cast(factor, x.dtype), blend)

    return change_some(images, seed, probability, change)


def fourier_mix(
    images: tf.Tensor,
    seed: tf.Tensor,
    targets: tf.Tensor,
    alpha: Positive = 0.5,
    decay: Annotated[float, Field(ge=0, le=10)] = 3.0,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Paste another image inside smooth random outlines (FMix, Harris et al., arXiv 2002.12047).

    keras-cv's FourierMix does the same. This one draws from the seed alone, and uses the real
    and imaginary parts of the noise where the published code and keras-cv use two of its rows.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C], class probabilities.
        alpha: the fraction of pixels that an image keeps is drawn from Beta(alpha, alpha).
        decay: exponent by which the spectrum of the outlines falls, 0 to 10.
        masks: uint8 [B, H, W, 1], or None; pasted with the images.

    Returns:
        Images uint8; targets, weighted by the fractions of pixels; and masks.
    """
    count, height, width, _ = images.shape
    other, weights = draw_pairs(images, seed, alpha)
    normals = tf.random.stateless_normal([count, height, width // 2 + 1, 2], fold_in(seed, 4))
    kept = outlines(normals, weights, (height, width), decay)[..., None]
    mixed = tf.where(kept, images, tf.gather(images, other))
    if masks is not None:
        masks = tf.where(kept, masks, tf.gather(masks, other))
    fraction = tf.reduce_mean(tf.cast(kept, tf.float32), axis=(1, 2, 3))
    return mixed, blend_targets(targets, other, fraction), masks


def outlines(
    normals: tf.Tensor, fractions: tf.Tensor, size: tuple[int, int], decay: float
) -> tf.Tensor:
    """Return the pixels where low-frequency noise is highest.

    Args:
        normals: float32 [B, H, W // 2 + 1, 2], the spectrum of white noise.
        fractions: float32 [B], fraction of the pixels to select in each image.
        size: (height, width) in pixels.
        decay: exponent by which the spectrum falls with frequency.

    Returns:
        bool [B, H, W].
    """
    height, width = size
    rows, columns = np.fft.fftfreq(height)[:, None], np.abs(np.fft.rfftfreq(width))
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(size))
    spectrum = normals / (frequency[..., None] ** decay).astype("float32")
    noise = tf.signal.irfft2d(tf.complex(spectrum[..., 0], spectrum[..., 1]), [height, width])
    pixels = height * width
    ranked = tf.sort(tf.reshape(noise, [-1, pixels]), direction="DESCENDING")
    number = tf.cast(tf.round(fractions * pixels), tf.int32)
    last = tf.gather(ranked, tf.maximum(number - 1, 0)[:, None], batch_dims=1)[..., None]
    return (noise >= last) & (number > 0)[:, None, None]


def _mix(
    images: tf.Tensor, seed: tf.Tensor, targets: tf.Tensor, probability: float,
    max_weight: float, blend: float, change: Callable,
) -> tf.Tensor:  # fmt: skip
    """Apply `change(own spectrum, another one's, its weight)` to some images."""
    partner = another_of_same_class(targets, fold_in(seed, 3))

    def mix(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        weight = uniform_for(images, seed, rows, 0.0, max_weight)[:, None, None, None]
        other = _spectrum(tf.gather(images, tf.gather(partner, rows)))
        return _changed(chosen, lambda own: change(own, other, weight), blend)

    return change_some(images, seed, probability, mix)


def another_of_same_class(targets: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return the row of another image of the same class for each image, int32 [B].

    An image that is the only one of its class gets its own row.
    """
    count, width = targets.shape
    kind = tf.round(targets[:, 0]) if width == 1 else tf.argmax(targets, axis=1)
    kind = tf.cast(kind, tf.float32)
    order = tf.argsort(kind + tf.random.stateless_uniform([count], seed))
    ordered = tf.gather(kind, order)
    # The next in the same class; after the last, the first.
    last = tf.concat([ordered[1:] != ordered[:-1], [True]], 0)
    first = tf.searchsorted(ordered, ordered)
    following = tf.gather(order, tf.where(last, first, tf.minimum(tf.range(count) + 1, count - 1)))
    return tf.scatter_nd(order[:, None], following, [count])


def _changed(images: tf.Tensor, change: Callable, blend: float) -> tf.Tensor:
    """Return images, uint8, after `change` of their spectra complex64 [B, 3, H, W // 2 + 1]."""
    _, height, width, _ = images.shape
    back = tf.signal.irfft2d(change(_spectrum(images)), [height, width])
    changed = tf.transpose(back, [0, 2, 3, 1])
    return to_uint8(blend * changed + (1 - blend) * tf.cast(images, tf.float32))


def _spectrum(images: tf.Tensor) -> tf.Tensor:
    return tf.signal.rfft2d(tf.transpose(tf.cast(images, tf.float32), [0, 3, 1, 2]))


def _unit(x: tf.Tensor) -> tf.Tensor:
    amplitude = tf.abs(x)
    scaled = x * tf.cast(tf.math.divide_no_nan(1.0, amplitude), x.dtype)
    return tf.where(amplitude > 0, scaled, tf.ones_like(x))


def _radius(height: int, width: int) -> np.ndarray:
    """Return the frequency of each element of a spectrum, float32 [H, W // 2 + 1].

    1 is the highest frequency along an axis.
    """
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    return (2 * np.hypot(rows, columns)).astype("float32")
