"""Mask makers: they choose which pixels of a photograph are altered.

Each is a function `(photo, rng, coverage, **options) -> bool [H, W]`. `coverage` is the wanted
range of the altered fraction; `draw_mask` draws until a mask is in this range. Only `whole` takes
neither a random generator nor a coverage, because it always returns the same mask.
"""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from tfdetect.core import registry
from tfdetect.core.errors import UserError
from tfdetect.synthesis.photos import Photo
from tfdetect.synthesis.segmentation_files import (
    panoptic_files,
    region_numbers,
    segmentation_files,
    segmentation_of,
)
from tfdetect.synthesis.segmenters import object_labels, person_region, yolo_regions

_MAX_TRIES = 200
_BRUSH_COVERAGE = 0.15  # mean altered fraction of `brush`, as published
_MAX_STROKES = 100


def draw_mask(
    name: str,
    photo: Photo,
    rng: np.random.Generator,
    coverage: tuple[float, float] = (0.0, 1.0),
    **options: Any,
) -> np.ndarray:
    """Draw masks until one alters a fraction of the photograph that is in `coverage`.

    Args:
        name: name of a registered mask maker.
        photo: the photograph.
        rng: source of random numbers.
        coverage: smallest and largest altered fraction.
        options: further arguments of the mask maker.

    Returns:
        bool [H, W], True where the photograph is to be altered; never empty.

    Raises:
        UserError: none of 200 masks fits.
    """
    maker = registry.MASKS.load(name)
    if maker is whole:
        return whole(photo)
    low, high = coverage
    for _ in range(_MAX_TRIES):
        mask = maker(photo, rng, coverage, **options)
        if mask.any() and low <= mask.mean() <= high:
            return mask
    raise UserError(
        f"{photo.name}: no mask {name!r} covers {low:.0%} to {high:.0%} of it in {_MAX_TRIES} tries"
    )


def whole(photo: Photo) -> np.ndarray:
    """Return a mask of the whole photograph.

    With a fill that reproduces the photograph this gives aligned pairs: an authentic image and a
    generated one of the same content, size and file history (Rajan et al., ICLR 2025).
    """
    return np.ones(photo.size, bool)


