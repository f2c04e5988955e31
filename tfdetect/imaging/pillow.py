"""Opens image files with Pillow, of any size and without warnings. It needs no TensorFlow."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL import Image


@contextmanager
def opened(file: str | Path | BinaryIO) -> Iterator["Image.Image"]:
    """Open an image; its pixels are not decoded yet. HEIC needs pillow-heif.

    Args:
        file: path or open binary file.

    Yields:
        A Pillow image.

    Raises:
        PIL.UnidentifiedImageError: The file is not an image.
        OSError: The file cannot be read.
        Exception: The image is damaged; Pillow's plugins raise many kinds.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the catalog checks it
    register_heic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata does no harm
        with Image.open(file) as image:
            yield image


def upright_rgb(image: "Image.Image") -> "Image.Image":
    """Return a Pillow image as upright RGB.

    EXIF orientation is applied, alpha is dropped, and 16-bit pixels keep their upper 8 bits.

    Args:
        image: a Pillow image.

    Raises:
        ValueError: The pixels have 32 bits.
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
    """Return an encoded image re-encoded as upright RGB BMP; raises what `opened` raises."""
    result = io.BytesIO()
    with opened(io.BytesIO(data)) as image:
        upright_rgb(image).save(result, "BMP")
    return result.getvalue()


@cache
def register_heic() -> bool:
    """Register the HEIC format with Pillow; return False without pillow-heif."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
