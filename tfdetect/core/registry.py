"""Every name that an experiment may use, with the facts that are known without TensorFlow.

Each registry maps names to entries. An entry names its function as "module:function" text, so that
a wrong name is refused, with the nearest right one, before TensorFlow is imported. To add a part to
the package, write one function and one entry here. To add one from outside the package, see
`register` and `tfdetect.core.plugins`.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from tfdetect.core.errors import UserError, UserTypeError, shortened, unknown
from tfdetect.core.text import name_problem


@dataclass(frozen=True)
class Entry:
    """One registered function.

    Attributes:
        target: the function, or where it is, "module:function".
        arguments: keyword arguments of the function that the entry fixes.
    """

    target: str | Callable
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Name of the module that defines the function."""
        if callable(self.target):
            return self.target.__module__
        return self.target.partition(":")[0]

    def load(self) -> Callable:
        """Import and return the function, with its fixed arguments bound."""
        function = self.target
        if not callable(function):
            module, _, name = function.partition(":")
            function = getattr(importlib.import_module(module), name)
        if not self.arguments:
            return function
        return partial(function, **self.arguments)


@dataclass(frozen=True)
class BackboneEntry(Entry):
    """A backbone: (shape, weights, **options) -> keras.Model, or `models.backbones.Backbone`.

    `shape` is (height, width, channels), `weights` "none", "imagenet" or a preset's name. The model
    maps images [B, height, width, channels], scaled as below, to features [B, h, w, c].

    Attributes:
        min_size: smallest side of an image in pixels.
        multiple: each side must be divisible by this.
        scale: factor on pixels in 0..255, one number or one per channel.
        offset: what is added after scaling, one number or one per channel.
    """

    min_size: int = 1
    multiple: int = 1
    scale: float | tuple[float, ...] = 1 / 127.5
    offset: float | tuple[float, ...] = -1.0


def _same_side(side: int, options: Mapping[str, Any]) -> int:
    return side


@dataclass(frozen=True)
class FrontEndEntry(Entry):
    """A front-end: (images [B, H, W, 3] in 0..255, **options) -> float32 [B, h, w, c].

    Attributes:
        output_side: (side in pixels, options) -> side after the front-end.
    """

    output_side: Callable[[int, Mapping[str, Any]], int] = _same_side


@dataclass(frozen=True)
class AugmentationEntry(Entry):
    """An augmentation of a batch of images.

    Attributes:
        by_image: whether each image is changed without regard to the others, with random numbers
            of `imaging.draws`; the workers of a cluster then load only their part of a batch.
    """

    by_image: bool = False


E = TypeVar("E", bound=Entry)


class Registry(Mapping[str, E], Generic[E]):
    """The entries of one kind by name: built in, registered, or offered by installed packages.

    Args:
        kind: what messages call one of them.
        entries: the built-in ones.
        entry_type: class of the entries.
        group: entry-point group in which installed packages offer more; none for no such group.
    """

    def __init__(
        self,
        kind: str,
        entries: dict[str, E],
        entry_type: type[E],
        group: str | None = None,
    ):
        self.kind, self.entry_type, self.group = kind, entry_type, group
        self._entries = dict(entries)
        self._built_in = frozenset(entries)
        self._offered: dict[str, EntryPoint] | None = None

    def __getitem__(self, name: str) -> E:
        if name not in self._entries:
            offered = self._found().get(name)
            if offered is None:
                raise KeyError(name)
            target = offered.load()  # importing it may register it, with its facts
            if name not in self._entries:
                self._entries[name] = self.entry_type(target)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._found()

    def __iter__(self) -> Iterator[str]:
        yield from self._entries
        yield from (name for name in self._found() if name not in self._entries)

    def __len__(self) -> int:
        return len({*self._entries, *self._found()})

    @property
    def built_in(self) -> frozenset[str]:
        """Names that come with the package."""
        return self._built_in

    def _found(self) -> dict[str, EntryPoint]:
        if self._offered is None:
            found = entry_points(group=self.group) if self.group else ()
            self._offered = {each.name: each for each in found if each.name not in self._built_in}
        return self._offered

    def get_entry(self, name: str) -> E:
        """Return the entry of a name.

        Raises:
            UserError: the name is not registered; the message has the nearest one.
        """
        if name not in self:
            raise unknown(self.kind, name, self)
        return self[name]

    def load(self, name: str) -> Callable:
        """Import and return the function that is registered under a name.

        Raises:
            UserError: the name is not registered; the message has the nearest one.
        """
        return self.get_entry(name).load()

    def add(self, name: str, entry: E) -> None:
        """Register an entry from outside the package.

        The same function may be registered again, for example when a notebook cell is run twice.

        Raises:
            UserError: the name is taken.
        """
        known = self._entries.get(name)
        if known is not None and (name in self._built_in or not _is_same(known, entry)):
            raise UserError(
                f"The {self.kind} {name!r} is already registered, by {known.module}. "
                "Choose another name."
            )
        self._entries[name] = entry


