"""Calibrates a run on what it predicted, and chooses its threshold and abstention band."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tfdetect.core import console
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.probability import logit
from tfdetect.core.run import Run
from tfdetect.core.run_info import Adaptation, Calibration, MaskThreshold
from tfdetect.core.text import images_are
from tfdetect.evaluation.adaptation import (
    DEFAULT_RATE,
    MAX_SHIFT_IMAGES,
    MIN_SHIFT_CLASS,
    MIN_SHIFT_IMAGES,
    conformal_threshold,
    fit_shift,
    images_needed,
    rate_bound,
)
from tfdetect.evaluation.calibration import METHODS as FITTED
from tfdetect.evaluation.calibration import apply_calibration, choose_calibration, log_loss
from tfdetect.evaluation.operating_points import (
    POINTS,
    abstention_band,
    choose_threshold,
    operating_points,
)
from tfdetect.evaluation.prediction_columns import raw_logits, recalibrate, uncalibrated
from tfdetect.evaluation.run_description import mask_threshold_sentence

METHODS = ("auto", *FITTED, "shift", "none")
DEFAULT_PRIOR = 0.5
DEFAULT_EMPTY_MASKS = 0.9  # of authentic images
WORSE = 0.05  # loss of balanced accuracy from which a shift is warned of


@dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate a run.

    Attributes:
        method: one of `METHODS`.
        cost: of a false positive, where a missed fake costs 1, for the operating point "cost".
        error_rate: fraction of each class that may get a wrong verdict outside the abstention
            band; None chooses it by the number of images.
        prior: fraction of fakes that P(fake) assumes; "validation" for the fraction among the
            images that the run is calibrated on.
        threshold: the operating point that gives the verdict, or P(fake) itself; None for what
            the run's experiment says (`training.threshold`).
        required: whether images of one class alone are an error.
        dataset: name of the images that are not the run's own; "" for its own. Few of them adapt
            the run instead of calibrating it; see `adaptation`.
        false_positive_rate: that a threshold chosen on authentic images alone promises.
        empty_masks: fraction of new authentic images whose masks are empty, 0 to below 1, for the
            mask threshold; 0 shows every mask.
        keep_hashes: whether the run keeps hashes of its training images, if they are at hand.
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


def calibrate_run(
    run: Run,
    labels: np.ndarray,
    groups: list[str],
    table: pa.Table,
    settings: CalibrationSettings,
    log: console.Log = console.log,
    sources: np.ndarray | None = None,
) -> Run:
    """Return the run with a calibration, operating points, a threshold and an abstention band.

    Where the settings name another dataset than the run's own, authentic images alone choose only
    the thresholds of verdict and masks, and up to 100 images of both classes fit only a shift of
    the logit, which is left out where it cannot be told from none. The mask threshold is chosen on
    authentic images alone in any case.

    Otherwise the calibration is fitted on the images as frequent as they are; then the run's prior
    shifts the logits by logit(prior) - logit(fraction of fakes among the images). Everything else
    is chosen at that prior. Without a calibration P(fake) stays the detector's own score, and the
    threshold is chosen on it.

    Args:
        run: any calibration of its own is ignored.
        labels: int [n], 0 for authentic.
        groups: names [n] of what must not be in two folds.
        table: predictions of these images by `uncalibrated(run)`, from `predict_source`.
        settings: how to calibrate.
        log: called with a line on what was done.
        sources: str [n], where each authentic image is from; "" where that is unknown.

    Raises:
        UserError: a setting is unknown or out of range, or one class is missing where the
            settings require both.
    """
    check_settings(settings)
    readable = table["error"].is_null().to_numpy()
    if settings.dataset:
        readable &= ~_known(run, table, log)
    fake = (labels > 0)[readable]
    if settings.dataset and len(fake) and not fake.any():
        return _with_conformal_threshold(run, table, readable, settings, log)
    if settings.false_positive_rate is not None:
        raise UserError(
            "--false-positive-rate chooses a threshold on authentic images alone, and "
            f"{int(fake.sum()):,} of these are fakes. With both classes use --threshold fpr_5."
        )
    if settings.method == "shift" or (
        settings.dataset and settings.method == "auto" and _is_few(fake)
    ):
        return _with_shift(run, table, readable, fake, settings, log)
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
            f"{fitted.log_loss[1]:.4f} after, on the images that it was fitted on"
            if fitted
            else "calibration: none, because no method improves the log-loss or there are too few "
            "images; P(fake) is an uncalibrated score"
        )
    prior = None
    if fitted is not None:
        given = settings.prior
        prior = fitted.fake_fraction if isinstance(given, str) else given
        fitted = fitted.model_copy(update={"dataset": settings.dataset})
    elif settings.prior != DEFAULT_PRIOR:
        log("warning: the prior has no effect, because P(fake) of this run is uncalibrated")
    run = uncalibrated(run).with_info(calibration=fitted, prior=prior, adaptation=None)
    p = recalibrate(table, run)["p_fake"].to_numpy()[readable]
    known = None if sources is None else sources[readable]
    points = operating_points(p, fake, settings.cost, prior or DEFAULT_PRIOR, known)
    rule = _threshold_rule(run, settings)
    if isinstance(rule, str) and rule not in points:
        few = "named sources of authentic images" if rule == "source_fpr_5" else "images"
        log(f"threshold: too few {few} for {rule}; best balanced accuracy is used instead")
    threshold = choose_threshold(rule, points)
    band = abstention_band(p, fake, threshold, settings.error_rate)
    run = run.with_info(operating_points=points, abstention_band=band, threshold=threshold)
    return _with_mask_threshold(run, p[~fake], settings, log)


def _known(run: Run, table: pa.Table, log: console.Log) -> np.ndarray:
    """Return which images the run was trained or selected on, bool [n]; say that they do not count.

    Raises:
        UserError: it is all of them.
    """
    known = table["duplicate_of_train"].fill_null(False).to_numpy(zero_copy_only=False)
    if known.all() and len(known):
        raise UserError(
            f"All {len(known):,} images are training or validation images of {run.name}, or copies "
            "of them. Calibrate on images that it has never seen."
        )
    if known.any():
        log(
            f"{images_are(int(known.sum()), len(known))} known to {run.name} from training or "
            "validation (the same or a copy); the calibration leaves such images out"
        )
    return known


def _with_mask_threshold(
    run: Run, p: np.ndarray, settings: CalibrationSettings, log: console.Log
) -> Run:
    """Return the run with a mask threshold that few authentic images like these reach.

    Args:
        run: as it is calibrated.
        p: P(fake) of authentic images by it.
        settings: how many masks are to be empty.
        log: called with a line on what was done.
    """
    if not run.predicts_masks:
        return run
    rate = 1 - settings.empty_masks
    if rate == 1 or len(p) < images_needed(rate):
        if rate < 1:
            log(
                f"mask threshold: none, because {settings.empty_masks:.0%} empty masks need at "
                f"least {images_needed(rate):,} authentic images, and there are {len(p):,}; every "
                "mask is shown"
            )
        return run.with_info(mask_threshold=None)
    chosen = MaskThreshold(
        threshold=conformal_threshold(p, rate), empty=round(1 - rate, 6),
        empty_bound=round(1 - rate_bound(len(p), rate), 6), authentic=len(p),
        dataset=settings.dataset or run.info.dataset.name,
    )  # fmt: skip
    log(f"masks: {mask_threshold_sentence(run.with_info(mask_threshold=chosen))}")
    return run.with_info(mask_threshold=chosen)


def _is_few(fake: np.ndarray) -> bool:
    """Return whether images are too few to calibrate on, and enough for a shift."""
    return bool(fake.any() and not fake.all() and len(fake) <= MAX_SHIFT_IMAGES)


def _with_conformal_threshold(
    run: Run,
    table: pa.Table,
    readable: np.ndarray,
    settings: CalibrationSettings,
    log: console.Log,
) -> Run:
    """Return the run with a threshold that few authentic images like these reach."""
    check_for_authentic_images(settings)
    rate = DEFAULT_RATE if settings.false_positive_rate is None else settings.false_positive_rate
    p = recalibrate(table, run)["p_fake"].to_numpy()[readable]
    threshold, bound = conformal_threshold(p, rate), rate_bound(len(p), rate)
    log(
        f"threshold: {threshold:.4f}, chosen on {len(p):,} authentic images so that at most "
        f"{rate:.1%} of new images like these are called fake, on average over such choices; in 95 "
        f"of 100 at most {bound:.1%}. Rates measured on the same images are no test of it"
    )
    adaptation = Adaptation(kind="threshold", dataset=settings.dataset, authentic=len(p), fakes=0,
                            false_positive_rate=rate, rate_bound=round(bound, 6))  # fmt: skip
    # No other threshold gives a verdict where authentic images like these reach too often.
    band = run.info.abstention_band
    if band is not None:
        band = band.model_copy(update={"high": max(band.high, threshold)})
    run = run.with_info(threshold=threshold, adaptation=adaptation, abstention_band=band)
    return _with_mask_threshold(run, p, settings, log)


def _with_shift(
    run: Run,
    table: pa.Table,
    readable: np.ndarray,
    fake: np.ndarray,
    settings: CalibrationSettings,
    log: console.Log,
) -> Run:
    """Return the run with a constant added to its logits; its thresholds and band stay.

    A constant whose interval contains 0 is added only where the settings ask for this method.
    """
    _check_for_shift(settings, fake)
    fraction = float(fake.mean())
    old = run.info.calibration or Calibration(
        method="shift", images=len(fake), fake_fraction=fraction, log_loss=(0, 0),
        dataset=settings.dataset,
    )  # fmt: skip
    logits = apply_calibration(old, raw_logits(table, run)[readable])
    logits = logits + logit(fraction) - logit(old.fake_fraction)
    shift, reach = fit_shift(logits, fake)
    found = f"{shift:+.2f} [{reach[0]:+.2f}, {reach[1]:+.2f}]"
    if reach[0] <= 0 <= reach[1]:
        _warn_of_doubt(found, settings, len(fake))
        if settings.method != "shift":
            return _with_own_threshold(run, settings, len(fake))
    losses = log_loss(logits, fake), log_loss(logits + shift, fake)
    log(
        f"shift: {found} added to the logits, log-loss {losses[0]:.4f} before, {losses[1]:.4f} "
        "after; thresholds and abstention band stay"
    )
    rounded = round(losses[0], 6), round(losses[1], 6)
    adaptation = Adaptation(
        kind="shift", dataset=settings.dataset or run.info.dataset.name,
        authentic=int((~fake).sum()), fakes=int(fake.sum()), shift=round(shift, 6),
        shift_interval=(round(reach[0], 6), round(reach[1], 6)),
        log_loss=rounded,
    )  # fmt: skip
    calibration = old.shifted(shift)
    if run.info.calibration is None:
        calibration = calibration.model_copy(update={"log_loss": rounded})
    at_prior = logit(run.info.prior or DEFAULT_PRIOR) - logit(fraction)
    before = _balanced(logits + at_prior, fake, run.threshold)
    run = run.with_info(
        calibration=calibration, prior=run.info.prior or DEFAULT_PRIOR,
        adaptation=adaptation, **run.moved_thresholds(shift),
    )  # fmt: skip
    run = _with_own_threshold(run, settings, len(fake))
    after = _balanced(logits + at_prior + shift, fake, run.threshold)
    if after < before - WORSE:
        console.warn(
            f"at its threshold {run.threshold:.3g} the run has a balanced accuracy of {after:.0%} "
            f"on these images, before the shift {before:.0%}: probabilities moved, and the "
            "threshold did not. Give one, such as --threshold balanced or --threshold 0.5"
        )
    return run


def _balanced(logits: np.ndarray, fake: np.ndarray, threshold: float) -> float:
    """Return the mean of recall and specificity."""
    found = logits >= logit(threshold)
    return float((found[fake].mean() + 1 - found[~fake].mean()) / 2)


def _check_for_shift(settings: CalibrationSettings, fake: np.ndarray) -> None:
    """Raise UserError where the images are too few, or a setting has no meaning for a shift."""
    fakes, authentic = int(fake.sum()), int((~fake).sum())
    if len(fake) < MIN_SHIFT_IMAGES or min(fakes, authentic) < MIN_SHIFT_CLASS:
        raise UserError(
            f"A shift needs at least {MIN_SHIFT_IMAGES} images, {MIN_SHIFT_CLASS} of each class. "
            f"Received: {len(fake)} images, {authentic} authentic and {fakes} fake. Label more "
            "images, or give authentic ones alone."
        )
    if settings.cost is not None or settings.error_rate is not None:
        raise UserError(
            f"{len(fake)} images are too few to choose a cost or an abstention band on. Leave "
            "--cost and --abstention-error out, or label more than 100 images."
        )
    if settings.prior != DEFAULT_PRIOR:
        raise UserError(
            "A shift keeps the prior of the run. Leave --prior out; predict takes it as well."
        )


def _warn_of_doubt(found: str, settings: CalibrationSettings, images: int) -> None:
    """Say that a shift cannot be told from none, and whether it is applied."""
    doubt = (
        f"on {images} images a shift of the logits by {found} cannot be told from none: its 95% "
        "interval contains 0"
    )
    more = f"Label more images; more than {MAX_SHIFT_IMAGES} fit a calibration of their own"
    if settings.method == "shift":
        console.warn(f"{doubt}. {more}")
    else:
        console.warn(
            f"{doubt}. It is not applied, and P(fake) stays as it is. {more}. --method shift "
            "applies it all the same"
        )


def _with_own_threshold(run: Run, settings: CalibrationSettings, images: int) -> Run:
    """Return the run with the threshold of the settings, if they have one that it knows."""
    threshold = settings.threshold
    if isinstance(threshold, str) and threshold not in run.info.operating_points:
        raise UserError(
            f"{run.name} has no operating point {threshold!r} (it has: "
            f"{', '.join(run.info.operating_points) or 'none'}), and {images} images are too few "
            "to choose one."
        )
    return run.with_threshold(threshold)


def check_settings(settings: CalibrationSettings) -> None:
    """Check that settings are in range, and name what exists.

    Raises:
        UserError: they do not.
    """
    ranges = {
        "--cost must be above 0": (settings.cost, 0, math.inf),
        "--abstention-error must be above 0 and below 0.5": (settings.error_rate, 0, 0.5),
        "--false-positive-rate must be above 0 and below 1": (settings.false_positive_rate, 0, 1),
    }
    for rule, (value, low, high) in ranges.items():
        if value is not None and not low < value < high:
            raise UserError(f"{rule}. Received: {value}.")
    if not 0 <= settings.empty_masks < 1:
        raise UserError(
            f"--empty-masks must be from 0 to below 1. Received: {settings.empty_masks}."
        )
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


def check_for_authentic_images(settings: CalibrationSettings) -> None:
    """Check settings for a calibration on authentic images alone, which choose a threshold.

    Raises:
        UserError: a setting needs fakes.
    """
    method = settings.method if settings.method not in ("auto", "none") else None
    prior = settings.prior if settings.prior != DEFAULT_PRIOR else None
    given = {"a method": method, "a threshold": settings.threshold, "a cost": settings.cost,
             "an abstention error": settings.error_rate, "a prior": prior}  # fmt: skip
    if wrong := [name for name, value in given.items() if value is not None]:
        raise UserError(
            "All images are authentic, so they choose the threshold for a false positive rate "
            f"(--false-positive-rate), and {wrong[0]} has no meaning."
        )


def _threshold_rule(run: Run, settings: CalibrationSettings) -> str | float:
    if settings.threshold is not None:
        return settings.threshold
    return "balanced" if run.is_ensemble else run.experiment().training.threshold
