"""Finds regions of an image that are copies of other regions of it, without training.

Candidates are maps of the plane that take a copy to its source: shifts and mirrorings from the
correlation of the image's fine structure with itself, and similarities from matched keypoints
(SIFT; Lowe, 2004) by RANSAC. Each candidate is then checked at every pixel: the image, moved by the
map, must agree with itself in a window around the pixel, and must agree far worse when the map is
off by a few pixels: repeated patterns and straight edges fail here. Where the map is a mirroring
that is its own inverse, the image must change in two directions in much of the region: the two
halves of a frame mirror each other exactly. What is left of the difference must be no more than
what the file's compression and resampling make, or fine structure beside the edges must agree too:
two windows of one house are alike, but their noise is not.

It needs OpenCV, so it is imported when it is first used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

MAX_SIDE = 1024  # pixels; larger images are shrunk first
MIN_SIDE = 48  # pixels; in smaller images nothing is looked for
MIN_AREA = 0.002  # of the image that a copy covers at least
MIN_PIXELS = 250
MIN_SHIFT = 12  # pixels between a copy and its source
MAX_SCALE = 2.0
_KEYPOINTS = 3500
_RATIO = 0.7  # of the distances of the best and the next descriptor
_MIN_MATCHES = 4
_PEAKS = 8  # shifts that are checked, of the image and of its mirror image each
_MODELS = 8  # similarities that are checked, of the same
_WINDOW = 9  # pixels; side of the window in which the image is compared with itself
_MIN_CORRELATION = 0.85
_MIN_DEVIATION = 2.0  # in 0..255: flatter windows say nothing
_OFF = 2  # pixels by which a map is off in the second check
_MAX_COARSE = 0.8  # like MAX_RATIO, of the image at half its size
# Fraction of a copy that may lie in its own source. What is pasted covers what was there, so that
# a copy and its source never overlap; the repeats of a fence or a tiled roof do.
_MAX_OVERLAP = 0.2
# Fraction of a copy by a map that is its own inverse, around whose pixels the image changes in two
# directions. Frames, plain rectangles and discs change across their edges alone.
_MIN_TEXTURED = 0.2
_MIN_SLOPE_RATIO = 0.1  # of the mean squared slopes in the flattest and in the steepest direction
_MIN_SLOPE = 0.5  # in 0..255 a pixel, in the flattest direction
_SEAM = 3.0  # pixels on either side of a border in which a seam is looked for
MAX_RATIO = 0.2  # of the differences of a map and of the best map that is off
MAX_RATIO_LARGE = 0.25  # the same of regions that cover more than _LARGE of the image
_LARGE = 0.06
MAX_NOISE = 2.2  # difference of copy and source, as a multiple of what compression makes
_RESAMPLING = 0.1  # error of resampling, as a fraction of the slope
MIN_FINE = 0.9  # correlation of fine structure beside edges, where the difference is larger


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
    """

    copied: np.ndarray
    sources: np.ndarray
    found: tuple[Copy, ...]


def search(image: np.ndarray, quality: float | None) -> Copies:
    """Return the copied regions of an image; see `find_copies`."""
    size = image.shape[:2]
    nothing = Copies(np.zeros(size, bool), np.zeros(size, bool), ())
    factor = min(1.0, MAX_SIDE / max(size))
    if min(size) * factor < MIN_SIDE:
        return nothing
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
        source = _moved(region, matrix)
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


def _checked_regions(
    gray: np.ndarray, noise: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, float, float]]:
    """Yield regions bool [H, W] that agree with their sources, and what `_check` returns of them.

    Which of the two is the copy is not known yet, and pairs may come again.
    """
    half = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    for candidate in _candidates(gray):
        checked = _check(gray, noise, candidate) if _plausible(half, candidate) else None
        if checked is not None:
            whole, matrix, correlation, contrast = checked
            for region in _parts(whole, matrix):
                yield region, matrix, correlation, contrast


