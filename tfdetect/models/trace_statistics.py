"""Statistics of noise at native resolution: what upsampling and cameras leave in an image."""

import keras
import numpy as np
from keras import layers, ops

from tfdetect.core.errors import UserError
from tfdetect.models.residual_front_ends import SRM
from tfdetect.models.tensors import Float32Layer, Tensor

_LAGS = 8  # pixels: correlations of the noise are kept up to this distance
_BANDS = 24  # of radial frequency
_EPSILON = 1e-6
# From RGB to luma and the two differences of color, without their means.
_PLANES = np.array([[0.299, 0.587, 0.114], [-0.5, 0.0, 0.5], [0.5, -1.0, 0.5]], "float32").T


def trace_statistics(shape: tuple[int, int, int], weights: str) -> keras.Model:
    """Return a backbone without weights that describes the noise of an image.

    For luma and two differences of color it gives the correlation of the residual with itself at
    distances up to 8 pixels, where upsampling and JPEG leave periodic traces, and its spectrum by
    radial frequency; and the strength of the residuals of the 30 filters of the spatial rich model
    (Fridrich & Kodovsky, TIFS 2012).

    Args:
        shape: (height, width, 3); sides of at least 32 pixels.
        weights: only "none" exists.

    Returns:
        Images [B, H, W, 3] in 0..255 -> float32 [B, 1, 1, F].
    """
    if shape[-1] != 3:
        raise UserError("model: the backbone trace_statistics reads pixels, no front-end.")
    inputs = keras.Input(shape)
    residuals = SRM("full", 10.0, name="srm")(inputs)
    parts = [ResidualStrength(name="strength")(residuals), NoiseTraces(name="noise")(inputs)]
    x = layers.Concatenate(dtype="float32", name="traces")(parts)
    x = layers.Reshape((1, 1, x.shape[-1]), dtype="float32", name="traces_map")(x)
    return keras.Model(inputs, x, name="trace_statistics")


@keras.saving.register_keras_serializable("tfdetect")
class ResidualStrength(Float32Layer):
    """Residuals [B, H, W, c] in -1..1 -> logarithms of their strength and their shape [B, 3 c]."""

    def call(self, x: Tensor) -> Tensor:
        size = ops.abs(x)
        mean = ops.mean(size, axis=(1, 2))
        deviation = ops.sqrt(ops.mean(x * x, axis=(1, 2)) + _EPSILON)
        small = ops.mean(ops.cast(size < 0.05, "float32"), axis=(1, 2))
        return ops.concatenate([ops.log(mean + 1e-3), mean / deviation, small], axis=-1)


@keras.saving.register_keras_serializable("tfdetect")
class NoiseTraces(Float32Layer):
    """Images [B, H, W, 3] in 0..255 -> correlations and radial spectra of noise [B, F]."""

    def call(self, images: Tensor) -> Tensor:
        height, width = images.shape[1:3]
        planes = ops.matmul(images, _PLANES)
        x = ops.pad(planes, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
        blurred = sum(x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
        noise = ops.clip(planes - blurred, -10, 10)
        noise = ops.transpose(noise, (0, 3, 1, 2))
        real, imaginary = ops.fft2((noise, ops.zeros_like(noise)))
        power = real**2 + imaginary**2
        correlation, _ = ops.fft2((power, ops.zeros_like(power)))  # symmetric: as the inverse
        correlation = correlation / (correlation[:, :, :1, :1] + _EPSILON)
        right = correlation[:, :, :, : _LAGS + 1]
        lags = ops.concatenate([right[:, :, -_LAGS:], right[:, :, : _LAGS + 1]], axis=2)
        bands = ops.einsum("bchw,khw->bck", power, self._rings(height, width))
        total = ops.sum(bands, axis=-1, keepdims=True)
        bands = ops.log(bands / (total + _EPSILON) + 1e-5)
        parts = (lags, bands, ops.log(total + 1.0))
        flat = [ops.reshape(part, (-1, int(np.prod(part.shape[1:])))) for part in parts]
        return ops.concatenate(flat, axis=-1)

    def _rings(self, height: int, width: int) -> np.ndarray:
        """Return the weights that average the power of each radial band [K, H, W]."""
        down, across = np.fft.fftfreq(height), np.fft.fftfreq(width)
        radius = np.sqrt(down[:, None] ** 2 + across[None] ** 2)
        band = np.minimum((radius / 0.5 * _BANDS).astype(int), _BANDS - 1)
        rings = np.stack([band == k for k in range(_BANDS)]).astype("float32")
        return rings / np.maximum(rings.sum((1, 2), keepdims=True), 1)
