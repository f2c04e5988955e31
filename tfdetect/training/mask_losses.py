"""Loss and metric of a mask. Both ignore pixels marked `UNKNOWN`."""

from typing import Any

import keras
from keras import ops

from tfdetect.core.training_settings import MaskLoss
from tfdetect.data.targets import UNKNOWN
from tfdetect.models.tensors import Tensor

EDGE_PIXELS = 2  # distance to the border of the altered region within which a pixel is an edge

EPSILON = 1e-7


class MaskCriterion(keras.losses.Loss):
    """The loss that `training.mask_loss` describes, one value per image [B].

    Args:
        settings: which loss, and its parameters.
    """

    def __init__(self, settings: MaskLoss) -> None:
        super().__init__(name=settings.name)
        self.settings = settings

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss [B] of logits [B, H, W, 1] for truth [B, H, W, 1]: 0, 1 or `UNKNOWN`."""
        truth, known = _split(y_true)
        logits = ops.cast(y_pred, "float32")
        parts = self.settings.name.split("_")
        loss, pixels = 0.0, 0.0
        if "dice" in parts:
            loss += dice(truth, logits, known)
        if "bce" in parts:
            pixels += ops.binary_crossentropy(truth, logits, from_logits=True)
        if "focal" in parts:
            pixels += focal(truth, logits, self.settings.alpha, self.settings.gamma)
        if parts != ["dice"]:
            weights = known
            if self.settings.edge:
                near = edges(truth, EDGE_PIXELS)
                weights = known * (1 + self.settings.edge * near)
            total = ops.sum(pixels * weights, axis=(1, 2, 3))
            loss += total / ops.maximum(ops.sum(weights, axis=(1, 2, 3)), 1)
        return loss


def focal(truth: Tensor, logits: Tensor, alpha: float | None, gamma: float) -> Tensor:
    """Return the focal loss of each pixel, -alpha_t (1 - p_t)^gamma log p_t.

    Keras's own computes probabilities first and clips them, which loses the gradient of pixels
    that are far off.

    Source: Lin et al., ICCV 2017.

    Args:
        truth: 0 or 1, float32 [B, H, W, 1].
        logits: float32 [B, H, W, 1].
        alpha: weight of altered pixels; none for equal weights.
        gamma: exponent.
    """
    p = ops.sigmoid(logits)
    missed = p * (1 - truth) + (1 - p) * truth
    loss = ops.binary_crossentropy(truth, logits, from_logits=True)
    if gamma:
        loss *= ops.power(ops.maximum(missed, EPSILON), gamma)  # a power of 0 has no gradient
    if alpha is not None:
        loss *= alpha * truth + (1 - alpha) * (1 - truth)
    return loss


def dice(truth: Tensor, logits: Tensor, known: Tensor) -> Tensor:
    """Return the Dice loss of each image, 1 - (2 TP + 1) / (P + T + 1) (Milletari et al., 2016)."""
    p = ops.sigmoid(logits) * known
    truth = truth * known
    both, either = (ops.sum(x, axis=(1, 2, 3)) for x in (p * truth, p + truth))
    return 1 - (2 * both + 1) / (either + 1)


def edges(truth: Tensor, pixels: int) -> Tensor:
    """Return 1 where both altered and authentic pixels are within so many pixels, else 0."""
    size = 2 * pixels + 1
    highest = ops.max_pool(truth, size, strides=1, padding="same")
    lowest = -ops.max_pool(-truth, size, strides=1, padding="same")
    return highest - lowest


class MaskIoU(keras.metrics.Mean):
    """Mean over images of the intersection over union of the mask at P(altered) 0.5.

    An empty mask of an unaltered image counts 1; images without a known mask do not count.
    """

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        truth, known = _split(y_true)
        predicted = ops.cast(y_pred > 0, "float32") * known
        both, either = (
            ops.sum(x, axis=(1, 2, 3)) for x in (predicted * truth, ops.maximum(predicted, truth))
        )
        iou = ops.where(either > 0, both / ops.maximum(either, 1), 1.0)
        counts = ops.cast(ops.any(known > 0, axis=(1, 2, 3)), "float32")
        if sample_weight is not None:
            counts *= ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        super().update_state(iou, counts)


def _split(y_true: Tensor) -> Any:
    """Return the truth, 0 where it is unknown, and where it is known, both float32."""
    truth = ops.cast(y_true, "float32")
    known = ops.cast(truth != UNKNOWN, "float32")
    return truth * known, known
