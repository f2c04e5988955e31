"""Write a dataset as TensorFlow Datasets shards, together with its catalog.

The result, `<output>/<name>/1.0.0`, can be read by `tfds.load`, by `tfds.builder_from_directory`,
and by tfdetect:

    <name>-<split>.tfrecord-00000-of-00004 ...   the records
    dataset_info.json features.json ...          metadata for TensorFlow Datasets
    catalog.parquet                              one row for each record
    dataset.yaml                                 the dataset spec
    prepared.json                                what it was made from
    shards.jsonl                                 records, bytes and checksum of each shard
    skipped.csv                                  files that were left out, and why

It is written under a temporary name and renamed when it is complete.
"""

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.files import checksum, csv_text, exchange, write_json, write_text
from tfdetect.core.journal import Journal, exclusive
from tfdetect.core.parsing import read_object
from tfdetect.core.provenance import provenance
from tfdetect.core.run import PARTIAL
from tfdetect.core.spec import CATALOG, PREPARED, SPLITS, DatasetSpec
from tfdetect.data.catalog import Catalog
from tfdetect.data.check_catalog import check_unusable
from tfdetect.data.masks import check_masks
from tfdetect.data.prepared_catalog import SHARDS
from tfdetect.data.shard_writer import (
    NO_FOREGROUND,
    TEXTS,
    Copies,
    RemoveBackground,
    ShardRow,
    ShardWriter,
)

_SHARD_COLUMNS = ("records", "bytes", "sha256", "skipped")  # of the journal of shards
_CHANGES = {
    "fingerprint": "from other data", "shard_bytes": "with another --shard-size",
    "copies": "with other copies (--size, --resize, --encode, --quality)",
    "foreground": "with another --foreground or --background",
}  # fmt: skip

Rows = dict[str, pa.Table]  # the rows of each shard
Written = dict[str, ShardRow]  # the rows of the journal, by shard
# Writes shards elsewhere, for example on a cluster, and yields the journal's row of each.
WriteElsewhere = Callable[[ShardWriter, Rows], Iterable[ShardRow]]


@dataclass(frozen=True)
class Prepared:
    """The result of preparing a dataset.

    Attributes:
        folder: the prepared dataset.
        images: number of images in it.
        shards: number of its shards.
        written: number of shards that were written now; the others existed.
        skipped: number of images that cannot be used and were left out.
    """

    folder: Path
    images: int
    shards: int
    written: int
    skipped: int


def write_shards(
    catalog: Catalog,
    spec: DatasetSpec,
    output: Path,
    copies: Copies,
    shard_bytes: int,
    workers: int,
    progress: bool = True,
    remove_background: RemoveBackground | None = None,
    elsewhere: WriteElsewhere | None = None,
) -> Prepared:
    """Write a dataset as shards; shards that exist already are kept.

    The shards of a complete dataset are checked, and damaged ones are written again.

    Args:
        catalog: the dataset.
        spec: its spec.
        output: folder for datasets; `<name>/1.0.0` is created in it.
        copies: how images are stored.
        shard_bytes: approximate size of a shard.
        workers: number of shards that are written at a time.
        progress: whether to show a progress bar.
        remove_background: applied to each image; see `ShardWriter`. `copies` says what it is.
        elsewhere: writes the shards; by default threads of this process do.

    Raises:
        UserError: Something else was prepared there, the dataset is prepared already, it is not
            clear what its masks mean, a file cannot be read any more, or writing failed.
    """
    name = re.sub(r"\W+", "_", spec.name)
    name = name if name[0].isalpha() else f"set_{name}"
    final = output / name / PREPARED
    _check_output(catalog, output, final.parent)
    check_masks(catalog.masks)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _writing_into(final.parent):
        table = _assign_shards(catalog, name, shard_bytes)
        parts = _by_shard(table)
        made_from = _made_from(catalog, copies, shard_bytes)
        folder, missing = _begin(final, parts, made_from)
        with_masks = bool(pc.any(table["mask"].is_valid()).as_py())
        writer = ShardWriter(catalog, folder, copies, with_masks, remove_background)
        journal = _journal(folder)
        if elsewhere is None:
            _write_missing(writer, missing, journal, workers, table.num_rows, progress)
        else:
            for row in elsewhere(writer, missing):
                _check_written(folder / row["shard"], row)
                journal.add(row)
        written = cast(Written, journal.read())
        skipped = [pair[1:] for shard in parts for pair in written[shard]["skipped"]]
        table = _written_rows(table, parts, written, copies)
        unusable = _unusable(catalog, spec, table.num_rows, skipped)
        if folder != final:
            _write_metadata(folder, name, spec, table, written, with_masks)
            _write_skipped(folder, catalog, skipped)
            write_json(folder / "prepared.json", {**made_from, **provenance()})
            exchange(folder, final)
    return Prepared(final, table.num_rows, len(parts), len(missing), len(unusable))


