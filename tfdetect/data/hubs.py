"""Unpack datasets of TensorFlow Datasets and Hugging Face into a folder with a manifest.

Names are `tfds:<name>` and `hf:<name>`, or paths to a dataset that was prepared before:
`tfds:path/to/name/1.0.0`, `hf:path/to/saved`. The files have the bytes that the dataset stores.
This is done once; afterwards only the folder is needed.
"""

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tfdetect.core import console
from tfdetect.core.caches import cache_dir
from tfdetect.core.disk import disk_error
from tfdetect.core.errors import UserError, first_line
from tfdetect.core.files import staged
from tfdetect.core.folder_names import split_of
from tfdetect.core.text import below, user_path
from tfdetect.imaging.formats import read_bytes

PREFIXES = ("tfds:", "hf:")
_EXTENSIONS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp", b"GI": "gif"}


def unpack(name: str) -> str:
    """Return the manifest of a hub's dataset, which is unpacked first if necessary.

    Args:
        name: `tfds:<name>` or `hf:<name>`; other names are returned unchanged.

    Raises:
        UserError: The library is not installed, the dataset is not available, or it has no
            image and class label.
    """
    if not name.startswith(PREFIXES):
        return name
    folder = cache_dir() / "datasets" / re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    manifest = folder / "manifest.parquet"
    if manifest.is_file():
        return str(manifest)
    kind, _, text = name.partition(":")
    console.log(f"Downloading {name} into {folder} ...")
    try:
        with staged(folder) as new:
            rows = []
            source = _tfds(text) if kind == "tfds" else _hugging_face(text)
            for split, number, data, label in source:
                path = f"{split}/{number:07d}.{_EXTENSIONS.get(data[:2], 'png')}"
                below(new, path).parent.mkdir(exist_ok=True)
                (new / path).write_bytes(data)
                rows.append((path, label, split_of(split) or "train"))
            table = pa.table(list(zip(*rows)), ["path", "label", "split"])
            pq.write_table(table, new / "manifest.parquet")
    except UserError:
        raise
    except Exception as error:  # both libraries raise errors of many kinds
        if disk_error(error):
            raise
        reason = first_line(error)[:200]
        raise UserError(
            f"{name} could not be unpacked: {reason}\nPrepare it on a machine with a network and "
            f"give its folder: {kind}:path/to/it."
        ) from error
    return str(manifest)


def _tfds(text: str) -> Iterator[tuple[str, int, bytes, str]]:
    """Yield split, number, encoded image and class name of a TensorFlow Datasets dataset."""
    import tensorflow_datasets as tfds

    if user_path(text).is_dir():
        builder = tfds.builder_from_directory(str(user_path(text)))
    else:
        builder = tfds.builder(text)
        builder.download_and_prepare()
    features = builder.info.features
    image = _only(text, {k for k, f in features.items() if isinstance(f, tfds.features.Image)},
                  "image")  # fmt: skip
    label = _only(
        text, {k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)}, "label"
    )
    for split in builder.info.splits:
        data = builder.as_dataset(split=split, decoders={image: tfds.decode.SkipDecoding()})
        for number, row in enumerate(data):
            name = features[label].int2str(int(row[label]))
            yield split, number, row[image].numpy(), name


def _hugging_face(text: str) -> Iterator[tuple[str, int, bytes, str]]:
    """Yield split, number, encoded image and class name of a Hugging Face dataset."""
    try:
        import datasets
    except ImportError:
        raise UserError('hf: names need pip install "tfdetect[hf]"') from None
    path = user_path(text)
    if path.is_dir() and (path / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(str(path))
    else:
        splits = datasets.load_dataset(str(path) if path.is_dir() else text)
    for split, data in splits.items():
        features = data.features
        image = _only(text, {k for k, f in features.items() if isinstance(f, datasets.Image)},
                      "image")  # fmt: skip
        label = _only(
            text, {k for k, f in features.items() if isinstance(f, datasets.ClassLabel)}, "label"
        )
        data = data.cast_column(image, datasets.Image(decode=False))
        for number, row in enumerate(data):
            stored: dict[str, Any] = row[image]
            encoded = stored["bytes"] or read_bytes(stored["path"])
            yield split, number, encoded, features[label].int2str(row[label])


def _only(text: str, found: set[str], what: str) -> str:
    """Return the feature of a kind; if there are several, the one with the usual name."""
    if what in found or len(found) == 1:
        return what if what in found else found.pop()
    raise UserError(
        f"{text} has {'no feature' if not found else 'several features'} for the {what}: "
        f"{', '.join(sorted(found)) or 'none'}. Make a manifest of it instead."
    )
