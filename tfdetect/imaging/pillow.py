"""Opens image files with Pillow, of any size and without warnings; no TensorFlow."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO


@contextmanager
def opened(file: str | Path | BinaryIO) -> Iterator:
    """A Pillow image, its pixels not yet decoded; HEIC too where pillow-heif is installed.

    Raises:
        PIL.UnidentifiedImageError: not an image.
        OSError: the file cannot be read.
        Exception: of many kinds, of a damaged image.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the catalog checks it
    knows_heic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata is none of our business
        with Image.open(file) as image:
            yield image


def upright_rgb(image):
    """A Pillow image turned as its EXIF says, in RGB: alpha dropped, of 16 bits the upper 8.

    Raises:
        ValueError: its pixels have 32 bits.
    """
    import numpy as np
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits are not supported")
    return image.convert("RGB")


def as_bmp(data: bytes) -> bytes:
    """An encoded image as BMP, by `upright_rgb`; raises what `opened` does."""
    result = io.BytesIO()
    with opened(io.BytesIO(data)) as image:
        upright_rgb(image).save(result, "BMP")
    return result.getvalue()


@cache
def knows_heic() -> bool:
    """Teaches Pillow HEIC, in which telephones photograph; False without pillow-heif."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
