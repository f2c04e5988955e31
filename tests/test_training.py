"""Training: replicas agree, interruptions lose nothing, mistakes end clearly."""

import copy
import csv
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import call
from conftest import SMALL, fit_small, run_at, train_small, write_dataset, write_images
from tensorflow.python.framework.func_graph import FuncGraph

import tfdetect
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.open_run import find_unfinished, new_run_path, open_run
from tfdetect.core.run_writer import RunWriter, write_info
from tfdetect.core.shipped_runs import shipped_folder
from tfdetect.data.plan import find_data, load_plan, make_plan
from tfdetect.data.splits import few_of_a_class
from tfdetect.evaluation.model_card import model_card
from tfdetect.evaluation.predictions import predict_files
from tfdetect.evaluation.training_history import not_learned, training_warnings
from tfdetect.imaging.geometry import resize
from tfdetect.imaging.read import decode_any
from tfdetect.models.saving import load_detector, save_detector
from tfdetect.train_run import fit_only
from tfdetect.training.begin_run import begin_run
from tfdetect.training.devices import configure_devices
from tfdetect.training.epoch_log import EpochLog
from tfdetect.training.keras_metrics import FakeAUC
from tfdetect.training.optimizer import build_optimizer
from tfdetect.training.progress import trained_so_far
from tfdetect.training.training_job import TrainingJob


def weights(run):
    return load_detector(run).get_weights()


def test_intervals_hold_their_values(shared_run):
    run, _ = shared_run
    assert run.info.status == "complete"
    metrics = run.results["test"]["metrics"]
    assert len(metrics) == 14
    for name, m in metrics.items():
        if m["low"] is not None:  # too few images for recall at 1% false positives
            assert m["low"] <= m["value"] <= m["high"], name


@pytest.mark.slow
def test_more_epochs_reach_high_accuracy(folder_dataset, tmp_path):
    run = train_small(folder_dataset, tmp_path, ["training.epochs=8"])
    assert run.results["test"]["metrics"]["accuracy"]["value"] > 0.9


# Sums over a batch are formed in another order on other numbers of devices, no more.
REPLICA_TOLERANCE = 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("several", [2, 3])
def test_replicas_agree_with_one_device(several, folder_dataset, tmp_path):
    """The command; two replicas of a training alone are compared in test_cluster.py."""
    optimizer = "training.optimizer={name: sgd, learning_rate: 0.05}"
    # In its own process: TensorFlow keeps one group of collectives for a process.
    process = command(*small_arguments(folder_dataset, tmp_path, 2), "--set", optimizer,
                      "--virtual-devices", several)  # fmt: skip
    alone, state = fit_small(folder_dataset, tmp_path / "alone", [optimizer])
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{several} virtual CPU devices" in err
    run = open_run(tmp_path / "small_images")
    history = list(csv.DictReader((run.path / "history.csv").read_text().splitlines()))
    for one, many in zip(state.history, history, strict=True):
        for key in ("loss", "accuracy", "val_log_loss", "val_accuracy"):
            assert abs(one[key] - float(many[key])) < REPLICA_TOLERANCE, key
    for one, many in zip(alone.get_weights(), weights(run), strict=True):
        np.testing.assert_allclose(one, many, atol=REPLICA_TOLERANCE)


