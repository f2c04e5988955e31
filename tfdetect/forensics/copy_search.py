"""Find regions of an image that are copies of other regions of it, without training.

`copy_candidates` proposes maps that may take a copy to its source, and `copy_check` checks each of
them at every pixel. OpenCV is needed, so this module is imported when it is first used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from tfdetect.forensics.copy_candidates import candidates
from tfdetect.forensics.copy_check import Checked, check, is_plausible, source_region, whole_parts

MAX_SIDE = 1024  # pixels; larger images are shrunk first
MIN_SIDE = 48  # pixels; smaller images are not searched
# Fraction of a copy that may lie in its own source. What is pasted covers what was there, so that
# a copy and its source never overlap; the repeats of a fence or a tiled roof do.
_MAX_OVERLAP = 0.2
_SEAM = 3.0  # pixels on either side of a border in which a seam is looked for


@dataclass(frozen=True)
class Copy:
    """A region that is a copy of another one.

    Attributes:
        matrix: takes (x, y) of the copy to its source, float64 [2, 3], in pixels.
        mirrored: whether the copy is a mirror image.
        rotation: the rotation of the copy against its source, in degrees.
        scale: the scale of the copy against its source.
        area: fraction of the image's pixels.
        correlation: mean correlation of windows of the copy and of its source, up to 1.
        contrast: mean squared difference of copy and source, as a fraction of that of the best
            map that is a few pixels off; near 0 for exact copies.
    """

    matrix: np.ndarray
    mirrored: bool
    rotation: float
    scale: float
    area: float
    correlation: float
    contrast: float


@dataclass(frozen=True)
class Copies:
    """What was found in an image.

    Attributes:
        copied: the copies, bool [H, W]. Which of two equal regions is the copy is judged by the
            seam around it; it is wrong in some cases.
        sources: the regions that they were copied from, bool [H, W].
        found: the copies, the largest first.
        searched: whether the image was searched; False if it is too small or too narrow.
    """

    copied: np.ndarray
    sources: np.ndarray
    found: tuple[Copy, ...]
    searched: bool = True


def search(image: np.ndarray, quality: float | None) -> Copies:
    """Return the copied regions of an image; see `find_copies`."""
    size = image.shape[:2]
    nothing = Copies(np.zeros(size, bool), np.zeros(size, bool), ())
    factor = min(1.0, MAX_SIDE / max(size))
    if min(size) * factor < MIN_SIDE:
        return replace(nothing, searched=False)
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    noise = _compression_noise(gray, quality)
    gray = gray.astype(np.float32)
    if factor < 1:
        wanted = (max(1, round(size[1] * factor)), max(1, round(size[0] * factor)))
        gray, noise = (cv2.resize(a, wanted, interpolation=cv2.INTER_AREA) for a in (gray, noise))
    copied, sources = np.zeros(gray.shape, bool), np.zeros(gray.shape, bool)
    found = []
    for region, matrix, correlation, contrast in _checked_regions(gray, noise):
        if (copied | sources)[region].mean() > 0.5:  # the same pair again, or its inverse
            continue
        source = source_region(region, matrix)
        if (region & source).sum() > _MAX_OVERLAP * region.sum():
            continue
        inverse = cv2.invertAffineTransform(matrix)
        back = _seam(gray, region) < _seam(gray, source)
        copied |= source if back else region
        sources |= region if back else source
        found.append(_copy(inverse if back else matrix, float(region.mean()), correlation,
                           contrast, factor))  # fmt: skip
    if not found:
        return nothing
    if factor < 1:
        copied, sources = (
            cv2.resize(m.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0
            for m in (copied, sources)
        )
    found.sort(key=lambda copy: -copy.area)
    return Copies(copied, sources & ~copied, tuple(found))


def _checked_regions(gray: np.ndarray, noise: np.ndarray) -> Iterator[Checked]:
    """Yield regions that agree with their sources.

    Which of the two is the copy is not known yet, and pairs may come again.
    """
    half = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    for candidate in candidates(gray):
        checked = check(gray, noise, candidate) if is_plausible(half, candidate) else None
        if checked is not None:
            for region in whole_parts(checked.region, checked.matrix):
                yield checked._replace(region=region)


def _compression_noise(gray: np.ndarray, quality: float | None) -> np.ndarray:
    """Return the errors that JPEG makes, float32 [H, W]; 0 of a lossless file.

    The image is compressed once more with the same quality on another grid.
    """
    if quality is None:
        return np.zeros(gray.shape, np.float32)
    down, right = 3, 5
    moved = cv2.copyMakeBorder(gray, down, 0, right, 0, cv2.BORDER_REFLECT_101)
    _, data = cv2.imencode(".jpg", moved, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])
    again = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert again is not None
    return (again.astype(np.float32) - moved)[down:, right:]


def _copy(
    matrix: np.ndarray, area: float, correlation: float, contrast: float, factor: float
) -> Copy:
    """Return a copy.

    Args:
        matrix: in pixels of the image as it was looked at.
        area, correlation, contrast: the area, correlation and contrast of the copy.
        factor: of that image's sides and the given one's.
    """
    mirrored = bool(np.linalg.det(matrix[:, :2]) < 0)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    turn = matrix[:, :2] @ np.diag([-1, 1]) if mirrored else matrix[:, :2]
    angle = float(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])))
    matrix = matrix * np.array([1, 1, 1 / factor])
    return Copy(matrix, mirrored, angle, 1 / scale, area, correlation, contrast)


def _seam(gray: np.ndarray, region: np.ndarray) -> float:
    """Return how much more the image changes across the border of a region than along it."""
    inside = region.astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    distance -= cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    nx, ny = cv2.Sobel(distance, cv2.CV_32F, 1, 0), cv2.Sobel(distance, cv2.CV_32F, 0, 1)
    length = np.maximum(np.hypot(nx, ny), 1e-6)
    dx, dy = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    across, along = np.abs(dx * nx + dy * ny) / length, np.abs(dx * ny - dy * nx) / length
    ring = np.abs(distance) <= _SEAM
    ring[:3], ring[-3:], ring[:, :3], ring[:, -3:] = False, False, False, False
    return float((across - along)[ring].mean()) if ring.any() else 0.0
