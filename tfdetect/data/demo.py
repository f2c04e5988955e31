"""The embedded demonstration dataset: photographs that come inside Python packages.

Eleven colour photographs of scikit-image, scikit-learn and matplotlib, split by
photograph. Authentic images are 64x64 crops; altered ones are the same crops with
a region resampled, smoothed or replaced. It shows that the whole road works; what a
detector learns here says nothing about real forgeries.
"""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tfdetect.errors import UserError

SIDE = 64  # pixels
PAIRS = 160  # crops of each photograph, each authentic and altered
PHOTOS = {
    "train": (
        ("skimage", "data/astronaut.png"), ("skimage", "data/chelsea.png"),
        ("skimage", "data/motorcycle_left.png"), ("skimage", "data/hubble_deep_field.jpg"),
        ("skimage", "data/ihc.png"), ("sklearn", "datasets/images/china.jpg"),
    ),
    "validation": (("skimage", "data/coffee.png"), ("skimage", "data/retina.jpg")),
    "test": (
        ("skimage", "data/rocket.jpg"), ("sklearn", "datasets/images/flower.jpg"),
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ),
}  # fmt: skip


def build(folder: Path) -> Path:
    """Writes the dataset below `folder` (whole or not at all) and returns it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for split, photos in PHOTOS.items():
            images = {Path(name).stem: _open(package, name) for package, name in photos}
            for number, (stem, image) in enumerate(images.items()):
                others = [other for name, other in images.items() if name != stem] or [image]
                rng = np.random.default_rng([len(split), number])
                _write_pairs(temporary / split, stem, image, others, rng)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # another process may have been first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _open(package: str, name: str) -> Image.Image:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            f"The demo needs the photograph {name} that comes with the Python package {package}. "
            "Install it again: pip install --force-reinstall scikit-image scikit-learn matplotlib"
        )
    return Image.open(path).convert("RGB")


def _write_pairs(folder: Path, stem: str, image: Image.Image, others: list, rng) -> None:
    authentic = folder / "authentic"
    authentic.mkdir(parents=True, exist_ok=True)
    fills = {"resampled": _resample, "smoothed": _smooth, "spliced": _splice}
    for number in range(PAIRS):
        crop = _crop(image, rng)
        method = list(fills)[number % len(fills)]
        filled = fills[method](crop, others[int(rng.integers(len(others)))], rng)
        mask = _mask(rng)
        altered = Image.composite(filled, crop, mask)
        (folder / "altered" / method).mkdir(parents=True, exist_ok=True)
        crop.save(authentic / f"{stem}-{number:04d}.png")
        altered.save(folder / "altered" / method / f"{stem}-{number:04d}.png")


def _crop(image: Image.Image, rng, side: int = SIDE) -> Image.Image:
    """A random square; flat ones (sky, black space) are drawn again, ten times at most."""
    for _ in range(10):
        x = int(rng.integers(image.width - side + 1))
        y = int(rng.integers(image.height - side + 1))
        crop = image.crop((x, y, x + side, y + side))
        if np.asarray(crop, np.float32).std(axis=(0, 1)).mean() > 12:
            break
    return crop


def _mask(rng) -> Image.Image:
    """An ellipse over a quarter to nine tenths of the crop, with a soft edge."""
    radii = SIDE * rng.uniform(0.3, 0.6, 2)
    centre = SIDE * rng.uniform(0.35, 0.65, 2)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse([*(centre - radii), *(centre + radii)], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(1))


def _resample(crop: Image.Image, _other: Image.Image, rng) -> Image.Image:
    side = int(SIDE / rng.uniform(1.5, 2.5))
    return crop.resize((side, side), Image.Resampling.BICUBIC).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )


def _smooth(crop: Image.Image, _other: Image.Image, _rng) -> Image.Image:
    return crop.filter(ImageFilter.MedianFilter(5))


def _splice(_crop_: Image.Image, other: Image.Image, rng) -> Image.Image:
    small = _crop(other, rng, int(SIDE / rng.uniform(1.5, 2.5)))
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
