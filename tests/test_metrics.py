"""Metrics against scikit-learn, and their intervals."""

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import run_at
from matplotlib.text import Text
from sklearn import metrics as sk

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.run_info import RunInfo
from tfdetect.evaluate import _show_streamed
from tfdetect.evaluation.class_balance import in_order
from tfdetect.evaluation.figures import reliability_by_generator, thresholds
from tfdetect.evaluation.intervals import (
    binary_intervals,
    bootstrap,
    format_interval,
    mean_interval,
    mean_of_fractions,
    of_count,
    of_folds,
    precision_at,
    proportion,
)
from tfdetect.evaluation.measure import measure
from tfdetect.evaluation.metrics import binary_metrics, class_weights, confusion
from tfdetect.evaluation.prediction_columns import NOT_A_NUMBER, PredictionColumns, ScoredBatch
from tfdetect.evaluation.result_tables import format_results, metric_table, tables_of
from tfdetect.evaluation.streamed_metrics import StreamedMetrics
from tfdetect.evaluation.summary import summary, summary_rows

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
    called_fake = scores >= 0.5
    theirs = {
        "accuracy": sk.accuracy_score(fake, called_fake, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(fake, called_fake, sample_weight=w),
        "precision": sk.precision_score(fake, called_fake, sample_weight=w),
        "recall": sk.recall_score(fake, called_fake, sample_weight=w),
        "f1": sk.f1_score(fake, called_fake, sample_weight=w),
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


def test_images_whose_p_fake_is_rounded_are_ranked_by_their_logits(tmp_path):
    logits, fake = np.array([18, 20, 25, 30], np.float32), np.array([False, False, True, True])
    columns = PredictionColumns(run_at(tmp_path), 5, False)
    raw = 1 / (1 + np.exp(np.stack([logits, -logits], 1)))
    columns.add(ScoredBatch(np.arange(4), raw, np.zeros((4, 5), np.int64), None))
    p = columns.table([None] * 5)["p_fake"].values[:4]
    assert (p == 1).all() and np.isnan(columns.logits[4])
    np.testing.assert_allclose(columns.logits[:4], logits, rtol=1e-5)
    by_p, by_logit = (
        binary_metrics(fake, p, ranks=ranks)(np.ones(4)) for ranks in (None, columns.logits[:4])
    )
    assert (by_p["auc"], by_logit["auc"]) == (0.5, 1)
    assert by_p["log_loss"] == by_logit["log_loss"] and by_p["accuracy"] == by_logit["accuracy"]


def test_an_output_that_is_no_number_is_no_verdict(tmp_path, capsys):
    columns = PredictionColumns(run_at(tmp_path), 4, False)
    raw = np.array([[0.2, 0.8], [np.nan, np.nan], [0, np.nan]], np.float32)
    columns.add(ScoredBatch(np.arange(3), raw, np.zeros((3, 5), np.int64), None))
    table = columns.table([None, None, None, "cut off"])
    assert table["verdict"].to_pylist() == ["fake", None, None, None]
    assert table["error"].to_pylist() == [None, NOT_A_NUMBER, NOT_A_NUMBER, "cut off"]
    columns.check_defined()
    assert "for 2 of 3 images, which are counted as unreadable" in capsys.readouterr().err
    none = PredictionColumns(run_at(tmp_path), 2, False)
    none.check_defined()  # none could be read
    none.add(ScoredBatch(np.array([1]), raw[1:2], np.zeros((1, 5), np.int64), None))
    with pytest.raises(UserError, match=r"is NaN \(not a number\) for all of 1 image\. Its"):
        none.check_defined()


def test_calibration_error():
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    calibrated = binary_metrics(rng.random(200_000) < scores, scores)(np.ones(200_000))
    assert calibrated["ece"] < 0.01
    overconfident = binary_metrics(np.arange(1000) % 2 == 0, np.full(1000, 0.9))(np.ones(1000))
    assert overconfident["ece"] == pytest.approx(0.4)


def test_one_class_alone_has_no_auc():
    values = binary_intervals(np.ones(20, bool), np.linspace(0, 1, 20))
    for name in ("auc", "ap", "eer", "balanced_accuracy"):
        assert values[name] == {"value": None, "low": None, "high": None}
    assert values["recall"]["value"] == 0.5


def test_confusion():
    assert confusion([0, 0, 1, 2, 2], [0, 1, 1, 2, 0], 3) == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def simulated(count, shift, sharpness, draw):
    """Labels, half of them fake, and scores; with sharpness 1 they are calibrated."""
    fake = draw.permutation(np.arange(count) % 2 > 0)
    logits = draw.normal((fake - 0.5) * shift, size=count) * shift * sharpness
    return fake, 1 / (1 + np.exp(-np.clip(logits, -15, 15)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "sharpness"), [(1.0, 1), (2.5, 1), (2.5, 3), (40, 1)],
    ids=["weak", "good", "overconfident", "perfect"],
)  # fmt: skip
@pytest.mark.parametrize("count", [18, 50, 400])
def test_intervals_cover_the_truth_as_often_as_they_say(count, shift, sharpness):
    """100 test sets of a detector whose true figures are known."""
    large = simulated(400_000, shift, sharpness, np.random.default_rng(7))
    truth = binary_metrics(*large)(np.ones(400_000))
    if sharpness == 1:
        truth["ece"] = 0.0
    draw, hits = np.random.default_rng(0), dict.fromkeys(truth, 0)
    for seed in range(100):
        found = binary_intervals(*simulated(count, shift, sharpness, draw), seed=seed,
                                 resamples=200)  # fmt: skip
        for name, value in found.items():
            if value["value"] is None:
                hits.pop(name, None)
                continue
            assert value["low"] <= value["value"] <= value["high"], name
            assert name == "log_loss" or value["low"] < value["high"], name
            hits[name] += value["low"] - 1e-6 <= truth[name] <= value["high"] + 1e-6
    assert ("tpr_at_fpr_1" in hits) == (count == 400) and "auc" in hits and "ece" in hits
    for name, times in hits.items():
        assert times >= 86, name  # of 95, three standard errors and what small samples cost


@pytest.mark.parametrize("count", [1, 2, 18, 50])
def test_a_perfect_detector_on_few_images_is_not_certain(count):
    fake = np.arange(count) % 2 > 0
    found = binary_intervals(fake, fake * 0.98 + 0.01, resamples=100)
    if count == 1:
        assert all(v["low"] is None and v["high"] is None for v in found.values())
        assert format_interval(found["accuracy"]) == "1.0000"
        return
    assert found["auc"]["value"] == 1 and found["accuracy"]["value"] == 1
    for name, value in found.items():
        if value["low"] is not None and name != "log_loss":
            assert value["low"] <= value["value"] <= value["high"]
            assert value["low"] < value["high"], name
    assert found["auc"]["low"] < 1 - 1 / count and found["accuracy"]["low"] < 1 - 1 / count
    assert found["eer"]["high"] > 0.5 / count and found["ece"]["high"] > 0.01


def test_no_errors_among_a_few_images_do_not_promise_a_precision():
    recall, none = of_count(170, 180), of_count(0, 175)
    found = precision_at(recall, none, 0.001)
    assert found["value"] == found["high"] == 1 and found["low"] < 0.05
    assert precision_at(recall, of_count(0, 0), 0.001)["value"] is None
    assert precision_at(of_count(1, 1), of_count(0, 1), 0.1) == {
        "value": 1.0, "low": None, "high": None
    }  # fmt: skip


def test_intervals_of_fractions_and_means():
    assert of_count(0, 18) == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.1759, abs=1e-4)}
    assert proportion(np.zeros(0, bool))["value"] is None
    middle = mean_of_fractions([of_count(9, 9), of_count(0, 9)])
    assert middle["value"] == 0.5 and 0.3 < middle["low"] < 0.5 < middle["high"] < 0.7
    assert of_folds([0.8, 0.9])["low"] < 0.4  # Student's distribution with one degree of freedom
    values = np.random.default_rng(0).normal(1, 1, 200)
    mean = mean_interval(values)
    assert mean["high"] - mean["low"] == pytest.approx(3.92 / np.sqrt(200), rel=0.15)
    wrong = binary_intervals(np.arange(40) < 20, np.full(40, 0.95), prior=0.5)["log_loss"]
    assert 1.4 < wrong["low"] < wrong["value"] < wrong["high"] < 2  # of a loss above 1
    same = bootstrap(lambda w: {"d": 0.0}, 30, bounded=False)["d"]  # of two perfect detectors
    assert same["low"] < 0 < same["high"]