def test_batch_must_divide_among_replicas(folder_dataset, tmp_path, capsys):
    arguments = small_arguments(folder_dataset, tmp_path, 1)
    arguments += ["--set", "training.batch_size=10", "--virtual-devices", "3"]
    code, _, error = call("train", arguments, capsys)
    assert code == 2 and "Received: batch size 10 for 3 devices" in error


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([
            "training.optimizer={name: sgd, learning_rate: 0.05, weight_decay: 0.01}",
            "training.schedule={name: cosine, warmup_epochs: 1}",
        ], marks=pytest.mark.slow),
        ["training.schedule={name: plateau, patience: 0, factor: 0.5}",
         "training.early_stopping=3", "model.dropout=0.3", "training.ema=0.9"],
    ],
    ids=["cosine", "plateau-ema"],
)  # fmt: skip
@pytest.mark.parametrize("minutes", [
    pytest.param(0, id="within"), pytest.param(10, id="after", marks=pytest.mark.slow)
])  # fmt: skip
def test_resume_goes_on_to_the_same_weights(folder_dataset, tmp_path, overrides, minutes):
    overrides = [*overrides, "training.epochs=4", f"training.checkpoint_minutes={minutes}"]
    whole_folder, parts, said = tmp_path / "whole", tmp_path / "parts", []

    class Keep(keras.callbacks.Callback):
        """Keeps what a process leaves that is killed in the third epoch."""

        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 22:
                shutil.copytree(whole_folder, parts)

    whole, state = fit_small(folder_dataset, whole_folder, overrides, callbacks=[Keep()])
    resumed, again = fit_small(folder_dataset, parts, overrides, log=said.append)
    assert said[0].startswith("resuming after epoch 2, step ")
    for a, b in zip(whole.get_weights(), resumed.get_weights()):
        assert np.array_equal(a, b)
    drop = ("images_per_second",)
    assert [{k: v for k, v in e.items() if k not in drop} for e in state.history] == [
        {k: v for k, v in e.items() if k not in drop} for e in again.history
    ]


@pytest.mark.slow
def test_a_curriculum_resumes_to_the_same_weights(folder_dataset, tmp_path):
    second = write_dataset(tmp_path / "second")
    shares = "{by: dataset, points: [{step: 0, shares: {pictures: 1}}, {step: 20, shares: "\
             "{pictures: 1, second: 3}}]}"  # fmt: skip
    overrides = ["training.epochs=3", "training.checkpoint_minutes=0",
                 f"training.curriculum={shares}"]  # fmt: skip

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 25:
                raise Killed

    def fit(folder, *callbacks):
        both = f"{folder_dataset}+{second}"
        return fit_small(both, tmp_path / folder, overrides, callbacks=callbacks)[0]

    with pytest.raises(Killed):
        fit("parts", Kill())
    for a, b in zip(fit("whole").get_weights(), fit("parts").get_weights(), strict=True):
        assert np.array_equal(a, b)


ACCUMULATED = [
    "model.backbone=frank_cnn", "model.options={}", "model.head=flatten", "training.ema=0.9",
    "training.optimizer={name: sgd, learning_rate: 0.05, momentum: 0.9, clip_norm: 1.0}",
    "training.schedule={name: cosine, warmup_epochs: 1}", "training.epochs=2",
    "data.augment=[]",  # its random numbers are drawn batch by batch
]  # fmt: skip
THREE = ["training.batch_size=4", "training.accumulate=3"]


