"""The embedded demonstration dataset, made of photographs that Python packages contain.

Eleven color photographs of scikit-image, scikit-learn and matplotlib are split by photograph.
Authentic images are 64x64 crops. Altered images are the same crops with a region that was
upsampled, recompressed or noised. The dataset shows that the whole workflow works; what a detector
learns from it says nothing about real forgeries.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tfdetect.core.files import staged
from tfdetect.imaging.photographs import photograph

SIDE = 64  # of a crop, in pixels
PAIRS = 160  # crops of each photograph, each once authentic and once altered
PHOTOS = {
    "train": ("astronaut", "chelsea", "motorcycle_left", "hubble_deep_field", "ihc", "china"),
    "validation": ("coffee", "retina"),
    "test": ("rocket", "flower", "grace_hopper"),
}


def build(folder: Path) -> Path:
    """Write the dataset into a folder, whole or not at all, and return the folder."""
    with staged(folder) as new:
        for split, photos in PHOTOS.items():
            for number, name in enumerate(photos):
                rng = np.random.default_rng([len(split), number])
                _write_pairs(new / split, name, photograph(name), rng)
    return folder


def _write_pairs(folder: Path, stem: str, image: Image.Image, rng: np.random.Generator) -> None:
    authentic = folder / "authentic"
    authentic.mkdir(parents=True, exist_ok=True)
    fills = {"upsampled": _upsample, "recompressed": _recompress, "noised": _noise}
    for number in range(PAIRS):
        crop = _crop(image, rng)
        method = list(fills)[number % len(fills)]
        filled = fills[method](crop, rng)
        mask = _mask(rng)
        altered = Image.composite(filled, crop, mask)
        (folder / "altered" / method).mkdir(parents=True, exist_ok=True)
        crop.save(authentic / f"{stem}-{number:04d}.png")
        altered.save(folder / "altered" / method / f"{stem}-{number:04d}.png")


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a random square; flat ones (sky, black space) are drawn again, up to 100 times."""
    for _ in range(100):
        x = int(rng.integers(image.width - SIDE + 1))
        y = int(rng.integers(image.height - SIDE + 1))
        crop = image.crop((x, y, x + SIDE, y + SIDE))
        if np.asarray(crop, np.float32).std(axis=(0, 1)).mean() > 12:
            break
    return crop


def _mask(rng: np.random.Generator) -> Image.Image:
    """Return an ellipse over a quarter to nine tenths of the crop, with a soft edge."""
    radii = SIDE * rng.uniform(0.3, 0.6, 2)
    center = SIDE * rng.uniform(0.35, 0.65, 2)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse([*(center - radii), *(center + radii)], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(1))


def _upsample(crop: Image.Image, _rng: np.random.Generator) -> Image.Image:
    """Halve the crop and double it by repeating pixels, as the last layer of a generator does."""
    half = crop.resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX)
    return half.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _recompress(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Compress the crop as JPEG of low quality."""
    data = io.BytesIO()
    crop.save(data, "JPEG", quality=int(rng.integers(8, 24)))
    return Image.open(data).convert("RGB")


def _noise(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add noise, like that of another camera."""
    grain = rng.normal(0, rng.uniform(8, 16), (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(np.asarray(crop) + grain, 0, 255).astype(np.uint8))
