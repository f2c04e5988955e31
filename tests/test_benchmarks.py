"""Benchmark suites: documents, layouts, protocols, scores, tables and pages."""

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import yaml
from conftest import built_once, run_at
from PIL import Image

import tfdetect
from tfdetect.benchmark import main as benchmark
from tfdetect.benchmarks import leaderboard, scoring
from tfdetect.benchmarks.measure_subsets import best_accuracy, mean_over
from tfdetect.benchmarks.results import our_figures, read_results
from tfdetect.benchmarks.subset_data import equalized_rows, equalizing, read_subsets
from tfdetect.benchmarks.suite import Protocol, Suite, load_suite, suite_names
from tfdetect.core.data_settings import Equalize
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.load_experiment import override
from tfdetect.core.load_spec import load_spec
from tfdetect.core.open_run import open_run
from tfdetect.core.run_command import run_command
from tfdetect.core.run_writer import write_info
from tfdetect.evaluation.mask_metrics import PixelCounts, count_pixels, mask_metrics
from tfdetect.evaluation.metadata_baseline import metadata_baseline
from tfdetect.models.detector import build_detector
from tfdetect.models.saving import save_detector

SUITES = sorted(suite_names())


def quiet(text):
    """Takes the place of the log."""


# ---- miniatures: the exact layout of each dataset, with a few tiny images


def image(path, seed, side=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path, side=16, altered=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side), 255 - altered, np.uint8)
    pixels[4:9, 3:12] = altered
    Image.fromarray(pixels).save(path, quality=100)


def pairs(root, folders, real, fake, count, suffix="png"):
    for number, folder in enumerate(folders):
        for name, kind in ((real, 0), (fake, 1)):
            for index in range(count):
                image(root / folder / name / f"{index}.{suffix}", [number, kind, index])


def genimage(root, count):
    for folder in ("Midjourney/imagenet_midjourney", "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4",
                   "stable_diffusion_v_1_5/imagenet_ai_0424_sdv5", "ADM/imagenet_ai_0508_adm",
                   "glide/imagenet_glide", "wukong/imagenet_ai_0424_wukong",
                   "VQDM/imagenet_ai_0419_vqdm", "BigGAN/imagenet_ai_0419_biggan"):  # fmt: skip
        pairs(root, [f"{folder}/val"], "nature", "ai", count)
        pairs(root, [f"{folder}/train"], "nature", "ai", 1)


def forensynths(root, count):
    folders = [
        "progan/car", "progan/cat", "stylegan/car", "biggan", "cyclegan/horse", "stargan", "gaugan",
        "crn", "imle", "seeingdark", "san", "deepfake", "stylegan2/car", "whichfaceisreal",
    ]  # fmt: skip
    pairs(root / "test", folders, "0_real", "1_fake", count)
    pairs(root / "train", ["car"], "0_real", "1_fake", 1)


def universalfakedetect(root, count):
    for number, name in enumerate(("imagenet", "laion")):
        for index in range(count):
            image(root / name / "0_real" / f"{index}.png", [number, index])
    for number, name in enumerate(("guided", "ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27",
                                   "glide_50_27", "glide_100_10", "dalle")):  # fmt: skip
        for index in range(count):
            image(root / name / "1_fake" / f"{index}.png", [9, number, index])


def aigcdetectbenchmark(root, count):
    folders = [
        "progan/car", "stylegan/cat", "biggan", "cyclegan/horse", "stargan", "gaugan",
        "stylegan2/car", "whichfaceisreal", "ADM", "Glide", "Midjourney", "stable_diffusion_v_1_4",
        "stable_diffusion_v_1_5", "VQDM", "wukong", "DALLE2",
    ]  # fmt: skip
    pairs(root / "test", folders, "0_real", "1_fake", count)


def chameleon(root, count):
    pairs(root, ["test"], "0_real", "1_fake", count, "jpg")


def wildrf(root, count):
    pairs(root, ["train", "val"], "0_real", "1_fake", 1)
    pairs(root / "test", ["reddit", "twitter", "facebook"], "0_real", "1_fake", count)


