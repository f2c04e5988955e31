"""`CalibrationSettings`: the settings of a calibration."""

import math
from dataclasses import dataclass
from typing import get_args

from tfdetect.core.choices import CalibrationMethod
from tfdetect.core.errors import UserError, unknown
from tfdetect.evaluation.operating_points import POINTS

METHODS = get_args(CalibrationMethod)
DEFAULT_PRIOR = 0.5
DEFAULT_EMPTY_MASKS = 0.9  # of authentic images


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate a run.

    Attributes:
        method: one of `METHODS`.
        cost: the cost of a false positive, where a missed fake costs 1, for the operating point
            "cost".
        error_rate: fraction of each class that may get a wrong verdict outside the abstention
            band; None chooses it by the number of images.
        prior: fraction of fakes that P(fake) assumes; "validation" for the fraction among the
            images that the run is calibrated on.
        threshold: the operating point that gives the verdict, or P(fake) itself; None for what
            the run's experiment says (`training.threshold`). With authentic images alone, the
            lowest that may be chosen.
        required: whether images of one class alone are an error.
        dataset: name of the images that are not the run's own; "" for its own. Few of them adapt
            the run instead of calibrating it; see `adaptation`.
        false_positive_rate: the false positive rate that a threshold chosen on authentic images
            alone promises.
        empty_masks: fraction of new authentic images whose masks are empty, 0 to below 1, for the
            mask threshold; 0 shows every mask.
        keep_hashes: whether the run keeps hashes of its training images, if they are at hand.
        tile_pooling: another `data.tile_pooling`; only on the run's own images.

    Raises:
        UserError: a setting is out of range, or a name is unknown.
    """

    method: str = "auto"
    cost: float | None = None
    error_rate: float | None = None
    prior: float | str = DEFAULT_PRIOR
    threshold: str | float | None = None
    required: bool = False
    dataset: str = ""
    false_positive_rate: float | None = None
    empty_masks: float = DEFAULT_EMPTY_MASKS
    keep_hashes: bool = True
    tile_pooling: str | None = None

    def __post_init__(self) -> None:
        ranges = {
            "--cost must be above 0": (self.cost, 0, math.inf),
            "--abstention-error must be above 0 and below 0.5": (self.error_rate, 0, 0.5),
            "--false-positive-rate must be above 0 and below 1": (self.false_positive_rate, 0, 1),
        }
        for rule, (value, low, high) in ranges.items():
            if value is not None and not low < value < high:
                raise UserError(f"{rule}. Received: {value}.")
        if not 0 <= self.empty_masks < 1:
            raise UserError(
                f"--empty-masks must be from 0 to below 1. Received: {self.empty_masks}."
            )
        if self.method not in METHODS:
            raise unknown("calibration method", self.method, METHODS)
        if isinstance(self.threshold, str) and self.threshold not in POINTS:
            raise unknown("operating point", self.threshold, POINTS)
        number = None if isinstance(self.threshold, str) else self.threshold
        if number is not None and not 0 <= number <= 1:  # before minutes of prediction
            raise UserError(f"A threshold of P(fake) lies between 0 and 1. Received: {number}.")
        if self.threshold == "cost" and self.cost is None:
            raise UserError(
                "The threshold of lowest cost needs the cost of a false positive (--cost)."
            )
        if isinstance(self.prior, str) and self.prior != "validation":
            raise UserError(
                f"A prior is a number between 0 and 1, or validation. Received: {self.prior!r}."
            )
        if not isinstance(self.prior, str) and not 0 < self.prior < 1:
            raise UserError(f"A prior lies between 0 and 1. Received: {self.prior}.")

    def check_for_authentic_images(self) -> None:
        """Check settings for a calibration on authentic images alone, which choose a threshold.

        Raises:
            UserError: a setting needs fakes.
        """
        method = self.method if self.method not in ("auto", "none") else None
        prior = self.prior if self.prior != DEFAULT_PRIOR else None
        given = {"a method": method, "a cost": self.cost,
                 "an abstention error": self.error_rate, "a prior": prior}  # fmt: skip
        if wrong := [name for name, value in given.items() if value is not None]:
            raise UserError(
                "All images are authentic, so they choose the threshold for a false positive rate "
                f"(--false-positive-rate), and {wrong[0]} has no meaning."
            )
