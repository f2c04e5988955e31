"""Check a candidate for copied regions at every pixel.

The image, moved by the candidate's map, must agree with itself in a window around the pixel, and
must agree far worse when the map is off by a few pixels: repeated patterns and straight edges fail
here. Where the map is a mirroring that is its own inverse, the image must change in two directions
in much of the region: the two halves of a frame mirror each other exactly. What is left of the
difference must be no more than what the file's compression and resampling make, or fine structure
beside the edges must agree too: two windows of one house are alike, but their noise is not.
"""

from typing import NamedTuple

import cv2
import numpy as np

from tfdetect.forensics.copy_candidates import MIN_SHIFT, product

MIN_AREA = 0.002  # fraction of the image that a copy covers at least
MIN_PIXELS = 250
_WINDOW = 9  # pixels; side of the window in which the image is compared with itself
_MIN_CORRELATION = 0.85
_MIN_DEVIATION = 2.0  # in 0..255: flatter windows say nothing
_OFF = 2  # pixels by which a map is off in the second check
_MAX_COARSE = 0.8  # like MAX_RATIO, of the image at half its size
# Fraction of a copy by a map that is its own inverse, around whose pixels the image changes in two
# directions. Frames, plain rectangles and discs change only across their edges.
MIN_TEXTURED = 0.2
_MIN_SLOPE_RATIO = 0.1  # of the mean squared slopes in the flattest and in the steepest direction
_MIN_SLOPE = 0.5  # in 0..255 a pixel, in the flattest direction
MAX_RATIO = 0.2  # of the differences of a map and of the best map that is off
MAX_RATIO_LARGE = 0.25  # the same for regions that cover more than _LARGE of the image
_LARGE = 0.06
MAX_NOISE = 2.2  # difference of copy and source, as a multiple of what compression makes
_RESAMPLING = 0.1  # error of resampling, as a fraction of the slope
MIN_FINE = 0.9  # correlation of fine structure beside edges, where the difference is larger


class Checked(NamedTuple):
    """A region that agrees with its source.

    Attributes:
        region: bool [H, W].
        matrix: the map to the source as it fits best.
        correlation: mean correlation of windows of the region and of its source.
        contrast: see `copy_search.Copy`.
    """

    region: np.ndarray
    matrix: np.ndarray
    correlation: float
    contrast: float


def check(gray: np.ndarray, noise: np.ndarray, matrix: np.ndarray) -> Checked | None:
    """Return the region that a map takes to an equal one; None if there is none.

    Args:
        gray: float32 [H, W], 0..255.
        noise: errors of the compression of the file, float32 [H, W].
        matrix: the map.
    """
    region = _agreeing(gray, matrix)
    if region is None:
        return None
    shifted = np.allclose(np.abs(matrix[:, :2]), np.eye(2), atol=1e-9)
    if not shifted:
        refined = _refined(gray, matrix, region)
        again = _agreeing(gray, refined)
        if again is not None and again.sum() >= region.sum():
            matrix, region = refined, again
    # Pixels beside the border may lie outside of the copy.
    core = cv2.erode(region.astype(np.uint8), np.ones((_WINDOW, _WINDOW), np.uint8)) > 0
    core = core if core.sum() >= MIN_PIXELS / 2 else region
    correlation, contrast = _agreement(gray, matrix, core)
    if contrast > (MAX_RATIO_LARGE if region.mean() > _LARGE else MAX_RATIO):
        return None
    textured = not _own_inverse(gray.shape, matrix) or (
        _changes_in_two_directions(gray)[core].mean() >= MIN_TEXTURED
    )
    if not textured:
        return None
    if not _same_noise(gray, noise, matrix, core, shifted):
        return None
    return Checked(region, matrix, correlation, contrast)


def is_plausible(half: np.ndarray, matrix: np.ndarray) -> bool:
    """Return whether a map may take a region to an equal one, by the image at half its size."""
    matrix = matrix * np.array([1, 1, 0.5])
    region = _agreeing(half, matrix, 0.5)
    return region is not None and _agreement(half, matrix, region)[1] <= _MAX_COARSE


def whole_parts(region: np.ndarray, matrix: np.ndarray) -> list[np.ndarray]:
    """Return the regions of a map that are copies or sources as a whole, bool [H, W].

    A mirroring that is its own inverse agrees in the copy and in its source, which are parted here.
    """
    if not _own_inverse(region.shape, matrix):
        return [region]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA]) + 1
    return [labels == number for number in order]


