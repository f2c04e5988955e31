"""Map the variables of our detectors to tensors of published PyTorch networks."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers

from tfdetect.models.detector_parts import backbone_layers, backbone_of
from tfdetect.models.networks.iidnet import LOCAL
from tfdetect.models.residual_front_ends import Bayar

State = dict[str, np.ndarray]  # a state dict of PyTorch: tensors by their names


@dataclass(frozen=True)
class Slot:
    """A variable of our detector, and the tensor of a state dict that it is set to.

    Attributes:
        name: the name of the variable, "layer/variable".
        variable: to be set.
        shape: the shape of the tensor.
        change: converts the tensor to the variable's layout.
        suffix: end of the tensor's name.
        key: the tensor's name, where that is known.
        hint: regular expression that the tensor's name must match, where one is known.
    """

    name: str
    variable: keras.Variable
    shape: tuple[int, ...]
    change: Callable[[np.ndarray], np.ndarray]
    suffix: str
    key: str = ""
    hint: str = ""


@dataclass(frozen=True)
class PublishedFile:
    """Facts about a project's file of weights.

    Attributes:
        body: yields the variables of a detector but for its last layer, in the order of the
            published network, from the detector, these facts and the published tensors.
        head: prefix of the names of the last layer's tensors; none where the body yields that
            layer, or there is none.
        logits: number of logits that the published last layer has, one or two.
        fake: index of the logit of fake, of two.
        bgr: trained on BGR images, so that input channels are reversed.
        unused: regular expression of the names of tensors that are not needed.
    """

    body: Callable[[keras.Model, "PublishedFile", State], Iterable[Slot]]
    head: str | None = "fc."
    logits: int = 1
    fake: int = 1
    bgr: bool = False
    unused: str = r"num_batches_tracked$"

    def is_unused(self, key: str, value: np.ndarray) -> bool:
        """Return whether our network has no variable for a tensor: it is fixed or unused."""
        fixed = value.shape == (256, 1, 5, 5) and np.allclose(value, LOCAL[None, None], atol=1e-3)
        return fixed or re.search(self.unused, key) is not None


def slots_of(detector: keras.Model, name: str, state: State) -> Iterator[Slot]:
    """Yield all variables of a detector, in the order of the published network.

    Args:
        detector: the detector of the experiment `name`.
        name: the name of the published detector.
        state: the published tensors, whose names show how an Xception is called there.
    """
    facts = PUBLISHED[name]
    yield from facts.body(detector, facts, state)
    if facts.head is not None:
        yield from _head(detector, facts.head, facts.logits, facts.fake)


def _of_resnet(detector: keras.Model, facts: PublishedFile, state: State) -> Iterator[Slot]:
    """Yield the variables of a ResNet with torchvision's names."""
    for layer, key in _resnet(backbone_of(detector)).items():
        yield from _layer(layer, key=key, reverse=facts.bgr and key == "conv1")


def _of_ladeda(detector: keras.Model, facts: PublishedFile, state: State) -> Iterator[Slot]:
    reads_npr = any(layer.name == "npr" for layer in detector.layers)
    for slot in _of_resnet(detector, facts, state):
        if reads_npr and slot.key.startswith("conv1."):  # their NPR is not multiplied by 2 / 3
            slot = replace(slot, change=partial(_times, 1.5, slot.change))
        yield slot


def _of_gramnet(detector: keras.Model, facts: PublishedFile, state: State) -> Iterator[Slot]:
    yield from _of_resnet(detector, facts, state)
    found = _by_name(detector)
    yield Slot("texture_factor/factor", found["texture_factor"].factor, (1,), np.squeeze, "")
    for layer in _ordered(found, r"gram(\d)_(\d)_(conv|norm)"):
        yield from _layer(layer, reverse=layer.name == "gram0_1_conv")
    yield from _layer(detector.get_layer("hidden"))
    yield from _head(detector, None, 2, facts.fake)


