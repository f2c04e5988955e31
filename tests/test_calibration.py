"""Calibration, operating points and the unsure band: their laws, and that all roads agree."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, roc_curve

from tfdetect.calibrate import main as calibrate_command
from tfdetect.core.cli import run_command
from tfdetect.core.errors import UserError
from tfdetect.core.run import open_run
from tfdetect.evaluation import calibration
from tfdetect.evaluation.calibration import (
    apply,
    choose,
    fit,
    log_loss,
    odds,
    operating_points,
    precision_at,
    threshold_at,
    uneven_prior,
    unsure_band,
    with_prior,
)
from tfdetect.evaluation.metrics import binary_metrics
from tfdetect.models.inference import calibrated
from tfdetect.predict import main as predict_command


def drawn(count=4000, scale=1.0, shift=0.0, seed=0):
    """True log-odds' images, and scores that are wrong by a scale and a shift."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 2.5, count)
    fake = rng.random(count) < expit(truth)
    return (truth - shift) / scale, fake, np.arange(count).astype(str)


def test_temperature_finds_the_scale_and_platt_the_shift_too():
    scores, fake, groups = drawn(scale=0.25)
    found = choose(scores, fake, groups)
    assert found["method"] == "temperature" and found["scale"] == pytest.approx(0.25, rel=0.08)
    scores, fake, groups = drawn(scale=0.5, shift=1.5)
    found = choose(scores, fake, groups)
    assert found["method"] == "platt"
    assert found["scale"] == pytest.approx(0.5, rel=0.08)
    assert found["shift"] == pytest.approx(1.5, abs=0.15)


