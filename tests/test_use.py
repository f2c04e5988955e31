"""Using a run: predict, evaluate, SavedModel in a foreign process, and mistakes."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from commands import call
from conftest import SMALL, run_at, write_images
from PIL import Image
from zoo import make

import tfdetect
from tfdetect.api.predictions import Predictions
from tfdetect.core.columns import Column, Table
from tfdetect.core.errors import UserError
from tfdetect.core.files import FailedWrites
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.open_run import open_run
from tfdetect.core.run_info import TrainingImages, View
from tfdetect.core.run_writer import evaluating, evaluation_folder, write_info
from tfdetect.data.evaluation_data import is_own_dataset
from tfdetect.data.image_files import find_images
from tfdetect.data.plan import find_data, make_plan
from tfdetect.data.splits import few_images
from tfdetect.evaluation.prediction_columns import PredictionColumns, cpu_batch
from tfdetect.evaluation.predictions import MaskPrediction, predict_files
from tfdetect.evaluation.remeasure import without_calibration
from tfdetect.evaluation.run_description import facts, input_sentence, measured_sentence
from tfdetect.evaluation.training_history import read_history
from tfdetect.forensics.region_pictures import MaskWriter
from tfdetect.imaging.geometry import resize
from tfdetect.imaging.read import decode_any
from tfdetect.models.detector import build_detector
from tfdetect.models.saved_model import export_saved_model, run_signature
from tfdetect.models.saving import load_detector, save_detector
from tfdetect.predict import log_files

ROOT = Path(__file__).parents[1]


def files_of(root):
    return sorted(str(p) for p in Path(root, "test").rglob("*.png"))


def test_predict_is_the_keras_model(shared_run):
    run, root = shared_run
    paths = files_of(root)
    model = keras.saving.load_model(run.model_path, compile=False)
    images = tf.stack([resize(decode_any(tf.io.read_file(p)), (24, 24), "stretch") for p in paths])
    expected = tf.sigmoid(model(tf.cast(images, tf.float32), training=False)["label"])[:, 0]
    table = predict_files(run, model, paths, batch_size=5, progress=False)
    np.testing.assert_allclose(table["p_fake"].to_numpy(), expected, atol=1e-5)
    assert table["path"].to_pylist() == paths
    total = table["probability_real"].to_numpy() + table["probability_fake"].to_numpy()
    np.testing.assert_allclose(total, 1, atol=1e-5)


FOREIGN = """
import json, os, sys
for name in "cv2", "IPython", "matplotlib", "pandas", "sklearn":
    sys.modules[name] = None  # Keras works without them and starts in less time
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
data = [tf.io.read_file(path) for path in sys.argv[2:]]
encoded = model.signatures["encoded"](encoded_images=tf.stack(data))
images = [tf.io.decode_image(d, channels=3, expand_animations=False) for d in data]
single = [model.signatures["serving_default"](images=tf.cast(i, tf.float32)[None]) for i in images]
assert not any(name.startswith(("tfdetect", "keras_hub")) for name in sys.modules)
# Its Keras file needs this package's layers.
import keras
sys.path.insert(0, os.environ["ROOT"])
import tfdetect
network = keras.saving.load_model(sys.argv[1] + "/../model.keras", compile=False)
resized = tf.image.resize(tf.cast(images[0], tf.float32)[None], network.input_shape[1:3])
print(json.dumps({
    "encoded": encoded["p_fake"].numpy().tolist(),
    "images": [float(s["p_fake"][0]) for s in single],
    "probabilities": encoded["probabilities"].numpy().tolist(),
    "logit": float(network(resized, training=False)["label"][0, 0]),
    "names": [n.decode() for n in encoded["class_names"].numpy()[0]],
}))
"""


def test_saved_model_in_a_process_with_tensorflow_alone(shared_run, tmp_path):
    run, root = shared_run
    paths = files_of(root)[::4]
    odd = tmp_path / "odd.jpg"  # another size and format
    Image.open(paths[0]).resize((90, 57)).save(odd, quality=90)
    paths.append(str(odd))
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(run.path / "saved_model"), *paths],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"ROOT": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    ours = predict_files(run, load_detector(run), paths, progress=False)
    np.testing.assert_allclose(answer["encoded"], ours["p_fake"].to_numpy(), atol=1e-5)
    # TensorFlow's own JPEG decoding may differ from ours by a level; PNG does not.
    np.testing.assert_allclose(answer["images"][:-1], ours["p_fake"].to_numpy()[:-1], atol=1e-5)
    assert abs(answer["images"][-1] - answer["encoded"][-1]) < 0.05
    assert answer["names"] == ["real", "fake"]
    raw = ours["p_fake_raw"].to_numpy()[0]
    np.testing.assert_allclose(1 / (1 + np.exp(-answer["logit"])), raw, atol=1e-5)
    np.testing.assert_allclose(
        np.array(answer["probabilities"])[:, 1], answer["encoded"], atol=1e-6
    )


KERAS_FILE = """
import sys
for name in sys.argv[1].split(","):
    __import__(name)
