"""Crops faces from a folder of images, whose folders (and so whose classes) stay as they are."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from tfdetect.core import console
from tfdetect.core.disk import replacing
from tfdetect.core.errors import ModelNotAvailable, UserError
from tfdetect.core.image_names import is_image
from tfdetect.core.walk import Walk
from tfdetect.data.face_detectors import FaceCrop, face_detector
from tfdetect.data.litert import load_litert, mediapipe_file
from tfdetect.data.parallel import Work
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.pillow import read_rgb

_CHUNK = 16  # images a task
LANDMARK_MODEL = mediapipe_file("face_landmark.tflite")
_POINTS = 468  # of MediaPipe's face mesh
_GROUPS = (  # their numbers: the outline; eyes and eyebrows; lips and the bridge of the nose
    (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
     148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398, 33, 7, 163,
     144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173, 276, 283, 282, 295, 285, 300,
     293, 334, 296, 336, 46, 53, 52, 65, 55, 70, 63, 105, 66, 107),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185, 78,
     95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 168, 6, 197, 195, 5, 4, 1),
)  # fmt: skip


@dataclass(frozen=True)
class ImageFace:
    """The result for one image.

    Attributes:
        path: the path of the image, relative to its folder.
        found: whether a face was found and written.
        error: why the image cannot be read, or None.
    """

    path: str
    found: bool = False
    error: str | None = None


def face_paths(root: Path) -> dict[str, str]:
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
    crop: FaceCrop,
    landmarks: str | None,
    progress: bool,
) -> list[ImageFace]:
    """Crop the most confident face from every image, several at a time, as lossless PNG.

    An image whose face exists is skipped, so that an interrupted command continues where it
    stopped.

    Args:
        root: folder of the images.
        images: as from `face_paths`.
        output: folder for the faces.
        crop: how faces are found and cropped.
        landmarks: .tflite file of MediaPipe's face mesh. The heat maps of `landmark_maps` are
            written below each face, in the same image; faces without landmarks are no faces.
        progress: whether to show a progress bar.

    Returns:
        The result for each image that was not skipped.

    Raises:
        ModelNotAvailable: a network cannot be loaded.
    """
    todo = [item for item in images.items() if not (output / item[1]).exists()]
    tasks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    if landmarks is not None:
        load_litert(landmarks)  # refused before anything is read
    face_detector(crop.detector)
    crop_each = partial(_crop, root, output, crop, landmarks)
    results = []
    with (
        Work(crop_each, tasks, _failed) as work,
        console.progress(len(todo), "extracting faces", "images", shown=progress) as bar,
    ):
        for found in work:
            results += found
            bar.advance(len(found))
    return results


def _failed(item: tuple[str, str]) -> ImageFace:
    return ImageFace(item[0], error="it ended the process that read it")


def _crop(
    root: Path, output: Path, crop: FaceCrop, landmarks: str | None, items: list[tuple[str, str]]
) -> list[ImageFace]:
    import cv2

    cv2.setNumThreads(1)
    find_face = face_detector(crop.detector)
    results = []
    for path, target in items:
        try:
            pixels = np.asarray(read_rgb(root / path))[..., ::-1]
        except ImageError as error:
            results.append(ImageFace(path, error=str(error)))
            continue
        box = find_face(pixels)
        face = None if box is None else crop.around(pixels, box)
        if face is not None and landmarks is not None:
            maps = landmark_maps(landmarks, face[..., ::-1])
            face = None if maps is None else np.concatenate([face, maps[..., ::-1]])
        if face is not None:
            (output / target).parent.mkdir(parents=True, exist_ok=True)
            with replacing(output / target) as temporary:
                temporary.write_bytes(cv2.imencode(".png", face)[1].tobytes())
        results.append(ImageFace(path, face is not None))
    return results


def landmark_maps(file: str, face: np.ndarray) -> np.ndarray | None:
    """Return heat maps of the landmarks of a face.

    Args:
        file: .tflite file of MediaPipe's face mesh: image [1, h, w, 3] in 0..1 -> coordinates of
            468 points in pixels of it, and the logit of a face being there.
        face: uint8 [H, W, 3], RGB, a crop around the face.

    Returns:
        uint8 [H, W, 3]: Gaussians around the points of the outline (red), of eyes and eyebrows
        (green), and of mouth and nose (blue); None where no face is there.

    Raises:
        ModelNotAvailable: the file or LiteRT is missing, or it is another network.
    """
    import cv2

    network = load_litert(file)
    found = network(cv2.resize(face, network.size[::-1], interpolation=cv2.INTER_AREA))
    sizes = {each.size: each.ravel() for each in found}
    if sizes.keys() != {1, 3 * _POINTS}:
        raise ModelNotAvailable(f"{file} finds no face mesh. Give {LANDMARK_MODEL}.")
    if sizes[1][0] < 0:
        return None
    scale = np.array(face.shape[1::-1]) / network.size[::-1]
    points = np.round(sizes[3 * _POINTS].reshape(_POINTS, 3)[:, :2] * scale).astype(int)
    points = np.clip(points, 0, np.array(face.shape[1::-1]) - 1)
    sigma = max(1.0, face.shape[0] / 64)
    maps = np.zeros(face.shape, np.uint8)
    for channel, group in enumerate(_GROUPS):
        elsewhere = np.ones(face.shape[:2], np.uint8)
        across, down = points[list(group)].T
        elsewhere[down, across] = 0
        distance = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        maps[..., channel] = np.round(255 * np.exp(-((distance / sigma) ** 2) / 2))
    return maps
