"""How far the features of an image are from those of the training images of its detector."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfdetect.core.errors import UserError
from tfdetect.core.files import replacing

FEATURES = "features"  # beginning of the names of the outputs that `with_features` adds
FILE = "domain.npy"
MAX_COMPONENTS = 32
IMAGES_PER_COMPONENT = 10  # training images that a principal component needs
EPSILON = 1e-6  # of a standard deviation


def with_features(detector: keras.Model) -> keras.Model:
    """Return the same detector with the pooled features of its backbones as further outputs.

    They come out of the same forward pass. An ensemble has one output for each backbone; of an
    ensemble of detectors with masks that was fused before its members had features, there are
    none, and the input of the last layer is taken.

    Args:
        detector: maps images to a dict of logits.

    Returns:
        A model with the outputs features_0, features_1, ..., float32 [n, F], besides; n is the
        number of images times that of their windows.
    """
    found = [tensor for layer in detector.layers for tensor in _features_in(layer)]
    if not found:
        found = [detector.output["label"]._keras_history.operation.input]
    added = {f"{FEATURES}_{number}": _pooled(tensor) for number, tensor in enumerate(found)}
    return keras.Model(detector.input, {**detector.output, **added}, name=detector.name)


def _features_in(layer: keras.Layer) -> list[keras.KerasTensor]:
    """Return the features that a layer of a detector gives, if it is a backbone."""
    if not isinstance(layer, keras.Model):
        return []
    tensors = layer._inbound_nodes[-1].output_tensors
    if isinstance(layer.output, dict):  # a member of an ensemble
        outputs = keras.tree.pack_sequence_as(layer.output, tensors)
        return [tensor for name, tensor in outputs.items() if name.startswith(FEATURES)]
    return [tensors[0]]


def _pooled(features: keras.KerasTensor) -> keras.KerasTensor:
    features = ops.cast(features, "float32")
    if len(features.shape) > 2:
        features = ops.mean(features, axis=tuple(range(1, len(features.shape) - 1)))
    return features


def feature_width(detector: keras.Model) -> int:
    """Return the number of features of an image; 0 of a detector without `with_features`."""
    return sum(
        tensor.shape[-1] for name, tensor in detector.output.items() if name.startswith(FEATURES)
    )


def features_of_images(outputs: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor | None:
    """Return the features of images, averaged over the windows of each and side by side.

    Args:
        outputs: of a model from `with_features`.
        count: number of images.

    Returns:
        float32 [count, F]; None if the model has no such outputs.
    """
    names = sorted((n for n in outputs if n.startswith(FEATURES)), key=lambda n: (len(n), n))
    parts = [
        tf.reduce_mean(tf.reshape(outputs[name], [count, -1, outputs[name].shape[-1]]), 1)
        for name in names
    ]
    return tf.concat(parts, axis=1) if parts else None


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

    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        """Return distances float32 [n] of features float32 [n, F]; about 1 for training images."""
        centered = features - self.mean
        along = tf.matmul(centered, self.components, transpose_b=True)
        deviations = 1 / np.linalg.norm(self.components, axis=1)  # directions are unit vectors
        outside = tf.reduce_sum(centered**2, 1) - tf.reduce_sum((along * deviations) ** 2, 1)
        squared = tf.reduce_sum(along**2, 1) + tf.maximum(outside, 0.0) / self.rest**2
        return tf.sqrt(squared / self.mean.size)

    def save(self, folder: Path) -> None:
        """Write mean and components into a run's folder as float32 [1 + k, F], atomically."""
        with replacing(folder / FILE) as temporary:
            np.save(temporary, np.concatenate([self.mean[None], self.components]))

    @classmethod
    def load(cls, folder: Path, rest: float) -> "FeatureDistance":
        """Read the distance from a run's folder.

        Args:
            rest: of the run's `Domain`.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            table = np.load(folder / FILE, mmap_mode="r", allow_pickle=False)
            if table.ndim != 2 or table.dtype != np.float32 or not np.isfinite(table).all():
                raise ValueError(f"it is no table of finite float32 but {table.dtype}")
            if not (np.linalg.norm(table[1:], axis=1) > 0).all():
                raise ValueError("a component is zero")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"Run {folder} is corrupt: {FILE} cannot be read: {error}. Make it again with: "
                f"python -m tfdetect.calibrate {folder}"
            ) from error
        return cls(np.array(table[0]), np.array(table[1:]), rest)
