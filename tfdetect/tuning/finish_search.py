"""Finish a search: write the best experiment and the report, and train that experiment."""

import subprocess
import sys
from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.open_run import is_finished, open_run
from tfdetect.core.run import partial_path
from tfdetect.core.text import flag_words, shell_command
from tfdetect.tuning.scheduler import best_trial
from tfdetect.tuning.search_folder import Search
from tfdetect.tuning.search_report import format_summary, write_report


def finish_search(search: Search) -> str:
    """Write best.yaml, trials.csv and report.html; return a summary for the terminal.

    Raises:
        UserError: no trial succeeded.
    """
    trials = search.store.trials()
    best = best_trial(search, trials)
    if best is None:
        raise UserError(
            f"No trial of {len(trials)} succeeded. The last one failed with: {trials[-1].reason}\n"
            f"The logs of the trials are in {search.folder / 'trials'}."
        )
    experiment = search.experiment_of(best.overrides, trial=False)
    experiment = experiment.model_copy(update={
        "name": f"{search.experiment.name}-best",
        "description": f"Trial {best.number} of {search.folder.name}: {search.objective.name} "
        f"{best.value:.4f} on validation",
        "published": None,
    })  # fmt: skip
    write_report(search, trials, experiment.to_yaml())
    return format_summary(search, trials)


def retrain(
    search: Search, output: Path, data_dir: Path | None, gpus: str | None, memory_limit: str | None
) -> Path:
    """Train the best experiment as a run of its own, in a process of its own.

    Args:
        search: a finished search.
        output: directory of runs.
        data_dir: directory that contains the datasets, if there are several.
        gpus, memory_limit: as `tfdetect train` takes them.

    Returns:
        The run's directory. An existing run of the same experiment is reused.

    Raises:
        UserError: the training failed, or a run of another experiment has that name.
    """
    path = output / f"{search.folder.name}-best"
    best = (search.folder / "best.yaml").resolve()
    if is_finished(path):
        if open_run(path).experiment() == load_experiment(str(best)):
            return path
        raise UserError(
            f"{path} exists and is a run of another experiment. Rename it, or choose another "
            "--name."
        )
    flags: dict[str, object] = {"resume": path}
    if not path.is_dir() and not partial_path(path).is_dir():
        flags = {"experiment": best, "output": output, "name": path.name, **search.train_flags}
        flags["data_dir"] = flags["data_dir"] or data_dir
    flags |= {"gpus": gpus, "gpu_memory_limit": memory_limit}
    command = [sys.executable, "-m", "tfdetect.train", *flag_words(**flags)]
    done = subprocess.run(command, stdout=2, check=False)  # stdout is for the search's own result
    if done.returncode:
        raise UserError(
            f"The training of the best experiment ended with exit code {done.returncode}. The "
            f"search itself is complete. To train again: {shell_command('train', **flags)}"
        )
    return path
