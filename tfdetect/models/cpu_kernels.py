"""Makes networks of Keras's own layers train fast on CPUs."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from tfdetect.models.grouped_convolutions import convolve_depthwise
from tfdetect.models.normalization import FusedBatchNormalization
from tfdetect.models.tensors import Tensor

# Positions of a convolution's output up to which the gradient of its filter is a product of
# matrices: oneDNN's own kernel takes two to five times as long for so few.
FEW_POSITIONS = 4
# Width of depthwise filters up to which oneDNN's kernel for their gradient is fast; for wider ones
# it takes 3 to 13 times as long.
FAST_WIDTH = 3

# Multiples of channels whose normalization is fast in half precision; otherwise oneDNN's kernel
# takes 2 to 17 times as long as in float32.
CHANNELS_OF_HALF = 16


def use_cpu_kernels(model: keras.Model) -> None:
    """Make batch normalizations and convolutions in a model train by faster kernels.

    They compute the same, up to the order of sums, and are saved as the layers of Keras that they
    are. At 32 pixels ResNet-18 trains 1.6 times and DenseNet121 1.4 times as fast; at 96 pixels
    EfficientNet-Lite0 1.3 times, in bfloat16 3 times.
    """
    for layer in model._flatten_layers():
        if type(layer) is layers.BatchNormalization:
            if layer.axis in (-1, 3) and not layer.renorm:
                layer.call = _normalize.__get__(layer)
        elif type(layer) in (layers.Conv2D, layers.DepthwiseConv2D):
            if layer.data_format == "channels_last" and layer.dilation_rate == (1, 1):
                _use_kernels_of_convolutions(layer)
        elif type(layer) in (layers.Dense, layers.EinsumDense, layers.Conv2DTranspose):
            first = getattr(layer, "data_format", None) == "channels_first"
            if layer.bias is not None and layer.compute_dtype == "bfloat16" and not first:
                layer.call = _CALLS[type(layer)].__get__(layer)


def _use_kernels_of_convolutions(layer: layers.Conv2D | layers.DepthwiseConv2D) -> None:
    if type(layer) is layers.DepthwiseConv2D:
        if layer.depth_multiplier == 1:
            layer.call = _depthwise_call.__get__(layer)
    elif layer.groups == 1:
        layer.convolution_op = _convolution.__get__(layer)
    elif layer.groups == layer.filters and layer.kernel.shape[2] == 1:
        layer.convolution_op = _grouped_convolution.__get__(layer)


def _normalize(
    layer: layers.BatchNormalization,
    inputs: Tensor,
    training: bool | None = None,
    mask: Tensor = None,
) -> Tensor:
    """Normalize as `layer` does, by the fused kernel."""
    images = tf.convert_to_tensor(inputs)
    wide = images if images.shape[-1] % CHANNELS_OF_HALF == 0 else tf.cast(images, tf.float32)
    normalized = FusedBatchNormalization.call(layer, wide, training=training, mask=mask)
    return tf.cast(normalized, images.dtype)


def _convolution(layer: layers.Conv2D, inputs: Tensor, kernel: Tensor) -> Tensor:
    """Convolve as `layer` does.

    Each position by itself, it is a product of matrices, which is faster in both directions. Where
    the output has few positions the gradient of the filter is one.
    """
    inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
    height, width, channels, filters = kernel.shape
    if tuple(inputs.shape[1:3]) == (1, 1) and layer.padding == "same":
        # All weights but those in the middle see only padding.
        top, left = (height - 1) // 2, (width - 1) // 2
        kernel = kernel[top : top + 1, left : left + 1]
        height = width = 1
    if height == width == 1 and layer.strides == (1, 1):
        products = tf.matmul(tf.reshape(inputs, [-1, channels]), kernel[0, 0])
        return tf.reshape(products, tf.concat([tf.shape(inputs)[:3], [filters]], 0))
    positions = layer.compute_output_shape(inputs.shape)[1:3]
    if None in positions or positions[0] * positions[1] > FEW_POSITIONS:
        return layers.Conv2D.convolution_op(layer, inputs, kernel)
    return _convolve(inputs, kernel, layer.strides, layer.padding.upper())


def _grouped_convolution(layer: layers.Conv2D, inputs: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel as `layer` does, which has one group a channel."""
    inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
    if None in inputs.shape[1:3] or layer.strides[0] != layer.strides[1]:
        return convolve_depthwise(layer, inputs, kernel)
    return _filter_channels(
        inputs, tf.transpose(kernel, [0, 1, 3, 2]), layer.strides[0], layer.padding.upper()
    )


