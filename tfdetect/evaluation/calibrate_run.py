"""Calibrate a run on its predictions, and choose its threshold and abstention band."""

import numpy as np
import pyarrow as pa

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.text import counted, images_are
from tfdetect.evaluation.adaptation import (
    TooFewImages,
    is_few,
    with_conformal_threshold,
    with_mask_threshold,
    with_shift,
)
from tfdetect.evaluation.calibration import choose_calibration
from tfdetect.evaluation.calibration_settings import DEFAULT_PRIOR, CalibrationSettings
from tfdetect.evaluation.operating_points import (
    abstention_band,
    choose_threshold,
    operating_points,
)
from tfdetect.evaluation.prediction_columns import raw_logits, recalibrate, uncalibrated


def calibrate_run(
    run: Run,
    rows: pa.Table,
    table: pa.Table,
    settings: CalibrationSettings,
    log: console.Log,
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
        rows: the rows of a catalog: images, of which label, group, generator and size are used.
            Images of the sizes that a run is adapted to are no longer unlike those that it knows.
        table: predictions of these images by `uncalibrated(run)`, from `predict_source`.
        settings: how to calibrate.
        log: called with a line on what was done.

    Raises:
        UserError: there are too few images for the settings, or one class is missing where they
            require both.
    """
    used, known = table["error"].is_null().to_numpy(), np.zeros(len(table), bool)
    if settings.dataset:
        known = _known(run, table, log)
    rows, table = (each.filter(pa.array(used & ~known)) for each in (rows, table))
    try:
        return _calibrated(run, rows, table, settings, log)
    except TooFewImages as error:
        if not known.any():
            raise
        raise TooFewImages(
            f"{error} {_known_sentence(run, known)}, and left out: they are not counted here."
        ) from None


def _calibrated(
    run: Run, rows: pa.Table, table: pa.Table, settings: CalibrationSettings, log: console.Log
) -> Run:
    """Return the run of `calibrate_run` from the images that can be used."""
    fake = rows["label"].to_numpy() > 0
    if settings.dataset and len(fake) and not fake.any():
        return with_conformal_threshold(run, rows, table, settings, log)
    if settings.false_positive_rate is not None:
        raise UserError(
            "--false-positive-rate chooses a threshold on authentic images alone, and "
            f"{int(fake.sum()):,} of these are fakes. With both classes use --threshold=fpr_5."
        )
    if settings.method == "shift" or (
        settings.dataset and settings.method == "auto" and is_few(fake)
    ):
        return with_shift(run, rows, table, settings, log)
    if settings.required and (fake.all() or not fake.any()):
        kind = "authentic image" if fake.any() else "fake"
        raise TooFewImages(
            f"A calibration needs authentic images and fakes. Received: "
            f"{counted(len(fake), 'image')}, no {kind}. Choose a dataset with both classes."
        )
    run = _fitted(run, rows, table, settings, log)
    p = recalibrate(table, run)["p_fake"].to_numpy()
    sources = np.array(rows["generator"].fill_null("").to_pylist(), str)
    points = {
        name: point.model_copy(update={"dataset": settings.dataset})
        for name, point in operating_points(
            p, fake, settings.cost, run.info.prior or DEFAULT_PRIOR, sources
        ).items()
    }
    rule = _threshold_rule(run, settings)
    threshold = choose_threshold(rule, points)
    if isinstance(rule, str) and rule not in points:
        few = "named sources of authentic images" if rule == "source_fpr_5" else "images"
        instead = "the one of best balanced accuracy" if "balanced" in points else f"{threshold:g}"
        log(f"threshold: too few {few} for {rule}; {instead} is used instead")
    band = abstention_band(p, fake, threshold, settings.error_rate)
    run = run.with_info(operating_points=points, abstention_band=band, threshold=threshold)
    return with_mask_threshold(run, p[~fake], settings, log)


def _fitted(
    run: Run, rows: pa.Table, table: pa.Table, settings: CalibrationSettings, log: console.Log
) -> Run:
    """Return the run with its prior and with the best calibration on images, if any is chosen."""
    fitted = prior = None
    if settings.method != "none":
        fake, groups = rows["label"].to_numpy() > 0, np.array(rows["group"].to_pylist())
        fitted = choose_calibration(raw_logits(table, run), fake, groups, settings.method)
        log(
            f"calibration: {fitted.method}, log-loss {fitted.log_loss[0]:.4f} before, "
            f"{fitted.log_loss[1]:.4f} after, on the images that it was fitted on, each counted "
            f"once ({fitted.fake_fraction:.0%} are fake)"
            if fitted
            else "calibration: none, because no method improves the log-loss or there are too few "
            "images; P(fake) is an uncalibrated score"
        )
    if fitted is not None:
        prior = fitted.fake_fraction if isinstance(settings.prior, str) else settings.prior
        fitted = fitted.model_copy(update={"dataset": settings.dataset})
    elif settings.prior != DEFAULT_PRIOR:
        log("warning: the prior has no effect, because P(fake) of this run is uncalibrated")
    return uncalibrated(run).with_info(calibration=fitted, prior=prior, adaptation=None)


def _known(run: Run, table: pa.Table, log: console.Log) -> np.ndarray:
    """Return which images the run was trained or selected on, bool [n]; log that they are left out.

    Raises:
        UserError: it is all of them.
    """
    known = table["duplicate_of_train"].fill_null(False).to_numpy(zero_copy_only=False)
    if known.all() and len(known):
        raise UserError(
            f"{_known_sentence(run, known)}. Calibrate on images that it has never seen."
        )
    if known.any():
        log(f"{_known_sentence(run, known)}; the calibration leaves such images out")
    return known


def _known_sentence(run: Run, known: np.ndarray) -> str:
    """Return how many of the images, bool [n], a run knows; without a period."""
    return (
        f"{images_are(int(known.sum()), len(known))} known to {run.name} from training or "
        "validation (the same or a copy)"
    )


def _threshold_rule(run: Run, settings: CalibrationSettings) -> str | float:
    if settings.threshold is not None:
        return settings.threshold
    return "balanced" if run.is_ensemble else run.experiment().training.threshold
