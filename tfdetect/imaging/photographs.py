"""Photographs that Python packages contain: real images that are there on every machine."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# Package and file below it.
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "motorcycle_left": ("skimage", "data/motorcycle_left.png"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}


def photograph(name: str) -> "Image.Image":
    """Return a photograph as an RGB image.

    Args:
        name: a key of `PHOTOGRAPHS`.

    Raises:
        UserError: the installed package does not contain it.
    """
    from PIL import Image

    package, file = PHOTOGRAPHS[name]
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            f"The photograph {file} that comes with the Python package {package} is missing. "
            "Install it again: pip install --force-reinstall scikit-image scikit-learn matplotlib"
        )
    return Image.open(path).convert("RGB")
