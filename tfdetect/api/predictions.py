"""`Predictions`: the verdicts that a `Detector` gives on images, and how they are shown."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from tfdetect.core.columns import Column, Table
from tfdetect.core.errors import UserError
from tfdetect.core.text import from_os, to_os, user_path

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SHOWN = 20  # predictions that a notebook or an interpreter shows


class Predictions(Sequence[dict[str, Any]]):
    """Verdicts on images: one row per image, in the order of the images.

    A row is a dict with these keys:

    - `path`: the file, or "image N" for the N-th image that was given as pixels.
    - `p_fake`: calibrated probability that the image is fake, 0 to 1; None where `error` is set.
    - `p_fake_raw`: the same before calibration.
    - `probability_<class>`: calibrated probability of each class.
    - `verdict`: name of the class; printed as "authentic" where it is the authentic one.
    - `inconclusive`: whether P(fake) is in the abstention band, where verdicts are often wrong.
    - `in_domain`: whether the image is like those that the detector was trained on; None where
      that is not known. Outside of them a verdict says little.
    - `domain_reasons`: in what it is unlike them: `size`, `format`, `features`; "" in nothing.
    - `feature_distance`: how far its features are from theirs (about 1 for training images).
    - `duplicate_of_train`: whether this image or a copy of it is among the detector's training or
      validation images; None where the run keeps no hashes of them.
    - `altered_fraction`: fraction of pixels with P(altered) of at least 0.5, 0 where P(fake) is
      below the detector's mask threshold; only from detectors that predict masks.
    - `copied_fraction`: fraction of pixels in regions that are copies of other regions; only where
      masks are written.
    - `frames`: number of frames or pages of the file, of which the first one is classified.
    - `remarks`: what is to be noted, in words: that there are further frames, or that verdict and
      mask contradict each other; "" where nothing is.
    - `error`: why the image could not be read, or None.

    Attributes:
        pages: HTML pages that explain the verdicts, if they were asked for.
        unwritten: masks and pages that could not be written, with the reasons, by their paths.
    """

    def __init__(
        self,
        table: Table,
        pages: Sequence[Path] = (),
        unwritten: Mapping[Path, str] | None = None,
        authentic: Collection[str] = (),
    ):
        self._table, self._authentic = table, frozenset(authentic)
        self.pages = list(pages)
        self.unwritten = dict(unwritten or {})

    @classmethod
    def joined(
        cls, parts: Mapping[str, Predictions], paths: Sequence[str], unreadable: Mapping[str, str]
    ) -> Predictions:
        """Return the verdicts of several detectors on different images as one table.

        Args:
            parts: the verdicts by the names of the detectors, which become the column `detector`.
            paths: paths of the images in the wanted order; others come last.
            unreadable: why there are no images in other files and folders, by path; they get rows
                without a detector.
        """
        tables = [
            part._table.with_column("detector", Column.texts([name] * len(part)))
            for name, part in parts.items()
        ]
        table = Table.concatenated(tables)
        place = {from_os(path): number for number, path in enumerate(paths)}
        places = [place.get(path, len(place)) for path in table["path"].to_pylist()]
        order = sorted(range(len(places)), key=places.__getitem__)
        pages = [page for part in parts.values() for page in part.pages]
        unwritten = {path: why for part in parts.values() for path, why in part.unwritten.items()}
        authentic = frozenset(name for part in parts.values() for name in part._authentic)
        return cls(with_errors(table.take(order), unreadable), pages, unwritten, authentic)

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Predictions: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | Predictions:
        if isinstance(index, slice):
            rows = self._table.take(range(len(self))[index])
            return Predictions(rows, authentic=self._authentic)
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"Predictions are rows, each a dict. Take found[0][{index!r}] of one row, or "
                f"found.to_pandas()[{index!r}] of all. Received index: {index!r}."
            ) from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"There are {len(self)} predictions. Received index: {number}.")
        return next(iter(Predictions(self._table.take([number % len(self)]))))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._table.to_pylist():
            yield row | {"path": to_os(row["path"])}

    def __str__(self) -> str:
        from tfdetect.evaluation.prediction_tables import format_predictions

        return format_predictions(self._table, self._authentic)

    def __repr__(self) -> str:
        shown = str(self[:_SHOWN])
        more = len(self) - _SHOWN
        return f"{shown}\n... and {more:,} more" if more > 0 else shown

    def of(self, detector: str) -> list[dict[str, Any]]:
        """Return the rows by one of several detectors; of a single detector these are all rows."""
        return [row for row in self if row.get("detector", detector) == detector]

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return len(self) - self._table["error"].null_count

    @property
    def out_of_domain(self) -> int:
        """Number of images that are unlike the detector's training images."""
        return self._table["in_domain"].to_pylist().count(False)

    @property
    def duplicates_of_train(self) -> int:
        """Number of images that the detector was trained on, and of copies of them."""
        return self._table["duplicate_of_train"].to_pylist().count(True)

    def to_arrow(self) -> pa.Table:
        """Return the rows as a pyarrow table.

        Bytes of file names that are no UTF-8 are characters of the private use area in it.

        Raises:
            UserError: pyarrow is not installed.
        """
        return self._table.to_arrow()

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                "to_pandas() needs pandas: pip install pandas. Without pandas, iterate over the "
                "predictions."
            ) from None
        return pandas.DataFrame(
            {name: self._table[name].to_numpy() for name in self._table.column_names}
        )

    def write(self, path: str | Path) -> Path:
        """Write the rows to a .csv, .jsonl or .parquet file, by the name's ending.

        Raises:
            UserError: another ending, or the file cannot be written.
        """
        from tfdetect.evaluation import prediction_tables

        path = user_path(path)
        prediction_tables.check_output(path, None)
        prediction_tables.write(self._table, path)
        return path


def with_errors(table: Table, unreadable: Mapping[str, str]) -> Table:
    """Return a table of predictions with rows of what holds no images: reasons by path."""
    return table.extended(
        [{"path": from_os(path), "error": reason} for path, reason in unreadable.items()]
    )
