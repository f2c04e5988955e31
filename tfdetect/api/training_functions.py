"""Functions of the Python API that make runs: train, search, ensemble, convert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.api.arguments import (
    Overrides,
    RunLike,
    checked,
    gpus_of,
    override_texts,
    path_of,
    plan_of,
    runs_of,
    text_of,
)
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import check_writable
from tfdetect.core.open_run import find_unfinished, new_run_path, open_run
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run import PARTIAL, Run
from tfdetect.core.text import MAX_NAME_BYTES, checked_name, file_name, user_path

if TYPE_CHECKING:
    from tfdetect.core.cluster import Cluster
    from tfdetect.data.plan import Plan
    from tfdetect.evaluation.transfer import Start
    from tfdetect.train_run import TrainingJob
    from tfdetect.tuning.search_folder import SearchPlan


@checked
def train(
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    from_run: RunLike | None = None,
    replay: float | None = None,
    overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    resume: bool | str | Path = False,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    virtual_devices: int | None = None,
    strict: bool = False,
    images_in_report: bool = True,
    progress: bool = True,
    log: console.Log = console.log,
) -> Run:
    """Train a detector; return the finished run, evaluated, calibrated and exported.

    Args:
        dataset: name of a shipped dataset, or path of a folder with one folder per class, of a
            CSV manifest, or of a dataset spec. By default the experiment's.
        experiment: name of a shipped experiment or path of a YAML file. By default the dataset's.
        model: a published detector, of `list_detectors()`.
        from_run: a run to start from: its detector and preprocessing are kept, and what the new
            run gains on the new data and forgets of the old is in `Run.transfer`.
        replay: fraction of each batch that is drawn from the training data of that run.
        overrides: values of the experiment to change, for example {"training.epochs": 5}.
        data_dir: directory that contains the dataset's files, if it is not where the dataset says.
        authentic: the class of authentic images, where the name of its folder does not say so.
        output: folder for runs.
        name: name of the run; by default the experiment's. A number is added if it is taken.
        resume: the unfinished run to continue, or True for the latest one of this experiment.
        gpus: numbers of the GPUs to use, [] for the CPU; by default all.
        gpu_memory_limit: fraction ("0.95"), size ("14GiB") or one per GPU ("0=0.9,1=10GiB").
        virtual_devices: number of replicas to train on the CPU instead.
        strict: refuse data whose quick audit says that results would be unreliable, or in which the
            same image has two labels.
        images_in_report: whether the report may show images of the dataset.
        progress: whether to show progress.
        log: called with each message.

    Returns:
        The run; its `info.status` is "interrupted" after Ctrl-C.

    Raises:
        UserError: an unknown name, an illegal value, or data that cannot be found or read.
    """
    job = prepare_training(
        dataset, experiment, model=model, from_run=from_run, replay=replay, overrides=overrides,
        data_dir=data_dir, authentic=authentic, output=output, name=name, resume=resume, gpus=gpus,
        gpu_memory_limit=gpu_memory_limit, virtual_devices=virtual_devices, strict=strict,
        progress=progress, log=log,
    )  # fmt: skip
    return run_training(job, images_in_report)


def run_training(job: TrainingJob, images_in_report: bool) -> Run:
    """Train what `prepare_training` returned; see `train`."""
    from tfdetect.train_run import train_run

    check_writable(job.path.parent)
    job.log(f"Training on {job.devices.text}; run: {job.path}")
    return train_run(job, images_in_report=images_in_report)


@checked
def prepare_training(
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    from_run: RunLike | None = None,
    replay: float | None = None,
    overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    resume: bool | str | Path = False,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    virtual_devices: int | None = None,
    cluster: Cluster | None = None,
    strict: bool = False,
    progress: bool = True,
    log: console.Log = console.log,
) -> TrainingJob:
    """Resolve and check everything that `train` needs, with the same arguments; start nothing.

    With a cluster, wait for its other workers.
    """
    from tfdetect.auditing.check_training_data import check_training_data
    from tfdetect.data.plan import find_data, load_plan
    from tfdetect.train_run import TrainingJob, check_job
    from tfdetect.training.devices import parse_gpus, parse_memory_limit

    numbers, limits = parse_gpus(gpus_of(gpus)), parse_memory_limit(gpu_memory_limit)
    if virtual_devices is not None and virtual_devices < 1:
        raise UserError(f"--virtual-devices must be at least 1. Received: {virtual_devices}.")
    if resume and not isinstance(resume, bool):
        path = Path(resume)
        path = path.with_name(path.name.removesuffix(PARTIAL))
        plan = load_plan(path)
    else:
        plan = plan_of(dataset, experiment, model, overrides, data_dir, authentic, from_run, replay)
        if cluster is not None and not cluster.is_chief:
            path = user_path(output)  # the chief writes the run
        elif resume:
            path = find_unfinished(user_path(output), plan.experiment, name)
        else:
            wanted = plan.experiment.name if name is None else name
            path = new_run_path(user_path(output), wanted, log)
    log(f"Experiment {plan.experiment.name} ({plan.chosen}), dataset {plan.spec.name}")

    import_tensorflow()
    from tfdetect.training.devices import configure_devices

    devices = configure_devices(numbers, limits, virtual_devices, cluster)
    catalog = find_data(plan, progress, log)
    catalog = check_training_data(plan, catalog, strict)
    start = _start_of(plan, progress, log)
    job = TrainingJob(plan, catalog, devices, path, progress, log, start)
    check_job(job)
    return job


def _start_of(plan: Plan, progress: bool, log: console.Log) -> Start | None:
    """Return the run that a training starts from, and its data; None if it starts from none."""
    if plan.experiment.training.from_run is None:
        return None
    from tfdetect.data.warm_start import old_catalog, open_parent
    from tfdetect.evaluation.transfer import Start

    parent = open_parent(plan.experiment.training.from_run)
    return Start(parent, old_catalog(parent, progress, log))


@dataclass(frozen=True)
class SearchResults:
    """What a search found.

    Attributes:
        folder: the search's folder; best.yaml in it is the best experiment.
        objective: the metric of validation that was optimized.
        best: the best trial: `number`, `objective`, `low`, `high`, `overrides`.
        trials: every trial, in the same form, with its `state`, `epochs`, `seconds` and `reason`.
        summary: the best trials as text.
        run: the run that was trained from the best experiment, if it was asked for.
    """

    folder: Path
    objective: str
    best: dict[str, Any]
    trials: list[dict[str, Any]] = field(repr=False)
    summary: str = field(repr=False)
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
    from tfdetect.tuning.finish_search import finish_search
    from tfdetect.tuning.finish_search import retrain as train_best
    from tfdetect.tuning.resources import allocate_slots
    from tfdetect.tuning.scheduler import best_trial, run_search
    from tfdetect.tuning.search_folder import create_search

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
        folder, plan.settings.objective, asdict(best), [asdict(t) for t in trials], summary, run
    )


@checked
def ensemble(
    runs: Sequence[RunLike],
    fusion: str = "stacked",
    *,
    dataset: str | Path | None = None,
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    masks: bool = True,
    fine_tune_epochs: int = 0,
    learning_rate: float = 1e-5,
    output: str | Path = "saved_models",
    name: str | None = None,
    batch_size: int = 64,
    progress: bool = True,
    log: console.Log = console.log,
) -> Run:
    """Fuse runs into one detector, and measure what that gains; return it as a new run.

    Args:
        runs: two or more, each as `evaluate` takes it.
        fusion: how; see `tfdetect ensemble --help`.
        dataset, data_dir, authentic: what to fit the fusion on, as for `train`; by default all
            that the members were trained on.
        masks: whether to fuse predicted masks too.
        fine_tune_epochs: epochs to train the fused detector as a whole afterwards.
        learning_rate: the learning rate of that training.
        output: folder for runs.
        name: name of the new run; by default "ensemble".
        batch_size: images per step.
        progress: whether to show progress.
        log: called with each message.

    Returns:
        The run; fusion.html in it compares the fusions and the members.

    Raises:
        UserError: the runs do not fit together.
    """
    from tfdetect.fusion.members import open_members

    if fine_tune_epochs < 0 or learning_rate <= 0 or batch_size < 1:
        raise UserError("--fine-tune must be at least 0, --learning-rate and --batch-size above 0.")
    members = open_members([run.path for run in runs_of(runs)], masks=masks)
    if fine_tune_epochs and members.mask_members and masks:
        raise UserError(
            "--fine-tune trains labels alone, which would harm the masks. Add --no-masks."
        )
    path = new_run_path(user_path(output), "ensemble" if name is None else name, log)
    check_writable(path.parent)

    from tfdetect.fusion.fusion_data import find_fusion_data

    spec, catalog = find_fusion_data(
        members, text_of(dataset), path_of(data_dir), authentic, log, progress
    )
    log(f"{fusion} fusion of {', '.join(members.names)} on {spec.name}")
    import_tensorflow()
    from tfdetect.fusion.fuse import fuse
    from tfdetect.fusion.fusions import FusionSettings

    settings = FusionSettings(fusion, masks, batch_size, fine_tune_epochs, learning_rate)
    with console.quiet(not progress):
        return fuse(members, settings, spec, catalog, path, log)


@checked
def convert(
    weights: str | Path,
    model: str,
    *,
    overrides: Overrides = (),
    names: str | Path | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
) -> Run:
    """Make a run of the PyTorch weights that a project published.

    Args:
        weights: a .pth, .pt, .bin or .safetensors file.
        model: the detector, of `list_detectors()`.
        overrides: values of the detector's experiment to change.
        names: CSV file that says which weight goes where, in the form of a run's conversion.csv;
            by default it follows from the names, and from order and shape where those are unknown.
        output: folder for runs.
        name: name of the run; by default `model` and "_published".

    Raises:
        UserError: the weights cannot be read, or belong to another detector.
    """
    from tfdetect.core.load_experiment import load_model, override

    experiment = override(load_model(model), override_texts(overrides))
    path = new_run_path(user_path(output), f"{model}_published" if name is None else name)
    check_writable(user_path(output))
    import_tensorflow()
    from tfdetect.models.convert_run import convert_run

    return convert_run(Path(weights), experiment, path, None if names is None else Path(names))
