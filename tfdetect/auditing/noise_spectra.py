"""Mean Fourier spectra of noise by class and generator: upsampling leaves peaks and grids there."""

import io

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from tfdetect.data.catalog import Catalog
from tfdetect.imaging.pillow import opened, upright_rgb

_IMAGES = 200  # of each kind, at most
_LARGEST = 256
_KINDS = 12  # that are shown, the most frequent


def mean_spectra(
    catalog: Catalog, table: pa.Table, classes: tuple[str, ...]
) -> dict[str, tuple[np.ndarray, int]]:
    """Mean power of what a 3x3 median filter removes, by generator, or class where none is known.

    As Corvi et al. (CVPR workshops 2023) look for generators' fingerprints.

    Args:
        table: rows of the catalog, with width and height.

    Returns:
        float64 [side, side], log10, zero frequency in the middle, and the number of images; the
        authentic class first. Images smaller than the side, a power of two up to 256 that nine
        tenths reach, are left out.
    """
    sides = pc.min_element_wise(table["width"], table["height"]).to_numpy()
    reach = int(np.percentile(sides, 10))
    side = 1 << (min(reach, _LARGEST).bit_length() - 1)
    window = np.outer(*[np.hanning(side + 1)[:side]] * 2)
    found = {}
    for name, rows in _kinds(table, classes).items():
        order = np.argsort(table["hash"].take(rows).to_numpy(zero_copy_only=False), kind="stable")
        some = table.take(pa.array(np.asarray(rows)[order][:_IMAGES]))
        total, count = np.zeros((side, side)), 0
        for path in catalog.paths(some).to_pylist():
            noise = _noise(path, side)
            if noise is not None:
                total += np.abs(np.fft.fft2(noise * window)) ** 2
                count += 1
        if count:
            found[name] = np.fft.fftshift(np.log10(total / count + 1e-3)), count
    return found


def _kinds(table: pa.Table, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Numbers of the rows of each kind of image, the authentic ones first."""
    labels = table["label"].to_numpy()
    generators = table["generator"].cast(pa.string()).to_pylist()
    names = np.array([
        classes[label] if not label or generator is None else generator
        for label, generator in zip(labels, generators)
    ])  # fmt: skip
    kinds, counts = np.unique(names, return_counts=True)
    ordered = [str(k) for k in kinds[np.argsort(-counts, kind="stable")] if k != classes[0]]
    ordered = [classes[0], *ordered[: _KINDS - 1]]
    return {kind: np.flatnonzero(names == kind) for kind in ordered if (names == kind).any()}


def _noise(path: str, side: int) -> np.ndarray | None:
    """The residual of the middle of an image, in gray levels; None of one too small or broken."""
    try:
        with open(path, "rb") as file, opened(io.BytesIO(file.read())) as image:
            gray = np.asarray(upright_rgb(image).convert("L"))
    except Exception:  # Pillow's plugins raise many kinds
        return None
    if min(gray.shape) < side:
        return None
    y, x = ((length - side) // 2 for length in gray.shape)
    patch = np.ascontiguousarray(gray[y : y + side, x : x + side])
    return patch.astype(np.float64) - cv2.medianBlur(patch, 3)


def spectra_figure(spectra: dict[str, tuple[np.ndarray, int]], authentic: str) -> Figure:
    """The spectra, and below each its difference from the authentic images'."""
    columns = max(1, len(spectra))
    compare = authentic in spectra and columns > 1
    figure = Figure(
        figsize=(1.9 * columns + 1, 4.4 if compare else 2.4), layout="constrained"
    )  # fmt: skip
    axes = figure.subplots(1 + compare, columns, squeeze=False)
    values = [spectrum for spectrum, _ in spectra.values()] or [np.zeros((2, 2))]
    low, high = np.percentile(values, [1, 99.8])
    for place in axes.ravel():
        place.set_axis_off()
    for column, (name, (spectrum, count)) in enumerate(spectra.items()):
        drawn = axes[0, column].imshow(spectrum, cmap="magma", vmin=low, vmax=high)
        axes[0, column].set_title(f"{name}\n{count} images", fontsize=8)
        if compare and name != authentic:
            difference = spectrum - spectra[authentic][0]
            told = axes[1, column].imshow(difference, cmap="RdBu_r", vmin=-1, vmax=1)
    if spectra:
        figure.colorbar(drawn, ax=axes[0], label="log10 power", shrink=0.8)
    if compare:
        axes[1, 0].text(0.5, 0.5, f"difference\nfrom {authentic}", ha="center", va="center",
                        fontsize=9, transform=axes[1, 0].transAxes)  # fmt: skip
        figure.colorbar(told, ax=axes[1], label="log10 ratio", shrink=0.8)
    return figure
