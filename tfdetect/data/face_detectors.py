"""Find the most confident face in an image with OpenCV or with a network of MediaPipe."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfdetect.core.errors import ModelNotAvailable
from tfdetect.data.litert import load_litert, mediapipe_file

Box = tuple[int, int, int, int]  # left, top, width, height
# From an image uint8 [H, W, 3], BGR, to the box of its most confident face, or None.
FaceDetector = Callable[[np.ndarray], Box | None]

DETECTOR_MODEL = mediapipe_file("face_detection_short_range.tflite")
# By side of the input and number of candidates: strides of the grids of candidates, and how many
# there are at each point (Bazarevsky et al., BlazeFace, arXiv 1907.05047).
_GRIDS = {(128, 896): ((8, 2), (16, 6)), (192, 2304): ((4, 1),)}
_SAME_FACE = 0.3  # IoU from which two candidates are of one face


@dataclass(frozen=True)
class FaceCrop:
    """Settings by which faces are found and cropped.

    Attributes:
        margin: side of the square crop, as a multiple of the face's bounding box.
        size: side in pixels to which crops are resized; None keeps their size.
        detector: file of the network that finds faces; see `face_detector`.
    """

    margin: float
    size: int | None
    detector: str | None

    def around(self, image: np.ndarray, box: Box, nearest: bool = False) -> np.ndarray:
        """Return the square around a box, moved into the image if it would extend beyond it."""
        import cv2

        x, y, width, height = box
        bottom, right = image.shape[:2]
        side = min(round(max(width, height) * self.margin), bottom, right)
        top = min(max(y + height // 2 - side // 2, 0), bottom - side)
        left = min(max(x + width // 2 - side // 2, 0), right - side)
        part = image[top : top + side, left : left + side]
        if self.size is None:
            return part
        shrink = cv2.INTER_AREA if side > self.size else cv2.INTER_LINEAR
        method = cv2.INTER_NEAREST if nearest else shrink
        return cv2.resize(part, (self.size, self.size), interpolation=method)


def face_detector(file: str | None) -> FaceDetector:
    """Return a detector of faces.

    Args:
        file: .tflite file of MediaPipe's face detection, short or full range; None for OpenCV's
            detector of faces that look ahead (Viola & Jones).

    Raises:
        ModelNotAvailable: the file or LiteRT is missing, or it is another network.
    """
    return _OpenCV() if file is None else _MediaPipe(file)


class _OpenCV:
    def __init__(self) -> None:
        import cv2

        cascades = cv2.data.haarcascades  # type: ignore[attr-defined]
        self._cascade = cv2.CascadeClassifier(
            os.path.join(cascades, "haarcascade_frontalface_default.xml")
        )

    def __call__(self, image: np.ndarray) -> Box | None:
        import cv2

        gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        smallest = max(24, min(gray.shape) // 12)
        boxes, _, weights = self._cascade.detectMultiScale3(
            gray, 1.1, 5, minSize=(smallest, smallest), outputRejectLevels=True
        )
        if not len(boxes):
            return None
        x, y, width, height = map(int, boxes[int(np.argmax(weights))])
        return x, y, width, height


class _MediaPipe:
    """Boxes are the mean of all candidates of the face, weighted by their confidence."""

    def __init__(self, file: str):
        self._network = load_litert(file)
        height, self._side = self._network.size
        found = self._network(np.zeros((height, self._side, 3), np.uint8))
        counts = {each.shape[-1]: len(each) for each in found if each.ndim == 2}
        grids = _GRIDS.get((self._side, counts.get(1, 0)))
        if height != self._side or grids is None or counts.keys() != {1, 16}:
            raise ModelNotAvailable(f"{file} finds no faces. Give {DETECTOR_MODEL}.")
        self._points = np.concatenate([_grid(self._side, *grid) for grid in grids])

    def __call__(self, image: np.ndarray) -> Box | None:
        import cv2

        height, width = image.shape[:2]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.zeros((side, side, 3), np.uint8)
        square[top : top + height, left : left + width] = image[..., ::-1]
        shrink = cv2.INTER_AREA if side > self._side else cv2.INTER_LINEAR
        small = cv2.resize(square, (self._side, self._side), interpolation=shrink)
        found = {each.shape[-1]: each for each in self._network(small, low=-1)}
        confident = found[1].ravel() > 0  # logits
        if not confident.any():
            return None
        logits, values = found[1].ravel()[confident], found[16][confident]
        centers, sizes = self._points[confident] + values[:, :2], np.abs(values[:, 2:4])
        boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
        same = _overlap(boxes, boxes[logits.argmax()]) >= _SAME_FACE
        weights = 1 / (1 + np.exp(-logits[same]))
        box = np.average(boxes[same], axis=0, weights=weights) * side / self._side
        x, y, right, bottom = np.round(box - [left, top, left, top]).astype(int).tolist()
        return x, y, max(right - x, 1), max(bottom - y, 1)


def _grid(side: int, stride: int, candidates: int) -> np.ndarray:
    """Return x and y of the points of a grid, each as often as it has candidates, float [n, 2]."""
    steps = (np.arange(side // stride) + 0.5) * stride
    down, across = np.meshgrid(steps, steps, indexing="ij")
    return np.repeat(np.stack([across.ravel(), down.ravel()], axis=1), candidates, axis=0)


def _overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes [n, 4] (left, top, right, bottom) with one of them."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    own = np.prod(box[2:] - box[:2])
    return np.where(both > 0, both / np.maximum(areas + own - both, 1e-9), (boxes == box).all(1))