import keras
assert keras.saving.load_model(sys.argv[2], compile=False).count_params()
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["tfdetect,keras", "keras,tfdetect", "keras"])
def test_the_keras_file_needs_the_package_imported_in_any_order(shared_run, tmp_path, order):
    done = subprocess.run([sys.executable, "-c", KERAS_FILE, order, shared_run[0].model_path],
                          capture_output=True, text=True, check=False, cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    if "tfdetect" in order:
        assert done.returncode == 0, done.stderr
    else:
        assert "Could not locate class" in done.stderr and "'tfdetect>" in done.stderr


def test_saved_model_answers_the_others_beside_an_undecodable_file(shared_run):
    run, root = shared_run
    served = tf.saved_model.load(str(run.path / "saved_model")).signatures
    good = Path(files_of(root)[0]).read_bytes()
    odd = {"webp": "WebP", "gif": "not a JPEG, PNG or BMP", "jpeg_cmyk": "CMYK",
           "text": "not a JPEG", "empty": "not a JPEG", "bmp_1": "BMP",
           "jpeg_too_large": "65500 x 65500 pixels are more than 100,000,000",
           "jpeg_12_bits": "damaged"}  # fmt: skip
    files = [good, *map(make, odd), good[:-40], good]
    found = served["encoded"](encoded_images=tf.constant(files))
    assert {len(value) for value in found.values()} == {len(files)}
    p_fake, errors = found["p_fake"].numpy(), [e.decode() for e in found["error"].numpy()]
    assert abs(p_fake[0] - p_fake[-1]) < 1e-6 and errors[0] == errors[-1] == ""
    assert np.isnan(p_fake[1:-1]).all() and np.isnan(found["probabilities"][1:-1]).all()
    assert not found["inconclusive"].numpy()[1:-1].any()
    assert set(found["verdict"].numpy()[1:-1]) == {b""}
    assert all(text in error for text, error in zip([*odd.values(), "damaged"], errors[1:]))
    for name, batch in (("encoded", tf.constant([], tf.string)),
                        ("serving_default", tf.zeros([0, 24, 24, 3]))):  # fmt: skip
        spec = {"encoded": "encoded_images", "serving_default": "images"}[name]
        for value in served[name](**{spec: batch}).values():
            assert value.shape[0] == 0


@pytest.mark.slow
def test_webp_has_an_endpoint_of_its_own(shared_run, tmp_path):
    run, _ = shared_run
    export_saved_model(run, tmp_path / "model", webp=True)
    files = [make("webp_lossless"), make("png_color_8"), make("webp_animated")]
    [found] = run_signature(tmp_path / "model", "encoded_webp", [files])
    assert found["p_fake"][0] == found["p_fake"][1] and np.isnan(found["p_fake"][2])
    [found] = run_signature(tmp_path / "model", "encoded", [files])
    assert np.isnan(found["p_fake"][0])


@pytest.mark.slow
def test_the_saved_model_loads_in_an_older_tensorflow(shared_run, tmp_path):
    """Set TFDETECT_OLD_PYTHON to the Pythons, with ":" between, of older TensorFlow releases."""
    pythons = os.environ.get("TFDETECT_OLD_PYTHON")
    if not pythons:
        pytest.skip("TFDETECT_OLD_PYTHON names no Python with an older TensorFlow")
    run, root = shared_run
    paths = files_of(root)[::4]
    ours = predict_files(run, load_detector(run), paths, progress=False)["p_fake"].to_numpy()
    for python in pythons.split(":"):
        done = subprocess.run(
            [python, "-c", FOREIGN, str(run.path / "saved_model"), *paths],
            capture_output=True, text=True, check=False, cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(json.loads(done.stdout)["encoded"], ours, atol=1e-5)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predict_writes_rows_and_names_broken_files(shared_run, tmp_path, capsys, suffix):
    run, root = shared_run
    folder = tmp_path / "mixed"
    shutil.copytree(Path(root) / "test" / "fake", folder)
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    output = tmp_path / f"rows{suffix}"
    code, out, err = call("predict", [run.path, folder, "--output", output], capsys)
    assert code == 0
    assert "2 of 18 files could not be read" in err
    if suffix == ".csv":
        rows = pyarrow.csv.read_csv(output).to_pylist()
    elif suffix == ".parquet":
        rows = pq.read_table(output).to_pylist()
    else:
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 18
    errors = {Path(r["path"]).name: r["error"] for r in rows if r["error"]}
    assert errors == {"text.jpg": "not an image", "empty.png": "empty file"}
    assert all(0 <= r["p_fake"] <= 1 for r in rows if not r["error"])
    assert not list(tmp_path.glob(".*.tmp"))


def test_predict_in_the_terminal_and_by_threshold(shared_run, capsys):
    run, root = shared_run
    one = files_of(root)[0]
    code, out, err = call("predict", [run.path, one, "--threshold", "0"], capsys)
    assert code == 0 and " fake " in out and one in out
    assert ("assumes that 50% of images like these" in err) == (run.info.calibration is not None)
    assert "P(fake)" in err
    code, out, _ = call("predict", [run.path, one, "--threshold", "1"], capsys)
    assert code == 0 and " authentic " in out


def test_collect(tmp_path):
    for name in ("a.jpg", "sub/b.PNG", "sub/c.txt", "sub/.d.png", "odd name.with.dots.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_images([str(tmp_path)])
    names = [os.path.relpath(p, tmp_path) for p in found.paths]
    assert names == ["a.jpg", "odd name.with.dots.webp", "sub/b.PNG"]
    assert found.other == {".txt": 1, "hidden": 1}
    found = find_images([str(tmp_path / "**/*.PNG"), str(tmp_path / "sub/c.txt")])
    assert [Path(p).name for p in found.paths] == ["b.PNG", "c.txt"]
    assert len(find_images([str(tmp_path / "a.jpg"), str(tmp_path)]).paths) == 3


def test_a_file_that_is_given_twice_is_judged_once(shared_run, tmp_path, capsys):
    run, root = shared_run
    names = ("a.png", "sub/b.png")
    (tmp_path / "sub").mkdir()
    for name, source in zip(names, sorted((root / "test" / "fake").iterdir())):
        (tmp_path / name).write_bytes(source.read_bytes())
    first, second = (str(tmp_path / name) for name in names)
    (tmp_path / "z.png").symlink_to(first)
    code, out, err = call("predict", [run.path, second, tmp_path, second, "--json"], capsys)
    assert code == 0
    assert [row["path"] for row in json.loads(out)] == [second, first]
    assert "Files: 5 = 2 images + 3 given twice. 3 files were given twice and count once" in err
    assert str(tmp_path / "z.png") in err
    api = tfdetect.load(run).predict([first, str(tmp_path / "z.png")], progress=False)
    assert [row["path"] for row in api] == [first]
    assert "1 file was given twice and counts once" in capsys.readouterr().err  # without progress
    copy = tmp_path / "copy.png"  # the same bytes, but another file
    copy.write_bytes(Path(first).read_bytes())
    assert len(tfdetect.load(run).predict([first, copy], progress=False)) == 2
    _, _, err = call("predict", [run.path, first, first], capsys)
    assert "Files: 2 = 1 image + 1 given twice. 1 file was given twice and counts once" in err


def test_a_folder_without_images_costs_itself(shared_run, tmp_path, capsys):
    run, root = shared_run
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    shutil.copytree(root / "test/real", tmp_path / "full")
    inputs = [tmp_path / "empty", tmp_path / "full"]
    code, out, err = call("predict", [run.path, *inputs, "--json", "--copies", tmp_path / "c"],
                          capsys)  # fmt: skip
    rows = json.loads(out)
    assert code == 0 and len(rows) == len(list(inputs[1].iterdir())) + 1
    assert rows[-1]["path"] == str(inputs[0]) and "no images" in rows[-1]["error"]
    assert f"Folders without images: {inputs[0]}" in err and f"1 of {len(rows)} files" in err
    assert f"No copied regions were found in {len(rows) - 1} images" in err
    code, _, err = call("predict", [run.path, inputs[0]], capsys)
    assert code == 2 and "the folder contains no images. Files: 1 = 0 images" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "no file or folder 'nowhere.jpg'"),
        (["*.nothing"], "No file matches"),
        ([".", "--output", "rows.xlsx"], "Unknown output format '.xlsx'"),
        ([".", "--output", "no/such/folder/rows.csv"], "Cannot write"),
        ([".", "--threshold", "2"], "--threshold must be from 0 to 1"),
        ([".", "--threshold", "0.5", "--at", "eer"], "Give one of them"),
        ([".", "--prior", "1"], "--prior must be a fraction"),
        ([".", "--prior", "validaton"], "--prior must be a fraction"),
        ([".", "--at", "fpr_2"], "no operating point 'fpr_2'"),
        ([".", "--treshold", "0.2"], "Did you mean '--threshold'"),
        ([], "is a run. Add the images"),
    ],
)
def test_mistakes_in_predict(shared_run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("predict", [shared_run[0].path, *arguments], capsys)
    assert code == 2 and message in err and "Traceback" not in err


def test_evaluate_again_and_on_another_dataset(shared_run, folder_dataset, tmp_path, capsys):
    run, root = shared_run
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    before = json.loads((copy / "metrics.json").read_text())
    code, out, _ = call("evaluate", [copy], capsys)
    assert code == 0 and "accuracy" in out
    again = json.loads((copy / "metrics.json").read_text())
    assert again == before
    code, out, _ = call(
        "evaluate", [copy, "--dataset", folder_dataset, "--split", "test", "--no-images", "--json"],
        capsys,
    )  # fmt: skip
    assert code == 0 and json.loads(out)["test"]["count"] == 32
    elsewhere = copy / "evaluations" / "pictures"
    assert (elsewhere / "report.html").is_file()
    assert not (elsewhere / "figures" / "test_mistakes.png").exists()
    assert json.loads((copy / "metrics.json").read_text()) == before


def test_a_run_is_measured_again_by_the_predictions_that_it_keeps(shared_run, tmp_path, capsys):
    run, _ = shared_run
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy, ignore=shutil.ignore_patterns("saved_model"))
    (copy / "report.html").write_text("old")
    code, _, err = call("evaluate", [copy, "--from-predictions", "--split", "test"], capsys)
    assert code == 2 and "--from-predictions measures the run as it is" in err
    code, out, err = call("evaluate", [copy, "--from-predictions", "--json"], capsys)
    assert code == 0 and json.loads(out) == run.results, err
    assert "test: only 32 images" in (copy / "report.html").read_text()
    # Without the exact logits, as an earlier version left predictions.
    table = pq.read_table(copy / "predictions" / "test.parquet")
    raw = without_calibration(table, run)
    older = without_calibration(table.drop_columns("logit"), run)
    for name in run.class_names:
        column = f"probability_{name}"
        assert np.allclose(raw[column].to_numpy(), older[column].to_numpy(), atol=1e-6)


