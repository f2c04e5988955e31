"""Features of images as outputs of a detector, and their distances from training images."""

from typing import Any, NamedTuple, Self

import keras
import tensorflow as tf
from keras import ops

from tfdetect.core.feature_distance import FeatureDistance

FEATURES = "features"  # beginning of the names of the outputs that `with_features` adds


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
    added = {f"{FEATURES}_{n}": _pooled(tensor, f"pooled_{n}") for n, tensor in enumerate(found)}
    return keras.Model(detector.input, {**detector.output, **added}, name=detector.name)


def _features_in(layer: keras.Layer) -> list[keras.KerasTensor]:
    """Return the features that a layer of a detector outputs if it is a backbone, else []."""
    if not isinstance(layer, keras.Model):
        return []
    tensors = layer._inbound_nodes[-1].output_tensors
    if isinstance(layer.output, dict):  # a member of an ensemble
        outputs = keras.tree.pack_sequence_as(layer.output, tensors)
        return [tensor for name, tensor in outputs.items() if name.startswith(FEATURES)]
    return [tensors[0]]


def _pooled(features: keras.KerasTensor, name: str) -> keras.KerasTensor:
    # As a model of its own: the names of its operations cannot be those of a loaded detector's.
    inputs = keras.Input(features.shape[1:], dtype=features.dtype)
    pooled = ops.cast(inputs, "float32")
    if len(features.shape) > 2:
        pooled = ops.mean(pooled, axis=tuple(range(1, len(features.shape) - 1)))
    return keras.Model(inputs, pooled, name=name)(features)


def feature_width(detector: keras.Model) -> int:
    """Return the number of features of an image; 0 of a detector without `with_features`."""
    return sum(
        tensor.shape[-1] for name, tensor in detector.output.items() if name.startswith(FEATURES)
    )


def features_of_images(outputs: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor | None:
    """Return the features of images, averaged over the windows of each and side by side.

    Args:
        outputs: the outputs of a model from `with_features`.
        count: number of images.

    Returns:
        float32 [count, F]; None if the model has no such outputs.
    """
    names = sorted((n for n in outputs if n.startswith(FEATURES)), key=lambda n: (len(n), n))

    def of_images(features: tf.Tensor) -> tf.Tensor:
        windows = tf.shape(features)[0] // tf.maximum(count, 1)  # -1 fails without any image
        return tf.reduce_mean(tf.reshape(features, [count, windows, features.shape[-1]]), 1)

    parts = [of_images(outputs[name]) for name in names]
    return tf.concat(parts, axis=1) if parts else None


class GraphDistance(NamedTuple):
    """A `FeatureDistance` of arrays, tensors or variables.

    Attributes:
        mean: float32 [F].
        components: float32 [k, F].
        deviations: float32 [k].
        rest: standard deviation along the other directions.
    """

    mean: Any
    components: Any
    deviations: Any
    rest: float

    @classmethod
    def of(cls, distance: FeatureDistance) -> Self:
        """Return the arrays of a distance."""
        return cls(distance.mean, distance.components, distance.deviations, distance.rest)


def distances_in_graph(distance: GraphDistance, features: tf.Tensor) -> tf.Tensor:
    """Return the distances of features in the graph; see `FeatureDistance`."""
    centered = features - distance.mean
    along = tf.matmul(centered, distance.components, transpose_b=True)
    inside = tf.reduce_sum((along * distance.deviations) ** 2, 1)
    outside = tf.maximum(tf.reduce_sum(centered**2, 1) - inside, 0.0)
    squared = tf.reduce_sum(along**2, 1) + outside / distance.rest**2
    return tf.sqrt(squared / features.shape[-1])
