"""Crops faces and their masks from FaceForensics++ videos, for the dataset spec `faces3`.

The videos have the official layout (Roessler et al., ICCV 2019), at any compression:

    original_sequences/youtube/<compression>/videos/NNN.mp4
    manipulated_sequences/<method>/<compression>/videos/NNN_MMM.mp4
    manipulated_sequences/<method>/masks/videos/NNN_MMM.mp4

The results are real/youtube/NNN/, edited/<method>/NNN_MMM/ and masks/<method>/NNN_MMM/ with one
PNG for each frame, named by its number. Real and edited faces are found by the same detector and
cropped in the same way, so that the crop does not reveal the label.
"""

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.walk import Walk
from tfdetect.data.face_detectors import FaceCrop, FaceDetector, face_detector
from tfdetect.data.parallel import Work
from tfdetect.imaging.mask_coding import STANDARD, altered_pixels

METHODS = {"Face2Face": "F2F", "FaceSwap": "FS"}  # short names, as data_specs/faces3.yaml has them
VIDEOS = (".mp4", ".avi", ".mov", ".mkv")


@dataclass(frozen=True)
class Video:
    """A video to crop faces from.

    Attributes:
        path: the file.
        masks: the video of its masks; None for originals.
        target: folder for the faces, relative to the output.
    """

    path: Path
    masks: Path | None
    target: str


@dataclass(frozen=True)
class Cut:
    """The result for one video.

    Attributes:
        video: the video.
        faces: number of faces that were written.
        missed: number of frames without a face.
        error: why there are no faces, or None.
    """

    video: Video
    faces: int = 0
    missed: int = 0
    error: str | None = None


def find_videos(root: Path) -> list[Video]:
    """Return the videos below a folder in the official layout, originals first.

    Raises:
        UserError: There are none.
    """
    found = []
    walk = Walk(root)
    for path in sorted(Path(root, path) for path in walk.paths()):
        if path.parent.name != "videos" or path.suffix.lower() not in VIDEOS:
            continue
        parts = path.relative_to(root).parts
        if len(parts) < 5 or parts[-3] == "masks":
            continue
        kind, method = parts[-5], parts[-4]
        if kind == "original_sequences":
            found.append(Video(path, None, f"real/{method}/{path.stem}"))
        elif kind == "manipulated_sequences":
            masks = path.parents[2] / "masks" / "videos" / path.name
            method = METHODS.get(method, method)
            found.append(Video(path, masks, f"edited/{method}/{path.stem}"))
    walk.check_readable()
    if not found:
        raise UserError(
            f"No videos below {root}: expected original_sequences/youtube/<compression>/videos/ "
            "and manipulated_sequences/<method>/<compression>/videos/, as FaceForensics++ has "
            "them. For images instead of videos add --images."
        )
    return sorted(found, key=lambda v: (v.masks is not None, v.target))


def extract_faces(
    videos: list[Video],
    output: Path,
    crop: FaceCrop,
    every: int = 10,
    progress: bool = True,
) -> list[Cut]:
    """Crop the most confident face from every n-th frame, several videos at a time.

    A video whose folder exists is skipped, so that an interrupted extraction continues where it
    stopped.

    Args:
        videos: the videos, as from `find_videos`.
        output: folder for the results.
        crop: how faces are found and cropped.
        every: distance between the frames that are used.
        progress: whether to show a progress bar.

    Returns:
        The result for each video that was not skipped.

    Raises:
        ModelNotAvailable: the detector cannot be loaded.
    """
    face_detector(crop.detector)  # refused before anything is read
    todo = [v for v in videos if not (output / v.target).exists()]
    cut = partial(_cut_videos, output, crop, every)
    results = []
    with Work(cut, [[video] for video in todo], _failed) as work:
        for cuts in console.track(work, "extracting faces", len(todo), "videos", shown=progress):
            results += cuts
    return results


def _failed(video: Video) -> Cut:
    return Cut(video, error="it ended the process that read it")


def _cut_videos(output: Path, crop: FaceCrop, every: int, videos: list[Video]) -> list[Cut]:
    find_face = face_detector(crop.detector)
    return [_cut_video(video, output, crop, every, find_face) for video in videos]


def _cut_video(
    video: Video, output: Path, crop: FaceCrop, every: int, find_face: FaceDetector
) -> Cut:
    import cv2

    cv2.setNumThreads(1)
    if video.masks is not None and not video.masks.is_file():
        return Cut(video, error=f"its mask video {video.masks} is missing")
    faces, masks = output / video.target, None
    if video.masks is not None:
        masks = output / video.target.replace("edited", "masks", 1)
    new_faces = faces.with_name(f".{faces.name}.partial")
    new_masks = masks and masks.with_name(f".{masks.name}.partial")
    for folder in filter(None, (new_faces, new_masks)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    written = missed = 0
    box = None
    frames = _frames(video.path, every)
    mask_frames = _frames(video.masks, every) if video.masks else itertools.repeat(None)
    for (number, frame), mask_frame in zip(frames, mask_frames):
        # Where the detector misses the face, the last box is used.
        box = find_face(frame) or box
        if box is None:
            missed += 1
            continue
        _write(new_faces / f"{number:04d}.png", crop.around(frame, box))
        if new_masks and mask_frame:
            mask = altered_pixels(mask_frame[1].max(axis=2), STANDARD) * 255
            mask = crop.around(mask, box, nearest=True)
            _write(new_masks / f"{number:04d}.png", mask)
        written += 1
    if not written:
        for folder in filter(None, (new_faces, new_masks)):
            shutil.rmtree(folder)
        return Cut(video, 0, missed, "no face found" if missed else "no frame can be read")
    if masks and new_masks:  # first: the faces' folder says that all is complete
        shutil.rmtree(masks, ignore_errors=True)
        new_masks.rename(masks)
    new_faces.rename(faces)
    return Cut(video, written, missed)


def _write(path: Path, pixels: np.ndarray) -> None:
    import cv2

    encoded = cv2.imencode(".png", pixels)[1]  # cv2.imwrite says nothing of a full disk
    path.write_bytes(encoded.tobytes())


def _frames(path: Path, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield number and BGR pixels of every n-th frame, until one cannot be read."""
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while video.grab():
            if number % every == 0:
                good, frame = video.retrieve()
                if not good:
                    return
                yield number, frame
            number += 1
    finally:
        video.release()