def test_a_prior_weights_the_classes_for_what_asks_whether_p_is_a_probability():
    """A calibrated detector is not called miscalibrated because most of a set is fake."""
    draw = np.random.default_rng(0)
    p = draw.random(100_000)  # half of such images are fake, and P(fake) says so
    fake = draw.random(len(p)) < p
    kept = fake | (draw.random(len(p)) < 0.25)  # three quarters of the authentic images are lost
    fake, p = fake[kept], p[kept]
    ones = np.ones(len(p))
    assert fake.mean() == pytest.approx(0.8, abs=0.01)
    natural, weighted = binary_metrics(fake, p)(ones), binary_metrics(fake, p, prior=0.5)(ones)
    assert natural["ece"] > 0.1 > 0.02 > weighted["ece"]
    assert weighted["brier"] == pytest.approx(1 / 6, abs=0.01)
    w = class_weights(fake, 0.5)
    assert weighted["log_loss"] == pytest.approx(sk.log_loss(fake, p, sample_weight=w))
    assert weighted["brier"] == pytest.approx(sk.brier_score_loss(fake, p, sample_weight=w))
    for name in set(natural) - {"ece", "brier", "log_loss"}:
        assert natural[name] == weighted[name], name
    alone = binary_metrics(np.ones(9, bool), p[:9], prior=0.5)(np.ones(9))
    assert np.isnan(alone["log_loss"])


