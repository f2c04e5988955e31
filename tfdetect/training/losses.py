"""Builds the losses of the label and of the mask."""

import inspect

import keras
import tensorflow as tf

from tfdetect.core import registry
from tfdetect.core.errors import shortened
from tfdetect.core.options import check_options, check_required
from tfdetect.core.plugin_faults import calling, shape_text, wrong_result
from tfdetect.core.training_settings import Training
from tfdetect.data.targets import ANSWERS
from tfdetect.imaging.graph import traced_as_written
from tfdetect.models.tensors import Tensor
from tfdetect.training.mask_losses import MaskCriterion

AUX_WEIGHT = 0.5  # of an auxiliary mask, relative to the mask, as in torchvision's FCN


def losses_of(training: Training, classes: int, outputs: list[str]) -> tuple[dict, dict]:
    """Build the loss of each output.

    Args:
        training: its `loss`, `label_smoothing`, `mask_loss` and `distill` are used.
        classes: number of classes.
        outputs: names of the detector's outputs.

    Returns:
        Losses and their weights in the sum, by output.

    Raises:
        UserError: an option of the label's loss is refused, or a plug-in builds no loss.
    """
    settings = training.mask_loss
    losses = {"label": _label_loss(training, classes)}
    if outputs == ["label"]:
        return losses, {"label": 1.0}
    if ANSWERS in outputs:
        losses[ANSWERS] = Distillation(training.distill.temperature)
        return losses, {"label": 1.0, ANSWERS: training.distill.weight}
    losses |= {name: MaskCriterion(settings) for name in outputs if name != "label"}
    weights = {"label": settings.label_weight, "mask": settings.mask_weight,
               "mask_aux": AUX_WEIGHT * settings.mask_weight}  # fmt: skip
    return losses, {name: weights[name] for name in losses}


def _label_loss(training: Training, classes: int) -> keras.losses.Loss:
    build, key = registry.LOSSES.load(training.loss), "training.loss_options"
    given = list(inspect.signature(build).parameters)[:2]
    options = check_options(build, training.loss_options, key, given)
    check_required(build, options, key, given)
    with calling(registry.LOSSES, training.loss):
        loss = build(classes, training.label_smoothing, **options)
    if not isinstance(loss, keras.losses.Loss):
        raise wrong_result(registry.LOSSES, training.loss, shortened(loss), "a keras.losses.Loss")
    return loss


def try_loss(training: Training, classes: int, loss: keras.losses.Loss) -> None:
    """Call the loss of a plug-in once, so that its errors are named before the training begins.

    Args:
        training: its `loss` is used.
        classes: number of classes.
        loss: the loss of the label, as `losses_of` builds it.

    Raises:
        UserError: it raises an error, or returns no scalar.
    """
    if not registry.LOSSES.is_plugin(training.loss):
        return
    logits = tf.zeros([2, 1 if classes == 2 else classes])
    with calling(registry.LOSSES, training.loss, type(loss).call):
        found = loss(tf.constant([[0.0], [1.0]]), logits)
    if getattr(found, "shape", None) != ():
        received = f"a loss that returns {shape_text(found)}"
        raise wrong_result(registry.LOSSES, training.loss, received, "one that returns a scalar")


@traced_as_written
def with_aux_mask(images: tf.Tensor, *rest: dict[str, tf.Tensor]) -> tuple:
    """Return a batch whose targets and weights also have an auxiliary mask."""
    return images, *({**part, "mask_aux": part["mask"]} for part in rest)


@traced_as_written
def with_distilled(images: tf.Tensor, *rest: dict[str, tf.Tensor]) -> tuple:
    """Return a batch with a target, which is not read, and a weight for `Distillation`."""
    return images, *({**part, ANSWERS: part["label"]} for part in rest)


class Distillation(keras.losses.Loss):
    """Cross-entropy between the answers of a detector and its teacher at a temperature.

    Times the temperature's square, so that its gradients do not depend on it (Hinton, Vinyals and
    Dean, 2015). The logits of the teacher are the targets or, of `with_teacher`, the second half of
    the output. Where they are NaN, nothing is learned of the teacher.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__(name="distillation")
        self.temperature = temperature

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        own, teacher = y_pred, y_true
        if len(y_true.shape) != len(y_pred.shape) or y_true.shape[-1] != y_pred.shape[-1]:
            own, teacher = keras.ops.split(y_pred, 2, axis=-1)
        unknown = keras.ops.isnan(teacher)
        teacher = keras.ops.where(unknown, keras.ops.stop_gradient(own), teacher)
        own, teacher = own / self.temperature, teacher / self.temperature
        if own.shape[-1] == 1:
            found = keras.losses.binary_crossentropy(
                keras.ops.sigmoid(teacher), own, from_logits=True
            )
        else:
            found = keras.losses.categorical_crossentropy(
                keras.ops.softmax(teacher), own, from_logits=True
            )
        return self.temperature**2 * found


def cross_entropy(classes: int, label_smoothing: float = 0.0) -> keras.losses.Loss:
    """Return binary cross-entropy for two classes, softmax cross-entropy for more.

    Args:
        classes: number of classes.
        label_smoothing: fraction of the target that is spread over all classes.
    """
    if classes == 2:
        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    return SoftCrossentropy(classes, label_smoothing)


class SoftCrossentropy(keras.losses.Loss):
    """Cross-entropy from class numbers or probabilities [B, C], with label smoothing."""

    def __init__(self, classes: int, smoothing: float) -> None:
        super().__init__(name="soft_crossentropy")
        self.classes, self.smoothing = classes, smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if y_true.shape != y_pred.shape:
            y_true = keras.ops.reshape(keras.ops.cast(y_true, "int32"), (-1,))
            y_true = keras.ops.one_hot(y_true, self.classes)
        return keras.losses.categorical_crossentropy(
            y_true, y_pred, from_logits=True, label_smoothing=self.smoothing
        )
