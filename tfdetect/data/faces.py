"""Cuts faces and their masks out of FaceForensics++ videos, for the dataset spec `faces3`.

Expects the official layout (Roessler et al., ICCV 2019), at any compression:

    original_sequences/youtube/<compression>/videos/NNN.mp4
    manipulated_sequences/<method>/<compression>/videos/NNN_MMM.mp4
    manipulated_sequences/<method>/masks/videos/NNN_MMM.mp4

and writes real/youtube/NNN/, edited/<method>/NNN_MMM/ and masks/<method>/NNN_MMM/ with
one PNG a frame, named by the frame's number. Real and edited faces are found by the same
detector and cut alike, so that the cut gives no label away.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from tfdetect.core import console
from tfdetect.core.errors import UserError

METHODS = {"Face2Face": "F2F", "FaceSwap": "FS"}  # the names of note 003; others keep theirs
VIDEOS = (".mp4", ".avi", ".mov", ".mkv")


@dataclass(frozen=True)
class Video:
    """A video to cut faces out of.

    Attributes:
        path: the video's file.
        masks: the video of its masks; None for originals.
        target: folder for the faces, relative to the output.
    """

    path: Path
    masks: Path | None
    target: str


@dataclass(frozen=True)
class Cut:
    """What was made of one video: faces written, frames without a face, and an error."""

    video: Video
    faces: int = 0
    missed: int = 0
    error: str | None = None


def find_videos(root: Path) -> list[Video]:
    """Lists the videos below `root` in the official layout, originals first.

    Raises:
        UserError: there are none.
    """
    found = []
    for path in sorted(root.rglob("videos/*")):
        if path.suffix.lower() not in VIDEOS:
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
    if not found:
        raise UserError(
            f"No videos below {root}: expected original_sequences/youtube/<compression>/videos/ "
            "and manipulated_sequences/<method>/<compression>/videos/, as FaceForensics++ has them."
        )
    return sorted(found, key=lambda v: (v.masks is not None, v.target))


def extract_faces(
    videos: list[Video],
    output: Path,
    every: int = 10,
    margin: float = 1.3,
    size: int | None = None,
    progress: bool = True,
) -> list[Cut]:
    """Cuts the surest face out of every n-th frame, several videos at a time.

    A video whose folder is there already is passed over, so that an interrupted
    extraction goes on where it stopped.

    Args:
        margin: side of the square cut, as a multiple of the face's box.
        size: side in pixels to resize to; None leaves pixels as they are.

    Returns:
        What became of each video that was worked on.
    """
    todo = [(v, output, every, margin, size) for v in videos if not (output / v.target).exists()]
    results = []
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
        console.progress(len(todo), "extracting faces", "videos", shown=progress) as bar,
    ):
        for cut in pool.map(_cut_video, todo):
            results.append(cut)
            bar.advance()
    return results


def _cut_video(task: tuple[Video, Path, int, float, int | None]) -> Cut:
    video, output, every, margin, size = task
    import cv2

    cv2.setNumThreads(1)
    if video.masks is not None and not video.masks.is_file():
        return Cut(video, error=f"its mask video {video.masks} is missing")
    faces, masks = output / video.target, None
    if video.masks is not None:
        masks = output / video.target.replace("edited", "masks", 1)
    partial = faces.with_name(f".{faces.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if masks:
        masks.mkdir(parents=True, exist_ok=True)  # the faces' folder says when all is whole
    detector = cv2.CascadeClassifier(
        os.path.join(cv2.data.haarcascades, "haarcascade_frontalface_default.xml")
    )
    written = missed = 0
    box = None
    frames = _frames(video.path, every)
    pairs = zip(frames, _frames(video.masks, every)) if masks else ((f, None) for f in frames)
    for (number, frame), other in pairs:
        # A face that the detector loses for a moment is where it was.
        box = _surest_face(detector, frame) or box
        if box is None:
            missed += 1
            continue
        cv2.imwrite(str(partial / f"{number:04d}.png"), _square(frame, box, margin, size))
        if masks:
            mask = np.where(other[1].max(axis=2) >= 128, 255, 0).astype(np.uint8)
            mask = _square(mask, box, margin, size, nearest=True)
            cv2.imwrite(str(masks / f"{number:04d}.png"), mask)
        written += 1
    if not written:
        shutil.rmtree(partial)
        return Cut(video, 0, missed, "no face found" if missed else "no frame can be read")
    partial.rename(faces)
    return Cut(video, written, missed)


def _frames(path: Path, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """Number and BGR pixels of every n-th frame, until one cannot be read."""
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


def _surest_face(detector, frame: np.ndarray) -> tuple[int, int, int, int] | None:
    import cv2

    gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    least = max(24, min(gray.shape) // 12)
    boxes, _, weights = detector.detectMultiScale3(
        gray, 1.1, 5, minSize=(least, least), outputRejectLevels=True
    )
    return tuple(map(int, boxes[int(np.argmax(weights))])) if len(boxes) else None


def _square(
    image: np.ndarray, box: tuple, margin: float, size: int | None, nearest: bool = False
) -> np.ndarray:
    """The square around a box, moved into the image where it would stick out."""
    import cv2

    x, y, width, height = box
    bottom, right = image.shape[:2]
    side = min(round(max(width, height) * margin), bottom, right)
    top = min(max(y + height // 2 - side // 2, 0), bottom - side)
    left = min(max(x + width // 2 - side // 2, 0), right - side)
    part = image[top : top + side, left : left + side]
    if size is None:
        return part
    shrink = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_NEAREST if nearest else shrink)
