"""Matrices: trained on each generator and tested on all; and trained on all but one."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from conftest import OPTIONS, SMALL, write_images
from PIL import Image
from scipy import stats
from scipy.cluster import hierarchy

from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.core.run_command import run_command
from tfdetect.data.plan import find_data, make_plan
from tfdetect.evaluation.intervals import binary_intervals, interval
from tfdetect.generalization import train_matrix
from tfdetect.generalization.clusters import draw, find_clusters, write_clusters
from tfdetect.generalization.domains import find_domains, natural_order, restrict
from tfdetect.generalization.matrix_report import _metric_table, format_matrix, write_report
from tfdetect.generalization.measure_matrix import METRICS, make_cell, matrix_result
from tfdetect.generalization.published_tables import read_published
from tfdetect.matrix import main as matrix_command


@pytest.fixture(scope="module")
def generators(tmp_path_factory):
    """GenImage's layout: two generators with checkerboards, one whose fakes are dark."""
    root = tmp_path_factory.mktemp("matrix") / "genimage"
    for number, name in enumerate(("biggan", "adm", "glide")):
        for split, count in (("train", 40), ("val", 14)):
            folder = root / name / split
            write_images(folder / "nature", count, 0, seed=number * 2 + len(split))
            write_images(folder / "ai", count, number < 2, seed=number * 2 + len(split) + 50)
            if number == 2:
                for path in (folder / "ai").iterdir():
                    pixels = np.asarray(Image.open(path)).astype(int)
                    Image.fromarray((pixels // 2).astype("u1")).save(path)
    return root


def arguments(root, output, *more):
    # The AUC of a generator is not defined where validation has none of its fakes.
    own = ["training.epochs=6", "training.monitor=loss"]
    sets = [part for text in [*SMALL, *own] for part in ("--set", text)]
    return ["--dataset", "genimage", "--data-dir", str(root.parent), "--experiment",
            "small_images", *sets, "--output", str(output),
            "--name", "m", "--quiet", *more]  # fmt: skip


def test_each_generator_against_all(generators, tmp_path, capsys):
    # No part has 500 images to fill a batch with.
    call = arguments(generators, tmp_path, "--published", "genimage_resnet50",
                     "--set", "training.batch_size=500", "--set", "training.epochs=3",
                     "--set", "training.steps_per_epoch=10")  # fmt: skip
    assert run_command(matrix_command, [*call, "--dry-run"]) == 0
    assert "3 trainings: 0 reused, 0 continued, 3 trained" in capsys.readouterr().out
    assert run_command(matrix_command, [*call, "--dry-run", "--set", "model.options={x: 1}"]) == 2
    assert "unknown option 'x'" in capsys.readouterr().err
    folder = tmp_path / "m"
    assert not folder.exists()
    assert run_command(matrix_command, call) == 0
    said = capsys.readouterr()
    runs = [open_run(path.parent) for path in folder.glob("*/run.json")]
    [size] = {run.experiment().training.batch_size for run in runs}
    assert 60 <= size <= 80 and f"batches of {size} images" in said.err
    found = json.loads((folder / "matrix.json").read_text())
    assert found["domains"] == ["ADM", "BigGAN", "GLIDE"]
    value = {
        (a, b): cell["metrics"]["accuracy"]["value"]
        for a, row in found["cells"].items() for b, cell in row.items()
    }  # fmt: skip
    assert all(found["cells"][a][a]["in_training"] for a in found["domains"])
    assert sorted(found["clusters"]["order"]) == found["domains"]
    assert (folder / "figures/clusters.png").is_file()
    # Detectors of checkerboards find both kinds of them, but not dark fakes.
    assert min(value["ADM", "ADM"], value["ADM", "BigGAN"], value["BigGAN", "ADM"]) > 0.8
    assert value["ADM", "GLIDE"] < 0.75
    assert found["cells"]["ADM"]["GLIDE"]["count"] == 28
    unseen = [v for (a, b), v in value.items() if a != b]
    assert found["means"]["accuracy"]["unseen"] == pytest.approx(np.mean(unseen))
    names, loss = found["domains"], found["losses"]["accuracy"]
    lost = [value[a, a] - np.mean([value[b, a] for b in names if b != a]) for a in names]
    expected = np.mean(lost), *stats.ttest_1samp(lost, 0).confidence_interval()
    assert [loss[key] for key in ("value", "low", "high")] == pytest.approx(expected, abs=1e-5)
    rows = list(csv.DictReader((folder / "matrix.csv").read_text().splitlines()))
    assert len(rows) == 9 * 6
    assert "textbf" in (folder / "matrix.tex").read_text()
    page = (folder / "matrix.html").read_text()
    assert (
        "data:image/png" in page
        and "/ 99.9" in page
        and "mean over generators: in training" in said.out
        and "lost on an unseen generator" in said.out
        and "*: generator in training" in page
        and "With as many of both, balanced accuracy is accuracy." in said.out
    )
    assert found["cells"]["ADM"]["GLIDE"]["fakes"] == 14
    # The same command reuses the runs.
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/model.keras")}
    assert len(before) == 3
    assert run_command(matrix_command, call) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/model.keras")} == before
    assert run_command(matrix_command, [*call, "--set", "seed=3"]) == 2
    assert "with another experiment" in capsys.readouterr().err
    # An interrupted run is no finished one.
    (folder / "adm" / "state").mkdir()
    assert run_command(matrix_command, [*call, "--dry-run"]) == 0
    assert "3 trainings: 2 reused, 1 continued, 0 trained" in capsys.readouterr().out


def matrix_of(scores, authentic, fakes):
    """The matrix of detectors with the same scores of every generator's test images, by training.

    Args:
        scores: P(fake) of the authentic images and of the fakes, by training and generator.
        authentic, fakes: numbers of test images.
    """
    labels = np.repeat([False, True], [authentic, fakes])
    cells: dict = {}
    for one, row in scores.items():
        cells[one] = {}
        for other, p in row.items():
            found = binary_intervals(labels, p, resamples=200)
            found |= {name: interval(0.5) for name in METRICS if name.startswith("recall_at")}
            metrics = {name: found[name] for name in METRICS}
            cells[one][other] = make_cell(labels, one == other, metrics)
    return matrix_result("small_images", "unequal", "generator", cells)


def test_a_matrix_of_unequal_classes_is_about_balanced_accuracy(tmp_path):
    """A detector that calls everything authentic is not the better one."""
    rng = np.random.default_rng(0)
    nothing = 0.4 + 0.01 * rng.random(90)
    finds = np.r_[0.3 + 0.4 * rng.random(60), np.full(30, 0.8)]  # and has false alarms
    values = matrix_of({"a": {"a": finds, "b": nothing}, "b": {"a": finds, "b": finds}}, 60, 30)
    cells = values["cells"]
    shown = {b: cells["a"][b]["metrics"]["balanced_accuracy"]["value"] for b in "ab"}
    assert cells["a"]["b"]["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-5)
    assert shown["b"] == 0.5 and 0.6 < shown["a"] < 0.9
    assert cells["a"]["b"]["may_be_chance"] and not cells["a"]["a"]["may_be_chance"]
    said = format_matrix(values)
    assert said.startswith("balanced accuracy") and "\naccuracy" not in said
    assert "Each generator has 60 authentic and 30 fake test images. Balanced accuracy is" in said
    assert "better than guessing by their AUC: 1 of 4 results. These" in said
    assert said.count("] ~") == 2  # in both tables
    write_report(values, tmp_path)
    rows = list(csv.DictReader((tmp_path / "matrix.csv").read_text().splitlines()))
    marked = {
        (row["trained_on"], row["tested_on"]) for row in rows if row["may_be_chance"] == "True"
    }
    assert marked == {("a", "b")} and {row["fakes"] for row in rows} == {"30"}
    page = (tmp_path / "matrix.html").read_text()
    assert "Framed: generator in training. ~: not shown to be better than guessing." in page
    assert page.index("Balanced accuracy</h3>") < page.index(">Accuracy</h3>")
    # Each table is marked by what it shows: these rankings are good, these verdicts are not.
    ranks = np.r_[0.1 + 0.01 * rng.random(60), 0.2 + 0.01 * rng.random(30)]
    ranked = matrix_of({"a": {"a": ranks, "b": finds}, "b": {"a": finds, "b": finds}}, 60, 30)
    assert [
        ("~" in row) for row in (str(_metric_table(ranked, name, True)) for name in METRICS)
    ] == [name in ("balanced_accuracy", "accuracy") for name in METRICS]
    assert "Not shown" not in format_matrix(ranked) and "~: not shown" in format_matrix(ranked)
    # None has learned.
    values = matrix_of({"a": {"a": nothing, "b": finds}, "b": {"a": finds, "b": nothing}}, 60, 30)
    assert "No detector is shown to be better than guessing: even on" in format_matrix(values)
    write_report(values, tmp_path)
    assert (
        "No detector is shown to be better than guessing<" in (tmp_path / "matrix.html").read_text()
    )


def test_ctrl_c_ends_a_matrix(generators, tmp_path, monkeypatch, capsys):
    """The training that it interrupts is not evaluated; the next one does not begin."""
    begun = []

    def interrupted(job, finish_interrupted, **_):
        begun.append(job.path)
        assert not finish_interrupted
        raise KeyboardInterrupt

    monkeypatch.setattr(train_matrix, "train_run", interrupted)
    assert run_command(matrix_command, arguments(generators, tmp_path)) == 130
    said = capsys.readouterr().err
    assert len(begun) == 1 and "Finished trainings are kept; the same command continues." in said


def test_domains_restrict_training_but_not_test(generators):
    plan = make_plan("genimage", "small_images", [], generators.parent)
    catalog = find_data(plan, progress=False)
    domains = find_domains(catalog, "generator")
    part = restrict(catalog, domains, frozenset({"ADM", "GLIDE"}))
    learned = part.table.to_pylist()
    assert {r["generator"] for r in learned if r["split"] != "test"} == {"ADM", "GLIDE"}
    assert {r["generator"] for r in learned if r["split"] == "test"} == {"ADM", "BigGAN", "GLIDE"}
    by_name = find_domains(catalog, r"/0*(\d)\d\.png$")
    assert set(by_name.names) == {"0", "1"} and set(by_name.left_out) <= {"2", "3"}
    assert sorted(["sd10", "none", "sd2", "2"], key=natural_order) == ["2", "none", "sd2", "sd10"]
    for wrong, words in (("(", "not a regular expression"), ("dataset", "two datasets are"),
                         ("nowhere", "least two parts are")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            find_domains(catalog, wrong)
    learned = dataclasses.replace(catalog, table=catalog.split("train"))
    with pytest.raises(UserError, match="has no test split"):
        find_domains(learned, "generator")


def test_published_tables(tmp_path):
    name, table = read_published("genimage_resnet50")
    assert table["Stable Diffusion 1.4"]["VQDM"] == 56.2 and len(table) == 8
    columns = np.array([[row[k] for k in table] for row in table.values()]).mean(0)
    # Table 4 of GenImage's README, its means over the eight trainings.
    np.testing.assert_allclose(
        columns, [59.0, 72.3, 72.4, 59.7, 73.1, 71.4, 60.9, 66.6], atol=0.1
    )  # fmt: skip
    (tmp_path / "mine.csv").write_text("trained on,a\na,many\n")
    with pytest.raises(UserError, match="is not a number"):
        read_published(str(tmp_path / "mine.csv"))
    with pytest.raises(UserError, match="no published table"):
        read_published("genimage")


@pytest.mark.slow
def test_leave_one_out(generators, tmp_path):
    more = ["--leave-one-out", "--set", f"model.options={OPTIONS}"]
    assert run_command(matrix_command, arguments(generators, tmp_path, *more)) == 0
    found = json.loads((tmp_path / "m/matrix.json").read_text())
    assert list(found["cells"]) == ["all but ADM", "all but BigGAN", "all but GLIDE"]
    assert not found["cells"]["all but ADM"]["ADM"]["in_training"]
    assert found["cells"]["all but ADM"]["GLIDE"]["in_training"]
    assert found["cells"]["all but ADM"]["ADM"]["metrics"]["accuracy"]["value"] > 0.7


def test_sources_of_authentic_images_are_left_out_with_generators(tmp_path):
    rows, number = ["path,label,generator,split"], 0
    for kind, names in (("fake", ("sd", "gan")), ("real", ("flickr", "camera", "coco", ""))):
        for name in names:
            write_images(tmp_path / "data" / f"{kind}_{name}", 12, kind == "fake", seed=number)
            number += 1
            rows += [f"{kind}_{name}/{n:03d}.png,{kind},{name},{'test' if n % 2 else 'train'}"
                     for n in range(12)]  # fmt: skip
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows) + "\n")
    plan = make_plan(str(tmp_path / "data" / "manifest.csv"), "small_images")
    catalog = find_data(plan, progress=False)
    assert set(catalog.training_images().generators) == {"sd", "gan"}  # no sources
    domains = find_domains(catalog, "generator", sources=True)
    assert domains.names == ("gan", "sd")
    part = restrict(catalog, domains, frozenset({"sd"})).table.to_pylist()
    learned = {r["generator"] for r in part if r["split"] == "train"}
    assert learned == {"sd", "coco", None}  # camera and flickr went with gan and sd, in turn
    everywhere = domains.rows(frozenset({"sd"}))
    names = np.array(catalog.table["generator"].to_pylist(), object)
    assert everywhere[names == None].all()  # noqa: E711
    assert set(names[domains.row_names == "gan"]) == {"gan", "camera", "flickr"}
    with pytest.raises(UserError, match="leave out --by"):
        find_domains(catalog, "dataset", sources=True)


# ---- which generators belong together


def test_clusters_bring_generators_together_that_find_each_other():
    names = ["a", "x", "b", "y", "c"]  # a, b, c find each other; x and y find each other
    families = {"a": 0, "b": 0, "c": 0, "x": 1, "y": 1}
    table = {
        one: {other: 1.0 if one == other else 0.9 if families[one] == families[other] else 0.5
              for other in names}
        for one in names
    }  # fmt: skip
    found = find_clusters(table)
    assert {"".join(sorted(part)) for part in ("".join(found.names[:3]), "".join(found.names[3:]),
            "".join(found.names[:2]), "".join(found.names[2:]))} >= {"abc", "xy"}  # fmt: skip
    at = {name: position for position, name in enumerate(found.names)}
    assert found.mutual[at["a"], at["b"]] == pytest.approx(0.8)
    assert found.mutual[at["a"], at["x"]] == 0
    # By the other three: two of them find c and none of the others finds x.
    assert found.correlation[at["a"], at["b"]] == pytest.approx(1)
    assert found.correlation[at["a"], at["x"]] == pytest.approx(-1)
    assert hierarchy.leaves_list(found.tree).tolist() == list(range(5))
    figure = draw(found)
    assert len(figure.axes) == 3
    labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert labels == list(found.names)


def test_clusters_of_a_published_matrix(tmp_path, capsys):
    call = ["--clusters", "genimage_resnet50", "--output", str(tmp_path)]
    assert run_command(matrix_command, call) == 0
    assert "Wukong" in capsys.readouterr().out and (tmp_path / "clusters.png").is_file()
    found = json.loads((tmp_path / "clusters.json").read_text())
    latent = {"Stable Diffusion 1.4", "Stable Diffusion 1.5", "Wukong"}
    order = found["order"]
    at = sorted(order.index(name) for name in latent)
    assert at[2] - at[0] == 2  # they are neighbors
    for wrong, words in (("nowhere", "no published table"), (str(tmp_path), "no matrix of")):
        (tmp_path / "matrix.json").write_text("{}")
        assert run_command(matrix_command, ["--clusters", wrong]) == 2
        assert words in capsys.readouterr().err
    # A matrix of before means, losses and clusters were in the file.
    names = ("a", "b", "c")
    cells = {
        one: {other: {"metrics": {"auc": {"value": 0.9 if one == other else 0.6}}}
              for other in names}
        for one in names
    }  # fmt: skip
    (tmp_path / "matrix.json").write_text(json.dumps({"cells": cells}))
    assert sorted(write_clusters(str(tmp_path), tmp_path)["order"]) == list(names)
    two = {"a": {"a": 0.9, "b": 0.6}, "b": {"a": 0.6, "b": 0.9}}
    with pytest.raises(UserError, match="at least 3 generators"):
        find_clusters(two)
