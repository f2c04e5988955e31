"""Calibrates a run on what it predicted, and chooses its threshold and abstention band."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tfdetect.core import console
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.run import Run

METHODS = ("auto", "temperature", "platt", "isotonic", "none")
DEFAULT_PRIOR = 0.5


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate a run.

    Attributes:
        method: one of `METHODS`.
        cost: of a false positive, where a missed fake costs 1, for the operating point "cost".
        error_rate: fraction of each class that may get a wrong verdict outside the abstention
            band; None chooses it by the number of images.
        prior: fraction of fakes that P(fake) supposes; "validation" for the fraction among the
            images that the run is calibrated on.
        threshold: the operating point that gives the verdict, or P(fake) itself; None for what
            the run's experiment says (`training.threshold`).
        required: whether images of one class alone are an error.
        keep_hashes: whether the run keeps hashes of its training images, if they are at hand.
    """

    method: str = "auto"
    cost: float | None = None
    error_rate: float | None = None
    prior: float | str = DEFAULT_PRIOR
    threshold: str | float | None = None
    required: bool = False
    keep_hashes: bool = True


def calibrate_run(
    run: Run,
    labels: np.ndarray,
    groups: list[str],
    table: pa.Table,
    settings: CalibrationSettings,
    log: Callable[[str], None] = console.log,
) -> Run:
    """Return the run with a calibration, operating points, a threshold and an abstention band.

    The calibration is fitted on the images as frequent as they are; then the run's prior shifts
    the logits by logit(prior) - logit(fraction of fakes among the images). Everything else is
    chosen at that prior. Without a calibration P(fake) stays the detector's own score, and the
    threshold is chosen on it.

    Args:
        run: any calibration of its own is ignored.
        labels: int [n], 0 for authentic.
        groups: names [n] of what must not be in two folds.
        table: predictions of these images by `uncalibrated(run)`, from `predict_source`.
        settings: how to calibrate.
        log: called with a line on what was done.

    Raises:
        UserError: a setting is unknown or out of range, or one class is missing where the
            settings require both.
    """
    from tfdetect.evaluation.calibration import choose_calibration
    from tfdetect.evaluation.operating_points import (
        abstention_band,
        choose_threshold,
        operating_points,
    )
    from tfdetect.evaluation.prediction_columns import raw_logits, recalibrate, uncalibrated

    _check(settings)
    readable = table["error"].is_null().to_numpy()
    fake = (labels > 0)[readable]
    if settings.required and (fake.all() or not fake.any()):
        kind = "fakes" if fake.any() else "authentic images"
        raise UserError(
            f"A calibration needs authentic images and fakes; of the {len(fake):,} images all are "
            f"{kind}. Choose a dataset with both classes."
        )
    fitted = None
    if settings.method != "none":
        logits = raw_logits(table, run)[readable]
        fitted = choose_calibration(logits, fake, np.array(groups)[readable], settings.method)
        log(
            f"calibration: {fitted.method}, log-loss {fitted.log_loss[0]:.4f} before, "
            f"{fitted.log_loss[1]:.4f} after"
            if fitted
            else "calibration: none, because no method improves the log-loss or there are too few "
            "images; P(fake) is an uncalibrated score"
        )
    prior = None
    if fitted is not None:
        given = settings.prior
        prior = fitted.fake_fraction if isinstance(given, str) else given
    run = uncalibrated(run).with_info(calibration=fitted, prior=prior)
    p = recalibrate(table, run)["p_fake"].to_numpy()[readable]
    points = operating_points(p, fake, settings.cost, prior or DEFAULT_PRIOR)
    rule = _threshold_rule(run, settings)
    if isinstance(rule, str) and rule not in points:
        log(f"threshold: too few images for {rule}; best balanced accuracy is used instead")
    threshold = choose_threshold(rule, points)
    band = abstention_band(p, fake, threshold, settings.error_rate)
    return run.with_calibration(fitted, prior, points, band, threshold)


def _check(settings: CalibrationSettings) -> None:
    """Raise UserError where the settings name what does not exist."""
    from tfdetect.evaluation.operating_points import POINTS

    if settings.method not in METHODS:
        raise unknown("calibration method", settings.method, METHODS)
    if isinstance(settings.threshold, str) and settings.threshold not in POINTS:
        raise unknown("operating point", settings.threshold, POINTS)
    if settings.threshold == "cost" and settings.cost is None:
        raise UserError("The threshold of lowest cost needs the cost of a false positive (--cost).")
    if isinstance(settings.prior, str) and settings.prior != "validation":
        raise UserError(
            f"A prior is a number between 0 and 1, or validation. Received: {settings.prior!r}."
        )
    if not isinstance(settings.prior, str) and not 0 < settings.prior < 1:
        raise UserError(f"A prior lies between 0 and 1. Received: {settings.prior}.")


def _threshold_rule(run: Run, settings: CalibrationSettings) -> str | float:
    if settings.threshold is not None:
        return settings.threshold
    return "balanced" if run.is_ensemble else run.experiment().training.threshold
