"""Calibration, operating points, prior and abstention: their laws, and that all paths agree."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from conftest import write_images
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, roc_curve

import tfdetect
from tfdetect.calibrate import main as calibrate_command
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.run_command import run_command
from tfdetect.core.run_info import RunInfo
from tfdetect.evaluation import calibration
from tfdetect.evaluation.adaptation import (
    conformal_threshold,
    fit_shift,
    images_needed,
    rate_bound,
)
from tfdetect.evaluation.calibrate_finished_run import remeasure_calibrated
from tfdetect.evaluation.calibrate_run import calibrate_run
from tfdetect.evaluation.calibration import (
    apply_calibration,
    choose_calibration,
    fit_calibration,
    log_loss,
    logit,
)
from tfdetect.evaluation.calibration_settings import CalibrationSettings
from tfdetect.evaluation.intervals import of_count, precision_at
from tfdetect.evaluation.metrics import binary_metrics
from tfdetect.evaluation.operating_points import (
    abstention_band,
    choose_threshold,
    operating_points,
)
from tfdetect.evaluation.prediction_columns import raw_logits, recalibrate, uncalibrated
from tfdetect.evaluation.run_description import band_chosen_on, threshold_sentence
from tfdetect.models.inference import calibrated
from tfdetect.models.saved_model import run_signature
from tfdetect.predict import main as predict_command

WITHOUT_EXPORTS = shutil.ignore_patterns("saved_model", "exports")  # calibrate would rewrite them


def images_of(count=4000, scale=1.0, shift=0.0, seed=0):
    """Images with true logits, and logits that are wrong by a scale and a shift."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 2.5, count)
    fake = rng.random(count) < expit(truth)
    return (truth - shift) / scale, fake, np.arange(count).astype(str)


def test_temperature_finds_the_scale_and_platt_the_shift_too():
    scores, fake, groups = images_of(scale=0.25)
    found = choose_calibration(scores, fake, groups)
    assert found.method == "temperature" and found.scale == pytest.approx(0.25, rel=0.08)
    scores, fake, groups = images_of(scale=0.5, shift=1.5)
    found = choose_calibration(scores, fake, groups)
    assert found.method == "platt"
    assert found.scale == pytest.approx(0.5, rel=0.08)
    assert found.shift == pytest.approx(1.5, abs=0.15)