def source_region(region: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the region to which a map takes a region, bool [H, W]."""
    return cv2.warpAffine(
        region.astype(np.uint8), matrix, region.shape[::-1], flags=cv2.INTER_NEAREST
    ) > 0  # fmt: skip


def _changes_in_two_directions(gray: np.ndarray) -> np.ndarray:
    """Return around which pixels an image changes in every direction, bool [H, W].

    It is judged by the eigenvalues of the structure tensor (Förstner and Gülch, 1987).
    """
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, *order) / 8 for order in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.blur(a, (_WINDOW, _WINDOW)) for a in (dx * dx, dy * dy, dx * dy))
    mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return mean - spread > np.maximum(_MIN_SLOPE**2, _MIN_SLOPE_RATIO * (mean + spread))


def _own_inverse(shape: tuple[int, ...], matrix: np.ndarray) -> bool:
    """Return whether a map takes each pixel of an image back where it is applied twice."""
    corners = np.array([[0, 0, 1], [shape[1], shape[0], 1]], np.float64)
    return np.abs(product(matrix, matrix) @ corners.T - corners[:, :2].T).max() <= _WINDOW


def _warp(gray: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the image sampled at the positions to which a map takes each pixel; nan outside."""
    return cv2.warpAffine(
        gray, matrix, gray.shape[::-1], flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"),
    )  # fmt: skip


def _agreeing(gray: np.ndarray, matrix: np.ndarray, factor: float = 1.0) -> np.ndarray | None:
    """Return where the image agrees with itself after a map, bool [H, W]; none if hardly.

    Args:
        gray: float32 [H, W].
        matrix: the map.
        factor: by which the image was shrunk beforehand.
    """
    moved = _warp(gray, matrix)
    valid = np.isfinite(moved) & _moves_far(gray.shape, matrix, MIN_SHIFT * factor)
    smallest = MIN_PIXELS * factor**2
    if valid.sum() < smallest:
        return None
    moved = np.where(valid, moved, 0.0).astype(np.float32)
    inside = cv2.erode(valid.astype(np.uint8), np.ones((_WINDOW, _WINDOW), np.uint8)) > 0
    strong, flat = _alike_windows(gray, moved)
    strong &= inside
    if strong.sum() < smallest / 2:
        return None
    square = np.ones((3, 3), np.uint8)
    strong = cv2.morphologyEx(strong.astype(np.uint8), cv2.MORPH_OPEN, square) > 0
    # Windows of a pixel that agrees lie in the copy; flat pixels count beside textured ones.
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _WINDOW - 1, 2 * _WINDOW - 1))
    grown = cv2.dilate(strong.astype(np.uint8), reach) > 0
    region = (strong | (flat & inside & grown)).astype(np.uint8)
    region = cv2.morphologyEx(region, cv2.MORPH_CLOSE, reach) & (valid & inside)
    if strong.any():
        region |= _border(region, strong, np.abs(gray - moved), valid)
    least = max(smallest, MIN_AREA * gray.size) * factor
    result = _large_and_textured(region, strong, least)
    return result if result.any() else None


def _moves_far(shape: tuple[int, ...], matrix: np.ndarray, distance: float) -> np.ndarray:
    """Return which pixels a map moves by at least a distance in pixels, bool [H, W]."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    tx = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    ty = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    return (tx - x) ** 2 + (ty - y) ** 2 >= distance**2


def _alike_windows(gray: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return around which pixels two images agree, bool [H, W]: with texture, and without."""

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT_101)

    a, b = mean(gray), mean(moved)
    va, vb = mean(gray * gray) - a * a, mean(moved * moved) - b * b
    cov = mean(gray * moved) - a * b
    va, vb = np.maximum(va, 0), np.maximum(vb, 0)
    textured = (va > _MIN_DEVIATION**2) & (vb > _MIN_DEVIATION**2)
    correlation = cov / np.sqrt(np.maximum(va * vb, 1e-6))
    strong = textured & (correlation > _MIN_CORRELATION) & (np.abs(a - b) < 8)
    flat = ~textured & (np.abs(a - b) < 2) & (np.abs(np.sqrt(va) - np.sqrt(vb)) < 1)
    return strong, flat


