"""Ensembles: fitting fusions, the fused network, and the run that it becomes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from conftest import run_at, train_small, write_images
from PIL import Image, ImageOps
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from test_masks import LOCALIZER, write_forged

import tfdetect
from tfdetect.core import console
from tfdetect.core.choices import FUSIONS
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.run_command import run_command
from tfdetect.core.run_info import DatasetInfo, RunInfo, TrainingImages, View
from tfdetect.data.training_hashes import TrainingHashes
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.calibration import fit_temperature, log_loss
from tfdetect.evaluation.cross_fitting import FILE as CROSS_FITTING
from tfdetect.evaluation.cross_fitting import CrossFitting, cross_fitted
from tfdetect.evaluation.operating_points import abstention_band, operating_points
from tfdetect.fusion.comparison import compare_fusions, measure_comparison
from tfdetect.fusion.fisher_fusion import evidence
from tfdetect.fusion.fuse import few_images_for_stacked
from tfdetect.fusion.fused_run import training_images_of
from tfdetect.fusion.fusion_data import find_fusion_data
from tfdetect.fusion.fusion_report import _result, format_comparison, worse_than_best_member
from tfdetect.fusion.fusions import cross_fit, fit_fusion
from tfdetect.fusion.members import open_members
from tfdetect.fusion.score_members import _check_finite
from tfdetect.fusion.scores import MemberScores
from tfdetect.models.saved_model import run_signature


def scores_of(logits, fake, groups=None, datasets=None, features=None):
    count = len(fake)
    return MemberScores(
        np.asarray(logits, float), np.asarray(fake, bool),
        np.array(groups if groups is not None else [f"g{n}" for n in range(count)], object),
        np.array(datasets if datasets is not None else ["d"] * count, object),
        np.zeros((count, 1)) if features is None else features,
        np.array([f"{n:032x}" for n in range(count)]),
        np.zeros((count, 2), np.uint64),
    )  # fmt: skip


@pytest.fixture
def noisy():
    """Two members with independent errors, the second overconfident by 3, and one of noise."""
    rng = np.random.default_rng(0)
    fake = rng.random(4000) < 0.5
    signal = np.where(fake, 1.0, -1.0)
    logits = np.stack([
        2 * (signal + rng.normal(size=4000)), 6 * (signal + rng.normal(size=4000)),
        3 * rng.normal(size=4000),
    ], axis=1)  # fmt: skip
    return scores_of(logits, fake)


def loss_of(logits, scores):
    return log_loss(logits, scores.fake, np.ones(len(logits)))


def test_temperature_recovers_a_scale(noisy):
    ones = np.ones(len(noisy.fake))
    # Signal +-1 with deviation 1 has logits of twice the value.
    assert fit_temperature(noisy.logits[:, 0], noisy.fake, ones) == pytest.approx(1, abs=0.1)
    assert fit_temperature(noisy.logits[:, 1], noisy.fake, ones) == pytest.approx(3, abs=0.3)
    assert fit_temperature(noisy.logits[:, 2], noisy.fake, ones) > 20
    # A dozen separable images say little about how certain a member may be.
    few = np.array([1.0, -1.0] * 6)
    assert 0.2 < fit_temperature(few, few > 0, np.ones(12)) < 1
    many = np.tile(few, 1000)
    assert fit_temperature(many, many > 0, np.ones(12_000)) < 0.15


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_beats_its_members_on_images_it_was_not_fitted_on(noisy, name):
    half = np.arange(4000) < 2000
    train, test = (noisy.take(np.flatnonzero(h)) for h in (half, ~half))
    fusion = fit_fusion(name, train)
    alone = min(loss_of(logits / t, test) for logits, t in zip(test.logits.T, fusion.temperatures))
    if name == "dense":  # 630 steps from random weights; see its own test
        assert loss_of(fusion(test), test) < np.log(2) - 0.1
        return
    fused = loss_of(fusion(test), test)
    assert fused < alone - (0.05 if name != "gated" else 0.0), (fused, alone)  # not made for this
    # The two good members get similar weights once they are calibrated.
    if name not in ("gated", "mean", "dense"):
        assert fusion.weights[0] == pytest.approx(fusion.weights[1], rel=0.35)
    if name in ("weighted", "greedy"):
        assert (fusion.weights >= 0).all() and fusion.weights[2] < 0.1 * fusion.weights[0]
    if name == "greedy":
        assert fusion.used_members.tolist() == [True, True, False]


def test_stacked_is_the_maximum_of_the_likelihood(noisy):
    fusion = fit_fusion("stacked", noisy)
    weighed = noisy.weights()  # what it was fitted with
    base = log_loss(fusion(noisy), noisy.fake, weighed)
    for number in range(2):
        for step in (-0.05, 0.05):
            moved = noisy.logits / fusion.temperatures
            weights = fusion.weights.copy()
            weights[number] += step
            assert log_loss(moved @ weights + fusion.bias, noisy.fake, weighed) > base


@pytest.mark.parametrize("size", [40, 1e12])
def test_a_member_whose_training_diverged_does_not_spoil_the_others(size):
    """Its P(fake) is 0 for every image, its huge logits say nothing."""
    rng = np.random.default_rng(3)
    fake = np.arange(800) % 2 == 1
    good = np.where(fake, 0.6, -0.6) + rng.normal(size=800)
    scores = scores_of(np.stack([good, -size * rng.uniform(1, 2, size=800)], axis=1), fake)
    fit, new = scores.take(np.arange(400)), scores.take(np.arange(400, 800))
    alone = roc_auc_score(new.fake, new.logits[:, 0])
    for name in FUSIONS:
        if name == "dense":  # fitted on P(fake), in few steps
            continue
        fusion = fit_fusion(name, fit)
        limit = 0.1 if name == "fisher" else 0.03  # which trusts unusually high scores
        assert roc_auc_score(new.fake, fusion(new)) > alone - limit, name
        assert loss_of(fusion(new), new) < np.log(2), name
    assert np.abs(scores.logits[:, 1] / fit_fusion("mean", fit).temperatures[1]).max() < 2


def test_a_constant_member_has_no_weight(noisy):
    constant = replace(noisy, logits=np.stack([noisy.logits[:, 0], np.full(4000, -2.5)], axis=1))
    for name in ("stacked", "logistic"):
        fusion = fit_fusion(name, constant)
        assert fusion.weights == pytest.approx([1, 0], abs=0.02)
        assert fusion.used_members.tolist() == [True, False]


def test_few_images_for_the_weights_of_stacked_are_warned_of():
    assert few_images_for_stacked(members=2, images=150) == []
    [warning] = few_images_for_stacked(members=3, images=80)
    assert "The 4 weights" in warning and "80 validation images" in warning
    assert "about 0.03 of log-loss" in warning and "--fusion logistic" in warning


def test_few_images_cost_logistic_less_than_stacked():
    """Beside two good members there is one that has diverged."""
    lost = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        fake = np.arange(2080) % 2 == 1
        good = np.where(fake, 1.3, -1.3)[:, None] + 2 * rng.normal(size=(2080, 2))
        logits = np.hstack([good, -40 * rng.uniform(1, 2, size=(2080, 1))])
        scores = scores_of(logits, fake)
        fit, new = scores.take(np.arange(80)), scores.take(np.arange(80, 2080))
        lost.append([loss_of(fit_fusion(name, fit)(new), new) for name in ("stacked", "logistic")])
    stacked, logistic = np.mean(lost, axis=0)
    assert logistic < stacked - 0.004, (stacked, logistic)


def test_images_for_which_a_member_has_no_finite_output_are_left_out(capsys):
    logits = np.zeros((4, 2))
    logits[1, 0], logits[2, 1] = np.nan, np.inf
    assert _check_finite(logits, "test", ["a", "b"]).tolist() == [True, False, False, True]
    shown = capsys.readouterr().err
    assert "a is NaN (not a number) or infinite for 1 of 4 test images, which are left" in shown
    logits[:, 1] = np.nan
    with pytest.raises(UserError, match="b is NaN .* all of 4 test images. Its training diverged"):
        _check_finite(logits, "test", ["a", "b"])


def test_a_gate_joins_members_trained_on_different_data():
    rng = np.random.default_rng(1)
    fake = rng.random(3000) < 0.5
    signal = np.where(fake, 1.0, -1.0)[:, None]
    first = rng.random(3000) < 0.9  # nine of ten images are of the first dataset
    own = 3 * signal + rng.normal(size=(3000, 1))
    foreign = 4 * rng.normal(size=(3000, 1))
    logits = np.where(first[:, None], np.hstack([own, foreign]), np.hstack([foreign, own]))
    features = np.where(first, 1.0, -1.0)[:, None] + 0.3 * rng.normal(size=(3000, 4))
    scores = scores_of(logits, fake, datasets=np.where(first, "a", "b"), features=features)
    for name, wanted in (("gated", 0.97), ("stacked", 0.5)):
        fused = cross_fit(name, scores)
        correct = (fused > 0) == fake
        assert min(correct[first].mean(), correct[~first].mean()) > wanted, name
    gated, stacked = (loss_of(cross_fit(name, scores), scores) for name in ("gated", "stacked"))
    assert gated < 0.5 * stacked


def test_fisher_detects_kinds_of_fakes_that_validation_lacks():
    """One member finds the known fakes, the other those of a kind that comes later."""
    rng = np.random.default_rng(4)
    fake = np.arange(4000) % 2 == 1
    logits = rng.normal(size=(4000, 2)) - [3, 1]
    logits[fake, 0] += 6
    scores = scores_of(logits, fake)
    later = rng.normal(size=(4000, 2)) - [3, 1]
    later[fake, 1] += 4
    later = scores_of(later, fake)
    stacked, fisher = fit_fusion("stacked", scores), fit_fusion("fisher", scores)
    assert roc_auc_score(fake, stacked(later)) < 0.6
    assert roc_auc_score(fake, fisher(later)) > 0.9
    assert roc_auc_score(fake, fisher(scores)) > 0.99
    # -ln p of authentic images is exponential: mean 1, a twentieth above ln 20.
    found = evidence((scores.logits / fisher.temperatures)[~fake], *fisher.tails)
    np.testing.assert_allclose(found.mean(axis=0), 1, atol=0.05)
    np.testing.assert_allclose((found > np.log(20)).mean(axis=0), 0.05, atol=0.005)
    # The same scores over and over: no bend is infinitely sharp.
    coarse = scores_of(np.round(logits / 3), fake)
    assert np.isfinite(fit_fusion("fisher", coarse)(coarse)).all()


def test_cross_fitting_never_scores_a_group_by_itself():
    """Features that name the group let the gate learn each by heart; unseen they say nothing."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(30), 10)
    fake = rng.random(300) < 0.5
    first_is_right = (np.arange(30) % 2 == 0)[groups]  # in every other group, else the second
    says = np.where(fake, 2.0, -2.0)[:, None] + rng.normal(size=(300, 2))
    logits = says * np.where(np.stack([first_is_right, ~first_is_right], axis=1), 1, -0.5)
    scores = scores_of(logits, fake, [f"g{g}" for g in groups], features=np.eye(30)[groups])
    fitted = fit_fusion("gated", scores)(scores)
    crossed = cross_fit("gated", scores)
    assert not np.isnan(crossed).any()
    assert loss_of(fitted, scores) < 0.8 * loss_of(crossed, scores)


