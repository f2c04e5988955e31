"""The quantization tables of libjpeg, and which quality a file's tables have."""

from collections.abc import Mapping, Sequence

import numpy as np

# The luminance table of the JPEG standard (ITU T.81, annex K), in natural order; libjpeg scales it
# by the quality.
_LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip


def jpeg_quality(tables: Mapping[int, Sequence[int]]) -> tuple[float | None, bool]:
    """Return the libjpeg quality, 1 to 100, with the nearest luminance table.

    Args:
        tables: quantization tables in natural order, as Pillow gives them.

    Returns:
        The quality, None without tables, and whether the table is exactly libjpeg's.
    """
    if not tables:
        return None, False
    errors = ((LIBJPEG_LUMINANCE - np.asarray(tables[min(tables)])) ** 2).sum(1)
    best = int(errors.argmin())
    return float(best + 1), bool(errors[best] == 0)


def _libjpeg_tables() -> np.ndarray:
    """Return libjpeg's luminance tables of the qualities 1 to 100, int [100, 64]."""
    q = np.arange(1, 101)[:, None]
    scale = np.where(q < 50, 5000 // q, 200 - 2 * q)
    return np.clip((_LUMINANCE * scale + 50) // 100, 1, 255)


LIBJPEG_LUMINANCE = _libjpeg_tables()
