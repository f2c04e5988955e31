"""`MemberScores`: what the members of an ensemble predict for the images of one split."""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class MemberScores:
    """Predictions of all members for the same images.

    Attributes:
        logits: the logits of P(fake), float [n, members].
        fake: bool [n].
        groups: names [n]; images of one group must not be in different folds.
        datasets: names [n].
        features: the members' features side by side, float [n, F].
        hashes: content hashes of the images, hexadecimal, [n].
        copy_hashes: hashes of the images' bytes and pixels, which tell copies, uint64 [n, 2].
    """

    logits: np.ndarray
    fake: np.ndarray
    groups: np.ndarray
    datasets: np.ndarray
    features: np.ndarray
    hashes: np.ndarray
    copy_hashes: np.ndarray

    def take(self, rows: np.ndarray) -> "MemberScores":
        """Return the scores of some rows."""
        return MemberScores(*(getattr(self, field.name)[rows] for field in fields(self)))

    def weights(self) -> np.ndarray:
        """Return weights [n] by which every dataset counts the same, and every class in it."""
        return balanced_weights(self.fake, self.datasets)


def balanced_weights(fake: np.ndarray, datasets: np.ndarray) -> np.ndarray:
    """Return weights, mean 1, that balance datasets and the classes within each.

    Args:
        fake: bool [n].
        datasets: names [n].
    """
    weights = np.zeros(len(fake))
    for name in np.unique(datasets):
        for kind in (False, True):
            rows = (datasets == name) & (fake == kind)
            weights[rows] = 1 / max(1, rows.sum())
    return weights * len(weights) / weights.sum()
