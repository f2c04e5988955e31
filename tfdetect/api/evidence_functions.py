"""What is known of images besides a detector's score: declarations, traces of editing, verdicts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.api.checked import checked
from tfdetect.api.detect import Detector
from tfdetect.core import addresses, console, storage
from tfdetect.core.errors import UserError
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.run import Run
from tfdetect.core.text import printable, to_os, user_path

if TYPE_CHECKING:
    from tfdetect.core.files import FailedWrites
    from tfdetect.forensics.evidence import Evidence

Row = Mapping[str, Any]


@checked
def evidence(
    images: str | Path | Sequence[str | Path],
    detectors: Sequence[Detector] = (),
    *,
    copies: str | Path | None = None,
    progress: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Evidence]:
    """Return what is known of image files, with a headline for each.

    Read are content credentials, notes of generators, editing software and camera data in the
    file's metadata, and traces in its pixels: JPEG history and copied regions. None of it needs a
    detector or TensorFlow.

    Args:
        images: files, folders (all images below) or patterns.
        detectors: whose verdicts are evidence, too; the first one counts for the headline.
        copies: folder for a mask and an overlay of copied regions of each image.
        progress: whether to show progress on stderr.
        max_pixels: a file whose image has more pixels is not decoded.

    Returns:
        The evidence by path. Files that cannot be read are left out.

    Raises:
        UserError: a path does not exist, no image can be read, a file cannot be written, or
            `copies` is given and OpenCV is not installed.
    """
    from tfdetect.core.files import FailedWrites
    from tfdetect.data.image_files import find_images
    from tfdetect.forensics.copies import check_can_search

    if copies is not None:
        check_can_search("copies")
    given = [str(each) for each in ([images] if isinstance(images, str | Path) else images)]
    paths = find_images(given).paths
    verdicts = [
        (each.run, [dict(row) for row in each.predict(given, progress=progress,
                                                      max_pixels=max_pixels)])
        for each in detectors
    ]  # fmt: skip
    failed = FailedWrites()
    folder = user_path(copies) if copies is not None else None
    found = dict(examine_files(paths, verdicts, folder, failed, progress, max_pixels))
    if failed.reasons:
        path, reason = next(iter(failed.reasons.items()))
        raise UserError(f"{printable(path)} cannot be written: {reason}.")
    return found


def examine_files(
    paths: Sequence[str],
    verdicts: Sequence[tuple[Run, Sequence[Row]]],
    copies: Path | None,
    failed: FailedWrites,
    progress: bool,
    max_pixels: int,
) -> Iterator[tuple[str, Evidence]]:
    """Yield each path with its evidence; files that cannot be read are left out.

    Args:
        paths: files.
        verdicts: runs with their predictions of these files.
        copies: folder for masks of copied regions.
        failed: notes the masks that cannot be written.
        progress: whether to show progress on stderr.
        max_pixels: a file whose image has more pixels is not decoded.
    """
    import numpy as np

    from tfdetect.forensics.evidence import evidence as evidence_of
    from tfdetect.forensics.region_pictures import CopyWriter
    from tfdetect.imaging.formats import ImageError, read_bytes
    from tfdetect.imaging.pillow import read_rgb

    by_path = [(run, {row["path"]: row for row in rows}) for run, rows in verdicts]
    writer = CopyWriter(copies, list(paths), failed) if copies is not None else None
    paths = [addresses.shown(path) for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        files = zip(paths, _local_files(paths, Path(folder)))
        tracked = console.track(files, "gathering evidence", len(paths), "images", shown=progress)
        for number, (path, file) in enumerate(tracked):
            known = [(run, rows[path]) for run, rows in by_path if path in rows]
            try:
                data = read_bytes(file, max_pixels)
                pixels = np.asarray(read_rgb(data, max_pixels))
                found = evidence_of(data, known, pixels, max_pixels)
            except ImageError as error:
                console.warn(f"{printable(path)}: {error}")
            else:
                if writer is not None and found.copies is not None:
                    writer.write(number, pixels, found.copies)
                yield path, found
    if copies is not None:
        storage.publish(copies)


def _local_files(paths: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield local files; of addresses they are fetched into a folder, some at a time."""
    found = [os.fspath(addresses.local_path(path) or to_os(path)) for path in paths]
    for files, _ in storage.in_turns(found, folder / "fetched"):
        yield from files
