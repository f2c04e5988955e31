"""Plans the forgeries of a dataset: which photograph is in which split and gets which fill."""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import numpy as np

from tfdetect.core import registry
from tfdetect.core.spec import SPLITS
from tfdetect.data.splits import carve, group_fraction
from tfdetect.synthesis.photos import content_hashes, identifier, random_generator
from tfdetect.synthesis.segmentation_files import has_segmentation
from tfdetect.synthesis.settings import COMPOSITE, RECONSTRUCTIONS, Settings

_TEST, _VALIDATION = 0.15, 0.1  # fractions of the photographs
_MAX_DONORS = 4  # that are tried for a forgery


@dataclass(frozen=True)
class Item:
    """One forgery to make.

    Attributes:
        photo: name of the photograph.
        variant: number of the forgery among those of the photograph, from 0.
        fill: name of the fill.
        donors: names of other photographs from which the fill can take pixels; the first one that
            can be used is taken.
    """

    photo: str
    variant: int
    fill: str
    donors: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name of the forgery's files, without extensions."""
        return identifier(self.photo) + (f"-{self.variant}" if self.variant else "")

    @property
    def kind(self) -> str:
        """The kind of forgery: fakefake if the fill reproduces the photograph, else realfake."""
        return "fakefake" if self.fill in RECONSTRUCTIONS else "realfake"


def split_photos(source: Path, photos: list[str], dataset: str, split_rule: int) -> dict[str, str]:
    """Return the split of each photograph, by its name.

    The split depends on a hash of the photograph's content, so that the same photograph is in the
    same split of every dataset. The sizes of the splits are therefore random; only a split that
    would be empty gets photographs of train.

    Args:
        source: folder of the photographs.
        photos: names of the photographs.
        dataset: name of the dataset, for split rule 1.
        split_rule: see `Settings`.
    """
    if split_rule == 1:
        salt, keys = dataset, [identifier(photo) for photo in photos]
    else:
        salt, keys = "photographs", content_hashes(source, photos)
    known = sorted(set(keys))
    numbers = carve(np.array([group_fraction(salt, key) for key in known]), _TEST, _VALIDATION)
    by_key = dict(zip(known, numbers))
    return {photo: SPLITS[by_key[key]] for photo, key in zip(photos, keys)}


def plan_forgeries(splits: dict[str, str], settings: Settings) -> list[Item]:
    """Return the forgeries to make.

    A donor is in the same split as its photograph, so that splits share no pixels. The donor of a
    composite has a segmentation if the mask needs one. A photograph without a possible donor gets
    the next fill that needs none; if every fill needs one, `forge` refuses it.

    Args:
        splits: the split of each photograph.
        settings: how forgeries are made.
    """
    in_split: dict[str, list[str]] = {}
    for photo, split in splits.items():
        in_split.setdefault(split, []).append(photo)
    segmented = in_split
    if COMPOSITE in settings.fills:
        segmented = {
            split: [photo for photo in photos if usable_masks(photo, settings)]
            for split, photos in in_split.items()
        }
    donors_in = {
        fill: segmented if fill == COMPOSITE else in_split
        for fill in settings.fills if _needs_donor(fill)
    }  # fmt: skip
    positions = {
        fill: {photo: n for photos in donors.values() for n, photo in enumerate(photos)}
        for fill, donors in donors_in.items()
    }

    def has_donor(fill: str, photo: str, split: str) -> bool:
        return len(donors_in[fill][split]) > (photo in positions[fill])

    items = []
    for number, (photo, split) in enumerate(splits.items()):
        fills = [
            fill for fill in settings.fills
            if fill not in donors_in or has_donor(fill, photo, split)
        ] or settings.fills  # fmt: skip
        for variant in range(settings.variants):
            fill = fills[(number + variant) % len(fills)]
            drawn: tuple[str, ...] = ()
            if fill in donors_in and has_donor(fill, photo, split):
                rng = random_generator(settings.seed, photo, variant, "donor")
                drawn = _draw_donors(donors_in[fill][split], positions[fill].get(photo), rng)
            items.append(Item(photo, variant, fill, drawn))
    return items


def _draw_donors(photos: list[str], own: int | None, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw up to `_MAX_DONORS` different photographs.

    Args:
        photos: those to draw from; at least one besides the photograph itself.
        own: position of the photograph itself, which is not drawn; None if it is not among them.
        rng: source of random numbers.
    """
    numbers = rng.integers(len(photos) - (own is not None), size=_MAX_DONORS)
    if own is not None:
        numbers += numbers >= own
    return tuple(dict.fromkeys(photos[number] for number in numbers))


def _needs_donor(fill: str) -> bool:
    return "donor" in signature(registry.FILLS.load(fill)).parameters


def usable_masks(photo: str, settings: Settings) -> list[str]:
    """Return the mask makers of the settings that have the segmentation that they need."""
    return [
        name for name in settings.masks
        if has_segmentation(name, photo, settings.options_of_mask(name))
    ]  # fmt: skip
