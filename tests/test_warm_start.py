"""Training from a finished run: what is kept, replayed and distilled, gained and forgotten."""

import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import fit_small, train_small, write_images
from PIL import Image

from tfdetect import api
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment, override
from tfdetect.core.load_spec import load_spec
from tfdetect.core.open_run import open_run
from tfdetect.core.run_command import run_command
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.plan import make_plan
from tfdetect.data.sources import image_source
from tfdetect.data.training_data import training_data
from tfdetect.data.validation_stream import validation_data
from tfdetect.data.warm_start import Start, ancestor
from tfdetect.evaluation.paired import difference
from tfdetect.evaluation.prediction_tables import read
from tfdetect.evaluation.predictions import predict_source
from tfdetect.evaluation.result_tables import transfer_tables
from tfdetect.evaluation.run_description import lineage_sentence, teacher_sentence
from tfdetect.evaluation.teacher_answers import teacher_answers
from tfdetect.evaluation.transfer import measure_transfer
from tfdetect.models.detector import build_detector
from tfdetect.models.parent_detector import start_from, with_teacher
from tfdetect.models.saving import load_detector, save_detector
from tfdetect.train import main as train_command
from tfdetect.training.check_training import check_experiment
from tfdetect.training.losses import Distillation

RECIPE = ["training.epochs=2", "training.export=[]", "training.optimizer.learning_rate=0.003"]


