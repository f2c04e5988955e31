"""Hashes of the images that a run was trained on, by which copies of them are recognized."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import replacing
from tfdetect.imaging.facts import Facts

if TYPE_CHECKING:
    from tfdetect.data.catalog import Catalog

FILE = "training_images.parquet"
_SCHEMA = pa.schema([("bytes", pa.uint64()), ("pixels", pa.uint64()), ("validation", pa.bool_())])


@dataclass(frozen=True)
class TrainingHashes:
    """Two hashes of 8 bytes of each training and validation image.

    An image that was saved again without loss, or whose metadata was removed, has the same
    pixels; one that was compressed again has not. Chance makes two of a million images equal with
    probability 1 in 10 million.

    Attributes:
        table: columns bytes (hash of the file's bytes), pixels (of the decoded pixels), both
            uint64, and validation (whether the image selected the best epoch, and was not trained
            on).
    """

    table: pa.Table

    @classmethod
    def compute(cls, catalog: "Catalog", progress: bool = True) -> "TrainingHashes":
        """Read every image of the train and validation splits; those unreadable are left out."""
        from tfdetect.data.loading import hash_images
        from tfdetect.data.sources import image_source

        parts = []
        for split in ("train", "validation"):
            rows = catalog.split(split)
            if not rows.num_rows:
                continue
            facts, found = Facts.empty(rows.num_rows), np.zeros(rows.num_rows, bool)
            with console.progress(rows.num_rows, f"hashing {split}", "images", shown=progress) as b:
                for indices, batch in hash_images(image_source(catalog, rows)):
                    facts.add(indices.numpy(), batch.numpy())
                    found[indices.numpy()] = True
                    b.advance(len(indices))
            hashes = np.unique(facts.hashes[found], axis=0)
            validation = np.full(len(hashes), split == "validation")
            parts.append(pa.table([hashes[:, 0], hashes[:, 1], validation], schema=_SCHEMA))
        return cls(pa.concat_tables(parts))

    @classmethod
    def union(cls, parts: Sequence["TrainingHashes"]) -> "TrainingHashes":
        """Return the hashes of all parts, each once."""
        table = pa.concat_tables([part.table for part in parts])
        unique = table.group_by(["bytes", "pixels"]).aggregate([("validation", "all")])
        return cls(unique.rename_columns(_SCHEMA.names).cast(_SCHEMA))

    def contain(self, hashes: np.ndarray, validation: bool = True) -> np.ndarray:
        """Return which images are training images or copies of them, bool [n].

        Args:
            hashes: of bytes and pixels, uint64 [n, 2].
            validation: whether validation images count too.
        """
        table = self.table if validation else self.table.filter(pc.invert(self.table["validation"]))
        of_bytes, of_pixels = (table[name].to_numpy() for name in ("bytes", "pixels"))
        return np.isin(hashes[:, 0], of_bytes) | np.isin(hashes[:, 1], of_pixels)

    def save(self, folder: Path) -> int:
        """Write the hashes into a run's folder, atomically; return the number of bytes written."""
        with replacing(folder / FILE) as temporary:
            # Random bytes: neither a dictionary nor compression makes them shorter.
            pq.write_table(self.table, temporary, compression="none", use_dictionary=False,
                           write_statistics=False)  # fmt: skip
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
            return cls(pq.read_table(folder / FILE, memory_map=True).cast(_SCHEMA))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(
                f"Run {folder} is corrupt: {FILE} cannot be read: {error}. Make it again with: "
                f"python -m tfdetect.calibrate {folder}"
            ) from error
