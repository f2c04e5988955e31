"""Degradations of fixed strength, and what evaluate makes of them."""

import functools
import io
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image, ImageFilter

from tfdetect import api
from tfdetect.core.data_settings import Equalize
from tfdetect.core.errors import UserError
from tfdetect.core.run_command import run_command
from tfdetect.core.run_info import View
from tfdetect.data.loading import view_dataset
from tfdetect.data.plan import find_data, make_plan
from tfdetect.data.sources import Files, image_source
from tfdetect.evaluate import main as evaluate_command
from tfdetect.evaluation.attacks import Attacker, parse_attacks
from tfdetect.evaluation.predictions import CompiledDetector, predict_changed, predict_source
from tfdetect.evaluation.robustness_report import (
    change_words,
    format_robustness,
    result_name,
    robustness_curves,
)
from tfdetect.evaluation.stability import REENCODINGS
from tfdetect.imaging.degradations import KINDS, SETS, done_to, parse_degradations
from tfdetect.imaging.draws import normal_from
from tfdetect.imaging.geometry import view_parts
from tfdetect.imaging.partial import Picture, cut, picture_parts
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
    told = {name: done_to(name) for name in ("scale:0.75", "band:3", *SETS["reencode"])}
    assert told == {
        "scale:0.75": "resized to 0.75 times the width and height",
        "band:3": "filtered: band 3 of 8 of its frequencies removed (1 is the lowest)",
        "jpeg:96": "saved once more, as JPEG of quality 96",
    }
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
    found = predict_source(run, detector, Files(paths), change=jpeg.of)["p_fake"].to_numpy()
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
    page = (output / "degradations.html").read_text()
    assert "data:image/png" in page and "saved once more, as JPEG of quality 20" in page
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
    figure = robustness_curves({"degradations": {"none": result, "blur:1": result}})
    assert len(figure.axes[0].lines) == 4


def test_unequal_classes_and_guesses_are_shown_as_such():
    def result(accuracy, balanced, auc):
        values = {"accuracy": accuracy, "balanced_accuracy": balanced, "auc": auc}
        metrics = {name: {"value": v, "low": v and v - 0.1, "high": v and v + 0.1}
                   for name, v in values.items()}  # fmt: skip
        return {"metrics": metrics, "flipped": 0.1}

    found = {"count": 90, "stable": 0.5, "degradations": {
        "none": result(0.7, 0.8, 0.9), "blur:1": result(0.667, 0.5, 0.5)}}  # fmt: skip
    said = format_robustness(found)
    assert "balanced accuracy" in said and "0.800" in said and "0.667" not in said
    assert (
        "warning: The detector is not shown to be better than guessing" in said
        and said.endswith("on: blur:1.")
    )
    one_class = {"none": result(0.7, None, None), "blur:1": result(0.6, None, None)}
    said = format_robustness({**found, "degradations": one_class})
    assert "0.600" in said and "balanced" not in said and "guessing" not in said


def test_attacks_alone_have_files_of_their_own():
    result, attack = {"metrics": {}}, {"metrics": {}, "budget": 3}
    both = {"none": result, "blur:1": result, "pgd:2/255": attack}
    assert result_name({"degradations": {"none": result, "pgd:2/255": attack}}) == "attacks"
    assert result_name({"degradations": both}) == "degradations"
    assert change_words({"degradations": both})[1] == "degradations and attacks"
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
    alone = ["--attack", "pgd", "--strength", "4/255", "--steps", "1"]
    assert run_command(evaluate_command, [*arguments, *alone]) == 0
    said = capsys.readouterr()
    page = re.sub(r"<style.*?</style>|data:[^\"]*", "", (output / "attacks.html").read_text())
    assert "robustness to attacks" in page and "attack pgd:4/255" in page + said.err
    assert "degrad" not in page + said.out and "degradation pgd" not in said.err
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


# ---- parts of changed images


