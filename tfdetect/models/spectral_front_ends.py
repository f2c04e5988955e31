"""Front-ends in the frequency domain. They compute in float32."""

from itertools import pairwise
from typing import Annotated, Any, Literal

import keras
import numpy as np
from keras import layers, ops
from pydantic import Field
from scipy.fft import dct as _scipy_dct

from tfdetect.core.errors import UserError
from tfdetect.core.options import Count
from tfdetect.models.standardize import Standardize
from tfdetect.models.tensors import Float32Layer, Tensor

_GRAY = np.array([0.299, 0.587, 0.114], "float32")


def dct(images: Tensor, color: bool = True) -> Tensor:
    """Return the logarithm of the DCT, standardized (Frank et al., ICML 2020).

    Mean and standard deviation of each coefficient are computed on the training split before the
    first step, and stored in the model.

    Args:
        images: [B, H, W, 3], 0..255.
        color: transform each color; otherwise the gray image.

    Returns:
        float32 [B, H, W, 3 or 1].
    """
    if not color:
        images = Gray(name="dct_gray")(images)
    return Standardize(name="dct_statistics")(LogDCT(name="dct")(images))


def spectrum(images: Tensor, band: Literal["all", "low", "mid", "high"] = "all") -> Tensor:
    """Return the logarithm of the Fourier spectrum of each color (Spec; Zhang et al., WIFS 2019).

    Args:
        images: [B, H, W, 3], 0..255.
        band: frequencies that are kept; the others are set to 0. At 224 pixels "low" are the 120
            frequencies around 0, "high" those outside the 182 around 0, "mid" those between.

    Returns:
        float32 [B, H, W, 3], where -1 and 1 are the 5th and 95th percentile of each image and
        color; frequency 0 is in the corner.
    """
    return Spectrum(band, name="spectrum")(images)


def fad(images: Tensor, learnable: bool = True) -> Tensor:
    """Return the frequency-aware decomposition (F3-Net; Qian et al., ECCV 2020).

    Args:
        images: [B, H, W, 3], 0..255.
        learnable: learn what is added to the band filters.

    Returns:
        float32 [B, H, W, 12]: the image in -1..1 filtered to low, middle, high and all
        frequencies.
    """
    return FAD(learnable, name="fad")(_signed(images, "fad_scale"))


def lfs(
    images: Tensor,
    learnable: bool = True,
    bands: Count = 6,
    window: Annotated[int, Field(ge=2)] = 10,
) -> Tensor:
    """Return local frequency statistics (F3-Net; Qian et al., ECCV 2020).

    Args:
        images: [B, H, W, 3], 0..255.
        learnable: learn what is added to the band filters.
        bands: number of bands.
        window: side of the windows in pixels; they are 2 pixels apart.

    Returns:
        float32 [B, h, w, bands], about half the height and width: log10 of the amplitude of each
        band in each window of the gray image.

    Raises:
        UserError: a window is larger than the image, or has fewer frequencies than bands.
    """
    side = min(images.shape[1:3])
    if window > side or bands >= 2 * window:
        raise UserError(
            f"model.front_end_options: window is at most the image's side, {side}, and bands are "
            f"fewer than twice the window. Received: window {window}, bands {bands}."
        )
    return LFS(bands, window, learnable, name="lfs")(Gray(name="lfs_gray")(images))


def _signed(images: Tensor, name: str) -> Tensor:
    return layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name=name)(images)


def dct_matrix(side: int) -> np.ndarray:
    """Return the orthonormal DCT-II as a matrix D, float32 [side, side]; D x transforms columns."""
    return _scipy_dct(np.eye(side), axis=0, norm="ortho").astype("float32")


