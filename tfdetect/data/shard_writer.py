"""Encode the images of a dataset and write them as TFRecord shards, one at a time."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.data_settings import Resize
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.files import checksum
from tfdetect.core.run import PARTIAL
from tfdetect.core.text import from_os
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import WORKERS
from tfdetect.data.mask_views import view_mask
from tfdetect.data.sources import Files, mask_codings, read_mask
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.geometry import resize
from tfdetect.imaging.graph import traced_as_written
from tfdetect.imaging.read import decode_any, decoding_error

TEXTS = ("path", "dataset", "generator", "group")  # columns that each record stores as text
_KEPT_FORMATS = ("JPEG", "PNG")  # others are stored as PNG, since not every reader decodes them
_BATCH = 64  # images between two looks at the stop signal
ENCODINGS = ("keep", "png", "jpeg")  # of copies
NO_FOREGROUND = "no foreground: "  # begins the reason why an image is left out

# Returns an image uint8 [H, W, 3] without its background, given its path.
RemoveBackground = Callable[[str, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Copies:
    """How images are stored: with the bytes of their files, or re-encoded.

    Attributes:
        size: (height, width) in pixels; None keeps the images' own.
        resize: how to resize to `size`; see `geometry.resize`.
        encode: "keep" for the bytes of the files, "png" or "jpeg".
        quality: quality of JPEG, 1 to 100.
        foreground: how what stays of each image is found, and what takes the background's place,
            in words; None for whole images.

    Raises:
        UserError: a value is not allowed.
    """

    size: tuple[int, int] | None = None
    resize: str = "crop"
    encode: str = "keep"
    quality: int = 95
    foreground: str | None = None

    def __post_init__(self) -> None:
        if self.encode not in ENCODINGS:
            raise unknown("encoding of copies", self.encode, ENCODINGS)
        if self.resize not in get_args(Resize):
            raise unknown("way to resize", self.resize, get_args(Resize))
        if self.size is not None and min(self.size) < 1:
            raise UserError(f"The size of copies must be at least 1 pixel. Received: {self.size}.")
        if not 1 <= self.quality <= 100:
            raise UserError(f"The quality of JPEG is from 1 to 100. Received: {self.quality}.")


class ShardRow(TypedDict):
    """The row of a written shard in the journal."""

    shard: str  # name of its file
    records: int
    bytes: int
    sha256: str
    skipped: list[tuple[int, str, str]]  # images left out: number of the row, path, error
    # Numbers of the rows of fakes of which the copy shows no altered pixel, so that their mask is
    # not known; not in journals of earlier versions.
    lost_masks: NotRequired[list[int]]


class ShardWriter:
    """Writes shards; several threads may use it at a time.

    Attributes:
        catalog, folder, copies, with_masks: what it was made of.
    """

    def __init__(
        self, catalog: Catalog, folder: Path, copies: Copies, with_masks: bool,
        remove_background: RemoveBackground | None = None,
    ):  # fmt: skip
        """Prepare for writing.

        Args:
            catalog: the dataset.
            folder: folder for the shards.
            copies: how images are stored.
            with_masks: whether records hold masks.
            remove_background: applied to each decoded image; where it raises `UserError`, the
                image is left out.
        """
        self.with_masks = with_masks
        self.catalog, self.folder, self.copies = catalog, folder, copies
        self._remove_background = remove_background
        self._without_foreground: dict[str, str] = {}  # why, by path
        self._codings, _ = mask_codings(catalog, catalog.table.slice(0, 0))
        text, number = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
        signature = [text, text, number, tf.TensorSpec([], tf.bool)]
        # Traced once, not for every shard.
        self._encode = tf.function(self._encode_row, input_signature=signature, autograph=False)

    def write(
        self, shard: str, rows: pa.Table, bar: console.Progress, stop: threading.Event
    ) -> ShardRow:
        """Write one shard, whole or not at all.

        Args:
            shard: name of its file.
            rows: rows of the catalog's table, one for each record.
            bar: counts written images.
            stop: ends the writing when it is set.

        Raises:
            UserError: A file cannot be read any more.
        """
        temporary = self.folder / f".{shard}{PARTIAL}"
        written = np.zeros(rows.num_rows, bool)
        columns = {name: rows[name].to_pylist() for name in ("label", *TEXTS)}
        authentic = np.equal(rows["label"], 0)
        shows = np.zeros(rows.num_rows, bool)  # an altered pixel
        with tf.io.TFRecordWriter(str(temporary)) as records:
            for numbers, images, _, masks, altered in self._encoded(rows).as_numpy_iterator():
                shows[numbers] = altered
                if stop.is_set():
                    raise KeyboardInterrupt
                for number, image, mask in zip(numbers, images, masks):
                    features = {
                        "image": _bytes(image), "label": _number(columns["label"][number]),
                        **{name: _bytes((columns[name][number] or "").encode()) for name in TEXTS},
                    }  # fmt: skip
                    if self.with_masks:
                        known = _number(authentic[number] | shows[number])
                        features |= {"mask": _bytes(mask), "mask_known": known}
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    records.write(example.SerializeToString(deterministic=True))
                written[numbers] = True
                bar.advance(len(numbers))
        size, digest = temporary.stat().st_size, checksum(temporary)
        os.replace(temporary, self.folder / shard)
        masked = rows["mask"].is_valid().to_numpy(zero_copy_only=False)
        return {"shard": shard, "records": int(written.sum()), "bytes": size, "sha256": digest,
                "skipped": self._skipped(rows, written),
                "lost_masks": np.flatnonzero(masked & written & ~shows).tolist()}  # fmt: skip

    def _encoded(self, rows: pa.Table) -> tf.data.Dataset:
        """Return batches of number of the row, image, its shape, mask, and whether it is not empty.

        Image and mask are encoded; the mask is "" if records hold no masks.
        """
        images = Files(self.catalog.paths(rows))
        masks = Files(pc.fill_null(self.catalog.paths(rows, "mask"), ""))
        codings = tf.constant(mask_codings(self.catalog, rows)[1])
        kept = tf.constant(np.asarray(pc.is_in(rows["format"], pa.array(_KEPT_FORMATS))))

        @traced_as_written
        def encode(number: tf.Tensor) -> tuple:
            row = images.path(number), masks.path(number), codings[number], kept[number]
            return number, *self._encode(*row)

        encoded = tf.data.Dataset.range(rows.num_rows).map(encode, WORKERS)
        return encoded.ignore_errors().batch(_BATCH).prefetch(1)

    def _encode_row(
        self, path: tf.Tensor, mask: tf.Tensor, coding: tf.Tensor, kept: tf.Tensor
    ) -> tuple:
        data = tf.io.read_file(path)
        # Always: an image that cannot be decoded is left out.
        whole = image = decode_any(data, self.catalog.max_pixels)
        if self._remove_background:
            whole = image = tf.numpy_function(self._foreground, [path, image], tf.uint8)
            image.set_shape([None, None, 3])
        if self.copies.size:
            image = resize(whole, self.copies.size, self.copies.resize)
        if self.copies.encode == "jpeg":
            data = tf.io.encode_jpeg(image, "rgb", self.copies.quality)
        elif self.copies.encode == "png" or self.copies.size:
            data = tf.io.encode_png(image)
        else:
            data = tf.cond(kept, lambda: data, lambda: tf.io.encode_png(image))
        # The shape is returned so that decoding is not optimized away.
        if not self.with_masks:
            return data, tf.shape(image), tf.constant(""), tf.constant(False)
        return data, tf.shape(image), *self._encode_mask(mask, coding, whole)

    def _foreground(self, path: bytes, image: np.ndarray) -> np.ndarray:
        assert self._remove_background is not None
        file = from_os(os.fsdecode(path))
        try:
            return self._remove_background(file, image)
        except Exception as error:  # networks refuse an odd image in many ways; others go on
            self._without_foreground[file] = str(error)
            raise

    def _encode_mask(self, path: tf.Tensor, coding: tf.Tensor, image: tf.Tensor) -> tuple:
        """Return the encoded mask, 255 where altered, and whether an altered pixel is in it."""
        mask = read_mask(path, self._codings, coding, self.catalog.max_pixels)
        if self.copies.size:
            mask = view_mask(mask, image, self.copies.size, self.copies.resize)
        else:
            mask = tf.cond(tf.size(mask) == 0, lambda: tf.zeros_like(image[..., :1]), lambda: mask)
        altered = mask == 1
        return tf.io.encode_png(tf.cast(altered, tf.uint8) * 255), tf.reduce_any(altered)

    def _skipped(self, rows: pa.Table, written: np.ndarray) -> list[tuple[int, str, str]]:
        """Return number, path and reason of the rows that were not written."""
        missing = np.flatnonzero(~written)
        rows = rows.take(missing)
        for column in ("path", "mask"):
            for file in self.catalog.files(rows, column):
                if file and not os.access(file, os.R_OK):
                    raise UserError(
                        f"{file} could be read before, and cannot be read now. What was written "
                        "is kept. Run the same command again to continue; it starts over if the "
                        "data changed."
                    )
        files = self.catalog.paths(rows).to_pylist()
        return [
            (number, path, self._reason(file))
            for number, path, file in zip(missing.tolist(), rows["path"].to_pylist(), files)
        ]

    def _reason(self, file: str) -> str:
        limit = self.catalog.max_pixels
        if reason := self._without_foreground.get(file):
            return NO_FOREGROUND + reason
        try:
            return decoding_error(read_bytes(file, limit), limit) or "its mask cannot be decoded"
        except ImageError as error:
            return str(error)


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _number(value: int | np.bool_) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
