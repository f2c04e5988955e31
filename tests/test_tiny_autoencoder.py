"""The published tiny autoencoders, in small: the same names of tensors with random weights."""

import json

import ml_dtypes
import numpy as np
import pytest
from test_synthesis import photo_of

from tfdetect.core.errors import UserError
from tfdetect.synthesis.autoencoder import Autoencoder

pytest.importorskip("safetensors")
WIDTH, CODE = 4, 2
BLOCK = [("conv.0", 3, True), ("conv.2", 3, True), ("conv.4", 3, True)]
POOL = [("pool.0", 1, False), ("pool.3", 1, False)]


def halves(seed=0, width=WIDTH, pool=True):
    """Return the tensors of encoder and decoder, by their published names."""
    rng, made = np.random.default_rng(seed), ({}, {})

    def convolution(state, name, inputs, outputs, side=3, bias=True):
        scale = 1 / np.sqrt(inputs * side**2)
        state[f"{name}.weight"] = rng.normal(0, scale, (outputs, inputs, side, side))
        if bias:
            state[f"{name}.bias"] = rng.normal(0, 0.1, outputs)

    def block(state, number, pooled):
        for name, side, bias in BLOCK:
            convolution(state, f"{number}.{name}", width, width, side, bias)
        if pooled:
            convolution(state, f"{number}.pool.0", width, 4 * width, 1, False)
            state[f"{number}.pool.1.weight"] = rng.normal(1, 0.1, 4 * width)
            state[f"{number}.pool.1.bias"] = rng.normal(0, 0.1, 4 * width)
            convolution(state, f"{number}.pool.3", 4 * width, width, 1, False)

    encoder, decoder = made
    convolution(encoder, "0", 3, width)
    block(encoder, 1, False)
    for number in (2, 4, 6):
        convolution(encoder, f"{number}", width, width, bias=False)
        block(encoder, number + 1, pool and number == 6)
    convolution(encoder, "8", width, CODE)
    convolution(decoder, "1", CODE, width)
    block(decoder, 3, pool)
    for number in (5, 8, 11):  # the number before is that of an upsampling
        convolution(decoder, f"{number}", width, width, bias=False)
        block(decoder, number + 1, False)
    convolution(decoder, "13", width, 3)
    return made


def write(path, state, kind=np.float32, name="F32"):
    """Write a .safetensors file: the size of a JSON header, the header, the numbers."""
    header, parts, start = {}, [], 0
    for key, value in sorted(state.items()):  # as published, in the order of the names
        parts.append(value.astype(kind).tobytes())
        end = start + len(parts[-1])
        header[key] = {"dtype": name, "shape": value.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def write_both(folder, made, **kind):
    files = [folder / f"taetest_{half}.safetensors" for half in ("encoder", "decoder")]
    for file, state in zip(files, made):
        write(file, state, **kind)
    return files


def test_a_published_pair_is_an_autoencoder(tmp_path):
    encoder, decoder = write_both(tmp_path, halves())
    photo = photo_of(40, 27).pixels  # sides that 8 does not divide
    made = Autoencoder.load(decoder).reconstruct(photo)
    assert made.shape == photo.shape and made.dtype == np.uint8 and made.std() > 1
    assert np.array_equal(Autoencoder.load(encoder).reconstruct(photo), made)
    write_both(tmp_path, halves(), kind=ml_dtypes.bfloat16, name="BF16")
    rounded = Autoencoder.load(decoder).reconstruct(photo)
    assert np.abs(rounded.astype(int) - made).mean() < 3


def test_the_other_half_and_other_networks(tmp_path):
    encoder, decoder = write_both(tmp_path, halves())
    states = halves()
    write(decoder, states[1] | {"extra.weight": np.zeros(1)})
    with pytest.raises(UserError, match=r"extra.weight has no place"):
        Autoencoder.load(decoder)
    write(decoder, {k: v for k, v in states[1].items() if k != "3.conv.2.weight"})
    with pytest.raises(UserError, match=r"3.conv.2.weight"):
        Autoencoder.load(decoder)
    write(decoder, halves(width=6)[1] | {"1.weight": states[1]["1.weight"]})
    with pytest.raises(UserError, match="no tiny autoencoder"):
        Autoencoder.load(decoder)
    with pytest.raises(UserError, match="is not a saved autoencoder"):
        Autoencoder.load(decoder.rename(tmp_path / "autoencoder.safetensors"))
    encoder.unlink()
    write(decoder, states[1])
    with pytest.raises(UserError, match="taetest_encoder"):
        Autoencoder.load(decoder)


def test_it_is_what_pytorch_computes(tmp_path):
    torch = pytest.importorskip("torch")
    states = halves()
    _, decoder = write_both(tmp_path, states)
    photo = photo_of(40, 24).pixels
    encoder_state, decoder_state = (
        {key: torch.tensor(value, dtype=torch.float32) for key, value in state.items()}
        for state in states
    )
    functions = torch.nn.functional

    def convolve(x, state, name, stride=1):
        kernel = state[f"{name}.weight"]
        bias = state.get(f"{name}.bias")
        return functions.conv2d(x, kernel, bias, stride, padding=kernel.shape[2] // 2)

    def block(x, state, number):
        if f"{number}.pool.0.weight" in state:
            y = convolve(x, state, f"{number}.pool.0")
            scale, offset = (state[f"{number}.pool.1.{name}"] for name in ("weight", "bias"))
            y = functions.relu(functions.group_norm(y, 4, scale, offset))
            x = x + convolve(y, state, f"{number}.pool.3")
        y = functions.relu(convolve(x, state, f"{number}.conv.0"))
        y = functions.relu(convolve(y, state, f"{number}.conv.2"))
        return functions.relu(convolve(y, state, f"{number}.conv.4") + x)

    x = torch.tensor(photo).permute(2, 0, 1)[None] / 255
    x = block(convolve(x, encoder_state, "0"), encoder_state, 1)
    for number in (2, 4, 6):
        x = block(convolve(x, encoder_state, number, 2), encoder_state, number + 1)
    x = torch.tanh(convolve(x, encoder_state, "8") / 3) * 3
    x = block(functions.relu(convolve(x, decoder_state, "1")), decoder_state, 3)
    for number in (5, 8, 11):
        x = functions.interpolate(x, scale_factor=2)
        x = block(convolve(x, decoder_state, number), decoder_state, number + 1)
    x = convolve(x, decoder_state, "13").clamp(0, 1)[0].permute(1, 2, 0) * 255
    difference = np.abs(x.numpy() - Autoencoder.load(decoder).reconstruct(photo))
    assert difference.max() <= 0.51  # ours is rounded