def test_report_and_card_say_what_is_done_with_an_image(shared_run):
    """Images of 24 pixels that are enlarged to 96 are no crops of 96 pixels."""
    run, _ = shared_run
    for name in ("report.html", "model_card.md"):
        assert input_sentence(run) in (run.path / name).read_text()
    sides = TrainingImages(shorter_side=(24, 32, 40))
    run = run.with_info(dataset=run.info.dataset.model_copy(update={"training_images": sides}))
    whole = {
        "stretch": "An image is resized to 96 x 96 pixels; its proportions may change.",
        "crop": "An image is enlarged or reduced until it just covers 96 x 96 pixels, and its "
        "middle is read.",
        "pad": "An image is enlarged or reduced until it just fits into 96 x 96 pixels, and the "
        "rest is black.",
    }
    for policy, text in whole.items():
        view = View(size=(96, 96), policy=policy)
        enlarged = "The training images (shorter side 24 to 40 pixels) were enlarged."
        assert input_sentence(run.with_info(views=(view,))) == f"{text} {enlarged}"
        smaller = view.model_copy(update={"size": (16, 16)})
        assert "pixels) were reduced." in input_sentence(run.with_info(views=(smaller,)))
        similar = view.model_copy(update={"size": (32, 32)})
        assert "were" not in input_sentence(run.with_info(views=(similar,)))
    window = View(size=(64, 96), policy="window_pad", crops=5, equalize={"side": 512})
    told = (
        "The middle of an image, at most 512 x 512 pixels, is cut out and encoded as JPEG again "
        "(quality 87). 5 parts of it, of 96 x 64 pixels (width x height) each, are read without "
        "resizing, and their probabilities are averaged; a smaller one gets a black border."
    )
    assert input_sentence(run.with_info(views=(window,))) == told
    both = input_sentence(run.with_info(views=(window, view)))
    assert both == f"The detector reads an image in 2 ways. {told} {whole['pad']}"
    tiled = run.with_info(views=(View(size=(96, 96), policy="window_tile"),), predicts_masks=True)
    assert "read in overlapping tiles of 96 x 96 pixels without" in input_sentence(tiled)


