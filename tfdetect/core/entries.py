"""`Registry`: functions by name, with the facts about them that are known without TensorFlow."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from tfdetect.core.errors import UserError, unknown
from tfdetect.core.plugin_faults import check_signature, importing


@dataclass(frozen=True)
class Contract:
    """What the functions of one kind take and return.

    Attributes:
        text: arguments and result in one line, as the decorator's documentation has it.
        arguments: names of the arguments that are given by position; others are options.
    """

    text: str = ""
    arguments: tuple[str, ...] = ()

    def rule(self, kind: str) -> str:
        """Return the sentence that says what a function of a kind is."""
        return f"{'An' if kind[0] in 'aeiou' else 'A'} {kind} is {self.text}."


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

    `shape` is (height, width, channels), `weights` "none" or a preset's name. The model maps images
    [B, height, width, channels], scaled as below, to features [B, h, w, c].

    Attributes:
        min_size: smallest side of an image in pixels.
        multiple: each side must be divisible by this; a function of `model.options` where it
            depends on them.
        scale: factor on pixels in 0..255, one number or one per channel.
        offset: summand after scaling, one number or one per channel.
        presets: names of the pretrained weights, such as "imagenet"; "none" is always allowed.
            None for a function that checks these names itself.
    """

    min_size: int = 1
    multiple: int | Callable[[Mapping[str, Any]], int] = 1
    scale: float | tuple[float, ...] = 1 / 127.5
    offset: float | tuple[float, ...] = -1.0
    presets: tuple[str, ...] | None = None

    def sides(self, options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the smallest side of an image in pixels, and what each side must be divisible by.

        Args:
            options: as `model.options` has them.
        """
        multiple = self.multiple if isinstance(self.multiple, int) else self.multiple(options)
        return -(-self.min_size // multiple) * multiple, multiple


def same_side(side: int, options: Mapping[str, Any]) -> int:
    """Return the side of an image unchanged, for front-ends that keep its size."""
    return side


@dataclass(frozen=True)
class FrontEndEntry(Entry):
    """A front-end: (images [B, H, W, 3] in 0..255, **options) -> float32 [B, h, w, c].

    Attributes:
        output_side: (side in pixels, options) -> side after the front-end.
    """

    output_side: Callable[[int, Mapping[str, Any]], int] = same_side


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
        contract: what its functions take and return; none for those that no plug-in registers.
    """

    def __init__(
        self,
        kind: str,
        entries: dict[str, E],
        entry_type: type[E],
        group: str | None = None,
        contract: Contract = Contract(),
    ):
        self.kind, self.entry_type, self.group = kind, entry_type, group
        self.contract = contract
        self._entries = dict(entries)
        self._built_in = frozenset(entries)
        self._offered: dict[str, EntryPoint] | None = None

    def __getitem__(self, name: str) -> E:
        if name not in self._entries:
            offered = self._found().get(name)
            if offered is None:
                raise KeyError(name)
            what = f"The {self.kind} {name!r}, which {_package_of(offered)} offers as "
            with importing(f"{what}{offered.value!r},", offered.module):
                target = offered.load()  # importing it may register it, with its facts
            if name not in self._entries:
                check_signature(self, name, target)
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

    def is_plugin(self, name: str) -> bool:
        """Return whether a name does not come with the package."""
        return name not in self._built_in

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
            UserError: the name is taken, or the function cannot take the arguments of its kind.
        """
        if callable(entry.target):
            check_signature(self, name, entry.target)
        known = self._entries.get(name)
        if known is not None and (name in self._built_in or not _is_same(known, entry)):
            raise UserError(
                f"The {self.kind} {name!r} is already registered, by {known.module}. "
                "Choose another name."
            )
        self._entries[name] = entry


def _package_of(offered: EntryPoint) -> str:
    return f"the package {offered.dist.name}" if offered.dist else "an installed package"


def _is_same(one: Entry, other: Entry) -> bool:
    names = [
        (each.module, each.target.__qualname__) if callable(each.target) else each.target
        for each in (one, other)
    ]
    return names[0] == names[1]
