"""Losses of the label and of the mask."""

import keras
import tensorflow as tf

from tfdetect.core.experiment import Training
from tfdetect.training.mask_losses import MaskCriterion

AUX_WEIGHT = 0.5  # of an auxiliary mask, relative to the mask, as in torchvision's FCN


def losses_of(training: Training, classes: int, outputs: list[str]) -> tuple[dict, dict]:
    """Each output's loss, and its weight in the whole."""
    settings = training.mask_loss
    losses = {"label": _loss(classes, training.label_smoothing)}
    losses |= {name: MaskCriterion(settings) for name in outputs if name != "label"}
    if len(outputs) == 1:
        return losses, {"label": 1.0}
    weights = {"label": settings.label_weight, "mask": settings.mask_weight,
               "mask_aux": AUX_WEIGHT * settings.mask_weight}  # fmt: skip
    return losses, {name: weights[name] for name in losses}


def with_aux_mask(images: tf.Tensor, *rest: dict[str, tf.Tensor]) -> tuple:
    """A batch whose targets and weights also serve an auxiliary mask."""
    return images, *({**part, "mask_aux": part["mask"]} for part in rest)


def _loss(classes: int, smoothing: float) -> keras.losses.Loss:
    if classes == 2:
        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
    return SoftCrossentropy(classes, smoothing)


class SoftCrossentropy(keras.losses.Loss):
    """Cross-entropy of class numbers or of mixed targets [B, C], with label smoothing."""

    def __init__(self, classes: int, smoothing: float):
        super().__init__(name="soft_crossentropy")
        self.classes, self.smoothing = classes, smoothing

    def call(self, y_true, y_pred):
        if y_true.shape != y_pred.shape:
            y_true = keras.ops.reshape(keras.ops.cast(y_true, "int32"), (-1,))
            y_true = keras.ops.one_hot(y_true, self.classes)
        return keras.losses.categorical_crossentropy(
            y_true, y_pred, from_logits=True, label_smoothing=self.smoothing
        )
