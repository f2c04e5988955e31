"""Vector-quantized matrices: each eight-bit code stands for two or three neighboring weights."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from tfdetect.models.tensors import Tensor

CODES = 256  # rows of a codebook
CODES_SUFFIX, CODEBOOK_SUFFIX = "_codes", "_codebook"  # of names of variables


class CodedMatrix(NamedTuple):
    """A matrix [inputs, outputs] of vectors of a codebook, times a scale per input and per output.

    Vector quantization as in Gray (IEEE ASSP Magazine, 1984): a matrix of float32 takes eight times
    the memory with two weights a code, and twelve times with three.

    Attributes:
        codes: uint8 [inputs, outputs / weights a code], not trained.
        codebook: float32 [256, weights a code].
        input_scale: float32 [inputs].
        output_scale: float32 [outputs].
    """

    codes: keras.Variable
    codebook: keras.Variable
    input_scale: keras.Variable
    output_scale: keras.Variable

    @classmethod
    def add(
        cls, layer: keras.Layer, name: str, inputs: int, outputs: int, together: int
    ) -> "CodedMatrix":
        """Add the variables of a random matrix to a layer.

        Args:
            layer: the layer of the variables.
            name: the text that their names begin with.
            inputs: rows of the matrix.
            outputs: its columns, a multiple of `together`.
            together: weights of neighboring outputs that share a code.
        """
        return cls(
            layer.add_weight(
                shape=(inputs, outputs // together), dtype="uint8", trainable=False,
                initializer=_random_codes, name=f"{name}{CODES_SUFFIX}",
            ),
            layer.add_weight(
                shape=(CODES, together), initializer=keras.initializers.RandomNormal(stddev=1),
                name=f"{name}{CODEBOOK_SUFFIX}",
            ),
            layer.add_weight(shape=(inputs,), initializer="ones", name=f"{name}_input_scale"),
            layer.add_weight(
                shape=(outputs,), initializer=keras.initializers.Constant(inputs**-0.5),
                name=f"{name}_output_scale",
            ),
        )  # fmt: skip

    def multiply(self, x: Tensor) -> Tensor:
        """Return x @ matrix in the dtype of x: [..., inputs] -> [..., outputs]."""
        found = tf.gather(ops.cast(self.codebook, x.dtype), ops.cast(self.codes, "int32"))
        matrix = ops.reshape(found, (self.codes.shape[0], self.output_scale.shape[0]))
        x = x * ops.cast(self.input_scale, x.dtype)
        return ops.matmul(x, matrix) * ops.cast(self.output_scale, x.dtype)


def _random_codes(shape: tuple[int, ...], dtype: Any = None) -> Tensor:
    return ops.cast(keras.random.randint(shape, 0, CODES), dtype)
