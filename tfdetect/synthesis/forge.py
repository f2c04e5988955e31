"""Makes one forgery: a mask is drawn, filled, and pasted into the photograph."""

import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tfdetect.core import registry
from tfdetect.core.errors import ModelNotAvailable, UserError
from tfdetect.synthesis.blend import paste, soften
from tfdetect.synthesis.fills import place
from tfdetect.synthesis.forgery_plan import Item, usable_masks
from tfdetect.synthesis.mask_makers import draw_mask
from tfdetect.synthesis.photos import Photo, random_generator, random_window
from tfdetect.synthesis.settings import COMPOSITE, Settings

if TYPE_CHECKING:
    from tfdetect.synthesis.autoencoder import Autoencoder

T = TypeVar("T")
Row = dict[str, Any]  # how a forgery was made, by `COLUMNS`
COLUMNS = (
    "id", "kind", "source", "split", "mask", "fill", "options", "coverage", "edge", "mix",
    "donor", "prompt", "seed", "width", "height", "encoding", "error",
)  # fmt: skip


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
        UserError: no mask fits, or the fill changes nothing.
    """
    rng = random_generator(settings.seed, item.photo, item.variant)
    fill = registry.FILLS.load(item.fill)
    accepted = signature(fill).parameters
    inputs: dict[str, Any] = {}
    donor: str | None = None
    if item.fill == COMPOSITE:  # the mask is the region that is cut out of the donor
        donor, (pixels, (mask_name, region)) = _use_donor(
            item, load_donor, lambda other: (other.pixels, _draw_mask(other, rng, settings))
        )
        inputs["donor"], mask = place(pixels, region, photo.size, rng, settings.coverage)
    else:
        mask_name, mask = _draw_mask(photo, rng, settings)
        if "donor" in accepted:
            donor, inputs["donor"] = _use_donor(
                item, load_donor, lambda other: random_window(other.pixels, photo.size, rng)
            )
    if "prompt" in accepted:
        inputs["prompt"] = _draw_prompt(item.photo, settings, rng)
    if "autoencoder" in accepted:
        inputs["autoencoder"] = autoencoder
    filled = fill(photo.pixels, mask, rng, **settings.options_of_fill(item.fill), **inputs)
    mix = rng.uniform(*settings.mix)
    forged = paste(photo.pixels, filled, np.float32(1 - mix) * soften(mask, settings.edge))
    if np.array_equal(forged, photo.pixels):
        raise UserError(f"{item.photo}: the fill {item.fill!r} changes nothing inside the mask")
    options = {"mask": settings.options_of_mask(mask_name),
               "fill": settings.options_of_fill(item.fill)}  # fmt: skip
    return forged, mask, {
        "id": item.id, "kind": item.kind, "source": item.photo, "mask": mask_name,
        "fill": item.fill, "options": json.dumps(options),
        "coverage": round(float(mask.mean()), 6), "edge": settings.edge, "mix": round(mix, 4),
        "donor": donor, "prompt": inputs.get("prompt"), "seed": settings.seed,
        "width": photo.size[1], "height": photo.size[0],
        "encoding": settings.encode + (f" {settings.quality}" if settings.encode == "jpeg" else ""),
        "error": None,
    }  # fmt: skip


def _draw_mask(
    photo: Photo, rng: np.random.Generator, settings: Settings
) -> tuple[str, np.ndarray]:
    """Return the name of one of the mask makers, and a mask bool [H, W] that it draws."""
    names = usable_masks(photo.name, settings) or settings.masks
    name = names[rng.integers(len(names))]
    return name, draw_mask(name, photo, rng, settings.coverage, **settings.options_of_mask(name))


def _use_donor(
    item: Item, load_donor: Callable[[str], Photo], use: Callable[[Photo], T]
) -> tuple[str, T]:
    """Return the name of the first donor that can be used, and the result of `use` for it."""
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


def _draw_prompt(photo: str, settings: Settings, rng: np.random.Generator) -> str:
    """Return one of the prompts for a photograph, with its folder and stem filled in."""
    path, prompts = Path(photo), settings.prompts or {}
    choices = prompts.get(path.stem) or prompts.get("") or ("",)
    prompt = choices[rng.integers(len(choices))]
    for key, text in (("{folder}", path.parent.name), ("{stem}", path.stem)):
        prompt = prompt.replace(key, text.replace("_", " "))
    return prompt
