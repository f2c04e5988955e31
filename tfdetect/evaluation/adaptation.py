"""Adapt a run to images of another kind with few of them: a threshold, or one shift of the logit.

Both leave the detector as it is. The first needs authentic images alone, the second some of both
classes.
"""

import math
from typing import Literal

import numpy as np
import pyarrow as pa
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.probability import add_to_logit, logit
from tfdetect.core.run import Run
from tfdetect.core.run_info import MAX_THRESHOLD, Adaptation, Calibration, MaskThreshold
from tfdetect.core.text import counted
from tfdetect.data.catalog import sorted_sides, spread
from tfdetect.evaluation.calibration import apply_calibration, log_loss
from tfdetect.evaluation.calibration_settings import DEFAULT_PRIOR, CalibrationSettings
from tfdetect.evaluation.prediction_columns import raw_logits, recalibrate
from tfdetect.evaluation.run_description import mask_threshold_sentence
from tfdetect.evaluation.verdict_words import percent

DEFAULT_RATE = 0.05  # of false positives
MIN_SHIFT_IMAGES = 10  # of both classes together, and
MIN_SHIFT_CLASS = 3  # of each, from which a shift is fitted
MAX_SHIFT_IMAGES = 100  # above, a calibration is fitted anew
SHIFT_DEVIATION = 3.0  # standard deviation of a shift before any image is seen
WORSE = 0.05  # loss of balanced accuracy from which a shift is warned of
_LEVEL = 0.95


class TooFewImages(UserError):
    """There are too few images to adapt or calibrate a run on, or none of a class."""


def images_needed(rate: float) -> int:
    """Return the smallest number of authentic images for which a rate can be promised."""
    return math.ceil(1 / rate - 1e-9) - 1


def conformal_threshold(p: np.ndarray, rate: float) -> float:
    """Return the threshold that at most a fraction of new authentic images reach.

    Split conformal prediction: of n + 1 images of one kind, the rank of the new one is uniform. The
    threshold is above the k-th smallest score with k = ceil((n + 1) (1 - rate)), so that on average
    over such calibrations at most `rate` of new images reach it (Vovk et al., 2005).

    Args:
        p: P(fake) of authentic images of the kind that the run will see, float [n].
        rate: wanted false positive rate, above 0 and below 1.

    Raises:
        TooFewImages: there are too few images for that rate.
    """
    n = len(p)
    k = math.ceil((n + 1) * (1 - rate) - 1e-9)
    if k > n:
        raise TooFewImages(
            f"To promise at most {rate:.3g} false positives, {images_needed(rate):,} authentic "
            f"images are needed at least. Received: {n:,}. Add images, or ask for "
            f"--false-positive-rate {1 / (n + 1):.2g} or more."
        )
    score = np.sort(np.asarray(p, np.float32))[k - 1]
    return min(float(np.nextafter(score, np.float32(2))), MAX_THRESHOLD)


def rate_bound(n: int, rate: float) -> float:
    """Return the false positive rate that 95 of 100 such thresholds keep.

    The rate on new images varies with the images that the threshold was chosen on: it follows a
    beta distribution.

    Args:
        n: number of authentic images that the threshold was chosen on.
        rate: the wanted rate.
    """
    k = math.ceil((n + 1) * (1 - rate) - 1e-9)
    return float(stats.beta.ppf(_LEVEL, n + 1 - k, k))


