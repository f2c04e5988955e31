"""Images that a detector was not made for, and images that it was trained on."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from conftest import OPTIONS, run_at, write_images
from keras import ops
from PIL import Image, PngImagePlugin

import tfdetect
import tfdetect.api
from tfdetect.api.results import EvaluationResults
from tfdetect.calibrate import main as calibrate_main
from tfdetect.core.data_settings import Equalize
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.feature_distance import FeatureDistance
from tfdetect.core.load_experiment import override
from tfdetect.core.open_run import open_run
from tfdetect.core.run_command import run_command
from tfdetect.core.run_info import Adaptation, TrainingImages
from tfdetect.core.run_writer import write_info
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.evaluation_data import evaluation_data, split_to_evaluate
from tfdetect.data.training_hashes import TrainingHashes
from tfdetect.evaluation.calibration_settings import CalibrationSettings
from tfdetect.evaluation.domain import choose_limit, domain_columns
from tfdetect.evaluation.evaluate_run import evaluate_run
from tfdetect.evaluation.fit_domain import with_limit
from tfdetect.models.detector import build_detector
from tfdetect.models.feature_outputs import features_of_images, with_features
from tfdetect.models.inference import score_images, score_views
from tfdetect.models.saved_model import run_signature

SHIPPED = Path(__file__).parents[1] / "saved_models"


@pytest.mark.parametrize(
    ("count", "rate"), [(1000, 0.01), (199, 0.01), (99, 0.01), (98, 1 / 99), (20, 1 / 21)]
)
def test_the_limit_gives_as_many_false_alarms_as_it_says(count, rate):
    draw = np.random.default_rng(0)
    alarms = []
    for _ in range(400):
        limit, said = choose_limit(draw.normal(size=count))
        assert said == pytest.approx(rate)
        alarms.append((draw.normal(size=2000) > limit).mean())
    assert np.mean(alarms) <= rate * 1.1
    assert np.mean(alarms) >= rate / 2.2  # of 199 images one may lie beyond, as of 99


def test_few_and_many_images_are_looked_up_alike():
    hashes = TrainingHashes.load(SHIPPED / "cifake_small_resnet")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2**64, (300, 2), np.uint64)
    images[::3, 0] = hashes.table["bytes"][:100]
    images[1::3, 1] = hashes.table["pixels"][-100:]
    many = hashes.contain(images)
    assert many.tolist() == [True, True, False] * 100
    assert hashes.contain(images[:5]).tolist() == many[:5].tolist()
    assert hashes.contain(images[:0]).shape == (0,)


def test_features_that_are_the_same_for_all_images_have_no_limit():
    said, table = [], pa.table({"feature_distance": np.zeros(30, np.float32)})
    run = SimpleNamespace(info=SimpleNamespace(domain=True), with_info=lambda **changes: changes)
    assert with_limit(run, table, said.append) == {"domain": None}
    assert "the same for all images" in said[0]


def test_few_images_have_no_limit():
    assert choose_limit(np.arange(19.0)) is None


@pytest.mark.parametrize(("count", "width"), [(400, 6), (60, 200), (20, 3), (50, 1)])
def test_distances_are_about_1_for_training_images_and_larger_elsewhere(count, width, tmp_path):
    draw = np.random.default_rng(1)
    scales = np.linspace(0.1, 5, width)
    features = (3 + draw.normal(size=(4 * count, width)) * scales).astype(np.float32)
    distance = FeatureDistance.fit(features[:count])
    inside = distance(features[count:])
    assert 0.5 < np.median(inside) < 2
    outside = features[count:] + 10 * scales.astype(np.float32)
    assert np.median(distance(outside)) > 2 * np.quantile(inside, 0.99)
    distance.save(tmp_path)
    again = FeatureDistance.load(tmp_path, distance.rest)
    assert np.array_equal(again(features), distance(features))


def test_constant_features_have_a_distance():
    features = np.ones((30, 4), np.float32)
    distance = FeatureDistance.fit(features)
    assert distance(features).max() < 1e-3 < 1 < distance(features + 1).min()


OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([{}], object))
OBJECTS = OBJECTS.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"no array", b"\x80\x04N.", OBJECTS, np.zeros((2, 3)).tobytes(),
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9), }\n",
    ],
)  # fmt: skip
def test_a_damaged_file_of_features_gets_one_message(tmp_path, data):
    (tmp_path / "domain.npy").write_bytes(data)
    (tmp_path / "training_images.npy").write_bytes(data)
    for name, load in (("domain", lambda folder: FeatureDistance.load(folder, 1.0)),
                       ("training_images", TrainingHashes.load)):  # fmt: skip
        with pytest.raises(UserError) as raised:
            load(tmp_path)
        assert f"{name}.npy is damaged: it " in str(raised.value)
        assert "Copy the run again" in str(raised.value) and "pickle" not in str(raised.value)


def test_a_missing_file_of_features_is_called_missing(tmp_path):
    with pytest.raises(UserError, match="domain.npy is missing. Copy .*, not from others"):
        FeatureDistance.load(tmp_path, 1.0)


def test_a_run_that_lost_a_file_is_not_calibrated_on_other_images(shared_run, tmp_path):
    """It is refused before the images are read."""
    folder = tmp_path / "run"
    shutil.copytree(shared_run[0].path, folder)
    for name in ("real", "fake"):
        write_images(tmp_path / "a" / name, 1, name == "fake")
    (folder / "training_images.npy").write_bytes(b"no")
    said = []
    for name, wrong in (("training_images.npy", "damaged"), ("domain.npy", "missing")):
        for function in (tfdetect.calibrate, tfdetect.evaluate):
            with pytest.raises(UserError, match=f"{name} is {wrong}"):
                function(folder, tmp_path / "a", progress=False, log=said.append)
        (folder / "domain.npy").unlink(missing_ok=True)
    assert said == []


def detector_with(*changes):
    experiment = override(
        Experiment(name="test"), ["data.image_size=24", f"model.options={OPTIONS}", *changes]
    )
    return build_detector(experiment, 2)


@pytest.mark.parametrize(
    "changes",
    [
        (), ("model.head=conv_dense",), ("model.head=flatten",), ("model.front_end=srm",),
        ("model.mask_head=decoder",), ("model.mask_head=decoder", "model.head=top_pixels"),
    ],
    ids=str,
)  # fmt: skip
def test_features_come_out_of_the_same_pass_and_change_nothing(changes):
    detector = detector_with(*changes)
    extended = with_features(detector)
    images = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3)).astype(np.float32)
    before, after = detector(images), extended(images)
    for name, values in before.items():
        assert np.array_equal(values, after[name]), name
    features = features_of_images(after, 4)
    assert features.shape == (4, 16) and np.ptp(features, axis=0).max() > 0
    assert features_of_images(before, 4) is None
    windows = images.reshape(2, 2, 24, 24, 3)  # two windows of two images
    scores = score_views(extended, [windows])
    np.testing.assert_allclose(
        scores.features, features.numpy().reshape(2, 2, 16).mean(1), rtol=1e-4, atol=1e-5
    )


def test_features_of_a_loaded_detector_have_names_of_their_own():
    """An ensemble has operations whose names come from the process that built it."""
    images = keras.Input((24, 24, 3))
    backbone = keras.Model(images, keras.layers.Conv2D(4, 3)(images))
    label = ops.cast(ops.mean(backbone(images), axis=(1, 2, 3), keepdims=True)[:, 0, 0], "float32")
    given = label._keras_history.operation
    number = int(given.name.rpartition("_")[2]) if "_" in given.name else 0
    given.name = f"cast_{number + 1}"  # the next name that Keras gives
    assert "features_0" in with_features(keras.Model(images, {"label": label})).output


def test_features_of_tiles_are_those_of_the_whole_image(tmp_path):
    detector = with_features(detector_with("model.mask_head=decoder"))
    view = run_at(tmp_path, policy="window_tile").views
    image = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3), np.uint8)
    one = score_images(detector, tf.constant(image), view)
    wide = score_images(detector, tf.constant(np.tile(image, (1, 2, 3, 1))), view)
    assert wide.features.shape == one.features.shape == (1, 16)
    assert wide.masks.shape == (1, 48, 72, 1)
    plain = score_images(detector_with("model.mask_head=decoder"), tf.constant(image), view)
    assert plain.features is None


def test_the_longer_side_counts_where_it_is_known(tmp_path):
    def unlike(run):
        sides = np.array([[32, 32], [32, 48], [32, 49], [32, 16_500], [21, 21], [49, 49]])
        nothing = np.zeros(len(sides), bool)
        formats, distances = np.full(len(sides), None, object), np.full(len(sides), np.nan)
        reasons = domain_columns(run, sides, formats, distances, nothing)["domain_reasons"]
        return [text == "size" for text in reasons.to_pylist()]

    def trained_on(run, **sides):
        data = run.info.dataset.model_copy(update={"training_images": TrainingImages(**sides)})
        return run.with_info(dataset=data)

    square, run = (32, 32, 32), run_at(tmp_path)
    known = trained_on(run, shorter_side=square, longer_side=square)
    assert unlike(known) == [False, False, True, True, True, True]
    older = trained_on(run, shorter_side=square)
    assert unlike(older) == [False, False, False, False, True, True]
    adapted = Adaptation(kind="threshold", dataset="d", authentic=9, fakes=0,
                         shorter_side=(30, 60, 90), longer_side=(30, 80, 120))  # fmt: skip
    assert known.with_info(adaptation=adapted).in_domain_sides == (20, 135, 180)
    adapted = adapted.model_copy(update={"longer_side": None})
    assert known.with_info(adaptation=adapted).in_domain_sides == (20, 135, None)


def test_what_is_not_known_is_not_said(tmp_path):
    columns = domain_columns(
        run_at(tmp_path), np.array([[24, 24]]), np.array(["PNG"], object), np.array([np.nan]),
        np.array([False]),
    )  # fmt: skip
    assert [column.to_pylist() for column in columns.values()] == [[None], [None], [None]]


@pytest.fixture(scope="module")
def suspects(shared_run, tmp_path_factory):
    """Images by name: what the shared run was trained on, what it was made for, and others."""
    _, root = shared_run
    folder = tmp_path_factory.mktemp("suspects")
    write_images(folder, 1, 0, seed=30)
    (folder / "000.png").rename(folder / "new.png")
    new = Image.open(folder / "new.png")
    new.save(folder / "format.jpg", quality=95)
    new.resize((96, 60)).save(folder / "size.png")
    new.resize((200, 24)).save(folder / "wide.png")  # only its longer side is unlike
    new.resize((9, 9)).save(folder / "format_and_size.webp", lossless=True)
    new.save(folder / "tiff.tiff")
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(folder / "features.png")
    trained = root / "train" / "fake" / "000.png"
    shutil.copy(trained, folder / "trained.png")
    note = PngImagePlugin.PngInfo()
    note.add_text("comment", "saved again")
    Image.open(trained).save(folder / "trained_again.png", pnginfo=note, compress_level=0)
    Image.open(trained).save(folder / "trained_bmp.bmp")
    return folder


def test_images_that_a_detector_was_not_made_for_are_told(shared_run, suspects):
    run, _ = shared_run
    rows = tfdetect.load(run).predict(suspects, progress=False)
    reasons = {row["path"].rpartition("/")[2]: row["domain_reasons"] for row in rows}
    features = {name for name, text in reasons.items() if "features" in text}
    assert "features.png" in features and "new.png" not in features
    without = {name: text.replace("features", "").strip(", ") for name, text in reasons.items()}
    assert without == {
        "new.png": "", "format.jpg": "format", "size.png": "size", "wide.png": "size",
        "format_and_size.webp": "size, format", "tiff.tiff": "", "features.png": "",
        "trained.png": "", "trained_again.png": "", "trained_bmp.bmp": "",
    }  # fmt: skip
    for row in rows:
        assert row["in_domain"] == (not row["domain_reasons"])
        assert (row["feature_distance"] > run.info.domain.limit) == (
            "features" in row["domain_reasons"]
        )
    shown = str(rows)
    assert "like training images" in shown and "no (size, format" in shown and "yes" in shown
    assert rows.out_of_domain == sum(bool(text) for text in reasons.values())
    pixels = np.asarray(Image.open(suspects / "new.png"))
    [row] = tfdetect.load(run).predict(pixels, progress=False)
    assert row["in_domain"] and row["duplicate_of_train"] is False
    [row] = tfdetect.load(run).predict(Image.open(suspects / "format.jpg"), progress=False)
    assert "format" not in row["domain_reasons"]  # pixels have none


def test_training_images_and_their_copies_are_told(shared_run, suspects):
    run, _ = shared_run
    rows = tfdetect.load(run).predict(suspects, progress=False)
    copies = {row["path"].rpartition("/")[2] for row in rows if row["duplicate_of_train"]}
    assert copies == {"trained.png", "trained_again.png", "trained_bmp.bmp"}
    assert rows.duplicates_of_train == 3 and "known image" in str(rows)
    hashes = TrainingHashes.load(run.path)
    assert len(hashes.table) == 120 and hashes.table["validation"].sum() == 24
    assert (run.path / "training_images.npy").stat().st_size < 120 * 17 + 300


def test_the_saved_model_tells_the_same(shared_run, suspects):
    run, _ = shared_run
    names = [p for p in sorted(suspects.iterdir()) if p.suffix in (".png", ".jpg", ".bmp")]
    rows = tfdetect.load(run).predict(names, progress=False)
    [found] = run_signature(run.path / "saved_model", "encoded", [[p.read_bytes() for p in names]])
    texts = [text.decode() for text in found["domain_reasons"]]
    assert texts == [row["domain_reasons"] for row in rows]
    assert found["in_domain"].tolist() == [row["in_domain"] for row in rows]
    images = [np.asarray(Image.open(name).convert("RGB"), np.float32)[None] for name in names]
    for text, again in zip(
        texts, run_signature(run.path / "saved_model", "serving_default", images)
    ):
        expected = text.replace("format", "").replace(" ,", "").strip(", ")
        assert again["domain_reasons"][0].decode() == expected


def test_evaluation_on_training_images_is_told(shared_run, tmp_path, capsys):
    """Under other names, in a folder that has the name of the run's dataset: the pixels tell."""
    run, root = shared_run
    other = tmp_path / run.info.dataset.name
    for kind in ("real", "fake"):
        write_images(other / kind, 8, kind == "fake", seed=40)
        for number in range(6):
            Image.open(root / "train" / kind / f"{number:03d}.png").save(
                other / kind / f"t{number}.png", compress_level=0
            )
    found = tfdetect.evaluate(run, other, output=tmp_path / "out", images_in_report=False,
                              log=lambda text: None)  # fmt: skip
    assert list(found.values) == ["all"]  # nobody has divided the folder
    spec, roots, _ = evaluation_data(run, str(other), None, None, None)
    assert split_to_evaluate(run, build_catalog(spec, roots, progress=False)) == "all"
    own = build_catalog(run.dataset_spec(), run.roots, progress=False)
    assert split_to_evaluate(run, own) == "test"
    result = found.values["all"]
    assert result["count"] == 28 and result["without_duplicates"]["count"] == 16
    assert "12 of 28 images" in (tmp_path / "out" / "report.html").read_text()
    from tfdetect.evaluation.result_tables import format_results

    assert "12 of 28 images are known to the detector" in format_results(found.values)
    assert result["domain"]["in_domain"]["value"] >= 0.8


