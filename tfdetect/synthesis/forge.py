"""Plans and makes single forgeries: a mask is drawn, filled, and pasted into a photograph."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tfdetect.core import registry
from tfdetect.core.errors import ModelNotAvailable, UserError, unknown
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.parsing import read_rows
from tfdetect.core.spec import SPLITS
from tfdetect.data.splits import carve, group_fraction
from tfdetect.synthesis.blend import paste, soften
from tfdetect.synthesis.fills import place
from tfdetect.synthesis.mask_makers import draw_mask, has_segmentation
from tfdetect.synthesis.photos import (
    MIN_SIDE,
    Photo,
    content_hashes,
    identifier,
    random_generator,
    same_size,
)

if TYPE_CHECKING:
    from tfdetect.synthesis.autoencoder import Autoencoder

# Fills that reproduce the photograph itself: their forgeries are called fakefake.
RECONSTRUCTIONS = ("autoencoder", "vae")
COMPOSITE = "composite"
WITH_MODEL = (*RECONSTRUCTIONS, "diffusion", "objects")  # fills and masks that use a network
_TEST, _VALIDATION = 0.15, 0.1  # fractions of the photographs
_MAX_DONORS = 4  # that are tried

T = TypeVar("T")
Row = dict[str, Any]  # how a forgery was made, by `COLUMNS`
COLUMNS = (
    "id", "kind", "source", "split", "mask", "fill", "options", "coverage", "edge", "mix",
    "donor", "prompt", "seed", "width", "height", "encoding", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How forgeries are made.

    Attributes:
        masks: names of registered mask makers; each forgery draws one.
        fills: names of registered fills; forgeries take them in turn.
        variants: number of forgeries of each photograph.
        coverage: smallest and largest fraction of the photograph that is altered.
        edge: width in pixels of the soft edge inside the mask.
        mix: smallest and largest fraction of the photograph's own pixel values that is mixed into
            the altered ones.
        size: photographs are scaled and cropped to this side in pixels; None keeps their size.
        encode: "webp" or "png", both lossless, or "jpeg"; for originals and forgeries alike.
        quality: quality of JPEG, 1 to 100.
        seed: integer that determines all random choices.
        mask_options: further arguments of mask makers, by their names.
        fill_options: further arguments of fills, by their names.
        prompts: texts for the fill `diffusion`, by the photograph's stem, or "" for any
            photograph. {folder} and {stem} in a text become the photograph's, with underscores
            as spaces.
        autoencoder: path of a trained autoencoder; None to train one if a fill needs it.
        max_pixels: photographs with more pixels are skipped before they are decoded.
        split_rule: what the split of a photograph depends on: 2 its content, 1 its path and the
            name of the output's folder, as in earlier versions.

    Raises:
        UserError: an unknown mask or fill, a number out of range, or a fill that cannot go with
            the masks or without prompts.
    """

    masks: tuple[str, ...] = ("brush", "polygon", "blob")
    fills: tuple[str, ...] = ("telea", "navier_stokes", "copy_move", "splice", "autoencoder")
    variants: int = 1
    coverage: tuple[float, float] = (0.02, 0.4)
    edge: float = 2.0
    mix: tuple[float, float] = (0.0, 0.0)
    size: int | None = None
    encode: str = "webp"
    quality: int = 95
    seed: int = 0
    mask_options: dict[str, dict] | None = None
    fill_options: dict[str, dict] | None = None
    prompts: dict[str, tuple[str, ...]] | None = None
    autoencoder: str | None = None
    max_pixels: int = MAX_PIXELS
    split_rule: int = 2

    def __post_init__(self) -> None:
        both = (("mask", self.masks, registry.MASKS), ("fill", self.fills, registry.FILLS))
        for kind, chosen, known in both:
            if wrong := [name for name in chosen if name not in known]:
                raise unknown(kind, wrong[0], known)
        if not self.masks or not self.fills:
            raise UserError("Give at least one mask (--masks) and one fill (--fill).")
        if self.split_rule not in (1, 2):
            raise UserError(f"--split-rule must be 1 or 2. Received: {self.split_rule}.")
        if self.edge < 0:
            raise UserError(f"--edge must be at least 0. Received: {self.edge}.")
        if self.size is not None and self.size < MIN_SIDE:
            raise UserError(f"--size must be at least {MIN_SIDE}. Received: {self.size}.")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality must be from 1 to 100. Received: {self.quality}.")
        others = set(self.fills) - {*RECONSTRUCTIONS, "diffusion"}
        if "whole" in self.masks and others:
            raise UserError(
                f"--masks whole leaves nothing for the fill {min(others)!r} to go by. Give "
                "--fill autoencoder, vae or diffusion."
            )
        if "diffusion" in self.fills and not self.prompts:
            raise UserError("The fill 'diffusion' needs --prompt TEXT or --captions FILE.")


