"""The settings by which forgeries are made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfdetect.core import registry
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.parsing import read_rows

MIN_SIDE = 16  # pixels; masks and fills make no sense in smaller photographs
# Fills that reproduce the photograph itself: their forgeries are called fakefake.
RECONSTRUCTIONS = ("autoencoder", "vae")
COMPOSITE = "composite"  # the fill whose mask is cut out of another photograph
WITH_MODEL = (*RECONSTRUCTIONS, "diffusion", "objects")  # fills and masks that use a network


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
            photograph. {folder} and {stem} in a text are replaced by the photograph's, with spaces
            instead of underscores.
        autoencoder: path of a trained autoencoder; None to train one if a fill needs it.
        max_pixels: photographs with more pixels are skipped before they are decoded.
        split_rule: what the split of a photograph depends on: 2 its content, 1 its path and the
            name of the output's folder, as in earlier versions.

    Raises:
        UserError: an unknown mask or fill, a number out of range, or a fill that cannot be used
            with the masks or without prompts.
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
                f"The fill {min(others)!r} cannot be used with --masks whole, which leaves no "
                "unaltered pixels. Give --fill autoencoder, vae or diffusion."
            )
        if "diffusion" in self.fills and not self.prompts:
            raise UserError("The fill 'diffusion' needs --prompt TEXT or --captions FILE.")

    @property
    def experiment(self) -> str:
        """Name of the experiment that is proposed for training on the forgeries."""
        if self.masks == ("whole",):  # everything is altered, so there is nothing to localize
            return "photos_from_scratch"
        return "localizer"

    def options_of_mask(self, name: str) -> dict[str, Any]:
        """Return the further arguments of a mask maker."""
        return dict((self.mask_options or {}).get(name, {}))

    def options_of_fill(self, name: str) -> dict[str, Any]:
        """Return the further arguments of a fill."""
        return dict((self.fill_options or {}).get(name, {}))


def read_captions(file: Path) -> dict[str, tuple[str, ...]]:
    """Return captions by the photograph's stem.

    Args:
        file: CSV file with the columns name and caption.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    captions: dict[str, tuple[str, ...]] = {}
    for row in read_rows(file, ("name", "caption")):
        stem = Path(row["name"]).stem
        captions[stem] = (*captions.get(stem, ()), row["caption"])
    return captions
