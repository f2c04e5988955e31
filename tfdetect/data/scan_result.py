"""`Scan`: the files of a dataset, and the reasons why some of them are not used."""

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

OUTSIDE = "its path is not one that the dataset's layout names"
IN_MASKS = "it is in a folder of masks"
LEFT_OUT = "it is in a folder that the dataset leaves out"
MASK_FILE = "its name is that of a mask"
IS_MASK = "it is the mask of another image"
SAME_FILE = "it is the same file as"


SKIPPED_SCHEMA = pa.schema([("path", pa.string()), ("error", pa.string())])
LEFT_OUT_SCHEMA = pa.schema([("path", pa.string()), ("reason", pa.string())])


@dataclass
class Scan:
    """The files below a dataset's folder, or those that its manifest names.

    Each is in one of the tables, or counted.

    Attributes:
        files: the images, sorted by path, with the columns path, label, generator, mask, group,
            folder_split, size in bytes and mtime_ns.
        skipped: images of the dataset that cannot be used, with the columns path and error.
        left_out: images that are no part of the dataset, with the columns path and reason:
            masks, files that the layout does not name, and second paths to the same file.
        other: number of files that are no images, by their suffix, or by what hides them.
        counts: number of images, usable or not, by the text of their split and their label.
        warnings: what the user should know.
    """

    files: pa.Table
    skipped: pa.Table
    left_out: pa.Table
    other: Counter[str] = field(default_factory=Counter)
    counts: Counter[tuple[str | None, int]] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Number of all files."""
        tables = self.files, self.skipped, self.left_out
        return sum(table.num_rows for table in tables) + self.other.total()
