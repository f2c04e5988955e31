"""Run convolutions whose groups have one channel each as depthwise convolutions.

Keras compiles every convolution with groups by XLA. ONNX cannot express that, and on a CPU it takes
many times as long. ConvNeXt has such convolutions.
"""

import keras
import tensorflow as tf
from keras import layers

from tfdetect.models.tensors import Tensor


def run_groups_as_depthwise(model: keras.Model) -> None:
    """Make a model's grouped convolutions of one channel a group run as depthwise ones.

    They compute the same, up to the order of sums, and are saved as the layers of Keras that they
    are.
    """
    for layer in model._flatten_layers():
        if type(layer) is layers.Conv2D and layer.groups > 1 and layer.kernel.shape[2] == 1:
            square = layer.strides[0] == layer.strides[1] and layer.dilation_rate == (1, 1)
            if square and layer.data_format == "channels_last":
                layer.convolution_op = convolve_depthwise.__get__(layer)


def convolve_depthwise(layer: layers.Conv2D, inputs: Tensor, kernel: Tensor) -> Tensor:
    """Compute the convolution of a layer whose groups have one channel each."""
    height, width, _, filters = kernel.shape
    kernel = tf.reshape(kernel, [height, width, layer.groups, filters // layer.groups])
    return tf.nn.depthwise_conv2d(inputs, kernel, [1, *layer.strides, 1], layer.padding.upper())
