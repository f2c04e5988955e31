"""Makes forgeries and draws a sheet of some of them."""

from itertools import zip_longest
from pathlib import Path


def synthesize_with_sheet(
    source: Path, output: Path, settings, workers: int, steps: int, progress: bool = True
) -> list[dict]:
    """Makes forgeries and draws contact_sheet.png of some; see `synthesis.forge`."""
    from tfdetect.evaluation.figures import forgeries, read_picture
    from tfdetect.synthesis import forge

    rows = forge.synthesize(source, output, settings, workers, steps, progress)
    by_fill = {fill: [r for r in rows if r["fill"] == fill and not r["error"]]
               for fill in settings.fills}  # fmt: skip
    some = [row for group in zip_longest(*by_fill.values()) for row in group if row][:8]
    pictures = [
        ([read_picture(path) for path in forge.files(output, row, settings)], row["fill"])
        for row in some
    ]
    forgeries(pictures).savefig(output / "contact_sheet.png", dpi=100)
    return rows
