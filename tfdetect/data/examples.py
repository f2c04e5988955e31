"""The examples of a split: annotations of each image, and the sources of images and masks."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import Files, Masks, Records, image_source, mask_source


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What is known of the images of a split.

    Attributes:
        labels: int32 [n], the class of each image.
        has_mask: bool [n], of which fakes the altered pixels are known; None for detectors without
            masks.
        datasets: str [n], the dataset of each image; None if it is not needed.
        generators: str [n], the generator of each fake and the source of each authentic image, as
            the dataset names them, "" where it does not; None if they are not needed.
        answers: float32 [n, logits], a teacher's answers; see `evaluation.teacher_answers`. None
            without them.
    """

    labels: np.ndarray
    has_mask: np.ndarray | None = None
    datasets: np.ndarray | None = None
    generators: np.ndarray | None = None
    answers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Self:
        """Return the annotations of some images, given by their indices int [k]."""
        return replace(
            self,
            labels=self.labels[rows],
            has_mask=None if self.has_mask is None else self.has_mask[rows],
            datasets=None if self.datasets is None else self.datasets[rows],
            generators=None if self.generators is None else self.generators[rows],
            answers=None if self.answers is None else self.answers[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Examples(Annotations):
    """Images of a split, and what is known of them.

    Attributes:
        images: source of the encoded images.
        masks: the masks; None for detectors without masks.
        common_size: (height, width) in pixels, if all images have the same size; else None.
    """

    images: Files | Records
    masks: Masks | None = None
    common_size: tuple[int, int] | None = None

    @property
    def channels(self) -> int:
        """Number of bytes of a decoded pixel: 3, and 1 more with a mask."""
        return 3 if self.masks is None else 4

    def find_unreadable(self, rows: Iterable[int] | None = None) -> dict[str, str]:
        """Return the names of images that cannot be read, each with the reason.

        Args:
            rows: indices of the images to check; all by default.
        """
        rows = range(len(self.images)) if rows is None else rows
        errors = ((self.images.name(row), self._error(row)) for row in rows)
        return {name: error for name, error in errors if error}

    def _error(self, row: int) -> str | None:
        error = self.images.error(row)
        has_mask = self.has_mask is not None and bool(self.has_mask[row])
        if error is None and self.masks is not None and has_mask:
            error = self.masks.error(row)
            return error and f"its mask: {error}"
        return error


def annotations_of(
    table: pa.Table,
    *,
    with_masks: bool,
    with_datasets: bool = False,
    with_generators: bool = False,
) -> Annotations:
    """Return the annotations of rows of a catalog.

    Args:
        table: rows of a catalog's table.
        with_masks: whether masks are wanted, too.
        with_datasets: whether the dataset of each image is needed.
        with_generators: whether the generator or source of each image is needed.
    """
    return Annotations(
        labels=table["label"].to_numpy(),
        has_mask=has_mask(table) if with_masks else None,
        datasets=table["dataset"].to_numpy() if with_datasets else None,
        generators=_generators(table) if with_generators else None,
    )


def examples_of(catalog: Catalog, table: pa.Table, annotations: Annotations) -> Examples:
    """Return the examples that rows of a catalog describe.

    Args:
        catalog: the catalog that the table belongs to.
        table: rows of the catalog's table.
        annotations: the annotations of these rows; if they say which images have masks, the masks
            come, too.
    """
    heights, widths = pc.unique(table["height"]), pc.unique(table["width"])
    one_size = len(heights) == len(widths) == 1
    return Examples(
        **vars(annotations),
        images=image_source(catalog, table),
        masks=None if annotations.has_mask is None else mask_source(catalog, table),
        common_size=(heights[0].as_py(), widths[0].as_py()) if one_size else None,
    )


def _generators(table: pa.Table) -> np.ndarray:
    return pc.fill_null(table["generator"].cast(pa.string()), "").to_numpy(zero_copy_only=False)


def has_mask(table: pa.Table) -> np.ndarray:
    """Return which rows name a mask, bool [n]."""
    return table["mask"].is_valid().to_numpy(zero_copy_only=False)
