"""Trains a detector on each domain of a dataset, or on all but one."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import is_finished, open_run, read_run
from tfdetect.core.provenance import command_line
from tfdetect.core.run import Run, partial_path
from tfdetect.core.text import MAX_NAME_BYTES, file_name
from tfdetect.data.catalog import Catalog
from tfdetect.data.check_catalog import check_trainable
from tfdetect.data.describe import describe_counts
from tfdetect.data.plan import Plan
from tfdetect.evaluation.training_history import training_warnings
from tfdetect.generalization.domains import Domains, restrict
from tfdetect.train_run import train_run
from tfdetect.training.training_job import TrainingJob

if TYPE_CHECKING:
    from tfdetect.training.devices import Devices

# What is trained on what, by the training's name.
Trainings = Mapping[str, tuple[Plan, Catalog]]
# Trains runs elsewhere, for example on a cluster: each at its path, on its catalog.
TrainElsewhere = Callable[[Plan, dict[Path, Catalog]], None]


def plan_trainings(domains: Domains, leave_one_out: bool) -> dict[str, frozenset[str]]:
    """Return the domains that each training is trained on, by the training's name."""
    if not leave_one_out:
        return {name: frozenset({name}) for name in domains.names}
    return {f"all but {name}": frozenset(domains.names) - {name} for name in domains.names}


def trainings_of(
    plan: Plan,
    catalog: Catalog,
    domains: Domains,
    leave_one_out: bool,
    log: console.Log,
) -> Trainings:
    """Return what each training of a matrix is trained on, by its name.

    Args:
        plan: the plan of the trainings. All use the same batch size, at most the images of the
            smallest.
        catalog: all images.
        domains: the domains of the catalog.
        leave_one_out: whether to train on all domains but one, instead of on one.
        log: called with each message.

    Raises:
        UserError: a training has no image of a class.
    """
    parts = {
        name: restrict(catalog, domains, chosen)
        for name, chosen in plan_trainings(domains, leave_one_out).items()
    }
    for part in parts.values():
        check_trainable(plan.spec, part)
    plan = with_possible_settings(plan, parts.values(), log)
    return {name: (plan, part) for name, part in parts.items()}


def with_possible_settings(plan: Plan, parts: Iterable[Catalog], log: console.Log) -> Plan:
    """Return a plan whose settings suit every training.

    Batches have at most as many images as the smallest training, and where the validation split of
    one lacks fakes or authentic images, the log-loss picks the best epoch, not the AUC.
    """
    parts = list(parts)
    validated = [part.split("validation")["label"].to_numpy() > 0 for part in parts]
    if plan.experiment.training.monitor == "auc" and any(
        len(set(f.tolist())) < 2 for f in validated
    ):
        log(
            "A training has validation images of one class, of which there is no AUC; in all, the "
            "log-loss picks the best epoch."
        )
        plan = plan.with_settings(["training.monitor=loss"])
    smallest = min(part.split("train").num_rows for part in parts)
    if smallest >= plan.experiment.training.batch_size:
        return plan
    log(f"The smallest training has {smallest} images; all use batches of {smallest} images.")
    return plan.with_settings([f"training.batch_size={smallest}"])


def check_each(trainings: Trainings, devices: "Devices") -> None:
    """Check all trainings before the first one; see `check_training`.

    Raises:
        UserError: one of them would be refused.
    """
    from tfdetect.training.check_training import check_training

    for plan, part in trainings.values():
        check_training(plan.experiment, len(plan.spec.class_names), part, devices)


def train_elsewhere(trainings: Trainings, folder: Path, elsewhere: TrainElsewhere) -> None:
    """Train the missing runs of a matrix elsewhere; see `trainings_of` and `train_each`."""
    plan, _ = next(iter(trainings.values()))
    paths = {run_path(folder, name): part for name, (_, part) in trainings.items()}
    elsewhere(plan, {path: part for path, part in paths.items() if not is_finished(path)})


def train_each(
    trainings: Trainings,
    folder: Path,
    devices: "Devices",
    command: str,
    progress: bool,
    log: console.Log,
) -> dict[str, Run]:
    """Train runs one after the other; finished runs are reused, an unfinished one is resumed.

    Args:
        trainings: what is trained on what, by the training's name.
        folder: directory of the runs.
        devices: the devices from `configure_devices`.
        command: the command that asked for them, recorded in the runs.
        progress: whether to log the progress of each training.
        log: called with each message.

    Raises:
        UserError: the folder holds a run of other data or another experiment.
        KeyboardInterrupt: Ctrl-C ended a training, whose state is kept to be continued.
    """
    import keras

    runs = {}
    for name, (plan, part) in trainings.items():
        path = run_path(folder, name)
        run = finished_run(path, plan, part)
        if run is None:
            log(f"training on {name}: {describe_counts(plan.spec, part)}")
            own_log = log if progress else lambda text: None
            job = TrainingJob(plan, part, devices, path, progress, own_log)
            run = train_run(job, images_in_report=False, command=command_line(command),
                            finish_interrupted=False)  # fmt: skip
            keras.backend.clear_session(free_memory=True)
        for warning in training_warnings(run, run.results):
            log(f"warning: {name}: {warning}")
        runs[name] = run
    return runs


def run_path(folder: Path, training: str) -> Path:
    """Return the path of a training's run; its name has letters, digits and underscores."""
    text = "".join(c if c.isalnum() else "_" for c in training.lower())
    return folder / file_name(text.strip("_") or "none", most=MAX_NAME_BYTES)


def finished_run(path: Path, plan: Plan, part: Catalog) -> Run | None:
    """Return the run of a training, if it is finished.

    Args:
        path: the path of the run.
        plan: the plan of the training.
        part: the images.

    Raises:
        UserError: it, or an unfinished one, is of other data or another experiment.
    """
    for folder in (path, partial_path(path)):
        if not (folder / "run.json").is_file():
            continue
        run = read_run(folder)
        same_data = run.info.dataset.fingerprint == part.fingerprint()
        if not same_data or run.document != plan.experiment.to_yaml():
            raise UserError(
                f"{folder} was trained on other data or with another experiment. Choose another "
                "directory with --name, or remove this one."
            )
    return open_run(path) if is_finished(path) else None