def test_accumulated_gradients_are_those_of_the_larger_batch(folder_dataset, tmp_path):
    """Weights, schedule and moving average; the network has no batch statistics."""
    whole, state = fit_small(folder_dataset, tmp_path / "whole", ACCUMULATED)
    parts, again = fit_small(folder_dataset, tmp_path / "parts", [*ACCUMULATED, *THREE])
    moved = max(np.abs(w).max() for w in whole.get_weights())
    for one, three in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(three, one, atol=1e-5 * moved)
    for one, three in zip(state.history, again.history, strict=True):
        assert three["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert three["val_log_loss"] == pytest.approx(one["val_log_loss"], abs=1e-5)


@pytest.mark.slow
def test_a_training_resumes_between_two_changes_of_the_weights(folder_dataset, tmp_path):
    overrides = [*ACCUMULATED, *THREE, "training.checkpoint_minutes=0"]
    whole, _ = fit_small(folder_dataset, tmp_path / "whole", overrides)

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == 32:  # of 54: the state before holds two gradients of three
                raise Killed

    with pytest.raises(Killed):
        fit_small(folder_dataset, tmp_path / "parts", overrides, callbacks=[Kill()])
    resumed, _ = fit_small(folder_dataset, tmp_path / "parts", overrides)
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_gradients_are_accumulated_on_one_device_in_whole_epochs(folder_dataset, tmp_path):
    with pytest.raises(UserError, match="training.accumulate is for one device"):
        fit_small(folder_dataset, tmp_path / "x", [*THREE, "training.batch_size=12"],
                  configure_devices(virtual=3))  # fmt: skip
    with pytest.raises(UserError, match=r"steps_per_epoch \(10\) must be a multiple"):
        fit_small(folder_dataset, tmp_path / "y", [*THREE, "training.steps_per_epoch=10"])


STAGES = (
    "training.stages=[{epochs: 2, freeze: {fraction: 1.0}}, {epochs: 2, freeze: {fraction: 0.5}, "
    "lr_multiplier: 0.5}, {epochs: 1, lr_multiplier: 0.1}]"
)


STAGED = [STAGES, "training.schedule.name=constant", "training.checkpoint_minutes=0"]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """A training in stages: its images, weights and state, and what was seen after each epoch."""
    base, seen = tmp_path_factory.mktemp("staged"), []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rate = float(self.model.optimizer.learning_rate)
            seen.append((rate, len(self.model.trainable_variables), self.model.get_weights()))

    root = write_dataset(base / "pictures")
    detector, state = fit_small(root, base / "whole", STAGED, callbacks=[Note()])
    return root, detector.get_weights(), state, seen


def test_stages_unfreeze_the_backbone_and_lower_the_rate(staged):
    _, _, state, seen = staged
    assert [round(rate, 6) for rate, _, _ in seen] == [0.01, 0.01, 0.005, 0.005, 0.001]
    counts = [count for _, count, _ in seen]
    assert counts[0] == counts[1] == 2 < counts[2] == counts[3] < counts[4]
    # Only the head, which is last, learns at first; frozen normalization does not move either.
    first, second, third = (w for _, _, w in seen[:3])
    assert all(np.array_equal(a, b) for a, b in zip(first[:-2], second[:-2]))
    assert not np.array_equal(first[-2], second[-2])
    assert not all(np.array_equal(a, b) for a, b in zip(second[:-2], third[:-2]))
    assert state.epoch == 5


@pytest.mark.parametrize("step", [
    pytest.param(10, marks=pytest.mark.slow), 20, pytest.param(33, marks=pytest.mark.slow)
])  # fmt: skip
def test_stages_resume_to_the_same_weights(staged, tmp_path, step):
    root, whole, _, _ = staged
    done = []

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            done.append(batch)
            if len(done) == step:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit_small(root, tmp_path / "parts", STAGED, callbacks=[Kill()])
    resumed, state = fit_small(root, tmp_path / "parts", STAGED)
    assert state.epoch == 5
    for a, b in zip(whole, resumed.get_weights()):
        assert np.array_equal(a, b)


def kill_at_random(root, work, kills, devices=1):
    """Kills trainings (signal 9) at random moments; returns what became of each."""
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, script, root, work, str(kills), "1", str(devices)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_killed_at_random_moments_the_result_is_the_same(folder_dataset, tmp_path):
    found = kill_at_random(folder_dataset, tmp_path, 15)  # kills.py itself does as many as one asks
    assert len(found) == 15 and all(f["weights"] and f["history"] for f in found), found


@pytest.mark.slow
def test_killed_on_two_replicas_weights_are_the_same_and_metrics_near(folder_dataset, tmp_path):
    found = kill_at_random(folder_dataset, tmp_path, 5, devices=2)
    assert len(found) == 5 and all(f["weights"] and f["near"] for f in found), found


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_state(folder_dataset, tmp_path):
    import resource

    overrides = ["training.epochs=4", "training.checkpoint_minutes=0"]
    whole, _ = fit_small(folder_dataset, tmp_path / "whole", overrides)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FillDisk(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 22:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        with pytest.raises(UserError, match=r"could not be written.*continue with --resume"):
            fit_small(folder_dataset, tmp_path / "parts", overrides, callbacks=[FillDisk()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in (tmp_path / "parts" / "state").glob("*.npz")) == ["last.npz"]
    resumed, _ = fit_small(folder_dataset, tmp_path / "parts", overrides)
    for a, b in zip(whole.get_weights(), resumed.get_weights()):
        assert np.array_equal(a, b)


def command(*arguments, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "tfdetect.train", *map(str, arguments)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs,
    )  # fmt: skip


def small_arguments(root, output, epochs):
    settings = [part for item in [*SMALL, f"training.epochs={epochs}"] for part in ("--set", item)]
    return ["--dataset", root, "--output", output, "--quiet", *settings]


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_kill_9_and_resume_from_the_command(folder_dataset, tmp_path):
    arguments = small_arguments(folder_dataset, tmp_path / "killed", 30)
    process = command(*arguments)
    partial = tmp_path / "killed" / "small_images.partial"
    wait_for(partial / "state" / "last.npz", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(UserError, match="not finished"):
        open_run(tmp_path / "killed" / "small_images")
    resumed = command(*arguments, "--resume")
    _, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert "resuming after epoch" in err
    straight = command(*small_arguments(folder_dataset, tmp_path / "straight", 30))
    _, err = straight.communicate()
    assert straight.returncode == 0, err
    pair = [weights(open_run(tmp_path / f / "small_images")) for f in ("killed", "straight")]
    assert all(np.array_equal(a, b) for a, b in zip(*pair))


@pytest.mark.slow
def test_ctrl_c_leaves_a_usable_run_that_can_go_on(folder_dataset, tmp_path):
    process = command(*small_arguments(folder_dataset, tmp_path, 500))
    wait_for(tmp_path / "small_images.partial" / "state" / "last.npz", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "Interrupted in epoch" in err and "Traceback" not in err
    run = open_run(tmp_path / "small_images")
    assert run.info.status == "interrupted"
    assert run.results["test"]["count"] == 32
    plan = load_plan(tmp_path / "small_images")
    assert plan.experiment.training.epochs == 500
    assert "--resume" in out + err


def test_the_line_of_an_epoch_comes_when_its_state_is_saved(folder_dataset, tmp_path):
    """So that Ctrl-C after it does not lose the epoch."""
    saved = []

    def log(line):
        if line.startswith("epoch "):
            with np.load(tmp_path / "state" / "last.npz") as state:
                saved.append(len(json.loads(str(state["state"]))["history"]))

    plan = make_plan(str(folder_dataset), "small_images", SMALL)
    catalog = find_data(plan, progress=False)
    fit_only(
        TrainingJob(plan, catalog, configure_devices(virtual=1), tmp_path, True, log), tmp_path
    )
    assert saved == [1, 2]


def test_ctrl_c_in_the_first_epoch_leaves_a_run(folder_dataset, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tfdetect.training.fit._run_stages", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_small(folder_dataset, tmp_path, name="kept", finish_interrupted=False)
    assert not (tmp_path / "kept").exists()
    run = train_small(folder_dataset, tmp_path)
    assert run.info.status == "interrupted" and run.results["test"]["count"] == 32
    assert "was interrupted in its first epoch" in (run.path / "report.html").read_text()


def test_resuming_what_is_complete_or_absent(shared_run, tmp_path, capsys):
    run, _ = shared_run
    code, _, err = call("train", ["--resume", run.path], capsys)
    assert code == 0 and "is finished; there is nothing to resume" in err
    assert f"tfdetect.train --from {run.path} --dataset DATASET" in err
    with pytest.raises(UserError, match="no unfinished run"):
        load_plan(tmp_path / "nothing")
    with pytest.raises(UserError, match="no unfinished run of this experiment"):
        find_unfinished(tmp_path, run.experiment(), None)
    for name in ("res.partial", "res-2.partial"):  # the second one is newer
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment.yaml").write_text(run.experiment().to_yaml())
    assert find_unfinished(tmp_path, run.experiment(), "res") == tmp_path / "res"
    with pytest.raises(UserError, match="no unfinished run of this experiment called other"):
        find_unfinished(tmp_path, run.experiment(), "other")
    said = []
    assert new_run_path(tmp_path, "res", said.append).name == "res-3"
    assert "can be continued (--resume)" in said[0]


def test_changed_data_are_not_resumed_on(folder_dataset, tmp_path):
    plan = make_plan(str(folder_dataset), None, SMALL)
    catalog = find_data(plan, progress=False)
    writer = RunWriter(tmp_path / "run")
    writer.acquire()
    job = TrainingJob(plan, catalog, configure_devices(virtual=1), tmp_path / "run")
    begin_run(writer, job, "command")
    (folder_dataset / "train" / "fake" / "000.png").unlink()
    with pytest.raises(UserError, match=r"changed since the run began: train \d+ fake, now \d+\."):
        begin_run(writer, replace(job, catalog=find_data(plan, False)), "command")
    with pytest.raises(UserError, match="Another process is writing"):
        RunWriter(tmp_path / "run").acquire()
    writer.release()


def test_non_finite_loss_stops_with_its_step(folder_dataset, tmp_path):
    with pytest.raises(UserError, match=r"loss became (nan|inf) at step \d.*no earlier epoch"):
        fit_small(folder_dataset, tmp_path / "x", [
            "training.optimizer={name: sgd, learning_rate: 1000}", "model.head=hidden",
            "model.l2=1000",
        ])  # fmt: skip


class Spoil(keras.callbacks.Callback):
    """Makes the weights no numbers after the last step of an epoch, as a diverging update does."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch
        self.now = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch:
            for variable in self.model.trainable_variables:
                variable.assign(variable * float("nan"))


def test_predictions_that_are_no_numbers_end_the_training(folder_dataset, tmp_path):
    settings = ["training.epochs=4", "training.steps_per_epoch=1", "training.monitor=accuracy"]
    said = []
    detector, state = fit_small(folder_dataset, tmp_path / "x", settings,
                                callbacks=[Spoil(3)], log=said.append)  # fmt: skip
    assert state.epoch == 2 and all(np.isfinite(w).all() for w in detector.get_weights())
    assert said[-1] == (
        "The validation log-loss became nan in epoch 3: the training diverged and ends here; "
        f"epoch {state.best_epoch}, the best one, is kept."
    )
    assert state.history[state.best_epoch - 1]["val_accuracy"] == state.best
    assert trained_so_far(tmp_path / "x") == (0, 0)  # no run
    unfinished = (tmp_path / "x").rename(tmp_path / "y.partial")
    write_info(run_at(unfinished))
    assert trained_so_far(tmp_path / "y") == (2, pytest.approx(state.seconds, abs=60))


def test_plateau_and_early_stopping_act(folder_dataset, tmp_path):
    said = []
    _, state = fit_small(folder_dataset, tmp_path / "x", [
        "training.epochs=30", "training.early_stopping=2", "training.monitor=loss",
        "training.schedule={name: plateau, patience: 0, factor: 0.1, min_lr: 1e-6}",
        "training.optimizer.learning_rate=0.1",
    ], log=said.append)  # fmt: skip
    assert state.epoch < 30
    assert said[-1] == (
        f"stopped after epoch {state.epoch}: no better validation log-loss for 2 epochs; the best "
        "epoch is kept"
    )
    rates = [row["learning_rate"] for row in state.history]
    assert rates[-1] < rates[0]
    assert state.best == min(row["val_log_loss"] for row in state.history)


def graphs_of_steps():
    gc.collect()
    return sum(isinstance(x, FuncGraph) and x.name == "one_step_on_data" for x in gc.get_objects())


def test_an_undefined_auc_is_no_number_and_picks_no_epoch(tmp_path):
    metric, lines = FakeAUC(name="auc"), []
    metric.update_state(np.zeros((4, 1)), np.array([[0.1], [-2.0], [3.0], [0.5]]))
    assert np.isnan(float(metric.result()))
    metric.update_state(np.ones((1, 1)), np.array([[2.0]]))
    assert float(metric.result()) == pytest.approx(0.75, abs=0.01)
    log = EpochLog(load_experiment("demo").training, lines.append)
    log.on_epoch_end(0, {"loss": 0.5, "val_auc": float("nan")})
    assert "AUC -," in lines[0] and "loss 0.5000" in lines[0]
    for split, name in (("train", "real"), ("train", "fake"), ("validation", "real")):
        write_images(tmp_path / split / name, 3, name == "fake")
    with pytest.raises(UserError, match="has no fakes. Add some, or .*monitor=loss"):
        find_data(make_plan(str(tmp_path), "demo"), progress=False)
    found = find_data(
        make_plan(str(tmp_path), "demo", ["training.monitor=loss"]), progress=False
    )  # fmt: skip
    assert "no test split" in found.warnings[0]


def test_a_long_epoch_says_how_far_it_is_where_there_is_no_bar(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 50))  # a step takes 50 seconds
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    log = EpochLog(load_experiment("demo").training)
    log.set_params({"steps": 8})
    log.on_epoch_begin(0)
    for step in range(8):
        log.on_train_batch_end(step, {"loss": 0.25})
    log.on_epoch_end(0, {"loss": 0.25})
    *within, end = capsys.readouterr().err.splitlines()
    assert within == [f"epoch 1/12: {n} of 8 steps (loss 0.2500)" for n in (3, 6)]
    assert end.startswith("epoch 1/12: loss 0.2500")


def test_a_rate_below_its_limit_ends_the_training(folder_dataset, tmp_path):
    """CNNSpot's schedule: lowered by ten where validation stands still, at most twice.

    The graph of its step goes with the training.
    """
    before = graphs_of_steps()
    detector, state = fit_small(folder_dataset, tmp_path / "x", [
        "training.epochs=30", "training.monitor=loss", "training.optimizer.learning_rate=0.01",
        "training.schedule={name: plateau, patience: 0, min_delta: 10, min_lr: 0, "
        "stop_below_lr: 0.0001}",
    ])  # fmt: skip
    rates = [row["learning_rate"] for row in state.history]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-4], rtol=1e-5)
    del detector, state
    assert graphs_of_steps() <= before


def test_steps_lower_the_rate():
    training = load_experiment("npr").training
    rate = build_optimizer(training, 7)._learning_rate
    values = [float(rate(tf.constant(step))) for step in (0, 69, 70, 140)]
    np.testing.assert_allclose(values, [2e-4, 2e-4, 1.8e-4, 1.62e-4], rtol=1e-5)


def test_cosine_warms_up_and_falls():
    training = load_experiment("demo", [
        "training.epochs=10", "training.optimizer.learning_rate=0.5",
        "training.schedule={name: cosine, warmup_epochs: 2}",
    ]).training  # fmt: skip
    rate = build_optimizer(training, 10)._learning_rate
    values = [float(rate(tf.constant(step))) for step in (0, 10, 20, 60, 100)]
    np.testing.assert_allclose(values, [0, 0.25, 0.5, 0.25, 0], atol=1e-3)


def test_the_average_of_the_weights_is_what_is_kept(folder_dataset, tmp_path):
    """Against a plain sum: weights after each step, averaged by hand, and moving statistics."""
    from tfdetect.training import weight_average as module

    taken = []

    def values(model):
        statistics = [v for v in model.non_trainable_variables if "/moving_" in v.path]
        assert statistics
        return [v.numpy() for v in (*model.trainable_variables, *statistics)]

    class Watched(module.AverageWeights):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            taken.append(values(self.model))

        def start(self, model):
            super().start(model)
            taken.append(values(model))

    from tfdetect.training import fit as fitting

    fitting.AverageWeights, before = Watched, fitting.AverageWeights
    try:
        detector, _ = fit_small(folder_dataset, tmp_path, ["training.ema=0.8", "training.epochs=1"])
    finally:
        fitting.AverageWeights = before
    expected = taken[0]
    for step, weights in enumerate(taken[1:], 1):
        share = min(0.8, (1 + step) / (10 + step))
        expected = [share * a + (1 - share) * w for a, w in zip(expected, weights)]
    kept = values(detector)
    assert len(taken) > 8
    for a, b in zip(expected, kept):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert any(not np.allclose(b, last, atol=1e-4) for b, last in zip(kept, taken[-1]))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_weight_decay_spares_biases(name):
    training = load_experiment("demo", [
        f"training.optimizer={{name: {name}, learning_rate: 0.1, weight_decay: 0.5}}",
        "training.schedule.name=constant",
    ]).training  # fmt: skip
    layer = keras.layers.Dense(2, kernel_initializer="ones", bias_initializer="ones")
    layer.build((None, 3))
    optimizer = build_optimizer(training, 10)
    zeros = [tf.zeros(v.shape) for v in layer.trainable_variables]
    optimizer.apply_gradients(zip(zeros, layer.trainable_variables))
    np.testing.assert_allclose(layer.kernel, 0.95, atol=1e-6)
    np.testing.assert_allclose(layer.bias, 1.0, atol=1e-6)


@pytest.mark.slow
def test_half_precision_trains_but_is_not_shipped(folder_dataset, tmp_path):
    trained, _ = fit_small(folder_dataset, tmp_path / "fit", ["training.precision=mixed_bfloat16"])
    run = run_at(tmp_path, policy="crop")
    save_detector(trained, run.model_path)
    model = load_detector(run)
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    paths = sorted(map(str, folder_dataset.glob("test/*/*.png")))
    together = predict_files(run, model, paths)["p_fake"].to_numpy()
    images = [resize(decode_any(tf.io.read_file(path)), (24, 24), "crop") for path in paths]
    alone = [float(tf.sigmoid(model(tf.cast(i[None], tf.float32))["label"])[0, 0]) for i in images]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_run_explains_itself(shared_run):
    run, _ = shared_run
    for name in ("run.json", "experiment.yaml", "dataset.yaml", "history.csv", "model.keras",
                 "saved_model/saved_model.pb", "predictions/validation.parquet",
                 "predictions/test.parquet", "metrics.json", "report.html", "model_card.md",
                 "skipped.csv", "figures/test_roc.png"):  # fmt: skip
        assert (run.path / name).is_file(), name
    assert not (run.path / "state").exists()
    info = json.loads((run.path / "run.json").read_text())
    assert info["schema_version"] == 2
    assert info["versions"]["tensorflow"] == tf.__version__
    assert info["class_names"] == ["real", "fake"]
    assert [
        p.name for p in run.path.parent.iterdir() if p.name.endswith((".partial", ".lock"))
    ] == []
    assert os.path.getsize(run.path / "report.html") > 50_000


def test_a_training_that_did_not_learn_is_told(tmp_path):
    shipped = shipped_folder("cifake_small_resnet")
    for name in ("run.json", "experiment.yaml", "model.keras"):
        (tmp_path / name).write_bytes((shipped / name).read_bytes())
    epochs = (
        "epoch,log_loss,accuracy,val_log_loss,val_accuracy\n1,0.9,0.5,{},0.5\n2,0.7,0.5,0.7,0.5\n"
    )
    results = json.loads((shipped / "metrics.json").read_text())
    chance = copy.deepcopy(results)
    chance["validation"]["metrics"]["auc"] = {"value": 0.52, "low": 0.47, "high": 0.57}
    (tmp_path / "history.csv").write_text(epochs.format(0.6932))
    run = open_run(tmp_path)
    [warning] = not_learned(run, chance)
    assert "never fell below 0.6931" in warning and "pretrained weights" in warning
    patient = run.experiment().to_yaml().replace("early_stopping: null", "early_stopping: 3")
    (tmp_path / "experiment.yaml").write_text(patient)
    training = run.experiment().training
    for count, stopped in ((training.epochs - 1, True), (training.epochs, False)):
        [told] = not_learned(run.with_info(epochs=count), chance)
        assert ("without improvement (training.early_stopping)" in told) == stopped
        assert ("more epochs (training.epochs)" in told) != stopped
    (tmp_path / "experiment.yaml").write_bytes((shipped / "experiment.yaml").read_bytes())
    assert not_learned(run, results) == []  # overconfident, but it ranks the images
    card = model_card(run, chance)
    assert "\n- shorter side: 32 pixels\n" in card
    assert warning in card and run.experiment().description in card
    changed = run.experiment().to_yaml().replace("- 32\n  - 32", "- 48\n  - 48")
    (tmp_path / "experiment.yaml").write_text(changed)
    assert "cifake_small_resnet with other settings" in model_card(open_run(tmp_path), chance)
    (tmp_path / "history.csv").write_text(epochs.format(0.68))
    assert not_learned(run, chance) == []
    (tmp_path / "history.csv").write_text(epochs.format("nan"))
    assert "lowest: 0.7000; the detector is of epoch 1, by its" in not_learned(run, chance)[0]
    rows = epochs.format(0.71) + "3,0.7,0.5,0.75,0.55\n"
    (tmp_path / "history.csv").write_text(rows)
    kept = "lowest: 0.7000; the detector is of epoch 3, by its accuracy of 0.5500: 0.7500)"
    assert kept in not_learned(run, chance)[0]
    assert training_warnings(run, results) == []
    (tmp_path / "history.csv").write_text(epochs.format(0.68))
    [told] = training_warnings(run.with_info(diverged=3), results)
    assert told.startswith("The training diverged in epoch 3") and told.endswith("precision).")
    (tmp_path / "experiment.yaml").write_text(patient)
    (tmp_path / "history.csv").write_text(epochs.format(0.72))
    for diverged in (None, 3):  # which ended it, not patience
        [*_, told] = training_warnings(run.with_info(epochs=2, diverged=diverged), chance)
        assert ("(training.early_stopping)" in told) == (diverged is None)


def test_what_train_warns_of_in_the_data_is_in_report_and_card(tmp_path, capsys):
    """Contradicting labels, and a class of few images among many fakes; also after `evaluate`."""
    root = tmp_path / "set"
    for name, count, fake in (("real", 90, 0), ("generated", 90, 1), ("edited", 30, 2)):
        write_images(root / name, count, fake, seed=7)
    (root / "generated" / "copy.png").write_bytes((root / "real" / "000.png").read_bytes())
    for number in range(15):
        (root / "edited" / f"{number:03d}.png").unlink()
    run = tfdetect.train(root, overrides=[*SMALL, "training.epochs=1"], output=tmp_path / "runs",
                         progress=False, log=lambda text: None).path  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    tfdetect.evaluate(run, images_in_report=False, log=lambda text: None)
    report, card = ((run / name).read_text() for name in ("report.html", "model_card.md"))
    for words in ("2 images have exact duplicates with another label", "Split train has only "):
        assert words in said and words in report and words in card
    assert "images of the class edited: a detector learns little from them" in report
    assert report.count("exact duplicates with another label") == 1


def test_few_images_of_one_of_several_classes_are_named():
    assert not few_of_a_class("train", {"real": 20, "generated": 0, "edited": 300})
    assert few_of_a_class("train", {"real": 400, "generated": 300, "edited": 1}).startswith(
        "only 1 image of the class edited: a detector learns little"
    )