def _check_output(catalog: Catalog, output: Path, folder: Path) -> None:
    """Check that a dataset is not prepared yet, and that its shards get a folder of their own.

    Args:
        catalog: the dataset.
        output: folder for datasets.
        folder: the folder in it that is for this one.

    Raises:
        UserError: it is prepared already, or its own files are in one of the folders.
    """
    for root in catalog.roots.values():
        if output.resolve().is_relative_to(root.resolve()):
            raise UserError(
                f"The output {output} is inside the dataset's own folder, where the next command "
                "would take it for a class. Choose a folder outside of it."
            )
    if "shard" in catalog.table.column_names:
        raise UserError(f"{catalog.name} is prepared already. Start from its files.")
    if folder.resolve() in catalog.roots.values():
        raise UserError(f"{folder} is the dataset's own folder. Choose another --output.")


@contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    """Lock a folder, and turn write errors into messages that say what to do.

    Raises:
        UserError: another process writes into it, or writing failed.
    """
    try:
        with exclusive(folder):
            yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or getattr(error, "strerror", None) or error
        raise UserError(
            f"Writing to {folder} failed: {reason}. What was written is kept. Run the same "
            "command again to continue."
        ) from error


def _made_from(catalog: Catalog, copies: Copies, shard_bytes: int) -> dict[str, Any]:
    """Return the data and settings from which shards are made, as prepared.json has them."""
    stored = json.loads(json.dumps(asdict(copies)))
    return {
        "fingerprint": catalog.fingerprint(), "shard_bytes": shard_bytes,
        "foreground": stored.pop("foreground"), "copies": stored,
    }  # fmt: skip


def _journal(folder: Path) -> Journal:
    return Journal(folder / SHARDS, "shard", _SHARD_COLUMNS)


def _begin(final: Path, parts: Rows, made_from: dict[str, Any]) -> tuple[Path, Rows]:
    """Return the folder to write into, and the shards that are missing or damaged there.

    It is `final` if the dataset is complete. A complete one with damaged shards gets its temporary
    name again, because it is not finished until it is whole.
    """
    partial = final.with_name(f".{PREPARED}{PARTIAL}")
    complete = final.is_dir()
    folder = final if complete else partial
    folder.mkdir(exist_ok=True)
    _check_same(folder, made_from)
    known = cast(Written, _journal(folder).read())
    missing = {
        shard: rows for shard, rows in parts.items()
        if shard not in known or not _is_whole(folder / shard, known[shard], check=complete)
    }  # fmt: skip
    if complete and missing:
        folder = final.rename(partial)
    return folder, missing


def _check_same(folder: Path, made_from: dict[str, Any]) -> None:
    """Check that a folder was begun from the same data and settings, or note them there."""
    file = folder / "prepared.json"
    if not file.is_file():
        write_json(file, made_from)
        return
    before = read_object(file)
    if changed := [key for key, value in made_from.items() if before.get(key) != value]:
        raise UserError(
            f"{folder} was prepared {' and '.join(_CHANGES[key] for key in changed)}. Choose "
            "another --output, or remove it."
        )


