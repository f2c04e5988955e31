"""`SkippedFiles`: the list of images that a training does not use, with the reasons."""

from collections.abc import Mapping

from tfdetect.core import console
from tfdetect.core.files import csv_text
from tfdetect.core.run_writer import RunWriter
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.check_catalog import check_unusable
from tfdetect.data.scan_result import IS_MASK

_NAMED = 3  # files that a warning names


class SkippedFiles:
    """The images of a catalog that are not used, and why; written as skipped.csv.

    Args:
        writer: the writer of the run that gets skipped.csv; None writes nothing, as for a worker
            of a cluster that is not the chief.
        catalog: the images that are used, and those that its scan skipped or left out.
    """

    def __init__(self, writer: RunWriter | None, catalog: Catalog):
        self._writer, self._catalog = writer, catalog
        self._unusable = {row["path"]: row["error"] for row in catalog.skipped.to_pylist()}
        self._left_out = {
            row["path"]: row["reason"] for row in catalog.left_out.to_pylist()
            if row["reason"] != IS_MASK
        }  # fmt: skip
        self._write()

    def add(self, broken: Mapping[str, str]) -> None:
        """Add files that became unreadable after the scan, and warn of them.

        Args:
            broken: the reason of each file, by its path.
        """
        if not broken:
            return
        self._unusable |= {
            path: f"unreadable after the scan: {reason}" for path, reason in broken.items()
        }
        self._write()
        console.warn(
            f"skipped, since unreadable by now: {counted(len(broken), 'file')}: "
            f"{', '.join(list(broken)[:_NAMED])}"
        )

    def check(self, spec: DatasetSpec) -> None:
        """Check that few enough images are unusable.

        Args:
            spec: the spec of the dataset, for the message.

        Raises:
            UserError: too many images are unusable.
        """
        where = ", ".join(map(str, self._catalog.roots.values()))
        total = self._catalog.table.num_rows + self._catalog.skipped.num_rows
        check_unusable(spec, where, self._unusable, total)

    def _write(self) -> None:
        if self._writer is None:
            return
        found = (self._unusable | self._left_out).items()
        rows = [{"path": path, "error": error} for path, error in found]
        self._writer.write_text("skipped.csv", csv_text(rows, ["path", "error"]))
