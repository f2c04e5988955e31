"""The images that a caller gives: paths, patterns, addresses, bytes of files, or pixels."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tfdetect.core import addresses
from tfdetect.core.errors import UserError
from tfdetect.core.files import TemporaryFolder
from tfdetect.data.image_files import ImageFiles, images_of

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    Image = str | Path | bytes | BinaryIO | np.ndarray | PIL.Image.Image


_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # of Pillow, that PNG can hold


@dataclass(frozen=True)
class GivenImages:
    """Images as files.

    Attributes:
        paths: paths of the files.
        names: names of the images for the caller.
        from_pixels: whether each image was given as pixels, not as a file.
        files: what was found where files were looked for, with entries for those at addresses.
    """

    paths: list[str]
    names: list[str]
    from_pixels: list[bool]
    files: ImageFiles


def find_given(images: Image | Iterable[Image], folder: TemporaryFolder) -> GivenImages:
    """Return the files of images; pixels are written into `folder` as PNG, bytes as they are.

    A file that is given twice comes once. Without pixels and bytes the folder is not made.

    Raises:
        UserError: a path does not exist, no image can be read, or an array is not an image.
    """
    given, seen = GivenImages([], [], [], ImageFiles()), set[object]()
    for number, image in enumerate(_each(images), 1):
        encoded = _encoded(image)
        if isinstance(image, str | Path):
            files = images_of(str(image))
            files.drop_repeated(seen)
            given.files.extend(files)
            paths, names = files.paths, [addresses.shown(path) for path in files.paths]
        elif encoded is not None:
            file = folder.path / f"image_{number:04d}"
            file.write_bytes(encoded)
            paths, names = [str(file)], [f"image {number}"]
        else:
            file = folder.path / f"image_{number:04d}.png"
            convert = _upright if _is_pil(image) else _from_array
            convert(image, number).save(file, compress_level=1)
            paths, names = [str(file)], [f"image {number}"]
        given.paths.extend(paths)
        given.names.extend(names)
        is_file = encoded is not None or isinstance(image, str | Path)
        given.from_pixels.extend([not is_file] * len(paths))
    if not given.paths:
        given.files.check()
    return given


def check_outside(masks: Path, images: Any) -> None:
    """Refuse a folder for masks below a folder of images, which would hold them next time."""
    folders = images if isinstance(images, list | tuple) else [images]
    for folder in (Path(each) for each in folders if isinstance(each, str | Path)):
        if folder.is_dir() and masks.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"The folder for masks, {masks}, is inside the folder of images {folder}: the next "
                "prediction would take the masks for images. Choose a folder outside of it."
            )


def _each(images: Any) -> Iterator[Any]:
    """Yield the single images, whether one was given, a list, or an array of several."""
    single = isinstance(images, str | Path | bytes | bytearray | memoryview | io.IOBase)
    if single or not isinstance(images, Iterable) or _is_pil(images):
        yield images
        return
    shape = getattr(images, "shape", None)
    if shape is not None and len(shape) in (2, 3):
        yield images
        return
    yield from images


def _encoded(image: Any) -> bytes | None:
    """Return the bytes of an encoded image, also of an open binary file; None of other kinds.

    Raises:
        UserError: the file was opened as text, or not for reading, or is closed.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, io.IOBase):
        return None
    try:
        content = image.read()
    except (OSError, ValueError) as error:
        raise UserError(f"An image cannot be read from an open file: {error}.") from error
    if not isinstance(content, bytes):
        raise UserError("An image is read from a file that was opened with mode 'rb', not as text.")
    return content


def _is_pil(image: Any) -> bool:
    from PIL import Image

    return isinstance(image, Image.Image)


def _upright(image: PIL.Image.Image, number: int) -> PIL.Image.Image:
    """Return a PIL image that PNG can hold, upright.

    Raises:
        UserError: it has no pixels, values without a range, or cannot be decoded.
    """
    from PIL import ImageOps

    if 0 in image.size:
        raise UserError(f"Image {number} has no pixels: its size is {image.size}.")
    if image.mode in ("F", "I"):
        raise UserError(
            f"Image {number} has the mode {image.mode!r}, whose values have no fixed range. Give a "
            "mode with 8 bits, such as RGB or L, or I;16."
        )
    try:
        upright = ImageOps.exif_transpose(image)
        upright.load()
    except (OSError, SyntaxError) as error:
        raise UserError(f"Image {number} cannot be decoded: {error}") from error
    if upright.mode == "La":  # Pillow converts it to this mode alone
        return upright.convert("LA")
    return upright if upright.mode in _PNG_MODES else upright.convert("RGB")


def _from_array(image: Any, number: int) -> PIL.Image.Image:
    """Return a PIL image of an array of pixels.

    Raises:
        UserError: it is no uint8 array of one image.
    """
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype.kind not in "biuf" or pixels.ndim == 0:  # a number is no image
        raise UserError(
            f"Image {number} is of type {type(image).__name__}. Give a path, a PIL image, an "
            "array of pixels or the bytes of a file."
        )
    if pixels.dtype != np.uint8:
        how = {"f": ". From values 0 to 1: (image * 255).round().astype('uint8')", "b": ""}.get(
            pixels.dtype.kind, ". If the values lie in 0 to 255: image.astype('uint8')"
        )
        raise UserError(
            f"Image {number} has values of type {pixels.dtype}. Give uint8 values from 0 to 255"
            f"{how}"
        )
    if pixels.size == 0:
        raise UserError(f"Image {number} has no pixels: its shape is {list(pixels.shape)}.")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise UserError(
            f"Image {number} has the shape {list(pixels.shape)}. Give [height, width, 3] (RGB), "
            "[height, width, 4] (RGBA) or [height, width] (gray)."
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
