"""Metrics against scikit-learn, and their intervals."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm
from sklearn import metrics as sk

from tfdetect.core.run import Run
from tfdetect.evaluation.evaluate_run import measure
from tfdetect.evaluation.figures import reliability_by_generator
from tfdetect.evaluation.metrics import binary_metrics, confusion, with_intervals
from tfdetect.evaluation.run_report import terminal_table

TINY = np.finfo(np.float32).eps


@pytest.fixture(params=["smooth", "tied"])
def scored(request):
    rng = np.random.default_rng(1)
    fake = rng.random(500) < 0.4
    scores = np.clip(rng.normal(0.4 + 0.25 * fake, 0.2), 0, 1)
    return fake, np.round(scores, 1) if request.param == "tied" else scores


@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_scikit_learns(scored, weighted):
    fake, scores = scored
    w = np.random.default_rng(2).integers(0, 4, 500) if weighted else np.ones(500)
    ours = binary_metrics(fake, scores)(w)
    said = scores >= 0.5
    theirs = {
        "accuracy": sk.accuracy_score(fake, said, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(fake, said, sample_weight=w),
        "precision": sk.precision_score(fake, said, sample_weight=w),
        "recall": sk.recall_score(fake, said, sample_weight=w),
        "f1": sk.f1_score(fake, said, sample_weight=w),
        "auc": sk.roc_auc_score(fake, scores, sample_weight=w),
        "ap": sk.average_precision_score(fake, scores, sample_weight=w),
        "log_loss": sk.log_loss(fake, np.clip(scores, TINY, 1 - TINY), sample_weight=w),
    }
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_equal_error_rate():
    fake = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)
    scores = np.array([0.1, 0.2, 0.3, 0.8, 0.2, 0.7, 0.8, 0.9])
    value = binary_metrics(fake, scores)(np.ones(8))["eer"]
    fpr, tpr, _ = sk.roc_curve(fake, scores, drop_intermediate=False)
    grid = np.linspace(0, 1, 100_001)
    crossing = grid[np.argmin(np.abs(np.interp(grid, fpr, tpr) - (1 - grid)))]
    assert value == pytest.approx(crossing, abs=1e-4)
    assert binary_metrics(fake, fake.astype(float))(np.ones(8))["eer"] == 0


def test_calibration_error():
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    calibrated = binary_metrics(rng.random(200_000) < scores, scores)(np.ones(200_000))
    assert calibrated["ece"] < 0.01
    overconfident = binary_metrics(np.arange(1000) % 2 == 0, np.full(1000, 0.9))(np.ones(1000))
    assert overconfident["ece"] == pytest.approx(0.4)


def test_one_class_alone_has_no_auc():
    values = with_intervals(binary_metrics(np.ones(20, bool), np.linspace(0, 1, 20)), 20)
    for name in ("auc", "ap", "eer", "balanced_accuracy"):
        assert values[name] == {"value": None, "low": None, "high": None}
    assert values["recall"]["value"] == 0.5


def test_confusion():
    assert confusion([0, 0, 1, 2, 2], [0, 1, 1, 2, 0], 3) == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_intervals_cover_the_truth_as_often_as_they_say():
    """240 simulated test sets of a detector whose true figures are known."""
    count, sets, shift = 400, 240, 1.8
    truth = {
        "accuracy": norm.cdf(shift / 2), "recall": norm.cdf(shift / 2),
        "auc": norm.cdf(shift / np.sqrt(2)),
        "eer": 1 - norm.cdf(shift / 2),
    }  # fmt: skip
    draw, hits = np.random.default_rng(0), dict.fromkeys(truth, 0)
    for number in range(sets):
        fake = draw.random(count) < 0.5
        scores = norm.cdf(draw.normal((fake - 0.5) * shift))  # 0.5 is the best threshold
        found = with_intervals(binary_metrics(fake, scores), count, seed=number, resamples=300)
        for name, value in truth.items():
            hits[name] += found[name]["low"] <= value <= found[name]["high"]
    for name, times in hits.items():
        # 95% intervals: within what 240 sets tell, three standard errors.
        assert 0.905 <= times / sets <= 0.993, (name, times / sets)


def test_generators_that_were_never_trained_on_are_measured_together():
    draw, names = np.random.default_rng(0), ["a", "b", "c"]
    fake = np.arange(600) % 2 > 0
    generators = np.array(names)[np.arange(600) // 200]  # authentic images are filed with one too
    p = np.where(fake & (generators == "a"), 0.9, 0.1) + draw.uniform(-0.05, 0.05, 600)
    table = pa.table({
        "label": fake.astype(int), "p_fake": p, "generator": generators, "dataset": ["d"] * 600,
        "verdict": np.array(["real", "fake"])[(p >= 0.5).astype(int)],
        "in_train": np.zeros(600, bool), "error": pa.nulls(600, pa.string()),
    })  # fmt: skip
    points = {"fpr_1": {"threshold": 0.3}, "fpr_5": {"threshold": 0.2}}
    seen = {"seen": {"generators": ["a"]}}
    info = {"classes": ["real", "fake"], "threshold": 0.5, "dataset": seen, "points": points}
    found = measure(table, Run(Path(), info))
    assert found["generators"]["a"]["points"]["fpr_1"]["tpr"]["value"] == 1
    others = found["never_seen"]
    assert others["generators"] == ["b", "c"] and others["count"] == 400
    assert others["points"]["fpr_1"]["tpr"]["value"] == 0
    assert others["metrics"]["accuracy"]["value"] == 0.5
    recall = others["metrics"]["recall"]  # none of 200 was found; nobody knows that none is
    assert recall["value"] == recall["low"] == 0 and 0.01 < recall["high"] < 0.03
    assert "b (never trained on)" in terminal_table({"test": found})
    info["dataset"] = {}  # a run that does not know what it was shown claims nothing
    assert "never_seen" not in measure(table, Run(Path(), info))


def test_reliability_is_drawn_for_each_generator():
    draw = np.random.default_rng(0)
    p = draw.random(400)
    parts = {name: (draw.random(400) < p, p) for name in ("one", "two")}
    [axes] = reliability_by_generator(parts).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    for name, (fake, _) in parts.items():
        x, y = lines[name].get_data()
        first = p < 0.2
        assert x[0] == pytest.approx(p[first].mean()) and y[0] == pytest.approx(fake[first].mean())
        assert len(x) == 5