def _candidates(gray: np.ndarray) -> Iterator[np.ndarray]:
    """Yield maps float64 [2, 3] that may take copies to their sources."""
    width = gray.shape[1]
    mirror = np.array([[-1, 0, width - 1], [0, 1, 0]], np.float64)
    for mirrored in (False, True):
        for dx, dy in _shifts(gray, mirrored):
            matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
            yield _product(mirror, matrix) if mirrored else matrix
    detector = cv2.SIFT.create(nfeatures=_KEYPOINTS, contrastThreshold=0.01, edgeThreshold=20)
    pixels = np.rint(gray).astype(np.uint8)
    points, descriptors = _keypoints(detector, pixels)
    for mirrored in (False, True):
        if mirrored:
            others, found = _keypoints(detector, np.ascontiguousarray(pixels[:, ::-1]))
        else:
            others, found = points, descriptors
        pairs = _matches(points, descriptors, others, found, mirrored, width)
        for matrix in _similarities(*pairs):
            yield _product(mirror, matrix) if mirrored else matrix


def _shifts(gray: np.ndarray, mirrored: bool) -> list[tuple[int, int]]:
    """Return the shifts (x, y) by which the image's fine structure agrees best with itself.

    With `mirrored`, by which it agrees with that of its mirror image.
    """
    fine = gray - cv2.GaussianBlur(gray, (0, 0), 1.5)
    limit = 3 * max(float(np.median(np.abs(fine))), 0.5)
    fine = np.clip(fine, -limit, limit)
    height, width = fine.shape
    shape = cv2.getOptimalDFTSize(2 * height), cv2.getOptimalDFTSize(2 * width)
    spectrum = np.fft.rfft2(fine, shape)
    other = np.fft.rfft2(fine[:, ::-1], shape) if mirrored else spectrum
    product = np.conj(spectrum) * other
    product /= np.abs(product) ** 0.75 + 1e-6
    surface = np.fft.irfft2(product, shape).astype(np.float32)
    # Few pixels overlap at long shifts, so that chance agreements are small there.
    dy = np.fft.fftfreq(shape[0], 1 / shape[0]).round().astype(int)
    dx = np.fft.fftfreq(shape[1], 1 / shape[1]).round().astype(int)
    allowed = (np.abs(dy)[:, None] < height - 8) & (np.abs(dx)[None] < width - 8)
    if not mirrored:
        allowed &= (dy[:, None] ** 2 + dx[None] ** 2) >= MIN_SHIFT**2
        allowed &= (dy[:, None] > 0) | ((dy[:, None] == 0) & (dx[None] > 0))
    surface = np.where(allowed, surface, -np.inf)
    found = []
    for _ in range(_PEAKS):
        y, x = np.unravel_index(int(surface.argmax()), surface.shape)
        if not np.isfinite(surface[y, x]):
            break
        found.append((int(dx[x]), int(dy[y])))
        rows, columns = (np.arange(-3, 4) + y) % shape[0], (np.arange(-3, 4) + x) % shape[1]
        surface[np.ix_(rows, columns)] = -np.inf
    return found