def _is_same(one: Entry, other: Entry) -> bool:
    names = [
        (each.module, each.target.__qualname__) if callable(each.target) else each.target
        for each in (one, other)
    ]
    return names[0] == names[1]


_FILTERS = "tfdetect.models"
FRONT_ENDS = Registry(
    "front-end",
    {
        "srm": FrontEndEntry(f"{_FILTERS}.residual_front_ends:srm"),
        "bayar": FrontEndEntry(f"{_FILTERS}.residual_front_ends:bayar"),
        "residual": FrontEndEntry(f"{_FILTERS}.residual_front_ends:residual"),
        "npr": FrontEndEntry(
            f"{_FILTERS}.residual_front_ends:npr",
            output_side=lambda side, options: side - side % 2,
        ),
        "wavelet": FrontEndEntry(f"{_FILTERS}.residual_front_ends:wavelet"),
        "gradient": FrontEndEntry(f"{_FILTERS}.residual_front_ends:gradient"),
        "dct": FrontEndEntry(f"{_FILTERS}.spectral_front_ends:dct"),
        "spectrum": FrontEndEntry(f"{_FILTERS}.spectral_front_ends:spectrum"),
        "fad": FrontEndEntry(f"{_FILTERS}.spectral_front_ends:fad"),
        "lfs": FrontEndEntry(
            f"{_FILTERS}.spectral_front_ends:lfs",
            output_side=lambda side, options: (side - 2) // 2 + 1,
        ),
        "simplest_patch": FrontEndEntry(
            f"{_FILTERS}.patch_front_ends:simplest_patch",
            output_side=lambda side, options: options.get("output", 256),
        ),
    },
    FrontEndEntry,
    "tfdetect.front_ends",
)