def test_isotonic_regression_where_no_line_fits():
    scores, fake, groups = images_of(12_000)
    bent = np.where(scores > 0, scores * 0.2, scores * 3)
    found = choose_calibration(bent, fake, groups)
    assert found.method == "isotonic"
    assert log_loss(apply_calibration(found, bent), fake) < log_loss(scores, fake) + 0.01
    assert (np.diff(apply_calibration(found, np.linspace(-9, 9, 400))) >= 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_it_lowers_the_loss_of_wrong_scores_also_on_new_images(seed):
    rng = np.random.default_rng(seed)
    wrong = np.exp(rng.choice([-1, 1]) * rng.uniform(0.3, 0.8)), rng.normal(0, 0.5)
    scores, fake, groups = images_of(int(rng.integers(1000, 3000)), *wrong, seed)
    new_scores, new_fake, _ = images_of(20_000, *wrong, seed + 100)
    for method in ("auto", *calibration.METHODS):
        found = choose_calibration(scores, fake, groups, method)
        before, after = log_loss(scores, fake), log_loss(apply_calibration(found, scores), fake)
        assert after < before and found.log_loss == (round(before, 6), round(after, 6))
        new = log_loss(apply_calibration(found, new_scores), new_fake)
        assert new < log_loss(new_scores, new_fake)


def test_nothing_is_fitted_on_too_few_or_upside_down():
    scores, fake, groups = images_of(30)
    assert choose_calibration(scores, fake, groups) is None
    scores, fake, groups = images_of()
    assert (
        fit_calibration("platt", -scores, fake) is None
        and fit_calibration("isotonic", -scores, fake) is None
    )
    assert choose_calibration(-scores, fake, groups, "platt") is None
    assert choose_calibration(scores, np.ones(len(fake), bool), groups) is None


@pytest.mark.parametrize("method", calibration.METHODS)
def test_tensorflow_does_what_numpy_does(method):
    scores, fake, _ = images_of(3000, scale=0.4, shift=0.7)
    found = fit_calibration(method, scores, fake)
    rng = np.random.default_rng(1)
    for classes in (2, 3):
        table = rng.dirichlet(np.ones(classes) * 0.4, 500).astype(np.float32)
        now = calibrated(tf.constant(table), found).numpy()
        parts = np.clip(np.stack([table[:, 1:].sum(1), table[:, 0]]), 1e-37, 1).astype(np.float64)
        expected = expit(apply_calibration(found, np.log(parts[0] / parts[1])))
        np.testing.assert_allclose(now[:, 1:].sum(1), expected, atol=2e-5)
        np.testing.assert_allclose(now.sum(1), 1, atol=1e-6)
        exported = tf.function(
            lambda t: calibrated(t, found),
            autograph=False,
            input_signature=[tf.TensorSpec([None, classes])],
        )
        np.testing.assert_allclose(exported(tf.constant(table)), now, atol=1e-6)
        if classes == 3:  # which fake it is stays as likely
            some = table[:, 1:].min(1) > 1e-3
            np.testing.assert_allclose((now[:, 1] / now[:, 2])[some],
                                       (table[:, 1] / table[:, 2])[some], rtol=1e-3)  # fmt: skip
    ends = calibrated(tf.constant([[0.0, 1.0], [1.0, 0.0]]), found).numpy()
    assert np.isfinite(ends).all() and ends[0, 1] > ends[1, 1]


def test_operating_points_keep_what_they_promise():
    scores, fake, _ = images_of(3000)
    p = expit(scores).astype(np.float32)
    points = operating_points(p, fake, cost=10, prior=float(fake.mean()))
    for name, rate in (("fpr_1", 0.01), ("fpr_5", 0.05)):
        shown = p >= points[name].threshold
        assert (
            shown[~fake].mean() == pytest.approx(points[name].fpr) and shown[~fake].mean() <= rate
        )
        assert shown[fake].mean() == pytest.approx(points[name].tpr)
        fpr, tpr, _ = roc_curve(fake, p)
        assert points[name].tpr == pytest.approx(tpr[fpr <= rate].max())
    eer = points["eer"]
    assert abs(eer.fpr - (1 - eer.tpr)) < 2 / min(fake.sum(), (~fake).sum())

    def spent(threshold):
        shown = p >= threshold
        return 10 * (shown & ~fake).sum() + (~shown & fake).sum()

    assert spent(points["cost"].threshold) == min(spent(t) for t in np.append(np.unique(p), 2))


def test_operating_points_of_equal_scores_and_of_few_images():
    p, fake = np.full(400, 0.5, np.float32), np.arange(400) % 2 == 0
    assert operating_points(p, fake)["fpr_1"].tpr == 0
    few = operating_points(np.linspace(0, 1, 40, dtype=np.float32), np.arange(40) >= 20)
    assert "fpr_1" not in few and few["fpr_5"].tpr == 1
    assert operating_points(p, np.ones(400, bool)) == {}


def test_the_rate_of_a_new_source_is_kept_where_sources_differ():
    rng = np.random.default_rng(0)

    def authentic(count):
        sources = rng.normal(0, 2, count)  # each at its own level
        images = sources[:, None] + rng.normal(0, 1, (count, 15))
        return expit(images).astype(np.float32).ravel(), np.repeat(np.arange(count), 15).astype(str)

    fakes = expit(rng.normal(4, 2, 500)).astype(np.float32)
    rates = {"fpr_5": [], "source_fpr_5": []}
    for _ in range(60):
        p, sources = authentic(30)
        fake = np.append(np.zeros(len(p), bool), np.ones(500, bool))
        names = np.append(sources, np.full(500, "generator"))
        points = operating_points(np.append(p, fakes), fake, sources=names)
        new = authentic(40)[0]
        for name in rates:
            rates[name].append((new >= points[name].threshold).mean())
    assert np.mean(rates["source_fpr_5"]) <= 0.05 < np.mean(rates["fpr_5"])
    assert np.mean(rates["source_fpr_5"]) > 0.02  # not a threshold that nothing reaches

    def has_point(p, names):
        return "source_fpr_5" in operating_points(p, np.arange(len(p)) % 2 == 0, sources=names)

    p, count = np.linspace(0, 1, 200, dtype=np.float32), np.arange(200) // 2
    assert has_point(p, (count % 19).astype(str)) and not has_point(p, (count % 18).astype(str))
    assert not has_point(p, np.where(count == 7, "", (count % 19).astype(str)))  # one is unknown


def test_thresholds_lie_halfway_between_scores():
    p = np.array([0.1, 0.2, 0.8, 0.9], np.float32)
    points = operating_points(p, p > 0.5)
    assert points["balanced"].threshold == pytest.approx(0.5, abs=1e-6)  # logits of 0.2 and 0.8
    assert points["eer"].threshold == points["balanced"].threshold
    assert choose_threshold("balanced", points) == points["balanced"].threshold
    assert choose_threshold("fpr_1", points) == points["balanced"].threshold  # too few images
    assert choose_threshold(0.7, points) == 0.7 and choose_threshold("eer", {}) == 0.5
    for seed in range(5):  # the same verdicts as at a score
        scores, fake, _ = images_of(300, seed=seed)
        p = expit(scores).astype(np.float32)
        point = operating_points(p, fake)["balanced"]
        assert (p[fake] >= np.float32(point.threshold)).mean() == pytest.approx(point.tpr)
        assert (p[~fake] >= np.float32(point.threshold)).mean() == pytest.approx(point.fpr)


def test_few_mistakes_lie_outside_the_abstention_band():
    scores, fake, _ = images_of(5000)
    p = expit(scores).astype(np.float32)
    for rate in (None, 0.02, 0.05):
        for threshold in (0.5, 0.02, 0.98):
            band = abstention_band(p, fake, threshold, rate)
            assert (p[~fake] >= band.high).mean() <= band.error_rate
            assert (p[fake] < band.low).mean() <= band.error_rate
            outside = (p < band.low) | (p >= band.high)
            assert band.coverage == pytest.approx(outside.mean())
            assert band.error_rate == (rate or 0.01) and 0 < outside.mean() < 1
            assert band.low <= threshold <= band.high
    perfect = np.where(fake, 0.9, 0.1).astype(np.float32)
    band = abstention_band(perfect, fake, 0.5)
    assert band.coverage == 1 and band.low == band.high == 0.5
    band = abstention_band(perfect, fake, 0.95)  # a threshold above all fakes
    assert band.low <= 0.9 < band.high == 0.95
    assert abstention_band(p[:10], fake[:10], 0.5) is None


def test_the_band_of_a_run_contains_its_threshold(calibrated_run):
    run, _, _ = calibrated_run
    low, high = run.abstention_band
    assert low <= run.threshold <= high
    for threshold in (low / 2, (1 + high) / 2):
        moved = run.with_threshold(threshold)
        assert moved.abstention_band[0] <= threshold <= moved.abstention_band[1]


@pytest.fixture(scope="module")
def calibrated_run(tmp_path_factory):
    """A run calibrated on logits of which 80% are of fakes, with these logits and labels."""
    from tfdetect.evaluation.predictions import predict_source  # noqa: F401  imports TensorFlow

    logits, fake, _ = images_of(6000, scale=0.5, shift=0.0)
    kept = fake | (np.random.default_rng(1).random(len(fake)) < 0.25)
    logits, fake = logits[kept], fake[kept]
    info = RunInfo.model_validate({
        "status": "complete", "class_names": ["real", "fake"],
        "views": [{"size": [8, 8], "policy": "stretch"}], "fusion": "mean",
        "dataset": {"name": "d", "fingerprint": "0"},
    })  # fmt: skip
    folder = tmp_path_factory.mktemp("run")
    (folder / "ensemble.yaml").write_text("members: []")
    run = Run(folder, info)
    found = calibrate_run(
        run, catalog_rows(fake), raw_table(logits), CalibrationSettings(),
        log=lambda text: None,
    )  # fmt: skip
    return found, logits, fake


def catalog_rows(labels):
    """Rows of a catalog; each image is a group."""
    count = len(labels)
    return pa.table({
        "label": np.asarray(labels).astype(int), "group": [str(n) for n in range(count)],
        "generator": pa.nulls(count, pa.string()),
        "width": np.full(count, 40), "height": np.full(count, 30),
    })  # fmt: skip


def raw_table(logits):
    """Predictions of a run without calibration."""
    import pyarrow as pa

    p = expit(logits).astype(np.float32)
    return pa.table({
        "p_fake": p, "p_fake_raw": p, "probability_real": expit(-logits).astype(np.float32),
        "probability_fake": p, "verdict": np.where(p >= 0.5, "fake", "real"),
        "inconclusive": np.zeros(len(p), bool), "error": pa.nulls(len(p), pa.string()),
        "in_domain": pa.nulls(len(p), pa.bool_()), "domain_reasons": pa.nulls(len(p), pa.string()),
        "feature_distance": pa.nulls(len(p), pa.float32()),
        "duplicate_of_train": pa.nulls(len(p), pa.bool_()),
    })  # fmt: skip


def test_p_fake_assumes_that_half_of_the_images_are_fake(calibrated_run):
    run, logits, fake = calibrated_run
    fitted = run.info.calibration
    assert fitted.fake_fraction == pytest.approx(0.8, abs=0.01) and run.info.prior == 0.5
    shift = logit(0.5) - logit(fitted.fake_fraction)
    p = expit(apply_calibration(run.calibration, logits))
    np.testing.assert_allclose(logit(p), apply_calibration(fitted, logits) + shift, atol=1e-4)
    # It is calibrated where half are fake, and is not where they are as frequent as here.
    at_half = binary_metrics(fake, p, prior=0.5)(np.ones(len(p)))
    as_they_are = binary_metrics(fake, p)(np.ones(len(p)))
    assert at_half["ece"] < 0.03 < 0.08 < as_they_are["ece"]
    own = run.with_prior("validation")
    p = expit(apply_calibration(own.calibration, logits))
    assert binary_metrics(fake, p)(np.ones(len(p)))["ece"] < 0.03
    assert run.threshold == run.info.operating_points["balanced"].threshold
    # Few authentic images no longer make everything fake.
    assert abs((p[~fake] >= own.threshold).mean() - (1 - (p[fake] >= own.threshold).mean())) < 0.1


def test_the_calibration_of_a_very_certain_detector_is_fitted_to_its_own_logits(calibrated_run):
    sure, fake, _ = images_of(1000, scale=1.0, shift=0.0)
    run = calibrate_run(
        uncalibrated(calibrated_run[0]), catalog_rows(fake), raw_table(20 * sure),
        CalibrationSettings(method="temperature"), log=lambda text: None,
    )  # fmt: skip
    found = run.info.calibration
    logits = np.clip(20 * sure, -85, 85)  # float32 ends there
    told = calibration.log_loss(apply_calibration(found, logits), fake)
    assert found.log_loss[1] == pytest.approx(told, abs=0.01)
    assert found.scale == pytest.approx(1 / calibration.fit_temperature(logits, fake), rel=0.1)


def test_a_few_very_certain_images_do_not_decide_the_calibration():
    logits = np.concatenate([np.linspace(-5, 5, 98), [40, -85]])
    clipped = raw_logits(raw_table(logits), SimpleNamespace(class_names=["real", "fake"]))
    np.testing.assert_allclose(clipped, np.clip(logits, -16.118, 16.118), atol=1e-3)


def test_a_prior_moves_probabilities_and_no_verdict(calibrated_run):
    run, logits, _ = calibrated_run
    rare = run.with_prior(0.001)
    p, q = (expit(apply_calibration(r.calibration, logits)) for r in (run, rare))
    np.testing.assert_allclose(logit(q) - logit(p), logit(0.001) - logit(0.5), atol=1e-3)
    for one, other in ((run.threshold, rare.threshold),
                       *zip(run.abstention_band, rare.abstention_band),
                       *((point.threshold, rare.info.operating_points[name].threshold)
                         for name, point in run.info.operating_points.items())):  # fmt: skip
        assert other < one and ((p >= one) == (q >= other)).mean() > 0.999


def test_settings_choose_prior_and_threshold(calibrated_run, tmp_path):
    run, logits, fake = calibrated_run
    table = raw_table(logits)

    said = []

    def calibrated_with(**settings):
        return calibrate_run(run, catalog_rows(fake), table, CalibrationSettings(**settings),
                             log=said.append)  # fmt: skip

    own = calibrated_with(prior="validation", threshold="fpr_5")
    assert own.info.prior == own.info.calibration.fake_fraction
    # What is printed is of the images as they are; evaluation weights the classes by the prior.
    assert f"each counted once ({fake.mean():.0%} are fake)" in said[0]
    p = expit(apply_calibration(own.calibration, logits))
    loss = binary_metrics(fake, p)(np.ones(len(p)))["log_loss"]
    assert f"{loss:.4f} after" in said[0]
    assert own.threshold == own.info.operating_points["fpr_5"].threshold
    assert calibrated_with(threshold=0.7).threshold == 0.7
    raw = calibrated_with(method="none")
    assert raw.calibration is None and raw.info.prior is None
    assert raw.threshold == raw.info.operating_points["balanced"].threshold
    assert raw.threshold != pytest.approx(run.threshold, abs=1e-3)
    shown = []
    few = calibrate_run(run, catalog_rows(fake[:30]), table.slice(0, 30),
                        CalibrationSettings(prior=0.2), log=shown.append)  # fmt: skip
    assert few.calibration is None and "uncalibrated score" in shown[0]
    assert "prior has no effect" in shown[1]
    assert few.threshold == few.info.operating_points["balanced"].threshold
    one_class = calibrate_run(run, catalog_rows(np.zeros(30)), table.slice(0, 30),
                              CalibrationSettings(), log=shown.append)  # fmt: skip
    assert one_class.threshold == 0.5
    assert shown[-1] == "threshold: too few images for balanced; 0.5 is used instead"
    with pytest.raises(UserError, match="no authentic image"):
        calibrate_run(run, catalog_rows(np.ones(len(fake))), table,
                      CalibrationSettings(required=True), console.log)  # fmt: skip


def test_precision_by_bayes():
    found = precision_at(of_count(900, 1000), of_count(10, 1000), 0.001)
    assert found["value"] == pytest.approx(0.0009 / (0.0009 + 0.00999), abs=1e-6)
    assert found["low"] < found["value"] < found["high"]
    assert precision_at(of_count(0, 9), of_count(0, 9), 0.5)["value"] is None


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        fake = rng.random(300) < 0.4
        p = np.round(rng.random(300), int(rng.integers(1, 6)))
        values = binary_metrics(fake, p)(np.ones(300))
        fpr, tpr, _ = roc_curve(fake, p, drop_intermediate=False)
        for name, rate in (("tpr_at_fpr_1", 0.01), ("tpr_at_fpr_5", 0.05)):
            assert values[name] == pytest.approx(tpr[fpr <= rate].max(), abs=1e-9)
        assert values["brier"] == pytest.approx(brier_score_loss(fake, p), abs=1e-9)


def test_a_run_is_calibrated_and_all_paths_agree(shared_run, tmp_path, capsys):
    run, root = shared_run
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    # Make it overconfident: multiply the weights of the head by four.
    from tfdetect.models.saving import load_detector, write_model

    detector = load_detector(open_run(copy))
    head = [layer for layer in detector.layers if layer.weights][-1]
    head.set_weights([4 * w for w in head.get_weights()])
    write_model(detector, copy / "model.keras")
    files = sorted(map(str, root.glob("test/*/*.png")))
    output = tmp_path / "rows.jsonl"

    def predicted(*more):
        assert (
            run_command(predict_command, [str(copy), *files, "--output", str(output), *more]) == 0
        )
        return [json.loads(line) for line in output.read_text().splitlines()]

    images = ["--dataset", str(root), "--split", "train"]  # many of them; only for this test
    options = ["--method", "platt", "--cost", "5"]
    assert run_command(calibrate_command, [str(copy), *images, *options]) == 0
    shown = capsys.readouterr().out
    assert "inconclusive from P(fake)" in shown and "lowest cost (cost)" in shown
    info = open_run(copy).info
    if info.calibration:  # on so few images Platt may do harm; then it is refused
        assert info.calibration.method == "platt"
        assert info.calibration.log_loss[1] <= info.calibration.log_loss[0]
    assert {"eer", "balanced", "cost"} <= set(info.operating_points)
    assert info.threshold == info.operating_points["balanced"].threshold
    rows = predicted("--at", "cost")
    limit = np.float32(info.operating_points["cost"].threshold)
    assert [r["verdict"] for r in rows] == [
        "fake" if r["p_fake"] >= limit else "real" for r in rows
    ]
    rows = predicted()
    data = [Path(path).read_bytes() for path in files]
    [answer] = run_signature(copy / "saved_model", "encoded", [data])
    np.testing.assert_allclose(answer["p_fake"], [r["p_fake"] for r in rows], atol=1e-5)
    assert [v.decode() for v in answer["verdict"]] == [r["verdict"] for r in rows]
    assert answer["inconclusive"].tolist() == [r["inconclusive"] for r in rows]
    for wrong, words in (
        (["--method", "none", "--split", "all"], "images that it was trained on"),
        (["--cost", "-1"], "expected a number above 0"),
        (["--abstention-error", "0.7"], "--abstention-error"),
    ):
        assert run_command(calibrate_command, [str(copy), *wrong]) == 2
        assert words in capsys.readouterr().err
    for wrong, words in (
        (["--at", "fpr_2"], "no operating point 'fpr_2'"),
        (["--at", "eer", "--threshold", "0.3"], "both choose the threshold"),
        (["--prior", "1.5"], "--prior"),
    ):
        assert run_command(predict_command, [str(copy), files[0], *wrong]) == 2
        assert words in capsys.readouterr().err


def test_settings_are_refused_before_anything_is_read():
    for wrong, words in (
        ({"prior": 2.0}, "A prior lies between"), ({"prior": "none"}, "A prior is a number"),
        ({"threshold": "fpr_2"}, "Did you mean 'fpr_"), ({"method": "plat"}, "Did you mean 'platt"),
        ({"cost": 0.0}, "^cost must be above 0"), ({"empty_masks": 1.0}, "^empty_masks"),
        ({"abstention_error": 0.5}, "below 0.5"), ({"false_positive_rate": 1.0}, "below 1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            tfdetect.calibrate("nowhere", **wrong)


def test_calibrated_on_other_images_as_a_platform_would(shared_run, tmp_path):
    run, root = shared_run
    copy, other = tmp_path / "run", tmp_path / "mine"
    shutil.copytree(run.path, copy, ignore=WITHOUT_EXPORTS)
    write_images(other / "real", 60, 0, 24, seed=20)
    write_images(other / "fake", 60, 1, 24, seed=20)
    shutil.copy(min((root / "train" / "fake").iterdir()), other / "fake" / "known.png")
    arguments = [str(copy), "--dataset", str(other), "--split", "all"]
    arguments += ["--method", "temperature"]
    assert run_command(calibrate_command, arguments) == 0
    info, card = open_run(copy).info, (copy / "model_card.md").read_text()
    assert info.operating_points["fpr_5"].fpr <= 0.05
    assert info.calibration.images == 120  # without the one that it was trained on
    assert info.calibration.dataset == "mine" and "images of mine" in card
    assert (copy / "evaluations/mine/metrics.json").is_file()
    # Its own figures follow the calibration, by the predictions that it keeps.
    anew = open_run(copy).results
    assert "before the run was calibrated" not in card
    assert anew["test"]["metrics"]["log_loss"] != run.results["test"]["metrics"]["log_loss"]
    assert anew["test"]["metrics"]["auc"] == run.results["test"]["metrics"]["auc"]
    again = tfdetect.evaluate(copy, images_in_report=False, log=lambda text: None).values
    for split, part in again.items():
        for name, value in part["metrics"].items():
            assert value["value"] == pytest.approx(anew[split]["metrics"][name]["value"], abs=1e-5)


def test_a_run_without_predictions_says_that_its_figures_are_older(shared_run, tmp_path):
    run, _ = shared_run
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy, ignore=WITHOUT_EXPORTS)
    shutil.rmtree(copy / "predictions")
    staged = open_run(copy)
    remeasure_calibrated(staged, "mine", log=lambda text: None)
    assert "before the run was calibrated on mine" in (copy / "model_card.md").read_text()
    assert staged.results == run.results


def test_a_conformal_threshold_keeps_the_promised_rate_on_new_images():
    rng, n, rate = np.random.default_rng(0), 60, 0.05
    rates = []
    for _ in range(2000):
        threshold = conformal_threshold(expit(rng.normal(-1, 2, n)).astype(np.float32), rate)
        # The rate on infinitely many new images, from the distribution itself.
        rates.append(norm.sf((logit(np.array([threshold]))[0] + 1) / 2))
    mean, error = np.mean(rates), np.std(rates) / np.sqrt(len(rates))
    assert rate - 1 / (n + 1) - 3 * error < mean <= rate + 3 * error
    bound = rate_bound(n, rate)
    assert 0.03 < np.mean(np.array(rates) > bound) < 0.07 and bound > rate
    # Without the correction for few images the promise is broken.
    plain = [norm.sf((np.quantile(rng.normal(-1, 2, 19), 0.95) + 1) / 2) for _ in range(2000)]
    assert np.mean(plain) > rate + 0.02


def test_a_conformal_threshold_says_how_many_images_it_needs():
    p = np.linspace(0, 0.9, 18, dtype=np.float32)
    with pytest.raises(UserError, match=r"19 authentic images are needed at least. Received: 18"):
        conformal_threshold(p, 0.05)
    assert images_needed(0.01) == 99
    all_equal = conformal_threshold(np.full(19, 0.5, np.float32), 0.05)
    assert np.float32(0.5) < np.float32(all_equal) < 0.51
    assert conformal_threshold(np.ones(19, np.float32), 0.05) > 1


def test_where_the_rest_is_too_few_the_images_that_were_left_out_are_counted(calibrated_run):
    run = calibrated_run[0]
    for labels, needed in ((np.zeros(30), "19 authentic"), (np.arange(30) % 15 == 0, "10 images")):
        table = raw_table(np.zeros(30))
        known = pa.array(np.arange(30) >= 8)
        table = table.set_column(table.column_names.index("duplicate_of_train"),
                                 "duplicate_of_train", known)  # fmt: skip
        with pytest.raises(UserError) as raised:
            calibrate_run(run, catalog_rows(labels), table, CalibrationSettings(dataset="one"),
                          log=lambda text: None)  # fmt: skip
        assert needed in str(raised.value) and "Received: 8" in str(raised.value)
        assert str(raised.value).endswith(
            f"22 of 30 images are known to {run.name} from training or validation (the same or a "
            "copy), and left out: they are not counted here."
        )


def test_a_shift_is_found_with_an_honest_interval():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(300):
        truth = rng.normal(0, 2, 50)
        fake = rng.random(50) < expit(truth)
        shift, (low, high) = fit_shift(truth - 1.5, fake)
        covered += low <= 1.5 <= high
        assert low < shift < high
    assert 0.92 <= covered / 300 <= 0.985
    separated = np.array([-3.0] * 5 + [3.0] * 5)
    assert abs(fit_shift(separated, separated > 0)[0]) < 0.1


def test_a_shift_is_applied_where_it_can_be_told_from_none(calibrated_run, capsys):
    run, logits, fake = calibrated_run
    rows = catalog_rows(fake[:60])

    def adapted(moved, method="auto", **more):
        settings = CalibrationSettings(dataset="mine", method=method, threshold="fpr_5", **more)
        return calibrate_run(run, rows, raw_table(logits[:60] + moved), settings,
                             log=lambda text: None)  # fmt: skip

    with pytest.raises(UserError, match="keeps the prior"):
        adapted(0, prior=0.1)
    assert adapted(0).info == run.with_threshold("fpr_5").info
    assert "cannot be told from none" in capsys.readouterr().err
    low, high = adapted(0, "shift").info.adaptation.shift_interval
    assert low < 0 < high
    bare = calibrate_run(
        uncalibrated(run), rows, raw_table(logits[:60]),
        CalibrationSettings(dataset="mine", method="shift"), log=lambda text: None,
    ).info  # fmt: skip
    assert bare.calibration.dataset == "mine"
    assert bare.calibration.log_loss == bare.adaptation.log_loss != (0, 0)
    run = run.with_threshold(0.95)
    settings = CalibrationSettings(dataset="mine", method="auto")
    calibrate_run(run, rows, raw_table(logits[:60] + 8), settings, log=lambda text: None)
    assert "probabilities moved, and the threshold did not" in capsys.readouterr().err
    # Each operating point separates the same images as before, also without a calibration.
    for each in (run, run.with_info(calibration=None, prior=None)):
        table = raw_table(logits[:60] + 3)
        few = catalog_rows(fake[:60])
        after = calibrate_run(each, few, table, CalibrationSettings(dataset="mine", method="shift"),
                              log=lambda text: None)  # fmt: skip
        for name in each.info.operating_points:
            reached = [
                recalibrate(table, of)["p_fake"].to_numpy()
                >= np.float32(of.info.operating_points[name].threshold)
                for of in (each, after)
            ]
            np.testing.assert_array_equal(*reached)
            assert band_chosen_on(after).endswith("before a shift moved P(fake)")
            assert "mine" not in band_chosen_on(after)
    found = adapted(-8).info  # raw logits; calibration halves them
    assert found.adaptation.shift == pytest.approx(4, abs=1)
    assert found.threshold == found.operating_points["fpr_5"].threshold


def test_a_run_is_adapted_to_authentic_images_alone_and_to_a_few_labeled_ones(
    shared_run, tmp_path, capsys
):
    run, root = shared_run
    copy, reals, mine = tmp_path / "run", tmp_path / "reals", tmp_path / "mine"
    shutil.copytree(run.path, copy, ignore=WITHOUT_EXPORTS)
    names = [c.folders[0] for c in run.dataset_spec().classes]
    write_images(reals, 24, 0, 60, seed=20)
    write_images(mine / names[0], 12, 0, 24, seed=20)
    write_images(mine / names[1], 6, 1, 24, seed=20)
    fakes = sorted((mine / names[1]).iterdir())
    seen = [str(copy), "--dataset", str(root / "train" / names[0]), "--label", "authentic"]
    assert run_command(calibrate_command, seen) == 2
    assert "images that it has never seen" in capsys.readouterr().err
    command = [str(copy), "--dataset", str(reals), "--label", "authentic"]
    assert run_command(calibrate_command, [*command, "--false-positive-rate", "0.01"]) == 2
    assert "99 authentic images are needed" in capsys.readouterr().err
    assert run_command(calibrate_command, [*command, "--method", "isotonic"]) == 2
    said = capsys.readouterr().err
    assert "a method has no meaning" in said and "evaluating" not in said  # before the work
    assert run_command(calibrate_command, command) == 0
    info = open_run(copy).info
    assert info.adaptation.kind == "threshold" and info.adaptation.authentic == 24
    assert info.adaptation.false_positive_rate == 0.05 < info.adaptation.rate_bound
    assert info.adaptation.shorter_side == info.adaptation.longer_side == (60, 60, 60)
    assert info.calibration == run.info.calibration
    assert "at most 5% of new images like these are called fake" in threshold_sentence(
        open_run(copy)
    )
    capsys.readouterr()
    assert run_command(predict_command, [str(copy), str(reals), "--json", "--quiet"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["verdict"] != run.class_names[0] for row in rows) <= 1
    # What the run is adapted to has no unlike size any more.
    assert run.in_domain_sides[1] < 60 < open_run(copy).in_domain_sides[1]
    assert not any("size" in row["domain_reasons"] for row in rows)

    # A stricter threshold is kept, and said.
    assert run_command(calibrate_command, [*command, "--threshold", "0.999"]) == 0
    strict = open_run(copy)
    assert (strict.threshold, strict.info.adaptation.stricter) == (0.999, 0.999)
    assert strict.abstention_band[1] == 0.999
    assert "The higher one, 0.999, was kept" in threshold_sentence(strict)
    assert run_command(calibrate_command, [*command, "--threshold", "0.001"]) == 0
    assert open_run(copy).info == info

    command = [str(copy), "--dataset", str(mine)]
    assert run_command(calibrate_command, [*command, "--method", "shift"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown.partition("before")[2] for name in ("accuracy", "recall", "log-loss"))
    adapted = open_run(copy).info
    assert adapted.adaptation.kind == "shift" and adapted.adaptation.fakes == 6
    low, high = adapted.adaptation.shift_interval
    assert low < adapted.adaptation.shift < high
    moved = adapted.calibration.shift - (info.calibration.shift if info.calibration else 0)
    assert moved == pytest.approx(adapted.adaptation.shift, abs=1e-5)
    # The rate that was promised for authentic images stays: the same ones are called fake.
    assert adapted.threshold != info.threshold
    assert adapted.adaptation.earlier.false_positive_rate == 0.05
    assert run_command(predict_command, [str(copy), str(reals), "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in again] == [row["verdict"] for row in rows]
    assert not any("size" in row["domain_reasons"] for row in again)
    card = (copy / "model_card.md").read_text()
    assert "at most 5% of new images" in card and "A shift of" in card
    assert "fakes of mine" not in card.partition("Abstention")[2].partition("was added")[0]
    assert run_command(calibrate_command, command) == 0  # there is nothing left to shift
    shown = capsys.readouterr()
    assert "cannot be told from none" in shown.err and "(unchanged)" in shown.out
    assert open_run(copy).info == adapted
    for file in fakes[2:6]:
        file.unlink()
    assert run_command(calibrate_command, command) == 2
    assert "3 of each class" in capsys.readouterr().err
    assert open_run(copy).info == adapted