def test_small_splits_are_warned_of_in_report_and_card(shared_run):
    run, _ = shared_run
    assert run.results["test"]["count"] == 32
    words = "test: only 32 images (16 authentic, 16 fake): intervals are wide"
    assert words in (run.path / "report.html").read_text()
    assert words in (run.path / "model_card.md").read_text()
    assert not few_images("test", 20, 400) and not few_images("all", 0, 20)


def test_results_on_folders_of_the_same_name_are_kept_apart(shared_run, tmp_path):
    run = replace(shared_run[0], path=tmp_path / "run")
    first, second = tmp_path / "a" / "photos", tmp_path / "b" / "photos"
    folders = []
    for images in (first, second, first, second):
        folder = evaluation_folder(run, "photos", {"photos": images})
        with evaluating(run, folder, {"photos": images}) as staged:
            (staged / "metrics.json").write_text(json.dumps(str(images)))
        folders.append(folder)
    assert folders[:2] == folders[2:] and folders[0] == run.path / "evaluations" / "photos"
    assert folders[1].name.startswith("photos-")
    assert [json.loads((f / "metrics.json").read_text()) for f in folders[:2]] == [
        str(first), str(second)
    ]  # fmt: skip


def test_copies_of_training_images_are_told_apart(shared_run, tmp_path):
    from tfdetect.core.load_spec import load_spec
    from tfdetect.data.build_catalog import build_catalog
    from tfdetect.evaluation.evaluate_run import evaluate_run
    from tfdetect.evaluation.run_report import write_evaluation

    run, root = shared_run
    copy = tmp_path / "pictures"
    shutil.copytree(root, copy)
    for number in range(5):
        shutil.copy(copy / f"train/fake/{number:03d}.png", copy / f"test/fake/copy{number}.png")
    spec, _ = load_spec(str(copy))
    catalog = build_catalog(spec, {spec.name: copy}, progress=False)
    copies = 5
    out = tmp_path / "out"
    found = evaluate_run(run, catalog, ("test",), log=lambda text: None)
    write_evaluation(found, out)
    result = found.results
    assert result["test"]["count"] == 37
    assert result["test"]["without_duplicates"]["count"] == 37 - copies
    assert "5 of 37 images are known to the detector" in (out / "report.html").read_text()


