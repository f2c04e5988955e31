"""Functions of the Python API that make runs: train, ensemble, convert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.api.arguments import (
    Overrides,
    RunLike,
    gpus_of,
    override_texts,
    path_of,
    plan_of,
    runs_of,
    text_of,
)
from tfdetect.api.checked import checked
from tfdetect.core import console
from tfdetect.core.choices import FUSIONS
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.files import check_writable
from tfdetect.core.open_run import find_unfinished, new_run_path
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run import Run, final_path
from tfdetect.core.text import user_path

if TYPE_CHECKING:
    from tfdetect.core.cluster import Cluster
    from tfdetect.data.plan import Plan
    from tfdetect.data.warm_start import Start
    from tfdetect.training.training_job import TrainingJob


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
    from tfdetect.data.plan import find_data, load_plan
    from tfdetect.training.devices import parse_gpus, parse_memory_limit

    numbers, limits = parse_gpus(gpus_of(gpus)), parse_memory_limit(gpu_memory_limit)
    if virtual_devices is not None and virtual_devices < 1:
        raise UserError(f"--virtual-devices must be at least 1. Received: {virtual_devices}.")
    if resume and not isinstance(resume, bool):
        path = final_path(Path(resume))
        plan = load_plan(path)
    else:
        plan = plan_of(dataset, experiment, model, overrides, data_dir, authentic, from_run, replay)
        if cluster is not None and not cluster.is_chief:
            path = user_path(output)  # the chief writes the run
        elif resume:
            path = find_unfinished(user_path(output), plan.experiment, name)
        else:
            path = _new_path(output, name, plan.experiment.name, log)
    log(f"Experiment {plan.experiment.name} ({plan.chosen}), dataset {plan.spec.name}")

    import_tensorflow()  # what follows takes seconds to import, so mistakes are said before
    from tfdetect.auditing.check_training_data import check_training_data
    from tfdetect.training.devices import configure_devices
    from tfdetect.training.training_job import TrainingJob

    devices = configure_devices(numbers, limits, virtual_devices, cluster)
    catalog = find_data(plan, progress, log)
    catalog = check_training_data(plan, catalog, strict)
    start = _start_of(plan, progress, log)
    job = TrainingJob(plan, catalog, devices, path, progress, log, start)
    job.check()
    return job


def _start_of(plan: Plan, progress: bool, log: console.Log) -> Start | None:
    """Return the run that a training starts from, and its data; None if it starts from none."""
    if plan.experiment.training.from_run is None:
        return None
    from tfdetect.data.warm_start import Start, old_catalog, open_parent

    parent = open_parent(plan.experiment.training.from_run)
    return Start(parent, old_catalog(parent, progress, log))


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
    from tfdetect.fusion.fusions import FusionSettings
    from tfdetect.fusion.members import open_members

    if fusion not in FUSIONS:
        raise unknown("fusion", fusion, FUSIONS)
    if fine_tune_epochs < 0 or learning_rate <= 0 or batch_size < 1:
        raise UserError("--fine-tune must be at least 0, --learning-rate and --batch-size above 0.")
    members = open_members([run.path for run in runs_of(runs)], masks=masks)
    if fine_tune_epochs and members.mask_members and masks:
        raise UserError(
            "--fine-tune trains labels alone, which would harm the masks. Add --no-masks."
        )
    path = _new_path(output, name, "ensemble", log)
    check_writable(path.parent)

    from tfdetect.fusion.fusion_data import find_fusion_data

    spec, catalog = find_fusion_data(
        members, text_of(dataset), path_of(data_dir), authentic, log, progress
    )
    log(f"{fusion} fusion of {', '.join(members.names)} on {spec.name}")
    import_tensorflow()
    from tfdetect.fusion.fuse import fuse

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
    path = _new_path(output, name, f"{model}_published", console.log)
    check_writable(user_path(output))
    import_tensorflow()
    from tfdetect.models.convert_run import convert_run

    return convert_run(Path(weights), experiment, path, None if names is None else Path(names))


def _new_path(output: str | Path, name: str | None, default: str, log: console.Log) -> Path:
    """Return the path of a new run.

    Args:
        output: folder for runs.
        name: the name that the caller gave; if it is taken, that is worth a warning.
        default: the name where none was given.
        log: called with a message if that one is taken.
    """
    if name is None:
        return new_run_path(user_path(output), default, log)
    return new_run_path(user_path(output), name, console.warn)
