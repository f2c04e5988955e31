"""Functions of the Python API for hyperparameter search: `search` and its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.api.arguments import Overrides, gpus_of, override_texts, path_of, plan_of
from tfdetect.api.checked import checked
from tfdetect.core import console
from tfdetect.core.files import check_writable
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.text import MAX_NAME_BYTES, checked_name, file_name, user_path

if TYPE_CHECKING:
    from tfdetect.tuning.search_folder import SearchPlan


@dataclass(frozen=True)
class SearchResults:
    """What a search found.

    Attributes:
        folder: the search's folder; best.yaml in it is the best experiment.
        objective: the metric of validation that was optimized.
        best: the best trial: `number`, `objective`, `low`, `high`, `overrides`.
        trials: every trial, in the same form, with its `state`, `epochs`, `seconds` and `reason`.
        summary: the best trials as text.
        train_command: the command that trains the best experiment, as the page has it.
        run: the run that was trained from the best experiment, if it was asked for.
    """

    folder: Path
    objective: str
    best: dict[str, Any]
    trials: list[dict[str, Any]] = field(repr=False)
    summary: str = field(repr=False)
    train_command: str = field(repr=False)
    run: Run | None = None

    @property
    def experiment(self) -> Path:
        """The best experiment, for `train(experiment=...)`."""
        return self.folder / "best.yaml"

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"


@checked
def prepare_search(
    space: str | Path,
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    trial_overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    objective: str | None = None,
    algorithm: str = "tpe",
    startup_trials: int = 10,
    seed: int = 0,
    folds: int = 1,
    prune: str = "median",
    first_epochs: int = 1,
    baseline: bool = True,
) -> SearchPlan:
    """Resolve and check what `search` would do, with the same arguments; start nothing."""
    from tfdetect.core.documents import validate
    from tfdetect.tuning.make_search import make_search
    from tfdetect.tuning.objective import default_objective
    from tfdetect.tuning.search_folder import SearchSettings
    from tfdetect.tuning.space import load_space

    found = load_space(str(space))
    by_space = not (experiment or model) and bool(found.experiment)
    plan = plan_of(
        dataset, found.experiment if by_space else experiment, model, overrides, data_dir, authentic
    )
    values = {
        "objective": objective or default_objective(plan.experiment).name,
        "algorithm": algorithm, "startup_trials": startup_trials, "seed": seed, "folds": folds,
        "prune": prune, "first_epochs": first_epochs, "baseline": baseline,
        "trial_overrides": override_texts(trial_overrides),
    }  # fmt: skip
    settings = validate(SearchSettings, values, "the settings of the search")
    return make_search(found, plan, settings, by_space)


@checked
def search(
    space: str | Path,
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    trial_overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    objective: str | None = None,
    algorithm: str = "tpe",
    startup_trials: int = 10,
    seed: int = 0,
    folds: int = 1,
    prune: str = "median",
    first_epochs: int = 1,
    baseline: bool = True,
    max_trials: int | None = None,
    max_hours: float | None = None,
    max_epochs: int | None = None,
    parallel: int = 1,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    spark: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    retrain: bool = False,
    progress: bool = True,
    log: console.Log = console.log,
) -> SearchResults:
    """Search for a better experiment; each trial is a training in a process of its own.

    The same call continues an interrupted search; several processes may work on one.

    Args:
        space: name of a shipped search space or path of a YAML file: what varies, and how.
        dataset, experiment: see `train`; by default those of the space.
        model, overrides, data_dir, authentic: see `train`.
        trial_overrides: overrides in the trials alone; the best experiment keeps its own values.
        objective: metric of validation to optimize; by default what the experiment monitors.
        algorithm: what suggests the next point: "tpe", "random", "atpe" or "optuna".
        startup_trials: number of trials that are drawn at random first.
        seed: seed of the suggestions.
        folds: number of folds of a cross-validation of each trial on train and validation
            together; 1 for the validation split.
        prune: rule that stops unpromising trials early: "median", "halving" or "none".
        first_epochs: number of epochs before which no trial is stopped.
        baseline: whether the first trial is the unchanged experiment.
        max_trials, max_hours, max_epochs: limits of the whole search; by default 50 trials.
        parallel: trials at once.
        gpus, gpu_memory_limit: see `train`; the limit is for each trial.
        spark: a Spark master, such as "spark://host:7077", to run the trials on.
        output: folder for the search's folder.
        name: name of that folder; by default "search-SPACE-DATASET".
        retrain: train the best experiment afterwards, as a run of its own.
        progress: whether to show progress.
        log: called with each message.

    Raises:
        UserError: an unknown name, a space that does not fit, or no trial that ended well.
    """
    from tfdetect.training.devices import parse_gpus, parse_memory_limit
    from tfdetect.tuning.budget import Budget

    numbers = parse_gpus(gpus_of(gpus))
    parse_memory_limit(gpu_memory_limit)  # refused before the first trial, not in each
    limits = max_trials, max_hours, max_epochs
    budget = Budget(*limits) if any(limits) else Budget(50)
    plan = prepare_search(
        space, dataset, experiment, model=model, overrides=overrides,
        trial_overrides=trial_overrides, data_dir=data_dir, authentic=authentic,
        objective=objective, algorithm=algorithm, startup_trials=startup_trials, seed=seed,
        folds=folds, prune=prune, first_epochs=first_epochs, baseline=baseline,
    )  # fmt: skip
    # A mistake is said before these are imported, which takes a second.
    from tfdetect.tuning.finish_search import finish_search
    from tfdetect.tuning.finish_search import retrain as train_best
    from tfdetect.tuning.resources import allocate_slots
    from tfdetect.tuning.scheduler import best_trial, run_search
    from tfdetect.tuning.search_folder import create_search

    check_writable(user_path(output))
    default = file_name(f"search-{plan.space.name}-{plan.spec.name}", most=MAX_NAME_BYTES)
    name = checked_name(default if name is None else name, "the search")
    folder = user_path(output) / name
    searching = create_search(folder, plan)
    log(f"Search in {folder}")
    if spark:
        from tfdetect.tuning.spark import run_on_spark

        run_on_spark(searching, budget, spark, parallel)
    else:
        slots = allocate_slots(parallel, numbers, gpu_memory_limit)
        run_search(searching, budget, slots, progress=progress)
    summary = finish_search(searching)
    trials = searching.store.trials()
    best = best_trial(searching, trials)
    assert best is not None  # `finish_search` refuses a search without one
    run = None
    if retrain:
        path = train_best(
            searching, user_path(output), path_of(data_dir), gpus_of(gpus), gpu_memory_limit
        )
        run = open_run(path)
    return SearchResults(
        folder, plan.settings.objective, asdict(best), [asdict(t) for t in trials], summary,
        searching.train_command, run,
    )  # fmt: skip
