"""Intervals of the metrics of predicted masks; predictions alone need no SciPy, which these do."""

import numpy as np

from tfdetect.core.run_results import Interval
from tfdetect.evaluation.intervals import RESAMPLES, bootstrap, each_row, interval, proportion
from tfdetect.evaluation.mask_metrics import PixelCounts, confusions, mask_metrics

OF_ALTERED = ("iou_altered", "f1", "ap", "auc")  # metrics that authentic images do not change


def mask_intervals(pixels: PixelCounts, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Return `mask_metrics`, each with its interval.

    The fraction of empty masks has Wilson's, of the authentic images; what is of the altered images
    resamples these alone, and the rest all images.

    Args:
        pixels: the pixel counts of one or more images.
        resamples: number of resamples of the bootstrap.
    """
    authentic = ~pixels.altered
    number = int(pixels.altered.sum())
    scored = min(number, len(authentic) - number)
    counts = dict.fromkeys(("iou_data", "f1_data", "ap_data", "auc_data", "mcc_data"), number)
    found = bootstrap(
        each_row(mask_metrics(pixels)), len(authentic), resamples=resamples,
        counts=counts | {"image_auc": scored},
    )  # fmt: skip
    tp, fp, _ = confusions(pixels)
    found["empty"] = proportion((tp + fp == 0)[authentic]) if authentic.any() else interval(np.nan)
    return found | altered_intervals(pixels, resamples)


def altered_intervals(pixels: PixelCounts, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Return the metrics `OF_ALTERED`, each with its interval; None where no image is altered."""
    altered = pixels.altered
    if not altered.any():
        return dict.fromkeys(OF_ALTERED, interval(np.nan))
    metrics = each_row(mask_metrics(pixels.take(altered)))
    found = bootstrap(metrics, int(altered.sum()), resamples=resamples)
    return {name: found[name] for name in OF_ALTERED}
