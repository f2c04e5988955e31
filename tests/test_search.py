"""Searches: spaces, suggestions, durable state, and trials in processes of their own."""

import errno
import inspect
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import yaml
from commands import call
from conftest import SMALL, run_at, write_images
from markupsafe import escape

from tfdetect.core import process, registry
from tfdetect.core.choices import Algorithm
from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment, override
from tfdetect.core.run_command import run_command
from tfdetect.core.run_writer import write_info
from tfdetect.core.shipped_documents import shipped_names
from tfdetect.search import main
from tfdetect.tuning import search_figures, search_report, trial_process
from tfdetect.tuning import trial as trial_command
from tfdetect.tuning.check_space import check_space
from tfdetect.tuning.objective import objective_named
from tfdetect.tuning.parameter import Parameter
from tfdetect.tuning.pruning import should_prune
from tfdetect.tuning.resources import allocate_slots
from tfdetect.tuning.scheduler import best_trial
from tfdetect.tuning.search_folder import Search, open_search
from tfdetect.tuning.space import Space, load_space
from tfdetect.tuning.store import (
    COMPLETE,
    FAILED,
    PRUNED,
    NewTrial,
    Outcome,
    Store,
    Trial,
    is_alive,
    process_name,
)
from tfdetect.tuning.suggest import suggest
from tfdetect.tuning.trial_process import exit_reason

BRANCHED = {
    "training.optimizer.name": {"choice": [
        {"value": "sgd", "with": {
            "training.optimizer.learning_rate": {"log_uniform": [0.01, 1]},
            "training.optimizer.momentum": {"uniform": [0.5, 0.99]},
        }},
        {"value": "adamw", "with": {
            "training.optimizer.learning_rate": {"log_uniform": [1e-4, 1e-2]},
        }},
    ]},
    "training.batch_size": {"log_uniform": [32, 256], "step": 32},
    "model.dropout": {"uniform": [0.1, 0.5], "step": 0.1},
    "data.augment.1.pixels": {"uniform": [0, 4], "step": 1},
    "model.options": {"choice": [{}, {"widths": [8, 16, 32]}]},
}  # fmt: skip


def make_space(parameters):
    return validate(Space, {"name": "x", "parameters": parameters}, "space.yaml")


@pytest.fixture
def base():
    return load_experiment("cifake_small_resnet")


def values_of(overrides):
    return {key: json.loads(value) for key, _, value in (o.partition("=") for o in overrides)}


