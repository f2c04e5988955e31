"""Building blocks of the published networks, padded as in PyTorch."""

from keras import layers

from tfdetect.models.normalization import FusedBatchNormalization
from tfdetect.models.tensors import Tensor


def conv(
    x: Tensor,
    filters: int,
    size: int,
    name: str,
    strides: int = 1,
    bias: bool = False,
    padded: bool = True,
) -> Tensor:
    """Return a convolution.

    Args:
        x: float [B, H, W, C].
        filters: number of output channels.
        size: side of the kernel in pixels, odd.
        name: name of the layer.
        strides: pixels from one output to the next.
        bias: whether it has a bias.
        padded: whether all sides are padded equally with zeros, or none.

    Returns:
        float [B, h, w, filters].
    """
    padding = "same" if padded else "valid"
    if strides > 1 and size == 1:
        # Slicing instead of a stride: oneDNN's gradient of such a convolution of three channels
        # writes out of bounds (TensorFlow 2.21).
        x, strides = x[:, ::strides, ::strides], 1
    elif strides > 1 and padded:  # "same" would pad on the bottom and on the right only
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    return layers.Conv2D(
        filters, size, strides=strides, padding=padding, use_bias=bias,
        kernel_initializer="he_normal", name=name,
    )(x)  # fmt: skip


def norm(x: Tensor, name: str, affine: bool = True) -> Tensor:
    """Return batch normalization with PyTorch's momentum and epsilon."""
    return FusedBatchNormalization(
        momentum=0.9, epsilon=1e-5, scale=affine, center=affine, name=name
    )(x)


def norm_relu(x: Tensor, name: str) -> Tensor:
    """Return batch normalization and ReLU; `name` begins the names of the layers."""
    return layers.ReLU(name=f"{name}_relu")(norm(x, f"{name}_norm"))


def conv_norm_relu(
    x: Tensor,
    filters: int,
    size: int,
    name: str,
    strides: int = 1,
    bias: bool = False,
    padded: bool = True,
) -> Tensor:
    """Return a convolution, batch normalization and ReLU; see `conv`."""
    x = conv(x, filters, size, f"{name}_conv", strides, bias=bias, padded=padded)
    return norm_relu(x, name)