def cifake(root, count):
    pairs(root, ["test"], "REAL", "FAKE", count, "jpg")
    pairs(root, ["train"], "REAL", "FAKE", 1, "jpg")


def diffusionforensics(root, count):
    sources = {
        "lsun_bedroom": ["adm", "ddpm", "iddpm", "pndm", "ldm", "sdv1_new", "sdv2", "vqdiffusion",
                         "stylegan_official"],
        "imagenet": ["adm", "sdv1"],
    }  # fmt: skip
    for number, (source, names) in enumerate(sources.items()):
        for index in range(count):
            real = root / "images/test" / source / "real"
            image(real / (f"n0{index}" if number else "") / f"{index}.png", [number, index])
            for at, name in enumerate(names):
                folder = root / "images/test" / source / name
                image(folder / f"{index}.png", [9, number, at, index])
        image(root / "recons/test" / source / "real/0.png", [7, number])
        image(root / "images/train" / source / "real/0.png", [8, number])


def casia1(root, count):
    for n in range(count):
        image(root / f"Au/Au_ani_{n:04d}.jpg", [0, n])
        for kind in ("CM", "Sp"):
            stem = f"Sp_S_NRN_A_ani{n:04d}_ani{n:04d}_{n:04d}{kind}"
            image(root / f"Modified Tp/Tp/{kind}/{stem}.jpg", [1, n])
            mask(root / f"CASIA 1.0 groundtruth/{kind}/{stem}_gt.png")


def casia2(root, count):
    for n in range(count):
        image(root / f"Au/Au_ani_{n:05d}.jpg", [0, n])
        stem = f"Tp_D_CND_M_N_ani{n:05d}_sec00096_{n:05d}"
        image(root / f"Tp/{stem}.tif", [1, n])
        mask(root / f"CASIA 2 Groundtruth/{stem}_gt.png")


def columbia(root, count):
    for n in range(count):
        image(root / f"4cam_auth/canong3_0{n}_sub_01.tif", [0, n])
        stem = f"canong3_canonxt_sub_{n:02d}"
        image(root / f"4cam_splc/{stem}.tif", [1, n])
        colors = np.zeros((16, 16, 3), np.uint8)
        colors[..., 0], colors[4:9, 3:12] = 200, (0, 200, 0)
        edges = root / f"4cam_splc/edgemask/{stem}_edgemask.jpg"
        edges.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colors).save(edges, quality=100)


def coverage(root, count):
    for n in range(1, count + 1):
        image(root / f"image/{n}.tif", [0, n])
        image(root / f"image/{n}t.tif", [1, n])
        for kind in ("forged", "copy", "paste"):
            mask(root / f"mask/{n}{kind}.tif")


def nist16(root, count):
    for n in range(count):
        stem = f"NC2016_{n:04d}_549_1007_1191_1570_{('splice', 'removal')[n % 2]}"
        image(root / f"probe_save/{stem}.png", [1, n])
        mask(root / f"mask/{stem}.png")


def imd2020(root, count):
    for n in range(count):
        image(root / f"1a{n}/1a{n}_orig.jpg", [0, n])
        image(root / f"1a{n}/c8tf_0.png", [1, n])
        mask(root / f"1a{n}/c8tf_0_mask.png")


def dso1(root, count):
    for n in range(count):
        image(root / f"DSO-1/normal-{n:02d}.png", [0, n])
        image(root / f"DSO-1/splicing-{n:02d}.png", [1, n])
        mask(root / f"DSO-1-Fake-Images-Masks/splicing-{n:02d}.png", altered=0)


def casia1_samples(root, count):
    for n in range(count):
        image(root / f"real/{n}.png", [0, n])
        image(root / f"fake/{('splicing', 'copymove')[n % 2]}/{n}.png", [1, n])
        mask(root / f"masks/{n}.png")


LAYOUTS = {
    layout.__name__: layout for layout in (
        genimage, forensynths, universalfakedetect, aigcdetectbenchmark, chameleon, wildrf, cifake,
        diffusionforensics, casia1, casia2, columbia, coverage, nist16, imd2020, dso1,
        casia1_samples,
    )
}  # fmt: skip


