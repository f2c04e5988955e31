"""Degradations of fixed strength, and what evaluate makes of them."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image, ImageFilter

from tfdetect import api
from tfdetect.core.cli import run_command
from tfdetect.core.errors import UserError
from tfdetect.data.loading import view_dataset
from tfdetect.data.plan import find_data, make_plan
from tfdetect.data.sources import Files, image_source
from tfdetect.evaluate import main as evaluate_command
from tfdetect.evaluation.attacks import Attacker, parse_attacks
from tfdetect.evaluation.predictions import predict_source
from tfdetect.evaluation.robustness_report import _curves, result_name
from tfdetect.imaging.degradations import KINDS, SETS, parse_degradations
from tfdetect.models.saving import load_detector


def picture(height=60, width=90):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(20, 235, (6, 9, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def changed(name, image, number=0):
    [degradation] = parse_degradations(name)
    return degradation(tf.constant(image), tf.constant(number, tf.int64)).numpy()


@pytest.mark.parametrize("name", SETS["grid"])
def test_each_changes_the_image_alike_eagerly_and_in_a_pipeline(name):
    image = picture(150, 200)
    [degradation] = parse_degradations(name)
    eager = changed(name, image, 3)
    data = tf.data.Dataset.from_tensors(image).map(
        lambda i: degradation(i, tf.constant(3, tf.int64))
    )
    inside = data.get_single_element().numpy()
    assert eager.dtype == np.uint8 and eager.shape[2] == 3
    # XLA-free graphs may round a filter's last bit otherwise.
    assert np.abs(inside.astype(int) - eager).max() <= 1 and (inside != eager).mean() < 0.01
    assert eager.shape != image.shape or (eager != image).any()


def test_degradations_do_what_pillow_does():
    image = picture()
    for quality in (30, 65, 95):
        data = io.BytesIO()
        Image.fromarray(image).save(data, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(data)).astype(int)
        assert np.abs(changed(f"jpeg:{quality}", image) - theirs).mean() < 1.0
        data = io.BytesIO()
        Image.fromarray(image).save(data, "WEBP", quality=quality)
        assert (changed(f"webp:{quality}", image) == np.asarray(Image.open(data))).all()
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(3))).astype(int)
    middle = slice(12, -12)
    ours = changed("blur:3", image)
    assert np.abs(ours[middle, middle] - blurred[middle, middle]).mean() < 1.5
    assert (changed("crop:0.5", image) == image[15:45, 22:67]).all()
    assert (changed("darker:0.5", image) == np.round(image * 0.5)).mean() > 0.99


def test_sizes_and_noise():
    image = picture(60, 90)
    assert changed("side:30", image).shape == (30, 45, 3)
    assert (changed("side:112", image) == image).all()
    assert changed("scale:0.5", image).shape == (30, 45, 3)
    assert changed("screenshot:1.5", image).shape == (90, 135, 3)
    assert changed("social:2", image).shape == (38, 58, 3)
    one, same, other = (changed("noise:10", image, n) for n in (1, 1, 2))
    assert (one == same).all() and (one != other).any()
    assert 7 < (one.astype(float) - image)[image.min(2) > 40].std() < 12


def test_names_of_degradations():
    names = [d.name for d in parse_degradations("genimage, jpeg:65.0,blur:3")]
    assert names == list(SETS["genimage"])
    others = [k for name, k in KINDS.items() if name != "band"]
    assert len(parse_degradations("grid")) == sum(len(k.grid) for k in others) == 36
    for wrong, words in (("jpg:30", "Did you mean 'jpeg'"), ("jpeg", "from 1 to 100"),
                         ("blur:x", "Gaussian blur"), ("crop:1.5", "from 0.01 to 1"),
                         ("jpeg:nan", "from 1 to 100"), ("", "degradation")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            parse_degradations(wrong)


def test_images_are_degraded_before_they_are_brought_to_size(shared_run, tmp_path):
    run, root = shared_run
    paths = sorted(map(str, root.glob("test/*/*.png")))
    [jpeg] = parse_degradations("jpeg:40")
    detector = load_detector(run)
    found = predict_source(run, detector, Files(paths), change=jpeg)["p_fake"].to_numpy()
    written = []
    for number, path in enumerate(paths):
        target = tmp_path / f"{number}.png"
        Image.fromarray(changed("jpeg:40", np.asarray(Image.open(path)))).save(target)
        written.append(str(target))
    expected = predict_source(run, detector, Files(written))["p_fake"].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    undegraded = predict_source(run, detector, Files(paths))["p_fake"].to_numpy()
    assert np.abs(found - undegraded).max() > 0.01


def test_evaluate_draws_curves(shared_run, tmp_path, capsys):
    run, root = shared_run
    output = tmp_path / "out"
    arguments = [str(run.path), "--output", str(output), "--data-dir", str(root)]
    assert run_command(evaluate_command, [*arguments, "--degrade", "blur:0.3,blur:3,jpeg:20"]) == 0
    assert "keep their verdict under all of them" in capsys.readouterr().out
    found = json.loads((output / "degradations.json").read_text())
    assert list(found["degradations"]) == ["none", "blur:0.3", "blur:3", "jpeg:20"]
    none, strong = found["degradations"]["none"], found["degradations"]["blur:3"]
    assert none["flipped"] == 0 and none["metrics"]["accuracy"]["value"] > 0.9
    # The checkerboard of the fakes is gone after a blur.
    assert strong["metrics"]["recall"]["value"] < 0.2 < strong["flipped"]
    table = pq.read_table(output / "degradations.parquet")
    assert table.num_rows == 32 and "blur:3" in table.column_names
    verdicts = [table[n].to_numpy() >= 0.5 for n in found["degradations"]]
    stable = np.all([v == verdicts[0] for v in verdicts], axis=0).mean()
    assert found["stable"] == pytest.approx(stable)
    assert "data:image/png" in (output / "degradations.html").read_text()
    for wrong, words in (
        (["--degrade", "fog:3"], "Unknown degradation 'fog'"),
        (["--degrade", "jpeg:30", "--split", "test", "--split", "train"], "takes one --split"),
    ):
        assert run_command(evaluate_command, [*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err


def test_attacks_stay_in_their_ball_and_mislead(shared_run):
    run, root = shared_run
    catalog = find_data(make_plan(str(root)), progress=False)
    rows = catalog.split("test").slice(0, 12)
    [(_, views)] = view_dataset(image_source(catalog, rows), run.views, 12)
    images = tuple(view.numpy() for view in views)
    fake, numbers = rows["label"].to_numpy() > 0, np.arange(12)
    attacker = Attacker(run, load_detector(run))
    clean = attacker.loss(images, fake)
    gains = {}
    for attack in parse_attacks("pgd,square", "2/255,8/255", 4, 12):
        tried = attacker(attack, images, fake, numbers)
        distance = np.abs(tried[0].astype(int) - images[0])
        assert tried[0].dtype == np.uint8 and 0 < distance.max() <= attack.levels
        loss = attacker.loss(tried, fake)
        assert (loss >= clean - 1e-4).all() and ((loss > 0) >= (clean > 0)).all()
        gains[attack.name] = (loss - clean).mean()
        half = attacker(attack, (images[0][6:],), fake[6:], numbers[6:])  # no other image matters
        assert (half[0] == tried[0][6:]).mean() > 0.9
    for kind in ("pgd", "square"):
        assert 0 < gains[f"{kind}:2/255"] < gains[f"{kind}:8/255"]


def test_curves_of_metrics_without_an_interval():
    one = {"value": 0.5, "low": None, "high": None}
    result = {"metrics": dict.fromkeys(("accuracy", "recall", "fpr", "iou"), one)}
    figure = _curves({"degradations": {"none": result, "blur:1": result}})
    assert len(figure.axes[0].lines) == 4


def test_attacks_alone_have_files_of_their_own():
    result, attack = {"metrics": {}}, {"metrics": {}, "budget": 3}
    both = {"none": result, "blur:1": result, "pgd:2/255": attack}
    assert result_name({"degradations": {"none": result, "pgd:2/255": attack}}) == "attacks"
    assert result_name({"degradations": both}) == "degradations"
    assert result_name({"degradations": {"none": result, "blur:1": result}}) == "degradations"


def test_evaluate_attacks(shared_run, tmp_path, capsys):
    run, root = shared_run
    output = tmp_path / "out"
    arguments = [str(run.path), "--output", str(output), "--data-dir", str(root)]
    attack = ["--attack", "pgd,square", "--strength", "4/255", "--steps", "3", "--queries", "5"]
    assert run_command(evaluate_command, [*arguments, "--degrade", "blur:0.3", *attack]) == 0
    assert "pgd:4/255" in capsys.readouterr().out
    found = json.loads((output / "degradations.json").read_text())["degradations"]
    assert list(found) == ["none", "blur:0.3", "pgd:4/255", "square:4/255"]
    values = {name: result["metrics"]["auc"]["value"] for name, result in found.items()}
    assert max(values["pgd:4/255"], values["square:4/255"]) <= values["none"] + 1e-4
    assert found["pgd:4/255"]["budget"] == 3 and found["square:4/255"]["budget"] == 5
    assert "not a promise" in (output / "degradations.html").read_text()
    for wrong, words in (
        (["--attack", "pdg"], "Unknown attack 'pdg'. Did you mean 'pgd'?"),
        (["--attack", "pgd", "--strength", "0.5/255"], "whole numbers of the 255 levels"),
        (["--strength", "2/255"], "--strength belongs to --attack"),
        (["--degrade", "jpeg:75", "--queries", "5"], "--queries belongs to --attack"),
    ):
        assert run_command(evaluate_command, [*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err


def test_degradations_are_checked_before_data_are_looked_for():
    with pytest.raises(UserError, match="jpeg:abc"):
        api.measure_robustness("cifake_small_resnet", "jpeg:abc", "no/such/folder")
    with pytest.raises(UserError, match="no/such/folder"):
        api.measure_robustness("cifake_small_resnet", "jpeg:75", "no/such/folder")


def test_bands_partition_the_spectrum_and_leave_the_mean():
    draw = np.random.default_rng(0)
    image = np.clip(draw.normal(128, 12, (40, 56, 3)), 0, 255).astype(np.uint8)
    parts = []
    for band in parse_degradations("bands"):
        without = band(tf.constant(image), tf.constant(0, tf.int64)).numpy()
        assert without.dtype == np.uint8 and without.shape == image.shape
        parts.append(image.astype(np.float64) - without)
    # What the eight take away is all but the mean, up to eight roundings.
    rest = image - np.sum(parts, axis=0)
    assert np.abs(rest - image.mean((0, 1))).max() <= 4.5
    power = [np.abs(np.fft.fft2(part[..., 0])) ** 2 for part in parts]
    radius = np.hypot(np.fft.fftfreq(40)[:, None], np.fft.fftfreq(56))
    for number, found in enumerate(power):
        own = (radius * 16 >= number) & ((radius * 16 < number + 1) | (number == 7))
        assert found[own].sum() > 0.95 * found.sum()


def test_bands_are_no_part_of_the_grid():
    assert not [d for d in parse_degradations("grid") if d.kind == "band"]
    assert [d.name for d in parse_degradations("bands")] == [f"band:{n}" for n in range(1, 9)]
