"""Networks outside of Keras that find regions in photographs: YOLO in ONNX, people in LiteRT.

One network is kept for each file, and what it found in the last photographs.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tfdetect.core.errors import ModelNotAvailable
from tfdetect.core.quiet import import_onnxruntime
from tfdetect.data.litert import load_litert, mediapipe_file

CONFIDENCE = 0.25  # of a detection, as Ultralytics' predict has it
MAX_OVERLAP = 0.45  # IoU of two detections of one class
_SIDE = 640  # of the input of a network that takes any size
_PADDING = 114  # gray around a photograph that is not square
_MOST_FINAL = 300  # rows of an export that has suppressed overlapping boxes itself

YOLO_MODEL = "a network as ONNX, for example of: yolo export model=yolo11n-seg.pt format=onnx"
PERSON_MODEL = mediapipe_file("selfie_segmentation.tflite")


def yolo_regions(file: str, pixels: np.ndarray) -> np.ndarray:
    """Return the objects that an exported YOLO network finds.

    Args:
        file: ONNX file of a network that detects objects or segments them: of YOLOv8 and later
            [1, 4 + C, N], of YOLOv5 [1, N, 5 + C], or with suppressed boxes [1, N, 6], followed
            in each case by the factors of prototype masks [1, M, h, w], where there are any.
        pixels: uint8 [H, W, 3].

    Returns:
        bool [n, H, W], from the most to the least confident: masks, or boxes of a network without.

    Raises:
        ModelNotAvailable: the file is missing, or its outputs are none of these.
    """
    return _yolo_regions(file, pixels.tobytes(), pixels.shape)


def person_region(file: str, pixels: np.ndarray) -> np.ndarray:
    """Return where people are, by a segmenter in LiteRT's format.

    Args:
        file: a .tflite file: image [1, h, w, 3] in 0..1 -> P(person) [1, h, w, 1], as MediaPipe's
            selfie segmenters are.
        pixels: uint8 [H, W, 3].

    Returns:
        bool [H, W].

    Raises:
        ModelNotAvailable: the file or LiteRT is missing, or it is another network.
    """
    return _person_region(file, pixels.tobytes(), pixels.shape)


@lru_cache(8)
def _person_region(file: str, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    network = load_litert(file)
    image = np.frombuffer(data, np.uint8).reshape(shape)
    found = network(cv2.resize(image, network.size[::-1], interpolation=cv2.INTER_AREA))
    if len(found) != 1 or found[0].shape != (*network.size, 1):
        raise ModelNotAvailable(f"{file} is no segmenter of people. Give {PERSON_MODEL}.")
    [person] = found
    return cv2.resize(person, shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5


@lru_cache(8)
def _yolo_regions(file: str, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    session = _onnx(file)
    [given, *others] = session.get_inputs()
    if others or len(given.shape) != 4:
        raise ModelNotAvailable(f"{file} is no YOLO network: its input must be [1, 3, h, w]")
    height, width = (n if isinstance(n, int) else _SIDE for n in given.shape[2:])
    image = np.frombuffer(data, np.uint8).reshape(shape)
    scale = min(height / shape[0], width / shape[1])
    h, w = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    top, left = (height - h) // 2, (width - w) // 2
    padded = np.full((height, width, 3), _PADDING, np.uint8)
    padded[top : top + h, left : left + w] = cv2.resize(image, (w, h))
    kind = np.float16 if given.type == "tensor(float16)" else np.float32
    outputs = session.run(None, {given.name: (padded.transpose(2, 0, 1)[None] / 255).astype(kind)})
    tables = [x[0].astype(np.float32) for x in outputs if x.ndim == 3]
    prototypes = next((x[0].astype(np.float32) for x in outputs if x.ndim == 4), None)
    factors = 0 if prototypes is None else len(prototypes)
    if not tables or min(tables[0].shape) < 5 + factors:
        shapes = ", ".join(str(list(x.shape)) for x in outputs)
        raise ModelNotAvailable(
            f"{file} is no YOLO network that is known here: it returns {shapes}"
        )
    corners, scores, kinds, weights = _read_table(tables[0], factors)
    kept = _without_overlaps(corners, scores, kinds)
    regions = np.zeros((len(kept), *shape[:2]), bool)
    for region, number in zip(regions, kept):
        x0, y0, x1, y1 = np.round((corners[number] - [left, top, left, top]) / scale).astype(int)
        box = slice(max(y0, 0), max(y1, 0)), slice(max(x0, 0), max(x1, 0))
        if prototypes is None:
            region[box] = True
            continue
        logits = np.tensordot(weights[number], prototypes, 1)
        logits = cv2.resize(logits, (width, height))[top : top + h, left : left + w]
        region[box] = cv2.resize(logits, shape[1::-1])[box] > 0
    return regions


def _read_table(table: np.ndarray, factors: int) -> tuple[np.ndarray, ...]:
    """Return corners [n, 4] in pixels, scores [n], classes [n], mask factors [n, M] of candidates.

    Args:
        table: a network's output of one image.
        factors: number M of prototype masks.
    """
    objectness = table.shape[0] > table.shape[1]  # YOLOv5 has a row for each candidate
    table = table if objectness else table.T
    end = table.shape[1] - factors
    boxes, rest, weights = table[:, :4], table[:, 4:end], table[:, end:]
    if objectness and len(table) <= _MOST_FINAL and end == 6:
        corners, scores, kinds = boxes, rest[:, 0], rest[:, 1].astype(int)
    else:
        each = rest[:, 1:] * rest[:, :1] if objectness else rest
        scores, kinds = each.max(1), each.argmax(1)
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        corners = np.concatenate([center - half, center + half], 1)
    chosen = scores >= CONFIDENCE
    return corners[chosen], scores[chosen], kinds[chosen], weights[chosen]


def _without_overlaps(corners: np.ndarray, scores: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the candidates that remain after non-maximum suppression, most confident first."""
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    found = cv2.dnn.NMSBoxesBatched(
        boxes.tolist(), scores.tolist(), kinds.tolist(), CONFIDENCE, MAX_OVERLAP
    )
    kept = np.array(found, int).ravel()
    return kept[np.argsort(-scores[kept], kind="stable")]


@lru_cache(2)
def _onnx(file: str) -> Any:
    ort = import_onnxruntime()
    if not Path(file).is_file():
        raise ModelNotAvailable(f"There is no file {file}. Give {YOLO_MODEL}.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # photographs are worked on in parallel
    try:
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common class for what a file may lack
        raise ModelNotAvailable(f"{file} is no ONNX file that can be run: {error}") from error
