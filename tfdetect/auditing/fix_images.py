"""Writes the images of a fixed copy in one format, and their masks as PNG."""

import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from tfdetect.auditing.fix_selection import JPEG_BLOCK, Selection
from tfdetect.core.text import below, to_os
from tfdetect.data.catalog import Catalog
from tfdetect.data.parallel import read_all
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.headers import read_header
from tfdetect.imaging.mask_coding import STANDARD, MaskCoding, MaskError, decode_mask
from tfdetect.imaging.pillow import read_rgb

if TYPE_CHECKING:
    from PIL import Image


class MaskSource(NamedTuple):
    """What is needed to read a mask.

    Attributes:
        image: path of the image that the mask belongs to.
        coding: what the values of its pixels mean.
    """

    image: str
    coding: MaskCoding


class ImageToWrite(NamedTuple):
    """An image or a mask of the copy.

    Attributes:
        source: path of the original file.
        target: path of the file to write.
        mask: how the mask is read; None for an image.
    """

    source: str
    target: str
    mask: MaskSource | None = None


def write_images(
    catalog: Catalog, selection: Selection, classes: tuple[str, ...], folder: Path, progress: bool
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Write every selected image as JPEG, and every mask as PNG, 255 where altered.

    File names are numbers by a hash of the content, so that they cannot leak the label.

    Args:
        catalog: the dataset.
        selection: the images to write.
        classes: names of the classes, in label order; each gets a folder.
        folder: folder of the copy.
        progress: whether to show progress.

    Returns:
        The paths of images and of masks (null without one) below the folder, and whether image
        and mask were written, bool; each [n], for the rows of the selection.
    """
    table = selection.table
    numbers = np.argsort(np.argsort(table["hash"].to_numpy(), kind="stable")).tolist()
    stems = [f"{classes[c]}/{number:07}" for c, number in zip(table["label"].to_pylist(), numbers)]
    images, masks = (catalog.paths(table, name).to_pylist() for name in ("path", "mask"))
    image_targets = [f"images/{stem}.jpg" for stem in stems]
    mask_targets = [mask and f"masks/{stem}.png" for stem, mask in zip(stems, masks)]
    codings = {name: known.coding for name, known in catalog.masks.items()}
    todo = [
        ImageToWrite(to_os(image), str(folder / target))
        for image, target in zip(images, image_targets)
    ]
    todo += [
        ImageToWrite(to_os(mask), str(folder / target),
                     MaskSource(to_os(image), codings.get(dataset, STANDARD)))
        for mask, target, image, dataset in zip(
            masks, mask_targets, images, table["dataset"].to_pylist()
        ) if mask
    ]  # fmt: skip
    for name in {target.rpartition("/")[0] for target in [*image_targets, *mask_targets] if target}:
        below(folder, name).mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("target", pa.string()), ("written", pa.bool_())])
    write = partial(write_cropped, selection.side, selection.quality, catalog.max_pixels)
    results = read_all(write, todo, schema, "writing images", progress, _not_written)
    written = dict(zip(results["target"].to_pylist(), results["written"].to_pylist()))
    complete = [
        all(written[str(folder / target)] for target in targets if target)
        for targets in zip(image_targets, mask_targets)
    ]
    return (
        pa.array(image_targets, pa.string()),
        pa.array(mask_targets, pa.string()),
        pa.array(complete, pa.bool_()),
    )


def _not_written(item: ImageToWrite) -> tuple[str, bool]:
    """Return the result for an image that ends the process that writes it."""
    return item.target, False


def write_cropped(
    side: int | None, quality: int, max_pixels: int, item: ImageToWrite
) -> tuple[str, bool]:
    """Crop the center of an image or a mask and write it.

    Args:
        side: side of the crop in pixels; None keeps the whole image. The crop begins at a multiple
            of 8 pixels, so that the grid of JPEG's blocks does not move.
        quality: JPEG quality, 1 to 100.
        max_pixels: images with more pixels are not read.
        item: what is written.

    Returns:
        The target, and whether it was written: not if the source cannot be read any more.
    """
    try:
        if item.mask is None:
            picture = read_rgb(item.source, max_pixels)
        else:
            picture = _read_mask(item.source, item.mask, max_pixels)
        if side:
            left, top = ((length - side) // 2 // JPEG_BLOCK * JPEG_BLOCK for length in picture.size)
            picture = picture.crop((left, top, left + side, top + side))
        data = io.BytesIO()
        if item.mask is None:
            picture.save(data, "JPEG", quality=quality)
        else:
            picture.save(data, "PNG")
    except (ImageError, MaskError):  # broken since the audit
        return item.target, False
    Path(item.target).write_bytes(data.getvalue())
    return item.target, True


def _read_mask(path: str, mask: MaskSource, max_pixels: int) -> "Image.Image":
    """Return a mask at the size of its image, 255 where altered and 0 elsewhere."""
    from PIL import Image

    data = read_bytes(path, max_pixels)
    pixels = Image.fromarray(decode_mask(data, mask.coding, max_pixels) * 255)
    size = read_header(read_bytes(mask.image, max_pixels)).upright
    return pixels if pixels.size == size else pixels.resize(size, Image.Resampling.NEAREST)