def miniature(name, root, count=4):
    """Writes every dataset of a suite below a folder, each in a folder of its name; returns it."""
    for dataset in load_suite(name).datasets:
        LAYOUTS[dataset](root / dataset, count)
    return root


# ---- documents


@pytest.mark.parametrize("name", SUITES)
def test_suites_agree_with_dataset_specs_and_with_themselves(name):
    suite = load_suite(name)
    assert suite.name == name and suite.protocol.source and suite.homepage.startswith("http")
    for subset in suite.subsets:
        spec, _ = load_spec(subset.dataset or suite.dataset)
        assert set(subset.counts) <= set(spec.class_names)
        assert suite.split == "all" or spec.splits or spec.default_split == "test"
    for table in suite.published:
        assert table.source.startswith(("http", "https"))


@pytest.mark.parametrize("name", SUITES)
def test_published_means_are_those_of_their_rows(name):
    """A figure that was copied wrongly would move its row's mean."""
    checked = 0
    for table in load_suite(name).published:
        close = 0.11 if table.unit == "percent" else 0.0011
        for method, (*values, mean) in table.rows.items():
            if "as printed" in table.note and method in ("Effort", "SSP"):
                assert abs(mean - np.mean(values)) > close  # as the notes say
                continue
            if mean is None or None in values or not values:
                continue
            assert mean == pytest.approx(np.mean(values), abs=close), (table.title, method)
            checked += 1
    assert checked or name in ("forensynths", "diffusionforensics", "wildrf")