def _border(
    region: np.ndarray, strong: np.ndarray, difference: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Return a region with the pixels around it that agree one by one, uint8 [H, W].

    Windows end at the border of a copy; single pixels beyond their middles still agree.
    """
    rough = cv2.blur(difference, (3, 3))
    fits = valid & (rough < max(2.0, 3 * float(np.median(rough[strong]))))
    edge = cv2.dilate(region, np.ones((_WINDOW, _WINDOW), np.uint8)) > 0
    wider = ((region > 0) | (edge & fits)).astype(np.uint8)
    return cv2.morphologyEx(wider, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))


def _large_and_textured(region: np.ndarray, strong: np.ndarray, least: float) -> np.ndarray:
    """Return the connected parts of a region that have `least` pixels and texture, bool [H, W]."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
    area, texture = stats[:, cv2.CC_STAT_AREA], np.bincount(labels.ravel(), strong.ravel(), count)
    kept = (area >= least) & (texture >= 0.3 * area)
    kept[0] = False  # what is no region
    return kept[labels]


def _agreement(gray: np.ndarray, matrix: np.ndarray, core: np.ndarray) -> tuple[float, float]:
    """Return the correlation of a region with its source, and `Copy.contrast`."""
    fine = gray - cv2.GaussianBlur(gray, (0, 0), 8)

    def difference(dx: float, dy: float) -> tuple[float, float]:
        moved = _warp(fine, matrix + np.array([[0, 0, dx], [0, 0, dy]]))
        chosen = core & np.isfinite(moved)
        if chosen.sum() < MIN_PIXELS / 2:
            return np.nan, 0.0
        first, second = fine[chosen], moved[chosen]
        both = float(np.sqrt((first**2).mean() * (second**2).mean())) + 1e-6
        return float(((first - second) ** 2).mean()), float((first * second).mean()) / both

    exact, correlation = difference(0, 0)
    off = [difference(dx * _OFF, dy * _OFF)[0]
           for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]  # fmt: skip
    off = [value for value in off if not np.isnan(value)]
    if np.isnan(exact) or not off:
        return 0.0, np.inf
    return correlation, exact / max(min(off), 1e-6)


def _same_noise(
    gray: np.ndarray, noise: np.ndarray, matrix: np.ndarray, core: np.ndarray,
    shifted: bool,
) -> bool:  # fmt: skip
    """Return whether a region differs from its source by no more than one picture's two versions.

    Args:
        gray: float32 [H, W].
        noise: errors of the file's compression, float32 [H, W].
        matrix: takes the region to its source.
        core: the region, bool [H, W].
        shifted: whether the map only shifts or mirrors, so that nothing was resampled.
    """
    rough = gray - cv2.GaussianBlur(gray, (0, 0), 8)
    moved = _warp(rough, matrix)
    chosen = core & np.isfinite(moved)
    if chosen.sum() < MIN_PIXELS / 2:
        return False
    slope = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)) / 8
    resampling = 0.0 if shifted else _RESAMPLING
    expected = 2 * (noise[chosen] ** 2).mean() + 1
    expected += resampling**2 * (slope[chosen] ** 2).mean()
    if ((rough - moved)[chosen] ** 2).mean() <= MAX_NOISE**2 * expected:
        return True
    fine = gray - cv2.GaussianBlur(gray, (0, 0), 1)
    moved = _warp(gray, matrix)
    moved[~np.isfinite(moved)] = 0
    moved -= cv2.GaussianBlur(moved, (0, 0), 1)
    chosen = cv2.erode(chosen.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    around = cv2.GaussianBlur(slope, (0, 0), 2)
    chosen &= around <= np.median(around[core])
    if chosen.sum() < MIN_PIXELS / 4:
        return False
    a, b = fine[chosen], moved[chosen]
    return bool((a * b).mean() > MIN_FINE * np.sqrt((a * a).mean() * (b * b).mean() + 1e-9))


def _refined(gray: np.ndarray, matrix: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return the map that fits best in a region (ECC; Evangelidis and Psarakis, 2008)."""
    source = cv2.dilate(source_region(region, matrix).astype(np.uint8), np.ones((5, 5), np.uint8))
    try:
        _, found = cv2.findTransformECC(
            gray, gray, matrix.astype(np.float32), cv2.MOTION_AFFINE,
            (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-5), source * 255, 3,
        )  # fmt: skip
    except cv2.error:
        return matrix
    return found.astype(np.float64)
