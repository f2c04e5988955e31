"""Masks: losses, tiles, metrics, and the workflow from a dataset with masks to an overlay."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.metrics as sk
import tensorflow as tf
from conftest import SMALL, fit_small, train_small
from PIL import Image
from scipy.special import expit

from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.run_command import run_command
from tfdetect.core.run_info import Calibration, DatasetInfo, RunInfo, View
from tfdetect.core.training_settings import MaskLoss
from tfdetect.data.plan import find_data, make_plan
from tfdetect.data.prepare_dataset import write_shards
from tfdetect.data.shard_writer import Copies
from tfdetect.data.targets import UNKNOWN
from tfdetect.data.training_data import training_data
from tfdetect.data.validation_stream import validation_data
from tfdetect.evaluate import main as evaluate
from tfdetect.evaluation import mask_metrics as masks
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.adaptation import with_mask_threshold
from tfdetect.evaluation.attacks import parse_attacks
from tfdetect.evaluation.calibrate_finished_run import with_tile_pooling
from tfdetect.evaluation.calibration_settings import CalibrationSettings
from tfdetect.evaluation.evaluate_run import evaluate_run
from tfdetect.evaluation.intervals import proportion
from tfdetect.evaluation.mask_intervals import mask_intervals
from tfdetect.evaluation.measure import pixel_counts
from tfdetect.evaluation.overlays import overlay
from tfdetect.evaluation.robustness import measure_robustness
from tfdetect.evaluation.verdicts import mask_is_shown, shown_mask
from tfdetect.explanation.wording import view_sentence
from tfdetect.generalization.domains import Domains
from tfdetect.generalization.matrix_report import format_matrix, write_report
from tfdetect.generalization.measure_matrix import MatrixRow, matrix_result, measure_cells
from tfdetect.imaging.degradations import parse_degradations
from tfdetect.imaging.geometry import resize, restore
from tfdetect.imaging.tiles import by_tiles
from tfdetect.light.onnx_detector import LightDetector
from tfdetect.models.detector import build_detector
from tfdetect.models.exports import write_exports
from tfdetect.models.inference import calibrated, score_images, shown_masks
from tfdetect.models.saved_model import run_signature
from tfdetect.models.saving import load_detector
from tfdetect.predict import main as predict
from tfdetect.train import main as train
from tfdetect.training.devices import configure_devices
from tfdetect.training.mask_losses import MaskCriterion, MaskIoU, edges
from tfdetect.training.state import TrainState

LOCALIZER = [
    "data.image_size=32", "data.resize=window_tile",
    "model.options={widths: [8, 16], blocks: [1, 1], strides: [2, 2], stem: 8}",
    "model.head=top_pixels", "model.mask_head=decoder", "model.mask_options={width: 8}",
    "training.monitor=iou", "training.mask_loss={name: focal_dice, alpha: null}",
]  # fmt: skip


def write_forged(root):
    """Smooth photographs of 40 x 36 pixels, and forgeries with a noisy rectangle, the mask."""
    rng = np.random.default_rng(0)
    root.mkdir()
    rows = ["path,label,generator,mask,group"]
    for number in range(60):
        coarse = Image.fromarray(rng.integers(40, 215, (4, 4, 3), np.uint8))
        pixels = np.asarray(coarse.resize((40, 36), Image.Resampling.BICUBIC))
        mask = np.zeros((36, 40), np.uint8)
        top, left = rng.integers(0, 16, 2)
        mask[top : top + 16, left : left + 20] = 255
        noise = rng.integers(-40, 40, pixels.shape)
        fake = np.where(mask[..., None] > 0, np.clip(pixels + noise, 0, 255), pixels)
        Image.fromarray(pixels).save(root / f"{number}.real.png")
        Image.fromarray(fake.astype(np.uint8)).save(root / f"{number}.fake.png")
        Image.fromarray(mask).save(root / f"{number}.mask.png")
        rows.append(f"{number}.real.png,real,,,{number}")
        rows.append(f"{number}.fake.png,fake,noise,{number}.mask.png,{number}")
    (root / "manifest.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def forged(tmp_path):
    return write_forged(tmp_path / "forged")


def stream(root, with_masks=True, **data):
    plan = make_plan(str(root), "small_images", LOCALIZER)
    catalog = find_data(plan, progress=False)
    settings = plan.experiment.data.model_copy(update=data)
    table = catalog.split("train")
    return training_data(catalog, table, settings, 2, 8, 1, with_masks)


# --- losses


def test_focal_loss_has_the_published_values():
    """Section 0.4 of the facts: at logit 0, gamma 2, alpha 0.25."""
    loss = MaskCriterion(MaskLoss(name="focal", alpha=0.25, gamma=2.0))
    zeros = tf.zeros([1, 4, 4, 1])
    assert float(loss(zeros + 1, zeros)) == pytest.approx(0.04332, abs=1e-5)
    assert float(loss(zeros, zeros)) == pytest.approx(0.12997, abs=1e-5)
    plain = MaskCriterion(MaskLoss(name="focal", alpha=None, gamma=2.0))
    assert float(plain(zeros, zeros)) == pytest.approx(0.17329, abs=1e-5)


def test_focal_without_alpha_and_gamma_is_cross_entropy():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (3, 8, 8, 1)).astype(np.float32)
    logits = rng.normal(0, 3, truth.shape).astype(np.float32)
    expected = keras.losses.BinaryCrossentropy(from_logits=True)(truth, logits)
    for settings in (MaskLoss(name="bce"), MaskLoss(name="focal", alpha=None, gamma=0)):
        assert float(MaskCriterion(settings)(truth, logits)) == pytest.approx(float(expected), 1e-5)
    focal = MaskCriterion(MaskLoss(name="focal", alpha=0.3, gamma=1.5))(truth, logits)
    theirs = keras.losses.BinaryFocalCrossentropy(True, 0.3, 1.5, from_logits=True)(truth, logits)
    assert float(focal) == pytest.approx(float(theirs), 1e-4)


@pytest.mark.parametrize("name", ["bce", "focal", "dice", "focal_dice"])
def test_unknown_pixels_do_not_count(name):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, (2, 8, 8, 1)).astype(np.uint8)
    logits = rng.normal(0, 2, truth.shape).astype(np.float32)
    half = truth.copy()
    half[:, 4:] = UNKNOWN
    loss = MaskCriterion(MaskLoss(name=name))
    alone = loss(truth[:, :4], logits[:, :4])
    assert float(loss(half, logits)) == pytest.approx(float(alone), rel=1e-5)
    with tf.GradientTape() as tape:
        variable = tf.Variable(logits)
        tape_loss = loss(np.full_like(truth, UNKNOWN), variable)
    gradient = tape.gradient(tape_loss, variable)
    assert float(tape_loss) == 0 and not np.any(gradient)


def test_dice_and_edges():
    truth = np.zeros((1, 12, 12, 1), np.float32)
    truth[:, 3:9, 3:9] = 1
    dice = MaskCriterion(MaskLoss(name="dice"))
    assert float(dice(truth, (truth * 2 - 1) * 30)) == pytest.approx(0, abs=1e-5)
    assert float(dice(truth, (1 - truth * 2) * 30)) > 0.95
    near = edges(tf.constant(truth), 1).numpy()[0, ..., 0]
    assert near[5, 2] == near[5, 3] == 1 and near[5, 5] == near[0, 0] == 0
    wrong = np.where(near[None, ..., None] > 0, -5.0, (truth * 2 - 1) * 5).astype(np.float32)
    plain = MaskCriterion(MaskLoss(name="bce"))(truth, wrong)
    assert float(MaskCriterion(MaskLoss(name="bce", edge=4))(truth, wrong)) > float(plain)


def test_iou_while_training_counts_empty_masks_as_right():
    truth = np.zeros((4, 4, 4, 1), np.uint8)
    truth[0, :2] = 1
    truth[3] = UNKNOWN
    logits = np.full(truth.shape, -1.0, np.float32)
    logits[0, 1:3] = 1.0  # 4 of 12 pixels agree
    logits[2, 0, 0] = 1.0  # authentic, but some pixels are predicted as altered
    metric = MaskIoU()
    metric.update_state(truth, logits)
    assert float(metric.result()) == pytest.approx((4 / 12 + 1 + 0) / 3)
    metric.reset_state()
    metric.update_state(truth, logits, sample_weight=np.array([1.0, 0, 0, 1]))
    assert float(metric.result()) == pytest.approx(4 / 12)


# --- tiles and sizes


@pytest.mark.parametrize("policy", ["window_tile", "window_pad"])
@pytest.mark.parametrize("shape", [(32, 32), (33, 32), (150, 61), (20, 100), (57, 56), (9, 11)])
def test_tiles_join_to_the_whole(shape, policy):
    """A detector that says what it sees gives the image back, whatever the size."""
    images = np.random.default_rng(0).integers(1, 255, (2, *shape, 3), np.uint8)

    def look(tiles):
        assert tiles.shape[1:3] == (32, 32)
        return tf.cast(tiles[:, 0, 0], tf.float32), tf.cast(tiles[..., :1], tf.float32)

    answers, maps = by_tiles(tf.constant(images), (32, 32), policy, look)
    np.testing.assert_allclose(maps[..., 0], images[..., 0], atol=1e-3)
    assert answers.shape[0] == 2 and answers.shape[2] == 3


def test_tiles_fade_into_each_other():
    """Where two tiles disagree there is a ramp, and no seam."""
    count = iter(range(100))

    def look(tiles):
        levels = tf.constant([float(next(count)) for _ in range(len(tiles))])
        return levels[:, None], tf.ones_like(tiles[..., :1]) * levels[:, None, None, None]

    _, maps = by_tiles(tf.zeros([1, 32, 56, 3]), (32, 32), "window_tile", look)
    row = maps.numpy()[0, 5, :, 0]
    assert row[0] == 0 and row[-1] == 1 and (np.diff(row) >= 0).all()
    assert np.diff(row).max() <= 1 / 8 + 1e-6


@pytest.mark.parametrize("policy", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(40, 60), (64, 30), (32, 32)])
def test_masks_come_back_to_the_image(policy, shape):
    mask = np.zeros((*shape, 1), np.uint8)
    mask[shape[0] // 3 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 1
    small = resize(tf.constant(mask), (32, 32), policy, nearest=True)
    back = restore(tf.cast(small, tf.float32)[None], tf.constant(shape), policy)[0] >= 0.5
    assert back.shape == mask.shape
    both, either = (back & (mask > 0)).numpy().sum(), (back | (mask > 0)).numpy().sum()
    assert both / either > 0.7


# --- models


@pytest.mark.usefixtures("zeros_everywhere")
def test_fcn_resnet50_has_the_published_size():
    overrides = ["model.weights=none", "model.mask_options={aux: true}"]
    detector = build_detector(load_experiment("fcn_resnet50", overrides), 2)
    plain = keras.Model(detector.input, {name: detector.output[name] for name in ("label", "mask")})
    for model, count in ((plain, 32_946_753), (detector, 35_306_818)):
        assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == count
    assert detector.output["mask"].shape[1:] == (512, 512, 1)
    network = next(layer for layer in detector.layers if isinstance(layer, keras.Model))
    assert network.outputs[0].shape[1:] == (64, 64, 2048)


# --- data


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_masks_move_with_their_images(forged, cache):
    """The forged region is the noisy one, wherever flips, warps and crops put it."""
    policy = [{"name": "flip", "probability": 1.0}, {"name": "warp", "shift": 0.1, "zoom": 0.1}]
    plan = make_plan(str(forged), "small_images", LOCALIZER)
    settings = plan.experiment.data.model_validate(
        {"image_size": [36, 40], "resize": "stretch", "cache": cache, "augment": policy}
    )
    images, targets = next(iter(stream(forged, **dict(settings)).batches()))
    drawn = targets["mask"].numpy()[..., 0]
    assert set(np.unique(drawn)) == {0, 1}  # no resampling softens it
    jumps = np.abs(np.diff(images.numpy().sum(-1), axis=2))
    for jump, mask, label in zip(jumps, drawn[:, :, 1:], targets["label"].numpy()[:, 0]):
        assert label == mask.any()
        if label:
            assert jump[mask > 0].mean() > 2 * jump[mask == 0].mean()


@pytest.mark.slow
def test_memory_files_and_shards_give_the_same_masks(forged, tmp_path):
    done = write_shards(*_described(forged), tmp_path / "shards", Copies(), 10_000, 1, False)
    one = {"image_size": (36, 40), "resize": "stretch", "augment": ()}
    memory = next(iter(stream(forged, cache="memory", **one).batches()))
    files = next(iter(stream(forged, cache="none", **one).batches()))
    assert np.array_equal(memory[0], files[0])
    assert np.array_equal(memory[1]["mask"], files[1]["mask"])
    found = set()
    for root in (forged, done.folder.parent):
        batches = stream(root, cache="none", **one).batches().take(20)
        found.add(frozenset(
            (x.numpy().tobytes(), m.numpy().tobytes())
            for images, y in batches for x, m in zip(images, y["mask"])
        ))  # fmt: skip
    assert len(found) == 1


def _described(root):
    plan = make_plan(str(root), None, [])
    return find_data(plan, progress=False), plan.spec


def test_a_window_beside_the_forgery_counts_as_authentic(forged):
    data = stream(forged, image_size=(16, 16), cache="none")
    seen = set()
    for _, targets in data.batches().take(12):
        altered = targets["mask"].numpy().any(axis=(1, 2, 3))
        assert np.array_equal(targets["label"].numpy()[:, 0] > 0, altered)
        seen |= set(altered)
    assert seen == {True, False}


def test_fakes_without_a_mask_are_unknown(forged):
    header, *rows = (forged / "manifest.csv").read_text().splitlines()
    some = [row.replace(row.split(",")[3], "") if row.startswith("1") else row for row in rows]
    (forged / "manifest.csv").write_text("\n".join([header, *some]))
    kinds = set()
    for _, targets in stream(forged).batches().take(10):
        for mask, label in zip(targets["mask"].numpy(), targets["label"].numpy()[:, 0]):
            kinds.add((int(label), *map(int, np.unique(mask))))
    assert kinds == {(0, 0), (1, UNKNOWN), (1, 0, 1)}


def test_a_broken_mask_is_named_and_does_not_end_training(forged):
    stream(forged)  # the catalog knows the masks as they are
    for name in ("7.mask.png", "8.mask.png"):
        (forged / name).write_bytes(b"broken")
    data = stream(forged, cache="memory")
    assert data.count == len(data.examples.images) - len(data.unreadable)
    assert all("its mask" in error for error in data.unreadable.values())
    lost = stream(forged, cache="none")
    assert sum(1 for _ in lost.batches().take(20)) == 20
    names = {name.split("/")[-1] for name in lost.examples.find_unreadable()}
    assert names <= {"7.fake.png", "8.fake.png"} and bool(names) == bool(lost.skipped_count)


def test_validation_masks_are_padded_with_weight_0(forged):
    plan = make_plan(str(forged), "small_images", LOCALIZER)
    catalog = find_data(plan, progress=False)
    table = catalog.split("validation")
    batches = list(validation_data(catalog, table, plan.experiment.data, 2, 7, True))
    weights = np.concatenate([w["mask"].numpy() for _, _, w in batches])
    assert weights.sum() == table.num_rows and len(weights) % 7 == 0
    assert all(y["mask"].shape == (7, 32, 32, 1) for _, y, _ in batches)


# --- metrics


def test_mask_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    truths = [rng.random((20, 30)) < share for share in (0.1, 0.3, 0.5, 0.0, 0.2, 0.4, 0.1, 0, 0.3)]
    scores = [np.clip(0.35 * t + 0.6 * rng.random(t.shape), 0, 1) for t in truths]
    scores[3] *= 0.4  # an authentic image whose mask is empty
    # Whole bins, so that nothing is rounded.
    scores = [1 / (1 + np.exp(-(np.round(s * 60) - 30.5) / 10)) for s in scores]
    counts = [masks.count_pixels(s.astype(np.float32), t) for s, t in zip(scores, truths)]
    positive, negative = map(np.stack, zip(*counts))
    pixels = masks.PixelCounts(positive, negative, np.ones(len(truths), bool))
    found = masks.mask_metrics(pixels)(np.ones(len(truths)))
    altered = [(t.ravel(), s.ravel()) for t, s in zip(truths, scores) if t.any()]
    for name, theirs in (
        ("iou_altered", lambda t, s: sk.jaccard_score(t, s >= 0.5)),
        ("f1", lambda t, s: sk.f1_score(t, s >= 0.5)),
        ("ap", sk.average_precision_score), ("auc", sk.roc_auc_score),
    ):  # fmt: skip
        assert found[name] == pytest.approx(np.mean([theirs(*pair) for pair in altered]), abs=1e-9)
    t, s = np.concatenate([x.ravel() for x in truths]), np.concatenate([x.ravel() for x in scores])
    for name, theirs in (
        ("iou_data", sk.jaccard_score(t, s >= 0.5)), ("f1_data", sk.f1_score(t, s >= 0.5)),
        ("mcc_data", sk.matthews_corrcoef(t, s >= 0.5)),
        ("ap_data", sk.average_precision_score(t, s)), ("auc_data", sk.roc_auc_score(t, s)),
    ):  # fmt: skip
        assert found[name] == pytest.approx(theirs, abs=1e-9)
    assert found["empty"] == 0.5
    ious = [sk.jaccard_score(t, s >= 0.5) for t, s in altered]
    assert found["iou"] == pytest.approx((sum(ious) + 1 + 0) / len(truths))
    eights = [sk.jaccard_score(np.concatenate([x.ravel() for x in truths[i : i + 8]]),
                               np.concatenate([x.ravel() for x in scores[i : i + 8]]) >= 0.5)
              for i in (0, 8)]  # fmt: skip
    assert masks.batch_iou(pixels) == pytest.approx(np.mean(eights))
    threshold, best = masks.best_threshold(pixels)
    again = np.mean([sk.jaccard_score(t, s >= threshold) for t, s in altered])
    assert best == pytest.approx(again) and best >= found["iou_altered"]
    levels = [np.sort(s.ravel())[-int(np.ceil(0.005 * s.size))] for s in scores]
    assert found["image_auc"] == pytest.approx(sk.roc_auc_score([t.any() for t in truths], levels))


def test_weights_of_images_count_like_copies():
    rng = np.random.default_rng(2)
    positive, negative = rng.integers(0, 9, (2, 6, masks.BINS))
    positive[2] = 0
    times = np.array([2, 0, 1, 3, 1, 0])
    pixels = masks.PixelCounts(positive, negative, np.arange(6) % 4 > 0)
    weighted = masks.mask_metrics(pixels)(times)
    copied = masks.mask_metrics(pixels.take(np.arange(6).repeat(times)))
    assert weighted == pytest.approx(copied(np.ones(times.sum())), nan_ok=True)


def test_masks_that_are_not_shown_are_empty():
    rng = np.random.default_rng(4)
    positive, negative = rng.integers(1, 9, (2, 4, masks.BINS))
    positive[:2] = 0  # authentic
    every, some = (
        masks.mask_metrics(masks.PixelCounts(positive, negative, shown))(np.ones(4))
        for shown in (np.ones(4, bool), np.array([False, True, False, True]))
    )
    only = masks.PixelCounts(positive, negative, np.ones(4, bool)).take(np.array([1, 3]))
    pair = masks.mask_metrics(only)(np.ones(2))
    assert (every["empty"], some["empty"]) == (0, 0.5)
    assert some["iou_altered"] == pytest.approx(pair["iou_altered"] / 2)
    assert some["iou"] == pytest.approx((1 + 0 + 0 + pair["iou_altered"]) / 4)
    for name in ("ap", "auc", "ap_data", "image_auc"):  # of P(altered), not of the mask
        assert some[name] == every[name]


def test_intervals_are_of_the_images_that_a_metric_is_of():
    """24 images are altered, none of whose pixels is found; each of 12 authentic ones is marked."""
    positive, negative = (np.zeros((36, masks.BINS), np.int64) for _ in range(2))
    positive[:24, 0] = negative[:24, 0] = 50
    negative[24:, -1] = 100
    pixels = masks.PixelCounts(positive, negative, np.ones(36, bool))
    found = mask_intervals(pixels, resamples=50)
    assert found["empty"] == proportion(np.zeros(12, bool))
    assert found["iou_altered"] == proportion(np.zeros(24, bool))
    few = mask_intervals(pixels.take(np.arange(23, 36)), resamples=50)
    assert few["iou_data"] == few["iou_altered"] == proportion(np.zeros(1, bool))
    assert few["image_auc"] == proportion(np.zeros(1, bool))
    authentic = mask_intervals(pixels.take(np.arange(24, 36)), resamples=50)
    assert authentic["iou_altered"]["value"] is None and authentic["empty"] == found["empty"]


def test_the_mask_threshold_keeps_its_promise_on_new_authentic_images():
    run = Run(Path("runs/some"), RunInfo(
        status="complete", class_names=("real", "fake"), predicts_masks=True, prior=0.5,
        views=(View(size=(32, 32), policy="window_tile"),),
        dataset=DatasetInfo(name="mine", fingerprint="0"),
        calibration=Calibration(method="platt", images=9, fake_fraction=0.5, log_loss=(1, 1)),
    ))  # fmt: skip
    rng, said, empty = np.random.default_rng(5), [], []
    for _ in range(200):
        p = expit(rng.normal(-2, 1.5, 40))
        chosen = with_mask_threshold(run, p, CalibrationSettings(), said.append)
        new = expit(rng.normal(-2, 1.5, 500))
        empty.append(1 - mask_is_shown(new, chosen.mask_threshold).mean())
    assert 0.89 < np.mean(empty) < 0.93
    bound = chosen.info.mask_threshold.empty_bound
    assert np.mean(np.array(empty) >= bound) > 0.9 and f"at least {bound:.0%}" in said[-1]
    rarer = chosen.with_prior(0.1)  # moves P(fake) and the threshold alike
    moved = expit(np.log(new / (1 - new)) + np.log(0.1 / 0.9))
    assert np.array_equal(mask_is_shown(moved, rarer.mask_threshold),
                          mask_is_shown(new, chosen.mask_threshold))  # fmt: skip
    few = with_mask_threshold(chosen, p[:8], CalibrationSettings(), said.append)
    assert few.mask_threshold == 0 and "at least 9 authentic images" in said[-1]


def test_an_overlay_touches_the_altered_region_alone():
    image = np.full((60, 80, 3), 100, np.uint8)
    altered = np.zeros((60, 80), bool)
    altered[20:40, 30:50] = True
    drawn = overlay(image, altered)
    assert (drawn[30, 40] != 100).any()
    assert (drawn[:17] == 100).all() and (drawn[:, 55:] == 100).all()
    assert np.array_equal(overlay(image, np.zeros_like(altered)), image)


# --- the whole workflow


@pytest.fixture(scope="module")
def localizer(tmp_path_factory):
    """A trained localizer and its data."""
    base = tmp_path_factory.mktemp("localizer")
    root = write_forged(base / "forged")
    run = train_small(
        root, base / "runs",
        [*LOCALIZER, "training.epochs=4", "training.steps_per_epoch=25",
         "training.optimizer.learning_rate=0.02", "training.export=[saved_model]"],
    )  # fmt: skip
    return run, root


def test_a_matrix_of_localizers_is_about_masks(localizer, tmp_path):
    run, root = localizer
    catalog = find_data(make_plan(str(root)), progress=False)
    every_other = np.array(["one", "two"], object)[np.arange(catalog.table.num_rows) % 4 // 2]
    domains = Domains(("one", "two"), every_other, ())
    cells = measure_cells([MatrixRow("one", frozenset({"one"}), run)], domains, catalog)
    found = {name: cell["metrics"] for name, cell in cells["one"].items()}
    predicted = prediction_tables.read(run.path, "test")
    rows, pixels = pixel_counts(predicted)
    for name, values in found.items():
        paths = [p for p, d in zip(catalog.table["path"].to_pylist(), every_other) if d == name]
        mine = np.isin(predicted["path"].to_pylist(), paths)[rows]
        expected = masks.mask_metrics(pixels.take(mine))(np.ones(mine.sum()))
        assert values["iou"]["value"] == pytest.approx(expected["iou_altered"], abs=1e-6)
        assert values["pixel_ap"]["value"] == pytest.approx(expected["ap"], abs=1e-6)
        assert values["iou"]["low"] < values["iou"]["value"] < values["iou"]["high"]
    values = matrix_result("e", "d", "generator", cells)
    write_report(values, tmp_path / "m")
    page = (tmp_path / "m/matrix.html").read_text()
    assert f"IoU {found['one']['iou']['value']:.3f} on generators in training" in page
    assert f"{100 * found['two']['iou']['value']:.1f}" in (tmp_path / "m/matrix.tex").read_text()
    assert "IoU, mean of altered images" in format_matrix(values)


def test_masks_of_degraded_images_are_measured(localizer, tmp_path):
    run, root = localizer
    catalog = find_data(make_plan(str(root)), progress=False)
    wanted = parse_degradations("scale:0.5,crop:0.9")
    found = measure_robustness(run, catalog, "test", wanted, tmp_path, log=lambda text: None)
    none, half, crop = (each["metrics"]["iou"]["value"] for each in found["degradations"].values())
    own = run.results["test"]["masks"]["metrics"]["iou_altered"]["value"]
    assert none == pytest.approx(own, abs=1e-5) and half < none - 0.05 and crop is None
    assert "IoU, mean of altered images" in (tmp_path / "degradations.html").read_text()
    with pytest.raises(UserError, match="--attack is for detectors without masks"):
        measure_robustness(
            run, catalog, "test", [], tmp_path, attacks=parse_attacks("pgd", "2/255", 1, 1)
        )


def test_a_localizer_finds_the_forged_region(localizer):
    run, _ = localizer
    found = run.results["test"]["masks"]
    assert found["metrics"]["iou_altered"]["value"] > 0.6
    assert found["metrics"]["ap"]["value"] > 0.85
    assert "authentic images with an empty mask" in (run.path / "report.html").read_text()
    assert (run.path / "figures" / "test_masks_worst.png").is_file()
    history = (run.path / "history.csv").read_text().splitlines()[0].split(",")
    assert {"accuracy", "val_auc", "mask_iou", "val_mask_iou"} <= set(history)


def test_the_mask_is_at_half_and_the_verdict_at_the_chosen_threshold(localizer):
    run, _ = localizer
    rows = pq.read_table(run.path / "predictions" / "test.parquet").to_pylist()
    assert {row["verdict"] for row in rows} == {"real", "fake"}
    for row in rows:
        shown = row["p_fake"] >= np.float32(run.mask_threshold)
        assert (row["altered_fraction"] > 0) == (row["p_fake_raw"] > 0.5 and shown)
        assert row["mask_shown"] == shown
        assert (row["verdict"] == "fake") == (row["p_fake"] >= np.float32(run.threshold))
        assert sum(row["altered_histogram"]) + sum(row["authentic_histogram"]) == 36 * 40


def test_predict_writes_masks_and_overlays(localizer, tmp_path, capsys):
    run, root = localizer
    paths = [str(root / "3.fake.png"), str(root / "3.real.png")]
    predict([str(run.path), *paths, "--masks", str(tmp_path / "out")])
    assert "altered" in capsys.readouterr().out
    for kind in ("mask", "altered", "overlay"):
        with Image.open(tmp_path / "out" / f"3.fake.{kind}.png") as image:
            assert image.size == (40, 36)
    mask = np.asarray(Image.open(tmp_path / "out" / "3.fake.mask.png"))
    assert set(np.unique(mask)) <= {0, 255}
    altered = np.asarray(Image.open(tmp_path / "out" / "3.fake.altered.png"))
    assert np.array_equal(mask > 0, altered >= 128)


def test_no_pixel_is_marked_below_the_mask_threshold(localizer, tmp_path, capsys):
    run, root = localizer
    photo = str(root / "3.fake.png")
    for threshold in ("0", "1"):
        out = tmp_path / threshold
        assert predict([str(run.path), photo, "--json", "--masks", str(out),
                        "--mask-threshold", threshold]) == 0  # fmt: skip
        [row] = json.loads(capsys.readouterr().out)
        marked = np.asarray(Image.open(out / "3.fake.mask.png")) > 0
        altered = np.asarray(Image.open(out / "3.fake.altered.png"))
        assert np.array_equal(marked, altered >= 128)
        assert (
            row["altered_fraction"] == pytest.approx(marked.mean()) and row["copied_fraction"] == 0
        )
        assert marked.any() == (threshold == "0") and row["verdict"] == "fake"
    masks_of = np.random.default_rng(0).random((3, 4, 5, 1), np.float32)
    p_fake = np.array([0.2, 0.7, 0.5], np.float32)
    graph = shown_masks(tf.constant(masks_of), tf.constant(p_fake), 0.5)
    light = [shown_mask(mask, p, 0.5) for mask, p in zip(masks_of, p_fake)]
    np.testing.assert_array_equal(graph, np.stack(light))


def test_the_saved_model_predicts_the_same_mask(localizer):
    run, root = localizer
    data = (root / "5.fake.png").read_bytes()
    [encoded] = run_signature(run.path / "saved_model", "encoded", [[data]])
    pixels = np.asarray(Image.open(root / "5.fake.png"), np.float32)[None]
    [plain] = run_signature(run.path / "saved_model", "serving_default", [pixels])
    mask = tf.io.decode_png(encoded["mask_png_bytes"][0]).numpy()
    assert plain["mask"].shape == (1, 36, 40, 1)
    assert np.abs(mask - plain["mask"][0] * 255).max() <= 0.51
    np.testing.assert_allclose(encoded["p_fake"], plain["p_fake"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pooling", "dataset", "message"),
    [
        ("localizer_photos", "sum", "", "tile_pooling"),
        ("localizer_photos", "max", "mine", "own dataset first"),
        ("cifake_small_resnet", "top_pixels", "", "needs model.head: top_pixels"),
    ],
)
def test_a_tile_pooling_that_a_run_cannot_have_is_refused(name, pooling, dataset, message):
    run = open_run(Path(__file__).parents[1] / "saved_models" / name)
    with pytest.raises(UserError, match=message):
        with_tile_pooling(run, pooling, dataset)


@pytest.mark.slow
def test_tiles_are_pooled_alike_by_every_runtime(localizer, tmp_path):
    run, _ = localizer
    copy = Run(tmp_path / "run", run.info)
    shutil.copytree(run.path, copy.path)
    image = np.random.default_rng(0).integers(0, 256, (150, 290, 3), np.uint8)
    found = {}
    for pooling in ("max", "top_pixels"):
        view = run.views[0].model_copy(update={"tile_pooling": pooling})
        pooled = copy.with_info(views=(view,))
        detector = load_detector(pooled)
        table = score_images(detector, tf.constant(image[None]), pooled.views).table
        write_exports(pooled, ("saved_model", "onnx"), detector=detector)
        light = LightDetector(pooled).score_pixels(image)
        np.testing.assert_allclose(light.table, table, atol=1e-4)
        batch = image[None].astype(np.float32)
        [saved] = run_signature(pooled.path / "saved_model", "serving_default", [batch])
        p_fake = calibrated(table, pooled.calibration)[:, 1]
        np.testing.assert_allclose(saved["p_fake"], p_fake, atol=1e-4)
        found[pooling] = float(table[0, 1])
    assert found["top_pixels"] != found["max"]


@pytest.mark.slow
def test_all_of_another_set_is_measured_in_one_command(localizer, tmp_path, capsys):
    run, root = localizer
    where = tmp_path / "out"
    evaluate([str(run.path), "--dataset", str(root), "--split", "all", "--output", str(where)])
    results = json.loads((where / "metrics.json").read_text())
    assert results["all"]["count"] == 120 and results["all"]["masks"]["altered"] == 60
    assert "pixel F1" in capsys.readouterr().out


def test_the_page_of_an_image_shows_its_mask_and_the_window_where_it_lies(localizer, tmp_path):
    run, root = localizer
    arguments = [str(run.path), str(root / "3.fake.png"), "--explain", str(tmp_path / "pages")]
    assert run_command(predict, arguments) == 0
    text = (tmp_path / "pages" / "3.fake.html").read_text()
    assert "Where it may be altered" in text and "window with the largest marked region" in text


def test_a_window_without_marks_is_not_called_marked(localizer):
    run, _ = localizer
    tall, wide = run.views[0].size
    for side, level, words in (
        (0, 0.9, "the whole image"), (8, 0.9, "with the largest marked region"),
        (8, 0.1, "though nothing in it is marked"),
    ):  # fmt: skip
        shape = (tall + side, wide + side)
        found = SimpleNamespace(
            image=np.zeros((*shape, 3), "u1"), view=0, altered=np.full(shape, level)
        )
        assert words in view_sentence(run, found)


def test_a_set_without_masks_is_measured_by_labels(localizer, folder_dataset):
    run, _ = localizer
    plan = make_plan(str(folder_dataset), None, [])
    catalog = find_data(plan, progress=False)
    results = evaluate_run(run, catalog, ("test",), log=lambda text: None).results
    found = results["test"]["masks"]  # authentic images have a mask: an empty one
    assert found["altered"] == 0 and found["metrics"]["iou_altered"]["value"] is None


@pytest.mark.slow
def test_it_resumes_to_the_same_weights(forged, tmp_path, monkeypatch):
    """With an auxiliary mask too."""
    own = ["model.mask_head=fcn", "model.mask_options={aux: true, dropout: 0.0}"]
    whole, _ = fit_small(forged, tmp_path / "whole", [*LOCALIZER, *own])

    class Stop(Exception):
        pass

    written = TrainState._write

    def stop(self):
        written(self)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "_write", stop)
        with pytest.raises(Stop):
            fit_small(forged, tmp_path / "parts", [*LOCALIZER, *own])
    parts, found = fit_small(forged, tmp_path / "parts", [*LOCALIZER, *own])
    assert found.epoch == 2 and "val_mask_iou" in found.history[1]
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_two_replicas_train_masks(forged, tmp_path):
    own = ["training.epochs=1", "training.optimizer.learning_rate=0.0001"]
    one, alone = fit_small(forged, tmp_path / "one", [*LOCALIZER, *own])
    two, shared = fit_small(
        forged, tmp_path / "two", [*LOCALIZER, *own], configure_devices(virtual=2)
    )
    assert shared.history[0]["mask_loss"] == pytest.approx(alone.history[0]["mask_loss"], rel=1e-3)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.slow
def test_three_classes_have_a_mask_and_a_kind(forged, tmp_path):
    """The label's P(fake) is the mask's, whatever the kind."""
    rows = (forged / "manifest.csv").read_text().splitlines()
    rows[1:] = [
        row.replace(",fake,", ",edited,") if int(row.split(".")[0]) % 2 else row for row in rows[1:]
    ]
    (forged / "manifest.csv").write_text("\n".join(rows))
    detector, _ = fit_small(forged, tmp_path / "run", [*LOCALIZER, "training.epochs=1"])
    logits = detector(tf.random.uniform([4, 32, 32, 3]) * 255, training=False)
    assert logits["label"].shape == (4, 3)
    top, _ = tf.math.top_k(tf.reshape(logits["mask"], [4, -1]), round(0.005 * 32 * 32))
    fake = 1 - tf.nn.softmax(logits["label"])[:, 0]
    np.testing.assert_allclose(fake, tf.sigmoid(tf.reduce_mean(top, 1)), atol=1e-5)


# --- mistakes


@pytest.mark.parametrize(("override", "said"), [
    ("model.mask_head=decodr", "decoder"),
    ("model.head=top_pixels", "model.mask_head"),
    ("training.monitor=iou", "model.mask_head"),
    ("training.mask_loss.name=foca", "mask_loss"),
    ("training.mask_loss.alpha=2", "alpha"),
    ("model.mask_option.width=8", "mask_options"),
])  # fmt: skip
def test_mistakes_in_the_experiment_are_named(override, said, capsys):
    assert run_command(train, ["--dataset", "demo", "--set", override]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("options", ["{widht: 8}", "{width: many}", "{finest: 3}"])
def test_mistakes_in_the_options_of_a_mask_head_are_named(options):
    overrides = [*SMALL, *LOCALIZER, f"model.mask_options={options}"]
    with pytest.raises(UserError, match="mask_options"):
        build_detector(load_experiment("small_images", overrides), 2)


def test_data_without_masks_are_refused(folder_dataset, tmp_path):
    with pytest.raises(UserError, match="synthesize"):
        train_small(folder_dataset, tmp_path, LOCALIZER)


def test_masks_of_a_detector_of_labels_are_refused(shared_run, tmp_path):
    run, root = shared_run
    with pytest.raises(UserError, match="predicts no masks"):
        predict([str(run.path), str(root), "--mask-threshold", "0.5"])
    with pytest.raises(UserError, match="predicts no masks"):
        predict([str(run.path), str(root), "--masks", str(tmp_path)])


def test_a_run_that_reads_tiles_takes_no_crops(localizer):
    run, _ = localizer
    with pytest.raises(UserError, match="tiles"):
        run.with_views(crops=5)