@keras.saving.register_keras_serializable("tfdetect")
class Gray(Float32Layer):
    """Luma: [B, H, W, 3] -> [B, H, W, 1]."""

    def call(self, images: Tensor) -> Tensor:
        return ops.sum(images * _GRAY, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tfdetect")
class LogDCT(Float32Layer):
    """log(|DCT| + 1e-12) of each channel: [B, H, W, C] -> [B, H, W, C]."""

    def call(self, images: Tensor) -> Tensor:
        return ops.log(ops.abs(_transform(images, *images.shape[1:3])) + 1e-12)


def _transform(x: Tensor, height: int, width: int, inverse: bool = False) -> Tensor:
    """Return the two-dimensional DCT of each channel, or its inverse."""
    rows, columns = dct_matrix(height), dct_matrix(width)
    if inverse:
        rows, columns = rows.T, columns.T
    # Products of matrices, because LiteRT and OpenVINO have no einsum of an unknown batch size.
    x = ops.matmul(ops.matmul(rows, ops.transpose(x, (0, 3, 1, 2))), columns.T)
    return ops.transpose(x, (0, 2, 3, 1))


@keras.saving.register_keras_serializable("tfdetect")
class Spectrum(Float32Layer):
    """See `spectrum`."""

    def __init__(self, band: str = "all", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if band not in ("all", "low", "mid", "high"):
            raise ValueError(f"band is all, low, mid or high, not {band!r}")
        self.band = band

    def call(self, images: Tensor) -> Tensor:
        x = ops.transpose(images, (0, 3, 1, 2)) / 255
        real, imaginary = ops.fft2((x, ops.zeros_like(x)))
        x = ops.log(ops.sqrt(real**2 + imaginary**2) + 1e-3)
        x = ops.transpose(x, (0, 2, 3, 1))
        ends = ops.quantile(x, [0.05, 0.95], axis=(1, 2), keepdims=True)
        low, span = ends[0], ends[1] - ends[0]
        x = (x - low) / ops.where(span > 1e-6, span, 1.0)  # 0 for a constant image
        return ops.clip(2 * x - 1, -1, 1) * self._kept(*images.shape[1:3])

    def _kept(self, height: int, width: int) -> np.ndarray:
        """Return [H, W, 1], 1 for the frequencies of the band."""
        inner, outer = (
            np.outer(*(_about_zero(side, *ends) for side in (height, width)))
            for ends in ((57, 177), (21, 203))
        )
        kept = {"all": np.ones_like(inner), "low": inner, "mid": outer - inner, "high": 1 - outer}
        return kept[self.band][..., None].astype("float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "band": self.band}


def _about_zero(side: int, first: int, end: int) -> np.ndarray:
    """Return 1 for a published band of 224 frequencies, shifted so that frequency 0 is first."""
    kept = np.zeros(side)
    kept[round(first * side / 224) : round(end * side / 224)] = 1
    return np.fft.ifftshift(kept)


@keras.saving.register_keras_serializable("tfdetect")
class FAD(Float32Layer):
    """Image in -1..1 [B, H, W, C] -> [B, H, W, 4 C]; see `fad`.

    The bands are half open, so that low, middle and high sum to the image.

    Args:
        learnable: learn what is added to the band filters.
        overlapping: the diagonals between two bands belong to both, as in the public code.
    """

    def __init__(self, learnable: bool = True, overlapping: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learnable, self.overlapping = learnable, overlapping

    def build(self, shape: Any) -> None:
        _, height, width, _ = shape
        # The relative diagonal: at a square image, row plus column.
        side = max(height, width)
        rows, columns = (np.arange(n) * side / n for n in (height, width))
        diagonal = rows[:, None] + columns
        first, second = side // 2.82, side // 2
        above = np.greater_equal if self.overlapping else np.greater
        self._bands = np.stack([
            diagonal <= first, above(diagonal, first) & (diagonal <= second),
            above(diagonal, second), np.ones_like(diagonal),
        ]).astype("float32")  # fmt: skip
        if self.learnable:
            self.filters = self.add_weight(
                name="filters", shape=self._bands.shape,
                initializer=keras.initializers.RandomNormal(0.0, 0.1),
            )  # fmt: skip

    def call(self, images: Tensor) -> Tensor:
        _, height, width, _ = images.shape
        bands = self._bands
        if self.learnable:
            bands = bands + 2 * ops.sigmoid(self.filters) - 1
        x = _transform(images, height, width)
        return ops.concatenate(
            [_transform(x * bands[k][..., None], height, width, True) for k in range(4)], axis=-1
        )

    def get_config(self) -> dict[str, Any]:
        own = {"learnable": self.learnable, "overlapping": self.overlapping}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tfdetect")
class LFS(Float32Layer):
    """Gray image in 0..255 [B, H, W, 1] -> [B, h, w, bands]; see `lfs`.

    The paper's order: filter, amplitude, sum over the band, logarithm. Public implementations
    average filtered logarithms over bands that overlap, which their authors call wrong.

    Args:
        bands: number of bands.
        window: side of the windows in pixels.
        learnable: learn what is added to the band filters.
        mean_of_logs: compute as public implementations do, for weights that were trained so.
    """

    def __init__(
        self, bands: int = 6, window: int = 10, learnable: bool = True,
        mean_of_logs: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.bands, self.window, self.learnable = bands, window, learnable
        self.mean_of_logs = mean_of_logs
        matrix = dct_matrix(window)
        kernels = np.einsum("ih,jw->hwij", matrix, matrix)
        self._kernels = kernels.reshape(window, window, 1, -1)
        diagonal = np.add.outer(np.arange(window), np.arange(window)).ravel()
        edges = np.linspace(0, 2 * window, bands + 1)
        below = np.less_equal if mean_of_logs else np.less
        self._bands = np.stack(
            [(diagonal >= a) & below(diagonal, b) for a, b in pairwise(edges)], axis=-1
        ).astype("float32")

    def build(self, shape: Any) -> None:
        if self.learnable:
            self.filters = self.add_weight(
                name="filters", shape=self._bands.shape,
                initializer=keras.initializers.RandomNormal(0.0, 0.1),
            )  # fmt: skip

    def call(self, gray: Tensor) -> Tensor:
        pad = self.window // 2 - 1
        x = ops.pad(gray, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        amounts = ops.abs(ops.conv(x, self._kernels, strides=2, padding="valid"))
        bands = self._bands
        if self.learnable:
            bands = bands + 2 * ops.sigmoid(self.filters) - 1
        if self.mean_of_logs:
            return ops.matmul(ops.log10(amounts + 1e-15), bands / self._bands.sum(0))
        return ops.log10(ops.matmul(amounts, ops.abs(bands)) + 1e-6)

    def get_config(self) -> dict[str, Any]:
        own = {"bands": self.bands, "window": self.window, "learnable": self.learnable,
               "mean_of_logs": self.mean_of_logs}  # fmt: skip
        return {**super().get_config(), **own}
