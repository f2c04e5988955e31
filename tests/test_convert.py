"""Published weights: the same scores as a forward pass written with PyTorch's functions."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

torch = pytest.importorskip("torch", reason='pip install "tfdetect[convert]"')
F = torch.nn.functional

from tfdetect.convert import main
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_model, override
from tfdetect.core.open_run import open_run
from tfdetect.core.run_command import run_command
from tfdetect.models.convert_run import convert_run, is_matched_by_order
from tfdetect.models.saving import load_detector
from tfdetect.models.weights import convertible

LAYOUT = {"cnnspot": ([3, 4, 6, 3], True, "fc", 1), "spec": ([3, 4, 6, 3], False, "fc", 2),
          "npr": ([3, 4], True, "fc1", 1), "safe": ([3, 4], True, "fc1", 2)}  # fmt: skip
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def random_state(name):
    """A state dict of torchvision's names, randomly filled."""
    blocks, bottleneck, head, logits = LAYOUT[name]
    generator = torch.Generator().manual_seed(0)
    state = {}

    def conv(key, out, into, size):
        scale = (2 / (into * size * size)) ** 0.5
        state[f"{key}.weight"] = torch.randn(out, into, size, size, generator=generator) * scale

    def norm(key, width):
        state[f"{key}.weight"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{key}.bias"] = torch.randn(width, generator=generator) * 0.1
        state[f"{key}.running_mean"] = torch.randn(width, generator=generator) * 0.1
        state[f"{key}.running_var"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 64, 3, 3 if len(blocks) == 2 else 7)
    norm("bn1", 64)
    into = 64
    for stage, count in enumerate(blocks, 1):
        width = 32 * 2**stage
        out = 4 * width if bottleneck else width
        for block in range(count):
            key = f"layer{stage}.{block}"
            shapes = [(width, into, 1), (width, width, 3), (out, width, 1)] if bottleneck else [
                (width, into, 3), (width, width, 3)]  # fmt: skip
            for number, shape in enumerate(shapes, 1):
                conv(f"{key}.conv{number}", *shape)
                norm(f"{key}.bn{number}", shape[0])
            state[f"{key}.bn{len(shapes)}.weight"] *= 0.2  # or the scores would saturate
            if block == 0 and (stage > 1 or bottleneck):
                conv(f"{key}.downsample.0", out, into, 1)
                norm(f"{key}.downsample.1", out)
            into = out
    state[f"{head}.weight"] = torch.randn(logits, into, generator=generator) * 0.05
    state[f"{head}.bias"] = torch.randn(logits, generator=generator)
    return state


def reference(name, state, images):
    """P(fake) of images float [B, 3, H, W] in 0..255, RGB, as the project computes it."""
    blocks, bottleneck, head, _ = LAYOUT[name]
    x = images / 255

    def norm(x, key):
        parts = (state[f"{key}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-5)

    def conv(x, key, stride=1):
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    if name == "cnnspot":
        x = (x - MEAN) / STD
    elif name == "npr":
        x = (x - MEAN) / STD
        half = F.interpolate(x, scale_factor=0.5, mode="nearest", recompute_scale_factor=True)
        x = (x - F.interpolate(half, scale_factor=2.0, mode="nearest")) * 2 / 3
    elif name == "safe":
        low = np.array([0, 0, -(0.5**0.5), 0.5**0.5, 0, 0])[::-1]
        import pywt

        assert np.allclose(pywt.Wavelet("bior1.3").dec_hi, low[::-1])
        _, (_, _, hh) = pywt.dwt2(x.numpy(), "bior1.3", mode="symmetric")
        x = F.interpolate(torch.tensor(hh, dtype=torch.float32), size=images.shape[2:],
                          mode="bilinear", align_corners=False)  # fmt: skip
    else:  # BGR; the percentiles of each spectrum
        spectrum = np.log(np.abs(np.fft.fft2(x.flip(1).numpy())) + 1e-3)
        low, high = np.percentile(spectrum, [5, 95], axis=(2, 3), keepdims=True)
        x = torch.tensor(np.clip(2 * ((spectrum - low) / (high - low) - 0.5), -1, 1)).float()
    x = F.relu(norm(conv(x, "conv1", 2), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            skip = x
            if f"{key}.downsample.0.weight" in state:
                skip = norm(conv(x, f"{key}.downsample.0", stride), f"{key}.downsample.1")
            if bottleneck:  # the stride is in the 3x3
                y = F.relu(norm(conv(x, f"{key}.conv1"), f"{key}.bn1"))
                y = F.relu(norm(conv(y, f"{key}.conv2", stride), f"{key}.bn2"))
                y = norm(conv(y, f"{key}.conv3"), f"{key}.bn3")
            else:
                y = F.relu(norm(conv(x, f"{key}.conv1", stride), f"{key}.bn1"))
                y = norm(conv(y, f"{key}.conv2"), f"{key}.bn2")
            x = F.relu(y + skip)
    logits = F.linear(x.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])
    if logits.shape[1] == 1:
        return torch.sigmoid(logits[:, 0])
    return torch.softmax(logits, 1)[:, 0 if name == "spec" else 1]


class Filled(dict):
    """A state dict that makes random tensors as a reference asks for them, in that order."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def weight(self, key, *shape):
        if key not in self:
            spread = (2 / max(1, np.prod(shape[1:]))) ** 0.5
            self[key] = torch.randn(*shape, generator=self.generator) * spread
        return self[key]

    def number(self, key, *shape, low=-0.1, high=0.1):
        if key not in self:
            self[key] = low + (high - low) * torch.rand(*shape, generator=self.generator)
        return self[key]

    def conv(self, x, key, out, size, bias=False, pad=None, gain=1.0, **options):
        into = x.shape[1] // options.get("groups", 1)
        if f"{key}.weight" not in self:
            self.weight(f"{key}.weight", out, into, size, size).mul_(gain)
        weight = self[f"{key}.weight"]
        b = self.number(f"{key}.bias", out) if bias else None
        return F.conv2d(x, weight, b, padding=size // 2 if pad is None else pad, **options)

    def norm(self, x, key, affine=True, gain=1.0):
        width = x.shape[1]
        scale = (
            self.number(f"{key}.weight", width, low=0.5 * gain, high=1.5 * gain) if affine else None
        )
        shift = self.number(f"{key}.bias", width) if affine else None
        mean = self.number(f"{key}.running_mean", width)
        variance = self.number(f"{key}.running_var", width, low=0.5, high=1.5)
        self[f"{key}.num_batches_tracked"] = torch.tensor(7)
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)

    def linear(self, x, key, out, gain=0.3):  # or the scores would saturate
        if f"{key}.weight" not in self:
            self.weight(f"{key}.weight", out, x.shape[1]).mul_(gain)
        return F.linear(x, self[f"{key}.weight"], self.number(f"{key}.bias", out))


def gramnet(state, images):
    """P(fake) by GramNet: class 0 is fake, BGR in 0..255."""
    x = image = images.flip(1)
    taps = [image]
    x = F.relu(state.norm(state.conv(x, "conv1", 64, 7, stride=2), "bn1", gain=0.01))
    taps.append(x)
    x = F.max_pool2d(x, 3, 2, 1)
    taps.append(x)
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(
                state.norm(state.conv(x, f"{key}.conv1", width, 3, stride=stride), f"{key}.bn1")
            )
            y = state.norm(state.conv(y, f"{key}.conv2", width, 3), f"{key}.bn2", gain=0.3)
            if stride > 1:
                x = state.conv(x, f"{key}.downsample.0", width, 1, pad=0, stride=stride)
                x = state.norm(x, f"{key}.downsample.1")
            x = F.relu(x + y)
        taps.append(x)
    parts = [x.mean((2, 3))]
    factor = state.number("scale.weight", 1, low=0.8, high=1.2)
    for number, tap in enumerate(taps[:6]):
        inner, outer = f"inner_{number}", f"gram_{number}"
        y = state.conv(tap, f"{inner}.0", 32, 3)
        y = F.relu(state.norm(y, f"{inner}.1", gain=1.0 if number else 0.01))
        flat = y.flatten(2)
        y = (flat @ flat.transpose(1, 2) / (32 * flat.shape[2]))[:, None]
        for place, width in ((0, 16), (3, 32)):
            y = state.conv(y, f"{outer}.{place}", width, 3, stride=2)
            y = F.relu(state.norm(y, f"{outer}.{place + 1}", gain=0.3))
        parts.append(factor * y.mean((2, 3)))
    x = F.relu(state.linear(torch.cat(parts, 1), "fc", 512))
    return torch.softmax(state.linear(x, "fc_new", 2), 1)[:, 0]


STACKS = ((64, 3, 2, 3), (128, 4, 2, 3), (256, 6, 2, 1), (512, 3, 1, 1))


def ladeda(state, images):
    """P(fake) by LaDeDa with patches of 9 pixels, on the differences of NPR."""
    x = (images / 255 - MEAN) / STD
    half = F.interpolate(x, scale_factor=0.5, mode="nearest", recompute_scale_factor=True)
    x = state.conv(x - F.interpolate(half, scale_factor=2.0, mode="nearest"), "conv1", 64, 1)
    x = F.relu(state.norm(state.conv(x, "conv2", 64, 3, pad=0), "bn1"))
    for stage, (width, blocks, stride, size) in enumerate(STACKS, 1):
        for block in range(blocks):
            key, by = f"layer{stage}.{block}", 1 if block else stride
            y = F.relu(state.norm(state.conv(x, f"{key}.conv1", width, 1), f"{key}.bn1"))
            y = state.conv(y, f"{key}.conv2", width, 1 if block else size, pad=0, stride=by)
            y = F.relu(state.norm(y, f"{key}.bn2"))
            y = state.norm(state.conv(y, f"{key}.conv3", 4 * width, 1), f"{key}.bn3", gain=0.3)
            if block == 0:
                x = state.conv(x, f"{key}.downsample.0", 4 * width, 1, stride=by)
                x = state.norm(x, f"{key}.downsample.1")
            x = F.relu(x[:, :, : y.shape[2], : y.shape[3]] + y)
    return torch.sigmoid(state.linear(x.mean((2, 3)), "fc", 1))[:, 0]


def tiny_ladeda(state, images):
    """P(fake) by Tiny-LaDeDa."""
    x = (images / 255 - MEAN) / STD
    kernel = torch.tensor([[0.0, 1, 2], [-1, 0, 1], [-2, -1, 0]]).expand(3, 1, 3, 3)
    x = state.conv(F.conv2d(x, kernel, padding=1, groups=3), "conv1", 8, 1)
    x = F.relu(state.norm(state.conv(x, "conv2", 8, 3, pad=0), "bn1"))
    x = F.relu(state.norm(state.conv(x, "layer1.0.conv1", 8, 1), "layer1.0.bn1"))
    x = state.conv(x, "layer1.0.conv2", 8, 3, pad=0, stride=2)
    x = F.relu(state.norm(x, "layer1.0.bn2"))
    return torch.sigmoid(state.linear(x.mean((2, 3)), "fc", 1))[:, 0]


CELLS = """128 2 1 01 03 00, 256 2 1 02 00 00, 256 1 1 03 02 00, 256 1 2 01 00 01, 256 1 2 00 02 00,
256 1 2 00 01 00, 256 1 2 02 03 02, 256 1 2 03 03 00, 256 1 2 02 02 00, 256 1 2 00 01 03"""


def iidnet(state, images, skip_last=False):
    """P(altered) [1, H, W] of one image by IID-Net, BGR in -1..1."""
    x = images.flip(1) / 127.5 - 1
    plain = state.conv(x, "ordinary", 3, 5)
    kernel = state.weight("bayar_layer.weight", 3, 3, 5, 5)
    center = torch.zeros(5, 5)
    center[2, 2] = 1
    first = kernel[:1] * (1 - center)
    kernel = torch.cat([first / first.sum((2, 3), keepdim=True) - center, 1e4 * kernel[1:]])
    bayar = F.conv2d(x, kernel, padding=2)
    x = torch.cat([plain, bayar, state.conv(x, "differences", 9, 3)], 1)
    x = F.relu(state.norm(state.conv(x, "en.0", 32, 3, stride=2), "en.1", gain=1.0))
    x = F.relu(state.norm(state.conv(x, "en.3", 64, 3), "en.4"))

    def apply(x, op, width, stride, dilation, key):
        if op == "03":
            return x
        if op == "00":
            x = state.conv(x, f"{key}.conv1", x.shape[1], 3, pad=dilation, stride=stride,
                           dilation=dilation, groups=x.shape[1])  # fmt: skip
            x = state.norm(x, f"{key}.bn")
            return state.conv(x, f"{key}.pointwise", width, 1)
        size = {"01": 3, "02": 5}[op]
        x = state.conv(F.relu(x), f"{key}.op.1", x.shape[1], size, stride=stride, groups=x.shape[1])
        return state.norm(state.conv(x, f"{key}.op.2", width, 1), f"{key}.op.3", affine=False)

    for number, line in enumerate(CELLS.split(","), 1):
        width, stride, dilation, *ops = line.split()
        width, stride, dilation, key = int(width), int(stride), int(dilation), f"cell{number}"
        start = x

        def skip(start=start, width=width, stride=stride, key=key):
            if stride == 1 and start.shape[1] == width:
                return start
            y = state.conv(start, f"{key}.skip", width, 1, stride=stride)
            return state.norm(y, f"{key}.skipbn")

        if not skip_last:
            skip()
        steps = [("00", 1, dilation), *((op, 1, dilation) for op in ops[:2]), (ops[2], stride, 1)]
        for step, (op, by, spread) in enumerate(steps):
            if step or number > 1:
                x = F.relu(x)
            x = apply(x, op, width, by, spread, f"{key}.rep.{step}")
            x = state.norm(x, f"{key}.norm.{step}", gain=0.5)
        x = x + skip()
    flat = x.flatten(2)[0].T
    unit = F.normalize(flat, dim=1)
    values, places = torch.topk(unit @ unit.T, 15)
    enough = (values.mean(0) >= 0.5).nonzero()
    count = max(2, int(enough.max()) if len(enough) else 0)
    near = (flat + sum(flat[places[:, t]] for t in range(1, count))) / count
    near = near.T.reshape(x.shape)
    rows = """.03598 .03735 .03997 .03713 .03579 .03682 .03954 .04446 .03933 .03673 .03864 .04242
    .07146 .04239 .03859 .03679 .03936 .04443 .03950 .03679 .03590 .03720 .04003 .03738 .03601"""
    local = torch.tensor([float(v) for v in rows.split()]).reshape(1, 1, 5, 5).repeat(256, 1, 1, 1)
    state["bayar_mask"], state["local_kernel"] = 1 - center, local
    x = torch.cat([x, near, F.conv2d(x, local, padding=2, groups=256)], 1)
    for number in (1, 2):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        for step in (0, 3):
            y = state.conv(x, f"decision{number}.{step}", 256, 3, bias=True)
            x = F.relu(state.norm(y, f"decision{number}.{step + 1}", gain=0.5))
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    x = state.conv(x, "last", 1, 3, bias=True)
    middle = x.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(-1).values
    return torch.sigmoid(F.interpolate(middle, images.shape[2:], mode="nearest"))[:, 0]


def f3net(state, images, mode="mix"):
    """P(fake) by github.com/yyk-wew/F3Net, one logit."""
    x = images / 127.5 - 1
    side = x.shape[2]

    def matrix(n):
        i, j = np.mgrid[:n, :n]
        m = np.cos((j + 0.5) * np.pi * i / n) * np.sqrt(np.where(i == 0, 1, 2) / n)
        return torch.tensor(m, dtype=torch.float32)

    def filtered(n, start, end, key):
        total = np.add.outer(np.arange(n), np.arange(n))
        base = torch.tensor(((total >= start) & (total <= end)).astype("float32"))
        state[f"{key}.base"] = base
        return base + 2 * torch.sigmoid(state.number(f"{key}.learnable", n, n)) - 1, base.sum()

    streams = {}
    if mode != "lfs":
        d = matrix(side)
        state["FAD_head._DCT_all"] = d
        ends = [(0, side // 2.82), (side // 2.82, side // 2), (side // 2, 2 * side), (0, 2 * side)]
        spectrum = d @ x @ d.T
        streams["FAD"] = torch.cat([
            d.T @ (spectrum * filtered(side, *pair, f"FAD_head.filters.{k}")[0]) @ d
            for k, pair in enumerate(ends)
        ], 1)  # fmt: skip
    if mode != "fad":
        gray = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        cut = F.unfold((gray + 1) * 122.5, 10, padding=4, stride=2)
        cut = cut.transpose(1, 2).reshape(len(x), -1, 10, 10)
        logs = torch.log10((matrix(10) @ cut @ matrix(10).T).abs() + 1e-15)
        size = int(cut.shape[1] ** 0.5)
        bands = []
        for m in range(6):
            band, count = filtered(10, 20 / 6 * m, 20 / 6 * (m + 1), f"LFS_head.filters.{m}")
            bands.append((logs * band / count).sum((2, 3)).reshape(len(x), 1, size, size))
        streams["LFS"] = torch.cat(bands, 1)

    def separable(x, key, out):
        x = state.conv(x, f"{key}.conv1", x.shape[1], 3, groups=x.shape[1])
        return state.conv(x, f"{key}.pointwise", out, 1)

    def xception(x, p, part):
        if part == 0:
            x = state.conv(x, f"{p}.conv1", 32, 3, pad=0, stride=1 if "LFS" in p else 2)
            x = F.relu(state.norm(x, f"{p}.bn1"))
            x = F.relu(state.norm(state.conv(x, f"{p}.conv2", 64, 3, pad=0), f"{p}.bn2"))
        for block in ((1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11, 12), ())[part]:
            widths = {1: (128, 128), 2: (256, 256), 3: (728, 728), 12: (728, 1024)}.get(
                block, (728,) * 3
            )
            key, skip = f"{p}.block{block}", x
            if len(widths) == 2:
                skip = state.conv(x, f"{key}.skip", widths[-1], 1, pad=0, stride=2)
                skip = state.norm(skip, f"{key}.skipbn")
            place = 0
            for step, width in enumerate(widths):
                if step or block > 1:
                    x, place = F.relu(x), place + 1
                x = separable(x, f"{key}.rep.{place}", width)
                x = state.norm(x, f"{key}.rep.{place + 1}", gain=0.4)
                place += 2
            x = skip + (F.max_pool2d(x, 3, 2, 1) if len(widths) == 2 else x)
        if part == 2:
            x = F.relu(state.norm(separable(x, f"{p}.conv3", 1536), f"{p}.bn3"))
            x = F.relu(state.norm(separable(x, f"{p}.conv4", 2048), f"{p}.bn4"))
            state.linear(x.mean((2, 3)), f"{p}.last_linear", 1)  # nothing uses it
        return x

    def mix(a, b, key):
        width = a.shape[1]

        def both(what, axis):  # small, or the softmax magnifies how numbers are rounded
            pair = [
                state.conv(v, f"{key}.{n}_{what}", width, 1, bias=True, gain=0.1)
                for n, v in (("FAD", a), ("LFS", b))
            ]
            return torch.cat(pair, axis)

        attention = torch.softmax(both("query", 3) @ both("key", 2), 3)
        gates = {n: 2 * torch.sigmoid(state.number(f"{key}.{n}_gamma", 1, low=0.3, high=2)) - 1
                 for n in ("FAD", "LFS")}  # fmt: skip

        def add(x, y, own, other):
            y = state.conv(
                y * attention * gates[other], f"{key}.{own}_conv", width, 1, bias=True, groups=width
            )
            return x + state.norm(y, f"{key}.{own}_bn")

        return add(a, b, "FAD", "LFS"), add(b, a, "LFS", "FAD")

    for part in range(3):
        streams = {n: xception(v, f"{n}_xcep", part) for n, v in streams.items()}
        if part < 2 and mode == "mix":
            streams = dict(
                zip(streams, mix(*streams.values(), f"mix_block{7 if part == 0 else 12}"))
            )
    x = torch.cat([v.mean((2, 3)) for v in streams.values()], 1)
    return torch.sigmoid(state.linear(x, "fc", 1))[:, 0]


def converted(name, state, tmp_path, size=64, wrap="model", changes=(), names=None):
    file = tmp_path / "weights.pth"
    state = dict(state)
    torch.save({wrap: state, "total_steps": 3} if wrap else state, file)
    experiment = override(load_model(name), [f"data.image_size={size}", *changes])
    return convert_run(file, experiment, tmp_path / "run", names)


@pytest.mark.parametrize("name", LAYOUT)
def test_converted_weights_score_as_published(name, tmp_path):
    state = random_state(name)
    run = converted(name, state, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype("float32")
    scores = tf.sigmoid(load_detector(run)(images)["label"]).numpy()[:, 0]
    expected = reference(name, state, torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-3  # they differ, so that agreement says something


def pictures(number, size):
    """Smooth pictures with noise, float32 [B, H, W, 3], and the same for PyTorch."""
    rng = np.random.default_rng(0)
    x = tf.image.resize(rng.uniform(0, 255, (number, 6, 6, 3)), (size, size), "bicubic").numpy()
    x = np.clip(np.round(x + rng.normal(0, 8, x.shape)), 0, 255).astype("float32")
    return x, torch.tensor(x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name, size, changes", [
    ("gramnet", 64, []), pytest.param("ladeda", 64, [], marks=pytest.mark.slow),
    ("tiny_ladeda", 64, []), ("f3net", 160, []), ("f3net", 160, ["mode=fad"]),
    ("f3net", 160, ["mode=lfs"]),
])  # fmt: skip
def test_converted_networks_score_as_the_public_code(name, size, changes, tmp_path):
    state, (images, there) = Filled(), pictures(3, size)
    options = {"mode": changes[0].removeprefix("mode=")} if changes else {}
    public = {"gramnet": gramnet, "ladeda": ladeda, "tiny_ladeda": tiny_ladeda, "f3net": f3net}
    expected = public[name](state, there, **options).numpy()
    run = converted(name, state, tmp_path, size, None, [f"model.options.{c}" for c in changes])
    scores = tf.sigmoid(load_detector(run)(images)["label"]).numpy()[:, 0]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize("skip_last", [False, True])
def test_converted_iidnet_draws_what_the_public_code_draws(skip_last, tmp_path):
    state, (images, there) = Filled(), pictures(1, 64)
    state.weight("bayar_layer.weight", 3, 3, 5, 5).mul_(1e-4)
    expected = iidnet(state, there, skip_last).numpy()
    run = converted("iidnet", state, tmp_path)
    drawn = tf.sigmoid(load_detector(run)(images)["mask"]).numpy()[..., 0]
    np.testing.assert_allclose(drawn, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-2


@pytest.mark.slow
@pytest.mark.skipif(
    "TFDETECT_LADEDA" not in os.environ,
    reason="needs TFDETECT_LADEDA, a clone of the repository of LaDeDa",
)
@pytest.mark.parametrize(("trained_on", "preprocessing", "front_end"), [
    ("WildRF", "left_diag", "gradient"), ("ForenSynth", "NPR", "npr"),
])  # fmt: skip
def test_published_tiny_ladeda_scores_as_its_own_network(
    trained_on, preprocessing, front_end, tmp_path
):
    clone = Path(os.environ["TFDETECT_LADEDA"])
    spec = importlib.util.spec_from_file_location("theirs", clone / "networks" / "Tiny_LaDeDa.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    file = clone / "weights" / "Tiny_LaDeDa" / f"{trained_on}_Tiny_LaDeDa.pth"
    network = theirs.tiny_ladeda(preprocessing).eval()
    network.fc = torch.nn.Linear(8, 1)
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    images, there = pictures(4, 256)
    with torch.no_grad():
        expected = network((there / 255 - MEAN) / STD).numpy()
    experiment = override(load_model("tiny_ladeda"), [f"model.front_end={front_end}"])
    run = convert_run(file, experiment, tmp_path / "run")
    # Single precision: theirs and ours differ from double precision by as much.
    np.testing.assert_allclose(load_detector(run)(images)["label"], expected, atol=5e-3)
    assert not is_matched_by_order(run) and np.ptp(expected) > 0.1


def test_what_went_where_can_be_read_and_changed(tmp_path, capsys):
    state, (images, there) = Filled(), pictures(2, 64)
    expected = gramnet(state, there).numpy()
    # In this file branches stand in another order than in the network, under the same names.
    order = sorted(state, key=lambda key: (key.startswith(("inner_", "gram_")), key[::-1]))
    run = converted("gramnet", {key: state[key] for key in order}, tmp_path)
    assert is_matched_by_order(run)
    table = (run.path / "conversion.csv").read_text()
    right = tmp_path / "right.csv"
    lines = [line.rsplit(",", 1)[0] for line in table.splitlines()]
    kinds = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
             "moving_variance": "running_var"}  # fmt: skip
    for i, line in enumerate(lines):
        ours = line.split(",")[0]
        if ours.startswith("gram") and ours[4].isdigit():
            branch, step, rest = ours[4], int(ours[6]), ours[8:]
            layer, variable = rest.split("/")
            module = f"inner_{branch}.{int(layer == 'norm')}" if step == 1 else (
                f"gram_{branch}.{3 * (step - 2) + (layer == 'norm')}")  # fmt: skip
            lines[i] = f"{ours},{module}.{kinds[variable]}"
    right.write_text("\n".join(lines) + "\n")
    arguments = [str(tmp_path / "weights.pth"), "--model", "gramnet", "--set", "data.image_size=64",
                 "--output", str(tmp_path / "runs")]  # fmt: skip
    assert run_command(main, [*arguments, "--names", str(right)]) == 0
    assert "matched by order" not in capsys.readouterr().err
    (again,) = (tmp_path / "runs").iterdir()
    scores = tf.sigmoid(load_detector(open_run(again))(images)["label"]).numpy()[:, 0]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    right.write_text("variable,published\ngram9/kernel,fc.weight\n")
    assert run_command(main, [*arguments, "--names", str(right)]) == 2
    assert "'gram9/kernel' is not a variable of gramnet" in capsys.readouterr().err
    right.write_text("a,b\n1,2\n")
    assert run_command(main, [*arguments, "--names", str(right)]) == 2
    assert "right.csv has no column 'variable'. It has: a, b." in capsys.readouterr().err


def test_check_tells_foreign_preprocessing(tmp_path, folder_dataset, capsys):
    state = Filled()
    tiny_ladeda(state, pictures(1, 32)[1])
    torch.save(dict(state), tmp_path / "weights.pth")
    assert run_command(main, [
        str(tmp_path / "weights.pth"), "--model", "tiny_ladeda", "--set", "training.export=[]",
        "--output", str(tmp_path / "runs"), "--check", str(folder_dataset / "test"), "--json",
    ]) == 0  # fmt: skip
    shown = json.loads(capsys.readouterr().out)
    names = [row["layer"] for row in shown["statistics"]]
    assert names == ["conv2_norm", "stack0_block0_1_norm", "stack0_block0_2_norm"]
    arguments = [str(tmp_path / "weights.pth"), "--model", "tiny_ladeda", "--check", "nowhere"]
    assert run_command(main, arguments) == 2
    assert "There is no file or folder 'nowhere'" in capsys.readouterr().err


def test_a_converted_run_predicts_and_is_evaluated(tmp_path, folder_dataset, capsys):
    run = converted("npr", random_state("npr"), tmp_path, wrap="state_dict")
    assert run.info.status == "converted"
    from tfdetect.evaluate import main as evaluate
    from tfdetect.predict import main as predict

    picture = next((folder_dataset / "test" / "fake").glob("*.png"))
    assert run_command(predict, [str(run.path), str(picture)]) == 0
    assert run_command(evaluate, [str(run.path)]) == 2
    assert "Give --dataset" in capsys.readouterr().err
    assert run_command(evaluate, [
        str(run.path), "--dataset", str(folder_dataset), "--split", "test", "--no-images",
    ]) == 0  # fmt: skip
    metrics = next((run.path / "evaluations").glob("*/metrics.json"))
    assert "accuracy" in json.loads(metrics.read_text())["test"]["metrics"]


def test_wrong_weights_are_explained(tmp_path, capsys):
    state = random_state("npr")
    with pytest.raises(UserError, match=r"not the weights of npr: conv1.weight is missing"):
        converted("npr", {k: v for k, v in state.items() if k != "conv1.weight"}, tmp_path)
    with pytest.raises(UserError, match=r"extra is superfluous"):
        converted("npr", {**state, "extra": torch.zeros(2)}, tmp_path)
    with pytest.raises(UserError, match=r"conv1.weight has the shape \(8, 3, 3, 3\)"):
        converted("npr", {**state, "conv1.weight": torch.zeros(8, 3, 3, 3)}, tmp_path)
    assert not list(tmp_path.glob("run*"))
    with pytest.raises(UserError, match="cannot be converted"):
        convert_run(tmp_path / "weights.pth", load_model("swin_t"), tmp_path / "run")
    junk = tmp_path / "junk.pth"
    junk.write_bytes(b"nothing")
    for file, message in ((junk, "cannot be read as PyTorch"), (tmp_path / "no.pth", "no file")):
        assert run_command(main, [str(file), "--model", "npr", "--output", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    torch.save([1, 2], junk)
    with pytest.raises(UserError, match="no dictionary of tensors"):
        convert_run(junk, load_model("npr"), tmp_path / "run")
    assert set(convertible()) == {
        *LAYOUT, "f3net", "gramnet", "iidnet", "ladeda", "probe", "tiny_ladeda",
    }  # fmt: skip
    overflown = {**state, "conv1.weight": state["conv1.weight"] / 0}
    with pytest.raises(UserError, match=r"conv1.weight has values that are not finite"):
        converted("npr", overflown, tmp_path)