def test_weights_balance_datasets_and_classes():
    fake = np.array([True] * 90 + [False] * 10 + [True] * 5 + [False] * 20)
    datasets = ["a"] * 100 + ["b"] * 25
    weights = scores_of(np.zeros((125, 2)), fake, datasets=datasets).weights()
    parts = [weights[:90], weights[90:100], weights[100:105], weights[105:]]
    assert [round(part.sum(), 6) for part in parts] == [round(125 / 4, 6)] * 4


def test_dense_fusion_is_ten_epochs_of_adam_on_one_unit(noisy, monkeypatch):
    used = {}
    fit = keras.Model.fit

    def spy(model, data, **options):
        used.update(model=model, batch=next(iter(data))[0].shape[0], **options)
        return fit(model, data, **options)

    monkeypatch.setattr(keras.Model, "fit", spy)
    fusion = fit_fusion("dense", noisy)
    assert [type(layer).__name__ for layer in used["model"].layers] == ["Dense"]
    assert used["model"].count_params() == 3 + 1
    optimizer = used["model"].optimizer
    assert type(optimizer).__name__ == "Adam" and used["batch"] == 32 and used["epochs"] == 10
    assert optimizer.get_config()["learning_rate"] in (pytest.approx(0.001), pytest.approx(1e-6))
    plateau, stopping = used["callbacks"]
    assert (plateau.monitor, plateau.factor, plateau.patience, plateau.min_lr) == (
        "loss", 0.001, 2, 1e-6
    )  # fmt: skip
    assert (stopping.monitor, stopping.patience) == ("loss", 3)
    # Logit of the fused P(fake): the dense unit on the members' sigmoids.
    expected = expit(noisy.logits) @ fusion.weights + fusion.bias
    np.testing.assert_allclose(fusion(noisy), expected)
    assert np.array_equal(fit_fusion("dense", noisy).weights, fusion.weights)
    many = noisy.take(np.tile(np.arange(4000), 4))
    learned = fit_fusion("dense", many)
    aucs = [roc_auc_score(noisy.fake, logits) for logits in noisy.logits.T]
    assert roc_auc_score(noisy.fake, learned(noisy)) > max(aucs) + 0.02
    assert learned.weights[:2].min() > 4 * abs(learned.weights[2])


