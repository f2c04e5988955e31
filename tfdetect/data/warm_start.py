"""What a training that starts from a finished run takes from it: its detector and its old data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfdetect.core import console
from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import checksum
from tfdetect.core.load_experiment import override
from tfdetect.core.load_spec import union
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.run_info import Ancestor
from tfdetect.core.spec import DatasetSpec, Part
from tfdetect.core.text import MAX_NAME_BYTES, file_name, from_os
from tfdetect.core.training_settings import Curriculum, Distill
from tfdetect.data.catalog import Catalog
from tfdetect.data.describe import read_data
from tfdetect.data.locate import ENVIRONMENT, find_roots, present_roots

_VIEW = ("image_size", "resize", "test_crops", "equalize")  # what of `data` a detector sees


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        run: the parent, a finished run.
        old: the catalog of the dataset of the parent; None if that is not found.
    """

    run: Run
    old: Catalog | None


def open_parent(path: str | Path) -> Run:
    """Open the run that a training starts from.

    Raises:
        UserError: there is no such run, or it has no single detector that can be trained on.
    """
    run = open_run(path)
    if run.is_ensemble:
        raise UserError(
            f"{run.name} is an ensemble of {', '.join(run.info.members)}; a training starts from "
            "one detector. Give one of these runs to --from."
        )
    if not run.model_path.is_file():
        raise UserError(
            f"{run.path} has no model.keras, only exports, which cannot be trained. Get the whole "
            "run."
        )
    return run


def warm_experiment(
    run: Run,
    recipe: Experiment | None,
    overrides: Sequence[str],
    replay: float | None,
    dataset: str,
) -> Experiment:
    """Return the experiment of a training that starts from a run.

    Args:
        run: its detector and preprocessing are kept.
        recipe: how to train; by default as the run was trained, without what it did with datasets
            of its own: replay, distillation, curriculum and weights.
        overrides: settings `KEY=VALUE`.
        replay: fraction of each batch that is old; by default the recipe's.
        dataset: name of the new dataset, for the name of the experiment.

    Raises:
        UserError: an override contradicts the run.
    """
    own = run.experiment()
    base = recipe or own
    view = {key: getattr(own.data, key) for key in (*_VIEW, "tile_pooling")}
    training: dict[str, Any] = {"from_run": from_os(run.path.resolve())}
    if recipe is None:
        training |= {"replay": 0.0, "distill": Distill(), "curriculum": Curriculum()}
        view["dataset_weights"] = {}
    if replay is not None:
        training["replay"] = replay
    base = base.model_copy(update={
        "name": file_name(f"{run.name}-{dataset}", most=MAX_NAME_BYTES),
        "description": own.description, "published": own.published, "plugins": own.plugins,
        "model": own.model.model_copy(update={
            "weights": "none", "freeze": base.model.freeze, "lora": base.model.lora,
        }),
        "data": base.data.model_copy(update=view),
        "training": base.training.model_copy(update=training),
    })  # fmt: skip
    base = validate(Experiment, base.as_data(), f"a training from {run.name}")
    found = override(base, overrides)
    kept = type(own.model).model_fields.keys() - {"freeze", "lora"}
    for part, keys in (("model", kept), ("data", set(_VIEW))):
        for key in sorted(keys):
            there, here = (getattr(getattr(e, part), key) for e in (base, found))
            if there != here:
                raise UserError(
                    f"A training from {run.name} keeps its detector and preprocessing: "
                    f"{part}.{key} is {there!r} there, not {here!r}. Leave this setting out. (To "
                    "take over the backbone alone, train without --from: --set "
                    f"model.weights={run.path})"
                )
    if found.model.lora is not None:  # low-rank matrices are added to the weights of the run
        weights = {"weights": from_os(run.path.resolve())}
        found = found.model_copy(update={"model": found.model.model_copy(update=weights)})
    return found


def with_replay(
    spec: DatasetSpec, folders: dict[str, Path], run: Run
) -> tuple[DatasetSpec, dict[str, Path]]:
    """Return the union of a new dataset and a run's own, and the folders that are known.

    Args:
        spec: the new dataset; the union has its classes.
        folders: the folders of its parts, where known.
        run: the run whose training data are added.

    Raises:
        UserError: the old data are not found, or classes or names do not fit.
    """
    old = run.dataset_spec()
    try:
        roots = find_roots(old, present_roots(old, run.roots), None)
    except UserError as error:
        folders_then = ", ".join(map(str, run.roots.values()))
        raise UserError(
            f"--replay needs the training data of {run.name} ({old.name}), which were in "
            f"{folders_then or 'a folder that is not recorded'} and are not found. Put them back, "
            f"say which folder contains them ({ENVIRONMENT}=FOLDER), or train without --replay."
        ) from error
    parts = [*_parts(spec, spec), *_parts(old, spec)]
    names = [part.spec.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"The new dataset and that of {run.name} are both called {twice[0]}. Train on both "
            "without --replay if it is the same one with more images; or give the new one another "
            "name, in a dataset spec."
        )
    return union(parts, spec), {**folders, **roots}


def _parts(spec: DatasetSpec, whole: DatasetSpec) -> list[Part]:
    """Return a dataset as parts of a union with the classes of another one.

    Raises:
        UserError: it has more than two classes, and not as many as the other one.
    """
    names, wanted = spec.class_names, whole.class_names
    if len(names) == len(wanted):
        mapped = dict(zip(names, wanted))
    elif len(wanted) == 2:
        mapped = dict.fromkeys(names, wanted[1]) | {names[0]: wanted[0]}
    else:
        raise UserError(
            f"--replay: {spec.name} has the classes {', '.join(names)} and {whole.name} has "
            f"{', '.join(wanted)}; it is not known which fakes of the first are which of the "
            "second. Train without --replay."
        )
    if not spec.parts:
        return [Part(dataset=spec.name, spec=spec, classes=mapped)]
    return [
        part.model_copy(update={"classes": {
            name: mapped[part.classes.get(name, name)] for name in part.spec.class_names
        }})
        for part in spec.parts
    ]  # fmt: skip


def old_catalog(run: Run, progress: bool, log: console.Log) -> Catalog | None:
    """Return the dataset of a run, to measure what is forgotten of it; None if it is not found."""
    try:
        spec = run.dataset_spec()
        roots = find_roots(spec, present_roots(spec, run.roots), None, download=False)
        log(f"Old data, of {run.name}, on which forgetting is measured:")
        catalog = read_data(spec, roots, progress, log)
    except UserError as error:
        console.warn(
            f"the training data of {run.name} are not found, so that forgetting cannot be "
            f"measured. {error} ({ENVIRONMENT}=FOLDER says where they are.)"
        )
        return None
    if catalog.fingerprint() != run.info.dataset.fingerprint:
        console.warn(f"the files of {spec.name} are not those that {run.name} was trained on")
    return catalog


def ancestor(run: Run, experiment: Experiment) -> Ancestor:
    """Return what a run records of the one that it starts from."""
    spec, data = run.dataset_spec(), run.info.dataset
    names = {each.name for each in spec.datasets}
    return Ancestor(
        name=run.name,
        model=checksum(run.model_path)[:16],
        dataset=data.name,
        fingerprint=data.fingerprint,
        datasets=tuple(sorted(names | set(data.roots))),
        replay=experiment.training.replay,
        distill=experiment.training.distill.weight,
    )
