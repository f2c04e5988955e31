"""Plans and makes single forgeries: a mask is drawn, filled, and pasted into a photograph."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdetect.core import registry
from tfdetect.core.documents import read_rows
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.spec import SPLITS
from tfdetect.data.splits import carve, group_fraction
from tfdetect.synthesis.blend import paste, soften
from tfdetect.synthesis.fills import place
from tfdetect.synthesis.mask_makers import draw_mask
from tfdetect.synthesis.photos import MIN_SIDE, Photo, identifier, random_generator, same_size

if TYPE_CHECKING:
    from tfdetect.synthesis.autoencoder import Autoencoder

# Fills that reproduce the photograph itself: their forgeries are called fakefake.
RECONSTRUCTIONS = ("autoencoder", "vae")
COMPOSITE = "composite"
WITH_MODEL = (*RECONSTRUCTIONS, "diffusion", "objects")  # fills and masks that use a network
_TEST, _VALIDATION = 0.15, 0.1  # fractions of the photographs

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

    def __post_init__(self) -> None:
        both = (("mask", self.masks, registry.MASKS), ("fill", self.fills, registry.FILLS))
        for kind, chosen, known in both:
            if wrong := [name for name in chosen if name not in known]:
                raise unknown(kind, wrong[0], known)
        if not self.masks or not self.fills:
            raise UserError("Give at least one mask (--masks) and one fill (--fill).")
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
        donor: name of another photograph that the fill takes pixels from, or None.
    """

    photo: str
    variant: int
    fill: str
    donor: str | None

    @property
    def id(self) -> str:
        """Name of the forgery's files, without extensions."""
        return identifier(self.photo) + (f"-{self.variant}" if self.variant else "")

    @property
    def kind(self) -> str:
        """The kind of forgery: fakefake if the fill reproduces the photograph, else realfake."""
        return "fakefake" if self.fill in RECONSTRUCTIONS else "realfake"


def splits_of(dataset: str, photos: list[str]) -> dict[str, str]:
    """Return the split of each photograph, which depends on its name alone.

    Args:
        dataset: name of the dataset.
        photos: names of the photographs.
    """
    fractions = np.array([group_fraction(dataset, identifier(photo)) for photo in photos])
    numbers = carve(fractions, _TEST, _VALIDATION)
    return {photo: SPLITS[number] for photo, number in zip(photos, numbers)}


def plan_forgeries(splits: dict[str, str], settings: Settings) -> list[Item]:
    """Return the forgeries to make.

    A donor is in the same split as its photograph, so that splits share no pixels. A
    photograph that is alone in its split gets the next fill that needs no donor; if every fill
    needs one, `forge` refuses it.

    Args:
        splits: the split of each photograph.
        settings: how forgeries are made.
    """
    by_split: dict[str, list[str]] = {}
    for photo, split in splits.items():
        by_split.setdefault(split, []).append(photo)
    needs = {fill: "donor" in signature(_fill(fill)).parameters for fill in settings.fills}
    items = []
    for number, (photo, split) in enumerate(splits.items()):
        others = [p for p in by_split[split] if p != photo]
        fills = [f for f in settings.fills if others or not needs[f]] or settings.fills
        for variant in range(settings.variants):
            fill = fills[(number + variant) % len(fills)]
            rng = random_generator(settings.seed, photo, variant, "donor")
            donor = others[rng.integers(len(others))] if needs[fill] and others else None
            items.append(Item(photo, variant, fill, donor))
    return items


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
    name = settings.masks[rng.integers(len(settings.masks))]
    mask_options = (settings.mask_options or {}).get(name, {})
    fill = _fill(item.fill)
    accepted = signature(fill).parameters
    fill_options = dict((settings.fill_options or {}).get(item.fill, {}))
    extra: dict[str, Any] = {}
    if "donor" in accepted and item.donor is None:
        raise UserError(
            f"{item.photo}: the fill {item.fill!r} needs another photograph in the same split, "
            "where this one is alone. Add photographs, or another fill"
        )
    if item.fill == COMPOSITE:  # the mask is what is cut out of the other photograph
        donor = load_donor(str(item.donor))
        region = draw_mask(name, donor, rng, settings.coverage, **mask_options)
        extra["donor"], mask = place(donor.pixels, region, photo.size, rng, settings.coverage)
    else:
        mask = draw_mask(name, photo, rng, settings.coverage, **mask_options)
        if item.donor is not None:
            extra["donor"] = same_size(load_donor(item.donor).pixels, photo.size, rng)
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
        "donor": item.donor,
        "prompt": extra.get("prompt"), "seed": settings.seed,
        "width": photo.size[1], "height": photo.size[0],
        "encoding": settings.encode + (f" {settings.quality}" if settings.encode == "jpeg" else ""),
        "error": None,
    }  # fmt: skip


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