_AGAIN, _CHANGED = "domain.npy written again", "changed, its exports rewritten"


@pytest.mark.parametrize(
    ("lost", "changes", "outcome"),
    [
        (True, False, _AGAIN),
        (True, True, f"{_CHANGED}; {_AGAIN}"),
        (False, True, _CHANGED),
        (False, False, "unchanged"),
    ],
)
def test_calibrate_says_what_it_wrote(
    shared_run, tmp_path, monkeypatch, capsys, lost, changes, outcome
):
    folder = tmp_path / "run"
    shutil.copytree(shared_run[0].path, folder)
    part = (folder / "domain.npy").read_bytes()
    if lost:
        (folder / "domain.npy").unlink()

    def calibrated(*args, **options):
        (folder / "domain.npy").write_bytes(part)
        run = open_run(folder)
        if changes:
            run = replace(run, info=run.info.model_copy(update={"threshold": 0.25}))
        return EvaluationResults(run, run.results, folder, folder / "report.html")

    monkeypatch.setattr(tfdetect.api, "calibrate", calibrated)
    assert run_command(calibrate_main, [str(folder)]) == 0
    assert f"{folder} ({outcome})" in capsys.readouterr().out.replace("\n", "")


def test_older_runs_get_both_from_calibrate(shared_run, tmp_path):
    run, root = shared_run
    folder = tmp_path / "old"
    shutil.copytree(run.path, folder)
    for name in ("domain.npy", "training_images.npy"):
        (folder / name).unlink()
    shutil.rmtree(folder / "exports")
    served = folder / "saved_model" / "saved_model.pb"
    served.write_bytes(b"of an older run")
    older = open_run(folder).with_info(domain=None)
    write_info(older)
    image = root / "train" / "real" / "000.png"
    [row] = tfdetect.load(folder).predict(image, progress=False)
    assert row["duplicate_of_train"] is None and row["in_domain"]  # size and format are known
    again = tfdetect.calibrate(folder, images_in_report=False, log=lambda text: None).run
    assert again.info.domain == run.info.domain
    assert served.stat().st_size > 1000
    [row] = tfdetect.load(folder).predict(image, progress=False)
    assert row["duplicate_of_train"] and row["in_domain"]
    values = json.loads((folder / "metrics.json").read_text())
    assert values["validation"]["domain"]["in_domain"]["value"] == 1
    assert "without_duplicates" not in values["validation"]  # no copies of themselves