def test_every_point_of_a_space_is_a_legal_experiment(base):
    space, rng, seen = make_space(BRANCHED), np.random.default_rng(0), set()
    check_space(space, base)
    for _ in range(100):
        found = values_of(space.overrides(space.sample(rng)))
        assert found["training.batch_size"] in range(32, 257, 32)
        assert found["model.dropout"] in (0.1, 0.2, 0.3, 0.4, 0.5)
        assert isinstance(found["data.augment.1.pixels"], int)
        sgd = found["training.optimizer.name"] == "sgd"
        assert ("training.optimizer.momentum" in found) == sgd
        low, high = (0.01, 1) if sgd else (1e-4, 1e-2)
        assert low <= found["training.optimizer.learning_rate"] <= high
        seen |= {(key, str(value)) for key, value in found.items()}
    for key, count in (("training.optimizer.name", 2), ("model.dropout", 5),
                       ("data.augment.1.pixels", 5), ("training.batch_size", 8)):  # fmt: skip
        assert len({value for k, value in seen if k == key}) == count, key


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"model.backbon": {"choice": ["a"]}}, "Did you mean 'model.backbone'"),
        ({"model.dropout": {"uniform": [0, 1.5]}}, "key 'model.dropout' at 1.5"),
        ({"training.batch_size": {"uniform": [0, 64]}}, "whole numbers needs a step"),
        ({"training.batch_size": {"uniform": [0, 64], "step": 8}}, "at 0: .*greater than 0"),
        ({"model.head": {"choice": []}}, "choice is empty"),
        ({"model.head": {"choice": ["linear", "nope"]}}, "'nope'"),
        ({"model.dropout": {"unifrm": [0, 0.5]}}, "Did you mean 'uniform'"),
        ({"model.dropout": {"uniform": [0.5, 0.2]}}, "lowest value first"),
        ({"training.optimizer.learning_rate": {"log_uniform": [0, 1]}}, "above 0"),
        ({"model.dropout": {"uniform": [0, 0.5], "choice": [1]}}, "exactly one of"),
        ({"model.dropout": {"uniform": [0, 0.5], "step": 2}}, "larger than the whole range"),
        ({"model.dropout": {"step": 2}}, "exactly one of"),
        ({}, "at least one parameter"),
        ({"training.monitor": {"choice": ["auc", "loss"]}}, "must be the same in all trials"),
        ({"data.image_size": {"choice": [32, 48]},
          "model.backbone": {"choice": ["small_resnet", "xception"]}}, "nearest legal size is 71"),
        ({"model.dropout": {"uniform": [0, 0.2]},
          "model.head": {"choice": [{"value": "linear",
                                     "with": {"model.dropout": {"uniform": [0, 0.1]}}}]}},
         "set twice"),
        # Legal each, together not: only a random point shows it.
        ({"data.resize": {"choice": ["stretch", "window_tile"]}, "data.test_crops":
          {"choice": [1, 5]}}, "test_crops needs resize"),
    ],
)  # fmt: skip
def test_a_space_that_does_not_fit_is_refused_before_any_trial(base, parameters, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        check_space(make_space(parameters), base)


@pytest.mark.parametrize("name", sorted(shipped_names("experiments/spaces")))
def test_shipped_spaces_fit_their_experiments(name):
    space, base = load_space(name), load_experiment(load_space(name).experiment)
    check_space(space, base)
    rng = np.random.default_rng(0)
    for _ in range(30):
        model = override(base, space.overrides(space.sample(rng))).model
        build = registry.BACKBONES.load(model.backbone)
        inspect.signature(build).bind((32, 32, 3), "none", **model.options)
        if model.front_end != "pixels":
            build = registry.FRONT_ENDS.load(model.front_end)
            inspect.signature(build).bind(None, **model.front_end_options)


def toy(overrides):
    """Best at a rate of 0.1 of SGD."""
    found = values_of(overrides)
    far = abs(math.log10(found["training.optimizer.learning_rate"]) + 1)
    return 1 - 0.2 * far - 0.3 * (found["training.optimizer.name"] != "sgd")


def simulate(folder, space, algorithm, seed, trials, startup=8):
    """A search without trainings; returns its trials."""
    store, objective = Store(folder), objective_named("accuracy")

    def new(before):
        point = suggest(space, objective, algorithm, seed, startup, before)
        return NewTrial(point, space.overrides(point))

    for _ in range(trials):
        trial = store.claim(new)
        value = toy(trial.overrides)
        failed = trial.number == 2
        values = (None,) * 3 if failed else (value,) * 3
        store.finish(Outcome(trial.number, FAILED if failed else COMPLETE, values, 1, 1.0))
    return store.trials()


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_suggestions_do_not_depend_on_interruptions(tmp_path, algorithm):
    pytest.importorskip({"atpe": "lightgbm", "optuna": "optuna"}.get(algorithm, "hyperopt"))
    space = make_space(BRANCHED)
    whole = simulate(tmp_path, space, algorithm, 3, 14)
    parted = tmp_path / "parted"
    parted.mkdir()
    for count in (5, 1, 8):  # a process each would be the same: nothing is kept but the file
        simulate(parted, space, algorithm, 3, count)
    again = Store(parted).trials()
    assert [t.point for t in again] == [t.point for t in whole]
    assert len({json.dumps(t.point) for t in whole}) == 14


def test_tpe_is_better_than_random_search(tmp_path):
    space, best = make_space(BRANCHED), {}
    for algorithm in ("tpe", "optuna", "random"):
        found = []
        for seed in range(4):
            folder = tmp_path / f"{algorithm}{seed}"
            folder.mkdir()
            trials = simulate(folder, space, algorithm, seed, 30)
            found.append(np.mean([t.objective for t in trials[15:]]))
        best[algorithm] = np.mean(found)
    assert min(best["tpe"], best["optuna"]) > best["random"] + 0.1, best


def test_choices_of_rising_numbers_are_ordered_for_samplers():
    def steps(*values):
        return Parameter.model_validate({"choice": values}).steps

    assert steps(16, 32, 64) == 2
    assert steps(0.1, 1, 2.5) == 2
    for values in ((64, 32), (16, 16, 32), (8,), ("a", "b"), (False, True), (1, "2"), (None, 1),
                   (1, {"value": 2, "with": {"x": {"uniform": [0, 1]}}})):  # fmt: skip
        assert steps(*values) is None, values


def test_a_search_algorithm_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "tfdetect.tuning.suggest_optuna", raising=False)
    with pytest.raises(UserError, match=r"needs optuna.*tfdetect\[search\]"):
        suggest(make_space(BRANCHED), objective_named("accuracy"), "optuna", 0, 10, [])


