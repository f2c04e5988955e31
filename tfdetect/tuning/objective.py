"""What a search maximizes or minimizes: a metric of the validation split."""

from dataclasses import dataclass

import numpy as np

from tfdetect.core.errors import unknown
from tfdetect.core.experiment import Experiment
from tfdetect.evaluation.metrics import NAMES

LABEL_METRICS = tuple(NAMES)
MASK_METRICS = ("iou_altered", "iou", "iou_data", "f1", "f1_data", "ap", "ap_data", "auc",
                "auc_data", "mcc_data", "empty", "image_auc")  # fmt: skip
OBJECTIVES = (*LABEL_METRICS, *(f"mask_{name}" for name in MASK_METRICS))
_MINIMIZED = ("eer", "log_loss", "brier", "ece")
_OF_MONITOR = {"accuracy": "accuracy", "auc": "auc", "loss": "log_loss", "iou": "mask_iou"}


@dataclass(frozen=True)
class Objective:
    """A metric by its name in metrics.json, those of masks with mask_ before."""

    name: str

    @property
    def maximized(self) -> bool:
        return self.name not in _MINIMIZED

    def of(self, results: dict) -> tuple[float, float, float]:
        """Value and interval in the metrics of a split; nan where not defined."""
        is_mask = self.name.startswith("mask_")
        part = results.get("masks", {}) if is_mask else results
        found = part.get("metrics", {}).get(self.name.removeprefix("mask_"))
        return tuple(
            np.nan if found is None or found[key] is None else found[key]
            for key in ("value", "low", "high")
        )

    def loss(self, value: float) -> float:
        """What hyperopt minimizes."""
        return -value if self.maximized else value


def objective_of(name: str | None, experiment: Experiment) -> Objective:
    """The objective of that name; by default what the experiment monitors.

    Raises:
        UserError: no such metric.
    """
    name = name or _OF_MONITOR[experiment.training.monitor]
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return Objective(name)


def over_folds(values: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The mean of folds, with the 95% interval of a normal mean; of one fold its own."""
    if len(values) == 1:
        return values[0]
    means = np.array([value for value, _, _ in values])
    half = 1.96 * means.std(ddof=1) / np.sqrt(len(means))
    return means.mean(), means.mean() - half, means.mean() + half
