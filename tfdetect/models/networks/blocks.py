"""What the published networks are made of, padded as PyTorch pads."""

from keras import layers

from tfdetect.models.normalization import FusedBatchNormalization


def conv(x, filters: int, size: int, name: str, strides: int = 1, dilation: int = 1, bias=False):
    """A convolution of odd size, padded on all sides alike."""
    padding = "same"
    if strides > 1 and size == 1:
        # The same by hand: oneDNN's gradient of such a convolution of three channels writes
        # where it must not (TensorFlow 2.21).
        x, strides = x[:, ::strides, ::strides], 1
    elif strides > 1:  # "same" would pad below and on the right only
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    return layers.Conv2D(
        filters, size, strides=strides, dilation_rate=dilation, padding=padding, use_bias=bias,
        kernel_initializer="he_normal", name=name,
    )(x)  # fmt: skip


def norm(x, name: str, affine: bool = True):
    """Batch normalization with PyTorch's momentum and epsilon."""
    return FusedBatchNormalization(
        momentum=0.9, epsilon=1e-5, scale=affine, center=affine, name=name
    )(x)  # fmt: skip


def conv_norm_relu(x, filters: int, size: int, name: str, strides: int = 1, bias=False):
    """Convolution, batch normalization, ReLU."""
    x = conv(x, filters, size, f"{name}_conv", strides, bias=bias)
    return layers.ReLU(name=f"{name}_relu")(norm(x, f"{name}_norm"))
