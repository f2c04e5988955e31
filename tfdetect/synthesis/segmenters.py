"""Networks that find regions in photographs: keras-hub, YOLO in ONNX, people in LiteRT.

One network is kept for each file, and what it found in the last photographs.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from tfdetect.core.errors import ModelNotAvailable
from tfdetect.core.quiet import import_onnxruntime
from tfdetect.data.litert import load_litert, mediapipe_file
from tfdetect.synthesis.presets import load_preset

MIN_CONFIDENCE = 0.25  # of a detection, as in Ultralytics' predict
MAX_OVERLAP = 0.45  # IoU of two detections of one class
_CACHED_PHOTOS = 8  # whose regions are kept
_DEFAULT_SIDE = 512  # pixels; input of a keras-hub segmenter that takes any size
_YOLO_SIDE = 640  # pixels; input of a YOLO network that takes any size
_PADDING = 114  # gray level around a photograph that is not square
_MAX_FINAL_ROWS = 300  # of the output of a network that has suppressed overlapping boxes itself

YOLO_MODEL = "a network as ONNX, for example of: yolo export model=yolo11n-seg.pt format=onnx"
PERSON_MODEL = mediapipe_file("selfie_segmentation.tflite")


def object_labels(preset: str, pixels: np.ndarray) -> np.ndarray:
    """Return the class of each pixel by an image segmenter of keras-hub.

    Args:
        preset: name, address or folder of the segmenter.
        pixels: uint8 [H, W, 3].

    Returns:
        uint8 [H, W]; 0 is the background.

    Raises:
        ModelNotAvailable: the segmenter cannot be loaded.
    """
    return _object_labels(preset, pixels.tobytes(), pixels.shape)


def yolo_regions(file: str, pixels: np.ndarray) -> np.ndarray:
    """Return the objects that an exported YOLO network finds.

    Args:
        file: ONNX file of a network that detects or segments objects. Its first output is
            [1, 4 + C, N] (YOLOv8 and later), [1, N, 5 + C] (YOLOv5) or [1, N, 6] (suppressed
            boxes), in each case followed by M factors of prototype masks if there are any; these
            are another output [1, M, h, w].
        pixels: uint8 [H, W, 3].

    Returns:
        bool [n, H, W], from the most to the least confident: masks, or boxes if the network has no
        masks.

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