def _of_iidnet(detector: keras.Model, facts: PublishedFile, state: State) -> Iterator[Slot]:
    """Yield the variables of IID-Net, whose verdict follows from its mask."""
    found = _by_name(detector)
    yield from _layer(found["ordinary"], reverse=True)
    for slot in _layer(found["bayar"], reverse=True, hint="(?i)bayar"):
        yield replace(slot, change=partial(_as_computed, slot.change))
    yield from _layer(found["differences"], reverse=True)
    for layer in _ordered(found, r"enhance(\d)_(conv|norm)"):
        yield from _layer(layer)
    parts = ["skip", "skip_norm", "depthwise", "between", "pointwise", "plain", "norm"]
    cells = r"cell(\d+)_(?:(\d)_)?(skip_norm|skip|depthwise|between|pointwise|plain|norm)"
    for layer in _ordered(found, cells, parts):
        yield from _layer(layer, hint="(?i)skip|shortcut" * ("_skip" in layer.name))
    for layer in _ordered(found, r"decide(\d)_(\d)_(conv|norm)"):
        yield from _layer(layer)
    yield from _layer(detector.get_layer("mask_logits"))


def _by_name(detector: keras.Model) -> dict[str, layers.Layer]:
    return {layer.name: layer for layer in backbone_layers(backbone_of(detector))}


def _times(
    factor: float, change: Callable[[np.ndarray], np.ndarray], tensor: np.ndarray
) -> np.ndarray:
    return factor * change(tensor)


def _as_computed(change: Callable[[np.ndarray], np.ndarray], tensor: np.ndarray) -> np.ndarray:
    """Return IID-Net's constrained kernels [h, w, in, out] as the public code uses them.

    It constrains the kernels of the first output only, and multiplies the others by 10,000.
    """
    kernel = change(tensor)
    first = np.asarray(Bayar()(kernel[..., :1]))
    return np.concatenate([first, 1e4 * kernel[..., 1:]], axis=-1)


def _head(detector: keras.Model, prefix: str | None, logits: int, fake: int) -> Iterator[Slot]:
    """Yield the variables of the last layer, of one logit or of two; see `PublishedFile.head`."""
    dense = detector.get_layer("label")

    def logit(w: np.ndarray) -> np.ndarray:
        """Return the difference of two logits, which gives the same probability."""
        return w[fake : fake + 1] - w[1 - fake : 2 - fake] if len(w) == 2 else w

    for variable, part, shape in ((dense.kernel, "weight", (logits, dense.kernel.shape[0])),
                                  (dense.bias, "bias", (logits,))):  # fmt: skip
        yield Slot(f"label/{variable.name}", variable, shape, lambda w: logit(w).T, part,
                   "" if prefix is None else f"{prefix}{part}")  # fmt: skip


def stack_filters(state: State) -> State:
    """Return a state dict in which the separate learned filters of each front-end are stacked."""
    stacked: dict[str, np.ndarray] = {}
    filters: dict[str, list[np.ndarray]] = {}
    for key, value in state.items():
        head, found, _ = key.partition(".filters.")
        if found and key.endswith(".learnable"):
            filters.setdefault(f"{head}.filters", []).append(value)
        else:
            stacked[key] = value
    return stacked | {key: np.stack(values) for key, values in filters.items()}


def _of_f3net(detector: keras.Model, facts: PublishedFile, state: State) -> Iterator[Slot]:
    """Yield the variables of front-ends, of Xceptions named as in Cadene's port, of MixBlocks."""
    backbone = backbone_of(detector)
    found = {layer.name: layer for layer in backbone.layers}
    streams = [name for name in ("fad", "lfs", "image")
               if any(layer.startswith(f"{name}_blocks") for layer in found)]  # fmt: skip

    def prefixes(end: str) -> list[str]:
        return [key.removesuffix(end) for key in state if key.endswith(end)]

    xceptions = prefixes("block1.skip.weight") or ["FAD_xcep.", "LFS_xcep."]
    for stream, prefix in zip(streams, xceptions):
        if stream != "image":
            yield _f3net_filters(found[stream], stream)
        yield from _xception(backbone, stream, prefix)
    mixes = prefixes("FAD_query.weight") or ["mix_block7.", "mix_block12."]
    for number, prefix in enumerate(mixes, 1):
        if f"mix{number}_query0" in found:
            yield from _mix_block(found, f"mix{number}", streams, prefix)
    ends = ("last_linear.weight", "last_linear.1.weight")
    key = next((k[: -len("weight")] for k in state if k.endswith(ends) and "xcep" not in k), "fc.")
    yield from _head(detector, key, len(state.get(f"{key}bias", [0])), facts.fake)


