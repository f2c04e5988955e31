"""Crops faces from a folder of images, whose folders (and so whose classes) stay as they are."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import replacing
from tfdetect.core.image_names import is_image
from tfdetect.core.walk import Walk
from tfdetect.data.faces import face_detector, find_face, square_around
from tfdetect.data.parallel import Work
from tfdetect.imaging.pillow import ImageError, read_rgb

_CHUNK = 16  # images a task


@dataclass(frozen=True)
class ImageFace:
    """The result for one image.

    Attributes:
        path: of the image, relative to its folder.
        found: whether a face was found and written.
        error: why the image cannot be read, or None.
    """

    path: str
    found: bool = False
    error: str | None = None


def find_images(root: Path) -> dict[str, str]:
    """Return the images below a folder, sorted: {path: path of its face}, both relative.

    The face is a PNG file of the same name; where several images differ in their suffixes only,
    the suffix stays in the name (`a.jpg.png`).

    Raises:
        UserError: there are none, or a folder cannot be read.
    """
    walk = Walk(root)
    paths = sorted(path for path in walk.paths() if is_image(str(root), path))
    walk.check_readable()
    if not paths:
        raise UserError(f"No images below {root}.")
    stems = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    counts = Counter(stems)
    faces: dict[str, str] = {}
    taken = set()
    for path, stem in zip(paths, stems, strict=True):
        face = f"{stem if counts[stem] == 1 else path}.png"
        while face in taken:
            face += ".png"
        taken.add(face)
        faces[path] = face
    return faces


def crop_images(
    root: Path,
    images: dict[str, str],
    output: Path,
    margin: float = 1.3,
    size: int | None = None,
    progress: bool = True,
) -> list[ImageFace]:
    """Crop the most confident face from every image, several at a time, as lossless PNG.

    An image whose face exists is skipped, so that an interrupted command continues where it
    stopped.

    Args:
        root: folder of the images.
        images: as from `find_images`.
        output: folder for the faces.
        margin: side of the square crop, as a multiple of the face's bounding box.
        size: side in pixels to which crops are resized; None keeps their size.
        progress: whether to show a progress bar.

    Returns:
        The result for each image that was not skipped.
    """
    todo = [item for item in images.items() if not (output / item[1]).exists()]
    tasks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    crop = partial(_crop, root, output, margin, size)
    results = []
    with (
        Work(crop, tasks, _failed) as work,
        console.progress(len(todo), "extracting faces", "images", shown=progress) as bar,
    ):
        for found in work:
            results += found
            bar.advance(len(found))
    return results


def _failed(item: tuple[str, str]) -> ImageFace:
    return ImageFace(item[0], error="it ended the process that read it")


def _crop(
    root: Path, output: Path, margin: float, size: int | None, items: list[tuple[str, str]]
) -> list[ImageFace]:
    import cv2

    cv2.setNumThreads(1)
    detector = face_detector()
    results = []
    for path, target in items:
        try:
            pixels = np.asarray(read_rgb(root / path))[..., ::-1]
        except ImageError as error:
            results.append(ImageFace(path, error=str(error)))
            continue
        box = find_face(detector, pixels)
        if box is not None:
            face = square_around(pixels, box, margin, size)
            (output / target).parent.mkdir(parents=True, exist_ok=True)
            with replacing(output / target) as temporary:
                temporary.write_bytes(cv2.imencode(".png", face)[1].tobytes())
        results.append(ImageFace(path, box is not None))
    return results
