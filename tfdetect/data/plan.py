"""`Plan`: a training or an evaluation, resolved and checked before anything starts."""

from dataclasses import dataclass
from pathlib import Path

from tfdetect.core.documents import read_yaml, validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment, load_experiment, load_model, override, with_model
from tfdetect.core.run import PARTIAL, Run, read_run
from tfdetect.core.run_info import DatasetInfo, TrainingImages
from tfdetect.core.spec import DatasetSpec, load_spec
from tfdetect.data import hubs
from tfdetect.data.catalog import Catalog, build_catalog, check_trainable
from tfdetect.data.locate import locate


@dataclass(frozen=True)
class Plan:
    """What a training will do: resolved and checked, nothing started.

    Attributes:
        folders: folder of each dataset that was named by its path, or is known.
        data_dir: where else to look, from --data-dir.
        chosen: how the experiment was chosen, to tell the user.
    """

    experiment: Experiment
    spec: DatasetSpec
    folders: dict[str, Path]
    data_dir: Path | None
    chosen: str


def make_plan(
    dataset: str | None = None,
    experiment: str | None = None,
    overrides: list[str] = (),
    data_dir: Path | None = None,
    authentic: str | None = None,
    model: str | None = None,
) -> Plan:
    """Resolves names and overrides; imports no TensorFlow.

    Args:
        model: a published detector: with its own experiment, or in that of `experiment`.

    Raises:
        UserError: an unknown dataset, experiment or key, or an illegal value.
    """
    if experiment is None and dataset is None:
        raise UserError("Give --dataset, --experiment or both. For a first try: --dataset demo")
    published = load_model(model) if model else None
    if experiment is not None and dataset is None:
        dataset = load_experiment(experiment).data.dataset
        if dataset is None:
            raise UserError(f"The experiment {experiment!r} names no dataset. Give --dataset.")
    spec, folders = load_spec(_local(dataset), authentic)
    if published is None:
        chosen = "as asked" if experiment else f"the default of {spec.name}"
        resolved = load_experiment(experiment or spec.experiment, overrides)
    elif experiment is None:
        chosen, resolved = "its own recipe", load_experiment(model, overrides)
    else:
        chosen = f"in the experiment {experiment}"
        resolved = override(with_model(load_experiment(experiment), published), overrides)
    is_path = Path(dataset).exists()
    data = resolved.data.model_copy(
        update={"dataset": str(Path(dataset).resolve()) if is_path else dataset}
    )
    return Plan(resolved.model_copy(update={"data": data}), spec, folders, data_dir, chosen)


def find_data(plan: Plan, progress: bool = True) -> Catalog:
    """Locates the planned dataset, downloading it if need be, and builds its catalog."""
    catalog = build_catalog(plan.spec, roots_of(plan), progress)
    check_trainable(plan.spec, catalog)
    return catalog


def _local(dataset: str) -> str:
    """The same with what hubs hold brought into folders."""
    if not any(prefix in dataset for prefix in hubs.PREFIXES) or Path(dataset).exists():
        return dataset
    return "+".join(map(hubs.unpack, dataset.split("+")))


def locate_dataset(
    dataset: str, data_dir: Path | None = None, authentic: str | None = None
) -> tuple[DatasetSpec, dict[str, Path]]:
    """Resolves `--dataset`: its spec and its folder, or that of each part, by name."""
    spec, folders = load_spec(_local(dataset), authentic)
    return spec, find_roots(spec, folders, data_dir)


def roots_of(plan: Plan) -> dict[str, Path]:
    """The folder of the planned dataset, or of each part of a union, by its name."""
    return find_roots(plan.spec, plan.folders, plan.data_dir)


def find_roots(
    spec: DatasetSpec, folders: dict[str, Path], data_dir: Path | None
) -> dict[str, Path]:
    """The folder of a dataset, or of each part of a union, by its name."""
    specs = [part.spec for part in spec.parts] or [spec]
    return {s.name: folders.get(s.name) or locate(s, data_dir) for s in specs}


def load_plan(path: Path) -> Plan:
    """The plan of an unfinished or interrupted run, to resume it.

    Raises:
        UserError: nothing there to resume.
    """
    partial = path if path.name.endswith(PARTIAL) else path.with_name(path.name + PARTIAL)
    folder = partial if partial.is_dir() else path
    if not (folder / "experiment.yaml").is_file() or not (folder / "run.json").is_file():
        raise UserError(f"There is no unfinished run at {path}.")
    if folder is path and not (folder / "state").is_dir():
        raise UserError(f"The run {path} is complete; there is nothing to resume.")
    files = {name: folder / f"{name}.yaml" for name in ("experiment", "dataset")}
    models = {"experiment": Experiment, "dataset": DatasetSpec}
    parts = {
        name: validate(models[name], read_yaml(file), str(file), file)
        for name, file in files.items()
    }
    roots = read_run(folder).roots
    return Plan(parts["experiment"], parts["dataset"], roots, None, "of the run")


def describe_data(plan: Plan, catalog: Catalog) -> str:
    """One line on splits, classes and skipped files."""
    parts = [
        f"{split} {' + '.join(f'{count:,} {name}' for name, count in classes.items())}"
        for split, classes in catalog.counts(plan.spec.class_names).items()
    ]
    if catalog.skipped.num_rows:
        names = ", ".join(catalog.skipped["path"].to_pylist()[:3])
        more = ", ..." if catalog.skipped.num_rows > 3 else ""
        parts.append(f"{catalog.skipped.num_rows} files skipped ({names}{more})")
    return "; ".join(parts)


def dataset_info(
    spec: DatasetSpec, catalog: Catalog, training_images: TrainingImages | None = None
) -> DatasetInfo:
    """Return what a run records of its data.

    Args:
        training_images: what its detector was trained on, where that is not the train split.
    """
    return DatasetInfo(
        name=spec.name,
        fingerprint=catalog.fingerprint(),
        roots={name: str(root) for name, root in catalog.roots.items()},
        counts=catalog.counts(spec.class_names),
        skipped=catalog.skipped.num_rows,
        warnings=tuple(catalog.warnings),
        training_images=training_images or TrainingImages(**catalog.seen("train")),
    )


def evaluation_data(
    run: Run, dataset: str | None, data_dir: Path | None, authentic: str | None,
    output: Path | None,
) -> tuple[DatasetSpec, dict[str, Path], Path]:  # fmt: skip
    """What to evaluate a run on: the spec, its folders by name, and where to write.

    Without `dataset` it is what the run was trained on: where it lay then, or,
    on another machine, where it is found now.
    """
    if dataset is not None:
        spec, roots = locate_dataset(dataset, data_dir, authentic)
        check_classes_fit(run, spec)
        return spec, roots, output or run.path / "evaluations" / spec.name
    file = run.path / "dataset.yaml"
    if not file.is_file():
        raise UserError(f"{run.name} was trained on no dataset that is known here. Give --dataset.")
    spec = validate(DatasetSpec, read_yaml(file), str(file), file)
    there = {name: root for name, root in run.roots.items() if root.is_dir() and not data_dir}
    return spec, find_roots(spec, there, data_dir), output or run.path


def check_classes_fit(run: Run, spec: DatasetSpec) -> None:
    """Refuses a dataset whose number of classes is not the run's; names may differ.

    Raises:
        UserError: the numbers differ.
    """
    if len(spec.class_names) != len(run.class_names):
        raise UserError(
            f"The run has the classes {', '.join(run.class_names)}, but {spec.name} has "
            f"{', '.join(spec.class_names)}."
        )