@pytest.mark.parametrize(("change", "message"), [
    ({"subsets": [{"name": "a"}, {"name": "a"}]}, "two subsets have the same name"),
    ({"subsets": [{"name": "a", "match": "("}]}, "not a regular expression"),
    ({"subsets": [{"name": "a", "counts": {"real": 3}}]}, "counts_source"),
    ({"protocol": {"text": "t", "source": "s", "stretch": 3, "shorter_side": 4}}, "not both"),
    ({"published": [{"title": "t", "source": "s", "subsets": ["b"], "rows": {"m": [1, 1]}}]},
     "no subset"),
    ({"published": [{"title": "t", "source": "s", "subsets": ["a"], "rows": {"m": [1]}}]},
     "expected 1 and their mean"),
    ({"published": [{"title": "t", "source": "s", "rows": {"m": [101]}}]}, "leaves 0 to 100"),
    ({"taks": "masks"}, "Did you mean 'task'"),
])  # fmt: skip
def test_a_mistake_in_a_suite_is_explained(tmp_path, change, message):
    document = {
        "name": "mine", "title": "t", "paper": "p", "homepage": "h", "task": "images",
        "dataset": "wildrf", "split": "test", "protocol": {"text": "t", "source": "s"},
        "subsets": [{"name": "a"}],
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document | change))
    with pytest.raises(UserError, match=re.escape(message)):
        load_suite(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    assert load_suite(str(tmp_path / "mine.yaml")).datasets == ("wildrf",)


# ---- layouts


@pytest.mark.parametrize("name", SUITES)
def test_every_subset_of_the_layout_is_found(name, tmp_path):
    suite = load_suite(name)
    data = read_subsets(suite, miniature(name, tmp_path, 2), progress=False, log=quiet)
    assert [part.subset for part in data] == list(suite.subsets)
    for part in data:
        assert not part.missing, part
        labels = part.rows["label"].to_pylist()
        assert labels.count(1) in (2, 4)  # two categories of ProGAN; CASIA 1 has two kinds
        assert labels.count(0) == (0 if part.subset.dataset == "nist16" else labels.count(1)
                                   if part.subset.dataset != "casia1" else 2)  # fmt: skip
        if suite.task == "masks":
            assert part.rows["mask"].null_count == labels.count(0)
            for text in part.differences:
                assert text.startswith("expected ")
        elif part.subset.counts:
            assert len(part.differences) == 2 and "expected 1" in part.differences[0]
        else:
            assert part.differences == ()


def test_masks_of_dso1_are_dark_where_altered(tmp_path):
    dso1(tmp_path / "dso1", 2)
    [part] = read_subsets(load_suite("localization").choose(("dso-1",)), tmp_path,
                          progress=False, log=quiet)  # fmt: skip
    altered = scoring.mask_truth(part.catalog, part.rows)
    from tfdetect.data.loading import native_images
    from tfdetect.data.sources import image_source

    source = image_source(part.catalog, part.rows)
    shown = {int(i): m.numpy() for i, _, m, _ in native_images(source, altered.masks)}
    for index, label in enumerate(part.rows["label"].to_pylist()):
        assert shown[index].sum() == (45 if label else 0)


def test_what_is_missing_is_told_and_the_rest_is_found(tmp_path):
    wildrf(tmp_path, 3)
    for path in (tmp_path / "test/reddit/1_fake").iterdir():
        path.unlink()
    (tmp_path / "test/facebook").rename(tmp_path / "elsewhere")
    (tmp_path / "test/twitter/0_real/0.png").write_bytes(b"not an image")
    lines = []
    reddit, twitter, facebook = read_subsets(
        load_suite("wildrf"), tmp_path, progress=False, log=lines.append
    )
    assert reddit.differences == ("no fake image",) and not reddit.missing
    assert twitter.differences == ("1 image cannot be used",) and twitter.found["real"] == 2
    assert "no image of it" in facebook.missing and any("missing" in line for line in lines)
    with pytest.raises(UserError, match=r"No image of the suite 'chameleon'.*github.com"):
        read_subsets(load_suite("chameleon"), tmp_path / "elsewhere", progress=False, log=quiet)


def test_a_folder_of_one_dataset_is_not_taken_for_another(tmp_path):
    """The layout of IMD2020 is so loose that it fits any folder of images."""
    columbia(tmp_path / "columbia", 2)
    data = read_subsets(load_suite("localization"), tmp_path, progress=False, log=quiet)
    assert [part.subset.name for part in data if not part.missing] == ["Columbia"]
    [alone] = read_subsets(load_suite("localization").choose(("Columbia",)),
                           tmp_path / "columbia", progress=False, log=quiet)  # fmt: skip
    assert alone.found == {"authentic": 2, "spliced": 2}


# ---- protocols


def test_the_equalized_crop_fits_both_classes_and_hides_format_and_size():
    """Photographs are JPEG of many sizes, fakes PNG of one; afterwards a tree sees nothing."""
    rng = np.random.default_rng(0)
    count = 40
    sides = [*rng.integers(150, 900, count), *[256] * count]
    rows = pa.table({
        "label": pa.array([0] * count + [1] * count, pa.int32()),
        "width": pa.array(sides, pa.int32()), "height": pa.array(sides, pa.int32()),
        "format": ["JPEG"] * count + ["PNG"] * count,
        "group": [str(n) for n in range(2 * count)],
    })  # fmt: skip
    suite = load_suite("genimage")
    settings = equalizing(suite, rows)
    assert settings.side == 8 * (int(np.quantile(sides[:count], 0.05, method="lower")) // 8)
    assert settings.side < suite.equalize.side == 224
    assert metadata_baseline(rows)["balanced_accuracy"]["value"] == 1
    hidden = metadata_baseline(equalized_rows(rows, settings))
    assert abs(hidden["balanced_accuracy"]["value"] - 0.5) < 0.1
    small = rows.set_column(1, "width", pa.array([5] * 2 * count, pa.int32()))
    assert equalizing(suite, small).side == 8
    assert equalizing(load_suite("localization"), rows).side > 10_000


def test_published_protocols_change_images_as_they_say():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (30, 50, 3), np.uint8)

    def changed(**settings):
        change = scoring.as_published(Protocol(text="t", source="s", **settings))
        return change(tf.constant(pixels)).numpy()

    np.testing.assert_array_equal(changed(crop=20), pixels[5:25, 15:35])
    np.testing.assert_array_equal(changed(crop=40), pixels[:, 5:45])  # shorter sides stay
    assert changed(stretch=16).shape == (16, 16, 3)
    assert changed(shorter_side=15).shape == (15, 25, 3)
    assert changed(shorter_side=15, crop=10).shape == (10, 10, 3)
    plain = np.asarray(Image.fromarray(pixels).resize((25, 15), Image.Resampling.BILINEAR), int)
    assert np.abs(changed(shorter_side=15) - plain).max() <= 1
    assert scoring.as_published(Protocol(text="t", source="s")) is None


def test_the_best_threshold_is_the_best():
    rng = np.random.default_rng(1)
    for _ in range(20):
        fake, scores = rng.random(30) < 0.4, np.round(rng.random(30), 1)
        fake[:2] = True, False
        found = best_accuracy(fake, scores)
        tried = [((scores >= t) == fake).mean() for t in [*scores, 1.1]]
        assert found["value"] == pytest.approx(max(tried), abs=1e-6)


def test_the_mean_of_subsets_that_share_images_has_a_wider_interval():
    part = {"metrics": {"ap": {"value": 0.6, "low": 0.5, "high": 0.7}, "auc": {"value": None}}}
    other = {"metrics": {"ap": {"value": 0.8, "low": 0.75, "high": 0.9}}}
    apart, shared = (mean_over([part, other], shared)["ap"] for shared in (False, True))
    assert apart["value"] == shared["value"] == pytest.approx(0.7)
    assert (shared["low"], shared["high"]) == (pytest.approx(0.625), pytest.approx(0.8))
    assert 0.625 < apart["low"] < 0.7 < apart["high"] < 0.8
    assert mean_over([], False) == {} and "auc" not in mean_over([part], False)


# ---- pixel metrics as IMDL-BenCo defines them


def masks_and_predictions():
    """Predictions of all kinds: good, bad, constant, empty; masks of all sizes."""
    rng = np.random.default_rng(3)
    truths = np.zeros((12, 40, 48), bool)
    for truth in truths:
        top, left = rng.integers(0, 20, 2)
        truth[top : top + rng.integers(2, 20), left : left + rng.integers(2, 28)] = True
    logits = truths * rng.uniform(-0.5, 4, (12, 1, 1)) + rng.normal(-1, 1.5, truths.shape)
    predicted = 1 / (1 + np.exp(-logits))
    predicted[3], predicted[4], predicted[5] = 0.2, 0.9, truths[5] * 0.98 + 0.01
    return truths, predicted.astype(np.float32)


def ours(truths, predicted):
    """F1, IoU and AUC of each image, from the counts that a run's predictions keep."""
    rows = []
    for truth, one in zip(truths, predicted):
        counts = (each[None] for each in count_pixels(one, truth))
        found = mask_metrics(PixelCounts(*counts, np.ones(1, bool)))(np.ones(1))
        rows.append([found["f1"], found["iou_altered"], found["auc"]])
    return np.array(rows)


def test_pixel_metrics_are_those_of_each_image_at_half():
    """As in IMDLBenCo/evaluation: F1 and IoU of P(altered) above 0.5, and the rank AUC."""
    from sklearn.metrics import roc_auc_score

    truths, predicted = masks_and_predictions()
    found = ours(truths, predicted)
    for row, truth, one in zip(found, truths, predicted):
        marked = one > 0.5
        tp, fp, fn = (marked & truth).sum(), (marked & ~truth).sum(), (~marked & truth).sum()
        assert row[0] == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-9)
        assert row[1] == pytest.approx(tp / (tp + fp + fn), abs=1e-9)
        assert row[2] == pytest.approx(roc_auc_score(truth.ravel(), one.ravel()), abs=2e-3)


