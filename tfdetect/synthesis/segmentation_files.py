"""Segmentations of photographs that are given as files: PNG files, or COCO's panoptic format."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.core.parsing import read_object
from tfdetect.core.walk import Walk
from tfdetect.imaging.pillow import opened
from tfdetect.synthesis.photos import Photo

T = TypeVar("T")

_MAX_JSON_BYTES = 2**30  # COCO's largest panoptic file has 0.4 GB


class PanopticFile(NamedTuple):
    """The panoptic segmentation of one photograph.

    Attributes:
        file: PNG file with the number of each pixel's segment.
        segments: numbers of the segments; None if they are not listed, so that all numbers but 0
            are segments.
        things: numbers of the segments that are things, not background.
    """

    file: Path
    segments: set[int] | None
    things: set[int]


def has_segmentation(mask_maker: str, photo: str, options: Mapping[str, Any]) -> bool:
    """Return whether a mask maker can be used on a photograph.

    Args:
        mask_maker: name of a registered mask maker.
        photo: name of the photograph.
        options: arguments of the mask maker.

    Returns:
        False if it chooses regions of given segmentations, and there is none of the photograph.

    Raises:
        UserError: the segmentations cannot be read.
    """
    if mask_maker == "segments" and "segmentations" in options:
        return Path(photo).stem in segmentation_files(options["segmentations"])
    if mask_maker == "panoptic" and "panoptic" in options:
        return Path(photo).stem in panoptic_files(options["panoptic"])
    return True


@lru_cache(2)
def segmentation_files(folder: str) -> dict[str, Path]:
    """Return the PNG files of a folder and all folders below, by stem.

    Raises:
        UserError: there is none.
    """
    paths = (Path(folder, path) for path in Walk(folder).paths())
    found = {path.stem: path for path in paths if path.suffix.lower() == ".png"}
    if not found:
        raise UserError(f"There is no PNG in the folder of segmentations {folder}.")
    return found


@lru_cache(1)
def panoptic_files(source: str) -> dict[str, PanopticFile]:
    """Return panoptic segmentations by the stem of their photographs.

    Args:
        source: a JSON file in COCO's panoptic format, whose PNG files are in a folder of the same
            name beside it; or a folder of PNG files, named like the photographs.

    Raises:
        UserError: the JSON file cannot be read or has another format, or the folder has no PNG.
    """
    path = Path(source)
    if path.suffix.lower() != ".json":
        files = segmentation_files(source)
        return {stem: PanopticFile(file, None, set()) for stem, file in files.items()}
    document = read_object(path, _MAX_JSON_BYTES)
    try:
        photos = {image["id"]: image["file_name"] for image in document.get("images", ())}
        things = {kind["id"] for kind in document["categories"] if kind.get("isthing", 1)}
        found = {}
        for each in document["annotations"]:
            segments = [s for s in each["segments_info"] if not s.get("iscrowd")]
            stem = Path(photos.get(each["image_id"], each["file_name"])).stem
            found[stem] = PanopticFile(
                file=path.with_suffix("") / each["file_name"],
                segments={s["id"] for s in segments},
                things={s["id"] for s in segments if s["category_id"] in things},
            )
        return found
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not in COCO's panoptic format: annotations with image_id, file_name and "
            "segments_info (id, category_id), and categories (id, isthing)."
        ) from error


def segmentation_of(photo: Photo, segmentations: Mapping[str, T], source: str) -> T:
    """Return the segmentation of a photograph.

    Args:
        photo: the photograph.
        segmentations: segmentations by the stem of their photographs.
        source: where they are from, for the message.

    Raises:
        UserError: there is none of this photograph.
    """
    try:
        return segmentations[Path(photo.name).stem]
    except KeyError:
        raise UserError(f"{photo.name}: no segmentation of it in {source}") from None


def region_numbers(photo: Photo, file: Path) -> np.ndarray:
    """Return the number of each pixel's region in a PNG file, int64 [H, W].

    Gray values and palette entries are numbers themselves; colors are R + 256 G + 65536 B.

    Raises:
        UserError: the file has another size than the photograph.
    """
    with opened(file, photo.max_pixels) as image:
        colors = photo.fit(image).astype(np.int64)
    numbers = colors if colors.ndim == 2 else colors[..., :3] @ (1, 256, 65536)
    if numbers.shape != photo.size:
        raise UserError(f"{photo.name}: its segmentation {file} has another size")
    return numbers
