"""The road from a space to a finished search: checked settings, result, retraining."""

import subprocess
import sys
from pathlib import Path

from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment, load_experiment, override
from tfdetect.core.files import write_text
from tfdetect.core.run import PARTIAL, open_run
from tfdetect.core.spec import DatasetSpec
from tfdetect.data.plan import find_data, make_plan
from tfdetect.tuning.objective import Objective, objective_of
from tfdetect.tuning.scheduler import best_trial
from tfdetect.tuning.settings import Search, Settings
from tfdetect.tuning.space import Space, load_space
from tfdetect.tuning.suggest import suggest


def make_search(
    space: str,
    dataset: str | None,
    experiment: str | None,
    overrides: list[str],
    data_dir: Path | None,
    authentic: str | None,
    model: str | None,
    **settings,
) -> tuple[Settings, Space, Experiment, DatasetSpec]:
    """Resolves and checks everything before the first trial; see `make_plan`.

    Args:
        settings: those of `Settings`; objective may be None for what the experiment monitors.

    Raises:
        UserError: an unknown name, or a space that does not fit the experiment.
    """
    found = load_space(space)
    plan = make_plan(
        dataset, experiment or (None if model else found.experiment), overrides, data_dir,
        authentic, model,
    )  # fmt: skip
    objective = objective_of(settings.pop("objective"), plan.experiment)
    if objective.name.startswith("mask_") and plan.experiment.model.mask_head is None:
        raise UserError(f"The objective {objective.name} needs a model.mask_head.")
    override(plan.experiment, list(settings["for_trials"]))  # refuses bad ones by their own name
    twice = {t.partition("=")[0] for t in settings["for_trials"]} & {
        label.rpartition("/")[2] for label in found.labels()
    }
    if twice:
        raise UserError(f"--trial-set {', '.join(sorted(twice))}: the space varies it.")
    found.check(plan.experiment)
    catalog = find_data(plan)
    roots = {name: str(root) for name, root in catalog.roots.items()}
    known = {"objective": objective.name, "roots": roots, "fingerprint": catalog.fingerprint()}
    resolved = validate(Settings, {**settings, **known}, "the settings of the search")
    return resolved, found, plan.experiment, plan.spec


def examples(space: Space, settings: Settings, count: int = 5) -> list[list[str]]:
    """The overrides of the first random points of a search."""
    points = (
        suggest(space, Objective(settings.objective), "random", settings.seed + number, 0, [])
        for number in range(count)
    )
    return [space.overrides(point) for point in points]


def finish(search: Search) -> str:
    """Writes best.yaml, trials.csv and report.html; returns what to tell the user.

    Raises:
        UserError: no trial ended well.
    """
    from tfdetect.tuning.search_report import summary, write_report

    trials = search.store.trials()
    best = best_trial(search, trials)
    if best is None:
        raise UserError(
            f"No trial ended well: {len(trials)} began. See {search.folder / 'trials'}."
        )
    experiment = search.experiment_of(best.overrides, trial=False)
    experiment = experiment.model_copy(update={
        "name": f"{search.experiment.name}-best",
        "description": f"Trial {best.number} of {search.folder.name}: {search.settings.objective} "
        f"{best.objective:.4f} of validation",
        "published": None,
    })  # fmt: skip
    write_text(search.folder / "best.yaml", experiment.to_yaml())
    write_report(search, trials)
    return summary(search, trials)


def retrain(
    search: Search, output: Path, data_dir: Path | None, gpus: str | None, limit: str | None
) -> Path:
    """Trains the best experiment as a run of its own, beside the search; returns its folder.

    Raises:
        UserError: the training failed.
    """
    path = output / f"{search.folder.name}-best"
    best = (search.folder / "best.yaml").resolve()
    partial = path.with_name(path.name + PARTIAL)
    if path.is_dir():
        if open_run(path).experiment() == load_experiment(str(best)):
            return path
        raise UserError(f"{path} is there and is another run. Rename it, or choose another --name.")
    arguments = ["--experiment", str(best), "--output", str(output), "--name", path.name]
    if partial.is_dir():
        arguments = ["--resume", str(path)]
    else:
        roots = search.settings.roots
        place = next(iter(roots.values())) if len(roots) == 1 else data_dir
        arguments += ["--data-dir", str(place)] if place else []
    for flag, value in (("--gpus", gpus), ("--gpu-memory-limit", limit)):
        arguments += [flag, value] if value else []
    done = subprocess.run([sys.executable, "-m", "tfdetect.train", *arguments], check=False)
    if done.returncode:
        raise UserError(f"Retraining ended with exit code {done.returncode}. The search is whole; "
                        f"train {best} to try again.")  # fmt: skip
    return path