def write_dark(root, classes=("real", "fake")):
    """A generator that the shared run does not know: its fakes are dark, without checkerboard."""
    for split, count in (("train", 30), ("test", 12)):
        for number, name in enumerate(classes):
            folder = root / split / name
            write_images(folder, count, 0, seed=10 * number + len(split))
            for path in folder.iterdir() if number else ():
                pixels = np.asarray(Image.open(path)).astype(int)
                Image.fromarray((pixels // (1 + number)).astype("u1")).save(path)
    return root


@pytest.fixture(scope="module")
def dark(tmp_path_factory):
    return write_dark(tmp_path_factory.mktemp("warm") / "dark")


@pytest.mark.slow
def test_a_run_is_adapted_to_a_new_generator_with_replay(shared_run, dark, tmp_path, capsys):
    parent, pictures = shared_run
    sets = [part for text in RECIPE for part in ("--set", text)]
    call = ["--from", str(parent.path), "--dataset", str(dark), "--replay", "0.3", *sets,
            "--set", "training.distill.weight=0.5", "--output", str(tmp_path),
            "--quiet"]  # fmt: skip
    assert run_command(train_command, [*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    run = open_run(said["run"])
    assert run.name == "small-dark" and said["transfer"] == run.transfer
    # The detector and its preprocessing are the run's.
    own, before = run.experiment(), parent.experiment()
    assert own.model == before.model and own.data.image_size == before.data.image_size
    assert "started from" in (run.path / "report.html").read_text()
    [start] = run.info.lineage
    assert (start.name, start.dataset, start.replay, start.distill) == (
        "small", "pictures", 0.3, 0.5,
    )  # fmt: skip
    assert start.fingerprint == parent.info.dataset.fingerprint and len(start.model) == 16
    # Both are measured on the test images of both datasets, in pairs.
    found = run.transfer
    assert found["new"]["dataset"] == "dark" and found["new"]["count"] == 24
    assert found["old"]["dataset"] == "pictures" and found["old"]["count"] == 32
    mine, theirs = read(run.path, "test"), read(parent.path, "test")
    [pair] = found["old"]["pairs"]
    order = {key: i for i, key in enumerate(theirs["path"].to_pylist())}
    old = [(row, theirs["p_fake"][order[row["path"]]].as_py(), row["label"] > 0)
           for row in mine.to_pylist() if row["dataset"] == "pictures"]  # fmt: skip
    fake = np.array([label for *_, label in old])
    after = np.array([row["p_fake"] for row, *_ in old])
    change = difference(fake, after, np.array([p for _, p, _ in old]), ["auc"])["auc"]["value"]
    assert pair["metrics"]["auc"]["value"] == pytest.approx(change)
    assert (pair["one"], pair["other"]) == ("after", "before")
    page = (run.path / "report.html").read_text()
    card = (run.path / "model_card.md").read_text()
    for text in (page, card):
        assert "Gain on the new data, dark" in text and "Forgetting of the old data" in text
        assert "30% replay of pictures" in text and start.model in text
    # A run can be adapted again; its dataset is both.
    (
        write_images(tmp_path / "more/train/real", 9, 0),
        write_images(tmp_path / "more/train/fake", 9, 1),
    )
    again = plan_from(run.path, tmp_path / "more", replay=0.2)
    assert [part.spec.name for part in again.spec.parts] == ["more", "dark", "pictures"]
    assert plan_from(run.path, tmp_path / "more").experiment.training.replay == 0
    assert [part.spec.name for part in run.dataset_spec().parts] == ["dark", "pictures"]


def test_all_weights_are_copied_and_a_new_number_of_classes_has_a_new_last_layer(shared_run):
    parent, _ = shared_run
    old, images = load_detector(parent), np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3))
    same = build_detector(parent.experiment(), 2)
    assert start_from(same, old, "small") == []
    expected = old.predict(images, verbose=0)["label"]
    np.testing.assert_allclose(same.predict(images, verbose=0)["label"], expected, rtol=1e-5)
    three = build_detector(parent.experiment(), 3)
    [anew] = start_from(three, old, "small")
    assert three.get_layer(anew).output.shape[-1] == 3
    for a, b in zip(three.layers[-2].get_weights(), old.layers[-2].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = parent.experiment().model.model_copy(
        update={"options": {"widths": [4], "blocks": [1], "strides": [2], "stem": 4}}
    )
    wrong = build_detector(parent.experiment().model_copy(update={"model": other}), 2)
    with pytest.raises(UserError, match="The detector of small has other layers"):
        start_from(wrong, old, "small")


def test_distillation_is_the_cross_entropy_with_the_teachers_answer(shared_run):
    parent, _ = shared_run
    teacher, detector = load_detector(parent), build_detector(parent.experiment(), 2)
    both = with_teacher(detector, teacher)
    assert both.count_params() == detector.count_params() + teacher.count_params()
    assert len(both.trainable_variables) == len(detector.trainable_variables)
    images = np.random.default_rng(0).uniform(0, 255, (5, 24, 24, 3))
    pair = both.predict(images, verbose=0)["distill"]
    np.testing.assert_allclose(pair[:, 1:], teacher.predict(images, verbose=0)["label"], rtol=1e-4)
    loss = float(Distillation(3.0)(np.zeros((5, 1)), pair))
    own, told = (1 / (1 + np.exp(-pair / 3.0))).T
    assert loss == pytest.approx(
        -9 * np.mean(told * np.log(own) + (1 - told) * np.log(1 - own)), rel=1e-4
    )
    logits = np.array([[1.0, 2, 3, 3, 2, 1]])
    own, told = (np.exp(x) / np.exp(x).sum() for x in (logits[0, :3], logits[0, 3:]))
    assert float(Distillation(1.0)(np.zeros((1, 3)), logits)) == pytest.approx(
        -(told * np.log(own)).sum(), rel=1e-5
    )


def test_nothing_is_learned_of_a_teacher_where_it_gave_no_answer():
    own = tf.Variable([[0.5], [2.0]])
    with tf.GradientTape() as tape:
        loss = Distillation(2.0)(np.array([[1.0], [np.nan]], "f"), own)
    slope = tape.gradient(loss, own).numpy()[:, 0]
    told, said = (1 / (1 + np.exp(-x / 2)) for x in (1.0, 0.5))
    assert slope.tolist() == pytest.approx([2 * (said - told) / 2, 0], abs=1e-6)


def taught_by(run, weight=1, *more, asked="each_step"):
    return [f"training.distill={{teacher: {run}, weight: {weight}, asked: {asked}}}", *more]


def test_a_teacher_that_is_asked_once_may_see_images_in_another_way(shared_run, dark, tmp_path):
    parent, _ = shared_run
    told = ["data.image_size=32", *taught_by(parent.path, 1000, asked="once")]
    lines = []
    run = train_small(dark, tmp_path, told, name="student", trial=True, log=lines.append)
    assert run.info.teacher.asked == "once" and "asked once" in teacher_sentence(run)
    assert sum("asking small for its answers of" in line for line in lines) == 2
    with (run.path / "history.csv").open() as file:
        for row in csv.DictReader(file):
            assert float(row["loss"]) > 100 * float(row["log_loss"])


def test_answers_are_those_of_predict_and_reach_their_images(shared_run, dark, tmp_path):
    parent, _ = shared_run
    plan = make_plan(str(dark), "small_images", ["data.image_size=32", "data.augment=[]"])
    catalog = build_catalog(plan.spec, plan.folders, progress=False)
    file = tmp_path / "state" / "answers.npz"
    answers = teacher_answers(parent, catalog, file, 8, log=lambda text: None)
    rows = catalog.split("train")
    expected = predict_source(
        parent, load_detector(parent), image_source(catalog, rows), progress=False
    )["logit"].to_numpy()
    np.testing.assert_allclose(answers["train"][:, 0], expected, atol=1e-4)
    assert len(set(expected.round(4))) > 10
    again = teacher_answers(parent, catalog, file, 8, log=pytest.fail)  # read from the file
    np.testing.assert_array_equal(again["validation"], answers["validation"])
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match="answers of the teacher in .* are damaged"):
        teacher_answers(parent, catalog, damaged, 8)

    data = plan.experiment.data
    numbers = np.arange(rows.num_rows, dtype="f")[:, None]
    for cache in ("memory", "none"):
        kept = data.model_copy(update={"cache": cache, "balance": "weight"})
        stream = training_data(catalog, rows, kept, 2, 8, 3, answers=numbers)
        for image, target, weight in stream.batches().take(4):
            assert weight["distill"].numpy().tolist() == [1] * 8
            for one, label, number in zip(image, target["label"], target["distill"].numpy()):
                row = rows.slice(int(number[0]), 1).to_pylist()[0]
                assert row["label"] == int(label[0])
                path = image_source(catalog, rows).name(int(number[0]))
                with Image.open(path if Path(path).is_absolute() else dark / path) as picture:
                    mean = np.asarray(picture.convert("RGB"), float).mean()
                assert one.numpy().mean() == pytest.approx(mean, abs=2)
    validation = catalog.split("validation")
    numbers = np.arange(validation.num_rows, dtype="f")[:, None]
    batches = validation_data(catalog, validation, data, 2, 4, answers=numbers)
    found = np.concatenate([y["distill"][w["distill"] > 0] for _, y, w in batches])
    assert sorted(found[:, 0]) == list(range(validation.num_rows))


def test_a_teacher_that_was_interrupted_goes_on(shared_run, tmp_path, monkeypatch):
    """With the same batches, so that the answers are the same to the bit."""
    from tfdetect.evaluation import teacher_answers as module

    parent, _ = shared_run
    root = write_dark(tmp_path / "dark")
    plan = make_plan(str(root), "small_images", ["data.image_size=24"])
    catalog = build_catalog(plan.spec, plan.folders, progress=False)
    rows = catalog.split("train")
    for number in (3, 9, 16, rows.num_rows - 1):  # within and between the batches of 8, and last
        (root / rows["path"][number].as_py()).write_bytes(b"broken since the scan")
    whole = teacher_answers(parent, catalog, tmp_path / "w" / "a.npz", 8, log=lambda text: None)
    assert np.isnan(whole["train"]).sum() == 4 and not np.isnan(whole["validation"]).any()

    score, asked = module.score_source, []

    def interrupted_after(count):
        def batches(*args):
            for number, batch in enumerate(score(*args)):
                if number == count:
                    raise KeyboardInterrupt
                asked.append(len(batch.indices))
                yield batch

        return batches

    file, lines = tmp_path / "state" / "answers.npz", []
    for count in (2, 0, 1):
        monkeypatch.setattr(module, "score_source", interrupted_after(count))
        with pytest.raises(KeyboardInterrupt):
            teacher_answers(parent, catalog, file, 8, log=lines.append)
    with np.load(file) as kept:
        assert np.isfinite(kept["train"]).sum() == 24 and kept["asked"][1] == 0
    monkeypatch.setattr(module, "_SECONDS", 0)
    monkeypatch.setattr(module, "score_source", interrupted_after(None))
    found = teacher_answers(parent, catalog, file, 8, log=lines.append)
    assert sum(asked) == rows.num_rows - 4 + catalog.split("validation").num_rows
    assert "answered already" not in lines[0] and "are answered already" in lines[-2]
    for split in ("train", "validation"):
        np.testing.assert_array_equal(found[split], whole[split])
    again = teacher_answers(parent, catalog, file, 8, log=pytest.fail)  # nothing is asked again
    np.testing.assert_array_equal(again["train"], whole["train"])


def test_ctrl_c_while_a_teacher_is_asked_keeps_its_answers(shared_run, dark, tmp_path, monkeypatch):
    from tfdetect.data.plan import load_plan
    from tfdetect.evaluation import teacher_answers as module

    parent, _ = shared_run
    told = taught_by(parent.path, asked="once")
    score = module.score_source

    def interrupted(*args):
        yield next(iter(score(*args)))
        raise KeyboardInterrupt

    lines = []
    monkeypatch.setattr(module, "score_source", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_small(dark, tmp_path, told, name="student", trial=True, log=lines.append)
    assert "is kept" in lines[-1] and "--resume" in lines[-1]
    assert (tmp_path / "student.partial" / "state" / "answers.npz").is_file()
    assert load_plan(tmp_path / "student").experiment.training.distill.asked == "once"
    monkeypatch.setattr(module, "score_source", score)
    lines.clear()
    run = train_small(dark, tmp_path, told, name="student", trial=True, log=lines.append)
    assert run.info.status == "complete" and run.info.epochs == 2
    assert "12 are answered already" in lines[0]
    assert not (run.path / "state").exists()


@pytest.mark.parametrize("asked", ["once", "each_step"])
def test_a_teacher_that_knows_test_images_is_warned_of(shared_run, tmp_path, capsys, asked):
    parent, pictures = shared_run
    root = write_dark(tmp_path / "dark")
    for kind in ("real", "fake"):
        for number in range(5):
            shutil.copy(pictures / "train" / kind / f"{number:03d}.png",
                        root / "test" / kind / f"copy{number}.png")  # fmt: skip
    run = train_small(root, tmp_path, taught_by(parent.path, asked=asked), name="student")
    said = "Of 34 test images, small knows 10 from training or selection"
    assert said in " ".join(capsys.readouterr().err.split())
    assert any(text.startswith(said) for text in run.info.dataset.warnings)
    for name in ("report.html", "model_card.md"):
        assert said in (run.path / name).read_text()


def test_what_a_parent_was_trained_on_stays_known(shared_run, tmp_path, capsys):
    """The run's weights come from the parent's, so it was trained on the parent's images, too."""
    from tfdetect.data.known_images import known_to

    parent, pictures = shared_run
    root = write_dark(tmp_path / "dark")
    copies = sorted((pictures / "train" / "fake").iterdir())[:5]
    for path in copies:
        shutil.copy(path, root / "test" / "fake" / f"copy_{path.name}")
    call = ["--from", str(parent.path), "--dataset", str(root), "--output", str(tmp_path),
            "--name", "child", *(part for text in RECIPE for part in ("--set", text))]  # fmt: skip
    assert run_command(train_command, [*call, "--json"]) == 0
    said = "Of 29 test images, small knows 5 from training or selection"
    assert said in " ".join(capsys.readouterr().err.split())
    run = open_run(tmp_path / "child")
    assert run.results["test"]["without_duplicates"]["count"] == 24
    child = build_catalog(run.dataset_spec(), run.roots, progress=False)
    assert "child knows 5" in known_to([run], child)[-1]
    # Of the very data that a run was trained on, nothing is read.
    own = build_catalog(parent.dataset_spec(), parent.roots, progress=False)
    assert known_to([parent], own) == []


def test_a_new_detector_learns_the_answers_of_another_run(shared_run, dark, tmp_path):
    parent, _ = shared_run
    run = train_small(dark, tmp_path, taught_by(parent.path, 1000), name="student", trial=True)
    told = run.info.teacher
    assert (told.name, told.weight, told.temperature) == ("small", 1000, 2.0)
    assert "distillation of weight 1000 at temperature 2" in teacher_sentence(run)
    assert not run.info.lineage and teacher_sentence(parent) == ""
    # Four times the entropy of the teacher's answers at least, times the weight, is in the loss.
    with (run.path / "history.csv").open() as file:
        for row in csv.DictReader(file):
            assert float(row["loss"]) > 100 * float(row["log_loss"])


def test_a_teacher_sees_the_same_pixels_and_has_the_same_classes(shared_run, dark, tmp_path):
    parent, _ = shared_run
    small = ["data.image_size=24", *taught_by(parent.path)]
    plan = make_plan(str(dark), "small_images", small)
    assert plan.experiment.training.distill.teacher == str(parent.path.resolve())
    with pytest.raises(UserError, match="(?s)small sees 24 x 24 pixels .*, the detector 32 x 32"):
        make_plan(str(dark), "small_images", [*small, "data.image_size=32"])
    with pytest.raises(UserError, match="distill.weight must be above 0"):
        make_plan(str(dark), "small_images", ["data.image_size=24", *taught_by(parent.path, 0)])
    with pytest.raises(UserError, match="The run has 2 classes"):
        three = write_dark(tmp_path / "three", ("real", "sd", "gan"))
        make_plan(str(three), "small_images", small)
    with pytest.raises(UserError, match="nowhere"):
        make_plan(str(dark), "small_images", taught_by("nowhere"))
    mixed = [*small[:1], *taught_by(parent.path, asked="once"), "data.augment=[{name: mixup}]"]
    with pytest.raises(UserError, match="once has answers of the images as they are"):
        check_experiment(make_plan(str(dark), "small_images", mixed).experiment, 2)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    ["training.replay=0.4", "training.distill.weight=1"],
    ["training.replay=0.4", *taught_by("PARENT", asked="once")],
    ["training.replay=0.4",
     "training.stages=[{epochs: 2, freeze: {fraction: 1}}, {epochs: 2, lr_multiplier: 0.5}]"],
], ids=["distill", "asked once", "stages"])  # fmt: skip
def test_a_killed_training_from_a_run_ends_with_the_same_weights(
    shared_run, dark, tmp_path, settings
):
    parent, _ = shared_run
    settings = [each.replace("PARENT", str(parent.path)) for each in settings]
    overrides = [*RECIPE, *settings, "training.checkpoint_minutes=0"]
    plan = make_plan(str(dark), None, overrides, None, None, None, parent.path, None)

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3 and self.model.optimizer.iterations > 4:  # in the second epoch
                raise Killed

    def fit(folder, *callbacks):
        return fit_small(dark, tmp_path / folder, callbacks=callbacks, plan=plan, parent=parent)[0]

    with pytest.raises(Killed):
        fit("parts", Kill())
    whole, resumed = fit("whole"), fit("parts")
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(whole.get_weights(), load_detector(parent).get_weights(), strict=True)
    ]
    assert any(changed)
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_gain_and_forgetting_are_paired_and_reported(shared_run, dark):
    parent, pictures = shared_run
    start = ancestor(parent, parent.experiment())
    child = parent.with_info(lineage=(start,), threshold=0.9)
    spec, folders = load_spec(str(dark))
    catalog = build_catalog(spec, folders, progress=False)
    old_spec, old_folders = load_spec(str(pictures))
    old = build_catalog(old_spec, old_folders, progress=False)
    found = measure_transfer(child, Start(parent, old), catalog, {}, log=lambda text: None)
    for kind, name, count in (("new", "dark", 24), ("old", "pictures", 32)):
        part = found[kind]
        assert (part["dataset"], part["split"], part["count"]) == (name, "test", count)
        [pair] = part["pairs"]
        assert pair["one"] == "after" and pair["metrics"]["auc"]["value"] == 0  # the same detector
        for side, run in (("after", child), ("before", parent)):
            table = read(parent.path, "test") if kind == "old" else None
            if table is not None:
                right = (table["p_fake"].to_numpy() >= run.threshold) == table["label"].to_numpy()
                assert part["runs"][side]["accuracy"]["value"] == pytest.approx(right.mean())
    gain, forgetting = transfer_tables(found)
    assert (
        gain.title == "Gain on the new data, dark" and "32 images of test" in forgetting.explanation
    )
    assert [row[0] for row in gain.rows] == ["accuracy", "balanced accuracy", "AUC"]
    assert "small (model " in lineage_sentence(child) and lineage_sentence(parent) == ""


