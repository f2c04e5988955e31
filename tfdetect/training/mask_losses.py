"""Loss and metric of a mask. Pixels marked `UNKNOWN` count in neither."""

import keras
from keras import ops

from tfdetect.core.experiment import MaskLoss
from tfdetect.data.targets import UNKNOWN

EDGE_PIXELS = 2  # how near to the border of the altered region a pixel is an edge pixel


class MaskCriterion(keras.losses.Loss):
    """The loss that an experiment's `training.mask_loss` describes, one value an image [B].

    Args:
        settings: which loss, and its parameters.
    """

    def __init__(self, settings: MaskLoss):
        super().__init__(name=settings.name)
        self.settings = settings

    def call(self, y_true, y_pred):
        """Truth [B, H, W, 1] of 0, 1 and `UNKNOWN`, logits [B, H, W, 1] -> loss [B]."""
        truth, known = _split(y_true)
        logits = ops.cast(y_pred, "float32")
        parts = self.settings.name.split("_")
        loss, pixels = 0.0, 0.0
        if "dice" in parts:
            loss += dice(truth, logits, known)
        if "bce" in parts:
            pixels += bce(truth, logits)
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


def bce(truth, logits):
    """Binary cross-entropy of each pixel, from logits."""
    return ops.maximum(logits, 0) - logits * truth + ops.log1p(ops.exp(-ops.abs(logits)))


def focal(truth, logits, alpha: float | None, gamma: float):
    """Focal loss of each pixel: -alpha_t (1 - p_t)^gamma log p_t (Lin et al., ICCV 2017)."""
    p = ops.sigmoid(logits)
    missed = p * (1 - truth) + (1 - p) * truth
    loss = bce(truth, logits)
    if gamma:
        loss *= ops.power(ops.maximum(missed, 1e-7), gamma)  # 0's power has no gradient
    if alpha is not None:
        loss *= alpha * truth + (1 - alpha) * (1 - truth)
    return loss


def dice(truth, logits, known):
    """1 - (2 TP + 1) / (P + T + 1) of each image's probabilities (Milletari et al., 2016)."""
    p = ops.sigmoid(logits) * known
    truth = truth * known
    both, either = (ops.sum(x, axis=(1, 2, 3)) for x in (p * truth, p + truth))
    return 1 - (2 * both + 1) / (either + 1)


def edges(truth, pixels: int):
    """1 where both an altered and an untouched pixel lie within so many pixels, else 0."""
    size = 2 * pixels + 1
    highest = ops.max_pool(truth, size, strides=1, padding="same")
    lowest = -ops.max_pool(-truth, size, strides=1, padding="same")
    return highest - lowest


class MaskIoU(keras.metrics.Mean):
    """Mean over images of the intersection over union of the mask at P(altered) 0.5.

    An empty mask for an untouched image counts 1; images of unknown masks do not count.
    """

    def update_state(self, y_true, y_pred, sample_weight=None):
        truth, known = _split(y_true)
        drawn = ops.cast(y_pred > 0, "float32") * known
        both, either = (
            ops.sum(x, axis=(1, 2, 3)) for x in (drawn * truth, ops.maximum(drawn, truth))
        )
        iou = ops.where(either > 0, both / ops.maximum(either, 1), 1.0)
        counts = ops.cast(ops.any(known > 0, axis=(1, 2, 3)), "float32")
        if sample_weight is not None:
            counts *= ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        return super().update_state(iou, counts)


def _split(y_true):
    """Truth with 0 where it is not known, and 1 where it is known, both float32."""
    truth = ops.cast(y_true, "float32")
    known = ops.cast(truth != UNKNOWN, "float32")
    return truth * known, known
