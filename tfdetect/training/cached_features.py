"""Compute the features of a frozen backbone once, to train a head on them."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from tfdetect.data.sampling import permute
from tfdetect.imaging.draws import Part
from tfdetect.imaging.graph import traced_as_written
from tfdetect.models.detector_parts import backbone_of
from tfdetect.models.nearest_neighbors import NearestNeighbors
from tfdetect.models.standardize import Standardize


def head_of(detector: keras.Model) -> keras.Model:
    """Return the part after the backbone, features -> logits, made of the detector's own layers."""
    return keras.Model(_features(detector), detector.output, name="head")


def _features(detector: keras.Model) -> keras.KerasTensor:
    return detector.layers[detector.layers.index(backbone_of(detector)) + 1].input


def on_features(
    detector: keras.Model,
    batches: tf.data.Dataset,
    count: int,
    validation: tf.data.Dataset,
    batch_size: int,
    seed: int,
    part: Part | None = None,
) -> tuple[keras.Model, Callable[[int], tf.data.Dataset], tf.data.Dataset]:
    """Compute the features of training and validation images.

    Args:
        detector: its backbone is frozen.
        batches: training batches, augmented, endless.
        count: number of batches to use.
        validation: batches of all validation images.
        batch_size: the batch size of the stream that is returned.
        seed: the seed of its order.
        part: the part of each batch that is wanted; None for all of it.

    Returns:
        The head, made of the detector's own layers: features -> logits; a function that returns
        endless batches of training features from a step on, in a new order each pass; and batches
        of validation features.
    """
    features, head = _features(detector), head_of(detector)
    encoder = keras.Model(detector.inputs[0], features)
    encode = tf.function(
        lambda images: encoder(images, training=False), reduce_retracing=True, autograph=False
    )

    def computed(source: Iterable) -> tuple:
        parts = [
            tf.nest.map_structure(lambda x: x.numpy(), (encode(images), *rest))
            for images, *rest in source
        ]
        with tf.device("CPU:0"):  # where tf.data runs
            return tf.nest.map_structure(lambda *x: tf.constant(np.concatenate(x)), *parts)

    examples, held_out = computed(batches.take(count)), computed(validation)
    for layer in head.layers:
        if isinstance(layer, NearestNeighbors):
            layer.fill_bank(examples[0].numpy(), examples[1]["label"].numpy())
        elif isinstance(layer, Standardize):
            before = keras.Model(features, layer.input)
            layer.learn([before.predict(examples[0], verbose=0)])
    size = len(examples[0])

    def stream(start_step: int) -> tf.data.Dataset:
        @traced_as_written
        def pick(step: tf.Tensor) -> tuple:
            position = step * batch_size + tf.range(batch_size, dtype=tf.int64)
            if part is not None:
                position = position[part.start : part.start + part.size]
            index = permute(position % size, [seed, position // size, 0], size)
            return tf.nest.map_structure(lambda x: tf.gather(x, index), examples)

        steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size)
        return steps.map(pick).prefetch(2)

    own = batch_size if part is None else part.size
    held_out = tf.data.Dataset.from_tensor_slices(held_out).batch(own, drop_remainder=True)
    return head, stream, held_out