def plan_from(run, dataset, *overrides, replay=None, **more):
    return make_plan(str(dataset), None, list(overrides), from_run=run, replay=replay, **more)


@pytest.mark.parametrize("overrides, words", [
    (["model.backbone=frank_cnn"], "keeps its detector and preprocessing: model.backbone is"),
    (["data.image_size=32"], r"data.image_size is \(24, 24\) there, not \(32, 32\)"),
    (["model.dropout=0.5"], "model.dropout is 0.0 there"),
    (["training.distill.weight=1", "training.cache_features=1", "model.freeze={fraction: 1}"],
     "cannot be used with cache_features"),
])  # fmt: skip
def test_what_contradicts_the_run_is_refused(shared_run, dark, overrides, words):
    with pytest.raises(UserError, match=words):
        plan_from(shared_run[0].path, dark, *overrides)


def test_mistakes_are_told_before_anything_starts(shared_run, dark, tmp_path):
    parent, pictures = shared_run
    with pytest.raises(UserError, match="--replay draws from the training data of a run"):
        make_plan(str(dark), None, replay=0.3)
    with pytest.raises(UserError, match="training.distill.teacher=RUN, or --from RUN"):
        make_plan(str(dark), None, ["training.distill.weight=1"])
    with pytest.raises(UserError, match="distill.*asked: once needs a run that is asked"):
        make_plan(str(dark), None, ["training.distill={asked: once}"])
    missing = ["training.distill={teacher: none/such, weight: 1}"]
    with pytest.raises(UserError, match="distill.teacher, the run whose .* no run folder 'none/su"):
        make_plan(str(dark), None, missing)
    with pytest.raises(UserError, match="are for a training that starts from a run: --from"):
        make_plan(str(dark), None, [f"training.from_run={parent.path}"])
    with pytest.raises(UserError, match="give --dataset, and no --model"):
        make_plan(None, None, from_run=parent.path)
    with pytest.raises(UserError, match="are both called pictures"):
        plan_from(parent.path, pictures, replay=0.3)
    moved = shutil.copytree(parent.path, tmp_path / "moved")
    text = (moved / "run.json").read_text()
    (moved / "run.json").write_text(text.replace(str(pictures), str(tmp_path / "gone")))
    with pytest.raises(
        UserError, match="(?s)which were in .*gone and are not found.*TFDETECT_DATA"
    ):
        plan_from(moved, dark, replay=0.3)
    (moved / "model.keras").unlink()
    with pytest.raises(UserError, match="not a run|no model.keras|incomplete|corrupt"):
        plan_from(moved, dark)


