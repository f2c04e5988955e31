"""Hashes of the images that a run was trained on, by which copies of them are recognized."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfdetect.core import console
from tfdetect.core.array_files import damaged_part, load_array, save_array
from tfdetect.imaging.facts import Facts

if TYPE_CHECKING:
    import pyarrow as pa

    from tfdetect.data.catalog import Catalog

FILE = "training_images.npy"
_BATCH = 256  # images hashed at a time
_TYPE = np.dtype([("bytes", "<u8"), ("pixels", "<u8"), ("validation", "?")])


@dataclass(frozen=True)
class TrainingHashes:
    """Two hashes of 8 bytes of each training and validation image.

    An image that was saved again without loss, or whose metadata was removed, has the same
    pixels; one that was compressed again has not. Chance makes two of a million images equal with
    probability 1 in 10 million.

    Attributes:
        table: one structure for each image: bytes (hash of the file's bytes), pixels (of the
            decoded pixels), both uint64, and validation (whether the image selected the best
            epoch, and was not trained on).
    """

    table: np.ndarray

    @classmethod
    def compute(cls, catalog: "Catalog") -> "TrainingHashes":
        """Return the hashes of all readable images of the train and validation splits."""
        import pyarrow as pa

        splits = [catalog.split(name) for name in ("train", "validation")]
        rows = pa.concat_tables(splits)
        validation = np.arange(rows.num_rows) >= splits[0].num_rows
        every, found = _hash_images(catalog, rows, "hashing training images")
        parts: list[np.ndarray] = []
        for chosen in (found & ~validation, found & validation):
            hashes = np.unique(every[chosen], axis=0)
            part = np.empty(len(hashes), _TYPE)
            part["bytes"], part["pixels"] = hashes.T
            part["validation"] = bool(parts)
            parts.append(part)
        return cls(np.concatenate(parts))

    @classmethod
    def union(cls, several: "Iterable[TrainingHashes]") -> "TrainingHashes":
        """Return the union; training images of one are not validation images of another."""
        table = np.concatenate([each.table for each in several])
        table = table[np.lexsort((table["validation"], table["pixels"], table["bytes"]))]
        first = np.ones(len(table), bool)  # of equal ones, so a training image if there is one
        first[1:] = (table["bytes"][1:] != table["bytes"][:-1]) | (
            table["pixels"][1:] != table["pixels"][:-1]
        )
        return cls(table[first])

    def contain(self, hashes: np.ndarray, validation: bool = True) -> np.ndarray:
        """Return which images are training images or copies of them, bool [n].

        Args:
            hashes: the hashes of bytes and pixels, uint64 [n, 2].
            validation: whether validation images count too.
        """
        table = self.table if validation else self.table[~self.table["validation"]]
        return _are_in(hashes[:, 0], table["bytes"]) | _are_in(hashes[:, 1], table["pixels"])

    def save(self, folder: Path) -> int:
        """Write the hashes into a run's folder, atomically; return the number of bytes written."""
        save_array(folder / FILE, self.table)
        return (folder / FILE).stat().st_size

    @classmethod
    def load(cls, folder: Path) -> "TrainingHashes | None":
        """Read the hashes from a run's folder; None if it has none.

        Raises:
            UserError: the file is damaged.
        """
        if not (folder / FILE).is_file():
            return None
        try:
            return cls(load_array(folder / FILE, mapped=True, dtype=_TYPE))
        except (OSError, ValueError) as error:
            raise damaged_part(folder, FILE, error) from error


def hashes_of_splits(catalog: "Catalog", splits: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the hashes uint64 [n, 2] of the readable images of splits that have images."""
    hashes = {}
    for split in splits:
        rows = catalog.split(split)
        if rows.num_rows:
            every, found = _hash_images(catalog, rows, f"hashing {split} images")
            hashes[split] = every[found]
    return hashes


def _hash_images(catalog: "Catalog", rows: "pa.Table", what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes uint64 [n, 2] of images, and which can be read, bool [n]."""
    from tfdetect.data.loading import view_dataset
    from tfdetect.data.sources import image_source

    facts, found = Facts.empty(rows.num_rows), np.zeros(rows.num_rows, bool)
    with console.progress(rows.num_rows, what, "images") as bar:
        for indices, _, batch in view_dataset(image_source(catalog, rows), [], _BATCH, facts=True):
            facts.add(indices.numpy(), batch.numpy())
            found[indices.numpy()] = True
            bar.advance(len(indices))
    return facts.hashes, found


def _are_in(few: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Return which numbers are among others, bool [n]; `np.isin` sorts them for every call."""
    if len(few) > 200:
        return np.isin(few, many)
    return np.array([bool((many == each).any()) for each in few], bool)