def _f3net_filters(layer: layers.Layer, stream: str) -> Slot:
    """Return the learned filters of the front-end of a stream, "fad" or "lfs"."""
    name, key = f"{stream}/filters", f"{stream.upper()}_head.filters"
    if stream == "fad":
        return Slot(name, layer.filters, tuple(layer.filters.shape), np.asarray, "", key)
    shape = layer.filters.shape[1], layer.window, layer.window
    return Slot(name, layer.filters, shape, _flat_filters, "", key)


def _xception(backbone: keras.Model, stream: str, prefix: str) -> Iterator[Slot]:
    """Yield the variables of the Xception of a stream."""
    skips = [f"block{block}.{part}" for block in (1, 2, 3, 12) for part in ("skip", "skipbn")]
    parts = [layer for model in backbone.layers if model.name.startswith(f"{stream}_blocks")
             for layer in model.layers if layer.weights]  # fmt: skip
    for layer in parts:
        key = _xception_key(layer.name) or skips.pop(0)
        yield from _layer(layer, f"{prefix}{key}", title=f"{stream}/")


def _mix_block(
    found: dict[str, layers.Layer], name: str, streams: Sequence[str], prefix: str
) -> Iterator[Slot]:
    """Yield the variables of a MixBlock, with one half for each of two streams."""
    for number, (theirs, other) in enumerate((("FAD", "LFS"), ("LFS", "FAD"))):
        stream = streams[number]
        yield from _layer(found[f"{name}_query{number}"], f"{prefix}{theirs}_query")
        yield from _layer(found[f"{name}_key{number}"], f"{prefix}{theirs}_key")
        yield from _layer(found[f"{name}_{stream}_conv"], f"{prefix}{theirs}_conv")
        yield from _layer(found[f"{name}_{stream}_norm"], f"{prefix}{theirs}_bn")
        # A published gate is named after the other stream, whose features it scales.
        gate = found[f"{name}_{stream}_gate"]
        yield Slot(f"{gate.name}/gate", gate.gate, (1,), np.squeeze, "", f"{prefix}{other}_gamma")


def _flat_filters(tensor: np.ndarray) -> np.ndarray:
    """Return filters [bands, n, n] as [n * n, bands]."""
    return tensor.reshape(len(tensor), -1).T


def _xception_key(name: str) -> str:
    """Return Cadene's name of a layer of keras.applications.Xception.

    It is empty for skip connections, whose layers have no names there.
    """
    if match := re.fullmatch(r"block1_conv(\d)(_bn)?", name):
        return f"{'bn' if match[2] else 'conv'}{match[1]}"
    if match := re.fullmatch(r"block14_sepconv(\d)(_bn)?", name):
        return f"{'bn' if match[2] else 'conv'}{int(match[1]) + 2}"
    if match := re.fullmatch(r"block(\d+)_sepconv(\d)(_bn)?", name):
        block, step = int(match[1]) - 1, int(match[2]) - 1
        # Each step is a ReLU, a convolution and a normalization; the first block has no first ReLU.
        index = 3 * step + (block > 1) + (match[3] is not None)
        return f"block{block}.rep.{index}"
    return ""


def _ordered(found: dict, pattern: str, parts: Sequence[str] = ()) -> list[layers.Layer]:
    """Return layers whose names match a pattern, sorted by its groups: numbers, then parts."""

    def position(match: re.Match) -> tuple:
        return tuple(
            -1 if group is None else int(group) if group.isdigit()
            else parts.index(group) if parts else ["conv", "norm"].index(group)
            for group in match.groups()
        )  # fmt: skip

    matches = [(match, layer) for name, layer in found.items()
               if (match := re.fullmatch(pattern, name))]  # fmt: skip
    return [layer for _, layer in sorted(matches, key=lambda pair: position(pair[0]))]


