"""Front-ends that keep an image's noise and remove its content."""

from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from tfdetect.core.options import Count, OddKernelSide, Positive
from tfdetect.models.bilinear import Bilinear
from tfdetect.models.tensors import Float32Layer, Tensor

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def srm(
    images: Tensor,
    bank: Literal["three", "full"] = "three",
    clip: Positive = 3.0,
    separate: bool = False,
) -> Tensor:
    """Return residuals of the spatial rich model's filters (Fridrich & Kodovsky, TIFS 2012).

    Args:
        images: [B, H, W, 3], 0..255.
        bank: "three", those of RGB-N and SSP, or "full", the bank of 30.
        clip: residuals in gray levels are clipped to this, and divided by it.
        separate: filter each color separately; otherwise the residuals of the colors are summed.

    Returns:
        float32 [B, H, W, filters], or three times as many channels, in -1..1.
    """
    return SRM(bank, clip, separate, name="srm")(images)


def bayar(images: Tensor, filters: Count = 3, size: OddKernelSide = 5) -> Tensor:
    """Return a constrained, learned convolution (Bayar & Stamm, IH&MMSec 2016).

    Args:
        images: [B, H, W, 3], 0..255.
        filters: number of output channels.
        size: side of the kernels, odd and at least 3.

    Returns:
        float32 [B, H, W, filters].
    """
    x = layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name="bayar_scale")(images)
    return bayar_convolution(filters, size)(x)


def residual(
    images: Tensor,
    denoiser: Literal["wiener", "median", "gaussian"] = "wiener",
    clip: Positive = 10.0,
) -> Tensor:
    """Return the noise that a denoiser removes.

    Args:
        images: [B, H, W, 3], 0..255.
        denoiser: "wiener" (local, as scipy.signal.wiener), "median" or "gaussian", all 3x3.
        clip: the residual in gray levels is clipped to this, and divided by it.

    Returns:
        float32 [B, H, W, 3] in -1..1.
    """
    return NoiseResidual(denoiser, clip, name="residual")(images)


def npr(images: Tensor) -> Tensor:
    """Return neighboring pixel relationships (Tan et al., CVPR 2024): differences in 2x2 blocks.

    Args:
        images: [B, H, W, 3], 0..255. An odd last row or column is dropped.

    Returns:
        float32 [B, H, W, 3]: two thirds of each pixel, in ImageNet's standard deviations, minus
        that of the top left pixel of its block.
    """
    return NPR(name="npr")(images)


def wavelet(images: Tensor) -> Tensor:
    """Return the diagonal details of the wavelet bior1.3 (SAFE; Li et al., KDD 2025), resized.

    Args:
        images: [B, H, W, 3], 0..255.

    Returns:
        float32 [B, H, W, 3]: the HH band of pixels in 0..1, upsampled bilinearly.
    """
    x = WaveletHH(name="wavelet")(images)
    return Bilinear(*images.shape[1:3], dtype="float32", name="wavelet_resize")(x)


def gradient(images: Tensor, towards: Literal["top_right", "bottom_right"] = "top_right") -> Tensor:
    """Return each color's diagonal gradient (Tiny-LaDeDa; Cavia et al., arXiv 2406.09398).

    Args:
        images: [B, H, W, 3], 0..255.
        towards: the corner of the image towards which differences are taken.

    Returns:
        float32 [B, H, W, 3]: what Sobel's filter, turned by 45 degrees, makes of pixels that are
        standardized by ImageNet's means and deviations.
    """
    return Gradient(towards, name="gradient")(images)


def srm_kernels(bank: str) -> np.ndarray:
    """Return high-pass kernels float32 [5, 5, 1, filters], each of sum 0.

    Args:
        bank: "three" or "full".

    Raises:
        ValueError: no such bank.
    """
    square3 = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    square5 = np.array([
        [-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2],
        [-1, 2, -2, 2, -1],
    ]) / 12  # fmt: skip
    second = np.zeros((3, 3))
    second[1] = np.array([1, -2, 1]) / 2
    if bank == "three":
        kernels = [np.pad(square3, 1), square5, np.pad(second, 1)]
    elif bank == "full":
        around = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
        line: dict[str, dict[int, float]] = {
            "first": {0: -1, 1: 1}, "second": {-1: 0.5, 0: -1, 1: 0.5},
            "third": {-1: 1 / 3, 0: -1, 1: 1, 2: -1 / 3},
        }  # fmt: skip
        kernels = []
        for name, steps in (("first", around), ("second", around[:4]), ("third", around)):
            for dy, dx in steps:
                kernel = np.zeros((5, 5))
                for distance, weight in line[name].items():
                    kernel[2 + distance * dy, 2 + distance * dx] = weight
                kernels.append(kernel)
        edge3, edge5 = np.pad(square3, 1), square5.copy()
        edge3[3:] = edge5[3:] = 0
        kernels += [np.rot90(edge, k) for edge in (edge3, edge5) for k in range(4)]
        kernels += [np.pad(square3, 1), square5]
    else:
        raise ValueError(f"bank is 'three' or 'full', not {bank!r}")
    return np.stack(kernels, axis=-1)[:, :, None].astype("float32")


