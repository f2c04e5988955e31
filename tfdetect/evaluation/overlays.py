"""Draw the altered regions of images, for PNG files and pages."""

import io
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tfdetect.core.files import FailedWrites, write_bytes
from tfdetect.core.text import MAX_NAME_BYTES, file_name
from tfdetect.evaluation.mask_metrics import THRESHOLD

if TYPE_CHECKING:  # writing needs no TensorFlow
    from tfdetect.evaluation.prediction_columns import MaskPrediction
    from tfdetect.forensics.copy_search import Copies
    from tfdetect.forensics.evidence import Evidence

_RED = np.array([230, 30, 30], np.float32)
_BLUE = np.array([30, 90, 230], np.float32)
_YELLOW = np.array([250, 200, 0], np.float32)
COPY_LAYER = 128  # of a region that was copied, in a mask of copies; the copies are 255
MAX_SIDE = 1024  # pixels of a picture's longer side on a page; larger ones are shrunk
MIN_SIDE = 256  # smaller ones are enlarged without smoothing


@dataclass(frozen=True)
class EvidencePicture:
    """Regions of an image that a piece of evidence is about.

    Attributes:
        pixels: the image with these regions marked, uint8 [H, W, 3].
        title: what they are, in a few words.
        alt: what the picture shows, for readers who cannot see it.
        caption: how to read it; may be empty.
    """

    pixels: np.ndarray
    title: str
    alt: str
    caption: str = ""


def evidence_pictures(known: "Evidence", image: np.ndarray) -> list[EvidencePicture]:
    """Return pictures of copied regions and of regions with another JPEG history, where found.

    Args:
        known: what is known of the image.
        image: uint8 [H, W, 3].
    """
    pictures = []
    if known.copies is not None and known.copies.found:
        pictures.append(EvidencePicture(
            copy_overlay(image, known.copies), "Copied regions",
            "The image with copied regions in yellow and their sources in blue",
            "Yellow regions look like copies of blue ones. Which of the two is the copy is a "
            "guess.",
        ))  # fmt: skip
    if known.history is not None and known.history.differs.any():
        pictures.append(EvidencePicture(
            overlay(image, known.history.differs), "Regions with another JPEG history",
            "The image with regions of another JPEG history in red",
        ))  # fmt: skip
    return pictures


def for_page(image: np.ndarray) -> Image.Image:
    """Return an image, uint8 [H, W, 3], reduced to the size at which pages show it."""
    shown = Image.fromarray(image)
    longer = max(shown.size)
    if longer > MAX_SIDE:
        shown.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    elif longer < MIN_SIDE:
        factor = math.ceil(MIN_SIDE / longer)
        width, height = shown.size
        shown = shown.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    return shown