@pytest.mark.parametrize(("name", "best"), [("accuracy", max), ("log_loss", min)])
def test_the_best_trial_has_the_best_objective(tmp_path, name, best):
    trials = simulate(tmp_path, make_space(BRANCHED), "random", 3, 9)
    values = [trial.objective for trial in trials if trial.state != FAILED]
    search = SimpleNamespace(objective=objective_named(name))
    assert len(values) == 8
    assert best_trial(search, trials).objective == best(values)
    assert best_trial(search, trials[2:3]) is None  # it failed


def test_axes_of_trials_and_epochs_have_whole_numbers_even_of_one():
    trial = Trial(0, COMPLETE, "", {}, [], 0.5, 0.4, 0.6, 1, 1.0, 0.0, 1.0, None)
    search = SimpleNamespace(
        objective=objective_named("accuracy"), store=SimpleNamespace(curves=lambda: {0: [0.5]}),
        experiment=load_experiment("cifake_small_resnet"),
    )  # fmt: skip
    for draw, only in ((search_figures.history, 0), (search_figures.learning_curves, 1)):
        [axes] = draw(search, [trial]).axes
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [only]


def test_the_terminal_wraps_what_a_trial_changed():
    """Else the table of a large space is 260 columns wide in a file or pipe."""
    space = make_space(BRANCHED)
    search = SimpleNamespace(
        objective=objective_named("accuracy"), space=space, settings=SimpleNamespace(folds=1)
    )
    point = space.sample(np.random.default_rng(0))
    trial = Trial(0, COMPLETE, "", point, [], 0.5, 0.4, 0.6, 1, 1.0, 0.0, 1.0, None)
    best, _, *table = search_report.format_summary(search, [trial]).splitlines()
    assert best.startswith("best: trial 0 (optimizer.name") and max(map(len, table)) <= 120
    assert "worse" not in table[0]  # there is one trial


def test_the_median_rule_and_halving():
    others = [[0.5, 0.6], [0.6, 0.7], [0.7, 0.8], [0.8, 0.9]]
    assert should_prune("median", [0.55, 0.6], others, "max")
    assert not should_prune("median", [0.75, 0.7], others, "max")  # its best so far counts
    assert not should_prune("median", [0.1], others[:3], "max")  # too few to say
    assert should_prune("median", [0.9], others, "min")
    assert not should_prune("median", [0.1], others, "max", first_epochs=2)
    assert not should_prune("none", [0.0, 0.0], others, "max")
    many = [[v] * 9 for v in np.linspace(0, 1, 9)]
    assert should_prune("halving", [0.5], many, "max")  # of ten, the best three go on
    assert not should_prune("halving", [0.9], many, "max")
    assert not should_prune("halving", [0.5] * 2, many, "max")  # no rung: 1, 3, 9
    assert should_prune("halving", [0.5] * 3, many, "max")