@keras.saving.register_keras_serializable("tfdetect")
class SRM(Float32Layer):
    """[B, H, W, C] in 0..255 -> clipped residuals in -1..1; see `srm`."""

    def __init__(
        self, bank: str = "three", clip: float = 3.0, separate: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.bank, self.clip, self.separate = bank, clip, separate
        self._kernels = srm_kernels(bank)

    def call(self, images: Tensor) -> Tensor:
        x = ops.pad(images, [[0, 0], [2, 2], [2, 2], [0, 0]], mode="reflect")
        channels = x.shape[-1]
        if self.separate:
            kernels = np.repeat(self._kernels, channels, axis=2)
            x = ops.depthwise_conv(x, kernels, padding="valid")
        else:  # the sum of the colors' residuals is the residual of their sum
            x = ops.conv(ops.sum(x, axis=-1, keepdims=True), self._kernels, padding="valid")
        return ops.clip(x, -self.clip, self.clip) / self.clip

    def get_config(self) -> dict[str, Any]:
        own = {"bank": self.bank, "clip": self.clip, "separate": self.separate}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tfdetect")
class Bayar(keras.constraints.Constraint):
    """Constraint: in each 2-D kernel the center is -1 and the other weights sum to 1."""

    def __call__(self, w: Tensor) -> Tensor:
        height, width = w.shape[:2]
        center = np.zeros((height, width, 1, 1), "float32")
        center[height // 2, width // 2] = 1
        others = w * (1 - center)
        total = ops.sum(others, axis=(0, 1), keepdims=True)
        # Division by a sum near 0 would make the weights explode; then they are shifted.
        amount = ops.sum(ops.abs(others), axis=(0, 1), keepdims=True)
        safe = ops.abs(total) > 0.05 * amount
        divided = others / ops.where(safe, total, 1.0)
        shifted = (others + (1 - total) / (height * width - 1)) * (1 - center)
        return ops.where(safe, divided, shifted) - center


@keras.saving.register_keras_serializable("tfdetect")
class BayarInitializer(keras.initializers.GlorotUniform):
    """Glorot uniform, then the constraint `Bayar`."""

    def __call__(self, shape: Any, dtype: Any = None) -> Tensor:
        return Bayar()(super().__call__(shape, dtype))


def bayar_convolution(filters: int, size: int) -> layers.Conv2D:
    """Return a convolution whose kernels `Bayar` constrains after each update."""
    return layers.Conv2D(
        filters, size, padding="same", use_bias=False, dtype="float32", name="bayar",
        kernel_initializer=BayarInitializer(), kernel_constraint=Bayar(),
    )  # fmt: skip


@keras.saving.register_keras_serializable("tfdetect")
class NoiseResidual(Float32Layer):
    """[B, H, W, C] in 0..255 -> noise residual in -1..1; see `residual`."""

    def __init__(self, denoiser: str = "wiener", clip: float = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if denoiser not in ("wiener", "median", "gaussian"):
            raise ValueError(f"denoiser is wiener, median or gaussian, not {denoiser!r}")
        self.denoiser, self.clip = denoiser, clip

    def call(self, images: Tensor) -> Tensor:
        height, width = images.shape[1:3]
        x = ops.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
        around = ops.stack(
            [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1
        )
        if self.denoiser == "median":
            smooth = ops.sort(around, axis=-1)[..., 4]
        elif self.denoiser == "gaussian":
            smooth = ops.sum(around * np.outer([1, 2, 1], [1, 2, 1]).ravel() / 16, axis=-1)
        else:
            mean, variance = ops.moments(around, axes=[-1])
            noise = ops.mean(variance, axis=(1, 2), keepdims=True)
            kept = ops.maximum(variance - noise, 0) / ops.maximum(variance, noise + 1e-6)
            smooth = mean + kept * (images - mean)
        return ops.clip(images - smooth, -self.clip, self.clip) / self.clip

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "denoiser": self.denoiser, "clip": self.clip}


@keras.saving.register_keras_serializable("tfdetect")
class NPR(Float32Layer):
    """See `npr`."""

    def call(self, images: Tensor) -> Tensor:
        height, width = (side - side % 2 for side in images.shape[1:3])
        x = images[:, :height, :width] / (255 * np.array(_STD, "float32"))
        # A slice: Keras's nearest resize takes another pixel of each block.
        corner = ops.repeat(ops.repeat(x[:, ::2, ::2], 2, axis=1), 2, axis=2)
        return (x - corner) * (2 / 3)


@keras.saving.register_keras_serializable("tfdetect")
class Gradient(Float32Layer):
    """See `gradient`."""

    def __init__(self, towards: str = "top_right", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.towards = towards

    def call(self, images: Tensor) -> Tensor:
        x = (images / 255 - np.array(_MEAN, "float32")) / np.array(_STD, "float32")
        kernel = np.array([[-2, -1, 0], [-1, 0, 1], [0, 1, 2]], "float32")
        if self.towards == "top_right":
            kernel = kernel[::-1]
        kernel = np.repeat(kernel[..., None, None], 3, axis=2)
        return ops.depthwise_conv(x, kernel, padding="same")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "towards": self.towards}


@keras.saving.register_keras_serializable("tfdetect")
class WaveletHH(Float32Layer):
    """[B, H, W, C] in 0..255 -> its HH band [B, (H + 5) // 2, (W + 5) // 2, C]; see `wavelet`.

    The edges are mirrored, as PyWavelets' mode "symmetric" does.
    """

    def call(self, images: Tensor) -> Tensor:
        # The high-pass filter of bior1.3 has two taps other than 0: 1/sqrt(2) and its negative.
        x = images / 255
        for axis in (1, 2):
            side = x.shape[axis]
            positions = 2 * np.arange((side + 5) // 2) - 2
            x = 0.5**0.5 * (
                ops.take(x, _mirrored(positions, side), axis=axis)
                - ops.take(x, _mirrored(positions + 1, side), axis=axis)
            )
        return x


def _mirrored(positions: np.ndarray, side: int) -> np.ndarray:
    positions = positions % (2 * side)
    return np.where(positions < side, positions, 2 * side - 1 - positions)
