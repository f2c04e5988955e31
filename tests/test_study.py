"""Studies: learning curves over nested subsets, and variants of a setting."""

import itertools
import json

import numpy as np
import pytest
from conftest import SMALL, write_images

from tfdetect.core.errors import UserError
from tfdetect.core.run_command import run_command
from tfdetect.data.plan import find_data, make_plan
from tfdetect.evaluation import prediction_tables
from tfdetect.generalization.learning_curve import fit_power_law, make_subsets, measure_curve
from tfdetect.generalization.study_report import (
    curve_figure,
    format_curve,
    format_variants,
    variants_verdict,
    write_curve,
    write_variants,
)
from tfdetect.generalization.variants import measure_variants, plan_variants, split_variants
from tfdetect.study import main as study_command


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Four contents, named in the files as CIFAKE names them: "12 (3).png"."""
    root = tmp_path_factory.mktemp("study") / "contents"
    for split, count in (("train", 40), ("test", 24)):
        for fake, name in enumerate(("REAL", "FAKE")):
            folder = root / split / name
            write_images(folder, count, fake, seed=len(split))
            for number, file in enumerate(sorted(folder.iterdir())):
                file.rename(folder / f"{number:04d} ({number % 4 + 1}).png")
    return root


@pytest.fixture(scope="module")
def loaded(contents):
    plan = make_plan(str(contents), None, SMALL)
    return plan, find_data(plan, progress=False)


BY_CONTENT = r"\((\d+)\)"


def test_subsets_by_images_are_nested_and_keep_classes_and_test(loaded):
    plan, catalog = loaded
    subsets = make_subsets(plan, catalog, "images", 4, [0, 1], False)
    total = catalog.split("train").num_rows
    assert [s.images for s in subsets.values()][:4] == pytest.approx(
        [total / 8, total / 4, total / 2, total], abs=1
    )
    for seed in (0, 1):
        mine = [s for s in subsets.values() if s.seed == seed]
        paths = [set(s.catalog.split("train")["path"].to_pylist()) for s in mine]
        assert all(a < b for a, b in itertools.pairwise(paths))
        for s in mine:
            labels = s.catalog.split("train")["label"].to_numpy()
            assert labels.mean() == pytest.approx(0.5, abs=0.15)
            for split in ("validation", "test"):
                assert s.catalog.split(split).equals(catalog.split(split))
    first, second = [s for s in subsets.values() if s.size == round(total / 8)]
    assert not first.catalog.table.equals(second.catalog.table)
    with pytest.raises(UserError, match="a curve of 20 is asked for"):
        make_subsets(plan, catalog, "images", 20, [0], False)
    assert len(make_subsets(plan, catalog, "images", None, [0], False)) == 5


def test_subsets_by_content_can_have_equally_many_images(loaded):
    plan, catalog = loaded
    subsets = make_subsets(plan, catalog, BY_CONTENT, 3, [0], False)
    assert [len(s.domains) for s in subsets.values()] == [1, 2, 4]
    assert list(make_subsets(plan, catalog, BY_CONTENT, None, [0], False)) == list(subsets)
    for s in subsets.values():
        for split in ("train", "validation"):
            paths = s.catalog.split(split)["path"].to_pylist()
            assert {p.split("(")[1][0] for p in paths} <= s.domains
        assert s.catalog.split("test").num_rows == catalog.split("test").num_rows
    equal = make_subsets(plan, catalog, BY_CONTENT, 3, [0], True)
    fewest = min(s.images for s in subsets.values())
    assert {s.images for s in equal.values()} <= {fewest - 1, fewest, fewest + 1}
    assert len(equal["4 seed 0"].domains) == 4


def test_the_power_law_is_found():
    sizes = np.array([250, 500, 1000, 2000, 4000.0])
    for scale, exponent, floor in ((3.0, 0.5, 0.02), (0.8, 0.3, 0.0), (40.0, 1.1, 0.1)):
        found = fit_power_law(sizes, scale * sizes**-exponent + floor)
        assert found["exponent"] == pytest.approx(exponent, rel=0.04)
        assert found["floor"] == pytest.approx(floor, abs=0.004)
        assert found["twice"] == pytest.approx(scale * 8000.0**-exponent + floor, rel=0.01)
        assert found["tenfold"] == pytest.approx(scale * 40000.0**-exponent + floor, rel=0.05)
    many = fit_power_law(sizes, np.tile(sizes**-0.5, (7, 1)))
    assert many["exponent"].shape == (7,)
    rising = fit_power_law(sizes, np.array([0.1, 0.12, 0.14, 0.16, 0.2]))
    assert rising["scale"] == 0 and rising["floor"] == pytest.approx(0.144)
    three = fit_power_law(sizes[:3], sizes[:3] ** -0.4)
    assert three["floor"] == 0 and three["exponent"] == pytest.approx(0.4, rel=0.04)


class Trained:
    """A run of a study as its measurement reads it."""

    def __init__(self, path, threshold=0.5):
        self.path, self.threshold = path, threshold


@pytest.fixture
def predicted(tmp_path, monkeypatch):
    """Returns a function that writes the predictions of a run with an error rate."""

    def write(name, catalog, rate):
        rows = catalog.split("test")
        fake = rows["label"].to_numpy() > 0
        rng = np.random.default_rng(abs(hash(rate)) % 1000)
        wrong = rng.permutation(len(fake)) < rate * len(fake)
        folder = tmp_path / name / "predictions"
        folder.mkdir(parents=True)
        table = rows.select(["dataset", "path"]).append_column(
            "p_fake", [np.where(fake ^ wrong, 0.9, 0.1) + rng.uniform(-0.05, 0.05, len(fake))]
        )
        prediction_tables.write_parquet(table, folder / "test.parquet")
        return Trained(tmp_path / name)

    return write


def test_a_curve_is_measured_and_reported(loaded, predicted, tmp_path):
    plan, catalog = loaded
    subsets = make_subsets(plan, catalog, BY_CONTENT, 3, [0, 1], False)
    rates = {1: 0.4, 2: 0.25, 4: 0.1}
    runs = {n: predicted(n, catalog, rates[s.size]) for n, s in subsets.items()}
    found = measure_curve(plan, subsets, runs, catalog, BY_CONTENT)
    assert found["count"] == catalog.split("test").num_rows
    for point in found["points"]:
        assert point["error"]["value"] == pytest.approx(rates[point["size"]], abs=0.03)
        assert point["error"]["low"] < point["error"]["value"] < point["error"]["high"]
        assert np.mean(point["seeds"]) == pytest.approx(point["error"]["value"], abs=1e-6)
    assert found["points"][-1]["unseen"]["value"] is None
    first = found["points"][0]  # a quarter of the test images is of the content in training
    assert (first["seen"]["value"] + 3 * first["unseen"]["value"]) / 4 == pytest.approx(
        first["error"]["value"], abs=0.02
    )
    assert found["fit"]["exponent"]["value"] > 0.3
    assert [point["may_be_chance"] for point in found["points"]] == [True, False, False]
    [remark] = found["remarks"]  # and no word on seeds, as there are two
    assert "0.5 or more: 1 of 3 sizes" in remark
    assert all(parameter["low"] >= 0 for parameter in found["fit"].values())
    write_curve(found, tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    assert "unseen parts" in page and "data:image/png" in page
    assert json.loads((tmp_path / "out/curve.json").read_text()) == found
    assert remark in page and page.count("~</td>") == 1
    said = format_curve(found)
    assert "0.1" in said and "If it goes on so" in said and f"warning: {remark}" in said


def test_a_study_of_guesses_and_of_one_seed_says_so(loaded, predicted, tmp_path):
    plan, catalog = loaded
    subsets = make_subsets(plan, catalog, BY_CONTENT, 2, [0], False)
    runs = {name: predicted(name, catalog, 0.5) for name in subsets}
    found = measure_curve(plan, subsets, runs, catalog, BY_CONTENT)
    none, one_seed = found["remarks"]
    assert none.startswith("No training is shown to be better than guessing: the 95% interval")
    assert one_seed.startswith("One seed: each size was trained once. Intervals cover test images")
    write_curve(found, tmp_path / "curve")
    page = (tmp_path / "curve/report.html").read_text()
    assert "<strong>No training is shown to be better than guessing</strong>" in page
    assert "One seed: each size" in page and "mean nothing" not in page
    trainings = plan_variants(plan, split_variants(["model.dropout=0,0.5"]), [3])
    names = {name: [name] for name in ("model.dropout=0", "model.dropout=0.5")}
    for rates, guesses in (((0.5, 0.5), 2), ((0.5, 0.1), 1), ((0.2, 0.1), 0)):
        runs = {name: predicted(f"{name} {rates}", catalog, rate)
                for name, rate in zip(trainings, rates)}  # fmt: skip
        found = measure_variants(plan, names, trainings, runs, catalog)
        assert [each["may_be_chance"] for each in found["variants"]].count(True) == guesses
        [*chance, one_seed] = found["remarks"]
        assert one_seed.startswith("One seed: each variant") and len(chance) == bool(guesses)
        said = format_variants(found)
        assert said.endswith(f"\nwarning: {one_seed}") and said.count("] ~") == 3 * guesses
        write_variants(found, tmp_path / "variants")
        page = (tmp_path / "variants/report.html").read_text()
        assert ("<strong>No variant is shown to be better than guessing</strong>" in page) == (
            guesses == 2
        )
        assert json.loads((tmp_path / "variants/variants.json").read_text()) == found
    again = plan_variants(plan, split_variants(["model.dropout=0,0.5"]), [3, 4])
    runs = {name: predicted(f"{name} twice", catalog, 0.1) for name in again}
    found = measure_variants(plan, names, again, runs, catalog)
    assert found["remarks"] == [] and "Intervals are over test images; what" in format_variants(
        found
    )


def test_variants_differ_in_pairs(loaded, predicted, tmp_path):
    plan, catalog = loaded
    trainings = plan_variants(plan, split_variants(["model.front_end=dct,spectrum"]), [4, 5])
    assert [p.experiment.seed for _, _, p in trainings.values()] == [4, 5, 4, 5]
    assert trainings["model.front_end=dct seed 4"][2].experiment.model.front_end == "dct"
    rates = {"dct": 0.3, "spectrum": 0.1}
    runs = {name: predicted(name, catalog, rates[name.split("=")[1].split()[0]])
            for name in trainings}  # fmt: skip
    names = {name: [name] for name in ("model.front_end=dct", "model.front_end=spectrum")}
    found = measure_variants(plan, names, trainings, runs, catalog)
    first, second = found["variants"]
    assert first["difference"] is None
    change = second["difference"]["accuracy"]
    assert change["value"] == pytest.approx(
        second["metrics"]["accuracy"]["value"] - first["metrics"]["accuracy"]["value"]
    )
    assert change["low"] < change["value"] < change["high"]
    means = [np.mean([run["metrics"]["auc"] for run in v["runs"]]) for v in (first, second)]
    assert means[1] - means[0] == pytest.approx(second["difference"]["auc"]["value"], abs=1e-5)
    for settings in (names, names | {"DFT": ["model.front_end=spectrum"]}):
        values = {**found, "settings": settings}
        write_variants(values, tmp_path / "out")
        page = (tmp_path / "out/report.html").read_text()
        assert "All trainings" in page and ("Settings" in page) == ("DFT" in settings)
    assert "model.front_end=spectrum" in format_variants(values)
    two = split_variants(["model.dropout=0; seed=1", "model.dropout=0.5"])
    assert list(two.values()) == [["model.dropout=0", "seed=1"], ["model.dropout=0.5"]]
    named = split_variants(["plain: seed=1", "model.options={stem: 8}"])
    assert named == {"plain": ["seed=1"], "model.options={stem: 8}": ["model.options={stem: 8}"]}
    with pytest.raises(UserError, match="two variants or more"):
        split_variants(["model.front_end=dct"])


def test_mistakes(capsys):
    for call, words in (
        (["learning-curve", "--dataset", "demo", "--vary", "a=b,c"], "--vary is for variants"),
        (["variants", "--dataset", "demo", "--by", "images"], "--by is for learning-curve"),
        (["variants", "--dataset", "demo"], "--vary is missing. It names a setting"),
        (["learning-curve", "--dataset", "demo", "--equal-images"], "--equal-images is for --by"),
        (["learning-curve", "--dataset", "demo", "--points", "1"], "at least 2"),
        (["variants", "--dataset", "demo", "--vary", "model.front_end=dct,dft"], "no such name"),
    ):
        assert run_command(study_command, call) == 2
        assert words in capsys.readouterr().err


def test_a_dry_run_lists_the_trainings(contents, tmp_path, capsys):
    common = ["--dataset", str(contents), "--output", str(tmp_path / "new"), "--dry-run"]
    vary = ["--vary", "training.epochs=2,3", "--set", "training.batch_size=8", "--seeds", "2"]
    assert run_command(study_command, ["variants", *common, *vary]) == 0
    out = capsys.readouterr().out
    assert "4 trainings: 0 reused, 0 continued, 4 trained" in out and "training.epochs=3" in out
    assert "--dry-run" not in out
    assert run_command(study_command, ["learning-curve", *common, "--points", "2", "--json"]) == 0
    trainings = json.loads(capsys.readouterr().out)["trainings"]
    assert [each["what"] for each in trainings] == ["trained"] * 2
    assert trainings[0]["drawn"] < trainings[1]["drawn"] and not (tmp_path / "new").exists()
    vary = ["--vary", "training.batch_size=8,900", "--set", "model.head_options={steps: 3}"]
    assert run_command(study_command, ["variants", *common, *vary]) == 2
    assert "unknown option 'steps'" in capsys.readouterr().err
    assert run_command(study_command, ["variants", *common, *vary[:2]]) == 2
    assert "fewer than one batch of 900" in capsys.readouterr().err


@pytest.mark.slow
def test_studies_from_the_command(contents, tmp_path, capsys):
    sets = [part for text in SMALL for part in ("--set", text)]
    common = ["--dataset", str(contents), *sets, "--output", str(tmp_path), "--name"]
    call = ["learning-curve", *common, "curve", "--points", "3", "--quiet"]
    assert run_command(study_command, call) == 0
    assert "error" in capsys.readouterr().out
    models = {p: p.stat().st_mtime_ns for p in (tmp_path / "curve").glob("*/model.keras")}
    assert len(models) == 3
    assert run_command(study_command, [*call, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 3
    assert models == {p: p.stat().st_mtime_ns for p in models}
    call = ["variants", *common, "v", "--vary", "training.batch_size=8,12", "--quiet"]
    assert run_command(study_command, call) == 0
    assert "training.batch_size=12" in capsys.readouterr().out


def test_a_curve_without_errors_and_equal_variants_are_shown_as_such(tmp_path):
    none = {"value": 0.0, "low": 0.0, "high": 0.04}
    points = [{"size": n, "images": [n], "seeds": [0.0], "error": none, "may_be_chance": False}
              for n in (10, 20)]  # fmt: skip
    curve = {"experiment": "e", "dataset": "d", "by": "images", "count": 9, "points": points,
             "fit": None, "remarks": []}  # fmt: skip
    axes = curve_figure(curve).axes[0]
    assert axes.get_yscale() == "linear" and axes.get_ylim()[0] < 0
    write_curve(curve, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "at least three points" in page and "Least squares" not in page
    auc = {"value": 0.9, "low": 0.8, "high": 0.95}
    variants = [
        {"name": name, "metrics": {"auc": auc | {"value": value}}, "runs": [],
         "may_be_chance": False,
         "difference": change and {"auc": {"value": 0.02, "low": change, "high": 0.05}}}
        for name, value, change in (("a", 0.9, None), ("b", 0.92, -0.01), ("c", 0.91, -0.02))
    ]  # fmt: skip
    found = variants_verdict({"variants": variants})
    assert found.title == "No variant's AUC differs significantly from that of a"
    variants[1]["difference"]["auc"]["low"] = 0.01
    found = variants_verdict({"variants": variants})
    assert found.title == "Highest AUC: b, 0.9200"
    assert found.detail == "Difference from a: +0.0200 [+0.0100, +0.0500]."
