"""Metrics of predicted masks, from counts of each image's pixels by their P(altered)."""

from typing import NamedTuple

import numpy as np

from tfdetect.evaluation.metrics import Weighted

THRESHOLD = 0.5  # P(altered) from which a pixel counts as altered
BINS = 200  # of the logit of P(altered), from -LOGIT_LIMIT to LOGIT_LIMIT; the middle is P 0.5
LOGIT_LIMIT = 10.0
BATCH = 8  # images, of the IoU that some localizers are reported with
SCORE_FRACTION = 0.005  # of the pixels must reach a P(altered) for it to be the image's score


def count_pixels(altered: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count pixels by P(altered).

    Args:
        altered: float32 [H, W], P(altered).
        truth: bool [H, W].

    Returns:
        Numbers of truly altered and of authentic pixels in each bin, int32 [BINS] each.
    """
    p = np.clip(altered.astype(np.float32), 1e-7, 1 - 1e-7)
    bins = ((np.log(p / (1 - p)) + LOGIT_LIMIT) * (BINS / (2 * LOGIT_LIMIT))).astype(np.int32)
    bins = np.clip(bins, 0, BINS - 1)
    counts = np.bincount((bins + BINS * truth).ravel(), minlength=2 * BINS).astype(np.int32)
    return counts[BINS:], counts[:BINS]


def threshold_of(number: int) -> float:
    """Return P(altered) at a bin's lower edge."""
    return float(1 / (1 + np.exp(LOGIT_LIMIT - number * 2 * LOGIT_LIMIT / BINS)))


class PixelCounts(NamedTuple):
    """What is known about the pixels of images whose true masks are known.

    Attributes:
        positive, negative: histograms of truly altered and authentic pixels, int [n, BINS], of
            `count_pixels`.
        shown: whether an image's mask is shown, bool [n]; otherwise it is empty.
    """

    positive: np.ndarray
    negative: np.ndarray
    shown: np.ndarray

    def take(self, rows: np.ndarray) -> "PixelCounts":
        """Return those of some images."""
        return PixelCounts(*(part[rows] for part in self))

    @property
    def altered(self) -> np.ndarray:
        """Which images have altered pixels, bool [n]."""
        return self.positive.sum(axis=1) > 0


def mask_metrics(pixels: PixelCounts) -> Weighted[str]:
    """Prepare the metrics of masks.

    A pixel counts as altered from P(altered) 0.5 on, where the mask is shown. An empty mask for an
    authentic image has IoU 1 and any other IoU 0. AP, AUC and the best threshold need no mask
    threshold: they are of P(altered) as it was predicted.

    Args:
        pixels: the pixel counts of the images.

    Returns:
        A function from weights of the images, float [n], to a dict of metrics; nan where one is
        not defined. iou: mean over all images; iou_altered, f1, ap, auc: means over the images
        with altered pixels; empty: fraction of the authentic images whose mask is empty;
        iou_data, f1_data, ap_data, auc_data, mcc_data: of all pixels together; image_auc: of the
        image's score (the P(altered) that half a percent of its pixels reach) for the image being
        altered.
    """
    positive, negative = (x.astype(np.float64) for x in pixels[:2])
    altered = pixels.altered
    tp, fp, fn = confusions(pixels)
    tn = negative.sum(axis=1) - fp
    ious = iou_of(tp, fp, fn)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1s = 2 * tp / (2 * tp + fp + fn)
    mixed = altered & (negative.sum(axis=1) > 0)
    aps, aucs = _ap_and_auc(positive, negative)
    scores = image_scores(positive, negative)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)

    def metrics(weights: np.ndarray) -> dict[str, float]:
        w = weights.astype(np.float64)
        tps, fps, fns, tns = (w @ x for x in (tp, fp, fn, tn))
        ap, auc = _ap_and_auc((w @ positive)[None], (w @ negative)[None])
        marks = np.cumsum((w * altered)[order])[ends], np.cumsum((w * ~altered)[order])[ends]
        with np.errstate(invalid="ignore", divide="ignore"):
            tpr, fpr = (np.r_[0, x / x[-1]] for x in marks)
            spread = (tps + fps) * (tps + fns) * (tns + fps) * (tns + fns)
            return {
                "iou_altered": _mean(ious, w * altered),
                "iou": _mean(ious, w),
                "iou_data": float(iou_of(tps, fps, fns)) if tps + fns else np.nan,
                "f1": _mean(f1s, w * altered),
                "f1_data": 2 * tps / (2 * tps + fps + fns) if tps + fns else np.nan,
                "ap": _mean(aps, w * mixed),
                "ap_data": ap[0],
                "auc": _mean(aucs, w * mixed),
                "auc_data": auc[0],
                "mcc_data": (tps * tns - fps * fns) / np.sqrt(spread),
                "empty": _mean(tp + fp == 0, w * ~altered),
                "image_auc": float(np.trapezoid(tpr, fpr)),
            }

    return metrics


def confusions(pixels: PixelCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true positive, false positive and false negative pixels, int [n] each."""
    found, wrong = (x[:, BINS // 2 :].sum(axis=1) * pixels.shown for x in pixels[:2])
    return found, wrong, pixels.positive.sum(axis=1) - found


def iou_of(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """Return the intersection over union; 1 where both are empty."""
    union = tp + fp + fn
    return np.where(union > 0, tp / np.maximum(union, 1), 1.0)


def batch_iou(pixels: PixelCounts) -> float:
    """Return the mean IoU of the pixels of consecutive batches of 8 images."""
    starts = np.arange(0, len(pixels.positive), BATCH)
    sums = [np.add.reduceat(x, starts) for x in confusions(pixels)]
    return float(iou_of(*sums).mean())


def best_threshold(pixels: PixelCounts) -> tuple[float, float]:
    """Return the threshold with the highest mean IoU over the altered images, and that IoU.

    It is of P(altered), of masks that are all shown, and chosen on the images that it is measured
    on, so it is optimistic.
    """
    positive, negative, _ = pixels.take(pixels.altered)
    tp, fp = (np.cumsum(x[:, ::-1], axis=1)[:, ::-1] for x in (positive, negative))
    means = iou_of(tp, fp, tp[:, :1] - tp).mean(axis=0)
    best = int(np.argmax(means))
    return threshold_of(best), float(means[best])


def image_scores(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return the highest bin that half a percent of an image's pixels reach, int [n]."""
    reached = np.cumsum((positive + negative)[:, ::-1], axis=1)[:, ::-1]
    return (reached >= SCORE_FRACTION * reached[:, :1]).sum(axis=1) - 1


def _ap_and_auc(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return average precision and area under the ROC of each row; nan without both kinds."""
    p, n = positive[:, ::-1], negative[:, ::-1]
    tp, fp = np.cumsum(p, axis=1), np.cumsum(n, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(tp + fp > 0, tp / (tp + fp), 0.0)
        ap = (p * precision).sum(axis=1) / tp[:, -1]
        # Pixels of one bin are ties: half of them count as ordered right.
        auc = (n * (tp - p / 2)).sum(axis=1) / (tp[:, -1] * fp[:, -1])
    return ap, auc


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean; nan without weight."""
    total = weights.sum()
    return float((np.where(weights > 0, values, 0) * weights).sum() / total) if total else np.nan
