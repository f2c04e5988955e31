"""Where encoded images are stored: one file each, or records of TFRecord shards."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.text import ENCODED_BYTE, to_os
from tfdetect.data.catalog import Catalog
from tfdetect.imaging.formats import ImageError, file_problem, read_bytes
from tfdetect.imaging.graph import traced_as_written
from tfdetect.imaging.mask_coding import STANDARD, MaskCoding
from tfdetect.imaging.mask_in_graph import decode_mask_in_graph
from tfdetect.imaging.read import decoding_error

_MAX_RECORDS = 2**40  # more records than any shard holds
_BUFFER_BYTES = 2**20  # bytes of a shard read at a time


class Files:
    """Images that are files; an empty path means that there is no image.

    The paths are held as one string, so that a million of them take little memory.
    """

    def __init__(
        self,
        paths: pa.ChunkedArray | Sequence[str],
        folder: str = "",
        max_pixels: int = MAX_PIXELS,
    ):
        """Store the paths.

        Args:
            paths: paths of the files, none of them null, as `from_os` makes them.
            folder: folder to which the paths are relative; "" if they need none.
            max_pixels: images with more pixels are refused before they are decoded.
        """
        self.max_pixels = max_pixels
        self._problems: dict[int, str] = {}
        if not isinstance(paths, pa.ChunkedArray):
            paths = pa.chunked_array([pa.array(paths, pa.string())])
        array = paths.combine_chunks()
        ends, text = _buffers(array)
        if ENCODED_BYTE in text:
            paths = [os.fsencode(to_os(path)) for path in array.to_pylist()]
            ends, text = _buffers(pa.array(paths, pa.binary()))
        self._ends = tf.constant(ends - ends[0])
        # A constant of one element would be copied into every graph.
        with tf.device("CPU:0"):
            self._text = tf.Variable(text, trainable=False)
        self._folder = os.fsencode(f"{folder}/" if folder else "")

    @classmethod
    def checked(cls, paths: Sequence[str], max_pixels: int = MAX_PIXELS) -> "Files":
        """Return a source that never opens a device, a pipe, or a file of too many bytes."""
        problems = {
            index: problem for index, path in enumerate(paths)
            if (problem := file_problem(to_os(path), max_pixels)) is not None
        }  # fmt: skip
        usable = ["" if index in problems else path for index, path in enumerate(paths)]
        source = cls(usable, max_pixels=max_pixels)
        source._problems = problems
        return source

    def __len__(self) -> int:
        return int(self._ends.shape[0]) - 1

    def stream(self) -> tf.data.Dataset:
        """Return (index int64, item for `load`) of every image, in order."""
        item = traced_as_written(lambda index: (index, self.path(index)))
        return tf.data.Dataset.range(len(self)).map(item)

    def path(self, index: tf.Tensor) -> tf.Tensor:
        """Return the path of an image, a scalar string; "" if there is no image."""
        start, end = self._ends[index], self._ends[index + 1]
        name = tf.strings.substr(self._text, start, end - start)
        return tf.where(start == end, "", self._folder + name)

    @staticmethod
    def load(item: tf.Tensor) -> tf.Tensor:
        """Return the encoded image, a scalar string, of an item of the stream."""
        return tf.io.read_file(item)

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return os.fsdecode(self.path(index).numpy())

    def read(self, index: int) -> bytes:
        """Return the encoded image.

        Raises:
            OSError: The file cannot be read.
        """
        with open(self.name(index), "rb") as file:
            return file.read()

    def error(self, index: int) -> str | None:
        """Return why an image cannot be read, or None if it can."""
        if index in self._problems:
            return self._problems[index]
        try:
            return decoding_error(read_bytes(self.name(index), self.max_pixels), self.max_pixels)
        except ImageError as error:
            return str(error)


def _buffers(array: pa.Array) -> tuple[np.ndarray, bytes]:
    """Return the ends of an array's strings, int32 [n + 1] from 0 on, and all of them as one."""
    _, ends, text = array.buffers()
    ends = np.frombuffer(ends, np.int32)[array.offset :][: len(array) + 1]
    return ends, text.slice(ends[0], ends[-1] - ends[0]).to_pybytes() if text else b""


