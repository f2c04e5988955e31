"""Fine-tune a whole fused detector on the training split."""

import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfdetect.core import console
from tfdetect.core.run_info import View
from tfdetect.core.training_settings import Training
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import view_dataset
from tfdetect.data.sources import image_source
from tfdetect.evaluation.calibration import log_loss, logit
from tfdetect.fusion.fused_run import FusedDetector
from tfdetect.fusion.fusions import FusionSettings
from tfdetect.fusion.scores import balanced_weights
from tfdetect.imaging.graph import traced_as_written
from tfdetect.models.inference import predict_views
from tfdetect.training.losses import losses_of


def fine_tune(
    fused: FusedDetector,
    catalog: Catalog,
    settings: FusionSettings,
    log: console.Log,
) -> None:
    """Train all layers of a fused detector except batch normalization, with AdamW.

    Images are mirrored at random, and every dataset has the same weight. The weights of the epoch
    with the smallest validation log-loss are kept, or those from before the first epoch.

    Args:
        fused: a detector without masks; the weights of its model are changed.
        catalog: the dataset.
        settings: epochs, learning rate and batch size.
        log: called with each message.
    """
    detector, views, batch_size = fused.model, fused.members.views, settings.batch_size
    for layer in detector._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    losses, _ = losses_of(Training(), len(fused.members.class_names), ["label"])
    detector.compile(keras.optimizers.AdamW(settings.learning_rate), losses)
    rows = catalog.split("train")
    weights = tf.constant(_weights(rows), tf.float32)
    labels = tf.constant(rows["label"].to_numpy(), tf.float32)
    rng = np.random.default_rng(0)
    # Keras does not know the number of batches, because unreadable images are left out.
    warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
    predict = tf.function(lambda parts: predict_views(detector, parts), autograph=False)
    best = _validation_loss(predict, views, catalog, batch_size)
    best_weights = detector.get_weights()
    log(f"before fine-tuning: validation log-loss {best:.4f}")
    for epoch in range(settings.epochs):
        order = rng.permutation(rows.num_rows)
        row_numbers = tf.constant(order)

        @traced_as_written
        def batch(index: tf.Tensor, images: tuple, row_numbers: tf.Tensor = row_numbers) -> tuple:
            index = tf.gather(row_numbers, index)
            mirrored = tf.random.uniform([tf.shape(index)[0]]) < 0.5
            inputs = [_model_input(image, mirrored, len(views) == 1) for image in images]
            return (inputs[0] if len(views) == 1 else tuple(inputs),
                    {"label": tf.gather(labels, index)[:, None]},
                    {"label": tf.gather(weights, index)})  # fmt: skip

        stream = view_dataset(image_source(catalog, rows.take(order)), views, batch_size)
        detector.fit(stream.map(batch), epochs=1, shuffle=False, verbose=0)
        loss = _validation_loss(predict, views, catalog, batch_size)
        log(f"fine-tuning, epoch {epoch + 1} of {settings.epochs}: validation log-loss {loss:.4f}")
        if loss < best:
            best, best_weights = loss, detector.get_weights()
    detector.set_weights(best_weights)


def _model_input(image: tf.Tensor, mirrored: tf.Tensor, single: bool) -> tf.Tensor:
    """Return the windows of images as the detector takes them, some of them mirrored.

    Args:
        image: the windows of one view, uint8 [B, crops, H, W, 3].
        mirrored: whether to mirror each image, bool [B].
        single: whether this is the only view; then the detector takes one window.

    Returns:
        float32 [B, H, W, 3] for one window, else [B, crops, H, W, 3], values 0 to 255.
    """
    image = tf.cast(image, tf.float32)
    image = tf.where(mirrored[:, None, None, None, None], image[:, :, :, ::-1], image)
    return image[:, 0] if single or image.shape[1] == 1 else image


def _weights(rows: pa.Table) -> np.ndarray:
    """Return weights of images, float [n], that balance datasets and their classes."""
    return balanced_weights(
        rows["label"].to_numpy() > 0, np.array(rows["dataset"].to_pylist(), object)
    )


def _validation_loss(
    predict: Callable[[tuple[tf.Tensor, ...]], tf.Tensor],
    views: Sequence[View],
    catalog: Catalog,
    batch_size: int,
) -> float:
    """Return the balanced log-loss of P(fake) on the validation split.

    Args:
        predict: returns class probabilities, float32 [B, C], of the views of images.
        views: the views.
        catalog: the dataset.
        batch_size: images per step.
    """
    rows = catalog.split("validation")
    weights, fake = _weights(rows), rows["label"].to_numpy() > 0
    total = weight = 0.0
    for index, images in view_dataset(image_source(catalog, rows), views, batch_size):
        logits = logit(1 - predict(images).numpy()[:, 0])
        own = weights[index.numpy()]
        total += log_loss(logits, fake[index.numpy()], own) * own.sum()
        weight += own.sum()
    return total / weight
