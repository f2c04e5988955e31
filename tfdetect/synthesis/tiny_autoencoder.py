"""The tiny autoencoders of published image generators (TAESD, https://github.com/madebyollin/taesd).

Each is an encoder and a decoder for the latent space of Stable Diffusion 1 and 2 (`taesd`), SDXL
(`taesdxl`), Stable Diffusion 3 (`taesd3`), FLUX.1 (`taef1`) or FLUX.2 (`taef2`), distilled to 2.4
million parameters together. They are published as pairs of files with PyTorch's names of tensors;
the network is built from these names and shapes.
"""

import re
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from tfdetect.core.errors import UserError
from tfdetect.models.tensors import Tensor
from tfdetect.models.weights import read_state

MULTIPLE = 8  # the sides of the network's inputs must be divisible by this
_LATENT_LIMIT = 3.0  # codes are squashed to plus and minus this
_GROUPS, _EPSILON = 4, 1e-5  # of the normalization in some blocks
_HALVES = ("encoder", "decoder")
_HALF = re.compile(r"(?<![a-z])(encoder|decoder)")  # matches "taesd_encoder" and not "autoencoder"


def is_tiny(file: Path) -> bool:
    """Return whether a file is half of a tiny autoencoder, by its name."""
    return file.suffix in (".safetensors", ".pth") and _HALF.search(file.name) is not None


def load_tiny(file: Path) -> keras.Model:
    """Return a tiny autoencoder, from images float32 [B, H, W, 3] in 0..255 to the same shape.

    H and W must be divisible by 8.

    Args:
        file: file of the encoder or the decoder; the other one is beside it.

    Raises:
        UserError: one of the two files is missing, cannot be read or contains another network.
    """
    encoder, decoder = (_Tensors(file.with_name(_HALF.sub(half, file.name))) for half in _HALVES)
    inputs = keras.Input((None, None, 3))
    try:
        codes = _encode(layers.Rescaling(1 / 255)(inputs), encoder)
        made = _decode(ops.tanh(codes / _LATENT_LIMIT) * _LATENT_LIMIT, decoder)
    except (KeyError, ValueError) as error:  # a tensor is missing or has another shape
        raise UserError(f"{file} and its other half are no tiny autoencoder: {error}") from error
    if left := {**encoder.left, **decoder.left}:
        raise UserError(
            f"{file} and its other half are no tiny autoencoder that is known here: the tensor "
            f"{min(left)} has no place."
        )
    return keras.Model(inputs, ops.clip(made, 0, 1) * 255, name="tiny_autoencoder")


class _Tensors:
    """Tensors of a file, which are taken one by one while the network is built.

    Attributes:
        left: tensors that have not been taken yet, by name.
        modules: numbers with which names begin, ascending; modules without weights are missing.
    """

    def __init__(self, file: Path):
        self.left = {k: v.astype(np.float32) for k, v in read_state(file).items()}
        numbers = {name.split(".")[0] for name in self.left}
        self.modules = sorted(int(number) for number in numbers if number.isdigit())

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str) -> np.ndarray:
        """Return a tensor and remove it; raise a KeyError if there is none."""
        return self.left.pop(name)


def _encode(x: Tensor, tensors: _Tensors) -> Tensor:
    """Apply the encoder: convolutions without a bias halve the sides."""
    for module in tensors.modules:
        if f"{module}.conv.0.weight" in tensors:
            x = _block(x, tensors, f"{module}.")
        else:
            x = _convolution(x, tensors, f"{module}.", halving=f"{module}.bias" not in tensors)
    return x


def _decode(x: Tensor, tensors: _Tensors) -> Tensor:
    """Apply the decoder: before convolutions without a bias the sides are doubled."""
    for module in tensors.modules:
        if f"{module}.conv.0.weight" in tensors:
            x = _block(x, tensors, f"{module}.")
            continue
        if f"{module}.bias" not in tensors:
            x = layers.UpSampling2D()(x)
        x = _convolution(x, tensors, f"{module}.")
        if module == tensors.modules[0]:
            x = ops.relu(x)
    return x


def _block(x: Tensor, tensors: _Tensors, name: str) -> Tensor:
    """Apply three convolutions and add their input."""
    if f"{name}pool.0.weight" in tensors:
        y = _convolution(x, tensors, f"{name}pool.0.")
        y = ops.relu(_group_normalization(y, tensors, f"{name}pool.1."))
        x = x + _convolution(y, tensors, f"{name}pool.3.")
    y = ops.relu(_convolution(x, tensors, f"{name}conv.0."))
    y = ops.relu(_convolution(y, tensors, f"{name}conv.2."))
    y = _convolution(y, tensors, f"{name}conv.4.")
    if f"{name}skip.weight" in tensors:
        x = _convolution(x, tensors, f"{name}skip.")
    return ops.relu(x + y)


def _convolution(x: Tensor, tensors: _Tensors, name: str, halving: bool = False) -> Tensor:
    weights = [tensors.take(f"{name}weight").transpose(2, 3, 1, 0)]
    if f"{name}bias" in tensors:
        weights.append(tensors.take(f"{name}bias"))
    *sides, _, filters = weights[0].shape
    options = {"strides": 2, "padding": "valid"} if halving else {"padding": "same"}
    if halving:  # PyTorch pads all four sides, "same" only two
        x = layers.ZeroPadding2D(sides[0] // 2)(x)
    layer = layers.Conv2D(filters, sides, use_bias=len(weights) == 2, **options)
    y = layer(x)
    layer.set_weights(weights)
    return y


def _group_normalization(x: Tensor, tensors: _Tensors, name: str) -> Tensor:
    layer = layers.GroupNormalization(_GROUPS, epsilon=_EPSILON)
    y = layer(x)
    layer.set_weights([tensors.take(f"{name}weight"), tensors.take(f"{name}bias")])
    return y
