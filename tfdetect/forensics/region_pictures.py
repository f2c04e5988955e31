"""Pictures of the regions that evidence and masks are about, on pages and as PNG files."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tfdetect.core.files import FailedWrites, write_bytes
from tfdetect.evaluation.mask_metrics import THRESHOLD
from tfdetect.evaluation.overlays import output_names, overlay

if TYPE_CHECKING:  # these need OpenCV
    from tfdetect.evaluation.prediction_columns import MaskPrediction
    from tfdetect.forensics.copy_search import Copies
    from tfdetect.forensics.evidence import Evidence

_BLUE = np.array([30, 90, 230], np.float32)
_YELLOW = np.array([250, 200, 0], np.float32)
COPY_LAYER = 128  # of a region that was copied, in a mask of copies; the copies are 255


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