def test_the_recipe_of_an_experiment_trains_the_detector_of_the_run(shared_run, dark):
    parent, _ = shared_run
    plan = plan_from(parent.path, dark, "model.freeze={fraction: 0.5}")
    assert plan.experiment.training.replay == 0 and plan.spec.name == "dark"
    found = make_plan(str(dark), "finetune_efficientnet_lite0", from_run=parent.path).experiment
    assert found.model.backbone == "small_resnet" and found.model.weights == "none"
    assert found.data.image_size == (24, 24) and len(found.training.stages) == 3


def test_three_classes_replay_fakes_of_two(shared_run, tmp_path):
    parent, _ = shared_run
    three = write_dark(tmp_path / "three", ("real", "sd", "gan"))
    assert plan_from(parent.path, three).spec.class_names[0] == "real"
    with pytest.raises(
        UserError, match="keeps the answers of small, which has the classes real, f"
    ):
        plan_from(parent.path, three, "training.distill.weight=1")
    for name in ("fake", "real"):
        write_images(tmp_path / "turned" / name, 3, 0)
    with pytest.raises(UserError, match="in this order, the first one"):
        plan_from(parent.path, tmp_path / "turned", authentic="fake")
    with pytest.raises(UserError, match="it is not known which fakes of the first"):
        plan_from(parent.path, three, replay=0.5)