def _convolve(
    inputs: tf.Tensor, kernel: tf.Tensor, strides: tuple[int, int], padding: str
) -> tf.Tensor:
    steps = [1, *strides, 1]

    @tf.custom_gradient
    def convolve(x: tf.Tensor, w: tf.Tensor) -> tuple:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_inputs = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=w, out_backprop=upstream, strides=steps,
                padding=padding,
            )  # fmt: skip
            height, width, channels, filters = w.shape
            seen = x[:, :: strides[0], :: strides[1]]
            if height * width > 1:
                seen = tf.image.extract_patches(
                    x, [1, height, width, 1], steps, [1, 1, 1, 1], padding
                )
            of_kernel = tf.matmul(
                tf.reshape(seen, [-1, height * width * channels]),
                tf.reshape(upstream, [-1, filters]), transpose_a=True,
            )  # fmt: skip
            return of_inputs, tf.reshape(of_kernel, w.shape)

        return tf.nn.conv2d(x, w, strides, padding), gradient

    return convolve(inputs, kernel)


def _depthwise_call(layer: layers.DepthwiseConv2D, inputs: Tensor) -> Tensor:
    """Filter each channel as `layer` does, with faster gradients."""
    if None in inputs.shape[1:3]:
        return layers.DepthwiseConv2D.call(layer, inputs)
    outputs = _filter_channels(
        tf.convert_to_tensor(inputs), tf.convert_to_tensor(layer.kernel), layer.strides[0],
        layer.padding.upper(),
    )  # fmt: skip
    return _add_bias(layer, outputs)


def _dense_call(layer: layers.Dense, inputs: Tensor, training: bool | None = None) -> Tensor:
    return _add_bias(layer, ops.matmul(inputs, layer.kernel))


def _einsum_call(layer: layers.EinsumDense, inputs: Tensor, training: bool | None = None) -> Tensor:
    return _add_bias(layer, ops.einsum(layer.equation, inputs, layer.kernel))


def _transpose_call(layer: layers.Conv2DTranspose, inputs: Tensor) -> Tensor:
    outputs = ops.conv_transpose(
        inputs, layer.kernel, strides=list(layer.strides), padding=layer.padding,
        output_padding=layer.output_padding, dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )  # fmt: skip
    return _add_bias(layer, outputs)


_CALLS: dict[type, Callable] = {
    layers.Dense: _dense_call,
    layers.EinsumDense: _einsum_call,
    layers.Conv2DTranspose: _transpose_call,
}


def _add_bias(layer: layers.Layer, outputs: Tensor) -> Tensor:
    """Add a layer's bias, if it has one, and apply its activation.

    The gradient of TensorFlow's own op for biases sums bfloat16 in bfloat16 on CPUs, where a sum of
    ones ends at 256.
    """

    @tf.custom_gradient
    def add(x: tf.Tensor, bias: tf.Tensor) -> tuple:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            missing = len(x.shape) - len(bias.shape)
            spread = [n for n, size in enumerate(bias.shape) if size == 1]
            axes = [*range(missing), *(missing + n for n in spread)]
            return upstream, tf.reshape(tf.reduce_sum(upstream, axes), bias.shape)

        return x + bias, gradient

    if layer.bias is not None:
        outputs = add(outputs, tf.convert_to_tensor(layer.bias))
    return outputs if layer.activation is None else layer.activation(outputs)


def _filter_channels(inputs: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    @tf.custom_gradient
    def filtered(x: tf.Tensor, w: tf.Tensor) -> tuple:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return (
                _gradient_of_images(x, w, upstream, stride, padding),
                _gradient_of_filters(x, w, upstream, stride, padding),
            )

        return tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding), gradient

    return filtered(inputs, kernel)