CLAIMS = """
import json, sys
from pathlib import Path
from tfdetect.tuning.store import COMPLETE, NewTrial, Outcome, Store

store, found = Store(Path(sys.argv[1])), []
for _ in range(8):
    trial = store.claim(lambda trials: NewTrial({"x": len(trials)}, []))
    found.append((trial.number, trial.point["x"]))
    store.finish(Outcome(trial.number, COMPLETE, (0.5, 0.4, 0.6)))
print(json.dumps(found))
"""


def test_each_trial_is_claimed_by_one_process(tmp_path):
    Store(tmp_path)
    workers = [
        subprocess.Popen([sys.executable, "-c", CLAIMS, tmp_path], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    found = sorted(
        tuple(pair) for w in workers for pair in json.loads(w.communicate(timeout=120)[0])
    )
    assert found == [(n, n) for n in range(24)]
    assert all(t.state == COMPLETE for t in Store(tmp_path).trials())


def test_a_trial_whose_process_died_is_taken_over(tmp_path):
    store = Store(tmp_path)
    code = (
        "import sys; from pathlib import Path; from tfdetect.tuning.store import NewTrial, Store\n"
        "print(Store(Path(sys.argv[1])).claim(lambda trials: NewTrial({'x': 1}, ['a=1'])).worker)"
    )
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True,
                          text=True, check=True).stdout.strip()  # fmt: skip
    assert is_alive(process_name()) and not is_alive(dead)
    assert is_alive(f"elsewhere:{os.getpid()}:1.0")  # of another machine nothing is known
    assert not is_alive(f"{socket.gethostname()}:{os.getpid()}:1.0")  # the process id was reused
    taken = store.claim(lambda trials: pytest.fail("a new one instead"))
    assert (taken.number, taken.point, taken.worker) == (0, {"x": 1}, process_name())
    assert store.claim(lambda trials: None) is None
    store.finish(Outcome(0, COMPLETE, (0.5, 0.4, 0.6)))
    store.finish(Outcome(0, FAILED, reason="later"))  # an outcome is not changed
    assert store.trial(0).state == COMPLETE


def test_a_damaged_state_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "search.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"search\.sqlite"):
        Store(tmp_path).trials()


def test_time_of_several_processes_counts_once(tmp_path):
    store = Store(tmp_path)
    with store._connect() as database:
        database.executemany(
            "insert into work values (?, ?, ?)",
            [("a", 0, 10), ("b", 5, 12), ("c", 20, 21), ("d", 20.5, 20.6)],
        )
    assert store.seconds() == pytest.approx(13)


def test_slots_divide_the_machine_evenly(monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    slots = allocate_slots(2, [0, 1, 2, 3], None)
    assert [s.arguments for s in slots] == [("--gpus", "0,1"), ("--gpus", "2,3")]
    if len(cores) > 1:
        assert set(slots[0].cores) | set(slots[1].cores) == set(cores)
        assert not set(slots[0].cores) & set(slots[1].cores)
    crowded = allocate_slots(4, [0, 1], None)
    assert [s.arguments[1] for s in crowded] == ["0", "1", "0", "1"]
    assert crowded[0].arguments[2:] == ("--gpu-memory-limit", "0.475")
    assert allocate_slots(1, [], None)[0].arguments == ("--gpus", "none")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [s.arguments[1] for s in allocate_slots(2, None, "0.5")] == ["0", "1"]
    threads = slots[0].environment()["TF_NUM_INTRAOP_THREADS"]
    assert int(threads) == len(slots[0].cores)


def test_a_process_that_recorded_nothing_has_a_reason(tmp_path):
    log = tmp_path / "log"
    assert "SIGKILL" in exit_reason(-9, log) and "memory" in exit_reason(-9, log)
    assert exit_reason(7, log) == f"exit code 7; see {log}"


def raising(error):
    def fail(*args):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("The loss became nan."), "The loss became nan."),
        (OSError(errno.ENOSPC, "full"), "No space is left on the disk. What was finished"),
        (ValueError("odd\nmore"), "ValueError: odd"),
        (KeyboardInterrupt(), None),  # a trial that is stopped can be resumed
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_a_trial_records_why_it_failed(tmp_path, monkeypatch, error, reason, remote):
    recorded = []
    search = SimpleNamespace(store=SimpleNamespace(finish=recorded.append),
                             result_path=lambda number: tmp_path / "result.json",
                             failure=lambda number, why: Outcome(number, FAILED, reason=why)
                             )  # fmt: skip
    monkeypatch.setattr(trial_command, "open_search", lambda folder: search)
    monkeypatch.setattr(trial_command, "_run", raising(error))
    monkeypatch.setattr(trial_command, "_exit_with_parent", lambda parent: None)
    monkeypatch.setattr(process, "_termination", None)  # of another test
    with pytest.raises(type(error)):
        trial_command.main([str(tmp_path), "3", *["--remote"] * remote])
    if remote and reason:
        recorded = [Outcome(**json.loads((tmp_path / "result.json").read_text()))]
    assert [(each.number, each.state) for each in recorded] == ([(3, FAILED)] if reason else [])
    assert not reason or recorded[0].reason.startswith(reason)


# Searches that train.
TINY = {
    "training.optimizer.learning_rate": {"log_uniform": [0.001, 0.03]},
    "model.dropout": {"choice": [0.0, 0.2]},
}


def command(space, root, output, *arguments):
    overrides = [
        part for text in (*SMALL, "training.checkpoint_minutes=0") for part in ("--set", text)
    ]
    return [
        sys.executable, "-m", "tfdetect.search", "--space", str(space), "--dataset", str(root),
        "--output", str(output), "--name", "s", *overrides, *arguments,
    ]  # fmt: skip


def run_here(capsys, *arguments):
    """The same in this process, as far as the search itself goes: (exit code, messages)."""
    code = run_command(main, command(*arguments)[3:])
    return code, capsys.readouterr().err


def run(*arguments, **kwargs):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False,
                          **kwargs)  # fmt: skip


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "parameters": TINY}))
    return path