def overlay(image: np.ndarray, altered: np.ndarray, color: np.ndarray = _RED) -> np.ndarray:
    """Return the image with its altered region tinted and outlined.

    Args:
        image: uint8 [H, W, 3].
        altered: bool [H, W].
        color: float32 [3], RGB in 0..255; by default red.

    Returns:
        uint8 [H, W, 3]; pixels that are not altered are unchanged, except for the outline.
    """
    tinted = image.copy()
    tinted[altered] = 0.6 * image[altered] + 0.4 * color
    width = max(1, round(max(altered.shape) / 300))
    inside = ~_grown(~altered, 1)
    tinted[_grown(altered & ~inside, width // 2)] = color
    return tinted


def _grown(region: np.ndarray, by: int) -> np.ndarray:
    """Return bool [H, W]: whether a pixel of the region is in the square of side 2 * by + 1."""
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (by + 1, by)
        sums = np.cumsum(np.pad(region, widths), axis=axis, dtype=np.int32)
        length = region.shape[axis]
        last = sums.take(range(2 * by + 1, 2 * by + 1 + length), axis)
        region = last > sums.take(range(length), axis)
    return region


def output_names(paths: list[str]) -> list[str]:
    """Return a name for the files that are written about each image.

    It is the image's path relative to the folder that holds them all, without the extension unless
    two images differ in that alone. Very long names are cut, so that endings fit.
    """
    paths = [os.path.abspath(path) for path in paths]
    base = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [os.path.relpath(path, base) for path in paths]
    stems = [os.path.splitext(name)[0] for name in names]
    times = Counter(stems)
    chosen = [n if times[s] > 1 else s for n, s in zip(names, stems)]
    return [
        os.path.join(os.path.dirname(name), file_name(os.path.basename(name), most=MAX_NAME_BYTES))
        for name in chosen
    ]


class CopyWriter:
    """Writes <name>.copies.png and <name>.copies_overlay.png for each image.

    The first is `copy_mask`, the second `copy_overlay`.
    """

    def __init__(self, folder: Path, paths: list[str], failed: FailedWrites):
        self.folder = folder
        self._names, self._failed = output_names(paths), failed

    def write(self, number: int, image: np.ndarray, copies: "Copies") -> None:
        """Write the files of one image, or note that they cannot be written.

        Args:
            number: the number of the image among the paths.
            image: uint8 [H, W, 3].
            copies: the copied regions, of the same size.
        """
        path = self.folder / self._names[number]
        with self._failed.skipping(path):
            _write_png(path, copies=copy_mask(copies), copies_overlay=copy_overlay(image, copies))


def copy_mask(copies: "Copies") -> np.ndarray:
    """Return uint8 [H, W]: 255 in copies, 128 where they were copied from, and 0 elsewhere."""
    return np.where(copies.copied, 255, COPY_LAYER * copies.sources).astype(np.uint8)


def copy_overlay(image: np.ndarray, copies: "Copies") -> np.ndarray:
    """Return the image uint8 [H, W, 3] with copies in yellow and their sources in blue."""
    return overlay(overlay(image, copies.sources, _BLUE), copies.copied, _YELLOW)


def _write_png(path: Path, **pictures: np.ndarray) -> None:
    """Write each picture as a PNG file beside the others, named after its kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, pixels in pictures.items():
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        write_bytes(path.with_name(f"{path.name}.{kind}.png"), data.getvalue())


class MaskWriter:
    """Writes <name>.mask.png, .altered.png, .copies.png and .overlay.png for each image.

    Names are made by `output_names`. The mask is 255 where P(altered) is at least 0.5 or a region
    is a copy, and 0 elsewhere; altered is P(altered) from 0 to 255; copies is `copy_mask`. In the
    overlay red is what the detector marks, yellow are copies, and blue is what they were copied
    from.

    Args:
        folder: the folder to write into.
        paths: the paths of the images.
        failed: notes what cannot be written.
        find_copies: from the path and the pixels uint8 [H, W, 3] of an image to its copied
            regions, or None where nothing can be looked for; then there is no .copies.png.

    Attributes:
        copied_fractions: fraction of each image's pixels that are copies, float32 [n]; NaN where
            nothing was looked for.
    """

    def __init__(
        self,
        folder: Path,
        paths: list[str],
        failed: FailedWrites,
        find_copies: "Callable[[str, np.ndarray], Copies | None]",
    ):
        self.folder = folder
        self.copied_fractions = np.full(len(paths), np.nan, np.float32)
        self._paths, self._names, self._failed = paths, output_names(paths), failed
        self._find_copies = find_copies

    def write(self, mask: "MaskPrediction") -> None:
        """Write the files of one image, or note that they cannot be written."""
        path = self.folder / self._names[mask.index]
        copies = self._find_copies(self._paths[mask.index], mask.image)
        altered = mask.altered >= THRESHOLD
        drawn = overlay(mask.image, altered)
        pictures = {"altered": np.rint(mask.altered * 255).astype(np.uint8)}
        if copies is not None:
            self.copied_fractions[mask.index] = copies.copied.mean()
            pictures["copies"] = copy_mask(copies)
            altered = altered | copies.copied
            drawn = copy_overlay(drawn, copies)
        with self._failed.skipping(path):
            _write_png(path, mask=altered.astype(np.uint8) * 255, overlay=drawn, **pictures)