@lru_cache(_CACHED_PHOTOS)
def _object_labels(preset: str, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    model = load_preset("ImageSegmenter", preset, "--segmenter")
    image = np.frombuffer(data, np.uint8).reshape(shape)
    side = model.backbone.image_shape[0] or _DEFAULT_SIDE
    small = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    scores = np.asarray(model.predict(small[None].astype(np.float32), verbose=0))[0]
    labels = Image.fromarray(np.argmax(scores, axis=-1).astype(np.uint8))
    return np.asarray(labels.resize((shape[1], shape[0]), Image.Resampling.NEAREST))


@lru_cache(_CACHED_PHOTOS)
def _person_region(file: str, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    network = load_litert(file)
    image = np.frombuffer(data, np.uint8).reshape(shape)
    found = network(cv2.resize(image, network.size[::-1], interpolation=cv2.INTER_AREA))
    if len(found) != 1 or found[0].shape != (*network.size, 1):
        raise ModelNotAvailable(f"{file} is no segmenter of people. Give {PERSON_MODEL}.")
    [person] = found
    return cv2.resize(person, shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5


@lru_cache(_CACHED_PHOTOS)
def _yolo_regions(file: str, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    session = _onnx_session(file)
    [given, *others] = session.get_inputs()
    if others or len(given.shape) != 4:
        raise ModelNotAvailable(f"{file} is no YOLO network: its input must be [1, 3, h, w]")
    size = [n if isinstance(n, int) else _YOLO_SIDE for n in given.shape[2:]]
    padded, frame = _letterbox(np.frombuffer(data, np.uint8).reshape(shape), size)
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
    found = _read_table(tables[0], factors)
    kept = _without_overlaps(found)
    regions = np.zeros((len(kept), *shape[:2]), bool)
    for region, number in zip(regions, kept):
        box = frame.box(found.corners[number])
        if prototypes is None:
            region[box] = True
            continue
        logits = np.tensordot(found.factors[number], prototypes, 1)
        logits = frame.inside(cv2.resize(logits, (padded.shape[1], padded.shape[0])))
        region[box] = cv2.resize(logits, shape[1::-1])[box] > 0
    return regions


class _Frame(NamedTuple):
    """Where a photograph is in the padded input of a network.

    Attributes:
        scale: factor by which the photograph was scaled.
        top, left: position of its first pixel.
        height, width: its size there.
    """

    scale: float
    top: int
    left: int
    height: int
    width: int

    def box(self, corners: np.ndarray) -> tuple[slice, slice]:
        """Return rows and columns of the photograph inside of corners (x, y, x, y) of the input."""
        shift = [self.left, self.top, self.left, self.top]
        x0, y0, x1, y1 = np.round((corners - shift) / self.scale).astype(int)
        return slice(max(y0, 0), max(y1, 0)), slice(max(x0, 0), max(x1, 0))

    def inside(self, array: np.ndarray) -> np.ndarray:
        """Return the part of an array of the input's size where the photograph is."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


def _letterbox(image: np.ndarray, size: list[int]) -> tuple[np.ndarray, _Frame]:
    """Scale an image to fit into `size`, (height, width), and pad it with gray."""
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    frame = _Frame(scale, top, left, height, width)
    padded = np.full((*size, 3), _PADDING, np.uint8)
    frame.inside(padded)[:] = cv2.resize(image, (width, height))
    return padded, frame


class _Detections(NamedTuple):
    """Candidates of a YOLO network.

    Attributes:
        corners: x, y, x, y in pixels of the input, [n, 4].
        scores: confidence, [n].
        classes: [n].
        factors: factors of the prototype masks, [n, M].
    """

    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    factors: np.ndarray


def _read_table(table: np.ndarray, factors: int) -> _Detections:
    """Return the candidates above `MIN_CONFIDENCE` in a network's output for one image.

    Args:
        table: see `yolo_regions`, without the batch dimension.
        factors: number M of prototype masks.
    """
    one_row_each = table.shape[0] > table.shape[1]  # YOLOv5, with objectness, or suppressed boxes
    table = table if one_row_each else table.T
    end = table.shape[1] - factors
    boxes, rest, weights = table[:, :4], table[:, 4:end], table[:, end:]
    if one_row_each and len(table) <= _MAX_FINAL_ROWS and end == 6:
        corners, scores, classes = boxes, rest[:, 0], rest[:, 1].astype(int)
    else:
        of_classes = rest[:, 1:] * rest[:, :1] if one_row_each else rest
        scores, classes = of_classes.max(1), of_classes.argmax(1)
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        corners = np.concatenate([center - half, center + half], 1)
    chosen = scores >= MIN_CONFIDENCE
    return _Detections(corners[chosen], scores[chosen], classes[chosen], weights[chosen])


def _without_overlaps(found: _Detections) -> np.ndarray:
    """Return the candidates that remain after non-maximum suppression, most confident first."""
    corners = found.corners
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    kept = cv2.dnn.NMSBoxesBatched(
        boxes.tolist(), found.scores.tolist(), found.classes.tolist(), MIN_CONFIDENCE, MAX_OVERLAP
    )
    numbers = np.array(kept, int).ravel()
    return numbers[np.argsort(-found.scores[numbers], kind="stable")]


@lru_cache(2)
def _onnx_session(file: str) -> Any:
    ort = import_onnxruntime()
    if not Path(file).is_file():
        raise ModelNotAvailable(f"There is no file {file}. Give {YOLO_MODEL}.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # photographs are processed in parallel
    try:
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common class for what a file may lack
        raise ModelNotAvailable(f"{file} is no ONNX file that can be run: {error}") from error