def test_a_search_says_where_it_takes_another_experiment_than_train(folder_dataset, capsys):
    for extra, words in (
        ((), "that of the space small_resnet; 'train' uses small_images for these images: "
         "--experiment small_images"),
        (("--experiment", "small_images"), "Experiment small_images (as requested), dataset"),
    ):  # fmt: skip
        code, _, err = call("search", ["--space", "small_resnet", "--dataset", folder_dataset,
                                       "--set", "training.batch_size=16", "--dry-run", *extra],
                            capsys)  # fmt: skip
        assert code == 0 and words in err, err


def test_a_search_writes_runs_a_report_and_the_best_experiment(folder_dataset, tmp_path, space,
                                                               capsys):  # fmt: skip
    data = yaml.safe_load(space.read_text())
    data["parameters"] = {
        "model.dropout": {"uniform": [0.0, 0.2]},
        "model.head": {"choice": ["linear", "hidden"]},
    }
    space.write_text(yaml.safe_dump(data))
    # The unchanged experiment diverges, the point after it does not.
    settings = (space, folder_dataset, tmp_path, "--max-trials", "2", "--seed", "1",
                "--prune", "none", "--trial-set", "training.epochs=1", "--set", "model.l2=1000",
                "--set", "model.head=hidden",
                "--set", "training.optimizer={name: sgd, learning_rate: 1.0}")  # fmt: skip
    code, error = run_here(capsys, *settings)
    assert code == 0, error
    search = open_search(tmp_path / "s")
    trials = search.store.trials()
    assert [t.state for t in trials] == [FAILED, COMPLETE]
    assert trials[0].point == {} and "loss became" in trials[0].reason
    best = best_trial(search, trials)
    folder = search.run_path(best.number)
    results = json.loads((folder / "metrics.json").read_text())
    assert list(results) == ["validation"]  # the test split is not looked at
    assert not list(folder.glob("predictions/test*"))
    assert results["validation"]["metrics"]["auc"]["value"] == best.objective
    assert best.number == 1 and best.epochs == 1
    experiment = load_experiment(str(tmp_path / "s" / "best.yaml"))
    assert experiment.training.epochs == 2  # of the experiment, not of the trials
    expected = search.experiment_of(best.overrides, trial=False)
    assert experiment.training == expected.training and experiment.model == expected.model
    assert experiment.model.head == "linear" and experiment.model.dropout > 0
    for name in ("report.html", "trials.csv", "figures/history.png", "figures/slices.png"):
        assert (tmp_path / "s" / name).stat().st_size > 100, name
    page = (tmp_path / "s" / "report.html").read_text()
    assert "loss became" in page and "Failed trials" in page
    assert "there are no learning curves" in page  # of trials of one epoch
    assert str(escape(search.train_command)) in page
    assert f"--data-dir {folder_dataset}" in search.train_command
    # The same command once more trains nothing.
    code = run_command(main, command(*settings)[3:])
    shown = capsys.readouterr()
    assert code == 0 and shown.out.endswith(f"\nnext    {search.train_command}\n"), shown.err
    assert len(search.store.trials()) == 2
    code, error = run_here(capsys, *settings, "--seed", "2")
    assert code == 2 and "its seed is 1, received 2" in error


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_ends(folder_dataset, tmp_path, space):
    done = run(space, folder_dataset, tmp_path, "--max-trials", "9", "--no-baseline",
               "--trial-set", "training.optimizer.clip_norm=1.0e-30",
               "--trial-set", "model.weights=/no/such/run.keras")  # fmt: skip
    assert done.returncode == 2
    assert "All 3 trials failed" in done.stderr and "no run and no .keras" in done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--max-trials", "0"], "at least 1"),
        (["--objective", "acuracy"], "Did you mean 'accuracy'"),
        (["--objective", "mask_iou"], "has no model.mask_head"),
        (["--trial-set", "training.epoch=3"], "Did you mean 'training.epochs'"),
        (["--trial-set", "model.dropout=0.3"], "varies this value"),
        (["--parallel", "0"], "at least 1"),
        (["--set", "training.batch_size=256"], "batches: --set training.batch_size="),
        (["--set", "training.batch_size=60", "--folds", "2"], "fewer than one batch of 60"),
        (["--folds", "200"], "--folds 200 is too many for these data. Fold"),
        (["--set", "model.head_options={steps: 3}"], "unknown option 'steps'"),
        (["--trial-set", "data.augment=[{name: blur, sigma: 3}]"], "unknown option 'sigma'"),
        (["--startup", "-1"], "at least 0"),
        (["--gpu-memory-limit", "lots"], "takes a fraction"),
        (["--algorithm", "tpo"], "unknown value"),
    ],
)
def test_bad_arguments_are_refused_before_any_trial(folder_dataset, tmp_path, space, arguments,
                                                    message, capsys):  # fmt: skip
    code, error = run_here(capsys, space, folder_dataset, tmp_path, *arguments)
    assert code == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "s").exists()


