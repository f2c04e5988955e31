"""Computes mean noise spectra by class and generator, where upsampling leaves peaks and grids."""

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.data.catalog import Catalog, shorter_sides
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.pillow import read_rgb

_MAX_IMAGES = 200  # per generator
_MAX_SIDE = 256
_MAX_GENERATORS = 12  # the most frequent, authentic images included


def mean_noise_spectra(
    catalog: Catalog, table: pa.Table, classes: tuple[str, ...]
) -> dict[str, tuple[np.ndarray, int]]:
    """Return the mean power spectrum of the residual of a 3x3 median filter, by generator.

    Fakes without a known generator are grouped by class. Source: Corvi et al., CVPR Workshops
    2023, who look for generators' fingerprints this way.

    Args:
        catalog: the files.
        table: rows of the catalog, with width and height.
        classes: names of the classes, in label order.

    Returns:
        By name, the authentic class first: log10 of the power, float64 [side, side], zero
        frequency in the center, and the number of images. The side is a power of two, at most 256,
        that 90% of the images reach; smaller images are left out.
    """
    sides = shorter_sides(table)
    reach = int(np.percentile(sides, 10))
    side = 1 << (min(reach, _MAX_SIDE).bit_length() - 1)
    window = np.outer(*[np.hanning(side + 1)[:side]] * 2)
    found = {}
    for name, rows in _rows_by_generator(table, classes).items():
        order = pc.sort_indices(table["hash"].take(pa.array(rows))).to_numpy()
        some = table.take(pa.array(rows[order[:_MAX_IMAGES]]))
        total, count = np.zeros((side, side)), 0
        for path in catalog.files(some):
            noise = _noise_residual(path, side, catalog.max_pixels)
            if noise is not None:
                total += np.abs(np.fft.fft2(noise * window)) ** 2
                count += 1
        if count:
            found[name] = np.fft.fftshift(np.log10(total / count + 1e-3)), count
    return found


def _rows_by_generator(table: pa.Table, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the row numbers of each generator, or class without one; authentic images first."""
    generators = table["generator"].cast(pa.string())
    by_class = pc.or_(pc.equal(table["label"], 0), pc.is_null(generators))
    named = pc.if_else(by_class, pa.array(classes).take(table["label"]), generators)
    encoded = named.combine_chunks().dictionary_encode()
    codes, kinds = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    counts = dict(zip(kinds, np.bincount(codes, minlength=len(kinds)).tolist()))
    others = sorted((k for k in kinds if k != classes[0]), key=lambda k: (-counts[k], k))
    ordered = [classes[0], *others[: _MAX_GENERATORS - 1]]
    return {kind: np.flatnonzero(codes == kinds.index(kind)) for kind in ordered if kind in counts}


def _noise_residual(path: str, side: int, max_pixels: int) -> np.ndarray | None:
    """Return the noise of an image's center, float64 [side, side]; None if too small or broken."""
    try:
        gray = np.asarray(read_rgb(path, max_pixels).convert("L"))
    except ImageError:  # broken since the catalog was built
        return None
    if min(gray.shape) < side:
        return None
    y, x = ((length - side) // 2 for length in gray.shape)
    patch = np.ascontiguousarray(gray[y : y + side, x : x + side])
    return patch.astype(np.float64) - cv2.medianBlur(patch, 3)