def _gradient_of_images(
    x: tf.Tensor, w: tf.Tensor, upstream: tf.Tensor, stride: int, padding: str
) -> tf.Tensor:
    """Return the gradient of the input of a depthwise convolution."""
    height, width = w.shape[:2]
    if stride == 1 and padding == "SAME" and height % 2 == width % 2 == 1:
        # It is the convolution with the reversed filters, which has the faster kernel.
        return tf.nn.depthwise_conv2d(upstream, tf.reverse(w, [0, 1]), [1, 1, 1, 1], padding)
    # With strides the kernel in half precision takes 10 to 100 times as long as in float32.
    gradient = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
        input_sizes=tf.shape(x), filter=tf.cast(w, tf.float32),
        out_backprop=tf.cast(upstream, tf.float32), strides=[1, stride, stride, 1],
        padding=padding,
    )  # fmt: skip
    return tf.cast(gradient, x.dtype)


def _gradient_of_filters(
    x: tf.Tensor, w: tf.Tensor, upstream: tf.Tensor, stride: int, padding: str
) -> tf.Tensor:
    """Return the gradient of the filters of a depthwise convolution."""
    size, height, width = tuple(w.shape[:2]), x.shape[1], x.shape[2]
    if size[1] <= FAST_WIDTH and size[0] <= height:
        return _filter_gradient(x, upstream, size, stride, padding=padding)
    wide = width % 2 == 0 and width // 2 >= FAST_WIDTH and height >= size[0]
    if size[1] == 5 and stride == 1 and padding == "SAME" and wide:
        return _gradient_by_parity(x, upstream, size[0])
    return _gradient_by_columns(x, upstream, size, stride, padding)


def _gradient_by_parity(x: tf.Tensor, upstream: tf.Tensor, height: int) -> tf.Tensor:
    """Return the gradient of filters of 5 columns, from two gradients of 3 columns.

    The middle columns, -1 to 1, are filters of their own. The columns -2, 0 and 2 join positions
    of one parity: with even and odd columns of an image as channels they are -1, 0 and 1.
    """
    rows, columns, channels = x.shape[1:]

    def halved(images: tf.Tensor) -> tf.Tensor:
        return tf.reshape(images, [-1, rows, columns // 2, 2 * channels])

    near = _filter_gradient(x, upstream, (height, 3), 1, padding="SAME")
    far = _filter_gradient(halved(x), halved(upstream), (height, 3), 1, padding="SAME")
    far = tf.reduce_sum(tf.reshape(far, [height, 3, 2, channels, 1]), 2)
    return tf.stack([far[:, 0], near[:, 0], far[:, 1], near[:, 2], far[:, 2]], 1)


def _gradient_by_columns(
    x: tf.Tensor, upstream: tf.Tensor, size: tuple[int, int], stride: int, padding: str
) -> tf.Tensor:
    """Return the gradient of wide filters, a few of their columns at a time."""
    margins = [(0, 0), (0, 0)]
    if padding == "SAME":
        spans = [(upstream.shape[n + 1] - 1) * stride + size[n] for n in (0, 1)]
        missing = [max(spans[n] - x.shape[n + 1], 0) for n in (0, 1)]
        margins = [(m // 2, m - m // 2) for m in missing]
    width, positions = x.shape[2], upstream.shape[2]
    parts = []
    for first in range(0, size[1], FAST_WIDTH):
        columns = min(FAST_WIDTH, size[1] - first)
        start = first - margins[1][0]
        end = start + (positions - 1) * stride + columns
        if start >= width or end <= 0:  # these columns only ever see padding
            parts.append(tf.zeros([size[0], columns, x.shape[3], 1], x.dtype))
            continue
        parts.append(_filter_gradient(
            x[:, :, max(start, 0) : end], upstream, (size[0], columns), stride, padding="EXPLICIT",
            explicit_paddings=[0, 0, *margins[0], max(-start, 0), max(end - width, 0), 0, 0],
        ))  # fmt: skip
    return tf.concat(parts, 1)


def _filter_gradient(
    x: tf.Tensor, upstream: tf.Tensor, size: tuple[int, int], stride: int, **padding: Any
) -> tf.Tensor:
    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=x, filter_sizes=[*size, x.shape[3], 1], out_backprop=upstream,
        strides=[1, stride, stride, 1], **padding,
    )  # fmt: skip