def test_where_training_images_are_missing_what_is_known_of_them_stays(shared_run, tmp_path):
    folder = shutil.copytree(shared_run[0].path, tmp_path / "run")
    run = open_run(folder)
    catalog = build_catalog(run.dataset_spec(), run.roots, progress=False)
    validation = replace(catalog, table=catalog.split("validation"))
    kept = [(folder / name).read_bytes() for name in ("domain.npy", "training_images.npy")]
    found = evaluate_run(
        run, validation, ("validation",), calibrate=CalibrationSettings(), log=lambda text: None
    )
    assert found.run.info.domain == run.info.domain
    assert [(folder / n).read_bytes() for n in ("domain.npy", "training_images.npy")] == kept


@pytest.mark.slow
def test_a_run_keeps_no_hashes_where_none_are_wanted(shared_run, tmp_path):
    folder = shutil.copytree(shared_run[0].path, tmp_path / "run")
    run = open_run(folder)
    catalog = build_catalog(run.dataset_spec(), run.roots, progress=False)
    settings = CalibrationSettings(keep_hashes=False)
    evaluate_run(run, catalog, ("validation",), calibrate=settings, log=lambda text: None)
    assert not (folder / "training_images.npy").exists()


@pytest.mark.parametrize(
    ("formats", "equalized", "expected"),
    [
        (["JPEG"], False, {"JPEG"}),
        (["JPEG", "PNG"], False, {"JPEG", "PNG", "BMP", "TIFF"}),
        (["WEBP"], False, {"WEBP", "PNG", "BMP", "TIFF"}),
        (["JPEG", "PNG"], True, set()),
        ([], False, set()),
    ],
)
def test_formats_without_loss_are_alike_and_one_encoding_makes_all_alike(
    shared_run, formats, equalized, expected
):
    run, _ = shared_run
    images = run.info.dataset.training_images.model_copy(update={"formats": tuple(formats)})
    view = run.views[0].model_copy(update={"equalize": Equalize(side=64) if equalized else None})
    run = run.with_info(
        dataset=run.info.dataset.model_copy(update={"training_images": images}), views=(view,)
    )
    assert set(run.in_domain_formats) == expected
    sides, missing = np.full((2, 2), images.shorter_side[1]), np.zeros(2, bool)
    files = np.array(["TIFF", "HEIF"], object)
    reasons = domain_columns(run, sides, files, np.zeros(2, np.float32), missing)
    told = ["format" in (text or "") for text in reasons["domain_reasons"].to_pylist()]
    assert told == ([kind not in expected for kind in files] if expected else [False, False])