def _standardization(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """Scale and offset on 0..255 that subtract a mean of 0..1 and divide by a deviation."""
    return {
        "scale": tuple(1 / (255 * s) for s in std),
        "offset": tuple(-m / s for m, s in zip(mean, std)),
    }


_IMAGENET = _standardization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = _standardization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _application(network: str, min_size: int = 32, **scaling: Any) -> BackboneEntry:
    """A network of `keras.applications`, by the name of its function there."""
    target = "tfdetect.models.backbones:keras_application"
    return BackboneEntry(target, {"network": network}, min_size, **scaling)


def _hub(
    network: str, preset: str | None, layout: dict[str, Any], min_size: int = 32, multiple: int = 1,
    features: str = "map", name: str | None = None, scaling: dict[str, Any] = _IMAGENET,
) -> BackboneEntry:  # fmt: skip
    """A backbone class of keras-hub; see `tfdetect.models.backbones.keras_hub_backbone`."""
    arguments = {
        "network": network, "preset": preset, "layout": layout, "features": features, "name": name,
    }  # fmt: skip
    target = "tfdetect.models.backbones:keras_hub_backbone"
    return BackboneEntry(target, arguments, min_size, multiple, **scaling)


def _resnet(preset: str | None, blocks: list[int], block_type: str) -> BackboneEntry:
    # ResNet v1.5, whose bottleneck blocks have their stride in the 3x3 convolution.
    layout = {
        "stackwise_num_blocks": blocks, "block_type": block_type, "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_strides": [1, 2, 2, 2],
    }  # fmt: skip
    return _hub("ResNetBackbone", preset, layout)


def _swin(size: str, width: int, depths: list[int], heads: list[int], drop: float) -> BackboneEntry:
    layout = {
        "window_size": 7, "embed_dim": width, "depths": depths, "num_heads": heads,
        "drop_path": drop,
    }  # fmt: skip
    preset = f"swin_{size}_patch4_window7_224"
    return _hub("SwinTransformerBackbone", preset, layout, 224, 224, "grid", f"swin_{size[0]}")


def _deit(size: str, width: int, heads: int) -> BackboneEntry:
    # The mean of the class and the distillation token is what the linear head takes.
    layout = {
        "patch_size": 16, "num_layers": 12, "num_heads": heads, "hidden_dim": width,
        "intermediate_dim": 4 * width,
    }  # fmt: skip
    preset = f"deit_{size}_distilled_patch16_224_imagenet"
    return _hub("DeiTBackbone", preset, layout, 32, 16, "distilled", f"deit_{size[0]}")


def _lite(variant: int, width: float, depth: float) -> BackboneEntry:
    arguments = {"variant": variant, "width": width, "depth": depth}
    target = "tfdetect.models.efficientnet_lite:efficientnet_lite"
    return BackboneEntry(target, arguments, 32, **_IMAGENET)


_VIT_B = {"patch_size": 16, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
_MODELS, _NETWORKS = "tfdetect.models", "tfdetect.models.networks"
BACKBONES = Registry(
    "backbone",
    {
        # keras.applications
        "densenet121": _application("DenseNet121", **_IMAGENET),
        "densenet169": _application("DenseNet169", **_IMAGENET),
        "densenet201": _application("DenseNet201", **_IMAGENET),
        "xception": _application("Xception", min_size=71),
        "efficientnetv2_b0": _application("EfficientNetV2B0", **_IMAGENET),
        "efficientnetv2_s": _application("EfficientNetV2S", scale=1 / 128),
        "efficientnet_lite0": _lite(0, 1.0, 1.0),
        "efficientnet_lite1": _lite(1, 1.0, 1.1),
        "efficientnet_lite2": _lite(2, 1.1, 1.2),
        "convnext_tiny": _application("ConvNeXtTiny", **_IMAGENET),
        "mobilenetv3_small": _application("MobileNetV3Small"),
        "mobilenetv3_large": _application("MobileNetV3Large"),
        # keras-hub
        "resnet18": _resnet("resnet_18_imagenet", [2, 2, 2, 2], "basic_block"),
        "resnet34": _resnet(None, [3, 4, 6, 3], "basic_block"),
        "resnet50": _resnet("resnet_50_imagenet", [3, 4, 6, 3], "bottleneck_block"),
        "resnet101": _resnet("resnet_101_imagenet", [3, 4, 23, 3], "bottleneck_block"),
        "swin_t": _swin("tiny", 96, [2, 2, 6, 2], [3, 6, 12, 24], 0.2),
        "swin_s": _swin("small", 96, [2, 2, 18, 2], [3, 6, 12, 24], 0.3),
        "swin_b": _swin("base", 128, [2, 2, 18, 2], [4, 8, 16, 32], 0.5),
        "deit_t": _deit("tiny", 192, 3),
        "deit_s": _deit("small", 384, 6),
        "deit_b": _deit("base", 768, 12),
        "vit_b": _hub(
            "ViTBackbone", "vit_base_patch16_224_imagenet", _VIT_B, 32, 16, "class_token", "vit_b",
            scaling={},
        ),
        "resnet50_dilated": BackboneEntry(
            f"{_MODELS}.segmentation_backbones:resnet50_dilated", {}, 32, 8, **_IMAGENET
        ),
        "deeplabv3_resnet50": BackboneEntry(
            f"{_MODELS}.segmentation_backbones:deeplabv3_resnet50", {}, 64, 32, **_IMAGENET
        ),
        "segformer_b0": BackboneEntry(
            f"{_MODELS}.segmentation_backbones:segformer_b0", {}, 64, 32, **_IMAGENET
        ),
        "clip": BackboneEntry(f"{_NETWORKS}.encoders:clip", {}, 28, **_CLIP),
        "clip_tokens": BackboneEntry(
            f"{_NETWORKS}.clip_tokens:clip_tokens", {}, 32, 16, **_CLIP
        ),
        "siglip": BackboneEntry(f"{_NETWORKS}.encoders:siglip", {}, 32, 16),
        "dinov2": BackboneEntry(f"{_NETWORKS}.encoders:dinov2", {}, 28, 14, **_IMAGENET),
        "dinov3": BackboneEntry(f"{_NETWORKS}.encoders:dinov3", {}, 32, 16, **_IMAGENET),
        # ours, and networks of published detectors
        "small_resnet": BackboneEntry(f"{_MODELS}.small_resnet:small_resnet", {}, 16),
        "two_stream": BackboneEntry(f"{_MODELS}.two_stream:two_stream", {}, 32, 2),
        "trace_statistics": BackboneEntry(  # it reads 0..255 as they are
            f"{_MODELS}.trace_statistics:trace_statistics", {}, 32, scale=1.0, offset=0.0
        ),
        "frank_cnn": BackboneEntry(f"{_NETWORKS}.frank:frank_cnn", {}, 16, 8),
        "none": BackboneEntry(f"{_NETWORKS}.frank:none", {}, 8),
        "ladeda": BackboneEntry(f"{_NETWORKS}.ladeda:ladeda", {}, 16, **_IMAGENET),
        "tiny_ladeda": BackboneEntry(f"{_NETWORKS}.ladeda:tiny_ladeda", {}, 16, **_IMAGENET),
        # It reads 0..255 as they are.
        "gramnet": BackboneEntry(
            f"{_NETWORKS}.gramnet:gramnet", {}, 32, scale=1.0, offset=0.0
        ),
        "f3net": BackboneEntry(f"{_NETWORKS}.f3net:f3net", {}, 142),
        "iidnet": BackboneEntry(f"{_NETWORKS}.iidnet:iidnet", {}, 64, 8),
        "nixnet": BackboneEntry(
            f"{_NETWORKS}.nixnet:nixnet", {}, 32, 8, scale=1 / 255, offset=0.0
        ),
        "graftnet": BackboneEntry(f"{_NETWORKS}.graftnet:graftnet", {}, 32, 32),
    },
    BackboneEntry,
    "tfdetect.backbones",
)  # fmt: skip

# (features [B, h, w, c], outputs, dropout, l2, **options) -> logits float32 [B, outputs].
HEADS = Registry(
    "head",
    {
        "linear": Entry("tfdetect.models.heads:linear"),
        "conv_dense": Entry("tfdetect.models.heads:conv_dense"),
        "flatten": Entry("tfdetect.models.heads:flatten"),
        "standardized": Entry("tfdetect.models.heads:standardized"),
        "hidden": Entry("tfdetect.models.heads:hidden"),
        "nearest_neighbors": Entry("tfdetect.models.nearest_neighbors:nearest_neighbors"),
        "top_pixels": Entry("tfdetect.models.top_pixels:top_pixels"),
    },
    Entry,
    group="tfdetect.heads",
)

# (image, features, maps, **options) -> {"mask": logits float32 [B, H, W, 1]}.
MASK_HEADS = Registry(
    "mask head",
    {
        "decoder": Entry("tfdetect.models.mask_heads:decoder"),
        "fcn": Entry("tfdetect.models.mask_heads:fcn"),
        "linear": Entry("tfdetect.models.mask_heads:linear"),
        "f3net": Entry("tfdetect.models.networks.f3net:mask"),
        "iidnet": Entry("tfdetect.models.networks.iidnet:mask"),
        "nixnet": Entry("tfdetect.models.networks.nixnet:mask"),
        "graftnet": Entry("tfdetect.models.networks.graftnet:mask"),
    },
    Entry,
    group="tfdetect.mask_heads",
)

# (classes, label_smoothing, **options) -> keras.losses.Loss of logits.
LOSSES = Registry(
    "loss",
    {"cross_entropy": Entry("tfdetect.training.losses:cross_entropy")},
    Entry,
    group="tfdetect.losses",
)

# (images uint8 [B, h, w, 3], seed, **options) -> images; see `tfdetect.data.augmentation`.
_by_image = partial(AugmentationEntry, by_image=True)
AUGMENTATIONS = Registry(
    "augmentation",
    {
        "flip": _by_image("tfdetect.imaging.geometry:random_flip"),
        "shift": _by_image("tfdetect.imaging.geometry:random_shift"),
        "warp": _by_image("tfdetect.imaging.geometry:random_warp"),
        "crop": _by_image("tfdetect.imaging.geometry:random_crop"),
        "jpeg": _by_image("tfdetect.imaging.random_degradations:random_jpeg"),
        "webp": _by_image("tfdetect.imaging.random_degradations:random_webp"),
        "blur": _by_image("tfdetect.imaging.random_degradations:random_blur"),
        "noise": _by_image("tfdetect.imaging.random_degradations:random_noise"),
        "downsample": _by_image("tfdetect.imaging.random_degradations:random_downsample"),
        "color": _by_image("tfdetect.imaging.color:random_color"),
        "gray": _by_image("tfdetect.imaging.color:random_gray"),
        "rand_augment": _by_image("tfdetect.imaging.color:rand_augment"),
        "erasing": _by_image("tfdetect.imaging.erase:random_erasing"),
        "patches": _by_image("tfdetect.imaging.erase:random_patches"),
        "mixup": AugmentationEntry("tfdetect.imaging.mix:mixup"),
        "cutmix": AugmentationEntry("tfdetect.imaging.mix:cutmix"),
        "forgery": AugmentationEntry("tfdetect.imaging.random_forgery:random_forgery"),
        "amplitude_mix": AugmentationEntry("tfdetect.imaging.frequency:amplitude_mix"),
        "phase_mix": AugmentationEntry("tfdetect.imaging.frequency:phase_mix"),
        "bands": _by_image("tfdetect.imaging.frequency:random_bands"),
        "spectral_noise": _by_image("tfdetect.imaging.frequency:spectral_noise"),
        "fourier_mix": AugmentationEntry("tfdetect.imaging.frequency:fourier_mix"),
        "keras_cv": AugmentationEntry("tfdetect.imaging.keras_cv_layers:keras_cv_layer"),
    },
    AugmentationEntry,
    group="tfdetect.augmentations",
)

MASKS = Registry(
    "mask",
    {
        "brush": Entry("tfdetect.synthesis.mask_makers:brush"),
        "polygon": Entry("tfdetect.synthesis.mask_makers:polygon"),
        "rectangle": Entry("tfdetect.synthesis.mask_makers:rectangle"),
        "whole": Entry("tfdetect.synthesis.mask_makers:whole"),
        "blob": Entry("tfdetect.synthesis.mask_makers:blob"),
        "segments": Entry("tfdetect.synthesis.mask_makers:segments"),
        "objects": Entry("tfdetect.synthesis.mask_makers:objects"),
        "panoptic": Entry("tfdetect.synthesis.mask_makers:panoptic"),
        "yolo": Entry("tfdetect.synthesis.mask_makers:yolo"),
        "person": Entry("tfdetect.synthesis.mask_makers:person"),
    },
    Entry,
)
# Those that find what a photograph shows; the others draw a region or choose any one.
FOREGROUND_MASKS = ("objects", "panoptic", "yolo", "person")

FILLS = Registry(
    "fill",
    {
        "telea": Entry("tfdetect.synthesis.fills:telea"),
        "navier_stokes": Entry("tfdetect.synthesis.fills:navier_stokes"),
        "biharmonic": Entry("tfdetect.synthesis.fills:biharmonic"),
        "copy_move": Entry("tfdetect.synthesis.fills:copy_move"),
        "splice": Entry("tfdetect.synthesis.fills:splice"),
        "composite": Entry("tfdetect.synthesis.fills:splice"),
        "autoencoder": Entry("tfdetect.synthesis.fills:autoencoder"),
        "vae": Entry("tfdetect.synthesis.fills:vae"),
        "diffusion": Entry("tfdetect.synthesis.fills:diffusion"),
    },
    Entry,
)

_OPEN: dict[str, Registry[Any]] = {  # kinds that can be registered from outside
    "front_end": FRONT_ENDS, "backbone": BACKBONES, "head": HEADS, "mask_head": MASK_HEADS,
    "loss": LOSSES, "augmentation": AUGMENTATIONS,
}  # fmt: skip


def register(kind: str, name: str, **facts: Any) -> Callable[[Callable], Callable]:
    """Return a decorator that registers a function of the user's own.

    Args:
        kind: "front_end", "backbone", "head", "mask_head", "loss" or "augmentation".
        name: what experiments call it.
        facts: of a backbone min_size, multiple, scale and offset (see `BackboneEntry`); of a
            front-end output_side (see `FrontEndEntry`).

    Raises:
        UserError: no such kind, or the name is taken.
    """
    if kind not in _OPEN:
        raise unknown("kind", kind, _OPEN)
    registry = _OPEN[kind]
    if problem := name_problem(name):
        raise UserError(
            f"The name of a {registry.kind} is what experiments call it: {problem}. "
            f"Received: {shortened(name)}."
        )

    def decorate(function: Callable) -> Callable:
        if not callable(function):
            raise UserTypeError(
                f"The {registry.kind} {name!r} is a function. Received: {shortened(function)}."
            )
        registry.add(name, registry.entry_type(function, **facts))
        return function

    return decorate


def register_backbone(
    name: str,
    *,
    min_size: int = 1,
    multiple: int = 1,
    scale: float | tuple[float, ...] = 1 / 127.5,
    offset: float | tuple[float, ...] = -1.0,
) -> Callable[[Callable], Callable]:
    """Register a backbone: (shape, weights, **options) -> keras.Model from images to features.

    The model takes pixels scaled as `pixel * scale + offset` from 0..255, by default to -1..1, and
    returns features [B, h, w, c].

    Args:
        name: what experiments call it, as `model.backbone`.
        min_size: smallest side of an image in pixels.
        multiple: each side must be divisible by this.
        scale: factor on pixels, one number or one per channel.
        offset: what is added after scaling, one number or one per channel.
    """
    facts = {"min_size": min_size, "multiple": multiple, "scale": scale, "offset": offset}
    return register("backbone", name, **facts)


def register_front_end(
    name: str, *, output_side: Callable[[int, Mapping[str, Any]], int] = _same_side
) -> Callable[[Callable], Callable]:
    """Register a front-end: (images [B, H, W, 3] in 0..255, **options) -> float32 [B, h, w, c].

    Args:
        name: what experiments call it, as `model.front_end`.
        output_side: (side in pixels, options) -> side after the front-end; by default unchanged.
    """
    return register("front_end", name, output_side=output_side)


def register_head(name: str) -> Callable[[Callable], Callable]:
    """Register a head: (features, outputs, dropout, l2, **options) -> logits [B, outputs].

    Args:
        name: what experiments call it, as `model.head`.
    """
    return register("head", name)


def register_mask_head(name: str) -> Callable[[Callable], Callable]:
    """Register a mask head: (image, features, maps, **options) -> {"mask": logits [B, H, W, 1]}.

    Args:
        name: what experiments call it, as `model.mask_head`.
    """
    return register("mask_head", name)


def register_loss(name: str) -> Callable[[Callable], Callable]:
    """Register a loss: (classes, label_smoothing, **options) -> keras.losses.Loss of logits.

    With two classes there is one logit and targets are [B, 1] in 0..1; with more, targets are
    class numbers [B, 1] or, after mixing augmentations, probabilities [B, classes].

    Args:
        name: what experiments call it, as `training.loss`.
    """
    return register("loss", name)


def register_augmentation(name: str) -> Callable[[Callable], Callable]:
    """Register an augmentation: (images uint8 [B, h, w, 3], seed, **options) -> images.

    It must take all its randomness from `seed`, int32 [2], with stateless ops, so that an
    interrupted training resumes exactly. A function with parameters `targets` or `masks` gets
    and returns those too.

    Args:
        name: what experiments call it, in `data.augment`.
    """
    return register("augmentation", name)
