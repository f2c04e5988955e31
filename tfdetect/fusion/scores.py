"""`MemberScores`: what the members of an ensemble predict for the images of one split."""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class MemberScores:
    """Predictions of all members for the same images.

    Attributes:
        logits: the logits of P(fake) of the M members, float [n, M].
        fake: whether each image is fake, bool [n].
        groups: names of the groups, [n]; images of one group must be in the same fold.
        datasets: names of the datasets, [n].
        features: the concatenated features of the members and of the views, float [n, F].
        hashes: content hashes of the images, hexadecimal, [n].
        copy_hashes: hashes of the bytes and of the pixels of the images, by which copies are
            recognized, uint64 [n, 2].
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
        """Return the weights of the images, float [n]; see `balanced_weights`."""
        return balanced_weights(self.fake, self.datasets)


def balanced_weights(fake: np.ndarray, datasets: np.ndarray) -> np.ndarray:
    """Return weights of images, float [n] with mean 1, that balance datasets and their classes.

    Every dataset has the same weight, and so have authentic images and fakes within it.

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
