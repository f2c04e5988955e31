"""Draws a contact sheet of some forgeries."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from tfdetect.core.disk import replacing

_FORGERIES = 8  # on a sheet


def write_contact_sheet(
    path: Path, forgeries: Sequence[tuple[tuple[Path, Path, Path], str]], max_pixels: int
) -> None:
    """Draw some photographs with their masks, forgeries and differences, of each fill in turn.

    Args:
        path: PNG file to write.
        forgeries: paths of original, mask and forgery, and the name of the fill.
        max_pixels: what a photograph has at most.
    """
    from tfdetect.evaluation import figures

    by_fill: dict[str, list] = {}
    for files, fill in forgeries:
        by_fill.setdefault(fill, []).append((files, fill))
    shown = [each for group in zip_longest(*by_fill.values()) for each in group if each]
    rows = [
        ([figures.read_picture(file, max_pixels) for file in files], fill)
        for files, fill in shown[:_FORGERIES]
    ]
    with replacing(path) as temporary:
        figures.forgeries(rows).savefig(temporary, dpi=100)
