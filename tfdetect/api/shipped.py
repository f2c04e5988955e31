"""The detectors that come with tfdetect, and which of them suits given images."""

import glob
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tfdetect.core import addresses, storage
from tfdetect.core.errors import UserError
from tfdetect.core.image_names import IMAGE_SUFFIXES
from tfdetect.core.model_hubs import HubAddress
from tfdetect.core.packages import PROGRAM
from tfdetect.core.shipped_runs import (
    LOCALIZER,
    PHOTO_DETECTOR,
    SHIPPED,
    SMALL_IMAGES,
    SMALL_SIDE,
    holds_run,
    run_containing,
    run_folder,
    shipped_folder,
    suited,
)
from tfdetect.core.text import counted, images_are, shell_command, user_path

_LOOKED_AT = 32  # images whose sizes are read


def split_run(paths: Sequence[str]) -> tuple[str | None, list[str]]:
    """Divide the paths of a command line into a run and images.

    Args:
        paths: the paths as the user gave them. The first is a run if it is a folder with files of
            a run, or if nothing of that name exists, more paths follow, and it is not named like
            an image.
            A shipped run may be called by its name, wherever it is installed.

    Returns:
        The run, none if there are only images, and the images.

    Raises:
        UserError: a run without images, or after them, or a file of a run instead of its folder.
    """
    first, *rest = paths
    named, path = first, user_path(first)
    if (shipped_run := run_folder(path)) != path and (rest or not path.exists()):
        path, first = shipped_run, str(shipped_run)
    is_address = addresses.address_of(path) is not None
    if is_address:
        may_be_run = not glob.has_magic(first) and path.suffix.lower() not in IMAGE_SUFFIXES
        is_run = may_be_run and storage.exists(path / "run.json")
    else:
        is_run = holds_run(path)
    is_run |= HubAddress.parse(first) is not None
    is_run |= path.is_dir() and path.name.endswith(".partial")
    is_input = (
        is_address
        or path.exists()
        or glob.has_magic(first)
        or path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not is_run and (is_input or not rest):
        for later in rest:
            if later in SHIPPED or (user_path(later) / "run.json").is_file():
                raise UserError(
                    f"{later} is a run, and a run comes before the images: "
                    f"{shell_command('predict', later, first)}"
                )
        _check_no_parts(paths)
        return None, list(paths)
    if not rest:
        raise UserError(f"{named} is a run. Add the images: {PROGRAM} predict {named} photo.jpg")
    return first, rest


def _check_no_parts(paths: Sequence[str]) -> None:
    """Refuse files of a run, such as model.keras, where images are expected.

    Raises:
        UserError: there is one; the message names the folder of its run.
    """
    for number, text in enumerate(paths):
        path = user_path(text)
        run = run_containing(path) if addresses.address_of(path) is None else None
        if run is not None:
            images = [*paths[:number], *paths[number + 1 :]] or ["photo.jpg"]
            raise UserError(
                f"{text} is no image but a part of the run {run}. Name the run by its folder: "
                f"{shell_command('predict', run, *images)}"
            )


@dataclass(frozen=True)
class Choice:
    """A detector that comes with tfdetect, and the images that it suits.

    Attributes:
        run: its folder.
        reason: why it suits them.
        images: paths, folders and patterns; where there are several detectors, only the images.
    """

    run: Path
    reason: str
    images: list[str]


def shipped_detectors(
    images: Sequence[str], masks: bool = False, one_for_all: bool = False
) -> list[Choice]:
    """Return the detectors for given images: one for photographs, one for small images, or both.

    Args:
        images: files, folders or patterns. For images at addresses it is one detector.
        masks: whether altered regions are wanted; then it is the localizer.
        one_for_all: whether one detector classifies all images, whatever their sizes. The first
            of them decide which.

    Raises:
        UserError: an input does not exist, or this installation has no such run.
    """
    if masks:
        return [Choice(shipped_folder(LOCALIZER), "it marks altered regions", list(images))]
    from tfdetect.data.image_files import find_images

    found = find_images(images)
    one_for_all |= bool(found.entries)
    sizes = _sizes(found.paths[:_LOOKED_AT] if one_for_all else found.paths)
    known = {path: size for path, size in sizes.items() if size is not None}
    small = [path for path, size in known.items() if suited(size) == SMALL_IMAGES]
    readable = len(known)
    if small and len(small) == readable:
        reason = f"for images of less than {SMALL_SIDE} pixels"
        return [Choice(shipped_folder(SMALL_IMAGES), reason, list(images))]
    photo_detector = shipped_folder(PHOTO_DETECTOR)
    if not small:
        return [Choice(photo_detector, "for photographs", list(images))]
    if one_for_all:
        reason = (
            f"for photographs; {images_are(len(small), readable)} smaller than {SMALL_SIDE} "
            f"pixels, and for such images alone there is {SMALL_IMAGES}"
        )
        return [Choice(photo_detector, reason, list(images))]
    chosen = set(small)
    others = [path for path in sizes if path not in chosen]
    reason = f"for {counted(len(small), 'image')} of less than {SMALL_SIDE} pixels"
    return [
        Choice(photo_detector, f"for {counted(len(others), 'image')}", others),
        Choice(shipped_folder(SMALL_IMAGES), reason, small),
    ]


def _sizes(paths: Sequence[str]) -> dict[str, tuple[int, int] | None]:
    """Return width and height of each image in pixels; None if it cannot be read."""
    from tfdetect.imaging.formats import ImageError
    from tfdetect.imaging.headers import size_of

    sizes = list[tuple[int, int] | None]()
    with tempfile.TemporaryDirectory() as folder:
        for files, _ in storage.in_turns(paths, Path(folder, "fetched")):
            for file in files:
                size = None
                with suppress(ImageError, OSError):  # the prediction says what is wrong with it
                    size = size_of(file)
                sizes.append(size)
    return dict(zip(paths, sizes))


def served_runs(named: Sequence[Path]) -> list[Path]:
    """Return the runs that the server offers: if none are named, all that come with tfdetect.

    Raises:
        UserError: this installation has no such run.
    """
    return list(named) or [shipped_folder(name) for name in SHIPPED]
