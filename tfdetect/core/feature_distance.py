"""How far the features of an image are from those of the training images of its detector."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfdetect.core.array_files import damaged_part, load_array, save_array

FILE = "domain.npy"
MAX_COMPONENTS = 32
IMAGES_PER_COMPONENT = 10  # training images that a principal component needs
EPSILON = 1e-6  # of a standard deviation


@dataclass(frozen=True)
class FeatureDistance:
    """Mahalanobis distance from the mean of training features.

    The covariance is that of the training features along their largest principal components, and
    the mean of the remaining variances along all other directions (probabilistic PCA; Tipping &
    Bishop, 1999), so that few images and many features give a distance too. Lee et al., A simple
    unified framework for detecting out-of-distribution samples (NeurIPS 2018), use the distance.

    Attributes:
        mean: float32 [F].
        components: float32 [k, F], the principal components, each divided by the standard
            deviation along it.
        rest: standard deviation along the other directions.
    """

    mean: np.ndarray
    components: np.ndarray
    rest: float

    @classmethod
    def fit(cls, features: np.ndarray) -> "FeatureDistance":
        """Fit the distance to features of training images, float [n, F], n > 1."""
        count, width = features.shape
        mean = features.mean(axis=0, dtype=np.float64)
        _, values, directions = np.linalg.svd(features - mean, full_matrices=False)
        variances = values**2 / (count - 1)
        kept = min(MAX_COMPONENTS, count // IMAGES_PER_COMPONENT, width - 1)
        kept = min(kept, int((variances > EPSILON**2).sum()))
        rest = np.sqrt(variances[kept:].sum() / (width - kept)) + EPSILON
        components = directions[:kept] / np.sqrt(variances[:kept])[:, None]
        return cls(mean.astype(np.float32), components.astype(np.float32), float(rest))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return distances float32 [n] of features float32 [n, F]; about 1 for training images."""
        # In double precision: `outside` is a small difference of large sums.
        centered = features.astype(np.float64) - self.mean
        along = centered @ self.components.T
        outside = (centered**2).sum(1) - ((along * self.deviations) ** 2).sum(1)
        squared = (along**2).sum(1) + np.maximum(outside, 0.0) / self.rest**2
        return np.sqrt(squared / self.mean.size).astype(np.float32)

    @property
    def deviations(self) -> np.ndarray:
        """Standard deviations along the components, float32 [k]; directions are unit vectors."""
        return 1 / np.linalg.norm(self.components, axis=1)

    def save(self, folder: Path) -> None:
        """Write mean and components into a run's folder as float32 [1 + k, F], atomically."""
        save_array(folder / FILE, np.concatenate([self.mean[None], self.components]))

    @classmethod
    def load(cls, folder: Path, rest: float) -> "FeatureDistance":
        """Read the distance from a run's folder.

        Args:
            rest: the other values of the run's `Domain`.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            table = load_array(folder / FILE, mapped=True)
            if table.ndim != 2 or table.dtype != np.float32 or not np.isfinite(table).all():
                raise ValueError(f"it is no table of finite float32 but {table.dtype}")
            if not (np.linalg.norm(table[1:], axis=1) > 0).all():
                raise ValueError("a component is zero")
        except (OSError, ValueError) as error:
            raise damaged_part(folder, FILE, error) from error
        return cls(np.array(table[0]), np.array(table[1:]), rest)
