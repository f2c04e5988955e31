"""What is said where the images of a run are no longer those that it was trained on."""

import json
import shutil
from types import SimpleNamespace

import pytest

import tfdetect
from tfdetect.core.errors import UserError
from tfdetect.data.catalog import changed_counts
from tfdetect.evaluation import run_report, training_history
from tfdetect.evaluation.result_tables import format_results, warnings_of


@pytest.fixture
def own_images(shared_run, tmp_path):
    """Return a copy of the shared run with a copy of its images, both to be changed."""
    run, root = shared_run
    path, images = tmp_path / "run", tmp_path / "moved" / root.name
    shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("saved_model", "exports"))
    shutil.copytree(root, images)
    info = json.loads((path / "run.json").read_text("utf-8"))
    info["dataset"]["roots"] = {name: str(images) for name in info["dataset"]["roots"]}
    (path / "run.json").write_text(json.dumps(info), "utf-8")
    return path, images


def test_evaluate_says_that_the_images_changed_since_the_training(own_images, capsys):
    path, images = own_images

    def said():
        tfdetect.evaluate(path, images_in_report=False, progress=False, log=lambda text: None)
        return capsys.readouterr().err

    assert "no longer the data" not in said()
    min((images / "test" / "fake").iterdir()).unlink()
    assert f"no longer the data that {path.name} was trained on (test 16 fake, now 15)" in said()


def test_a_dataset_that_is_gone_is_named_by_its_folder(own_images):
    path, images = own_images
    images.rename(images.with_name("elsewhere"))
    with pytest.raises(UserError, match=f"The training read {images.name} in .*{images.name}\\."):
        tfdetect.evaluate(path, log=lambda text: None)
    moved = images.with_name("elsewhere")
    found = tfdetect.evaluate(path, data_dir=moved, images_in_report=False, log=lambda text: None)
    assert found.values["test"]["count"] == 32


def test_changes_are_counted():
    before = {"train": {"real": 1200, "fake": 3}, "test": {"real": 2}}
    assert changed_counts(before, {"train": {"real": 1199, "fake": 3}}) == (
        "train 1,200 real, now 1,199; test 2 real, now 0"
    )
    assert changed_counts(before, before).startswith("as many images")


@pytest.mark.parametrize(
    ("low", "value", "high", "words"),
    [(0.4, 0.5, 0.6, "not shown to be better than guessing"), (0.2, 0.3, 0.4, "worse than"),
     (0.51, 0.6, 0.7, None), (None, 0.5, None, None)],
)  # fmt: skip
def test_a_detector_that_guesses_is_warned_of(low, value, high, words):
    auc = {"value": value, "low": low, "high": high}
    result = {"count": 4000, "confusion": [[900, 1100], [900, 1100]], "metrics": {"auc": auc}}
    found = [text for text in warnings_of("test", result) if text.startswith("AUC")]
    assert [words in text for text in found] == ([True] if words else [])
    lines = format_results({"test": result}).splitlines()
    told = [number for number, line in enumerate(lines) if "AUC 0" in line and "warning" in line]
    assert told == ([2] if words else [])  # after the number of images
    verdict = run_report._verdict(SimpleNamespace(title="Test", result=result))
    assert (verdict is not None and verdict.detail == f"Test {found[0]}") == bool(words)
    # Images that the detector knows prove nothing.
    result["metrics"] = {"auc": {"value": 0.9, "low": 0.8, "high": 0.95}}
    result["without_duplicates"] = {"count": 2000, "metrics": {"auc": auc}}
    found = [text for text in warnings_of("test", result) if text.startswith("AUC")]
    assert [words in text for text in found] == ([True] if words else [])


def test_a_training_that_ran_to_its_end_is_advised_more_epochs(shared_run, monkeypatch):
    run, _ = shared_run
    rows = [{"val_log_loss": 5.0}]
    monkeypatch.setattr(training_history, "read_history", lambda run: rows)
    epochs = run.experiment().training.epochs
    advised = "Try more epochs (training.epochs), another learning rate"
    for done, expected in ((epochs, True), (epochs + 1, False)):
        [warning] = training_history.not_learned(run.with_info(epochs=done), {})
        assert (advised in warning) == expected
    rows[0]["val_log_loss"] = 0.1
    assert training_history.not_learned(run, {}) == []
