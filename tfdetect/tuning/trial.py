"""Run one trial in a process of its own: `python -m tfdetect.tuning.trial FOLDER NUMBER ...`.

A trial is an ordinary run that is evaluated on validation only, or one run for each fold. The
process ends when the process that started it has ended; started again, it resumes the trial.
"""

import argparse
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core.errors import RunLockedError, UserError, first_line
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import write_json
from tfdetect.core.open_run import open_run
from tfdetect.core.process import stopped_by
from tfdetect.core.run import Run
from tfdetect.core.run_command import explanation_of, run_command
from tfdetect.core.text import shell_command, to_os
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan
from tfdetect.training.monitor import monitor_of
from tfdetect.tuning.objective import mean_of_folds
from tfdetect.tuning.pruning import should_prune
from tfdetect.tuning.search_folder import Search, fold_name, open_search
from tfdetect.tuning.store import COMPLETE, PRUNED, Outcome, Trial

if TYPE_CHECKING:
    from tfdetect.training.devices import Devices

_LOCK_SECONDS = 30.0  # that an earlier process of the same trial may take to end
_PARENT_SECONDS = 0.2  # between checks that the parent process is running


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("--gpus")
    parser.add_argument("--gpu-memory-limit")
    parser.add_argument("--parent", type=int, default=os.getppid())
    parser.add_argument("--remote", action="store_true",
                        help="on another machine: write the result into a file")  # fmt: skip
    args = parser.parse_args(argv)
    threading.Thread(target=_exit_with_parent, args=(args.parent,), daemon=True).start()

    search = open_search(args.folder)
    try:
        outcome = _run(search, args)
    except Exception as error:
        if stopped_by(error) is None:  # a trial that is stopped can be resumed
            reason = explanation_of(error) or f"{type(error).__name__}: {first_line(error)}"
            _record(search, search.failure(args.number, reason), args.remote)
        raise
    _record(search, outcome, args.remote)


def _run(search: Search, args: argparse.Namespace) -> Outcome:
    """Run the trial that the command line names."""
    from tfdetect.core.quiet import import_tensorflow
    from tfdetect.training.devices import configure_devices, parse_gpus, parse_memory_limit

    import_tensorflow()
    devices = configure_devices(parse_gpus(args.gpus), parse_memory_limit(args.gpu_memory_limit))
    return run_trial(search, search.store.trial(args.number), devices, prune=not args.remote)


def _record(search: Search, outcome: Outcome, remote: bool) -> None:
    """Write how a trial ended into the state of the search, or on another machine into a file."""
    if remote:
        write_json(search.result_path(outcome.number), asdict(outcome))
    else:
        search.store.finish(outcome)


def run_trial(search: Search, trial: Trial, devices: "Devices", prune: bool) -> Outcome:
    """Train and evaluate a trial; runs of finished folds are reused.

    Args:
        search: the search.
        trial: one of its trials.
        devices: the devices from `configure_devices`.
        prune: whether the pruning rule of the search may stop the trial early.

    Raises:
        UserError: the data changed since the search began, or the objective is not defined.
    """
    from tfdetect.data.folds import fold
    from tfdetect.data.plan import find_data

    roots = {name: Path(to_os(root)) for name, root in search.settings.roots.items()}
    experiment = search.experiment_of(trial.overrides)
    plan = Plan(experiment, search.spec, roots, None, "of the search")
    catalog = find_data(plan, progress=False, log=None)
    if catalog.fingerprint() != search.settings.fingerprint:
        raise UserError(
            f"The data of {catalog.name} changed since the search began, so that trials cannot be "
            "compared. Start a new search with another --name."
        )
    folds, path = search.settings.folds, search.run_path(trial.number)
    runs: list[Run] = []
    for number in range(folds):
        own_path = path if folds == 1 else path / fold_name(number)
        own_path.parent.mkdir(parents=True, exist_ok=True)
        part = catalog if folds == 1 else fold(catalog, folds, number)
        # Only the first fold can be pruned: curves of different folds cannot be compared.
        pruner = TrialPruner(search, trial.number, experiment) if prune and number == 0 else None
        command = shell_command("train", experiment=own_path / "experiment.yaml",
                                **search.train_flags)  # fmt: skip
        runs.append(_train_or_open(plan, part, own_path, devices, pruner, command))
        if runs[-1].info.stopped_early:
            break
    values = [search.objective.read(run.results["validation"]) for run in runs]
    value, low, high = map(float, mean_of_folds(values))
    if value != value:
        raise UserError(
            f"The objective {search.objective.name} is not defined on this validation split. "
            "Choose another --objective."
        )
    _log_hyperparameters(search, trial, value)
    return Outcome(
        trial.number,
        PRUNED if runs[-1].info.stopped_early else COMPLETE,
        (value, low, high),
        epochs=sum(run.info.epochs or 0 for run in runs),
        seconds=sum(run.info.training_seconds or 0 for run in runs),
    )


class TrialPruner:
    """Records the monitored values of a trial, and decides when to stop it early."""

    def __init__(self, search: Search, number: int, experiment: Experiment):
        """Prepare the pruner.

        Args:
            search: the search, whose settings hold the rule.
            number: the number of the trial.
            experiment: the experiment of the trial.
        """
        self._store, self._settings, self._number = search.store, search.settings, number
        training = experiment.training
        self._last_epoch = training.total_epochs
        self._direction = monitor_of(training).direction
        # The unchanged experiment is never pruned: other trials are compared with it.
        self._exempt = number == 0 and search.settings.baseline

    def __call__(self, epoch: int, value: float) -> bool:
        """Record the value after an epoch, from 1; return whether to stop the trial."""
        self._store.report(self._number, epoch, value)
        if self._exempt or epoch >= self._last_epoch:
            return False
        curves = self._store.curves()
        own = curves.pop(self._number)
        return should_prune(
            self._settings.prune, own[:epoch], list(curves.values()), self._direction,
            self._settings.first_epochs,
        )  # fmt: skip


def _train_or_open(
    plan: Plan, catalog: Catalog, path: Path, devices: "Devices", pruner: TrialPruner | None,
    command: str,
) -> Run:  # fmt: skip
    """Return the finished run at a path; train it first if there is none.

    Args:
        plan: the experiment and the dataset spec.
        catalog: the images, or one fold of them.
        path: the path of the run.
        devices: the devices that train.
        pruner: stops the training early; None trains to the end.
        command: the command that the run records.
    """
    from tfdetect.train_run import train_run
    from tfdetect.training.training_job import TrainingJob

    if path.is_dir():
        return open_run(path)
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            job = TrainingJob(plan, catalog, devices, path)
            return train_run(
                job, images_in_report=False, pruner=pruner, trial=True, command=command
            )
        except RunLockedError:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _log_hyperparameters(search: Search, trial: Trial, value: float) -> None:
    """Write the parameters and the objective of a trial for the HParams of TensorBoard."""
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    chosen = search.space.chosen(trial.point) if trial.point else []
    plain = {key: v if isinstance(v, str | int | float | bool) else str(v) for key, v in chosen}
    with tf.summary.create_file_writer(
        str(search.folder / "logs" / f"{trial.number:04d}")
    ).as_default():
        api.hparams(plain, trial_id=f"{trial.number:04d}")
        tf.summary.scalar(search.objective.name, value, step=1)


def _exit_with_parent(parent: int) -> None:
    """End this process when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(run_command(main))
