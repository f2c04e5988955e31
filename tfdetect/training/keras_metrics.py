"""Metrics that are computed while training."""

import keras

from tfdetect.models.tensors import Tensor
from tfdetect.training.mask_losses import MaskIoU


def hard_labels(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return the most probable class of each target, int32 [B, 1]; mixed targets have several."""
    if y_pred.shape[-1] > 1 and y_true.shape == y_pred.shape:
        y_true = keras.ops.argmax(y_true, axis=-1)
    return keras.ops.reshape(keras.ops.cast(keras.ops.round(y_true), "int32"), (-1, 1))


class _OfHardLabels(keras.metrics.Metric):
    """Makes a metric count a mixed target as its most probable class."""

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        super().update_state(hard_labels(y_true, y_pred), y_pred, sample_weight)


class _BinaryAccuracy(_OfHardLabels, keras.metrics.BinaryAccuracy):
    pass


class _ClassAccuracy(_OfHardLabels, keras.metrics.SparseCategoricalAccuracy):
    pass


class _ClassLogLoss(_OfHardLabels, keras.metrics.SparseCategoricalCrossentropy):
    pass


class _BinaryLogLoss(_OfHardLabels, keras.metrics.BinaryCrossentropy):
    pass


class FakeAUC(keras.metrics.AUC):
    """ROC AUC of P(fake) = 1 - P(class 0), from logits of two or more classes.

    It is nan where it is not defined, because all images are authentic or all are fake.
    """

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        y_true = keras.ops.reshape(hard_labels(y_true, y_pred) > 0, (-1,))
        if y_pred.shape[-1] == 1:
            fake = keras.ops.sigmoid(y_pred[:, 0])
        else:
            fake = 1.0 - keras.ops.softmax(y_pred)[:, 0]
        super().update_state(y_true, fake, sample_weight)

    def result(self) -> Tensor:
        fakes = self.true_positives[0] + self.false_negatives[0]
        authentic = self.true_negatives[0] + self.false_positives[0]
        known = keras.ops.minimum(fakes, authentic) > 0
        return keras.ops.where(known, super().result(), float("nan"))


def build_metrics(classes: int, masks: bool) -> dict[str, list[keras.metrics.Metric]]:
    """Build the metrics of each output of a detector.

    Args:
        classes: number of classes.
        masks: whether the detector predicts masks.
    """
    if classes == 2:
        accuracy = _BinaryAccuracy("accuracy", threshold=0.0)
        log_loss = _BinaryLogLoss("log_loss", from_logits=True)
    else:
        accuracy = _ClassAccuracy("accuracy")
        log_loss = _ClassLogLoss("log_loss", from_logits=True)
    metrics = {"label": [accuracy, FakeAUC(name="auc"), log_loss]}
    return metrics | {"mask": [MaskIoU(name="iou")]} if masks else metrics