def fit_shift(logits: np.ndarray, fake: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the constant that, added to logits, makes labeled images most likely.

    A normal prior with the standard deviation `SHIFT_DEVIATION` keeps the shift finite where all
    images are told apart already.

    Args:
        logits: float [n], of the run as it is calibrated, at the fraction of fakes among these
            images.
        fake: bool [n], with both classes.

    Returns:
        The shift and its 95% interval (of the normal approximation at the optimum).
    """

    def loss(shift: float) -> float:
        return len(logits) * log_loss(logits + shift, fake) + shift**2 / (2 * SHIFT_DEVIATION**2)

    shift = float(minimize_scalar(loss, bounds=(-20, 20), method="bounded").x)
    p = expit(logits + shift)
    reach = stats.norm.ppf((1 + _LEVEL) / 2) / np.sqrt((p * (1 - p)).sum() + SHIFT_DEVIATION**-2)
    return shift, (shift - float(reach), shift + float(reach))


def with_conformal_threshold(
    run: Run, rows: pa.Table, table: pa.Table, settings: CalibrationSettings, log: console.Log
) -> Run:
    """Return the run with a threshold that few authentic images like these reach.

    Args:
        run: the run with its present calibration.
        rows: the rows of a catalog: authentic images that can be read.
        table: their predictions by `uncalibrated(run)`.
        settings: the wanted false positive rate, and how many masks are to be empty.
        log: called with a line on what was done.

    Raises:
        TooFewImages: there are too few images.
        UserError: a setting needs fakes.
    """
    settings.check_for_authentic_images()
    rate = DEFAULT_RATE if settings.false_positive_rate is None else settings.false_positive_rate
    p = recalibrate(table, run)["p_fake"].to_numpy()
    threshold, bound = conformal_threshold(p, rate), rate_bound(len(p), rate)
    log(
        f"threshold: {threshold:.4f}, chosen on {len(p):,} authentic images so that at most "
        f"{percent(rate)} of new images like these are called fake, on average over such choices; "
        f"in 95 of 100 at most {percent(bound)}. Rates measured on the same images are "
        "no test of it"
    )
    stricter = None
    if settings.threshold is not None:
        lowest = run.with_threshold(settings.threshold).threshold
        if lowest > threshold:
            log(f"threshold: {lowest:.4f} instead, which is stricter ({settings.threshold})")
            threshold, stricter = lowest, settings.threshold
    adaptation = Adaptation(kind="threshold", dataset=settings.dataset, authentic=len(p), fakes=0,
                            false_positive_rate=rate, rate_bound=round(bound, 6), stricter=stricter,
                            **_sides(rows),
                            earlier=_adaptation_of_kind(run, "shift"))  # fmt: skip
    # No other threshold gives a verdict where authentic images like these reach too often.
    band = run.info.abstention_band
    if band is not None:
        band = band.model_copy(update={"high": max(band.high, threshold)})
    run = run.with_info(threshold=threshold, adaptation=adaptation, abstention_band=band)
    return with_mask_threshold(run, p, settings, log)


def _adaptation_of_kind(run: Run, kind: Literal["threshold", "shift"]) -> Adaptation | None:
    """Return the adaptation of a kind that still has an effect on the run."""
    adapted = run.info.adaptation
    return adapted and adapted.of_kind(kind)


def _sides(rows: pa.Table) -> dict[str, tuple[int, int, int] | None]:
    """Return the sides of images as the attributes of `Adaptation` have them."""
    sides = sorted_sides(rows)
    return {"shorter_side": spread(sides[:, 0]), "longer_side": spread(sides[:, 1])}


def with_mask_threshold(
    run: Run, p: np.ndarray, settings: CalibrationSettings, log: console.Log
) -> Run:
    """Return the run with a mask threshold that few authentic images like these reach.

    Args:
        run: the run with its present calibration.
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


def is_few(fake: np.ndarray) -> bool:
    """Return whether images are too few to calibrate on, and enough for a shift."""
    return bool(fake.any() and not fake.all() and len(fake) <= MAX_SHIFT_IMAGES)


def with_shift(
    run: Run, rows: pa.Table, table: pa.Table, settings: CalibrationSettings, log: console.Log
) -> Run:
    """Return the run with a constant added to its logits; its threshold and band are unchanged.

    A threshold that authentic images alone chose moves with the logits, so that the false positive
    rate that it promises stays, unless the settings give another one. A constant whose interval
    contains 0 is added only where the settings ask for this method.

    Args:
        run: the run with its present calibration.
        rows: the rows of a catalog: images that can be read.
        table: their predictions by `uncalibrated(run)`.
        settings: may choose another threshold of the run's.
        log: called with a line on what was done.

    Raises:
        TooFewImages: there are too few images.
        UserError: a setting has no meaning for a shift.
    """
    fake = rows["label"].to_numpy() > 0
    _check_for_shift(settings, fake)
    fraction, prior = float(fake.mean()), run.info.prior or DEFAULT_PRIOR
    is_first = run.info.calibration is None
    old = run.info.calibration or Calibration(
        method="shift", images=len(fake), fake_fraction=fraction, log_loss=(0, 0),
        dataset=settings.dataset,
    )  # fmt: skip
    logits = apply_calibration(old, raw_logits(table, run))
    logits = logits + logit(fraction) - logit(old.fake_fraction)
    shift, reach = fit_shift(logits, fake)
    found = f"{shift:+.2f} [{reach[0]:+.2f}, {reach[1]:+.2f}]"
    if reach[0] <= 0 <= reach[1]:
        _warn_of_doubt(found, settings, len(fake))
        if settings.method != "shift":
            return _with_own_threshold(run, settings, len(fake))
    losses = log_loss(logits, fake), log_loss(logits + shift, fake)
    promise = _adaptation_of_kind(run, "threshold") if settings.threshold is None else None
    log(
        f"shift: {found} added to the logits, log-loss {losses[0]:.4f} before, {losses[1]:.4f} "
        f"after; {'' if promise else 'threshold and '}abstention band stay"
    )
    rounded = round(losses[0], 6), round(losses[1], 6)
    adaptation = Adaptation(
        kind="shift", dataset=settings.dataset or run.info.dataset.name,
        authentic=int((~fake).sum()), fakes=int(fake.sum()), shift=round(shift, 6),
        shift_interval=(round(reach[0], 6), round(reach[1], 6)),
        log_loss=rounded, **_sides(rows), earlier=promise,
    )  # fmt: skip
    calibration = old.shifted(shift)
    if is_first:
        calibration = calibration.model_copy(update={"log_loss": rounded})
    at_prior = logit(prior) - logit(fraction)
    # A run that was not calibrated had no prior: its P(fake) moves by that, too.
    before = _balanced(logits + (0 if is_first else at_prior), fake, run.threshold)
    moves = shift + (at_prior if is_first else 0)
    run = run.with_info(
        calibration=calibration, prior=prior, adaptation=adaptation, **run.shifted_thresholds(moves)
    )
    run = _with_own_threshold(run, settings, len(fake))
    if promise is not None:
        run = _with_moved_threshold(run, promise, moves, log)
    after = _balanced(logits + at_prior + shift, fake, run.threshold)
    if after < before - WORSE:
        console.warn(
            f"at its threshold {run.threshold:.3g} the run has a balanced accuracy of {after:.0%} "
            f"on these images, before the shift {before:.0%}: probabilities moved, and the "
            "threshold did not. Give one, such as --threshold=balanced or --threshold=0.5"
        )
    return run


def _with_moved_threshold(run: Run, promise: Adaptation, by: float, log: console.Log) -> Run:
    """Return the run with its threshold moved as its logits were, and a band that contains it."""
    threshold = min(add_to_logit(run.threshold, by), MAX_THRESHOLD)
    assert promise.false_positive_rate is not None
    rate = percent(promise.false_positive_rate)
    log(
        f"threshold: {run.threshold:.4f} becomes {threshold:.4f}, which the same images reach: it "
        f"was chosen on {promise.dataset} so that at most {rate} of such authentic images are "
        "called fake"
    )
    band = run.info.abstention_band
    if band is not None:
        low, high = min(band.low, threshold), max(band.high, threshold)
        band = band.model_copy(update={"low": low, "high": high})
    return run.with_info(threshold=threshold, abstention_band=band)


def _balanced(logits: np.ndarray, fake: np.ndarray, threshold: float) -> float:
    """Return the mean of recall and specificity."""
    found = logits >= logit(threshold)
    return float((found[fake].mean() + 1 - found[~fake].mean()) / 2)


def _check_for_shift(settings: CalibrationSettings, fake: np.ndarray) -> None:
    """Raise UserError where the images are too few, or a setting has no meaning for a shift."""
    fakes, authentic = int(fake.sum()), int((~fake).sum())
    if len(fake) < MIN_SHIFT_IMAGES or min(fakes, authentic) < MIN_SHIFT_CLASS:
        raise TooFewImages(
            f"A shift needs at least {MIN_SHIFT_IMAGES} images, {MIN_SHIFT_CLASS} of each class. "
            f"Received: {counted(len(fake), 'image')}, {authentic} authentic and {fakes} fake. "
            "Label more "
            "images, or give authentic ones alone."
        )
    if settings.cost is not None or settings.error_rate is not None:
        raise UserError(
            f"{counted(len(fake), 'image')} cannot be enough to choose a cost or an abstention "
            "band on. Leave "
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
