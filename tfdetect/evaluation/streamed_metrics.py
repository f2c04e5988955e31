"""Metrics of predictions that are seen one part at a time, in constant memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.run_results import ClassResult
from tfdetect.data.catalog import Catalog, sorted_sides
from tfdetect.data.evaluation_data import is_own_dataset
from tfdetect.evaluation.class_balance import in_order, unequal
from tfdetect.evaluation.cross_fitting import cross_fitted, held_out_shifts
from tfdetect.evaluation.measure import measure_classes
from tfdetect.evaluation.metrics import BINS
from tfdetect.evaluation.prediction_columns import recalibrate, uncalibrated
from tfdetect.evaluation.verdicts import is_fake

HISTOGRAM = 50  # equal bins of P(fake)
_AUC_BINS = 2**16  # of logits, equal from -_LARGEST to _LARGEST
_LARGEST = 40.0
# From a run, a catalog, rows of it, and whether they are the run's own validation images: yields
# the rows of each part with their predictions.
PredictParts = Callable[[Run, Catalog, pa.Table, bool], Iterator[tuple[pa.Table, pa.Table]]]


class StreamedResult(TypedDict):
    """What is measured of a split without keeping its predictions."""

    count: int  # images that could be read
    unreadable: int
    # accuracy, balanced_accuracy, recall, fpr, ece (weighted to the run's prior), auc and, of three
    # or more classes, class_accuracy; None if a metric needs a class that is missing.
    metrics: dict[str, float | None]
    auc_error_bound: float | None  # by how much the auc may differ from that of the scores
    confusion: list[list[int]]  # [true class][verdict]
    classes: NotRequired[dict[str, ClassResult]]  # by name, of three or more classes
    histogram: dict[str, list[int]]  # of authentic and fake: images in equal bins of P(fake)


def measure_streamed(
    run: Run, catalog: Catalog, splits: Sequence[str], predict_parts: PredictParts
) -> dict[str, StreamedResult]:
    """Return the metrics of splits whose predictions come part by part and are not kept.

    The cross-fitted scores of an ensemble are used as in `evaluate_run`.

    Args:
        run: the run.
        catalog: the dataset.
        splits: the splits; those without images are left out.
        predict_parts: predicts rows of the catalog.

    Returns:
        The metrics by split.

    Raises:
        UserError: the dataset has no image in any of the splits.
    """
    own, found = is_own_dataset(run, catalog), dict[str, StreamedResult]()
    shifted = own and bool(run.info.cross_fitted)
    predicting = uncalibrated(run) if shifted else run
    for split in splits:
        rows = catalog.split(split)
        if not rows.num_rows:
            continue
        metrics = StreamedMetrics(run)
        for part, table in predict_parts(predicting, catalog, rows, own and split == "validation"):
            if shifted:
                table = cross_fitted(table, run, held_out_shifts(run, part))
                table = recalibrate(table, run, sorted_sides(part))
            metrics.add(part["label"].to_numpy(), table)
        found[split] = metrics.document()
    if not found:
        raise UserError(f"The dataset {catalog.name} has no images in {', '.join(splits)}.")
    return found


class StreamedMetrics:
    """Counts what the metrics of a run's predictions need.

    Counts, confusion, rates, histogram and calibration error are exact. The AUC is that of the
    binned scores, with the bound of its error: pairs of an authentic and a fake image whose scores
    are in one bin count as half, and are at most wrong by half.
    """

    def __init__(self, run: Run):
        self._run = run
        classes = len(run.class_names)
        self._unreadable = 0
        self._confusion = np.zeros((classes, classes), np.int64)
        # By whether an image is fake: [2, ...].
        self._called_fake = np.zeros(2, np.int64)
        self._scores = np.zeros((2, _AUC_BINS), np.int64)
        self._histogram = np.zeros((2, HISTOGRAM), np.int64)
        self._gaps = np.zeros((2, BINS))  # sums of P(fake) less whether it is fake

    def add(self, labels: np.ndarray, table: pa.Table) -> None:
        """Count some images.

        Args:
            labels: int [n], in the order of the run's classes.
            table: their predictions, with the columns p_fake, verdict and error, and logit, by
                which images are ranked, or else P(fake).
        """
        readable = table["error"].is_null().to_numpy(zero_copy_only=False)
        self._unreadable += int((~readable).sum())
        labels, table = np.asarray(labels)[readable], table.filter(pa.array(readable))
        if not len(labels):
            return
        p, fake = table["p_fake"].to_numpy(), (labels > 0).astype(np.int64)
        names = {name: number for number, name in enumerate(self._run.class_names)}
        verdicts = np.array([names[name] for name in table["verdict"].to_pylist()])
        np.add.at(self._confusion, (labels, verdicts), 1)
        np.add.at(self._called_fake, fake, is_fake(p, self._run.threshold))
        p = p.astype(np.float64)
        if "logit" in table.column_names:
            logits = table["logit"].to_numpy().astype(np.float64)
        else:
            with np.errstate(divide="ignore"):
                logits = np.log(p) - np.log1p(-p)
        scores = (np.clip(logits, -_LARGEST, _LARGEST) + _LARGEST) / (2 * _LARGEST)
        np.add.at(self._scores, (fake, _bins(scores, _AUC_BINS)), 1)
        np.add.at(self._histogram, (fake, _bins(p, HISTOGRAM)), 1)
        np.add.at(self._gaps, (fake, _bins(p, BINS)), p - fake)

    def document(self) -> StreamedResult:
        """Return the metrics."""
        authentic, fakes = (int(n) for n in self._scores.sum(1))
        total = authentic + fakes
        right = self._called_fake[1] + authentic - self._called_fake[0]
        fpr, recall = (
            float(called / count) if count else None
            for called, count in zip(self._called_fake, (authentic, fakes))
        )
        metrics: dict[str, float | None] = {
            "accuracy": float(right / total) if total else None,
            "balanced_accuracy": None, "recall": recall, "fpr": fpr, "ece": None, "auc": None,
        }  # fmt: skip
        bound = None
        if recall is not None and fpr is not None:
            metrics["balanced_accuracy"] = (recall + 1 - fpr) / 2
            metrics["auc"], bound = self._auc()
        if (weights := self._weights(authentic, fakes)) is not None:
            metrics["ece"] = float(np.abs(weights @ self._gaps).sum() / total)
        found: StreamedResult = {
            "count": total, "unreadable": self._unreadable, "metrics": metrics,
            "auc_error_bound": bound, "confusion": self._confusion.tolist(),
            "histogram": dict(zip(("authentic", "fake"), self._histogram.tolist())),
        }  # fmt: skip
        if len(self._run.class_names) > 2:
            right = np.trace(self._confusion)
            metrics["class_accuracy"] = float(right / total) if total else None
            found["classes"] = measure_classes(self._confusion, self._run.class_names)
        found["metrics"] = {n: metrics[n] for n in in_order(metrics, unequal(authentic, fakes))}
        return found

    def _auc(self) -> tuple[float, float]:
        """Return the AUC of the binned scores, and by how much it may be wrong."""
        authentic, fakes = self._scores.astype(np.float64)
        below = np.cumsum(authentic) - authentic
        pairs, ties = authentic.sum() * fakes.sum(), (authentic * fakes).sum()
        return float(((below * fakes).sum() + ties / 2) / pairs), float(ties / 2 / pairs)

    def _weights(self, authentic: int, fakes: int) -> np.ndarray | None:
        """Return weights of authentic and fake images; None where a class is missing."""
        prior, total = self._run.info.prior, authentic + fakes
        if prior is None:
            return np.ones(2) if total else None
        if not authentic or not fakes:
            return None
        return np.array([(1 - prior) * total / authentic, prior * total / fakes])


def _bins(values: np.ndarray, count: int) -> np.ndarray:
    return np.minimum((values * count).astype(np.int64), count - 1)
