"""Trains a whole fused detector a little more, on what its members see."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.experiment import Training
from tfdetect.core.run import View
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import view_dataset
from tfdetect.data.sources import image_source
from tfdetect.evaluation.calibration import TINY, log_loss
from tfdetect.fusion.fusions import Scores
from tfdetect.models.inference import predict_views
from tfdetect.training.losses import losses_of


def fine_tune(
    detector: keras.Model, views: list[View], classes: int, catalog: Catalog, epochs: int,
    rate: float, batch_size: int, say=print,
) -> keras.Model:  # fmt: skip
    """Trains all layers but batch normalization, whose statistics stay, with AdamW.

    Images are mirrored at random. Every dataset counts the same. The epoch with the least log-loss
    of validation is kept; it may be the state before the first.

    Args:
        views: what the detector sees of an image.
        rate: learning rate.

    Returns:
        The same detector.
    """
    for layer in detector._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    losses, _ = losses_of(Training(), classes, ["label"])
    detector.compile(keras.optimizers.AdamW(rate), losses)
    rows = catalog.split("train")
    weights = tf.constant(_weights(rows), tf.float32)
    labels = tf.constant(rows["label"].to_numpy(), tf.float32)
    rng = np.random.default_rng(0)
    # Of batches whose number Keras does not know beforehand.
    warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
    best, kept = _validation(detector, views, catalog, batch_size), detector.get_weights()
    say(f"before fine-tuning: validation log-loss {best:.4f}")
    for epoch in range(epochs):
        order = rng.permutation(rows.num_rows)
        places = tf.constant(order)

        def batch(index: tf.Tensor, images: tuple, places=places) -> tuple:
            index = tf.gather(places, index)
            mirrored = tf.random.uniform([tf.shape(index)[0]]) < 0.5
            inputs = [_as_input(image, mirrored, len(views) == 1) for image in images]
            return (inputs[0] if len(views) == 1 else tuple(inputs),
                    {"label": tf.gather(labels, index)[:, None]},
                    {"label": tf.gather(weights, index)})  # fmt: skip

        stream = view_dataset(image_source(catalog, rows.take(order)), views, batch_size)
        detector.fit(stream.map(batch), epochs=1, shuffle=False, verbose=0)
        loss = _validation(detector, views, catalog, batch_size)
        say(f"fine-tuning, epoch {epoch + 1} of {epochs}: validation log-loss {loss:.4f}")
        if loss < best:
            best, kept = loss, detector.get_weights()
    detector.set_weights(kept)
    return detector


def _as_input(image: tf.Tensor, mirrored: tf.Tensor, single: bool) -> tf.Tensor:
    """A view's windows as the detector takes them: of one view the first window alone."""
    image = tf.cast(image, tf.float32)
    image = tf.where(mirrored[:, None, None, None, None], image[:, :, :, ::-1], image)
    return image[:, 0] if single or image.shape[1] == 1 else image


def _weights(rows) -> np.ndarray:
    """So that every dataset, and within it every class, counts the same."""
    names = np.array(rows["dataset"].to_pylist(), object)
    nothing = np.zeros((len(names), 0))
    return Scores(nothing, rows["label"].to_numpy() > 0, names, names, nothing).weights()


def _validation(
    detector: keras.Model, views: list[View], catalog: Catalog, batch_size: int
) -> float:
    """Log-loss of P(fake) on the validation split."""
    rows = catalog.split("validation")
    answer = tf.function(lambda parts: predict_views(detector, parts))
    weights, fake = _weights(rows), rows["label"].to_numpy() > 0
    total = share = 0.0
    for index, images in view_dataset(image_source(catalog, rows), views, batch_size):
        clipped = np.clip(1 - answer(images).numpy()[:, 0], TINY, 1 - TINY)
        odds = np.log(clipped) - np.log1p(-clipped)
        own = weights[index.numpy()]
        total += log_loss(odds, fake[index.numpy()], own) * own.sum()
        share += own.sum()
    return total / share
