"""Comparing runs on the same images."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_at
from scipy import stats

from tfdetect.api import compare as compare_api
from tfdetect.compare import main as compare_command
from tfdetect.core.experiment import Experiment
from tfdetect.core.run_command import run_command
from tfdetect.core.run_writer import write_info
from tfdetect.evaluation.mask_metrics import count_pixels
from tfdetect.evaluation.metrics import binary_metrics
from tfdetect.evaluation.paired import compare_tables, delong, difference, holm, mcnemar
from tfdetect.evaluation.prediction_tables import read


def scores(rng, count, gap, shared=0.7):
    """Labels, and scores of two detectors, correlated, the second worse by a gap."""
    fake = rng.random(count) < 0.5
    common = rng.normal(size=count) * shared
    one = fake * 1.5 + common + rng.normal(size=count)
    other = fake * (1.5 - gap) + common + rng.normal(size=count)
    return fake, one, other


def test_delong_has_the_error_rate_that_it_promises():
    rng = np.random.default_rng(0)
    p = [delong(*scores(rng, 150, 0.0)) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert np.mean([delong(*scores(rng, 400, 1.2)) < 0.05 for _ in range(50)]) > 0.9


def test_delong_agrees_with_the_bootstrap():
    fake, one, other = scores(np.random.default_rng(3), 500, 0.4)
    scale = [(s - min(one.min(), other.min())) / 20 for s in (one, other)]
    found = difference(fake, *scale, ["auc"], resamples=2000)["auc"]
    error = (found["high"] - found["low"]) / 3.92
    expected = 2 * stats.norm.sf(abs(found["value"]) / error)
    assert np.log10(delong(fake, one, other)) == pytest.approx(np.log10(expected), abs=0.4)
    assert delong(fake, one, one) == 1.0


def test_mcnemar_and_holm():
    one, other = np.ones(20, bool), np.ones(20, bool)
    assert mcnemar(one, other) == 1.0
    other[:8] = False
    assert mcnemar(one, other) == pytest.approx(2 * 0.5**8)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_command_compares_common_images(shared_run, tmp_path, capsys):
    run, _ = shared_run
    one, other = tmp_path / "one", tmp_path / "other"
    for copy in (one, other):
        shutil.copytree(run.path, copy)
    file = other / "predictions/test.parquet"
    table = pq.read_table(file)
    # The other is wrong about half of the images, knows fewer, and in another order.
    p, logit = (table[name].to_numpy().copy() for name in ("p_fake", "logit"))
    p[::2], logit[::2] = 1 - p[::2], -logit[::2]
    for name, values in (("p_fake", p), ("logit", logit)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    order = np.random.default_rng(0).permutation(table.num_rows)[:-4]
    pq.write_table(table.take(pa.array(order)), file)
    assert run_command(compare_command, [str(one), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["count"] == table.num_rows - 4
    for copy in (one, other):  # where nobody has divided the images, an evaluation keeps all
        kept = copy / "predictions"
        shutil.copytree(kept, copy / "evaluations" / "others" / "predictions")
        for name in ("test", "validation"):
            (copy / "evaluations" / "others" / "predictions" / f"{name}.parquet").unlink()
        shutil.copy(kept / "test.parquet", copy / "evaluations/others/predictions/all.parquet")
    assert compare_api([one, other], dataset="others") == found
    [pair] = found["pairs"]
    assert pair["metrics"]["accuracy"]["low"] > 0 and pair["mcnemar"] < 0.01 > pair["delong"]
    assert run_command(compare_command, [str(one), str(other)]) == 0
    shown = capsys.readouterr().out
    assert "one - other" in shown and "] *" in shown
    assert "warning: not shown to be better than guessing: other. The 95%" in shown
    for wrong, words in (
        ([str(one)], "at least two different runs"),
        ([str(one), str(one)], "at least two different runs"),
        ([str(one), str(other), "--split", "train"], "has no predictions of train"),
        ([str(one), str(other), "--dataset", "mine"], "of mine. Make them with"),
        ([str(one), str(tmp_path / "none")], "There is no run folder"),
    ):
        assert run_command(compare_command, wrong) == 2
        assert words in capsys.readouterr().err
    paths, hashes = table["path"].to_pylist(), table["hash"].to_pylist()
    for changed, code in ((2, 0), (len(paths), 2)):
        given = [f"x{h}" if i < changed else h for i, h in enumerate(hashes)]
        at = table.column_names.index("hash")
        pq.write_table(table.set_column(at, "hash", pa.array(given)), file)
        assert run_command(compare_command, [str(one), str(other), "--json"]) == code
        out, said = capsys.readouterr()
        assert ", ".join(sorted(paths[:changed])[:2]) in said and "other content" in said
        assert "Evaluate all of them on the same files with" in said
        assert code or json.loads(out)["count"] == len(paths) - 2
    # Of another dataset, in whose folder files have the same names.
    dataset = pa.array(["photos"] * table.num_rows)
    moved = table.set_column(table.column_names.index("dataset"), "dataset", dataset)
    pq.write_table(moved.set_column(at, "hash", pa.array(given)), file)
    assert run_command(compare_command, [str(one), str(other)]) == 2
    said = capsys.readouterr().err
    assert "different datasets (one: pictures; other: photos) and have no image in common" in said
    pq.write_table(moved.set_column(at, "hash", pa.array([given[0], *hashes[1:]])), file)
    assert run_command(compare_command, [str(one), str(other)]) == 0
    said = capsys.readouterr().err
    assert f"on the {len(paths) - 1} images that" in said and "other content" not in said
    file.write_bytes(file.read_bytes()[:-100])
    assert run_command(compare_command, [str(one), str(other)]) == 2
    assert "cannot be read" in (said := capsys.readouterr().err) and "Make them with" in said


def test_the_log_loss_of_a_comparison_is_that_of_the_evaluation(shared_run):
    """Where classes are unequal it depends on the fraction of fakes that P(fake) assumes."""
    run, table = shared_run[0].with_info(prior=0.2), read(shared_run[0].path, "test")
    runs = {"one": run, "other": run}
    fakes = np.flatnonzero(table["label"].to_numpy() > 0)
    table = table.take(pa.array(np.setdiff1d(np.arange(table.num_rows), fakes[::3])))
    found = compare_tables(dict.fromkeys(runs, table), runs, ["log_loss"])
    fake, p = table["label"].to_numpy() > 0, table["p_fake"].to_numpy()
    expected = binary_metrics(fake, p, run.threshold, 0.2)(np.ones(len(fake)))["log_loss"]
    assert found["runs"]["one"]["log_loss"]["value"] == pytest.approx(expected, abs=1e-6)
    assert found["pairs"][0]["metrics"]["log_loss"]["value"] == 0


def test_comparing_needs_no_tensorflow(shared_run, tmp_path):
    path = shared_run[0].path
    shutil.copytree(path, tmp_path / "copy")
    twice = [str(path), str(tmp_path / "copy")]
    code = (
        "import sys; from tfdetect.core.run_command import run_command; "
        "from tfdetect.compare import main; "
        f"assert run_command(main, {twice!r}) == 0; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def localizer_like(path, quality, truths, seed):
    """A run whose predictions are masks of some quality, as `evaluate` writes them."""
    path.mkdir()
    write_info(run_at(path, masks=True))
    (path / "experiment.yaml").write_text(Experiment(name="test").to_yaml())
    (path / "model.keras").write_bytes(b"")  # comparing opens no model
    rng, rows = np.random.default_rng(seed), []
    for number, truth in enumerate(truths):
        noise = rng.random(truth.shape)
        altered = np.where(noise < quality, truth, noise > 0.9)
        counts = count_pixels(np.where(altered, 0.9, 0.1).astype(np.float32), truth)
        rows.append({
            "dataset": "masks", "path": f"{number}.png", "hash": str(number),
            "label": int(truth.any()), "p_fake": float(altered.mean()), "error": None,
            "altered_histogram": counts[0], "authentic_histogram": counts[1],
        })  # fmt: skip
    (path / "predictions").mkdir()
    table = pa.Table.from_pylist(rows)
    at = table.column_names.index("error")
    table = table.set_column(at, "error", pa.nulls(len(rows), pa.string()))
    pq.write_table(table, path / "predictions/test.parquet")
    return path


def test_localizers_are_compared_by_their_masks(tmp_path, capsys):
    rng, truths = np.random.default_rng(0), []
    for number in range(30):
        truth = np.zeros((24, 24), bool)
        if number % 3:
            top, left = rng.integers(0, 12, 2)
            truth[top : top + 10, left : left + 8] = True
        truths.append(truth)
    good, bad, same = (
        localizer_like(tmp_path / name, quality, truths, seed)
        for name, quality, seed in (("good", 0.9, 1), ("bad", 0.6, 2), ("same", 0.9, 3))
    )
    assert run_command(compare_command, [str(good), str(bad), str(same), "--json"]) == 0
    masks = json.loads(capsys.readouterr().out)["masks"]
    assert (masks["count"], masks["altered"]) == (30, 20)
    first, twin, _ = masks["pairs"]
    assert first["metrics"]["iou_altered"]["low"] > 0 and first["wilcoxon"] < 0.001
    assert twin["metrics"]["iou_altered"]["low"] < 0 < twin["metrics"]["iou_altered"]["high"]
    assert twin["wilcoxon"] > 0.05
    # Paired: narrower than the difference of two independent intervals.
    found = first["metrics"]["iou_altered"]
    both = [masks["runs"][name]["iou_altered"] for name in ("good", "bad")]
    assert found["value"] == pytest.approx(both[0]["value"] - both[1]["value"], abs=1e-5)
    assert run_command(compare_command, [str(good), str(bad)]) == 0
    shown = capsys.readouterr().out
    assert "Masks of 30 images, 20 of them altered" in shown and "Wilcoxon" in shown

    other = localizer_like(tmp_path / "other", 0.9, [truth.T[::-1] for truth in truths], 4)
    assert run_command(compare_command, [str(good), str(other)]) == 0  # as many pixels each
    shifted = [~truth if truth.any() else truth for truth in truths]
    wrong = localizer_like(tmp_path / "wrong", 0.9, shifted, 5)
    capsys.readouterr()
    assert run_command(compare_command, [str(good), str(wrong)]) == 2
    assert "different masks of an image" in capsys.readouterr().err
    fakes = [truth for truth in truths if truth.any()]
    alone = [localizer_like(tmp_path / name, 0.8, fakes, 6) for name in ("f1", "f2")]
    found = compare_api(alone)
    assert found["pairs"] == [] and found["masks"]["pairs"][0]["wilcoxon"] == 1


def test_two_perfect_detectors_do_not_differ_by_an_interval_of_width_0():
    draw = np.random.default_rng(0)
    fake = draw.random(207) < 0.4
    one, other = (np.where(fake, 0.8, 0.2) + draw.normal(0, 0.05, 207) for _ in range(2))
    for found in difference(fake, one, other, ["auc", "ap", "eer"], resamples=200).values():
        assert found["value"] == 0 and 0.01 < found["high"] == -found["low"] < 0.03
