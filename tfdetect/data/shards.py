"""Writes a dataset as TensorFlow Datasets shards, with the catalog beside them.

The folder that is left, `<output>/<name>/1.0.0`, is what `tfds.load` and
`tfds.builder_from_directory` read, and what tfdetect reads:

    <name>-<split>.tfrecord-00000-of-00004 ...   the records
    dataset_info.json features.json ...          what TensorFlow Datasets knows of them
    catalog.parquet                            one row a record
    dataset.yaml                                 the dataset spec
    prepared.json                                what it was made from
    shards.jsonl                                 records, bytes and checksum of each shard
    skipped.csv                                  files that were left out, and why

It is written under a temporary name and renamed when whole.
"""

import csv
import hashlib
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.journal import Journal, exclusive
from tfdetect.core.provenance import provenance
from tfdetect.core.run import PARTIAL
from tfdetect.core.spec import CATALOG, PREPARED, SPLITS, DatasetSpec
from tfdetect.data.catalog import SHARDS, Catalog
from tfdetect.data.loading import WORKERS, load_mask
from tfdetect.data.sources import Files
from tfdetect.imaging.decode import decode
from tfdetect.imaging.geometry import resize
from tfdetect.imaging.read import read_image

_AS_THEY_ARE = ("JPEG", "PNG")  # other formats are stored as PNG: not every reader decodes them
_CHANGES = {
    "fingerprint": "from other data", "shard_bytes": "with another --shard-size",
    "copies": "with other copies (--size, --resize, --encode, --quality)",
}  # fmt: skip
_TEXTS = ("path", "dataset", "generator", "group")


@dataclass(frozen=True)
class Copies:
    """How images are stored: the files' own bytes, or other copies.

    Attributes:
        size: (height, width) in pixels; None leaves it.
        resize: as `data.resize` of an experiment, where `size` is given.
        encode: "keep", "png" or "jpeg".
        quality: of JPEG, 1 to 100.
    """

    size: tuple[int, int] | None = None
    resize: str = "crop"
    encode: str = "keep"
    quality: int = 95


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did: the folder, its numbers, and what was already there."""

    folder: Path
    images: int
    shards: int
    written: int
    skipped: int


def prepare(
    catalog: Catalog,
    spec: DatasetSpec,
    output: Path,
    copies: Copies,
    shard_bytes: int,
    workers: int,
    progress: bool = True,
) -> Prepared:
    """Writes the shards that are not there yet; those of a whole set are checked, and mended.

    Args:
        output: folder for datasets; `<name>/1.0.0` is made in it.
        shard_bytes: about how large a shard becomes.
        workers: shards written at a time.

    Raises:
        UserError: something else was prepared there, a file vanished, or writing failed.
    """
    name = re.sub(r"\W+", "_", spec.name)
    name = name if name[0].isalpha() else f"set_{name}"
    final = output / name / PREPARED
    partial = final.with_name(f".{PREPARED}{PARTIAL}")
    if final.parent.resolve() in catalog.roots.values():
        raise UserError(f"{final.parent} is the dataset's own folder. Choose another --output.")
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(final.parent):
            return _prepare(catalog, spec, name, final, partial, copies, shard_bytes, workers,
                            progress)  # fmt: skip
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or getattr(error, "strerror", None) or error
        raise UserError(
            f"Writing to {partial.parent} failed: {reason}. What was written is kept; the same "
            "command goes on."
        ) from error


def _prepare(
    catalog, spec, name, final, partial, copies, shard_bytes, workers, progress
) -> Prepared:
    made_from = {
        "fingerprint": catalog.fingerprint(), "shard_bytes": shard_bytes,
        "copies": json.loads(json.dumps(asdict(copies))),
    }  # fmt: skip
    folder = final if final.is_dir() else partial
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / SHARDS, "shard")
    if (folder / "prepared.json").is_file():
        info = json.loads((folder / "prepared.json").read_text())
        if changed := [key for key, value in made_from.items() if info.get(key) != value]:
            raise UserError(
                f"{folder} was prepared {' and '.join(_CHANGES[key] for key in changed)}. Choose "
                "another --output, or remove it."
            )
    else:
        write_text(folder / "prepared.json", json.dumps(made_from, indent=2))
    table = _assign(catalog, name, shard_bytes)
    parts = _parts(table)
    done = journal.read()
    whole = {
        shard: row for shard, row in done.items()
        if _is_whole(folder / shard, row, check=folder is final)
    }  # fmt: skip
    todo = {shard: part for shard, part in parts.items() if shard not in whole}
    before = table.num_rows - sum(len(p) for p in todo.values())
    progress_bar = console.progress(
        table.num_rows, "writing shards", "images", initial=before, shown=progress
    )
    stop = threading.Event()
    with progress_bar as bar, ThreadPoolExecutor(workers) as pool:
        write = _Writer(catalog, folder, copies, bool(pc.any(table["mask"].is_valid()).as_py()))
        tasks = [pool.submit(write, shard, part, bar, stop) for shard, part in todo.items()]
        try:
            for task in as_completed(tasks):
                journal.add(task.result())
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    done = journal.read()
    skipped = [pair[1:] for shard in parts for pair in done[shard]["skipped"]]
    table = _complete(table, parts, done, copies)
    _check_share(spec, skipped, table)
    if todo or folder is partial:
        _write_metadata(folder, name, spec, catalog, table, done, skipped, write.masks)
        write_text(folder / "prepared.json", json.dumps({**made_from, **provenance()}, indent=2))
    if folder is partial:
        partial.rename(final)
    return Prepared(final, table.num_rows, len(parts), len(todo), len(skipped))


def _assign(catalog: Catalog, name: str, shard_bytes: int) -> pa.Table:
    """The table in the order of the records, with the column shard.

    Rows of a split are shuffled, so that any shard is a sample of its split.
    """
    tables = []
    for number, split in enumerate(SPLITS):
        rows = catalog.split(split)
        if not rows.num_rows:
            continue
        rows = rows.take(np.random.default_rng(number).permutation(rows.num_rows))
        ends = np.cumsum(rows["size"].to_numpy())
        count = max(1, round(ends[-1] / shard_bytes))
        shard = np.minimum((ends - 1) * count // ends[-1], count - 1)
        _, shard = np.unique(shard, return_inverse=True)  # one large file may span several
        count = shard[-1] + 1
        names = pa.array([f"{name}-{split}.tfrecord-{i:05d}-of-{count:05d}" for i in range(count)])
        tables.append(rows.append_column("shard", names.take(pa.array(shard))))
    return pa.concat_tables(tables).combine_chunks()


def _parts(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each shard."""
    codes = table["shard"].combine_chunks().dictionary_encode()
    starts = np.flatnonzero(np.diff(codes.indices.to_numpy(), prepend=-1))
    ends = [*starts[1:], table.num_rows]
    return {
        shard: table.slice(start, end - start)
        for shard, start, end in zip(codes.dictionary.to_pylist(), starts, ends)
    }