def test_export_again_gives_the_same(shared_run, tmp_path, capsys):
    run, root = shared_run
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    shutil.rmtree(copy / "saved_model")
    assert call("export", [copy], capsys)[0] == 0
    data = [Path(p).read_bytes() for p in files_of(root)[:4]]
    [one], [two] = (run_signature(p / "saved_model", "encoded", [data]) for p in (run.path, copy))
    assert np.array_equal(one["p_fake"], two["p_fake"])


def damaged(run, tmp_path, change):
    copy = tmp_path / "damaged"
    shutil.copytree(run.path, copy)
    change(copy)
    return copy


def edit(path, change):
    data = json.loads((path / "run.json").read_text())
    change(data)
    (path / "run.json").write_text(json.dumps(data))


CUT = '{"schema_version": 2'
DAMAGE = {
    "no run.json": (lambda p: (p / "run.json").unlink(), "it has no run.json"),
    "cut run.json": (lambda p: (p / "run.json").write_text(CUT), "is not valid JSON"),
    "list": (lambda p: (p / "run.json").write_text("[1]"), "expected a JSON object"),
    "newer": (lambda p: (p / "run.json").write_text(
        json.dumps({**json.loads((p / "run.json").read_text()), "schema_version": 99})), "newer"),
    "no model": (lambda p: (p / "model.keras").unlink(), "model.keras is missing"),
    "cut model": (lambda p: (p / "model.keras").write_bytes(b"PK garbage"), "cut off or damaged"),
    "a class more": (
        lambda p: edit(p, lambda d: d["class_names"].append("third")), "3 logits, but model.keras"),
    "another size": (lambda p: edit(p, lambda d: d["views"][0].update(size=[8, 9])), "(8, 9)"),
    "masks": (lambda p: edit(p, lambda d: d.update(predicts_masks=True)), "predicts_masks"),
    "no number": (lambda p: edit(p, lambda d: d.update(threshold=float("nan"))), "finite"),
    "keys": (lambda p: (p / "run.json").write_text(CUT + "}"), "'status' is required"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "message"), [
    ("1,0.5,0.7,0.5", "expected 5 cells"), ("1,x,0.7,0.5,0.7", "is damaged: could not convert"),
    ("1,,0.7,0.5,0.7", "is damaged: a cell is empty"), ("1,\xff,0.7,0.5,0.7", "not text in UTF-8"),
])  # fmt: skip
def test_a_damaged_history_is_explained(tmp_path, row, message):
    run = open_run(shutil.copytree(
        ROOT / "saved_models" / "cifake_small_resnet", tmp_path / "run",
        ignore=shutil.ignore_patterns("saved_model", "exports", "predictions"),
    ))  # fmt: skip
    assert len(read_history(run)) == run.info.epochs
    text = f"epoch,accuracy,log_loss,val_accuracy,val_log_loss\n{row}\n"
    (run.path / "history.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read_history(run)


@pytest.mark.parametrize("name", DAMAGE)
def test_corrupt_runs_are_explained(shared_run, tmp_path, capsys, name):
    change, message = DAMAGE[name]
    run, root = shared_run
    copy = damaged(run, tmp_path, change)
    code, _, err = call("predict", [copy, files_of(root)[0]], capsys)
    assert code == 2 and message in err and "Traceback" not in err


def test_a_run_says_whether_it_was_measured_on_unseen_generators():
    def measured(*unseen):
        result = {"generators": {"a": {}, "b": {}}}
        return measured_sentence(
            {"test": result | ({"unseen_generators": {"generators": unseen}} if unseen else {})}
        )

    assert "images like those it was trained on" in measured()
    assert "trained on, and of 1 generator that it was not trained" in measured("b")
    assert "fakes of 2 generators, none of which it was trained on" in measured("a", "b")
    assert "not measured" in measured_sentence({})


def test_no_run_at_all(tmp_path):
    with pytest.raises(UserError, match="There is no run folder"):
        open_run(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"'photo_detecto'. Did you mean 'photo_detector'\?"):
        tfdetect.load("photo_detecto")
    with pytest.raises(UserError, match="is not a run"):
        open_run(tmp_path)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "run.json").touch()
    with pytest.raises(UserError, match="Did you mean '.*first'"):
        open_run(tmp_path / "frist")


