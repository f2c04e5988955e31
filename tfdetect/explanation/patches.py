"""Patches of an image, and images whose patches have lost their texture."""

from collections.abc import Iterator

import numpy as np

PATCHES_PER_SIDE = 8  # without overlap

Patch = tuple[slice, slice]  # rows and columns of an image


def patch_grid(height: int, width: int, overlap: bool = False) -> Iterator[Patch]:
    """Yield patches that cover an image; their sides are about an eighth of the image's sides.

    Args:
        height, width: height and width of the image in pixels.
        overlap: whether neighboring patches overlap by half.
    """
    for rows in _spans(height, overlap):
        for columns in _spans(width, overlap):
            yield rows, columns


def flattened(images: np.ndarray, patches: list[Patch]) -> np.ndarray:
    """Return a copy of images [..., H, W, 3] in which each patch has only its mean color."""
    images = images.copy()
    for rows, columns in patches:
        patch = images[..., rows, columns, :]
        patch[...] = patch.mean((-3, -2), keepdims=True)
    return images


def _spans(length: int, overlap: bool) -> list[slice]:
    side = max(2, length // PATCHES_PER_SIDE)
    step = max(1, side // 2) if overlap else side
    return [slice(start, start + side) for start in [*range(0, length - side, step), length - side]]