def _keypoints(detector: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions float32 [n, 2] and descriptors float32 [n, 128] of keypoints."""
    points, descriptors = detector.detectAndCompute(pixels, None)
    if not points or descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    places = np.array([p.pt for p in points], np.float32)
    # A place with several orientations has several keypoints.
    return places[:_KEYPOINTS], descriptors[:_KEYPOINTS]


def _matches(
    points: np.ndarray, descriptors: np.ndarray, others: np.ndarray, found: np.ndarray,
    mirrored: bool, width: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return pairs of places of keypoints that look alike, float32 [n, 2] each."""
    none = np.zeros((0, 2), np.float32)
    if len(points) < 8 or len(others) < 8:
        return none, none
    nearest = cv2.BFMatcher(cv2.NORM_L2).knnMatch(descriptors, found, k=6)
    first, second = [], []
    for number, matches in enumerate(nearest):
        place = points[number]
        far = []  # the keypoint itself and those beside it say nothing
        for match in matches:
            other = others[match.trainIdx]
            real = np.array([width - 1 - other[0], other[1]]) if mirrored else other
            if ((real - place) ** 2).sum() >= MIN_SHIFT**2 or mirrored:
                far.append((match.distance, match.trainIdx))
        if len(far) < 2:
            continue
        next_one = next(
            (d for d, i in far[1:] if ((others[i] - others[far[0][1]]) ** 2).sum() > 16), None
        )
        if next_one is not None and far[0][0] < _RATIO * next_one:
            first.append(place)
            second.append(others[far[0][1]])
    if not first:
        return none, none
    return np.array(first, np.float32), np.array(second, np.float32)


def _similarities(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    """Yield similarities that take many of the first places to the second ones."""
    for _ in range(_MODELS):
        if len(first) < _MIN_MATCHES:
            return
        matrix, inliers = cv2.estimateAffinePartial2D(
            first, second, method=cv2.RANSAC, ransacReprojThreshold=2.0, maxIters=3000,
            confidence=0.999,
        )  # fmt: skip
        if matrix is None or inliers.sum() < _MIN_MATCHES:
            return
        used = inliers.ravel() > 0
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        if 1 / MAX_SCALE <= scale <= MAX_SCALE:
            yield matrix
        first, second = first[~used], second[~used]


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


def _check(
    gray: np.ndarray, noise: np.ndarray, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float] | None:
    """Return the region that a map takes to an equal one; None if there is none.

    Returns:
        The region bool [H, W], the map as it fits best, the correlation and `Copy.contrast`.
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
        _changes_in_two_directions(gray)[core].mean() >= _MIN_TEXTURED
    )
    if not textured:
        return None
    if not _same_noise(gray, noise, matrix, core, shifted):
        return None
    return region, matrix, correlation, contrast


def _changes_in_two_directions(gray: np.ndarray) -> np.ndarray:
    """Return around which pixels an image changes in every direction, bool [H, W].

    It is judged by the eigenvalues of the structure tensor (Förstner and Gülch, 1987).
    """
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, *order) / 8 for order in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.blur(a, (_WINDOW, _WINDOW)) for a in (dx * dx, dy * dy, dx * dy))
    mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return mean - spread > np.maximum(_MIN_SLOPE**2, _MIN_SLOPE_RATIO * (mean + spread))


def _parts(region: np.ndarray, matrix: np.ndarray) -> list[np.ndarray]:
    """Return the regions of a map that are copies or sources as a whole, bool [H, W].

    A mirroring that is its own inverse agrees in the copy and in its source, which are parted here.
    """
    if not _own_inverse(region.shape, matrix):
        return [region]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA]) + 1
    return [labels == number for number in order]


def _own_inverse(shape: tuple[int, ...], matrix: np.ndarray) -> bool:
    """Return whether a map takes each pixel of an image back where it is applied twice."""
    corners = np.array([[0, 0, 1], [shape[1], shape[0], 1]], np.float64)
    return np.abs(_product(matrix, matrix) @ corners.T - corners[:, :2].T).max() <= _WINDOW


def _plausible(half: np.ndarray, matrix: np.ndarray) -> bool:
    """Return whether a map may take a region to an equal one, from the image at half its size."""
    matrix = matrix * np.array([1, 1, 0.5])
    region = _agreeing(half, matrix, 0.5)
    return region is not None and _agreement(half, matrix, region)[1] <= _MAX_COARSE


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


def _warp(gray: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the image at the places to which a map takes each pixel; nan outside."""
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
    source = cv2.dilate(_moved(region, matrix).astype(np.uint8), np.ones((5, 5), np.uint8))
    try:
        _, found = cv2.findTransformECC(
            gray, gray, matrix.astype(np.float32), cv2.MOTION_AFFINE,
            (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-5), source * 255, 3,
        )  # fmt: skip
    except cv2.error:
        return matrix
    return found.astype(np.float64)


def _moved(region: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the region to which a map takes a region."""
    return cv2.warpAffine(
        region.astype(np.uint8), matrix, region.shape[::-1], flags=cv2.INTER_NEAREST
    ) > 0  # fmt: skip


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


def _product(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the map that applies the first and then the second, float64 [2, 3]."""
    rows = [np.vstack([m, [0, 0, 1]]) for m in (second, first)]
    return (rows[0] @ rows[1])[:2]
