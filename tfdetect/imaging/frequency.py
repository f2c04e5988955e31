"""Augmentation of spectra: amplitudes, phases and bands of images, blended back in pixels."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfdetect.imaging.geometry import fold_in, to_uint8
from tfdetect.imaging.mix import blend_targets, pairs
from tfdetect.imaging.random_degradations import drawn, some


def amplitude_mix(
    images: tf.Tensor,
    seed: tf.Tensor,
    targets: tf.Tensor,
    probability: float = 0.5,
    highest: float = 1.0,
    blend: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes an image's Fourier amplitudes with those of another of its class; phases stay.

    After Xu et al. (CVPR 2021). Of the same class, because amplitudes hold a generator's traces.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C]; they stay as they are.
        highest: the other image's share is drawn from 0 to this.
        blend: share of the changed image in the result.

    Returns:
        Images uint8, rounded, and targets.
    """

    def change(own: tf.Tensor, other: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        amplitude = tf.abs(own)
        mixed = amplitude + share * (tf.abs(other) - amplitude)
        return own * tf.cast(tf.math.divide_no_nan(mixed, amplitude), own.dtype)

    return _mix(images, seed, targets, probability, highest, blend, change), targets


def phase_mix(
    images: tf.Tensor,
    seed: tf.Tensor,
    targets: tf.Tensor,
    probability: float = 0.5,
    highest: float = 0.3,
    blend: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns an image's Fourier phases towards those of another of its class; amplitudes stay.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C]; they stay as they are.
        highest: the other image's share is drawn from 0 to this.
        blend: share of the changed image in the result.

    Returns:
        Images uint8, rounded, and targets.
    """

    def change(own: tf.Tensor, other: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
        # Half way round the circle there is no phase between; the own one stays there.
        between = _unit(own) * tf.cast(1 - share, own.dtype) + _unit(other) * tf.cast(
            share, own.dtype
        )
        direction = tf.where(tf.abs(between) > 1e-6, _unit(between), _unit(own))
        return tf.cast(tf.abs(own), own.dtype) * direction

    return _mix(images, seed, targets, probability, highest, blend, change), targets


def random_bands(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: float = 0.5,
    lowest: float = 0.0,
    highest: float = 2.0,
    width: float = 0.15,
    blend: float = 1.0,
) -> tf.Tensor:
    """Weakens or strengthens a ring of frequencies of each image with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        lowest, highest: the ring's factor is drawn from between these.
        width: of the ring, as a share of the highest frequency along an axis; it begins above
            frequency 0, whose factor is always 1.
        blend: share of the changed image in the result.

    Returns:
        uint8 [B, H, W, 3], rounded.
    """
    _, height, width_, _ = images.shape
    radius = _radius(height, width_)

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        factor = drawn(images, seed, rows, lowest, highest)[:, None, None, None]
        start = drawn(images, fold_in(seed, 2), rows, 0.0, 1.0 - width)[:, None, None, None]
        inside = (radius > start) & (radius <= start + width)
        return _changed(
            chosen, lambda x: x * tf.cast(tf.where(inside, factor, 1.0), x.dtype), blend
        )

    return some(images, seed, probability, change)


def spectral_noise(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: float = 0.5,
    highest: float = 0.3,
    blend: float = 1.0,
) -> tf.Tensor:
    """Multiplies Fourier amplitudes by noise with `probability`, those of all colors alike.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        highest: the standard deviation of the amplitudes' logarithm is drawn from 0 to this.
        blend: share of the changed image in the result.

    Returns:
        uint8 [B, H, W, 3], rounded.
    """
    count, height, width, _ = images.shape

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        sigma = drawn(images, seed, rows, 0.0, highest)[:, None, None, None]
        noise = tf.random.stateless_normal([count, 1, height, width // 2 + 1], fold_in(seed, 2))
        noise *= tf.cast(_radius(height, width) > 0, tf.float32)  # not of the mean
        factor = tf.exp(sigma * tf.gather(noise, rows))
        return _changed(chosen, lambda x: x * tf.cast(factor, x.dtype), blend)

    return some(images, seed, probability, change)


def fourier_mix(
    images: tf.Tensor,
    seed: tf.Tensor,
    targets: tf.Tensor,
    alpha: float = 0.5,
    decay: float = 3.0,
    masks: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """FMix (Harris et al., arXiv 2002.12047): another image within smooth random outlines.

    As keras-cv's FourierMix, but drawn from the seed alone, and with the noise's real and
    imaginary parts where the published code and keras-cv take two of its rows.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        targets: float32 [B, 1 or C].
        alpha: the share kept is drawn from Beta(alpha, alpha).
        decay: how fast the outlines' frequencies fall.
        masks: uint8 [B, H, W, 1], or none; mixed with the images.

    Returns:
        Images, targets in the shares of the pixels, masks.
    """
    count, height, width, _ = images.shape
    other, share = pairs(images, seed, alpha)
    normals = tf.random.stateless_normal([count, height, width // 2 + 1, 2], fold_in(seed, 4))
    kept = outlines(normals, share, (height, width), decay)[..., None]
    mixed = tf.where(kept, images, tf.gather(images, other))
    if masks is not None:
        masks = tf.where(kept, masks, tf.gather(masks, other))
    share = tf.reduce_mean(tf.cast(kept, tf.float32), axis=(1, 2, 3))
    return mixed, blend_targets(targets, other, share), masks


def outlines(
    normals: tf.Tensor, share: tf.Tensor, size: tuple[int, int], decay: float
) -> tf.Tensor:
    """The pixels, bool [B, H, W], where low-frequency noise is highest.

    Args:
        normals: float32 [B, H, W // 2 + 1, 2], the noise's spectrum before it is weighed.
        share: float32 [B], of the pixels.
        size: (H, W).
        decay: exponent of the frequencies by which the spectrum falls.
    """
    height, width = size
    rows, columns = np.fft.fftfreq(height)[:, None], np.abs(np.fft.rfftfreq(width))
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(size))
    spectrum = normals / (frequency[..., None] ** decay).astype("float32")
    noise = tf.signal.irfft2d(tf.complex(spectrum[..., 0], spectrum[..., 1]), [height, width])
    pixels = height * width
    ranked = tf.sort(tf.reshape(noise, [-1, pixels]), direction="DESCENDING")
    number = tf.cast(tf.round(share * pixels), tf.int32)
    last = tf.gather(ranked, tf.maximum(number - 1, 0)[:, None], batch_dims=1)[..., None]
    return (noise >= last) & (number > 0)[:, None, None]


def _mix(
    images: tf.Tensor, seed: tf.Tensor, targets: tf.Tensor, probability: float, highest: float,
    blend: float, change: Callable,
) -> tf.Tensor:  # fmt: skip
    """Applies `change(own spectrum, another's, its share)` to some images."""
    partner = _of_same_class(targets, fold_in(seed, 3))

    def mix(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        share = drawn(images, seed, rows, 0.0, highest)[:, None, None, None]
        other = _spectrum(tf.gather(images, tf.gather(partner, rows)))
        return _changed(chosen, lambda own: change(own, other, share), blend)

    return some(images, seed, probability, mix)


def _of_same_class(targets: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """For each image another of its class, int32 [B]; itself where there is no other."""
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
    """Images whose spectra, complex64 [B, 3, H, W // 2 + 1], `change` changed; uint8."""
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
    """The frequency of each element of a spectrum, 1 the highest along an axis: [H, W // 2 + 1]."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    return (2 * np.hypot(rows, columns)).astype("float32")