def _assign_shards(catalog: Catalog, name: str, shard_bytes: int) -> pa.Table:
    """Return the catalog's table in the order of the records, with the column shard.

    The rows of a split are shuffled, so that each shard is a random sample of its split.
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


def _by_shard(table: pa.Table) -> Rows:
    codes = table["shard"].combine_chunks().dictionary_encode()
    starts = np.flatnonzero(np.diff(codes.indices.to_numpy(), prepend=-1))
    ends = [*starts[1:], table.num_rows]
    return {
        shard: table.slice(start, end - start)
        for shard, start, end in zip(codes.dictionary.to_pylist(), starts, ends)
    }


def _is_whole(path: Path, row: ShardRow, check: bool) -> bool:
    """Return whether a shard has the recorded size and, with `check`, the recorded checksum."""
    if not path.is_file() or path.stat().st_size != row["bytes"]:
        return False
    return not check or checksum(path) == row["sha256"]


def _write_missing(
    writer: ShardWriter, missing: Rows, journal: Journal, workers: int, total: int, progress: bool
) -> None:
    """Write shards in threads of this process; `total` is the number of images of all shards."""
    before = total - sum(rows.num_rows for rows in missing.values())
    stop = threading.Event()
    with (
        console.progress(total, "writing shards", "images", initial=before, shown=progress) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        tasks = [
            pool.submit(writer.write, shard, rows, bar, stop) for shard, rows in missing.items()
        ]
        try:
            for task in as_completed(tasks):
                journal.add(task.result())
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _check_written(path: Path, row: ShardRow) -> None:
    """Check that a shard that was written elsewhere is here.

    Raises:
        UserError: it is not.
    """
    if not _is_whole(path, row, check=False):
        raise UserError(
            f"{path} was written on another machine, and is not here. The output must be a folder "
            "that all machines see under the same path."
        )


def _written_rows(table: pa.Table, parts: Rows, written: Written, copies: Copies) -> pa.Table:
    """Return the catalog of what was written, with the column record: its number in the shard."""
    keep, start = np.ones(table.num_rows, bool), 0
    lost = np.zeros(table.num_rows, bool)
    for shard, rows in parts.items():
        keep[[start + number for number, *_ in written[shard]["skipped"]]] = False
        lost[[start + number for number in written[shard].get("lost_masks", ())]] = True
        start += rows.num_rows
    masks = pc.if_else(pa.array(lost), pa.scalar(None, pa.string()), table["mask"])
    table = with_columns(table, mask=masks)
    table = table.filter(pa.array(keep))
    codes = table["shard"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff([*starts, table.num_rows])
    record = np.arange(table.num_rows) - np.repeat(starts, lengths)
    table = table.append_column("record", pa.array(record.astype(np.int32)))
    if copies.size:
        for name, side in zip(("height", "width"), copies.size):
            sides = pa.array(np.full(table.num_rows, side, np.int32))
            table = with_columns(table, **{name: sides})
    if copies.encode != "keep" or copies.size:  # the records are re-encoded
        kind = "JPEG" if copies.encode == "jpeg" else "PNG"
        table = with_columns(table, format=pa.array([kind] * table.num_rows))
    return table


def _unusable(
    catalog: Catalog, spec: DatasetSpec, count: int, skipped: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """Return why images cannot be used, by their paths.

    Args:
        catalog: the dataset.
        spec: its spec.
        count: number of images that were written.
        skipped: paths of those that were not, and why.

    Raises:
        UserError: too many are damaged, or no image has a foreground.
    """
    found = {row["path"]: row["error"] for row in catalog.skipped.to_pylist()} | dict(skipped)
    damaged = {k: why for k, why in found.items() if not why.startswith(NO_FOREGROUND)}
    where = ", ".join(map(str, catalog.roots.values()))
    check_unusable(spec, where, damaged, count + len(found))
    if not count:
        raise UserError(f"No image of {where} has a foreground. The first: {skipped[0][1]}.")
    return found


def _write_metadata(
    folder: Path, name: str, spec: DatasetSpec, table: pa.Table, written: Written, masks: bool
) -> None:
    """Write the metadata of TensorFlow Datasets, the catalog and the spec."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=spec.class_names),
        **{text: tfds.features.Text() for text in TEXTS},
    }
    if masks:
        features["mask"] = tfds.features.Image(shape=(None, None, 1))
        features["mask_known"] = tfds.features.Scalar(np.bool_)
    infos = []
    for split in SPLITS:
        own = [written[s] for s in sorted(written) if s.startswith(f"{name}-{split}.")]
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
    prepared = DatasetSpec(
        name=name, title=spec.title, source=spec.source, shards=CATALOG,
        classes=spec.classes, authentic=spec.class_names[0], authentic_by=spec.authentic_by,
        generators=spec.generators, max_pixels=spec.max_pixels, experiment=spec.experiment,
        pretraining=spec.pretraining,
    )  # fmt: skip
    write_text(folder / "dataset.yaml", prepared.to_yaml())


def _write_skipped(folder: Path, catalog: Catalog, skipped: list) -> None:
    tables = catalog.skipped, catalog.left_out
    rows = [row for table in tables for row in zip(*(c.to_pylist() for c in table.columns))]
    text = csv_text([*rows, *skipped], ["path", "error"], for_people=False)
    write_text(folder / "skipped.csv", text)
