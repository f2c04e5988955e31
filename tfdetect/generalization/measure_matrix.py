"""Measures the trainings of a matrix on every domain."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from tfdetect.core.run import Run
from tfdetect.core.run_results import Metrics
from tfdetect.data.catalog import Catalog
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.intervals import binary_intervals, interval, may_be_chance, proportion
from tfdetect.evaluation.measure import main_mask_metrics
from tfdetect.evaluation.verdicts import is_fake
from tfdetect.generalization.clusters import MIN_GENERATORS, clusters_of
from tfdetect.generalization.domains import Domains
from tfdetect.generalization.study_results import Cell, Cells, Kind, MatrixResult

METRICS = ("balanced_accuracy", "auc", "accuracy", "ap", "recall_at_fpr_1", "recall_at_fpr_5")


@dataclass(frozen=True)
class MatrixRow:
    """One training of a matrix.

    Attributes:
        name: the name of the training, shown in reports.
        domains: what it was trained on.
        run: its run.
    """

    name: str
    domains: frozenset[str]
    run: Run


def measure_cells(rows: list[MatrixRow], domains: Domains, catalog: Catalog) -> Cells:
    """Measure each run on each domain's test images, from the predictions in the runs.

    Args:
        rows: the trainings.
        domains: the domains of the catalog.
        catalog: all images.

    Returns:
        The cells. iou and pixel_ap are means over altered images. recall_at_fpr_1 and _5 are at
        the operating points that were chosen on the run's own validation split; None if it has
        none.
    """
    split = np.array(catalog.table["split"].to_pylist()) == "test"
    fakes = catalog.table["label"].to_numpy()[split] > 0
    cells: Cells = {}
    for row in rows:
        predicted, numbers = test_rows(row.run, catalog)
        scores, ranks = _scores_of(predicted, numbers)
        cells[row.name] = {}
        for name in domains.names:
            mine = domains.rows(frozenset({name}))[split] & np.isfinite(scores)
            fake, p = fakes[mine], scores[mine]
            masks: Metrics = {}
            if row.run.predicts_masks:
                masks = main_mask_metrics(predicted, numbers[mine])
            metrics = masks | _cell_metrics(fake, p, ranks[mine], row.run)
            cells[row.name][name] = make_cell(fake, name in row.domains, metrics)
    return cells


def make_cell(fake: np.ndarray, in_training: bool, metrics: Metrics) -> Cell:
    """Return a cell from the labels of its images, bool [n], and their metrics."""
    return {
        "count": len(fake), "fakes": int(fake.sum()), "in_training": in_training,
        "may_be_chance": may_be_chance(metrics["auc"]), "metrics": metrics,
    }  # fmt: skip


def test_rows(run: Run, catalog: Catalog) -> tuple[pa.Table, np.ndarray]:
    """Return the test predictions in a run, and the row of each test image of a catalog there."""
    predicted = prediction_tables.read(run.path, "test")
    number_of = {key: number for number, key in enumerate(_keys(predicted))}
    return predicted, np.array([number_of[key] for key in _keys(catalog.split("test"))])


def test_scores(run: Run, catalog: Catalog) -> tuple[np.ndarray, np.ndarray]:
    """Return P(fake) of a catalog's test images, and what ranks them, from predictions in a run.

    Both are float [n], nan for images that could not be read.
    """
    return _scores_of(*test_rows(run, catalog))


def _scores_of(predicted: pa.Table, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p_fake = predicted["p_fake"].to_numpy(zero_copy_only=False)
    return p_fake[numbers], prediction_tables.ranks_of(predicted)[numbers]


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    """Return dataset and path of each row."""
    names = table["dataset"].cast(pa.string()).to_pylist()
    return list(zip(names, table["path"].to_pylist()))


def _cell_metrics(fake: np.ndarray, p: np.ndarray, ranks: np.ndarray, run: Run) -> Metrics:
    """Return `METRICS` of P(fake) on some images, with intervals.

    Args:
        fake: bool [n].
        p: P(fake), float [n].
        ranks: what orders the images, float [n].
        run: its threshold and operating points are used.
    """
    found = binary_intervals(fake, p, run.threshold, ranks=ranks)
    for name in ("fpr_1", "fpr_5"):
        point = run.info.operating_points.get(name)
        hits = is_fake(p[fake], point.threshold) if point else np.zeros(0, bool)
        found[f"recall_at_{name}"] = proportion(hits)
    return {name: found[name] for name in METRICS}


def matrix_result(experiment: str, dataset: str, by: str, cells: Cells) -> MatrixResult:
    """Return the content of matrix.json: cells, and what follows from them.

    Args:
        experiment, dataset: names.
        by: what domains are.
        cells: the cells from `measure_cells`.
    """
    result: MatrixResult = {
        "experiment": experiment, "dataset": dataset, "by": by, "domains": _domains(cells),
        "cells": cells, "means": mean_metrics(cells), "losses": unseen_losses(cells),
    }  # fmt: skip
    if clusters := clusters_of(cells):
        result["clusters"] = clusters.as_data()
    return result


def _domains(cells: Cells) -> list[str]:
    return list(next(iter(cells.values())))


def _metrics(cells: Cells) -> list[str]:
    return list(next(iter(next(iter(cells.values())).values()))["metrics"])


def mean_metrics(cells: Cells) -> dict[str, dict[Kind, float | None]]:
    """Return each metric's mean over domains in training and over unseen ones."""
    means = {}
    for metric in _metrics(cells):
        found: dict[Kind, list[float]] = {"in_training": [], "unseen": []}
        for row in cells.values():
            for cell in row.values():
                if (value := cell["metrics"][metric]["value"]) is not None:
                    found["in_training" if cell["in_training"] else "unseen"].append(value)
        means[metric] = {kind: float(np.mean(v)) if v else None for kind, v in found.items()}
    return means


def unseen_losses(cells: Cells) -> Metrics:
    """Return how much of each metric detectors lose on a domain that they were not trained on.

    The loss on a domain is the mean of the detectors that were trained on it minus the mean of
    the others. The value is the mean over the domains, with Student's 95% interval; a metric that
    fewer than three domains have is left out.
    """
    losses = {}
    for metric in _metrics(cells):
        found = []
        for name in _domains(cells):
            values: dict[bool, list[float]] = {True: [], False: []}
            for row in cells.values():
                if (value := row[name]["metrics"][metric]["value"]) is not None:
                    values[row[name]["in_training"]].append(value)
            if values[True] and values[False]:
                found.append(np.mean(values[True]) - np.mean(values[False]))
        if len(found) >= MIN_GENERATORS:
            mean, error = np.mean(found), stats.sem(found)
            half = float(stats.t.ppf(0.975, len(found) - 1) * error)
            losses[metric] = interval(float(mean), float(mean) - half, float(mean) + half)
    return losses