def photograph(height, width):
    """A picture with detail at all scales, whose sides fit no grid."""
    draw = np.random.default_rng(1)
    pixels = sum(
        np.asarray(
            Image.fromarray(
                draw.integers(0, 255, (height // step + 2, width // step + 2, 3), np.uint8)
            ).resize((width, height), Image.Resampling.BICUBIC),
            np.float32,
        )
        for step in (2, 16, 90)
    )
    return tf.constant((pixels / 3).astype(np.uint8))


ALL_KINDS = [*SETS["grid"], *SETS["bands"], "side:300"]


@pytest.mark.parametrize("name", ALL_KINDS)
def test_a_part_of_a_degraded_image_is_cut_out_of_the_whole_one(name):
    image, number = photograph(453, 611), tf.constant(5, tf.int64)
    [degradation] = parse_degradations(name)
    whole = degradation(image, number).numpy()
    picture = degradation.of(Picture.of(image), number)
    height, width = whole.shape[:2]
    np.testing.assert_array_equal(picture.size, (height, width))
    parts = [
        (height // 3, width // 4, height // 2, width // 3), (0, 0, 20, width), (0, width - 9, 7, 9),
        (height - 1, width - 1, 1, 1), (height - 31, 3, 31, 50),
    ]  # fmt: skip
    for top, left, tall, wide in parts:
        found = picture.read(tf.constant([top, left]), tf.constant([tall, wide])).numpy()
        np.testing.assert_array_equal(found, whole[top : top + tall, left : left + wide])


EQUALIZED = Equalize(side=128, quality=(80, 95))
VIEWS = {
    "middle, equalized": [View(size=(64, 64), policy="crop", equalize=EQUALIZED)],
    "nine windows of the middle": [
        View(size=(48, 48), policy="window_pad", crops=9, equalize=EQUALIZED)
    ],
    "window": [View(size=(96, 80), policy="window_tile")],
    "larger than the image": [View(size=(640, 704), policy="window_pad")],
    "two middles": [
        View(size=(64, 64), policy="stretch", equalize=EQUALIZED),
        View(size=(90, 90), policy="window_pad"),
    ],
    "whole": [View(size=(64, 64), policy="crop")],
    "corners": [View(size=(64, 64), policy="window_tile", crops=5)],
    "middle and whole": [
        View(size=(64, 64), policy="crop", equalize=EQUALIZED),
        View(size=(64, 64), policy="pad"),
    ],
}


@functools.cache
def reencoded(shape):
    """Return a photograph, and each of the re-encodings with what it makes of it."""
    image, number = photograph(*shape), tf.constant(0, tf.int64)
    return image, [
        (change, change(image, number)) for change in parse_degradations(",".join(REENCODINGS))
    ]


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_a_detector_sees_of_a_degraded_part_what_it_sees_of_the_whole(views):
    for shape in ((453, 611), (100, 340)):
        image, changes = reencoded(shape)
        for change, changed in changes:
            expected = view_parts(changed, views)
            found = picture_parts(change.of(Picture.of(image), tf.constant(0, tf.int64)), views)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=f"{change.name} {shape}")


def test_of_a_degraded_image_no_more_is_computed_than_a_middle_view_reads():
    """Each pixel of the image that is read is counted."""
    image, [view] = photograph(1531, 2011), VIEWS["middle, equalized"]
    for change in parse_degradations(",".join(REENCODINGS)):
        read = []

        def counted(start, size, read=read):
            read.append(int(size[0] * size[1]))
            return cut(image, start, size)

        picture = Picture(tf.constant([1531, 2011]), counted)
        picture_parts(change.of(picture, tf.constant(0, tf.int64)), [view])
        middle = 128**2 * (2.2**2 if ":0.5" in change.name or "social" in change.name else 1.6**2)
        limit = 1531 * 2011 if change.kind == "webp" else 2 * middle
        assert 0 < sum(read) <= limit, change.name


def test_predictions_of_changed_files_are_those_of_the_changed_image(shared_run, tmp_path):
    run, _ = shared_run
    compiled = CompiledDetector(run, load_detector(run))
    image = photograph(150, 210)
    Image.fromarray(image.numpy()).save(tmp_path / "image.png")
    changes = parse_degradations("jpeg:75,scale:0.5,noise:3,social:2")
    found = list(predict_changed(run, compiled, image, [c.of for c in changes]))
    source = Files([str(tmp_path / "image.png")])
    for change, p_fake in zip(changes, found, strict=True):
        table = predict_source(run, compiled, source, change=change.of, progress=False)
        assert p_fake == pytest.approx(table["p_fake"].to_pylist()[0], abs=1e-6)


def test_an_impossible_change_has_no_prediction(shared_run):
    run, _ = shared_run
    compiled = CompiledDetector(run, load_detector(run))
    long = tf.zeros([2, 16_384, 3], tf.uint8)
    changes = parse_degradations("webp:75,crop:0.9")
    webp, crop = predict_changed(run, compiled, long, [c.of for c in changes])
    assert webp is None and 0 <= crop <= 1


def test_normal_numbers_can_be_drawn_from_any_one_on():
    seed = tf.constant([7, 3], tf.int32)
    every = tf.random.stateless_normal([403], seed).numpy()
    for first in (0, 1, 4, 57, 398):
        found = normal_from(seed, tf.constant(first, tf.int64), tf.constant([5]))
        np.testing.assert_array_equal(found, every[first : first + 5])
