"""`Objective`: the validation metric that a search maximizes or minimizes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tfdetect.core.errors import unknown
from tfdetect.core.experiment import Experiment
from tfdetect.core.run_results import SplitResult
from tfdetect.evaluation.intervals import numbers, of_folds
from tfdetect.evaluation.metrics import NAMES
from tfdetect.training.monitor import Monitor

MASK_PREFIX = "mask_"
_MASK_METRICS = ("iou_altered", "iou", "iou_data", "f1", "f1_data", "ap", "ap_data", "auc",
                 "auc_data", "mcc_data", "empty", "image_auc")  # fmt: skip
OBJECTIVES = (*NAMES, *(MASK_PREFIX + name for name in _MASK_METRICS))
_MINIMIZED = ("fpr", "eer", "log_loss", "brier", "ece")
# By `training.monitor` of the experiment.
_DEFAULTS = {"accuracy": "accuracy", "auc": "auc", "loss": "log_loss", "iou": "mask_iou"}

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Objective(Monitor):
    """A metric by its name in metrics.json, with the prefix mask_ if it is one of masks."""

    @property
    def is_of_masks(self) -> bool:
        """Whether it is a metric of masks."""
        return self.name.startswith(MASK_PREFIX)

    def read(self, result: SplitResult) -> Interval:
        """Return the metric and its 95% interval: value, low and high.

        All are nan where the metric is not defined. Without an interval, as for a single image,
        low and high are the value.

        Args:
            result: the result of one split.
        """
        part = result.get("masks", {}) if self.is_of_masks else result
        metric = part.get("metrics", {}).get(self.name.removeprefix(MASK_PREFIX)) or {}
        found = (metric.get(key) for key in ("value", "low", "high"))
        value, low, high = (np.nan if number is None else float(number) for number in found)
        return value, *((value, value) if np.isnan(low) else (low, high))

    def loss(self, value: float) -> float:
        """Return the loss of a value, which samplers minimize."""
        return -value if self.direction == "max" else value


def objective_named(name: str) -> Objective:
    """Return the objective of a name.

    Raises:
        UserError: no objective has this name.
    """
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    direction: Literal["max", "min"] = "min" if name in _MINIMIZED else "max"
    return Objective(name, direction, title=NAMES.get(name, name))


def default_objective(experiment: Experiment) -> Objective:
    """Return the objective that corresponds to the metric that an experiment monitors."""
    return objective_named(_DEFAULTS[experiment.training.monitor])


def mean_of_folds(values: list[Interval]) -> Interval:
    """Return the mean over folds with its 95% interval; a single fold keeps its own interval."""
    if len(values) == 1:
        return values[0]
    return numbers(of_folds([value for value, _, _ in values]))