def predictions(fake, p, generators=None, classes=("real", "fake"), threshold=0.5, band=None):
    """A table of predictions and the run that made them."""
    low, high = band or (threshold, threshold)
    table = pa.table({
        "label": fake.astype(int), "p_fake": p, "dataset": ["d"] * len(p),
        "generator": pa.nulls(len(p), pa.string()) if generators is None else generators,
        "verdict": np.array(classes)[(p >= threshold).astype(int)],
        "inconclusive": (p >= low) & (p < high),
        "duplicate_of_train": np.zeros(len(p), bool),
        "in_domain": np.ones(len(p), bool), "domain_reasons": [""] * len(p),
        "error": pa.nulls(len(p), pa.string()),
    })  # fmt: skip
    info = RunInfo.model_validate({
        "status": "complete", "class_names": classes, "threshold": threshold,
        "views": [{"size": [8, 8], "policy": "stretch"}],
        "dataset": {"name": "d", "fingerprint": "0"},
        "abstention_band": band and {
            "low": low, "high": high, "error_rate": 0.05, "coverage": 0.9},
        "operating_points": {
            "fpr_1": {"threshold": 0.3, "fpr": 0.01, "tpr": 0.5},
            "fpr_5": {"threshold": 0.2, "fpr": 0.05, "tpr": 0.5},
        },
    })  # fmt: skip
    return table, Run(Path(), info)