@pytest.mark.parametrize("name", FUSIONS)
def test_two_groups_are_too_few_for_cross_fitting(name):
    rng = np.random.default_rng(5)
    fake = np.arange(40) % 2 == 1
    logits = rng.normal(size=(40, 2)) + np.where(fake, 1, -1)[:, None]
    scores = scores_of(logits, fake, groups=np.repeat(["photo 1", "photo 2"], 20))
    assert cross_fit(name, scores) is None
    assert np.isfinite(fit_fusion(name, scores)(scores)).all()


def test_without_cross_fitting_validation_is_measured_and_called_optimistic():
    rng = np.random.default_rng(5)
    fake = np.arange(40) % 2 == 1
    logits = rng.normal(size=(40, 2)) + np.where(fake, 1, -1)[:, None]
    scores = scores_of(logits, fake, groups=np.repeat(["photo 1", "photo 2"], 20))
    fusions = {name: fit_fusion(name, scores) for name in ("mean", "stacked")}
    comparison = compare_fusions({"validation": scores}, fusions, ["a", "b"], "stacked")
    values = measure_comparison(comparison)
    assert values["cross_fitted"] is False
    found = values["splits"]["validation"]["all"]["fusions"]["stacked"]
    threshold = values["thresholds"]["fusions"]["stacked"]
    assert threshold != 0.5
    verdicts = expit(fusions["stacked"](scores)).astype(np.float32) >= np.float32(threshold)
    assert found["accuracy"]["value"] == (verdicts == fake).mean()
    assert (verdicts == fake).mean() >= ((fusions["stacked"](scores) >= 0) == fake).mean()
    assert values["gains"]["validation"]["log_loss"]["value"] < 0
    assert worse_than_best_member(values) == ""

    # A fusion that ranks the images the wrong way round.
    stacked = fusions["stacked"]
    fusions["stacked"] = replace(stacked, weights=-stacked.weights, bias=-stacked.bias)
    comparison = compare_fusions({"validation": scores}, fusions, ["a", "b"], "stacked")
    warning = worse_than_best_member(measure_comparison(comparison))
    assert "worse than its best member" in warning and "AUC 0." in warning
    assert "alone, or --fusion mean." in warning


def test_what_is_shown_as_no_difference_is_called_so():
    for value, low, high, word in (
        (0.00003, 0.00001, 0.00006, "no difference"),
        (-0.00003, -0.00006, -0.00001, "no difference"),
        (0.0, 0.0, 0.0, "no difference"),
        (0.001, -0.002, 0.004, "no significant difference"),
        (0.002, 0.001, 0.004, "better"),
        (0.002, None, None, "too few images"),
    ):
        gain = {"value": value, "low": low, "high": high}
        assert _result("auc", gain) == word
        assert _result("log_loss", gain) == {"better": "worse"}.get(word, word)


def test_a_fusion_that_is_worse_than_its_best_member_on_test_alone_is_warned_of():
    rng = np.random.default_rng(5)
    fake = np.arange(200) % 2 == 1
    sides = np.where(fake, 1, -1)
    first = 2 * sides + rng.normal(size=200)
    validation = scores_of(np.stack([first, sides + rng.normal(size=200)], 1), fake)
    test = scores_of(np.stack([first, -3 * sides + rng.normal(size=200)], 1), fake)
    fusions = {"mean": fit_fusion("mean", validation)}
    splits = {"validation": validation, "test": test}
    values = measure_comparison(compare_fusions(splits, fusions, ["a", "b"], "mean"))
    warning = worse_than_best_member(values)
    assert warning.startswith("On test the fusion is worse than its best member, a: AUC 0.")
    assert warning.endswith("Use a alone.")
    values = measure_comparison(
        compare_fusions({**splits, "test": validation}, fusions, ["a", "b"], "mean")
    )
    assert worse_than_best_member(values) == ""


