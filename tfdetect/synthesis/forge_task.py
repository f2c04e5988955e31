"""Makes forgeries and writes their files, in any process or on any machine."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tfdetect.core.errors import ModelNotAvailable, UserError
from tfdetect.core.files import write_bytes
from tfdetect.synthesis.forge import COLUMNS, Row, forge
from tfdetect.synthesis.forgery_plan import Item
from tfdetect.synthesis.photos import Photo, identifier, load_photo
from tfdetect.synthesis.settings import Settings

if TYPE_CHECKING:
    from tfdetect.synthesis.autoencoder import Autoencoder

_LONGEST_SIDES = {"webp": 16_383, "jpg": 65_500}  # in pixels, by extension of the copies


@dataclass(frozen=True)
class ForgeTask:
    """Makes and writes forgeries, in this process, in another one or on another machine.

    Attributes:
        source: folder of the photographs.
        output: folder of the dataset.
        settings: how forgeries are made.
    """

    source: Path
    output: Path
    settings: Settings

    def load(self, name: str) -> Photo:
        """Read a photograph."""
        return load_photo(self.source, name, self.settings.size, self.settings.max_pixels)

    def make_all(self, items: list[Item]) -> list[Row]:
        """Make and write forgeries that need no network; return their rows."""
        return [self.make(item) for item in items]

    def make(self, item: Item, autoencoder: "Autoencoder | None" = None) -> Row:
        """Make and write one forgery; return its row, with an error if it failed.

        Raises:
            ModelNotAvailable: a network is missing, so that every other forgery would fail too.
            OSError: the disk is full or refuses access.
        """
        load = cache(self.load)
        try:
            photo = load(item.photo)
            _check_fits(photo, self.settings)
            forged, mask, row = forge(photo, item, self.settings, load, autoencoder)
            original, *others = forgery_files(self.output, row, self.settings)
            data = [
                _encode(mask.astype(np.uint8) * 255, self.settings, lossless=True),
                _encode(forged, self.settings),
            ]
            if not original.is_file():
                data.append(_encode(photo.pixels, self.settings))
                others.append(original)
        except ModelNotAvailable:
            raise
        except UserError as error:
            return self.failed(item, str(error))
        except Exception as error:  # libraries refuse odd images in many ways
            return self.failed(item, f"{item.photo}: {str(error)[:200] or type(error).__name__}")
        for path, encoded in zip(others, data):
            write_bytes(path, encoded)
        return row

    def check_written(self, row: Row) -> None:
        """Check that the files of a forgery that was made elsewhere are visible here.

        Raises:
            UserError: a file is missing.
        """
        if row["error"] or all(map(Path.is_file, forgery_files(self.output, row, self.settings))):
            return
        raise UserError(
            f"The files of {row['id']} were written on another machine, and are not in "
            f"{self.output}. It must be a folder that all machines see under the same path."
        )

    def failed(self, item: Item, error: str = "") -> Row:
        """Return the row of a forgery that cannot be made.

        Args:
            item: the forgery.
            error: the reason; by default that it ended its process.
        """
        error = error or f"{item.photo}: it ended the process that worked on it"
        return {**dict.fromkeys(COLUMNS), "id": item.id, "kind": item.kind,
                "source": item.photo, "fill": item.fill, "error": error}  # fmt: skip


# Makes forgeries elsewhere, for example on a cluster, and yields their rows.
MakeElsewhere = Callable[[ForgeTask, list[Item]], Iterable[Row]]


def forgery_files(output: Path, row: Row, settings: Settings) -> tuple[Path, Path, Path]:
    """Return the paths of original, mask and forgery of a row of the provenance."""
    extension, mask_extension = _extension(settings), _extension(settings, lossless=True)
    images = output / "images"
    return (
        images / f"{identifier(row['source'])}.original.{extension}",
        images / f"{row['id']}.mask.{mask_extension}",
        images / f"{row['id']}.{row['kind']}.{extension}",
    )


def _check_fits(photo: Photo, settings: Settings) -> None:
    """Refuse a photograph that is too small for the edge or too large for the file format."""
    height, width = photo.size
    if settings.edge > min(height, width) / 2 and settings.masks != ("whole",):
        raise UserError(
            f"{photo.name}: a soft edge of {settings.edge:g} pixels leaves next to nothing of a "
            f"region altered in {width}x{height} pixels. Choose --edge up to half of the shorter "
            "side"
        )
    extension = _extension(settings)
    longest, limit = max(photo.size), _LONGEST_SIDES.get(extension)
    if limit is not None and longest > limit:
        raise UserError(
            f"{photo.name}: a side has {longest:,} pixels; {extension.upper()} allows {limit:,}. "
            "Choose --encode png, or --size"
        )


def _extension(settings: Settings, lossless: bool = False) -> str:
    """Return the extension of image files; with `lossless`, of masks."""
    if settings.encode == "jpeg":
        return "png" if lossless else "jpg"
    return settings.encode


def _encode(pixels: np.ndarray, settings: Settings, lossless: bool = False) -> bytes:
    """Encode an image uint8 [H, W, 3], or a mask uint8 [H, W]."""
    data = io.BytesIO()
    image = Image.fromarray(pixels)
    extension = _extension(settings, lossless)
    if extension == "webp":
        image.save(data, "WEBP", lossless=True, method=2)
    elif extension == "png":
        image.save(data, "PNG")
    else:
        image.save(data, "JPEG", quality=settings.quality, subsampling=0)
    return data.getvalue()