def _is_whole(path: Path, row: dict, check: bool) -> bool:
    if not path.is_file() or path.stat().st_size != row["bytes"]:
        return False
    return not check or _checksum(path) == row["sha256"]


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Writer:
    """Writes one shard; several threads may at a time."""

    def __init__(self, catalog: Catalog, folder: Path, copies: Copies, masks: bool):
        self.masks = masks
        self._catalog, self._folder, self._copies = catalog, folder, copies
        text = tf.TensorSpec([], tf.string)
        signature = [text, text, tf.TensorSpec([], tf.bool)]
        # Traced once, not for every shard.
        self._encode = tf.function(self._encode_row, input_signature=signature)

    def __call__(
        self, shard: str, rows: pa.Table, bar: console.Progress, stop: threading.Event
    ) -> dict:
        """Returns the shard's name, records, bytes, sha256 and skipped (row, path, error)."""
        temporary = self._folder / f".{shard}{PARTIAL}"
        written = np.zeros(rows.num_rows, bool)
        columns = {name: rows[name].to_pylist() for name in ("label", *_TEXTS)}
        known = np.logical_or(rows["mask"].is_valid(), np.equal(rows["label"], 0))
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for numbers, images, _, masks in self._encoded(rows).as_numpy_iterator():
                if stop.is_set():
                    raise KeyboardInterrupt
                for number, image, mask in zip(numbers, images, masks):
                    features = {
                        "image": _bytes(image), "label": _number(columns["label"][number]),
                        **{name: _bytes((columns[name][number] or "").encode()) for name in _TEXTS},
                    }  # fmt: skip
                    if self.masks:
                        features |= {"mask": _bytes(mask), "mask_known": _number(known[number])}
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    writer.write(example.SerializeToString(deterministic=True))
                written[numbers] = True
                bar.advance(len(numbers))
        size, digest = temporary.stat().st_size, _checksum(temporary)
        os.replace(temporary, self._folder / shard)
        return {"shard": shard, "records": int(written.sum()), "bytes": size, "sha256": digest,
                "skipped": self._skipped(rows, written)}  # fmt: skip

    def _encoded(self, rows: pa.Table) -> tf.data.Dataset:
        """Batches of the row's number, the encoded image, its shape, and the encoded mask.

        The mask is "" in a dataset without masks.
        """
        masks = pc.fill_null(self._catalog.paths(rows, "mask"), "")
        as_it_is = pc.is_in(rows["format"], pa.array(_AS_THEY_ARE))
        files, masks = Files(self._catalog.paths(rows)), Files(masks)
        as_it_is = tf.constant(np.asarray(as_it_is))

        def encode(number: tf.Tensor) -> tuple:
            row = files.path(number), masks.path(number), as_it_is[number]
            return number, *self._encode(*row)

        encoded = tf.data.Dataset.range(rows.num_rows).map(encode, WORKERS)
        return encoded.ignore_errors().batch(64).prefetch(1)

    def _encode_row(self, path: tf.Tensor, mask: tf.Tensor, as_it_is: tf.Tensor) -> tuple:
        data = read_image(path)
        image = decode(data)  # in any case: what cannot be decoded is left out
        if self._copies.size:
            image = resize(image, self._copies.size, self._copies.resize)
        if self._copies.encode == "jpeg":
            data = tf.io.encode_jpeg(image, "rgb", self._copies.quality)
        elif self._copies.encode == "png" or self._copies.size:
            data = tf.io.encode_png(image)
        else:
            data = tf.cond(as_it_is, lambda: data, lambda: tf.io.encode_png(image))
        # The shape is given so that decoding is not optimized away.
        return data, tf.shape(image), self._draw(mask, image) if self.masks else tf.constant("")

    def _draw(self, mask: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        drawn = tf.cond(
            mask == b"",
            lambda: tf.zeros_like(image)[..., :1],
            lambda: load_mask(read_image(mask), self._copies.size, self._copies.resize),
        )
        return tf.io.encode_png(drawn * 255)

    def _skipped(self, rows: pa.Table, written: np.ndarray) -> list[tuple[int, str, str]]:
        """Number, path and reason of the rows that were not written."""
        lost = np.flatnonzero(~written)
        rows = rows.take(lost)
        result = []
        for column in ("path", "mask"):
            for number, path, file in zip(
                lost.tolist(), rows["path"].to_pylist(),
                self._catalog.paths(rows, column).to_pylist(),
            ):  # fmt: skip
                if file and not os.access(file, os.R_OK):
                    raise UserError(
                        f"{file} could be read before, and cannot now. What was written is kept; "
                        "the same command goes on, or starts anew if the data changed."
                    )
                if column == "path":
                    result.append((number, path, "TensorFlow cannot decode it or its mask"))
        return result


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _number(value: int | np.bool_) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))


