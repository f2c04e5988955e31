"""Candidates for copied regions: maps of the plane that may take a copy to its source.

Shifts and mirrorings come from the correlation of the image's fine structure with itself, and
similarities from matched keypoints (SIFT; Lowe, 2004) by RANSAC. A map is a matrix float64 [2, 3]
that takes (x, y) of the copy to its source, in pixels.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

MIN_SHIFT = 12  # pixels between a copy and its source
MAX_SCALE = 2.0
_KEYPOINTS = 3500
_RATIO = 0.7  # largest ratio of the distances of the best and the next descriptor
_MIN_MATCHES = 4
_PEAKS = 8  # shifts that are checked, of the image and of its mirror image each
_MODELS = 8  # similarities that are checked, of the same


def candidates(gray: np.ndarray) -> Iterator[np.ndarray]:
    """Yield maps float64 [2, 3] that may take copies to their sources."""
    width = gray.shape[1]
    mirror = np.array([[-1, 0, width - 1], [0, 1, 0]], np.float64)
    for mirrored in (False, True):
        for dx, dy in _shifts(gray, mirrored):
            matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
            yield product(mirror, matrix) if mirrored else matrix
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
            yield product(mirror, matrix) if mirrored else matrix


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


def product(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the map that applies the first and then the second, float64 [2, 3]."""
    rows = [np.vstack([m, [0, 0, 1]]) for m in (second, first)]
    return (rows[0] @ rows[1])[:2]