# With trained runs.
@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "pictures"
    for split, count in (("train", 60), ("test", 16)):
        for name, fake in (("real", 0), ("fake", 1)):
            write_images(root / split / name, count, fake, side=32, seed=len(split))
    return root


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """Three runs: 24 pixels; 32 pixels; and five windows of 16 pixels."""
    output = tmp_path_factory.mktemp("runs")
    many = {
        "small": [],
        "large": ["data.image_size=32", "seed=1", "model.front_end=srm", "training.epochs=1"],
        "windows": ["data.image_size=16", "data.resize=window_tile", "data.test_crops=5"],
    }
    return {
        name: train_small(pictures, output, overrides, name, trial=True)
        for name, overrides in many.items()
    }


@pytest.fixture(scope="module")
def joined(trained):
    """The three runs as members, and their network."""
    from tfdetect.fusion.network import FusionNetwork

    members = open_members([run.path for run in trained.values()])
    return members, FusionNetwork(members)


@pytest.fixture(scope="module")
def scored(joined):
    """Views of random images, and what the members make of them."""
    rng = np.random.default_rng(0)
    images = [
        tf.constant(rng.uniform(0, 255, (40, *(() if v.crops == 1 else (v.crops,)), *v.size, 3)),
                    tf.float32) for v in joined[0].views
    ]  # fmt: skip
    found = {key: value.numpy() for key, value in joined[1].score_model()(images).items()}
    features = found["features"].astype(float)
    return images, scores_of(found["logits"], rng.random(40) < 0.5, features=features)


def fuse(runs, output, *arguments):
    from tfdetect.ensemble import main

    paths = [str(run.path) for run in runs]
    code = run_command(main, [*paths, "--output", str(output), "--name", "e", *arguments])
    assert code == 0
    return open_run(output / "e")


