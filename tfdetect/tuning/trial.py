"""One trial, in a process of its own: `python -m tfdetect.tuning.trial FOLDER NUMBER ...`.

It is an ordinary run, measured on validation alone, or one run for each fold. It ends itself when
the process that started it is gone, and goes on where it was when it is started again.
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path

from tfdetect.core.cli import run_command
from tfdetect.core.errors import RunLockedError, UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import write_text
from tfdetect.core.run import Run, open_run
from tfdetect.tuning.objective import over_folds
from tfdetect.tuning.pruning import unpromising
from tfdetect.tuning.settings import Search, open_search
from tfdetect.tuning.store import COMPLETE, STOPPED, Trial

_PATIENCE = 30.0  # seconds that a process before this one may take to end


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("--gpus")
    parser.add_argument("--gpu-memory-limit")
    parser.add_argument("--parent", type=int, default=os.getppid())
    parser.add_argument("--apart", action="store_true",
                        help="on another machine: leave the outcome in a file")  # fmt: skip
    args = parser.parse_args(argv)
    threading.Thread(target=_end_with, args=(args.parent,), daemon=True).start()

    from tfdetect.core.quiet import import_tensorflow
    from tfdetect.training.devices import configure_devices, parse_gpus, parse_memory_limit

    import_tensorflow()
    devices = configure_devices(parse_gpus(args.gpus), parse_memory_limit(args.gpu_memory_limit))
    search = open_search(args.folder)
    outcome = run_trial(search, search.store.trial(args.number), devices, judged=not args.apart)
    if args.apart:
        write_text(search.outcome(args.number), json.dumps(outcome))
    else:
        search.store.end(**outcome)


def run_trial(search: Search, trial: Trial, devices, judged: bool = True) -> dict:
    """Trains what is not trained yet.

    Args:
        judged: whether it is stopped early by the search's rule.

    Returns:
        The arguments of `Store.end`.
    """
    from tfdetect.data.catalog import fold
    from tfdetect.data.plan import Plan, find_data

    roots = {name: Path(root) for name, root in search.settings.roots.items()}
    experiment = search.experiment_of(trial.overrides)
    plan = Plan(experiment, search.spec, roots, None, "of the search")
    catalog = find_data(plan, progress=False)
    if catalog.fingerprint() != search.settings.fingerprint:
        raise UserError(f"The data of {catalog.name} changed since the search began.")
    count, path, runs, stopped = search.settings.folds, search.path(trial.number), [], False
    for number in range(count):
        place = path if count == 1 else path / f"fold-{number}"
        place.parent.mkdir(parents=True, exist_ok=True)
        part = catalog if count == 1 else fold(catalog, count, number)
        # Judged by its first fold alone: the others' curves are of other data.
        judge = _Judge(search, trial.number, experiment) if judged and number == 0 else None
        runs.append(_run(search, plan, part, place, devices, judge))
        stopped = runs[-1].info.stopped_early
        if stopped:
            break
    values = [search.objective.of(run.results["validation"]) for run in runs]
    value, low, high = map(float, over_folds(values))
    if value != value:
        raise UserError(f"The objective {search.settings.objective} is not defined here.")
    _log(search, trial, value)
    return {
        "number": trial.number, "state": STOPPED if stopped else COMPLETE,
        "objective": (value, low, high), "epochs": sum(run.info.epochs for run in runs),
        "seconds": sum(run.info.training_seconds for run in runs),
    }  # fmt: skip


class _Judge:
    """Reports a trial's curve and says when to stop."""

    def __init__(self, search: Search, number: int, experiment: Experiment):
        self._search, self._number = search, number
        training = experiment.training
        self._last = sum(stage.epochs for stage in training.stages) or training.epochs
        self._maximize = training.monitor != "loss"

    def __call__(self, epoch: int, value: float) -> bool:
        store, settings = self._search.store, self._search.settings
        store.report(self._number, epoch, value)
        curves = store.curves()
        mine = curves.pop(self._number)
        # The experiment unchanged is what all others are compared with: it is trained to the end.
        spared = self._number == 0 and settings.baseline
        return not spared and epoch < self._last and unpromising(
            settings.prune, mine[:epoch], list(curves.values()), self._maximize,
            settings.first_epochs,
        )  # fmt: skip


def _run(search: Search, plan, catalog, path: Path, devices, judge: _Judge | None) -> Run:
    """The finished run at a path, trained if it is not there yet."""
    from tfdetect.train_run import train_run

    if path.is_dir():
        return open_run(path)
    command = f"python -m tfdetect.train --experiment {path / 'experiment.yaml'}"
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            run = train_run(plan, catalog, path, devices, images_in_report=False,
                            pruner=judge, trial=True, command=command)  # fmt: skip
            break
        except RunLockedError:
            if time.monotonic() > until:
                raise
            time.sleep(1)
    return run


def _log(search: Search, trial: Trial, value: float) -> None:
    """Writes a trial's parameters and objective for TensorBoard's HParams."""
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    chosen = search.space.chosen(trial.point) if trial.point else []
    plain = {key: v if isinstance(v, str | int | float | bool) else str(v) for key, v in chosen}
    with tf.summary.create_file_writer(
        str(search.folder / "logs" / f"{trial.number:04d}")
    ).as_default():
        api.hparams(plain, trial_id=f"{trial.number:04d}")
        tf.summary.scalar(search.settings.objective, value, step=1)


def _end_with(parent: int) -> None:
    """Ends this process when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(3)


if __name__ == "__main__":
    code = run_command(main)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is written; to take TensorFlow down in order costs a second
