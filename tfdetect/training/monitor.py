"""The validation metric by which the best epoch is chosen. TensorFlow is not imported."""

import math
from dataclasses import dataclass, field
from typing import Literal

from tfdetect.core.training_settings import Training


@dataclass(frozen=True)
class Monitor:
    """A metric of the training history, and whether higher or lower is better.

    Attributes:
        name: column of the history, such as "val_accuracy".
        direction: "max" where higher is better, "min" where lower is; Keras calls it `mode`.
        title: what people read.
    """

    name: str
    direction: Literal["max", "min"] = "max"
    title: str = field(kw_only=True)

    def is_better(self, value: float, best: float | None) -> bool:
        """Return whether a value is finite and better than `best`; None is worse than any."""
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        return value > best if self.direction == "max" else value < best


# What to do about a training that diverged.
STEADIER = (
    "Lower the learning rate (training.optimizer.learning_rate), clip gradients "
    "(training.optimizer.clip_norm), or use float32 (training.precision)."
)
MONITORS = {
    "loss": Monitor("val_log_loss", "min", title="log-loss"),
    "accuracy": Monitor("val_accuracy", title="accuracy"),
    "auc": Monitor("val_auc", title="AUC"),
    "iou": Monitor("val_mask_iou", title="mask IoU"),
}


def monitor_of(training: Training) -> Monitor:
    """Return the metric that `training.monitor` names."""
    return MONITORS[training.monitor]