@pytest.mark.slow
def test_forgetting_is_measured_without_replay_and_said_where_the_data_are_gone(
    shared_run, tmp_path, capsys
):
    parent, pictures = shared_run
    three = write_dark(tmp_path / "three", ("real", "sd", "gan"))
    overrides = {"training.epochs": 1, "training.export": []}
    run = api.train(three, from_run=parent, overrides=overrides, output=tmp_path, progress=False)
    assert run.class_names[0] == "real" and len(run.class_names) == 3
    assert run.transfer["old"]["count"] == 32 and run.transfer["new"]["count"] == 36
    assert "starts anew" in capsys.readouterr().err
    moved = shutil.copytree(parent.path, tmp_path / "moved")
    text = (moved / "run.json").read_text()
    (moved / "run.json").write_text(text.replace(str(pictures), str(tmp_path / "gone")))
    dark = write_dark(tmp_path / "dark")
    again = api.train(dark, from_run=moved, overrides=overrides, output=tmp_path, progress=False)
    assert again.transfer["old"] is None and again.transfer["new"]
    assert "forgetting cannot be measured" in capsys.readouterr().err


@pytest.mark.slow
def test_low_rank_matrices_are_added_to_the_weights_of_the_run(tmp_path):
    layout = "{patch_size: 16, num_layers: 1, hidden_dim: 16, num_heads: 2, intermediate_dim: 32}"
    plain = load_experiment("demo", ["model.backbone=dinov3", f"model.options={layout}",
                                     "data.image_size=32", "model.head=linear"])  # fmt: skip
    parent = build_detector(plain, 2)
    save_detector(parent, tmp_path / "model.keras")
    lora = override(plain, ["model.lora={rank: 2, start: residual}", f"model.weights={tmp_path}"])
    child, images = (
        build_detector(lora, 2),
        np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)),
    )
    assert start_from(child, parent, "parent") == []
    expected = parent.predict(images, verbose=0)["label"]
    np.testing.assert_allclose(child.predict(images, verbose=0)["label"], expected, atol=1e-4)