def brush(photo: Photo, rng: np.random.Generator, coverage: tuple[float, float]) -> np.ndarray:
    """Draw free-form strokes as DeepFillv2 does (Yu et al., ICCV 2019).

    The widths, 12 to 40 pixels there, are scaled with the image, so that the covered fraction
    is as published for 256 x 256 pixels (mean 0.150) and about the same for other sizes. Where
    `coverage` begins above that mean, strokes are added until its smallest fraction is covered.
    """
    height, width = photo.size
    smallest = coverage[0] if coverage[0] > _BRUSH_COVERAGE else 0.0
    scale = math.sqrt(height * width) / 256
    radius = math.hypot(height, width) / 8
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    mean, spread = 2 * math.pi / 5, 2 * math.pi / 15
    strokes = rng.integers(1, 4)
    for stroke in range(_MAX_STROKES):
        if stroke >= strokes and np.asarray(image, bool).mean() >= smallest:
            break
        lowest, highest = mean - rng.uniform(0, spread), mean + rng.uniform(0, spread)
        points = [(int(rng.integers(width)), int(rng.integers(height)))]
        for number in range(rng.integers(4, 12)):
            angle = rng.uniform(lowest, highest)
            angle = 2 * math.pi - angle if number % 2 == 0 else angle
            length = np.clip(rng.normal(radius, radius // 2), 0, 2 * radius)
            x = np.clip(points[-1][0] + length * math.cos(angle), 0, width)
            y = np.clip(points[-1][1] + length * math.sin(angle), 0, height)
            points.append((int(x), int(y)))
        thickness = max(1, round(rng.uniform(12, 40) * scale))
        draw.line(points, fill=1, width=thickness)
        half = thickness // 2
        for left, top in points:
            draw.ellipse((left - half, top - half, left + half, top + half), fill=1)
    return np.asarray(image, bool)


def polygon(photo: Photo, rng: np.random.Generator, coverage: tuple[float, float]) -> np.ndarray:
    """Draw a star-shaped polygon with three to eight corners; its area is from `coverage`."""
    height, width = photo.size
    count = rng.integers(3, 9)
    angles = np.sort(rng.uniform(0, 2 * math.pi, count))
    radii = rng.uniform(0.5, 1.0, count)
    area = rng.uniform(*coverage) * height * width
    shape = 0.5 * np.sum(
        radii * np.roll(radii, -1) * np.sin(np.diff(angles, append=angles[0] + 2 * math.pi))
    )
    scale = math.sqrt(area / max(shape, 0.2))
    stretch = math.sqrt(width / height)
    x = rng.uniform(0, width) + scale * stretch * radii * np.cos(angles)
    y = rng.uniform(0, height) + scale / stretch * radii * np.sin(angles)
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon([*zip(x.tolist(), y.tolist())], fill=1)
    return np.asarray(image, bool)


def rectangle(photo: Photo, rng: np.random.Generator, coverage: tuple[float, float]) -> np.ndarray:
    """Draw an upright rectangle inside the image; its area is from `coverage`."""
    height, width = photo.size
    area = rng.uniform(*coverage)
    ratio = math.exp(rng.uniform(-math.log(3), math.log(3)) / 2)
    tall = min(height, max(1, round(height * min(1.0, math.sqrt(area) * ratio))))
    wide = min(width, max(1, round(area * height * width / tall)))
    top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    mask = np.zeros((height, width), bool)
    mask[top : top + tall, left : left + wide] = True
    return mask


def blob(
    photo: Photo,
    rng: np.random.Generator,
    coverage: tuple[float, float],
    smoothness: float = 0.08,
) -> np.ndarray:
    """Draw irregular blobs: smooth noise above the level that gives an area from `coverage`.

    Args:
        photo: the photograph.
        rng: source of random numbers.
        coverage: smallest and largest altered fraction.
        smoothness: standard deviation of the smoothing, as a fraction of the shorter side.
    """
    height, width = photo.size
    noise = gaussian_filter(rng.normal(size=(height, width)), smoothness * min(height, width))
    area = rng.uniform(*coverage)
    return noise > np.quantile(noise, 1 - area)


def segments(
    photo: Photo, rng: np.random.Generator, coverage: tuple[float, float], segmentations: str
) -> np.ndarray:
    """Choose a region of the photograph's segmentation, for example of BSDS500.

    Args:
        photo: the photograph.
        rng: source of random numbers.
        coverage: smallest and largest altered fraction.
        segmentations: folder with a PNG of region numbers for each photograph, with the same
            stem and size; gray, palette, 16 bits or colors.
    """
    file = segmentation_of(photo, segmentation_files(segmentations), segmentations)
    return pick_region(region_numbers(photo, file), rng, coverage)


def objects(
    photo: Photo,
    rng: np.random.Generator,
    coverage: tuple[float, float],
    preset: str = "deeplab_v3_plus_resnet50_pascalvoc",
    together: bool = False,
) -> np.ndarray:
    """Choose an object that an image segmenter of keras-hub finds.

    Args:
        photo: the photograph.
        rng: source of random numbers.
        coverage: smallest and largest altered fraction.
        preset: name, address or folder of the segmenter.
        together: return everything but class 0, the background, as one region.
    """
    labels = object_labels(preset, photo.pixels)
    return np.greater(labels, 0) if together else pick_region(labels, rng, coverage)


def panoptic(
    photo: Photo,
    rng: np.random.Generator,
    coverage: tuple[float, float],
    panoptic: str,
    together: bool = False,
) -> np.ndarray:
    """Choose a segment of the photograph's panoptic segmentation.

    Args:
        photo: the photograph.
        rng: source of random numbers.
        coverage: smallest and largest altered fraction.
        panoptic: JSON file or folder; see `panoptic_files`. In PNG files of a folder, 0 is no
            segment.
        together: return all things of the JSON file, or all segments of a folder, as one region.
    """
    file, segments, things = segmentation_of(photo, panoptic_files(panoptic), panoptic)
    labels = region_numbers(photo, file)
    if segments is None:
        segments = things = set(np.unique(labels).tolist()) - {0}
    masks = np.stack([labels == number for number in sorted(things if together else segments)] or
                     [np.zeros(photo.size, bool)])  # fmt: skip
    return _choose(masks, photo, rng, coverage, together)


def yolo(
    photo: Photo,
    rng: np.random.Generator,
    coverage: tuple[float, float],
    model: str,
    together: bool = False,
) -> np.ndarray:
    """Choose an object that an exported YOLO network finds: its mask, or its box.

    Args:
        photo: the photograph.
        rng: source of random numbers.
        coverage: smallest and largest altered fraction.
        model: ONNX file; see `yolo_regions`.
        together: return all objects as one region.
    """
    return _choose(yolo_regions(model, photo.pixels), photo, rng, coverage, together)


def person(
    photo: Photo, rng: np.random.Generator, coverage: tuple[float, float], model: str
) -> np.ndarray:
    """Return the region of all people in the photograph.

    Args:
        photo: the photograph.
        rng: not used, because the region is always the same.
        coverage: not used.
        model: .tflite file; see `person_region`.
    """
    return _choose(person_region(model, photo.pixels)[None], photo, rng, coverage)


def _choose(
    masks: np.ndarray,
    photo: Photo,
    rng: np.random.Generator,
    coverage: tuple[float, float],
    together: bool = False,
) -> np.ndarray:
    """Return one of several masks, preferably with an area in `coverage`, or all as one.

    Args:
        masks: bool [n, H, W].
        photo: the photograph, for the message.
        rng: source of random numbers.
        coverage: smallest and largest altered fraction.
        together: return the union of the masks.

    Raises:
        UserError: all masks are empty.
    """
    masks = masks[masks.any((1, 2))]
    if not len(masks):
        raise UserError(f"{photo.name}: nothing was found in it")
    if together:
        return np.any(masks, 0)
    areas = masks.mean((1, 2))
    fitting = np.flatnonzero((areas >= coverage[0]) & (areas <= coverage[1]))
    return masks[rng.choice(fitting if len(fitting) else len(masks))]


def pick_region(
    labels: np.ndarray, rng: np.random.Generator, coverage: tuple[float, float]
) -> np.ndarray:
    """Choose a region of a label map int [H, W], preferably with an area in `coverage`."""
    values, counts = np.unique(labels, return_counts=True)
    areas = counts / labels.size
    fitting = values[(areas >= coverage[0]) & (areas <= coverage[1])]
    return labels == rng.choice(fitting if len(fitting) else values)