def _complete(
    table: pa.Table, parts: dict[str, pa.Table], done: dict[str, dict], copies: Copies
) -> pa.Table:
    """The catalog of what was written, with the column record: its number in the shard."""
    keep, start = np.ones(table.num_rows, bool), 0
    for shard, part in parts.items():
        keep[[start + number for number, *_ in done[shard]["skipped"]]] = False
        start += part.num_rows
    table = table.filter(pa.array(keep))
    codes = table["shard"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff([*starts, table.num_rows])
    record = np.arange(table.num_rows) - np.repeat(starts, lengths)
    table = table.append_column("record", pa.array(record.astype(np.int32)))
    if copies.size:
        for name, side in zip(("height", "width"), copies.size):
            sides = pa.array(np.full(table.num_rows, side, np.int32))
            table = table.set_column(table.column_names.index(name), name, sides)
    if copies.encode != "keep" or copies.size:  # re-encoded pixels are another file's
        kind = "JPEG" if copies.encode == "jpeg" else "PNG"
        formats = pa.array([kind] * table.num_rows)
        table = table.set_column(table.column_names.index("format"), "format", formats)
    return table


def _check_share(spec: DatasetSpec, skipped: list, table: pa.Table) -> None:
    total = table.num_rows + len(skipped)
    if len(skipped) > max(2, spec.max_unreadable_fraction * total):
        examples = "\n".join(f"  {path}: {error}" for path, error in skipped[:5])
        raise UserError(
            f"{len(skipped)} of {total} images cannot be decoded, more than the allowed share of "
            f"{spec.max_unreadable_fraction:.0%} (max_unreadable_fraction in the dataset spec):\n{examples}"
        )


def _write_metadata(
    folder: Path, name: str, spec: DatasetSpec, catalog: Catalog, table: pa.Table,
    done: dict[str, dict], skipped: list, masks: bool,
) -> None:  # fmt: skip
    """Writes all but the shards."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=spec.class_names),
        **{name: tfds.features.Text() for name in _TEXTS},
    }
    if masks:
        features["mask"] = tfds.features.Image(shape=(None, None, 1))
        features["mask_known"] = tfds.features.Scalar(np.bool_)
    infos = []
    for split in SPLITS:
        own = [done[s] for s in sorted(done) if s.startswith(f"{name}-{split}.")]
        if own:
            infos.append(tfds.core.SplitInfo(
                name=split, shard_lengths=[row["records"] for row in own],
                num_bytes=sum(row["bytes"] for row in own),
            ))  # fmt: skip
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=tfds.features.FeaturesDict(features), split_infos=infos,
        version=PREPARED, check_data=False, description=spec.title or spec.name,
        homepage=spec.source.homepage, license=spec.source.license,
    )  # fmt: skip
    pq.write_table(table, folder / CATALOG)
    written = DatasetSpec(
        name=name, title=spec.title, source=spec.source, shards=CATALOG,
        classes=spec.classes, generators=spec.generators, max_pixels=spec.max_pixels,
        experiment=spec.experiment,
    )  # fmt: skip
    write_text(folder / "dataset.yaml", written.to_yaml())
    with open(folder / "skipped.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "error"])
        rows.writerows(zip(*(catalog.skipped[c].to_pylist() for c in ("path", "error"))))
        rows.writerows(skipped)