def test_other_number_of_classes_is_refused(shared_run, folder_dataset, capsys):
    run, _ = shared_run
    for split in ("train", "test"):
        shutil.copytree(folder_dataset / split / "fake", folder_dataset / split / "edited")
    code, _, err = call("evaluate", [run.path, "--dataset", folder_dataset], capsys)
    assert code == 2 and "The run has 2 classes (real, fake)" in err


def test_several_windows_are_averaged(folder_dataset, tmp_path, capsys):
    settings = ["data.image_size=16", "data.resize=window_pad", "data.test_crops=5"]
    experiment = load_experiment("small_images", [*SMALL, *settings])
    run = run_at(tmp_path).with_info(views=(View.of(experiment.data),))
    save_detector(build_detector(experiment, 2), run.model_path)
    (tmp_path / "experiment.yaml").write_text(experiment.to_yaml())
    write_info(run)
    detector = load_detector(run)
    export_saved_model(run, detector=detector)
    assert run.views[0].crops == 5
    paths = files_of(folder_dataset)[:6]
    found = predict_files(run, detector, paths)["p_fake"].to_numpy()
    for path, score in zip(paths, found):
        image = tf.io.decode_png(tf.io.read_file(path))
        windows = [image[y : y + 16, x : x + 16] for y, x in
                   ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8))]  # fmt: skip
        logits = detector(tf.cast(tf.stack(windows), tf.float32), training=False)["label"]
        assert abs(float(tf.reduce_mean(tf.sigmoid(logits))) - score) < 1e-5
    data = [Path(path).read_bytes() for path in paths]
    [answer] = run_signature(run.path / "saved_model", "encoded", [data])
    np.testing.assert_allclose(answer["p_fake"], found, atol=1e-5)
    pixels = tf.stack([tf.io.decode_png(d) for d in data])
    [answer] = run_signature(
        run.path / "saved_model", "serving_default", [tf.cast(pixels, tf.float32)]
    )
    np.testing.assert_allclose(answer["p_fake"], found, atol=1e-5)
    one = predict_files(run.with_views(crops=1), detector, paths)["p_fake"].to_numpy()
    assert not np.allclose(one, found, atol=1e-7)
    code, out, err = call("predict", [run.path, paths[0], "--crops", "9"], capsys)
    assert code == 0, err