def _layer(
    layer: layers.Layer, key: str = "", reverse: bool = False, hint: str = "", title: str = ""
) -> Iterator[Slot]:
    """Yield the variables of a layer that exists in both frameworks."""

    def slot(
        variable: keras.Variable,
        part: str,
        change: Any = np.asarray,
        shape: Any = None,
        key: str = key,
    ) -> Slot:
        return Slot(
            f"{title}{layer.name}/{variable.name}", variable, tuple(shape or variable.shape),
            change, part, f"{key}.{part}" if key else "", hint,
        )  # fmt: skip

    if isinstance(layer, layers.BatchNormalization):
        if layer.scale:
            yield slot(layer.gamma, "weight")
            yield slot(layer.beta, "bias")
        yield slot(layer.moving_mean, "running_mean")
        yield slot(layer.moving_variance, "running_var")
    elif isinstance(layer, layers.SeparableConv2D):
        height, width, channels, _ = layer.depthwise_kernel.shape
        yield slot(layer.depthwise_kernel, "weight", lambda w: w.transpose(2, 3, 0, 1),
                   (channels, 1, height, width), f"{key}.conv1" if key else "")  # fmt: skip
        yield slot(layer.pointwise_kernel, "weight", lambda w: w.transpose(2, 3, 1, 0),
                   np.array(layer.pointwise_kernel.shape)[[3, 2, 0, 1]].tolist(),
                   f"{key}.pointwise" if key else "")  # fmt: skip
    elif isinstance(layer, layers.DepthwiseConv2D):
        height, width, channels, _ = layer.kernel.shape
        yield slot(layer.kernel, "weight", lambda w: w.transpose(2, 3, 0, 1),
                   (channels, 1, height, width))  # fmt: skip
        if layer.use_bias:
            yield slot(layer.bias, "bias")
    elif isinstance(layer, layers.Conv2D):
        height, width, inputs, outputs = layer.kernel.shape
        order = slice(None, None, -1 if reverse else 1)
        yield slot(layer.kernel, "weight", lambda w: w[:, order].transpose(2, 3, 1, 0),
                   (outputs, inputs, height, width))  # fmt: skip
        if layer.use_bias:
            yield slot(layer.bias, "bias")
    elif isinstance(layer, layers.Dense):
        yield slot(layer.kernel, "weight", np.transpose, layer.kernel.shape[::-1])
        yield slot(layer.bias, "bias")


def _resnet(backbone: keras.Model) -> dict[layers.Layer, str]:
    """Return torchvision's name of each layer that is named as in keras-hub's ResNet."""
    names = {}
    for layer in backbone_layers(backbone):
        if re.match(r"conv\d_(conv|bn|norm)$|stack\d", layer.name) and isinstance(
            layer, (layers.Conv2D, layers.BatchNormalization)
        ):
            *position, number, kind = layer.name.split("_")
            if position:
                stack, block = (int("".join(filter(str.isdigit, part))) for part in position)
                inner = f"{'conv' if kind == 'conv' else 'bn'}{number}"
                if number == "0":
                    inner = f"downsample.{0 if kind == 'conv' else 1}"
                names[layer] = f"layer{stack + 1}.{block}.{inner}"
            else:  # the stem's one or two convolutions, and its normalization
                names[layer] = number if kind == "conv" else "bn1"
    return names


PUBLISHED = {
    "cnnspot": PublishedFile(_of_resnet),
    "f3net": PublishedFile(
        _of_f3net, head=None,
        unused=r"num_batches_tracked$|_DCT_|\.base$|\.ft_num$|adjust_channel|"
        r"xcep\.(fc|last_linear)\.",
    ),
    "gramnet": PublishedFile(_of_gramnet, None, fake=0, bgr=True),
    "iidnet": PublishedFile(
        _of_iidnet, head=None, bgr=True, unused=r"num_batches_tracked$|bayar_(mask|final)$"
    ),
    "ladeda": PublishedFile(_of_ladeda),
    "npr": PublishedFile(_of_resnet, "fc1."),
    "probe": PublishedFile(lambda *_: (), head=""),  # of the last layer alone
    "safe": PublishedFile(_of_resnet, "fc1.", logits=2),
    "spec": PublishedFile(_of_resnet, logits=2, fake=0, bgr=True),
    "tiny_ladeda": PublishedFile(_of_ladeda),
}  # fmt: skip