def test_unseen_generators_are_measured_together():
    draw, names = np.random.default_rng(0), ["a", "b", "c"]
    fake = np.arange(600) % 2 > 0
    generators = np.array(names)[np.arange(600) // 200]  # authentic images carry a name too
    p = np.where(fake & (generators == "a"), 0.9, 0.1) + draw.uniform(-0.05, 0.05, 600)
    table, run = predictions(fake, p, generators)
    assert "unseen_generators" not in measure(table, run)  # what it was trained on is not known
    run = run.with_info(dataset={"name": "d", "fingerprint": "0",
                                 "training_images": {"generators": ["a"]}})  # fmt: skip
    found = measure(table, run)
    assert found["generators"]["a"]["operating_points"]["fpr_1"]["tpr"]["value"] == 1
    unseen = found["unseen_generators"]
    assert unseen["generators"] == ["b", "c"] and unseen["count"] == 400
    assert unseen["operating_points"]["fpr_1"]["tpr"]["value"] == 0
    assert unseen["metrics"]["accuracy"]["value"] == 0.5
    recall = unseen["metrics"]["recall"]  # none of 200 was found; that does not mean 0 for sure
    assert recall["value"] == recall["low"] == 0 and 0.01 < recall["high"] < 0.03
    assert "b (unseen)" in format_results({"test": found})


def test_authentic_images_alone_tell_the_false_positive_rate_and_nothing_else():
    p = np.linspace(0, 1, 200)
    table, run = predictions(np.zeros(200, bool), p, band=(0.4, 0.6))
    found = measure(table, run)
    assert found["metrics"] == {"fpr": proportion(p >= 0.5)}
    assert found["metrics"]["fpr"]["value"] == 0.5 and found["metrics"]["fpr"]["low"] > 0.4
    point = found["operating_points"]["fpr_5"]
    assert point["fpr"]["value"] == 0.8 and point["tpr"] is None
    assert found["abstention"]["coverage"]["value"] == pytest.approx(0.8)
    assert metric_table(found).rows == [["false positive rate", "0.5000 [0.4314, 0.5686]"]]
    shown = format_results({"test": found})
    assert "false positive rate" in shown and "AUC" not in shown and "recall" not in shown
    assert list(summary({"test": found})) == ["fpr"]


def test_fakes_alone_tell_the_recall_and_nothing_else():
    table, run = predictions(np.ones(100, bool), np.linspace(0, 1, 100))
    found = measure(table, run)
    assert found["metrics"] == {"recall": proportion(np.arange(100) >= 50)}
    assert found["operating_points"]["fpr_1"]["fpr"] is None
    shown = format_results({"all": found})
    assert "recall" in shown and "false positive" not in shown.replace("false positives", "")
    assert "precision" not in shown


def test_the_summary_is_what_a_training_ends_with():
    draw = np.random.default_rng(0)
    fake = draw.random(300) < 0.5
    table, run = predictions(fake, np.clip(draw.normal(0.3 + 0.4 * fake, 0.2), 0, 1))
    results = {"validation": measure(table, run), "test": measure(table, run)}
    names = ["accuracy", "auc", "tpr_at_fpr_1", "tpr_at_fpr_5", "ece"]
    assert list(summary(results)) == names
    assert summary(results)["auc"] == results["test"]["metrics"]["auc"]
    rows = summary_rows(results)
    assert [row["metric"] for row in rows][2] == "recall at 1% FPR" and "[" in rows[0]["value"]
    # Of unequal classes accuracy alone rewards calling everything the larger one.
    for fakes, expected in ((85, names), (50, ["balanced_accuracy", *names])):
        labels = np.repeat([False, True], [100, fakes])
        table, run = predictions(labels, np.clip(draw.normal(0.3 + 0.4 * labels, 0.2), 0, 1))
        found = measure(table, run)
        assert list(summary({"test": found})) == expected
        first = [row[0] for row in metric_table(found).rows][:2]
        accuracies = ["accuracy", "balanced accuracy"]
        assert first == (accuracies if expected is names else accuracies[::-1])
    assert summary({}) == {} and summary_rows({"validation": results["test"]}) == []


def test_balanced_accuracy_comes_first_in_every_table_of_unequal_classes():
    assert in_order(["accuracy", "balanced_accuracy", "auc"], False)[0] == "accuracy"
    draw = np.random.default_rng(0)

    def result_of(authentic, fakes):
        labels = np.repeat([False, True], [authentic, fakes])
        table, run = predictions(labels, np.clip(draw.normal(0.3 + 0.4 * labels, 0.2), 0, 1))
        found = measure(table, run)
        known = {"in_domain": found["metrics"]["auc"], "reasons": {}}
        return found | {
            "datasets": {"a": found}, "generators": {"g": found | {"balanced": True}},
            "domain": known | {"inside": found, "outside": found},
            "videos": {"count": 9, "frames": 100, "by": "group", "metrics": found["metrics"]},
            "before": {"accuracy": 0.5, "balanced_accuracy": 0.5},
        }  # fmt: skip

    for fakes, first in ((50, "balanced accuracy"), (100, "accuracy")):
        shown = 0
        for table in tables_of(result_of(100, fakes)):
            downwards = table.headers[0] == "metric"
            names = [row[0] for row in table.rows] if downwards else table.headers
            found = [name for name in names if name in ("accuracy", "balanced accuracy")]
            if found:
                # Where both classes of a generator count the same, its accuracy is balanced.
                expected = "accuracy" if table.title == "Metrics by generator" else first
                assert found[0] == expected, table.title
                shown += 1
        assert shown == 6


def test_labels_of_the_threshold_figure_do_not_overlap():
    draw = np.random.default_rng(0)
    fake = draw.random(500) < 0.5
    p = np.clip(draw.normal(0.3 + 0.4 * fake, 0.2), 0.01, 0.99)
    points = {"verdict": 0.5, "balanced": 0.5, "eer": 0.505, "fpr_5": 0.51, "fpr_1": 0.52}
    figure = thresholds(fake, p, points, (0.45, 0.55))
    figure.draw_without_rendering()
    [axes] = figure.axes
    boxes = [Text.get_window_extent(t) for t in axes.texts]  # without the leader lines
    assert sorted(t.get_text() for t in axes.texts) == [
        "eer", "fpr_1", "fpr_5", "verdict, balanced"
    ]  # fmt: skip
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert box.y0 > axes.get_window_extent().y1 and box.x1 < figure.bbox.x1


def test_reliability_is_drawn_for_each_generator():
    draw = np.random.default_rng(0)
    p = draw.random(400)
    parts = {name: (draw.random(400) < p, p, None) for name in ("one", "two")}
    [axes] = reliability_by_generator(parts).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    for name, (fake, _, _) in parts.items():
        x, y = lines[name].get_data()
        first = p < 0.2
        assert x[0] == pytest.approx(p[first].mean()) and y[0] == pytest.approx(fake[first].mean())
        assert len(x) == 5


@pytest.mark.parametrize(("name", "rate"), [("real", "false positive rate"), ("fake", "recall")])
def test_a_folder_with_one_class_is_evaluated(shared_run, tmp_path, capsys, name, rate):
    import json
    import shutil

    from tfdetect.core.run_command import run_command
    from tfdetect.evaluate import main

    run, root = shared_run
    shutil.copytree(root / "test" / name, tmp_path / "mine" / name)
    output = tmp_path / "out"
    arguments = [str(run.path), "--dataset", str(tmp_path / "mine"), "--output", str(output)]
    assert run_command(main, arguments) == 0
    shown = capsys.readouterr().out
    assert rate in shown and "AUC" not in shown
    results = json.loads((output / "metrics.json").read_text())
    assert list(results) == ["test"] and results["test"]["count"] == 16
    page = (output / "report.html").read_text()
    assert f"test {rate}" in page and "nothing about the other class" in page
    assert "ROC curve" not in page


def test_the_report_lists_every_epoch(shared_run):
    run, _ = shared_run
    page = (run.path / "report.html").read_text()
    with (run.path / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    [table] = re.findall(r"<summary>Every epoch</summary>(.*?)</details>", page, re.DOTALL)
    for row in history:
        for name in ("log_loss", "val_log_loss", "val_accuracy", "val_auc"):
            assert f"{float(row[name]):.4f}" in table
    assert "Mask IoU" not in table and table.count("<tr") == 1 + len(history)


@pytest.mark.parametrize("prior", [None, 0.5])
def test_metrics_part_by_part_are_those_of_the_whole(scored, prior, capsys):
    fake, scores = scored
    scores = scores.astype(np.float32)
    run = run_at(Path("run"), ("real", "a", "b")).with_info(prior=prior, threshold=0.4)
    labels = fake * np.random.default_rng(3).integers(1, 3, len(fake))
    verdicts = np.where(scores >= np.float32(0.4), "b", "real")
    table = pa.table(
        {"p_fake": scores, "verdict": verdicts, "error": pa.nulls(len(fake), pa.string())}
    )
    broken = pa.table({"p_fake": [None], "verdict": [None], "error": ["gone"]}, table.schema)
    streamed = StreamedMetrics(run)
    for start in range(0, len(fake), 64):
        streamed.add(labels[start : start + 64], table.slice(start, 64))
    streamed.add(np.array([1]), broken)
    found = streamed.document()
    exact = binary_metrics(fake, scores, 0.4, prior)(np.ones(len(fake)))
    for name in ("accuracy", "balanced_accuracy", "recall", "fpr", "ece"):
        assert found["metrics"][name] == pytest.approx(exact[name], abs=1e-12), name
    difference = abs(found["metrics"]["auc"] - exact["auc"])
    assert difference <= found["auc_error_bound"] + 1e-12
    assert (found["count"], found["unreadable"]) == (500, 1)
    predicted = np.where(verdicts == "b", 2, 0)
    assert found["confusion"] == confusion(labels, predicted, 3)
    assert found["metrics"]["class_accuracy"] == pytest.approx((labels == predicted).mean())
    for name, function in (("recall", sk.recall_score), ("precision", sk.precision_score)):
        value = function(labels, predicted, labels=[2], average="macro")
        assert found["classes"]["b"][name]["value"] == pytest.approx(value, abs=1e-6), name
    _show_streamed({"all": found})
    assert "all: Metrics by class" in capsys.readouterr().out
    assert [sum(found["histogram"][kind]) for kind in ("authentic", "fake")] == [
        int((~fake).sum()), int(fake.sum())
    ]  # fmt: skip


def test_the_bound_of_a_binned_auc_holds_where_scores_hardly_differ():
    run, fake = run_at(Path("run")), np.arange(1000) % 2 > 0
    scores = np.float32(0.7) + np.where(fake, np.float32(1e-6), np.float32(0))
    verdicts = np.full(1000, "fake")
    table = pa.table({"p_fake": scores, "verdict": verdicts, "error": pa.nulls(1000, pa.string())})
    streamed = StreamedMetrics(run)
    streamed.add(fake.astype(int), table)
    found = streamed.document()
    assert found["metrics"]["auc"] == 0.5 and found["auc_error_bound"] == 0.5  # it is 1
    alone = StreamedMetrics(run)
    alone.add(np.zeros(500, int), table.slice(0, 500))
    found = alone.document()
    assert found["metrics"]["auc"] is None and found["metrics"]["recall"] is None
    assert found["metrics"]["fpr"] == 1


def test_a_small_negative_number_is_shown_as_zero():
    small = {"value": -1e-6, "low": -2e-5, "high": 1e-6}
    assert format_interval(small, signed=True) == "+0.0000 [+0.0000, +0.0000]"
    assert format_interval(small | {"low": -0.5}, 1, percent=True) == "0.0% [-50.0%, 0.0%]"