@dataclass(frozen=True)
class Item:
    """One forgery to make.

    Attributes:
        photo: name of the photograph.
        variant: number of the forgery among those of the photograph, from 0.
        fill: name of the fill.
        donors: names of other photographs that the fill can take pixels from; the first one that
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


def splits_of(source: Path, photos: list[str], dataset: str, split_rule: int) -> dict[str, str]:
    """Return the split of each photograph, by its name.

    It follows from a hash of the photograph's content, so that the same photograph is in the same
    split of every dataset, and sizes are left to chance. Only a split that would be empty takes
    photographs of train.

    Args:
        source: folder of the photographs.
        photos: names of the photographs.
        dataset: name of the dataset, for split rule 1.
        split_rule: as in `Settings`.
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

    A donor is in the same split as its photograph, so that splits share no pixels; that of a
    composite has a segmentation if the mask needs one. A photograph without a possible donor gets
    the next fill that needs none; if every fill needs one, `forge` refuses it.

    Args:
        splits: the split of each photograph.
        settings: how forgeries are made.
    """
    by_split: dict[str, list[str]] = {}
    for photo, split in splits.items():
        by_split.setdefault(split, []).append(photo)
    cut_out = by_split
    if COMPOSITE in settings.fills:
        cut_out = {s: [p for p in them if _masks_of(p, settings)] for s, them in by_split.items()}
    needs = {fill: "donor" in signature(_fill(fill)).parameters for fill in settings.fills}
    items = []
    for number, (photo, split) in enumerate(splits.items()):
        usable = {f: (cut_out if f == COMPOSITE else by_split)[split] for f in settings.fills}
        fills = [
            fill for fill in settings.fills
            if not needs[fill] or any(other != photo for other in usable[fill])
        ] or settings.fills  # fmt: skip
        for variant in range(settings.variants):
            fill = fills[(number + variant) % len(fills)]
            donors: tuple[str, ...] = ()
            if needs[fill] and (others := [other for other in usable[fill] if other != photo]):
                rng = random_generator(settings.seed, photo, variant, "donor")
                drawn = rng.integers(len(others), size=_MAX_DONORS)
                donors = tuple(dict.fromkeys(others[n] for n in drawn))
            items.append(Item(photo, variant, fill, donors))
    return items


def _masks_of(photo: str, settings: Settings) -> list[str]:
    """Return the names of those mask makers that have the segmentation that they need."""
    options = settings.mask_options or {}
    return [name for name in settings.masks if has_segmentation(name, photo, options.get(name, {}))]


def forge(
    photo: Photo,
    item: Item,
    settings: Settings,
    load_donor: Callable[[str], Photo],
    autoencoder: "Autoencoder | None" = None,
) -> tuple[np.ndarray, np.ndarray, Row]:
    """Make one forgery.

    Args:
        photo: the photograph.
        item: what to make of it.
        settings: how forgeries are made.
        load_donor: reads another photograph.
        autoencoder: a trained one, if the fill needs it.

    Returns:
        The forgery uint8 [H, W, 3], its mask bool [H, W], and how it was made.

    Raises:
        UserError: No mask fits, or the fill changes nothing.
    """
    rng = random_generator(settings.seed, item.photo, item.variant)
    fill = _fill(item.fill)
    accepted = signature(fill).parameters
    fill_options = dict((settings.fill_options or {}).get(item.fill, {}))
    extra: dict[str, Any] = {}
    donor: str | None = None
    if item.fill == COMPOSITE:  # the mask is what is cut out of the other photograph
        donor, (pixels, (name, region)) = _use_donor(
            item, load_donor, lambda other: (other.pixels, _draw(other, rng, settings))
        )
        extra["donor"], mask = place(pixels, region, photo.size, rng, settings.coverage)
    else:
        name, mask = _draw(photo, rng, settings)
        if "donor" in accepted:
            donor, extra["donor"] = _use_donor(
                item, load_donor, lambda other: same_size(other.pixels, photo.size, rng)
            )
    mask_options = (settings.mask_options or {}).get(name, {})
    if "prompt" in accepted:
        extra["prompt"] = _prompt(item.photo, settings, rng)
    if "autoencoder" in accepted:
        extra["autoencoder"] = autoencoder
    filled = fill(photo.pixels, mask, rng, **fill_options, **extra)
    mix = rng.uniform(*settings.mix)
    forged = paste(photo.pixels, filled, np.float32(1 - mix) * soften(mask, settings.edge))
    if np.array_equal(forged, photo.pixels):
        raise UserError(f"{item.photo}: the fill {item.fill!r} changes nothing inside the mask")
    return forged, mask, {
        "id": item.id, "kind": item.kind, "source": item.photo, "mask": name, "fill": item.fill,
        "options": json.dumps({"mask": mask_options, "fill": fill_options}),
        "coverage": round(float(mask.mean()), 6), "edge": settings.edge, "mix": round(mix, 4),
        "donor": donor,
        "prompt": extra.get("prompt"), "seed": settings.seed,
        "width": photo.size[1], "height": photo.size[0],
        "encoding": settings.encode + (f" {settings.quality}" if settings.encode == "jpeg" else ""),
        "error": None,
    }  # fmt: skip


def _draw(photo: Photo, rng: np.random.Generator, settings: Settings) -> tuple[str, np.ndarray]:
    """Return the name of a mask maker and a mask bool [H, W] that it draws."""
    names = _masks_of(photo.name, settings) or settings.masks
    name = names[rng.integers(len(names))]
    options = (settings.mask_options or {}).get(name, {})
    return name, draw_mask(name, photo, rng, settings.coverage, **options)


def _use_donor(
    item: Item, load_donor: Callable[[str], Photo], use: Callable[[Photo], T]
) -> tuple[str, T]:
    """Return the name of the first donor that can be used, and what was made of it."""
    if not item.donors:
        raise UserError(
            f"{item.photo}: the fill {item.fill!r} needs another photograph in the same split, "
            "and there is none that it can use. Add photographs, or another fill"
        )
    for donor in item.donors:
        try:
            return donor, use(load_donor(donor))
        except ModelNotAvailable:
            raise
        except UserError as error:
            reason = error
    raise UserError(f"{item.photo}: no donor of {len(item.donors)} can be used. {reason}")


def _prompt(photo: str, settings: Settings, rng: np.random.Generator) -> str:
    path, texts = Path(photo), settings.prompts or {}
    choices = texts.get(path.stem) or texts.get("") or ("",)
    prompt = choices[rng.integers(len(choices))]
    for key, text in (("{folder}", path.parent.name), ("{stem}", path.stem)):
        prompt = prompt.replace(key, text.replace("_", " "))
    return prompt


def _fill(name: str) -> Callable[..., np.ndarray]:
    return registry.FILLS.load(name)


def read_captions(file: Path) -> dict[str, tuple[str, ...]]:
    """Return captions by the photograph's stem.

    Args:
        file: CSV file with the columns name and caption.

    Raises:
        UserError: The file cannot be read, or lacks a column.
    """
    captions: dict[str, tuple[str, ...]] = {}
    for row in read_rows(file, ("name", "caption")):
        stem = Path(row["name"]).stem
        captions[stem] = (*captions.get(stem, ()), row["caption"])
    return captions