def test_isotonic_where_no_line_will_do():
    scores, fake, groups = drawn(12_000)
    bent = np.where(scores > 0, scores * 0.2, scores * 3)
    found = choose(bent, fake, groups)
    assert found["method"] == "isotonic"
    assert log_loss(apply(found, bent), fake) < log_loss(scores, fake) + 0.01
    assert (np.diff(apply(found, np.linspace(-9, 9, 400))) >= 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_it_never_worsens_the_validation_loss_and_seldom_the_test_loss(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(60, 3000))
    scores, fake, groups = drawn(count, np.exp(rng.normal(0, 0.5)), rng.normal(0, 0.5), seed)
    fresh, truth, _ = drawn(20_000, seed=seed + 100)
    scores = scores + rng.normal(0, 0.1, count)
    for method in ("auto", *calibration.METHODS):
        found = choose(scores, fake, groups, method)
        before, after = log_loss(scores, fake), log_loss(apply(found, scores), fake)
        assert after <= before
        if found:
            assert found["log_loss"] == [round(before, 6), round(after, 6)]
            assert log_loss(apply(fit("temperature", fresh, truth), fresh), truth) < 1


def test_nothing_is_fitted_on_too_few_or_upside_down():
    scores, fake, groups = drawn(30)
    assert choose(scores, fake, groups) is None
    scores, fake, groups = drawn()
    assert fit("platt", -scores, fake) is None and fit("isotonic", -scores, fake) is None
    assert choose(-scores, fake, groups, "platt") is None
    assert choose(scores, np.ones(len(fake), bool), groups) is None


@pytest.mark.parametrize("method", calibration.METHODS)
def test_tensorflow_does_what_numpy_does(method):
    scores, fake, _ = drawn(3000, scale=0.4, shift=0.7)
    found = fit(method, scores, fake)
    rng = np.random.default_rng(1)
    for classes in (2, 3):
        table = rng.dirichlet(np.ones(classes) * 0.4, 500).astype(np.float32)
        now = calibrated(tf.constant(table), found).numpy()
        parts = np.clip(np.stack([table[:, 1:].sum(1), table[:, 0]]), 1e-7, 1).astype(np.float64)
        expected = expit(apply(found, np.log(parts[0] / parts[1])))
        np.testing.assert_allclose(now[:, 1:].sum(1), expected, atol=2e-5)
        np.testing.assert_allclose(now.sum(1), 1, atol=1e-5)
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
    scores, fake, _ = drawn(3000)
    p = expit(scores).astype(np.float32)
    points = operating_points(p, fake, cost=10)
    for name, rate in (("fpr_1", 0.01), ("fpr_5", 0.05)):
        said = p >= points[name]["threshold"]
        assert (
            said[~fake].mean() == pytest.approx(points[name]["fpr"]) and said[~fake].mean() <= rate
        )
        assert said[fake].mean() == pytest.approx(points[name]["tpr"])
        fpr, tpr, _ = roc_curve(fake, p)
        assert points[name]["tpr"] == pytest.approx(tpr[fpr <= rate].max())
    eer = points["eer"]
    assert abs(eer["fpr"] - (1 - eer["tpr"])) < 2 / min(fake.sum(), (~fake).sum())

    def spent(threshold):
        said = p >= threshold
        return 10 * (said & ~fake).sum() + (~said & fake).sum()

    assert spent(points["cost"]["threshold"]) == min(spent(t) for t in np.append(np.unique(p), 2))


def test_operating_points_of_equal_scores_and_of_few_images():
    p, fake = np.full(400, 0.5, np.float32), np.arange(400) % 2 == 0
    assert operating_points(p, fake)["fpr_1"]["tpr"] == 0
    few = operating_points(np.linspace(0, 1, 40, dtype=np.float32), np.arange(40) >= 20)
    assert "fpr_1" not in few and few["fpr_5"]["tpr"] == 1
    assert operating_points(p, np.ones(400, bool)) == {}


def test_the_unsure_band_leaves_few_mistakes_outside():
    scores, fake, _ = drawn(5000)
    p = expit(scores).astype(np.float32)
    for rate in (None, 0.02, 0.05):
        band = unsure_band(p, fake, rate)
        assert (p[~fake] >= band["high"]).mean() <= band["rate"]
        assert (p[fake] < band["low"]).mean() <= band["rate"]
        outside = (p < band["low"]) | (p >= band["high"])
        assert band["coverage"] == pytest.approx(outside.mean())
        assert band["rate"] == (rate or 0.01) and 0 < outside.mean() < 1
    perfect = unsure_band(np.where(fake, 0.9, 0.1).astype(np.float32), fake)
    assert perfect["coverage"] == 1
    assert unsure_band(p[:10], fake[:10]) is None


def test_a_prior_moves_probabilities_and_no_verdict_at_a_point():
    scores, fake, groups = drawn(scale=0.5, shift=1.0)
    found = choose(scores, fake, groups)
    p = expit(apply(found, scores)).astype(np.float32)
    info = {
        "calibration": found,
        "points": operating_points(p, fake),
        "unsure": unsure_band(p, fake),
    }
    rare = with_prior(info, 0.001, "r")
    q = expit(apply(rare["calibration"], scores))
    np.testing.assert_allclose(logit(q) - odds(p), logit(0.001) - logit(fake.mean()), atol=1e-3)
    for name, point in info["points"].items():
        agree = (p >= point["threshold"]) == (q >= rare["points"][name]["threshold"])
        assert agree.mean() > 0.999
    assert "supposes that 90%" in uneven_prior({"calibration": {"fakes": 0.9}})
    assert uneven_prior(info) is None and uneven_prior({}) is None
    assert info["points"]["eer"]["threshold"] > rare["points"]["eer"]["threshold"]
    with pytest.raises(UserError, match="is not calibrated"):
        with_prior({}, 0.1, "r")
    with pytest.raises(UserError, match="no operating point 'fpr_2'"):
        threshold_at(info, "fpr_2", "r")


def test_precision_by_bayes():
    assert precision_at(0.9, 0.01, 0.001) == pytest.approx(0.0009 / (0.0009 + 0.00999))
    assert precision_at(0.0, 0.0, 0.5) is None


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


def test_a_run_is_calibrated_and_all_roads_agree(shared_run, tmp_path, capsys):
    run, root = shared_run
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    # Spoil its confidence: the head's weights four times as large.
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
    wishes = ["--method", "platt", "--cost", "5"]
    assert run_command(calibrate_command, [str(copy), *images, *wishes]) == 0
    said = capsys.readouterr().out
    assert "unsure from P(fake)" in said and "cost (least cost)" in said
    info = open_run(copy).info
    if info.get("calibration"):  # of so few images platt may do harm; then it is refused
        assert info["calibration"]["method"] == "platt"
        assert info["calibration"]["log_loss"][1] <= info["calibration"]["log_loss"][0]
    assert {"eer", "balanced", "cost"} <= set(info["points"])
    rows = predicted("--at", "balanced")
    limit = info["points"]["balanced"]["threshold"]
    assert [r["verdict"] for r in rows] == [
        "fake" if r["p_fake"] >= limit else "real" for r in rows
    ]
    served = tf.saved_model.load(str(copy / "saved_model"))
    rows = predicted()
    answer = served.signatures["encoded"](
        encoded_images=tf.stack([tf.io.read_file(path) for path in files])
    )
    np.testing.assert_allclose(answer["p_fake"], [r["p_fake"] for r in rows], atol=1e-5)
    assert [v.decode() for v in answer["verdict"].numpy()] == [r["verdict"] for r in rows]
    assert answer["unsure"].numpy().tolist() == [r["unsure"] for r in rows]
    for wrong, words in (
        (["--method", "none", "--split", "all"], "images that it was trained on"),
        (["--cost", "-1"], "--cost takes a number above 0"),
        (["--unsure", "0.7"], "--unsure lies between"),
    ):
        assert run_command(calibrate_command, [str(copy), *wrong]) == 2
        assert words in capsys.readouterr().err
    for wrong, words in (
        (["--at", "fpr_2"], "no operating point 'fpr_2'"),
        (["--at", "eer", "--threshold", "0.3"], "two ways to choose"),
        (["--prior", "1.5"], "--prior lies between"),
    ):
        assert run_command(predict_command, [str(copy), files[0], *wrong]) == 2
        assert words in capsys.readouterr().err


def test_calibrated_on_other_images_as_a_platform_would(shared_run, tmp_path):
    run, root = shared_run
    copy, other = tmp_path / "run", tmp_path / "mine"
    shutil.copytree(run.path, copy)
    shutil.copytree(root / "train", other)
    arguments = [str(copy), "--dataset", str(other), "--split", "all"]
    assert run_command(calibrate_command, arguments) == 0
    info = open_run(copy).info
    assert info["points"]["fpr_5"]["fpr"] <= 0.05
    assert (copy / "evaluations/mine/metrics.json").is_file()