def test_crops_of_a_run_that_resizes_are_refused(shared_run, capsys):
    run, root = shared_run
    code, _, err = call("predict", [run.path, files_of(root)[0], "--crops", "5"], capsys)
    assert code == 2 and "crop windows" in err


def three_images(shared_run, folder):
    _, images = shared_run
    folder.mkdir()
    for number in range(3):
        shutil.copy(images / f"test/real/00{number}.png", folder)
    shutil.move(folder / "001.png", folder / f"{'a photo of an astronaut ' * 10}.png")  # 244 bytes
    return folder


def test_exit_codes_of_predict_are_those_of_its_help(shared_run, tmp_path, capsys):
    run, images = shared_run
    broken, empty = tmp_path / "broken.png", tmp_path / "empty"
    broken.write_bytes(b"no image")
    empty.mkdir()
    good = images / "test/real/000.png"
    for paths, wanted in (
        ([good, broken, empty], 0), ([broken], 1), ([empty], 2), ([good, tmp_path / "none.png"], 2),
    ):  # fmt: skip
        assert call("predict", [run.path, *paths], capsys)[0] == wanted, paths
    with pytest.raises(SystemExit):
        call("predict", ["--help"], capsys)
    ends = capsys.readouterr().out.partition("exit codes:\n")[2]
    assert re.findall(r"^ {1,2}(\d+) ", ends, re.MULTILINE) == ["0", "1", "2", "130"]
    assert "1    none of the images could be read" in ends


def test_one_page_that_cannot_be_written_costs_itself(shared_run, tmp_path, capsys):
    run, _ = shared_run
    images, pages = three_images(shared_run, tmp_path / "images"), tmp_path / "pages"
    (pages / "000.html").mkdir(parents=True)  # in the way
    code, out, err = call("predict", [run.path, images, "--explain", pages], capsys)
    assert code == 1 and "Not written: 1 mask or page" in err
    assert f"{pages / '000.html'}: Is a directory" in err
    assert out.count("authentic") + out.count("fake") >= 3  # all verdicts
    written = sorted(p.name for p in pages.iterdir() if p.is_file())
    assert len(written) == 2 and "002.html" in written and all(len(n) <= 255 for n in written)


