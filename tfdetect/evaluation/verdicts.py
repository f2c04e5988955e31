"""The rule of a verdict: fake from the threshold on, and inconclusive inside the abstention band.

P(fake) is float32 wherever it is computed, also in the SavedModel, so it is compared as such: a
threshold of 0.7 is the float32 next to 0.7.
"""

from typing import Any

import numpy as np


def is_fake(p_fake: Any, threshold: float) -> np.ndarray:
    """Return for each P(fake) whether the verdict is fake, bool; nan is not."""
    return np.asarray(p_fake, np.float32) >= np.float32(threshold)


def is_inconclusive(p_fake: Any, band: tuple[float, float]) -> np.ndarray:
    """Return for each P(fake) whether it is inside the band, which contains its lower end, bool.

    Args:
        p_fake: P(fake).
        band: `Run.abstention_band`.
    """
    p_fake = np.asarray(p_fake, np.float32)
    return (p_fake >= np.float32(band[0])) & (p_fake < np.float32(band[1]))
