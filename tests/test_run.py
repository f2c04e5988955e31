"""The run: its typed run.json, migration from schema 1, changes that are whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_images

from tfdetect.core import files
from tfdetect.core.errors import RunLockedError, UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import recover, staged
from tfdetect.core.metric import Metric
from tfdetect.core.open_run import new_run_path, open_run
from tfdetect.core.probability import expit, logit
from tfdetect.core.run import Run
from tfdetect.core.run_info import (
    AbstentionBand,
    Calibration,
    DatasetInfo,
    OperatingPoint,
    RunInfo,
    View,
)
from tfdetect.core.run_migration import migrate_experiment, migrate_spec
from tfdetect.core.run_writer import RunWriter, creating, updating, write_info
from tfdetect.core.spec import DatasetSpec

DATA = Path(__file__).parent / "data"


@pytest.fixture
def old_run(tmp_path):
    """A run that version 0.1 wrote, with schema 1."""
    return Path(shutil.copytree(DATA / "run_schema1", tmp_path / "old"))


@pytest.fixture
def calibrated(tmp_path):
    """A calibrated run of which there is only the info."""
    info = RunInfo(
        status="complete",
        class_names=("real", "fake"),
        views=(View(size=(32, 32), policy="window_tile"),),
        dataset=DatasetInfo(name="x", fingerprint="0"),
        threshold=0.6,
        prior=0.5,
        calibration=Calibration(
            method="platt", scale=2.0, shift=0.1, images=100, fake_fraction=0.8,
            log_loss=(0.5, 0.4),
        ),
        operating_points={"fpr_1": OperatingPoint(threshold=0.9, fpr=0.01, tpr=0.5)},
        abstention_band=AbstentionBand(low=0.4, high=0.7, error_rate=0.05, coverage=0.9),
    )  # fmt: skip
    return Run(tmp_path, info)


def test_a_run_of_schema_1_is_migrated(old_run):
    run = open_run(old_run)
    assert run.info.schema_version == 2 and run.info.status == "complete"
    assert run.class_names == ("real", "fake") and not run.predicts_masks
    assert run.views == (View(size=(24, 24), policy="crop"),)
    assert run.info.operating_points["eer"].threshold == pytest.approx(0.84163326)
    assert run.info.dataset.training_images.formats == ("PNG",)
    assert run.threshold == 0.5 and run.calibration is None and run.info.parameters == 5193
    experiment = run.experiment()
    assert experiment.training.schedule.min_lr == 1e-5
    assert experiment.training.schedule.min_delta == 1e-3
    assert experiment.data.dataset_weights == {"pictures": 1.0}
    assert [step.name for step in experiment.data.augment] == ["flip", "gray", "jpeg"]
    assert run.dataset_spec().validation_fraction == 0.15
    assert run.metrics["test"]["auc"] == run.results["test"]["metrics"]["auc"]["value"]
    before = json.loads((old_run / "run.json").read_text())
    assert before["schema"] == 1  # reading changes nothing on the disk


def test_a_migrated_run_predicts_as_before(old_run, tmp_path):
    import pyarrow.parquet as pq

    from tfdetect.evaluation.predictions import predict_files
    from tfdetect.models.saving import load_detector

    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / "test" / name, 16, fake, seed=4)
    run = open_run(old_run)
    table = pq.read_table(old_run / "predictions" / "test.parquet")
    paths = [str(tmp_path / path) for path in table["path"].to_pylist()]
    found = predict_files(run, load_detector(run), paths, batch_size=32)
    assert found["p_fake"].to_pylist() == pytest.approx(table["p_fake"].to_pylist(), abs=1e-5)
    assert found["verdict"].to_pylist() == table["verdict"].to_pylist()


def test_an_old_localizer_is_known_to_predict_masks(old_run):
    text = (old_run / "experiment.yaml").read_text().replace("mask_head: null",
                                                             "mask_head: decoder")  # fmt: skip
    (old_run / "experiment.yaml").write_text(text)
    assert open_run(old_run).predicts_masks


DOCUMENTS = json.loads((DATA / "documents_schema1.json").read_text())


@pytest.mark.parametrize("name", DOCUMENTS["experiments"])
def test_every_experiment_of_schema_1_is_migrated(name):
    Experiment.model_validate(migrate_experiment(DOCUMENTS["experiments"][name]))


@pytest.mark.parametrize("name", DOCUMENTS["datasets"])
def test_every_dataset_spec_of_schema_1_is_migrated(name):
    DatasetSpec.model_validate(migrate_spec(DOCUMENTS["datasets"][name]))


def test_a_run_is_immutable(calibrated):
    with pytest.raises(AttributeError):
        calibrated.path = Path("elsewhere")
    with pytest.raises(ValueError, match="frozen"):
        calibrated.info.threshold = 0.1
    before = calibrated.info.model_copy(deep=True)
    others = [
        calibrated.with_threshold(0.2), calibrated.with_threshold("fpr_1"),
        calibrated.with_prior(0.01), calibrated.with_views(crops=5, flips=True),
        calibrated.with_info(calibration=None, prior=None, threshold=0.5),
    ]  # fmt: skip
    assert calibrated.info == before
    assert [run.threshold for run in others[:2]] == [0.2, 0.9]
    assert others[3].views[0].crops == 5 and others[3].info.flips
    assert others[4].calibration is None


def test_a_prior_moves_probabilities_and_thresholds_alike(calibrated):
    rare = calibrated.with_prior(0.01)
    raw = 0.7  # a logit before calibration
    for run, prior in ((calibrated, 0.5), (rare, 0.01)):
        calibration = run.calibration
        moved = calibration.scale * raw + calibration.shift
        # Bayes: odds at a prior are the likelihood ratio times the prior's odds.
        assert moved == pytest.approx(2.0 * raw + 0.1 + logit(prior) - logit(0.8))
    shift = logit(0.01) - logit(0.5)
    for old, new in (
        (calibrated.threshold, rare.threshold),
        (calibrated.info.operating_points["fpr_1"].threshold,
         rare.info.operating_points["fpr_1"].threshold),
        *zip(calibrated.abstention_band, rare.abstention_band),
    ):  # fmt: skip
        assert logit(new) == pytest.approx(logit(old) + shift)
    back = rare.with_prior(0.5)
    assert back.threshold == pytest.approx(calibrated.threshold)
    assert calibrated.with_prior("validation").info.prior == 0.8


def test_isotonic_calibration_follows_the_prior(calibrated):
    info = calibrated.info.calibration.model_copy(
        update={"method": "isotonic", "knots": ((-1.0, 1.0), (-2.0, 2.0))}
    )
    run = calibrated.with_info(calibration=info, prior=0.8)
    moved = run.with_prior(0.5).calibration.knots[1]
    assert moved == pytest.approx([v + logit(0.5) - logit(0.8) for v in (-2.0, 2.0)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.with_prior(1.5), "between 0 and 1"),
        (lambda r: r.with_prior("share"), "validation"),
        (lambda r: r.with_info(calibration=None).with_prior(0.5), "not calibrated"),
        (lambda r: r.with_threshold(-0.1), "between 0 and 1"),
        (lambda r: r.with_threshold("cost"), "no operating point 'cost'.*fpr_1"),
        (lambda r: r.with_info(predicts_masks=True).with_views(crops=5), "predicts masks"),
        (lambda r: r.with_info(predicts_masks=True).with_views(flips=True), "predicts masks"),
    ],
)
def test_illegal_changes_are_refused(calibrated, change, message):
    with pytest.raises(UserError, match=message):
        change(calibrated)


def test_a_threshold_above_every_score_is_kept(calibrated):
    """Where P(fake) of an authentic image is 1, fpr_1 lies just above 1."""
    above = 1.0000001192092896  # the float32 after 1
    points = {"fpr_1": OperatingPoint(threshold=above, fpr=0, tpr=0)}
    run = calibrated.with_info(operating_points=points).with_threshold("fpr_1")
    assert run.threshold == above
    with pytest.raises(ValueError, match="threshold"):
        run.with_info(threshold=7.0)


def test_a_run_is_opened_from_inside_its_folder(old_run, monkeypatch):
    monkeypatch.chdir(old_run)
    assert open_run(".").name == "old"


def test_a_name_that_is_taken_gets_a_number_and_that_is_said(tmp_path, capsys):
    assert new_run_path(tmp_path, "mine") == tmp_path / "mine" and not capsys.readouterr().err
    (tmp_path / "mine.partial").mkdir()
    assert new_run_path(tmp_path, "mine") == tmp_path / "mine-2"
    assert (
        "mine was begun and can be continued (--resume), so this run is written to "
        in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="Choose another name than 'mine.partial'"):
        new_run_path(tmp_path, "mine.partial")


def test_logits_are_finite_and_invertible():
    for p in (0.0, 1e-12, 0.3, 1.0):
        assert expit(logit(p)) == pytest.approx(min(max(p, 1e-7), 1 - 1e-7), rel=1e-6)
    assert expit(-1000) == 0.0 and expit(1000) == 1.0


def test_a_metric_is_a_number_with_an_interval():
    metric = Metric(0.9, 0.8, 0.95)
    assert metric == 0.9 and metric.low == 0.8 and repr(metric) == "0.9000 [0.8000, 0.9500]"


ODD = {
    "a list": "[1]", "a number": "7", "cut": '{"schema_version": 2', "no schema": "{}",
    "text schema": '{"schema_version": "2"}', "nested": "[" * 100_000,
    "schema 1, empty": '{"schema": 1}', "schema 1, odd dataset":
    '{"schema": 1, "status": "complete", "classes": ["a", "b"], "image_size": [8, 8], '
    '"resize": "crop", "dataset": 3}',
    "missing": '{"schema_version": 2, "status": "complete"}',
    "odd status": '{"schema_version": 2, "status": "fine", "class_names": ["a", "b"]}',
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_run_json_is_one_message(old_run, kind):
    (old_run / "run.json").write_text(ODD[kind])
    with pytest.raises(UserError, match=r"corrupt"):
        open_run(old_run)


def test_unknown_and_non_finite_values_are_named(old_run):
    run = open_run(old_run)
    data = json.loads(run.info.model_dump_json())
    platt = {"method": "platt", "shift": 1e308, "images": 9, "fake_fraction": 0.5,
             "log_loss": [1, 1]}  # fmt: skip
    for change, name in (({"treshold": 1}, "treshold"), ({"prior": 2.0}, "prior"),
                         ({"views": []}, "views"),
                         ({"calibration": platt}, "shift")):  # fmt: skip
        (old_run / "run.json").write_text(json.dumps(data | change))
        with pytest.raises(UserError, match=name):
            open_run(old_run)


def digest(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_a_staged_folder_replaces_the_old_one_whole(tmp_path):
    folder = tmp_path / "out"
    with staged(folder) as new:
        (new / "a").write_text("1")
        assert not folder.exists() and new.name == "out"
    assert digest(folder) == {"a": b"1"}
    with staged(folder, copy=True, linked=("a",)) as new:
        (new / "b").write_text("2")
        assert (new / "a").stat().st_ino == (folder / "a").stat().st_ino
    assert digest(folder) == {"a": b"1", "b": b"2"}
    with pytest.raises(KeyboardInterrupt), staged(folder) as new:
        (new / "c").write_text("3")
        raise KeyboardInterrupt
    assert digest(folder) == {"a": b"1", "b": b"2"}
    assert os.listdir(tmp_path) == ["out"]


def test_where_folders_cannot_be_exchanged_two_renames_do(tmp_path, monkeypatch):
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    folder = tmp_path / "out"
    for text in ("1", "2"):
        with staged(folder) as new:
            (new / "a").write_text(text)
    assert digest(folder) == {"a": b"2"} and os.listdir(tmp_path) == ["out"]
    folder.rename(tmp_path / ".out.replaced")  # killed between the two
    recover(folder)
    assert digest(folder) == {"a": b"2"}


def test_a_failed_update_leaves_the_run_as_it_was(old_run):
    run, before = open_run(old_run), digest(old_run)
    with pytest.raises(ValueError, match="no"), updating(run) as new:
        write_info(new.with_threshold(0.9))
        (new.path / "model.keras").unlink()
        raise ValueError("no")
    assert digest(old_run) == before
    with updating(run) as new:
        assert new.name == run.name
        write_info(new.with_threshold(0.9))
    assert open_run(old_run).threshold == 0.9
    assert [p.name for p in old_run.parent.iterdir()] == ["old"]


def test_an_interrupted_run_stays_until_its_continuation_is_finished(old_run):
    (old_run / "state").mkdir()
    before = digest(old_run)
    writer = RunWriter(old_run)
    writer.acquire()
    writer.adopt()
    (writer.path / "state" / "last.npz").write_text("more")
    write_info(open_run(writer.path).with_threshold(0.9))
    assert digest(old_run) == before  # it can be used meanwhile
    writer.finish()
    assert open_run(old_run).threshold == 0.9 and (old_run / "state/last.npz").exists()
    assert [p.name for p in old_run.parent.iterdir()] == ["old"]


def test_no_run_takes_the_place_of_another(old_run):
    for attempt in (RunWriter(old_run).acquire, creating(old_run).__enter__):
        with pytest.raises(UserError, match="There is a run .*old by now"):
            attempt()
    assert [p.name for p in old_run.parent.iterdir()] == ["old"]


def test_an_update_writes_the_documents_of_an_old_run_anew(old_run):
    with updating(open_run(old_run)) as new:
        write_info(new.with_threshold(0.9))
    run = open_run(old_run)
    assert not run.migrated and run.threshold == 0.9
    assert run.experiment().training.schedule.min_lr == 1e-5
    assert run.dataset_spec().validation_fraction == 0.15


def test_two_processes_do_not_update_one_run(old_run):
    run = open_run(old_run)
    with updating(run), pytest.raises(RunLockedError, match="Another process"), updating(run):
        pass


def test_an_update_killed_in_the_middle_leaves_the_old_run(old_run):
    script = (
        "import sys, time\n"
        "from tfdetect.core.open_run import open_run\n"
        "from tfdetect.core.run_writer import updating, write_info\n"
        "with updating(open_run(sys.argv[1])) as run:\n"
        "    write_info(run.with_threshold(0.9))\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
    )
    before = digest(old_run)
    child = subprocess.Popen([sys.executable, "-c", script, str(old_run)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert digest(old_run) == before
    with updating(open_run(old_run)) as run:
        write_info(run.with_threshold(0.8))
    assert open_run(old_run).threshold == 0.8
    assert [p.name for p in old_run.parent.iterdir()] == ["old"]