def test_verdicts_are_not_lost_when_the_disk_is_full(shared_run, tmp_path, capsys):
    import resource

    run, _ = shared_run
    images, table = three_images(shared_run, tmp_path / "images"), tmp_path / "verdicts.csv"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # stands for a full disk
    try:
        code, out, err = call("predict", [run.path, images, "--output", table], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and "A file is too large for this disk" in err
    assert "Its rows follow on stdout" in err
    rows = pyarrow.csv.read_csv(pyarrow.py_buffer(out.encode())).to_pylist()
    assert [Path(row["path"]).name[:3] for row in rows] == ["000", "002", "a p"]
    assert all(row["verdict"] for row in rows)
    assert os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize("ending", ["csv", None])
def test_a_stopped_prediction_keeps_its_finished_rows(
    shared_run, tmp_path, capsys, monkeypatch, ending
):
    images, table = three_images(shared_run, tmp_path / "images"), tmp_path / f"verdicts.{ending}"
    added, add = [], PredictionColumns.add

    def add_two(columns, batch):
        if len(added) == 2:
            raise KeyboardInterrupt  # as Ctrl-C does
        added.append(batch)
        add(columns, batch)

    monkeypatch.setattr(PredictionColumns, "add", add_two)
    output = ["--output", table] if ending else ["--json"]
    code, out, err = call(
        "predict", [shared_run[0].path, images, "--batch-size", 1, *output], capsys
    )
    assert code == 130 and "2 images finished" in err
    if ending:
        rows = pyarrow.csv.read_csv(tmp_path / "verdicts.unfinished.csv").to_pylist()
        assert not table.exists()
    else:
        rows = json.loads(out)
    assert len(rows) == 2 and all(0 <= row["p_fake"] <= 1 for row in rows)


def test_the_cpu_is_given_few_large_images_at_once(tmp_path):
    """Ctrl-C waits for the end of a batch."""
    sizes = [cpu_batch(run_at(tmp_path, side=side), 64) for side in (32, 224, 3000)]
    assert sizes == [64, 8, 1]
    run = run_at(tmp_path, side=224, policy="window_tile").with_views(crops=5)
    assert cpu_batch(run, 64) == 1


def test_one_mask_that_cannot_be_written_costs_itself(tmp_path):
    (tmp_path / "masks/b.altered.png").mkdir(parents=True)  # in the way
    failed = FailedWrites()
    paths = ["x/a.png", "x/b.png", "x/c.png"]
    writer = MaskWriter(tmp_path / "masks", paths, failed, lambda path, pixels: None)
    image, altered = np.zeros((8, 9, 3), np.uint8), np.ones((8, 9), np.float32)
    for number in range(3):
        writer.write(MaskPrediction(number, image, altered, np.zeros((8, 9), np.uint8)))
    assert failed.reasons == {tmp_path / "masks/b": "Is a directory"}
    written = sorted(p.name for p in (tmp_path / "masks").glob("[ac].*"))
    assert written == [f"{n}.{k}.png" for n in "ac" for k in ("altered", "mask", "overlay")]


def test_masks_are_announced_where_some_were_written(tmp_path, capsys):
    columns = {
        "path": Column.texts(["a.png", "b.png"]), "error": Column.texts([None, None]),
        "copied_fraction": Column(np.zeros(2), np.zeros(2, bool)),
    }  # fmt: skip
    masks = tmp_path / "masks"
    for names, said in (("a", True), ("ab", False), ("", True)):
        unwritten = {masks / name: "No space left on device" for name in names}
        log_files(Predictions(Table(columns), (), unwritten), unwritten, masks)
        err = capsys.readouterr().err
        assert (f"Masks and overlays in {masks}" in err) == said
        assert ("Not written" in err) == bool(names)


def test_the_report_says_what_became_of_every_file(shared_run):
    run, _ = shared_run
    counts = {"skipped": 3, "left_out": 1_200, "other_files": 4}
    said = dict(facts(run.with_info(dataset=run.info.dataset.model_copy(update=counts))))
    kinds = ("images skipped", "images left out", "other files")
    assert [said[kind] for kind in kinds] == ["3", "1,200", "4"]


def test_warnings_count_the_images_that_were_judged(capsys):
    from types import SimpleNamespace

    from tfdetect.predict import log_warnings

    log_warnings(12, SimpleNamespace(unreadable=6, out_of_domain=3, duplicates_of_train=1))
    said = capsys.readouterr().err
    assert "6 of 12 files could not be read" in said
    assert "3 of 6 images are unlike" in said and "1 of 6 images is known" in said


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that refuses all files")
def test_a_table_that_cannot_be_written_is_told_before_the_work():
    from tfdetect.evaluation.prediction_tables import check_output

    with pytest.raises(UserError, match="Cannot write to /proc"):
        check_output(Path("/proc/rows.csv"))


def test_a_dataset_of_the_same_name_is_another_one_unless_its_content_says_so(shared_run, tmp_path):
    run, root = shared_run

    def catalog_of(folder):
        return find_data(make_plan(str(folder), data_dir=folder), progress=False)

    own, other = catalog_of(root), tmp_path / root.name
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(other / "train" / name, 30, fake, seed=7)
    elsewhere = run.with_info(dataset=run.info.dataset.model_copy(update={"roots": {}}))
    assert is_own_dataset(run, own) and is_own_dataset(elsewhere, own)
    assert catalog_of(other).name == run.info.dataset.name
    assert not is_own_dataset(run, catalog_of(other))
    assert not is_own_dataset(elsewhere, catalog_of(other))
    part = tmp_path / "part" / root.name  # test images are missing, and the place is another one
    shutil.copytree(root / "train", part / "train")
    assert is_own_dataset(elsewhere, catalog_of(part))
    validation = own.split("validation")
    assert is_own_dataset(elsewhere, replace(own, table=validation))  # all of them, and no others
    assert not is_own_dataset(elsewhere, replace(own, table=validation.slice(1)))