@pytest.fixture
def no_exports(monkeypatch):
    """Ensembles get no exports, which other tests look at."""
    monkeypatch.setattr("tfdetect.fusion.fused_run.export_finished_run", lambda *arguments: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stacked", "fisher"])
def test_an_ensemble_whose_validation_images_are_of_two_groups(trained, tmp_path, capsys, name):
    """As with the embedded demonstration, where two photographs validate."""
    rows = []
    for split, groups in (("train", 4), ("validation", 2), ("test", 2)):
        for group in range(groups):
            for fake, label in enumerate(("real", "fake")):
                folder = f"{split}{group}/{label}"
                write_images(tmp_path / "d" / folder, 12, fake, seed=group + len(split))
                rows += [f"{folder}/{n:03d}.png,{label},{split},{split}{group}" for n in range(12)]
    (tmp_path / "d" / "manifest.csv").write_text("\n".join(["path,label,split,group", *rows]))
    run = fuse([trained["small"], trained["large"]], tmp_path, "--fusion", name,
               "--dataset", str(tmp_path / "d"))  # fmt: skip
    assert "too few groups" in capsys.readouterr().err
    page = (run.path / "fusion.html").read_text()
    assert "Results on validation (optimistic)" in page
    assert not json.loads((run.path / "fusion.json").read_text())["cross_fitted"]
    assert run.info.cross_fitted is False and not (run.path / CROSS_FITTING).exists()
    assert "not cross-fitted" in (run.path / "report.html").read_text()


def test_shifts_are_found_by_hash_and_keep_the_ratios_of_kinds(tmp_path):
    hashes = np.array([f"{n:016x}{'0' * 16}" for n in (2**64 - 1, 3, 7)])
    CrossFitting.of(hashes, np.array([-2.0, 1.5, 0.25])).save(tmp_path)
    found = CrossFitting.load(tmp_path)
    rows = pa.table({"hash": [hashes[1], f"{5:016x}{'0' * 16}", hashes[0], hashes[2]]})
    shifts = found.shifts_of(rows)
    assert shifts.tolist() == [1.5, 0, -2, 0.25]

    run = Run(tmp_path, RunInfo(
        status="complete", class_names=("real", "swap", "gan"),
        views=(View(size=(8, 8), policy="stretch"),), dataset=DatasetInfo(name="d", fingerprint="")
    ))  # fmt: skip
    before = np.array([[0.5, 0.375, 0.125], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [np.nan] * 3])
    logits = np.array([0, 0, np.log(4), np.nan])
    columns = {"logit": pa.array(logits, from_pandas=True)}
    for name, values in zip(run.class_names, before.T):
        columns[f"probability_{name}"] = pa.array(values, from_pandas=True)
    table = cross_fitted(pa.table(columns), run, shifts)
    after = np.stack([table[f"probability_{name}"].to_numpy() for name in run.class_names], axis=1)
    expected = logits + np.array([1.5, 0, -2, 0])
    np.testing.assert_allclose(table["logit"].to_numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(after[:, 0], expit(-expected), rtol=1e-6)
    np.testing.assert_allclose(after[:3, 1] / after[:3, 2], [3, 1, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(after[:3].sum(axis=1), 1, rtol=1e-6)

    (tmp_path / CROSS_FITTING).write_bytes(b"x")
    with pytest.raises(UserError, match="cross_fitting.npy is damaged"):
        CrossFitting.load(tmp_path)
    (tmp_path / CROSS_FITTING).unlink()
    assert CrossFitting.load(tmp_path) is None


@pytest.mark.usefixtures("no_exports")
def test_validation_is_measured_and_thresholds_chosen_on_cross_fitted_scores(
    trained, tmp_path, capsys
):
    """Labels that chance decides: a gate learns them by heart, and knows no new image."""
    from tfdetect.calibrate import main as calibrate_command
    from tfdetect.data.describe import read_data
    from tfdetect.evaluate import main as evaluate_command
    from tfdetect.evaluation.evaluate_run import predict_rows
    from tfdetect.evaluation.predictions import predict_files
    from tfdetect.evaluation.streamed_metrics import measure_streamed
    from tfdetect.models.saving import load_detector

    rng, rows = np.random.default_rng(7), []
    write_images(tmp_path / "d", 150, 0, side=32, seed=7)
    for number in range(150):
        split = "train" if number < 10 else "validation" if number < 110 else "test"
        label = ("real", "fake")[number % 2 if number < 4 else int(rng.integers(2))]
        rows.append(f"{number:03d}.png,{label},{split}")
    (tmp_path / "d" / "manifest.csv").write_text("\n".join(["path,label,split", *rows]))
    run = fuse([trained["small"], trained["large"]], tmp_path, "--fusion", "gated",
               "--dataset", str(tmp_path / "d"))  # fmt: skip
    compared = json.loads((run.path / "fusion.json").read_text())
    claimed = compared["splits"]["validation"]["all"]["fusions"]["gated"]
    own = run.results["validation"]["metrics"]
    assert compared["cross_fitted"] and run.info.cross_fitted
    for key in ("accuracy", "auc", "ap"):  # the others depend on the calibration
        assert own[key]["value"] == pytest.approx(claimed[key]["value"], abs=2e-5), key
    claimed = compared["splits"]["test"]["all"]["fusions"]["gated"]
    for key in ("accuracy", "auc", "ap"):
        value = run.results["test"]["metrics"][key]["value"]
        assert value == pytest.approx(claimed[key]["value"], abs=2e-5), key
    table = prediction_tables.read(run.path, "validation")
    fake, p = table["label"].to_numpy() > 0, table["p_fake"].to_numpy()
    # The fusion itself has seen these images.
    paths = [str(tmp_path / "d" / path) for path in table["path"].to_pylist()]
    seen = predict_files(run, load_detector(run), paths, progress=False)["p_fake"].to_numpy()
    assert roc_auc_score(fake, seen) > own["auc"]["value"] + 0.15

    points, band = operating_points(p, fake), abstention_band(p, fake, run.threshold)
    for name in ("fpr_5", "eer", "balanced"):
        chosen = run.info.operating_points[name]
        assert chosen.threshold == pytest.approx(points[name].threshold, abs=1e-6)
        assert (chosen.fpr, chosen.tpr) == (points[name].fpr, points[name].tpr)
    assert run.threshold == run.info.operating_points["balanced"].threshold
    assert run.abstention_band == (pytest.approx(band.low), pytest.approx(band.high))
    promised = run.info.operating_points["fpr_5"]
    assert promised.tpr < operating_points(seen, fake)["fpr_5"].tpr - 0.1
    page = (run.path / "report.html").read_text()
    assert "scores are cross-fitted" in page and "not cross-fitted" not in page
    assert "cross-fitted" in (run.path / "model_card.md").read_text()

    # Later commands score these images in the same way.
    assert run_command(calibrate_command, [str(run.path)]) == 0
    again = open_run(run.path)
    assert again.info.operating_points == run.info.operating_points
    assert again.info.calibration == run.info.calibration
    capsys.readouterr()
    assert run_command(evaluate_command, [str(run.path), "--split", "validation", "--json",
                                          "--output", str(tmp_path / "again")]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["validation"]["metrics"] == own
    catalog, detector = read_data(run.dataset_spec(), run.roots, False), load_detector(run)

    def parts_of(run, catalog, rows, own_validation):
        for part in (rows.slice(0, 60), rows.slice(60)):
            yield part, predict_rows(run, catalog, part, own_validation, detector=detector,
                                     batch_size=16, progress=False)  # fmt: skip

    streamed = measure_streamed(run, catalog, ("validation",), parts_of)["validation"]
    assert streamed["confusion"] == run.results["validation"]["confusion"]
    assert streamed["metrics"]["auc"] == pytest.approx(own["auc"]["value"], abs=1e-3)

    (run.path / CROSS_FITTING).unlink()
    assert run_command(evaluate_command, [str(run.path), "--split", "validation"]) == 2
    assert "cross_fitting.npy, by which" in capsys.readouterr().err


def images_of(folder):
    paths = sorted(map(str, folder.rglob("*.png")))
    return paths, tf.constant([Path(path).read_bytes() for path in paths])


def test_an_ensemble_is_a_run_like_any_other(trained, pictures, tmp_path, capsys):
    from tfdetect.evaluate import main as evaluate_command
    from tfdetect.export import main as export_command
    from tfdetect.models.saving import load_detector
    from tfdetect.predict import main as predict_command

    run = fuse(trained.values(), tmp_path, "--fusion", "mean")
    captured = capsys.readouterr()
    for message in ("fitting and comparing ", "measuring the inference cost ", "exporting "):
        assert f"\n{message}" in f"\n{captured.err}", message
    printed = " ".join(captured.out.split())
    assert "every detector has the threshold that is best on validation" in printed
    assert [v.size for v in run.views] == [(24, 24), (32, 32), (16, 16)]
    assert [v.crops for v in run.views] == [1, 1, 5]
    detector = load_detector(run)
    assert [tuple(i.shape[1:]) for i in detector.inputs] == [
        (24, 24, 3), (32, 32, 3), (5, 16, 16, 3)
    ]  # fmt: skip
    found = json.loads((run.path / "fusion.json").read_text())
    # The figures computed from the members' scores are those of the fused model.
    claimed = found["splits"]["test"]["all"]["fusions"]["mean"]
    for key, metric in run.results["test"]["metrics"].items():
        assert claimed[key]["value"] == pytest.approx(metric["value"], abs=2e-5), key
    assert found["masks"] == {"predicted_by": [], "weights": {}}
    page = (run.path / "fusion.html").read_text()
    assert "No member predicts masks" in page
    assert "the best member (lowest log-loss on validation)" in page
    assert format_comparison(found).startswith("test\n") and "guessing" not in page
    found["splits"]["test"]["all"]["fusions"]["mean"]["auc"]["low"] = 0.4
    assert format_comparison(found).startswith("The fusion is not shown to be better than guessing")
    assert "balanced accuracy" in format_comparison(found)
    members = found["splits"]["validation"]["all"]["members"]
    losses = {name: each["log_loss"]["value"] for name, each in members.items()}
    assert found["best_member"] == min(losses, key=losses.get)
    assert found["best_member"] in trained and set(found["gains"]) == {"validation", "test"}
    for name in ("report.html", "fusion.html", "model_card.md", "ensemble.yaml"):
        assert (run.path / name).stat().st_size > 100

    paths, data = images_of(pictures / "test")
    assert run_command(predict_command, [str(run.path), str(pictures / "test"), "--output",
                                      str(tmp_path / "p.jsonl")]) == 0  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    order = [row["path"] for row in rows]
    [answer] = run_signature(run.path / "saved_model", "encoded", [data])
    np.testing.assert_allclose(
        [rows[order.index(path)]["p_fake"] for path in paths], answer["p_fake"], atol=1e-5
    )
    pixels = tf.stack([tf.cast(tf.io.decode_png(d, 3), tf.float32) for d in data])
    [direct] = run_signature(run.path / "saved_model", "serving_default", [pixels])
    np.testing.assert_allclose(direct["p_fake"], answer["p_fake"], atol=1e-5)
    capsys.readouterr()
    assert run_command(evaluate_command, [str(run.path), "--split", "test", "--output",
                                       str(tmp_path / "again"), "--json"]) == 0  # fmt: skip
    again = json.loads(capsys.readouterr().out)["test"]["metrics"]
    assert again == run.results["test"]["metrics"]
    assert run_command(export_command, [str(run.path), "--format", "onnx,keras"]) == 0
    assert run_command(evaluate_command, [str(run.path), "--crops", "5"]) == 2
    assert "crop their own windows" in capsys.readouterr().err


@pytest.mark.usefixtures("no_exports")
def test_an_ensemble_tells_which_images_its_members_know(
    shared_run, trained, pictures, tmp_path, capsys
):
    """Test images that one member was trained on; another, of other images, keeps no hashes."""
    one, its_pictures = shared_run
    root = tmp_path / "mixed"
    for kind, fake in (("real", 0), ("fake", 1)):
        write_images(root / "train" / kind, 30, fake, seed=50)
        write_images(root / "test" / kind, 8, fake, seed=51)
        for number in range(6):  # the same pixels in other files
            Image.open(its_pictures / "train" / kind / f"{number:03d}.png").save(
                root / "test" / kind / f"copy{number}.png", compress_level=0
            )
    other = train_small(root, tmp_path, name="other", trial=True)
    silent = shutil.copytree(trained["small"].path, tmp_path / "silent")
    assert not (silent / "training_images.npy").exists()  # a trial has none
    members = [one, other, open_run(silent)]
    run = fuse(members, tmp_path / "runs", "--fusion", "mean", "--dataset", str(root))
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: Of 28 test images, small knows 12 from training or selection" in printed
    assert "validation images, small knows" not in printed  # none of them is a copy
    # Of other, which has the fusion's own splits, hashes are not needed.
    assert "No hashes of training images are in silent, so it is not known" in printed
    page = (run.path / "fusion.html").read_text()
    assert "Of 28 test images, small knows 12" in page
    assert any("small knows 12" in text for text in run.info.dataset.warnings)
    assert run.results["test"]["without_duplicates"]["count"] == 16
    for name in ("report.html", "model_card.md"):
        assert "small knows 12" in (run.path / name).read_text()

    def known(folder):
        images = [its_pictures / "train/real/000.png", its_pictures / "test/real/000.png",
                  root / "train/real/000.png", root / "test/real/000.png",
                  pictures / "train/real/000.png"]  # fmt: skip
        return [row["duplicate_of_train"]
                for row in tfdetect.load(folder).predict(images, progress=False)]  # fmt: skip

    assert known(run.path) == [True, False, True, False, False]
    tfdetect.calibrate(run.path, images_in_report=False, log=lambda text: None)
    assert known(run.path) == [True, False, True, False, False]  # the members' are not lost


def test_hashes_of_several_runs_are_joined():
    def hashes(*rows):
        kind = [("bytes", "<u8"), ("pixels", "<u8"), ("validation", "?")]
        return TrainingHashes(np.array(list(rows), kind))

    one = hashes((1, 10, False), (2, 20, True))
    two = hashes((2, 20, False), (3, 30, True), (1, 10, True))
    for joined in (TrainingHashes.union([one, two]), TrainingHashes.union([two, one])):
        assert joined.table.tolist() == [(1, 10, False), (2, 20, False), (3, 30, True)]
        images = np.array([[1, 0], [0, 20], [3, 0], [0, 30], [4, 40]], np.uint64)
        assert joined.contain(images).tolist() == [True, True, True, True, False]
        assert joined.contain(images, False).tolist() == [True, True, False, False, False]
    empty = hashes()
    assert not len(TrainingHashes.union([empty, empty]).table)


def test_an_ensemble_records_what_its_members_were_trained_on(tmp_path):
    def run(images):
        data = DatasetInfo(name="d", fingerprint="", training_images=images)
        view = View(size=(8, 8), policy="stretch")
        return Run(tmp_path, RunInfo(
            status="complete", class_names=("real", "fake"), views=(view,), dataset=data
        ))  # fmt: skip

    one = run(TrainingImages(generators=("A",), formats=("jpeg",), shorter_side=(20, 30, 40),
                             longer_side=(30, 40, 50)))  # fmt: skip
    two = run(TrainingImages(generators=("B", "A"), formats=("jpeg", "png"),
                             shorter_side=(32, 32, 32), longer_side=(32, 32, 32)))  # fmt: skip
    assert training_images_of([one, two]) == TrainingImages(
        generators=("A", "B"),
        formats=("jpeg", "png"),
        shorter_side=(20, 31, 40),
        longer_side=(30, 36, 50),
    )
    assert training_images_of([one, run(None)]) == TrainingImages()  # one does not say


def test_members_predict_the_same_in_the_fused_network_as_alone(joined, pictures):
    from tfdetect.data.loading import view_dataset
    from tfdetect.data.sources import Files
    from tfdetect.evaluation.predictions import predict_files
    from tfdetect.models.saving import load_detector

    members, network = joined
    paths, _ = images_of(pictures / "test")
    [(_, views)] = list(view_dataset(Files(paths), members.views, len(paths)))
    parts = [tf.cast(v[:, 0] if v.shape[1] == 1 else v, tf.float32) for v in views]
    logits = network.score_model()(parts)["logits"].numpy()
    for number, run in enumerate(members.runs):
        table = predict_files(run, load_detector(run), paths, progress=False)
        np.testing.assert_allclose(expit(logits[:, number]), table["p_fake"].to_numpy(), atol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_the_network_computes_the_fusion(joined, scored, name):
    (members, network), (images, scores) = joined, scored
    fusion = fit_fusion(name, scores)
    fused = network.fused_model(fusion, "e", members.view_index)(images)["label"].numpy()[:, 0]
    np.testing.assert_allclose(fused, fusion(scores), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_an_ensemble_is_explained_member_by_member(trained, pictures, tmp_path):
    from tfdetect.explain import main as explain_command
    from tfdetect.predict import main as predict_command

    run = fuse(trained.values(), tmp_path, "--fusion", "fisher")
    assert "fakes that this validation split lacks" in (run.path / "fusion.html").read_text()
    image = next((pictures / "test" / "fake").glob("*.png"))
    arguments = [str(run.path), str(image), "--explain", str(tmp_path / "pages")]
    assert run_command(predict_command, arguments) == 0
    text = (tmp_path / "pages" / f"{image.stem}.html").read_text()
    assert "Grad-CAM, large" in text and "integrated gradients" in text and "occlusion" in text
    assert "The detector sees 32 x 32 pixels" in text  # the largest view
    found = tmp_path / "explained"
    arguments = [str(run.path), "--count", "4", "--output", str(found)]
    assert run_command(explain_command, arguments) == 0
    assert "integrated gradients" in json.loads((found / "explanation.json").read_text())["maps"]


def test_shared_backbones_are_computed_once(trained, tmp_path):
    from tfdetect.fusion.network import FusionNetwork
    from tfdetect.models.saving import load_detector

    copy = tmp_path / "copy"
    shutil.copytree(trained["small"].path, copy)
    detector = load_detector(open_run(copy))
    head = detector.get_layer("label")
    head.set_weights([w + 1 for w in head.get_weights()])
    detector.save(copy / "model.keras")
    members = open_members([trained["small"].path, copy, trained["large"].path])
    network = FusionNetwork(members)
    assert network.shared_backbones == [(0, 1)]
    scores = scores_of(np.random.default_rng(0).normal(size=(9, 3)), [True, False, True] * 3)
    fused = network.fused_model(fit_fusion("mean", scores), "e", members.view_index)
    alone = [load_detector(run).count_params() for run in members.runs]
    assert fused.count_params() < sum(alone) - 0.9 * alone[0] + 20


@pytest.mark.slow
def test_two_and_three_classes_are_fused_by_p_fake(trained, tmp_path):
    root = tmp_path / "three"
    for split, count in (("train", 60), ("test", 12)):
        for name, fake in (("real", 0), ("generated", 1), ("edited", 2)):
            write_images(root / split / name, count, fake, seed=len(split))
    three = train_small(root, tmp_path, (), "three-run")
    run = fuse([trained["small"], three], tmp_path, "--dataset", str(root), "--fusion", "mean")
    assert run.class_names == three.class_names and len(run.class_names) == 3
    from tfdetect.models.inference import predict_views
    from tfdetect.models.saving import load_detector

    images = np.random.default_rng(0).uniform(0, 255, (8, 1, 24, 24, 3)).astype(np.float32)
    table = predict_views(load_detector(run), [images]).numpy()
    ours, theirs = (predict_views(load_detector(r), [images]).numpy() for r in (run, three))
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)
    # Only the three-class member distinguishes the kinds of fakes.
    np.testing.assert_allclose(
        ours[:, 1:] / ours[:, 1:].sum(axis=1, keepdims=True),
        theirs[:, 1:] / theirs[:, 1:].sum(axis=1, keepdims=True), atol=1e-4,
    )  # fmt: skip
    binary = open_members([trained["small"].path, trained["large"].path])
    with pytest.raises(UserError, match="dataset three has real, edited, generated"):
        find_fusion_data(binary, str(root), None, None, console.log, progress=False)


@pytest.fixture(scope="module")
def localizers(tmp_path_factory):
    """Runs that predict masks: two in tiles, and two of whole images in other sizes."""
    base = tmp_path_factory.mktemp("localizers")
    root = write_forged(base / "forged")
    many = {
        "tiles": ["seed=1"], "tiles2": ["seed=2"],
        "whole": ["data.resize=stretch"],
        "larger": ["data.resize=stretch", "data.image_size=48"],
    }  # fmt: skip
    return root, {
        name: train_small(root, base / "runs", [*LOCALIZER, "training.epochs=3",
                          "training.optimizer.learning_rate=0.02", *overrides], name)
        for name, overrides in many.items()
    }  # fmt: skip


def predicted_masks(run, images):
    from tfdetect.models.inference import predict_images
    from tfdetect.models.saving import load_detector

    return predict_images(load_detector(run), tf.constant(images), run.views)[1].numpy()


@pytest.mark.slow
def test_masks_of_one_view_are_fused_by_their_logits(localizers, tmp_path, capsys):
    from tfdetect.predict import main as predict_command

    root, runs = localizers
    pair = [runs["tiles"], runs["tiles2"]]
    run = fuse(pair, tmp_path, "--fusion", "mean")
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)

    def logits(of):
        from tfdetect.models.saving import load_detector

        return load_detector(of)(np.round(images))["mask"].numpy()

    expected = (logits(pair[0]) + logits(pair[1])) / 2
    np.testing.assert_allclose(logits(run), expected, atol=1e-4)
    assert run.results["test"]["masks"]["altered"] > 0
    out = tmp_path / "out"
    assert run_command(predict_command, [str(run.path), str(root / "3.fake.png"), "--masks",
                                      str(out)]) == 0  # fmt: skip
    with Image.open(out / "3.fake.mask.png") as image:
        assert image.size == (40, 36)
    data = [(root / "3.fake.png").read_bytes()]
    [answer] = run_signature(run.path / "saved_model", "encoded", [data])
    mask = tf.io.decode_png(answer["mask_png_bytes"][0]).numpy()[..., 0]
    with Image.open(out / "3.fake.altered.png") as image:
        written = np.asarray(image)
    assert np.abs(mask.astype(int) - written).max() <= 1
    page = (run.path / "fusion.html").read_text()
    assert "central window of each image" in page and "by weight: tiles 50%, tiles2 50%." in page
    weights = json.loads((run.path / "fusion.json").read_text())["masks"]["weights"]
    assert weights == {"tiles": 0.5, "tiles2": 0.5}


def test_a_model_with_masks_of_several_views_is_opened(tmp_path):
    from tfdetect.models.saving import load_detector

    run = run_at(tmp_path, side=8, masks=True)
    views = (*run.views, View(size=(16, 16), policy="stretch"))
    run = run.with_info(views=views, members=("a", "b"))
    images = [keras.Input((*view.size, 3), name=f"image_{n}") for n, view in enumerate(views)]
    masks = {f"mask_{n}": keras.layers.Conv2D(1, 1)(x) for n, x in enumerate(images)}
    label = keras.layers.GlobalAveragePooling2D()(masks["mask_0"])
    keras.Model(images, {"label": label, **masks}).save(run.model_path)
    assert set(load_detector(run).output) == {"label", "mask_0", "mask_1"}


@pytest.mark.slow
def test_masks_of_several_views_are_joined_on_the_image(localizers, tmp_path):
    _, runs = localizers
    pair = [runs["whole"], runs["larger"]]
    run = fuse(pair, tmp_path, "--fusion", "mean")
    images = np.random.default_rng(0).uniform(0, 255, (2, 36, 40, 3)).astype(np.float32)
    expected = (predicted_masks(pair[0], images) + predicted_masks(pair[1], images)) / 2
    # The verdict of a member alone may lower its mask; that of the fusion lowers none.
    free = expected != np.clip(expected, 0, 0.499)
    found = predicted_masks(run, images)
    assert found.shape == (2, 36, 40, 1)
    np.testing.assert_allclose(found[free], expected[free], atol=0.3)
    with pytest.raises(UserError, match="Masks cannot be fused if members take different views"):
        open_members([runs["tiles"].path, runs["whole"].path])
    members = open_members([runs["tiles"].path, runs["whole"].path], masks=False)
    assert len(members.views) == 2
    labels = fuse([runs["tiles"], runs["whole"]], tmp_path / "labels", "--no-masks")
    assert not labels.predicts_masks and "masks" not in labels.results["test"]
    assert "only the labels were fused" in (labels.path / "fusion.html").read_text()


def test_flips_average_an_image_and_its_mirror_image(trained, pictures, tmp_path):
    from tfdetect.predict import main as predict_command

    flipped = tmp_path / "flipped"
    flipped.mkdir()
    paths = sorted((pictures / "test").rglob("*.png"))[:6]
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            ImageOps.mirror(image).save(flipped / f"{number}.png")

    def scores(files, *arguments):
        output = tmp_path / "rows.jsonl"
        run = str(trained["small"].path)
        assert run_command(predict_command, [run, *map(str, files), "--output", str(output),
                                          *arguments]) == 0  # fmt: skip
        return np.array([json.loads(line)["p_fake"] for line in output.read_text().splitlines()])

    plain, mirrored = scores(paths), scores(sorted(flipped.iterdir()))
    both = scores(paths, "--flips")
    # The average is taken before calibration, which is not linear.
    apart = np.abs(plain - mirrored)
    assert (np.abs(both - (plain + mirrored) / 2) < 0.05 * apart + 1e-6).all()
    assert apart.max() > 1e-4


@pytest.mark.slow
def test_fine_tuning_keeps_the_best_epoch(trained, tmp_path, capsys):
    run = fuse([trained["small"], trained["large"]], tmp_path, "--fine-tune", "2",
               "--learning-rate", "0.001")  # fmt: skip
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().err.splitlines()
              if "validation log-loss" in line]  # fmt: skip
    assert len(losses) == 3
    assert run.results["validation"]["metrics"]["log_loss"]["value"] < losses[0] + 0.02
    assert "before it was fine-tuned (2 epochs)" in (run.path / "fusion.html").read_text()


def test_members_that_do_not_go_together_are_refused(trained, tmp_path):
    small = trained["small"].path
    for paths, message in (
        ([small], "at least two"),
        ([small, small], "given twice"),
        ([small, tmp_path / "no"], "no run folder"),
        ([small, tmp_path], "not a run"),
    ):
        with pytest.raises(UserError, match=message):
            open_members(paths)
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**info, "class_names": ["fake", "real"]}))
    with pytest.raises(UserError, match="contradict"):
        open_members([small, copy])


@pytest.mark.slow
def test_an_ensemble_of_ensembles_is_refused(trained, tmp_path):
    run = fuse([trained["small"], trained["large"]], tmp_path, "--fusion", "mean")
    with pytest.raises(UserError, match="is an ensemble"):
        open_members([run.path, trained["windows"].path])


@pytest.mark.slow
def test_the_model_file_needs_keras_alone(trained, tmp_path):
    run = fuse([trained["small"], trained["windows"]], tmp_path, "--fusion", "gated")
    model = keras.saving.load_model(run.model_path, compile=False)
    rng = np.random.default_rng(0)
    images = [rng.uniform(0, 255, (3, 24, 24, 3)), rng.uniform(0, 255, (3, 5, 16, 16, 3))]
    assert model([tf.constant(i, tf.float32) for i in images])["label"].shape == (3, 1)