@dataclass(frozen=True)
class Records:
    """Images that are records of shards, sorted by shard.

    Attributes:
        shards: paths of the TFRecord files.
        shard: int64 [n], index into `shards`, in ascending order.
        record: int64 [n], number of the record in its shard.
        feature: name of the records' feature that holds the image.
        max_pixels: images with more pixels are refused before they are decoded.
    """

    shards: tuple[str, ...]
    shard: np.ndarray
    record: np.ndarray
    feature: str
    max_pixels: int

    @classmethod
    def of(
        cls, shard: pa.ChunkedArray, record: pa.ChunkedArray, feature: str, max_pixels: int
    ) -> "Records":
        """Build the source from Arrow columns: path of the shard and number of the record."""
        codes = shard.combine_chunks().dictionary_encode()
        numbers = codes.indices.to_numpy().astype(np.int64)
        names = tuple(codes.dictionary.to_pylist())
        return cls(names, numbers, record.to_numpy().astype(np.int64), feature, max_pixels)

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def lengths(self) -> np.ndarray:
        """Number of images in each shard, int64 [s]."""
        return np.bincount(self.shard, minlength=len(self.shards))

    def stream(self) -> tf.data.Dataset:
        """Return (index int64, item for `load`) of every image, in order, shard by shard."""
        starts = np.flatnonzero(np.diff(self.shard, prepend=-1))
        ends = np.append(starts, len(self))[1:]
        names = np.array(self.shards, str)[self.shard[starts]]
        numbers = tf.constant(self.record)

        @traced_as_written
        def load(name: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tuple:
            records = read_records(name[None])
            return tf.range(start, end), tf.gather(records, numbers[start:end])

        parts = tf.data.Dataset.from_tensor_slices((names, starts, ends))
        split = traced_as_written(lambda *part: tf.data.Dataset.from_tensor_slices(part))
        return parts.map(load).prefetch(1).flat_map(split)

    def load(self, item: tf.Tensor) -> tf.Tensor:
        """Return the encoded images, strings, of one item of the stream or of several."""
        features = {self.feature: tf.io.FixedLenFeature([], tf.string, default_value="")}
        if item.shape.rank:
            return tf.io.parse_example(item, features)[self.feature]
        return tf.io.parse_single_example(item, features)[self.feature]

    def name(self, index: int) -> str:
        """Return the shard and the number of an image, for messages."""
        return f"{self.shards[self.shard[index]]}, record {self.record[index]}"

    def read(self, index: int) -> bytes:
        """Return the encoded image.

        Raises:
            OSError: The shard cannot be read.
        """
        shard = self.shards[self.shard[index]]
        try:
            records = tf.data.TFRecordDataset(shard, buffer_size=_BUFFER_BYTES)
            item = records.skip(int(self.record[index])).take(1).get_single_element()
        except tf.errors.OpError as error:
            raise OSError(error.message) from error
        return self.load(item).numpy()

    def error(self, index: int) -> str | None:
        """Return why an image cannot be read, or None if it can."""
        try:
            return decoding_error(self.read(index), self.max_pixels)
        except OSError as error:
            return str(error)


def read_records(names: tf.Tensor) -> tf.Tensor:
    """Return every record of TFRecord files, string [n], one file after the other."""
    records = tf.data.TFRecordDataset(names, buffer_size=_BUFFER_BYTES)
    return records.batch(_MAX_RECORDS).get_single_element()


def image_source(catalog: Catalog, table: pa.Table, column: str = "path") -> Files | Records:
    """Return the source of the images of a table's rows.

    Args:
        catalog: the catalog that the table belongs to.
        table: rows of the catalog's table.
        column: "path" for the images, "mask" for their masks.
    """
    if "shard" in table.column_names:
        feature = "mask" if column == "mask" else "image"
        shards = catalog.paths(table, "shard")
        return Records.of(shards, table["record"], feature, catalog.max_pixels)
    if len(catalog.roots) == 1:
        (root,) = catalog.roots.values()
        return Files(pc.fill_null(table[column], ""), str(root), catalog.max_pixels)
    return Files(pc.fill_null(catalog.paths(table, column), ""), max_pixels=catalog.max_pixels)


@dataclass(frozen=True)
class Masks:
    """Masks of images, in the order of the images.

    Attributes:
        source: the encoded masks; "" where an image has none.
        codings: what the pixels of mask files mean.
        numbers: int64 [n], index into `codings` of each mask; None if there is one coding.
    """

    source: Files | Records
    codings: tuple[MaskCoding, ...] = (STANDARD,)
    numbers: np.ndarray | None = None

    def load(self, index: tf.Tensor, item: tf.Tensor) -> tf.Tensor:
        """Return the mask of an image.

        Args:
            index: int64 scalar, of the image.
            item: item of the images' stream.

        Returns:
            uint8 [H, W, 1], 1 where altered; [0, 0, 1] if the image has no mask.
        """
        if isinstance(self.source, Records):
            return self.decode(self.source.load(item), self.source.max_pixels)
        number = None if self.numbers is None else tf.gather(self.numbers, index)
        return read_mask(self.source.path(index), self.codings, number, self.source.max_pixels)

    @staticmethod
    def decode(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
        """Return a mask of a record from its bytes; see `load`."""
        return _unless_empty(data, lambda: decode_mask_in_graph(data, STANDARD, max_pixels))

    def error(self, index: int) -> str | None:
        """Return why a mask cannot be read, or None if it can."""
        return self.source.error(index)


def _unless_empty(text: tf.Tensor, load: Callable[[], tf.Tensor]) -> tf.Tensor:
    mask = tf.cond(text == "", lambda: tf.zeros([0, 0, 1], tf.uint8), load)
    mask.set_shape([None, None, 1])
    return mask


def read_mask(
    path: tf.Tensor,
    codings: tuple[MaskCoding, ...],
    number: tf.Tensor | None,
    max_pixels: int,
) -> tf.Tensor:
    """Read a mask file.

    Args:
        path: scalar string; "" if there is no mask.
        codings: what the pixels of mask files mean.
        number: integer scalar, which of the codings it is; None if there is one.
        max_pixels: masks with more pixels are refused before they are decoded.

    Returns:
        uint8 [H, W, 1], 1 where altered; [0, 0, 1] if there is no mask.
    """

    def with_coding(coding: MaskCoding) -> tf.Tensor:
        return _unless_empty(
            path, lambda: decode_mask_in_graph(tf.io.read_file(path), coding, max_pixels)
        )

    if number is None or len(codings) == 1:
        return with_coding(codings[0])
    return tf.switch_case(
        tf.cast(number, tf.int32), [partial(with_coding, coding) for coding in codings]
    )


def mask_source(catalog: Catalog, table: pa.Table) -> Masks:
    """Return the masks of a table's rows."""
    source = image_source(catalog, table, "mask")
    if isinstance(source, Records):  # `prepare` writes them in one coding
        return Masks(source)
    codings, numbers = mask_codings(catalog, table)
    return Masks(source, codings, numbers if len(codings) > 1 else None)


def mask_codings(catalog: Catalog, table: pa.Table) -> tuple[tuple[MaskCoding, ...], np.ndarray]:
    """Return the codings of a catalog's masks, and which one each row of a table has, int64 [n]."""
    known = catalog.masks
    codings = tuple(dict.fromkeys(found.coding for found in known.values())) or (STANDARD,)
    of_dataset = [codings.index(known[n].coding) if n in known else 0 for n in catalog.roots]
    datasets = pc.index_in(table["dataset"].cast(pa.string()), pa.array(list(catalog.roots)))
    return codings, np.array(of_dataset, np.int64)[datasets.to_numpy()]