def test_options_that_a_space_varies_are_checked_before_any_trial(folder_dataset, tmp_path, space,
                                                                  capsys):  # fmt: skip
    varied = {"model.options": {"choice": [{}, {"width": -1}]}}
    space.write_text(yaml.safe_dump({"name": "tiny", "parameters": varied}))
    code, error = run_here(capsys, space, folder_dataset, tmp_path, "--dry-run")
    assert code == 2 and "search space tiny, key 'model.options'" in error and "width" in error


@pytest.mark.slow
def test_trials_are_pruned_and_folds_are_averaged(folder_dataset, tmp_path, space):
    done = run(space, folder_dataset, tmp_path, "--max-trials", "9", "--folds", "2",
               "--set", "training.epochs=4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    search = open_search(tmp_path / "s")
    trials = search.store.trials()
    stopped = [t for t in trials if t.state == PRUNED]
    assert stopped, [t.state for t in trials]
    assert all(0 < t.epochs < 4 for t in stopped)
    for trial in trials:
        if trial.state == COMPLETE:
            parts = [
                json.loads(
                    (search.run_path(trial.number) / f"fold-{n}" / "metrics.json").read_text()
                )
                for n in range(2)
            ]
            values = [part["validation"]["metrics"]["auc"]["value"] for part in parts]
            assert trial.objective == pytest.approx(np.mean(values)) and trial.epochs == 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_a_search_killed_ten_times_has_the_same_result(folder_dataset, tmp_path, space, seed):
    """Serial, with every process killed at random moments."""
    arguments = ("--max-trials", "5", "--startup", "2", "--prune", "median")
    whole = run(space, folder_dataset, tmp_path / "whole", *arguments)
    assert whole.returncode == 0, whole.stderr
    dice, kills, finished = random.Random(seed), 0, {}
    while True:
        process = subprocess.Popen(
            command(space, folder_dataset, tmp_path / "killed", *arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(dice.uniform(4, 14) if kills < 10 else None)
            assert process.returncode == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            if (tmp_path / "killed" / "s" / "search.json").is_file():
                trials = open_search(tmp_path / "killed" / "s").store.trials()
                ended = {t.number: t for t in trials if t.state != "running"}
                assert finished.items() <= ended.items()  # none lost, none run again
                finished = ended
    assert kills == 10
    tables = [open_search(tmp_path / name / "s").store.trials() for name in ("whole", "killed")]
    for one, other in zip(*tables, strict=True):
        assert (one.point, one.state, one.epochs) == (other.point, other.state, other.epochs)
        assert other.objective == pytest.approx(one.objective, abs=1e-6)


@pytest.mark.slow
def test_two_processes_and_two_slots_work_on_one_search(folder_dataset, tmp_path, space):
    arguments = ("--max-trials", "6", "--parallel", "2", "--prune", "none")
    both = [
        subprocess.Popen(command(space, folder_dataset, tmp_path, *arguments),
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    trials = open_search(tmp_path / "s").store.trials()
    assert [t.number for t in trials] == list(range(6))
    assert all(t.state == COMPLETE for t in trials)
    assert len({t.worker for t in trials}) == 2


def test_trials_that_cannot_end_are_killed_together(monkeypatch, tmp_path):
    monkeypatch.setattr(trial_process, "_TERMINATION_SECONDS", 0.2)
    deaf = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(9)"
    )
    trials = []
    for number in range(3):
        trials.append(object.__new__(trial_process.TrialProcess))
        trials[-1]._file = (tmp_path / str(number)).open("wb")
        trials[-1]._process = subprocess.Popen([sys.executable, "-c", deaf],
                                               stdout=trials[-1]._file)  # fmt: skip
    while not all((tmp_path / str(number)).stat().st_size for number in range(3)):
        time.sleep(0.02)
    began = time.monotonic()
    trial_process.end_trials(trials)
    assert time.monotonic() - began < 0.5
    assert [trial._process.returncode for trial in trials] == [-signal.SIGKILL] * 3


@pytest.mark.slow
def test_ctrl_c_keeps_the_state_and_ends_all_processes(folder_dataset, tmp_path, space):
    import psutil

    arguments = ("--max-trials", "3", "--prune", "none")
    process = subprocess.Popen(
        command(space, folder_dataset, tmp_path, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Jobs in the background of a shell are deaf to it otherwise.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "s" / "trials").glob("*.partial/state/*")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Finished trials are kept; the same command continues." in error
    assert time.monotonic() - began < 5  # 2 where nothing else runs
    assert children and not any(child.is_running() for child in children)
    done = run(space, folder_dataset, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert all(t.state == COMPLETE for t in open_search(tmp_path / "s").store.trials())
    assert "resuming" in (tmp_path / "s" / "trials" / "0000.log").read_text()


@pytest.mark.slow
def test_the_best_experiment_is_retrained(folder_dataset, tmp_path, space):
    arguments = ("--max-trials", "2", "--trial-set", "training.epochs=1", "--retrain")
    done = run(space, folder_dataset, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    from tfdetect.core.open_run import open_run

    retrained = open_run(tmp_path / "s-best")
    assert retrained.info.epochs == 2 and "test" in retrained.results
    again = run(space, folder_dataset, tmp_path, *arguments)
    assert again.returncode == 0 and "s-best" in again.stdout


@pytest.fixture(scope="module")
def spark_cluster(tmp_path_factory):
    """A master and two workers, on this machine."""
    pyspark = pytest.importorskip("pyspark")
    home = Path(pyspark.__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("spark")
    environment = {**os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"}
    start = [str(home / "bin" / "spark-class")]
    master = f"spark://127.0.0.1:{port}"
    log = (folder / "log").open("wb")

    def process(*arguments):
        return subprocess.Popen([*start, *arguments], env=environment, stdout=log, stderr=log)

    running = [process("org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port",
                       str(port), "--webui-port", "0")]  # fmt: skip
    running += [
        process("org.apache.spark.deploy.worker.Worker", "--cores", "1", "--memory", "1g",
                "--webui-port", "0", "--work-dir", str(folder / f"worker{number}"), master)
        for number in range(2)
    ]  # fmt: skip
    until = time.monotonic() + 90
    while (folder / "log").read_text(errors="replace").count("Registering worker") < 2:
        assert time.monotonic() < until and all(p.poll() is None for p in running), (
            folder / "log"
        ).read_text(errors="replace")[-2000:]
        time.sleep(0.5)
    yield master
    for one in running:
        one.terminate()
        one.wait(30)
    log.close()


@pytest.mark.slow
def test_a_spark_cluster_runs_the_trials(spark_cluster, folder_dataset, tmp_path, space):
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}
    arguments = ("--max-trials", "4", "--parallel", "2", "--spark", spark_cluster)
    done = run(space, folder_dataset, tmp_path, *arguments, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    search = open_search(tmp_path / "s")
    trials = search.store.trials()
    assert [t.state for t in trials] == [COMPLETE] * 4
    for trial in trials:
        metrics = json.loads((search.run_path(trial.number) / "metrics.json").read_text())
        assert metrics["validation"]["metrics"]["auc"]["value"] == trial.objective
    more = run(space, folder_dataset, tmp_path, "--max-trials", "5", "--parallel", "2", "--spark",
               spark_cluster, env=environment)  # fmt: skip
    assert more.returncode == 0, more.stderr[-3000:]
    assert len(search.store.trials()) == 5


def test_an_unreachable_spark_cluster_is_an_error(folder_dataset, tmp_path, space, capsys):
    pytest.importorskip("pyspark")
    code, error = run_here(capsys, space, folder_dataset, tmp_path, "--spark", "spark:/nowhere",
                           "--max-trials", "1")  # fmt: skip
    assert code == 2 and "Spark" in error and "Traceback" not in error


def test_folds_divide_by_group_without_the_test_split(tmp_path):
    from tfdetect.data.folds import fold
    from tfdetect.data.plan import find_data, make_plan

    root = tmp_path / "pictures"
    for split, count in (("train", 30), ("test", 8)):
        for name, fake in (("real", 0), ("fake", 1)):
            write_images(root / split / name, count, fake, seed=len(split))
    catalog = find_data(make_plan(str(root), None, SMALL), progress=False)
    held = []
    for number in range(3):
        part = fold(catalog, 3, number)
        kept = [c.split("test")["path"].to_pylist() for c in (part, catalog)]
        assert sorted(kept[0]) == sorted(kept[1])
        train, validation = (
            set(part.split(name)["group"].to_pylist()) for name in ("train", "validation")
        )
        assert train and validation and not train & validation
        held.append(validation)
    assert not held[0] & held[1] and not held[1] & held[2] and not held[0] & held[2]
    outside = set(catalog.table["group"].to_pylist()) - set(
        catalog.split("test")["group"].to_pylist()
    )
    assert set.union(*held) == outside


def test_a_trial_that_failed_counts_what_it_trained(tmp_path):
    for number, epochs in ((0, 3), (1, 2)):  # the third fold was not begun
        folder = tmp_path / f"fold-{number}"
        folder.mkdir()
        write_info(run_at(folder).with_info(epochs=epochs, training_seconds=10))
    search = SimpleNamespace(run_path=lambda number: tmp_path, settings=SimpleNamespace(folds=3))
    assert Search.failure(search, 7, "full") == Outcome(
        7, FAILED, epochs=5, seconds=20.0, reason="full"
    )
