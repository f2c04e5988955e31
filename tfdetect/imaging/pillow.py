"""Reads image files with Pillow, by the table of `formats`. It needs no TensorFlow."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core.errors import first_line
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.packages import with_extra
from tfdetect.imaging.formats import Header, ImageError, check_size, read_bytes
from tfdetect.imaging.headers import admitted

if TYPE_CHECKING:
    from PIL import Image

_PLUGINS = {  # of Pillow, by the container: no other one sees the bytes
    "JPEG": ("JPEG", "MPO"), "PNG": ("PNG",), "WebP": ("WEBP",), "BMP": ("BMP",), "GIF": ("GIF",),
    "TIFF": ("TIFF",), "PNM": ("PPM",), "AVIF": ("AVIF",), "HEIF": ("HEIF",),
}  # fmt: skip

_ORIENTATION = "tfdetect.orientation"  # in an opened image's `info`
_IN_EXIF = 0  # the plugin turns the image, and leaves in EXIF what is left to turn


@contextmanager
def opened(file: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> Iterator["Image.Image"]:
    """Open an image, for what its header and metadata say; its pixels are not decoded yet.

    Args:
        file: a path, or the bytes of a file.
        max_pixels: images with more pixels are refused.

    Yields:
        A Pillow image.

    Raises:
        ImageError: The file cannot be read, or the table refuses it.
        Exception: The image is damaged; Pillow's plugins raise many kinds.
    """
    data = file if isinstance(file, bytes) else read_bytes(file, max_pixels)
    with _opened(data, admitted(data, max_pixels), max_pixels) as image:
        yield image


@contextmanager
def _opened(data: bytes, header: Header, max_pixels: int) -> Iterator["Image.Image"]:
    from PIL import Image

    if header.container == "HEIF" and not register_heic():
        raise ImageError(f'HEIC needs pip install "{with_extra("heic")}"')
    Image.MAX_IMAGE_PIXELS = None  # the table limits them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata does no harm
        shown = _without(data, header.ignored)
        with Image.open(io.BytesIO(shown), formats=_PLUGINS[header.container]) as image:
            check_size(*image.size, max_pixels)  # a frame of a GIF may be larger than its canvas
            image.info[_ORIENTATION] = {"TIFF": 1, "AVIF": _IN_EXIF, "HEIF": _IN_EXIF}.get(
                header.container, header.orientation
            )
            yield image


def _without(data: bytes, parts: tuple[tuple[int, int], ...]) -> bytes:
    for start, stop in reversed(parts):
        data = data[:start] + data[stop:]
    return data


def read_rgb(
    file: str | Path | bytes, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> "Image.Image":
    """Return the pixels of an image file, upright, as RGB.

    Alpha is dropped: the stored color of a pixel counts, however transparent it is. Pixels of 16
    bits keep their upper 8. The first of several frames or pages is read, and what it leaves free
    of its canvas has the format's background color. Color profiles and gamma are not applied.

    Args:
        file: a path, or the bytes of a file.
        max_pixels: images with more pixels are refused.
        min_side: a JPEG may be decoded at a fraction of its size whose sides are at least this.

    Raises:
        ImageError: The file cannot be read, the table refuses it, or it is damaged.
    """
    data = file if isinstance(file, bytes) else read_bytes(file, max_pixels)
    header = admitted(data, max_pixels)
    try:
        with _opened(data, header, max_pixels) as image:
            if min_side is not None:
                image.draft("RGB", (min_side, min_side))
            return upright_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds
        reason = first_line(error)[:120]
        raise ImageError(f"damaged: {reason}") from error


def upright_rgb(image: "Image.Image") -> "Image.Image":
    """Return an image of `opened` as `read_rgb` does.

    Raises:
        ImageError: Its pixels have 32 bits.
        Exception: It is damaged; Pillow's plugins raise many kinds.
    """
    import numpy as np
    from PIL import Image

    scaled = image.mode == "I" and image.format == "PPM"  # Pillow scales deep PGM to 16 bits
    image = upright(image)
    if image.mode.startswith("I;16") or scaled:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError("pixels of 32 bits are not supported")
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: "Image.Image") -> "Image.Image":
    """Return an image of `opened` turned as the table's header says, in its own mode."""
    from PIL import ImageOps

    image.load()
    orientation = image.info.get(_ORIENTATION, 1)
    if orientation == _IN_EXIF:
        return ImageOps.exif_transpose(image)
    return turned(image, orientation)


def turned(image: "Image.Image", orientation: int) -> "Image.Image":
    """Return an image turned and mirrored as an orientation of EXIF, 1 to 8, says."""
    from PIL import Image

    turns = Image.Transpose
    turn = {
        2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE, 6: turns.ROTATE_270, 7: turns.TRANSVERSE, 8: turns.ROTATE_90,
    }.get(orientation)  # fmt: skip
    return image if turn is None else image.transpose(turn)


@cache
def register_heic() -> bool:
    """Register the HEIC format with Pillow; return False without pillow-heif."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True
