"""Finds and reads the photographs from which forgeries are made."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.folder_names import is_derived_folder, is_mask_folder
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.text import file_name, from_os, plain_name, to_os
from tfdetect.data.image_files import images_below
from tfdetect.data.scan import is_mask_of_neighbor
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.pillow import read_rgb
from tfdetect.synthesis.settings import MIN_SIDE

_READER_THREADS = 8


@dataclass(frozen=True)
class Photo:
    """One photograph.

    Attributes:
        name: its path below the source folder.
        pixels: uint8 [H, W, 3], RGB, upright.
        fit: scales and crops an image of the photograph's original size, for example a
            segmentation, as the photograph was.
        max_pixels: a file about the photograph with more pixels is not decoded.
    """

    name: str
    pixels: np.ndarray
    fit: Callable[[Image.Image], np.ndarray]
    max_pixels: int = MAX_PIXELS

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[:2]


def load_photo(
    root: Path, name: str, side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Photo:
    """Read a photograph.

    Args:
        root: folder of the photographs.
        name: path of the photograph below it, as `from_os` makes it.
        side: scale the photograph and keep the center, a square with this side in pixels; None
            keeps its size.
        max_pixels: a photograph with more pixels is not decoded.

    Raises:
        UserError: the photograph cannot be read, has too many pixels, or has a side shorter than
            `MIN_SIDE`.
    """
    try:
        image = read_rgb(root / to_os(name), max_pixels)
    except ImageError as error:
        raise UserError(f"{name}: {error}") from error
    if min(image.size) < MIN_SIDE:
        raise UserError(
            f"{name}: {image.width}x{image.height} pixels; each side needs at least {MIN_SIDE}"
        )

    def fit(picture: Image.Image, how: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
        return np.asarray(picture if side is None else ImageOps.fit(picture, (side, side), how))

    return Photo(name, fit(image, Image.Resampling.LANCZOS), fit, max_pixels)


def content_hashes(root: Path, names: Sequence[str]) -> list[str]:
    """Return a hash of each photograph's file, or its name if the file cannot be read.

    Args:
        root: folder of the photographs.
        names: paths of the photographs below it, as `from_os` makes them.
    """

    def content_hash(name: str) -> str:
        try:
            with open(root / to_os(name), "rb") as file:
                return hashlib.file_digest(file, "blake2b").hexdigest()
        except OSError:
            return name

    with ThreadPoolExecutor(_READER_THREADS) as pool:
        return list(pool.map(content_hash, names))


def identifier(name: str) -> str:
    """Return the stem of a photograph's files: its own stem, and a hash of its path."""
    stem = plain_name(Path(name).stem).replace(".", "_")
    digest = hashlib.blake2b(name.encode(), digest_size=3).hexdigest()
    return f"{file_name(stem, most=150)}-{digest}"


def random_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a random generator that depends on the seed and the names alone."""
    text = "\n".join(map(str, names))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big")])


def random_window(donor: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cut a random window out of a photograph, which is enlarged first if it is too small.

    Args:
        donor: uint8 [H, W, 3].
        size: (height, width) of the window in pixels.
        rng: source of random numbers.

    Returns:
        uint8 [*size, 3].
    """
    height, width = size
    scale = max(height / donor.shape[0], width / donor.shape[1])
    if scale > 1:
        wanted = [max(s, round(d * scale)) for s, d in zip((width, height), donor.shape[1::-1])]
        donor = np.asarray(Image.fromarray(donor).resize(wanted, Image.Resampling.BICUBIC))
    top = int(rng.integers(donor.shape[0] - height + 1))
    left = int(rng.integers(donor.shape[1] - width + 1))
    return donor[top : top + height, left : left + width]


def _left_out(root: Path, path: str) -> str | None:
    """Return why an image is left out, if its path says that it is no photograph; else None."""
    for folder in from_os(path).split("/")[:-1]:
        if is_mask_folder(folder):
            return f"masks in {folder}/"
        if is_derived_folder(folder):
            return f"derived images in {folder}/"
    return "masks beside their images" if is_mask_of_neighbor(root, from_os(path)) else None


def find_photos(root: Path, log: console.Log) -> list[str]:
    """Return the paths of the photographs below a folder, as `from_os` makes them, each once.

    Masks and derived images are left out, as they are if the folder is read as a dataset.

    Args:
        root: the folder.
        log: called with the number of files of each kind, if not all are photographs.

    Raises:
        UserError: there is none.
    """
    found = images_below(root, once=True)
    left_out = {path: kind for path in found.paths if (kind := _left_out(root, path))}
    found.paths = [path for path in found.paths if path not in left_out]
    found.other.update(left_out.values())
    if not found.paths:
        raise UserError(f"There are no photographs in {root}. {found.describe()}.")
    if found.other or found.errors:
        log(found.describe())
    for path, reason in found.errors.items():
        console.warn(f"skipped: {path}: {reason}")
    return [from_os(path) for path in found.paths]