IMDLBENCO = """
import sys
import numpy as np
import torch
from IMDLBenCo.evaluation import PixelAUC, PixelF1, PixelIOU

data = np.load(sys.argv[1])
predict = torch.tensor(data["predicted"])[:, None]
mask = torch.tensor(data["truths"].astype(np.float32))[:, None]
kinds = PixelF1, PixelIOU, PixelAUC
found = [kind(threshold=0.5).batch_update(predict, mask).numpy() for kind in kinds]
np.save(sys.argv[2], np.stack(found, axis=1))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "TFDETECT_IMDLBENCO_PYTHON" not in os.environ,
    reason="needs TFDETECT_IMDLBENCO_PYTHON, a Python with imdlbenco (it wants NumPy 1)",
)
def test_pixel_metrics_equal_those_of_imdlbenco(tmp_path):
    """Its own evaluators on the same masks; an image without altered pixels is where we differ."""
    truths, predicted = masks_and_predictions()
    np.savez(tmp_path / "in.npz", truths=truths, predicted=predicted)
    python = os.environ["TFDETECT_IMDLBENCO_PYTHON"]
    call = [python, "-c", IMDLBENCO, tmp_path / "in.npz", tmp_path / "out.npy"]
    subprocess.run(call, check=True, env={**os.environ, "PYTHONPATH": ""})
    theirs, found = np.load(tmp_path / "out.npy"), ours(truths, predicted)
    np.testing.assert_allclose(found[:, :2], theirs[:, :2], atol=1e-6)
    tied = [3, 4, 5]  # theirs orders equal scores as they come; ours counts them half
    kept = [n for n in range(len(found)) if n not in tied]
    np.testing.assert_allclose(found[kept, 2], theirs[kept, 2], atol=3e-3)


# ---- runs on suites


def tiny_run(folder, masks):
    """An untrained run of a tiny network, in a folder of its own."""
    small = "model.options={widths: [4], blocks: [1], strides: [2], stem: 4}"
    heads = ["model.mask_head=decoder", "model.mask_options={width: 4}"] if masks else []
    experiment = override(Experiment(name="test"), ["data.image_size=16", small, *heads])
    run = run_at(folder, side=16, policy="window_tile" if masks else "stretch", masks=masks)
    folder.mkdir(parents=True, exist_ok=True)
    save_detector(build_detector(experiment, 2), run.model_path)
    (folder / "experiment.yaml").write_text(experiment.to_yaml())
    write_info(run)
    return open_run(folder)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = built_once(tmp_path_factory, "tiny", lambda f: tiny_run(f / "classifier", False))
    return open_run(folder / "classifier")


@pytest.fixture(scope="module")
def localizer(tmp_path_factory):
    folder = built_once(tmp_path_factory, "tiny_masks", lambda f: tiny_run(f / "localizer", True))
    return open_run(folder / "localizer")


def test_a_run_on_a_suite_gets_tables_a_page_and_a_leaderboard(
    classifier, tmp_path, capsys, monkeypatch
):
    wildrf(tmp_path / "data", 3)
    for name in ("twitter", "facebook"):
        (tmp_path / "data/test" / name).rename(tmp_path / name)
    output = tmp_path / "results"
    call = ["wildrf", "--run", str(classifier.path), "--data-dir", str(tmp_path / "data"),
            "--output", str(output)]  # fmt: skip
    assert run_command(benchmark, [*call, "--dry-run"]) == 0
    assert "0 scored before, 2 now (12 images)" in capsys.readouterr().out
    assert not output.exists()
    assert run_command(benchmark, call) == 0
    shown = capsys.readouterr()
    for text in ("Reddit", "missing", "mean of 1 of 3", "tfdetect: classifier", "DDA", "LaDeDa"):
        assert text in shown.out
    assert "no image of it" in shown.err
    [document] = read_results(output)
    [entry] = document["runs"]
    for protocol in ("published", "equalized"):
        found = entry["protocols"][protocol]
        assert set(found["subsets"]) == {"Reddit"} and found["of"] == 3
        part = found["subsets"]["Reddit"]
        assert part["count"] == 6 and part["metrics"]["accuracy"]["value"] is not None
    assert part["crop"] == 16
    assert run_command(benchmark, [*call, "--dry-run"]) == 0
    assert "2 scored before, 0 now (0 images)" in capsys.readouterr().out
    assert our_figures(load_suite("wildrf").published[0], entry) == ([], None)
    page = (output / "wildrf.html").read_text()
    assert "Missing: Twitter, Facebook" in page and "barcavia" in page and "<script" not in page
    assert (output / "leaderboard.md").read_text().count("wildrf") == 1

    # Nothing is scored twice, so nothing needs the detector.
    monkeypatch.setattr(scoring, "load_detector", lambda run: pytest.fail("scored again"))
    again = tfdetect.benchmark("wildrf", classifier, data_dir=tmp_path / "data", output=output,
                               progress=False, log=quiet)  # fmt: skip
    assert again.values["wildrf"] == document
    assert scoring.run_key(classifier.with_threshold(0.9)) == scoring.run_key(classifier)
    assert scoring.run_key(classifier.with_views(flips=True)) != scoring.run_key(classifier)


@pytest.mark.slow
def test_subsets_and_runs_can_be_added_later(classifier, tmp_path, capsys):
    wildrf(tmp_path / "data", 3)
    output = tmp_path / "results"
    call = ["wildrf", "--run", str(classifier.path), "--data-dir", str(tmp_path / "data"),
            "--output", str(output)]  # fmt: skip
    assert run_command(benchmark, [*call, "--subset", "reddit", "--subset", "Twitter"]) == 0
    capsys.readouterr()
    assert run_command(benchmark, [*call, "--subset", "facebook", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["wildrf"]
    [entry] = document["runs"]
    assert list(entry["data"]) == ["Reddit", "Twitter", "Facebook"]
    found = entry["protocols"]["published"]
    accuracies = [part["metrics"]["accuracy"]["value"] for part in found["subsets"].values()]
    assert found["mean"]["accuracy"]["value"] == pytest.approx(np.mean(accuracies))
    values, mean = our_figures(load_suite("wildrf").published[0], entry)
    assert values == [] and mean == pytest.approx(100 * np.mean(accuracies))
    other = tiny_run(tmp_path / "other" / "classifier", False)
    assert run_command(benchmark, [*call, "--run", str(other.path), "--quiet"]) == 0
    board = (output / "leaderboard.html").read_text()
    assert board.count("<tr role") == 3 and str(other.path) in board and 'id="sort-0"' in board
    assert (output / "leaderboard.md").read_text().count("wildrf") == 2


@pytest.mark.slow
def test_images_that_changed_are_scored_again(classifier, tmp_path, monkeypatch):
    wildrf(tmp_path / "data", 2)
    call = ("wildrf", classifier)
    arguments = {"data_dir": tmp_path / "data", "output": tmp_path / "out",
                 "subsets": ("Reddit",), "progress": False, "log": quiet}  # fmt: skip
    tfdetect.benchmark(*call, **arguments)
    lines = []
    image(tmp_path / "data/test/reddit/1_fake/0.png", 99)
    tfdetect.benchmark(*call, **arguments | {"log": lines.append})
    assert not any("scored before" in line for line in lines)
    for path in (tmp_path / "out/scores").rglob("*.parquet"):
        path.write_bytes(b"PAR1")  # such a file is written again
    tfdetect.benchmark(*call, **arguments)
    (tmp_path / "out/wildrf.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a result of this command.*--output"):
        tfdetect.benchmark(*call, **arguments)


@pytest.mark.slow
def test_a_localizer_on_masks(localizer, tmp_path):
    miniature("casia1_samples", tmp_path / "data", 3)
    found = tfdetect.benchmark("casia1_samples", localizer, data_dir=tmp_path / "data",
                               output=tmp_path / "out", progress=False, log=quiet)  # fmt: skip
    [entry] = found.values["casia1_samples"]["runs"]
    part = entry["protocols"]["published"]["subsets"]["Samples"]
    assert part["count"] == 6 and part["change"] == "resized to 512 x 512 pixels"
    assert {"pixel_f1", "pixel_iou", "pixel_auc", "auc"} <= set(part["metrics"])
    [file] = [f for f in (tmp_path / "out/scores").rglob("*.parquet")
              if json.loads(pa.parquet.read_schema(f).metadata[scoring._FACTS])["change"]
              == part["change"]]  # fmt: skip
    pixels = np.array(pa.parquet.read_table(file)["altered_histogram"].to_pylist()).sum(axis=1)
    # The masks are resized with the images: 45 of 256 pixels, of 512 x 512.
    assert sorted(set(pixels.tolist())) == [0, 45 * 32 * 32]


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_full_dry_run(name, localizer, classifier, tmp_path, capsys):
    miniature(name, tmp_path / "data", 3)
    suite = load_suite(name)
    run = localizer if suite.task == "masks" else classifier
    call = [name, "--run", str(run.path), "--data-dir", str(tmp_path / "data"),
            "--output", str(tmp_path / "out")]  # fmt: skip
    assert run_command(benchmark, call) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"tfdetect: {run.name}") == len(suite.published)
    [document] = read_results(tmp_path / "out")
    [entry] = document["runs"]
    for protocol in entry["protocols"].values():
        assert set(protocol["subsets"]) == {subset.name for subset in suite.subsets}
        assert protocol["mean"][suite.main_metric]["value"] is not None
    for table in suite.published:
        values, mean = our_figures(table, entry)
        assert None not in values and mean is not None
    assert all(subset.name in (tmp_path / f"out/{name}.html").read_text()
               for subset in suite.subsets)  # fmt: skip


@pytest.mark.parametrize(("call", "message"), [
    (["genimag", "--run", "x"], "Did you mean 'genimage'"),
    (["genimage"], "Give a run"),
    ([], "Name a suite"),
    (["genimage", "--run", "nowhere"], "nowhere"),
    (["mine.yaml", "--run", "x"], "There is no benchmark suite 'mine.yaml'"),
])  # fmt: skip
def test_mistakes_on_the_command_line_are_explained(call, message, capsys):
    assert run_command(benchmark, call) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_subset_is_explained(classifier, capsys):
    call = ["wildrf", "--run", str(classifier.path), "--subset", "redit"]
    assert run_command(benchmark, call) == 2
    assert "Did you mean 'Reddit'" in capsys.readouterr().err


def test_masks_need_a_localizer(classifier, tmp_path):
    with pytest.raises(UserError, match="compares masks, and classifier predicts none"):
        tfdetect.benchmark("casia1_samples", classifier, output=tmp_path / "out")


def test_the_list_names_every_suite(capsys):
    assert run_command(benchmark, ["--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["suite"] for row in rows] == SUITES == tfdetect.list_benchmarks()


def test_ranks_put_the_best_first_and_unknown_last():
    rows = [
        {"run": name, "as published": {"value": value}, "parameters": count}
        for name, value, count in (("b", 0.5, 30), ("a", None, 10), ("c", 0.9, 20))
    ]
    assert leaderboard._ranks(rows, "as published", True) == [1, 2, 0]
    assert leaderboard._ranks(rows, "parameters", False) == [2, 0, 1]
    assert leaderboard._ranks(rows, "run", False) == [1, 0, 2]


def test_intervals_and_numbers_of_subsets_are_below_their_cells():
    value = {"value": 0.5, "low": 0.25, "high": 0.75}
    row = {"run": "a [1]", "suite": "wildrf", "subsets": "1 of 3", "metric": "accuracy",
           "as published": value, "format-equalized": None, "AUC": value, "parameters": 1234,
           "images a second": 4800.5}  # fmt: skip
    assert leaderboard._stacked(row) == [
        ("a [1]", ""), ("wildrf", "1 of 3 subsets"), ("accuracy", ""),
        ("0.500", "[0.250,\xa00.750]"), ("-", ""), ("0.500", "[0.250,\xa00.750]"), ("1,234", ""),
        ("4,800.5", ""),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_suite_of_your_own(classifier, tmp_path):
    pairs(tmp_path / "photos/test", ["reddit"], "0_real", "1_fake", 3)
    suite = Suite(
        name="mine", title="Mine", paper="-", homepage="-", task="images", dataset="wildrf",
        split="test", equalize=Equalize(side=16), protocol=Protocol(text="-", source="-"),
        subsets=({"name": "Mine"},),
    )  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(suite.model_dump(mode="json")))
    found = tfdetect.benchmark(str(path), classifier, data_dir=tmp_path / "photos",
                               output=tmp_path / "out", progress=False, log=quiet)  # fmt: skip
    assert found.values["mine"]["runs"][0]["protocols"]["published"]["mean"]["accuracy"]["value"]
    assert "No published table" in Path(found.reports["mine"]).read_text()
    assert replace(found, keys=()).leaderboard.is_file()
