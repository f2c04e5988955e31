"""Published matrices of generators: accuracies of detectors trained on each, tested on all."""

from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.parsing import read_rows

_PUBLISHED = Path(__file__).parent / "published"

Table = dict[str, dict[str, float]]


def read_published(name: str) -> tuple[str, Table]:
    """Return the name and the accuracies, in percent, of a published table.

    Args:
        name: the name of a shipped table, or a CSV file: the first column names what a detector was
            trained on, the other columns are headed by what it was tested on.

    Raises:
        UserError: no such table, or a cell that is not a number.
    """
    shipped = {file.stem: file for file in sorted(_PUBLISHED.glob("*.csv"))}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise UserError(
            f"There is no published table {name!r}. Available: {', '.join(shipped)}; or give a CSV "
            "file."
        )
    try:
        table = {
            str(next(iter(row.values()))): {
                name: float(cell) for name, cell in list(row.items())[1:]
            }
            for row in read_rows(path)
        }
    except ValueError as error:
        raise UserError(f"{path}: a cell is not a number: {error}.") from error
    return path.stem, table
