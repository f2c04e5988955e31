"""`Plan`: the experiment and the data of a training, resolved and checked before it starts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tfdetect.core import console
from tfdetect.core.addresses import redacted, shown
from tfdetect.core.documents import validate
from tfdetect.core.errors import NothingToDo, UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.load_experiment import load_experiment, load_model, override, with_model
from tfdetect.core.load_spec import load_spec, means_shipped
from tfdetect.core.open_run import nearest_run, read_run
from tfdetect.core.parsing import read_yaml
from tfdetect.core.run import Run, final_path, partial_path
from tfdetect.core.run_info import DatasetInfo, TrainingImages
from tfdetect.core.run_migration import current_spec
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import from_os, shell_command
from tfdetect.data.catalog import Catalog
from tfdetect.data.check_catalog import check_trainable
from tfdetect.data.default_experiment import default_experiment
from tfdetect.data.describe import read_data
from tfdetect.data.locate import find_roots, present_roots, unpacked
from tfdetect.data.teacher import open_teacher, with_teachers_path
from tfdetect.data.warm_start import open_parent, warm_experiment, with_replay


@dataclass(frozen=True)
class Plan:
    """The experiment and the dataset of a training, resolved and checked.

    Attributes:
        experiment: the resolved experiment.
        spec: the dataset.
        folders: folder of each dataset that was named by its path, or is known.
        data_dir: the folder of --data-dir, where datasets are looked for first.
        chosen: how the experiment was chosen, for the user.
    """

    experiment: Experiment
    spec: DatasetSpec
    folders: dict[str, Path]
    data_dir: Path | None
    chosen: str

    def with_settings(self, settings: Sequence[str]) -> "Plan":
        """Return the plan with changed settings of the experiment, as `--set` takes them."""
        return replace(self, experiment=override(self.experiment, settings))


def make_plan(
    dataset: str | None = None,
    experiment: str | None = None,
    overrides: Sequence[str] = (),
    data_dir: Path | None = None,
    authentic: str | None = None,
    model: str | None = None,
    from_run: str | Path | None = None,
    replay: float | None = None,
) -> Plan:
    """Resolve the names and overrides of a training, without importing TensorFlow.

    Args:
        dataset: a shipped dataset's name or a path; by default the experiment's own.
        experiment: a shipped experiment's name or a path; by default the dataset's own.
        overrides: settings `KEY=VALUE` of the experiment.
        data_dir: folder in which datasets are looked for first.
        authentic: name of the authentic class of a folder, if the folder names do not tell.
        model: a published detector, trained by its own experiment or in that of `experiment`.
        from_run: a run whose detector and preprocessing are taken over; it is trained as the run
            was, or in the way of `experiment`.
        replay: fraction of each batch to draw from the run's own training data.

    Raises:
        UserError: A dataset, experiment or key is unknown, or a value is not allowed.
    """
    recipe = None if experiment is None else load_experiment(experiment)
    if recipe is not None and from_run is None:
        from_run = recipe.training.from_run
    by_name = data_dir is not None or dataset is None
    if recipe is not None and dataset is None:
        dataset = recipe.data.dataset
    _check_arguments(dataset, experiment, model, from_run, replay)
    if dataset is None:
        raise UserError(f"The experiment {experiment!r} names no dataset. Give --dataset.")
    spec, folders = load_spec(unpacked(dataset), authentic, by_name=by_name)
    if from_run is None:
        resolved, chosen = _choose_experiment(spec, folders, data_dir, experiment, model, overrides)
    else:
        parent = open_parent(from_run)
        spec = with_splits_of(spec, parent)
        resolved = _continue_experiment(parent, spec, recipe, overrides, replay)
        chosen = f"from the run {parent.name}"
        if resolved.training.replay:
            spec, folders = with_replay(spec, folders, parent)
    is_path = Path(dataset).exists() and not means_shipped(dataset, by_name)
    if (teacher := open_teacher(resolved)) is not None:
        check_classes_fit(teacher, spec)
        resolved = with_teachers_path(resolved, teacher)
    data = resolved.data.model_copy(
        update={"dataset": from_os(Path(dataset).resolve()) if is_path else redacted(dataset)}
    )
    return Plan(resolved.model_copy(update={"data": data}), spec, folders, data_dir, chosen)


def _check_arguments(
    dataset: str | None,
    experiment: str | None,
    model: str | None,
    from_run: str | Path | None,
    replay: float | None,
) -> None:
    """Check which arguments of `make_plan` are given together, and that there is such a model.

    Raises:
        UserError: they do not fit, or the model is unknown.
    """
    if from_run is not None and (model is not None or dataset is None):
        raise UserError(
            "--from RUN trains that run's detector on a new dataset: give --dataset, and no "
            "--model."
        )
    if from_run is None and replay is not None:
        raise UserError("--replay draws from the training data of a run: give --from RUN, too.")
    if experiment is None and dataset is None:
        raise UserError("Give --dataset, --experiment or both. For a first try: --dataset=demo")
    if model is not None:
        load_model(model)


def _choose_experiment(
    spec: DatasetSpec,
    folders: dict[str, Path],
    data_dir: Path | None,
    experiment: str | None,
    model: str | None,
    overrides: Sequence[str],
) -> tuple[Experiment, str]:
    """Return the experiment of a training that starts from no run, and how it was chosen.

    Args:
        spec: the dataset.
        folders, data_dir: see `Plan`.
        experiment: see `make_plan`, as the others.
        model: a published detector.
        overrides: settings of the experiment.
    """
    if model is not None and experiment is not None:
        chosen = f"in the experiment {experiment}"
        resolved = override(with_model(load_experiment(experiment), load_model(model)), overrides)
    elif model is not None:
        chosen, resolved = "the detector's own recipe", load_experiment(model, overrides)
    elif experiment is not None:
        chosen, resolved = "as requested", load_experiment(experiment, overrides)
    else:
        name, chosen = experiment_of_dataset(spec, folders, data_dir)
        resolved = load_experiment(name, overrides)
    training = resolved.training
    if training.from_run or training.replay:
        raise UserError(
            "training.from_run and replay are for a training that starts from a run: --from RUN."
        )
    if training.distill.weight and training.distill.teacher is None:
        raise UserError(
            "training.distill needs a run whose answers are learned: "
            "training.distill.teacher=RUN, or --from RUN."
        )
    return resolved, chosen


def experiment_of_dataset(
    spec: DatasetSpec, folders: dict[str, Path], data_dir: Path | None
) -> tuple[str, str]:
    """Return the experiment that `train` takes for a dataset by default, and why.

    Args:
        spec: the dataset.
        folders, data_dir: see `Plan`.
    """
    roots = {}
    if spec.experiment is None:
        with suppress(UserError):  # it may be downloaded later, or be said to be missing
            roots = find_roots(spec, folders, data_dir, download=False)
    return default_experiment(spec, roots)


def _continue_experiment(
    parent: Run,
    spec: DatasetSpec,
    recipe: Experiment | None,
    overrides: Sequence[str],
    replay: float | None,
) -> Experiment:
    """Return the experiment of a training that starts from a run; see `make_plan`."""
    same_classes = len(spec.class_names) == len(parent.class_names)
    if same_classes:
        check_classes_fit(parent, spec)
    resolved = warm_experiment(parent, recipe, overrides, replay, spec.name)
    distill = resolved.training.distill
    if distill.weight and distill.teacher is None and not same_classes:
        raise UserError(
            f"training.distill keeps the answers of {parent.name}, which has the classes "
            f"{', '.join(parent.class_names)}; {spec.name} has {', '.join(spec.class_names)}. "
            "Leave it out; --replay works with other classes, too."
        )
    return resolved


def load_plan(path: Path) -> Plan:
    """Return the plan of an unfinished or interrupted run, to resume it.

    Args:
        path: folder of the run, with or without the ending of unfinished ones.

    Raises:
        NothingToDo: the run is complete.
        UserError: there is no such run.
    """
    partial = partial_path(final_path(path))
    folder = partial if partial.is_dir() else path
    if not (folder / "experiment.yaml").is_file() or not (folder / "run.json").is_file():
        raise UserError(f"There is no unfinished run at {path}.{nearest_run(path)}")
    if folder is path and not (folder / "state").is_dir():
        further = shell_command("train", "--from", path, "--dataset", "DATASET")
        raise NothingToDo(
            f"The run {path} is finished; there is nothing to resume. To train it further, on the "
            f"same or other images, into a new run: {further}. For more epochs, begin a new "
            "training with a larger training.epochs."
        )
    experiment, dataset = folder / "experiment.yaml", folder / "dataset.yaml"
    spec = validate(DatasetSpec, current_spec(read_yaml(dataset)), str(dataset), dataset)
    return Plan(
        validate(Experiment, read_yaml(experiment), str(experiment), experiment),
        spec,
        present_roots(spec, read_run(folder).roots),
        None,
        "of the run",
    )


def find_data(plan: Plan, progress: bool = True, log: console.Log | None = console.log) -> Catalog:
    """Locate the planned dataset, download it if necessary, and build its catalog.

    Args:
        plan: what to train on.
        progress: whether to show progress bars.
        log: called with each line about the data; None prints nothing.

    Raises:
        UserError: The dataset is not available, or cannot be trained on.
    """
    catalog = read_data(plan.spec, roots_of(plan), progress, log)
    check_trainable(plan.spec, catalog, plan.experiment.training.monitor)
    return catalog


def roots_of(plan: Plan) -> dict[str, Path]:
    """Return the folder of the planned dataset, or of each part of a union, by its name."""
    return find_roots(plan.spec, plan.folders, plan.data_dir)


def data_flags(spec: DatasetSpec, data_dir: str | Path | None) -> dict[str, object]:
    """Return the flags that, with --dataset or --experiment, name the same data again.

    Args:
        spec: the dataset.
        data_dir: folder in which it is looked for first.
    """
    named = [part.class_names[0] for part in spec.datasets if part.authentic_by == "flag"]
    return {"data_dir": data_dir, "authentic": ",".join(dict.fromkeys(named)) or None}


def dataset_info(
    spec: DatasetSpec,
    catalog: Catalog,
    training_images: TrainingImages | None = None,
    warnings: Sequence[str] = (),
) -> DatasetInfo:
    """Return the facts about its data that a run records.

    Args:
        spec: the dataset.
        catalog: its catalog.
        training_images: what the detector was trained on, if that is not the train split.
        warnings: what the user should know besides the catalog's warnings.
    """
    return DatasetInfo(
        name=spec.name,
        fingerprint=catalog.fingerprint(),
        roots={name: from_os(shown(root)) for name, root in catalog.roots.items()},
        counts=catalog.counts(spec.class_names),
        skipped=catalog.skipped.num_rows,
        left_out=catalog.left_out.num_rows,
        other_files=catalog.other.total(),
        warnings=(*catalog.warnings, *warnings),
        training_images=training_images or catalog.training_images(),
        masks={name: masks.info for name, masks in catalog.masks.items()},
    )


def with_splits_of(spec: DatasetSpec, *runs: Run) -> DatasetSpec:
    """Return a dataset with the rule of its splits from the runs trained on it or on its parts.

    Args:
        spec: the dataset.
        runs: those trained on a dataset of another name have no effect.
    """
    known = [run.dataset_spec() for run in runs if (run.path / "dataset.yaml").is_file()]
    rules = {s.name: s.split_rule for own in known for s in (*own.datasets, own)}

    def adopted(one: DatasetSpec) -> DatasetSpec:
        parts = tuple(part.model_copy(update={"spec": adopted(part.spec)}) for part in one.parts)
        rule = rules.get(one.name, one.split_rule)
        return one.model_copy(update={"parts": parts, "split_rule": rule})

    return adopted(spec) if rules else spec


def check_classes_fit(run: Run, spec: DatasetSpec) -> None:
    """Check that a dataset has as many classes as a run, in the same order.

    Their names may differ.

    Raises:
        UserError: The numbers differ, or the same names are in another order.
    """
    if len(spec.class_names) != len(run.class_names):
        raise UserError(
            f"The run has {len(run.class_names)} classes ({', '.join(run.class_names)}), but "
            f"{spec.name} has {len(spec.class_names)} ({', '.join(spec.class_names)})."
        )
    ours, theirs = ([n.lower() for n in names] for names in (run.class_names, spec.class_names))
    if ours != theirs and set(ours) == set(theirs):
        raise UserError(
            f"The run has the classes {', '.join(run.class_names)} in this order, the first one "
            f"authentic, but {spec.name} has {', '.join(spec.class_names)}. Say which class is "
            "authentic with --authentic, or list the classes of its dataset spec in the run's "
            "order."
        )
