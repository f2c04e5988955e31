"""Photographs that forgeries are made from, and what belongs to one of them."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tfdetect.core.errors import UserError
from tfdetect.imaging.pillow import opened, upright_rgb

SMALLEST = 16  # pixels; below, masks and fills have no meaning


@dataclass(frozen=True)
class Photo:
    """One photograph.

    Attributes:
        name: its path below the source folder.
        pixels: uint8 [H, W, 3], RGB, upright.
        fit: brings a picture that lies over the photograph, a segmentation say, to its
            pixels as the photograph itself was brought.
    """

    name: str
    pixels: np.ndarray
    fit: Callable[[Image.Image], np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[:2]


def load_photo(root: Path, name: str, side: int | None = None) -> Photo:
    """Reads a photograph.

    Args:
        side: scales and cuts the middle out to this many pixels square; None leaves it.

    Raises:
        UserError: it cannot be read, or is smaller than 16 pixels.
    """
    try:
        with opened(root / name) as image:
            image = upright_rgb(image)
    except Exception as error:  # Pillow's plugins raise many kinds
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{name}: {reason}") from error
    if min(image.size) < SMALLEST:
        raise UserError(
            f"{name}: {image.width}x{image.height} pixels; at least {SMALLEST} each way are needed"
        )

    def fit(picture: Image.Image, how=Image.Resampling.NEAREST) -> np.ndarray:
        return np.asarray(picture if side is None else ImageOps.fit(picture, (side, side), how))

    return Photo(name, fit(image, Image.Resampling.LANCZOS), fit)


def identifier(name: str) -> str:
    """A file name's stem for a photograph: its own, and what tells it from others of that stem."""
    path = Path(name)
    digest = hashlib.blake2b(name.encode(), digest_size=3).hexdigest()
    return f"{path.stem.replace('.', '_')}-{digest}"


def random_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A generator that depends on the seed and the names alone."""
    text = "\n".join(map(str, names))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big")])


def same_size(donor: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random cut of `size` out of another photograph, enlarged first where it is smaller."""
    height, width = size
    scale = max(height / donor.shape[0], width / donor.shape[1])
    if scale > 1:
        wanted = [max(s, round(d * scale)) for s, d in zip((width, height), donor.shape[1::-1])]
        donor = np.asarray(Image.fromarray(donor).resize(wanted, Image.Resampling.BICUBIC))
    top = int(rng.integers(donor.shape[0] - height + 1))
    left = int(rng.integers(donor.shape[1] - width + 1))
    return donor[top : top + height, left : left + width]


def find_photos(root: Path) -> list[str]:
    """Paths of the photographs below a folder, relative to it, sorted.

    Raises:
        UserError: there is none.
    """
    from tfdetect.data.scan import EXTENSIONS

    found = [
        Path(parent, file).relative_to(root).as_posix()
        for parent, folders, files in os.walk(root)
        for file in files
        if Path(file).suffix.lower() in EXTENSIONS and not file.startswith(".")
    ]
    if not found:
        raise UserError(f"There are no photographs in {root} ({', '.join(sorted(EXTENSIONS))}).")
    return sorted(found)
