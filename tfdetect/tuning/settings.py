"""`Search`: the folder of a search, and what was settled when it began.

Layout:

    search.json      how it searches: objective, algorithm, seed, ...
    space.yaml       the space
    experiment.yaml  what is changed
    dataset.yaml     the dataset spec
    search.sqlite    trials and curves; see `store`
    trials/0000 ...  an ordinary run each, and what it printed in 0000.log
    logs/            of each trial, for TensorBoard's HParams
    best.yaml        the best experiment, with trials.csv and report.html
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from filelock import FileLock
from pydantic import Field

from tfdetect.core.documents import Document, read_yaml, validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment, override
from tfdetect.core.files import write_text
from tfdetect.core.spec import DatasetSpec
from tfdetect.tuning.objective import Objective
from tfdetect.tuning.space import Space
from tfdetect.tuning.store import Store


class Settings(Document):
    """How a search searches.

    Attributes:
        objective: what it is for; a metric of validation.
        startup: trials drawn at random before TPE begins.
        folds: parts of train and validation that each trial is validated on, one after another;
            1 for the dataset's own validation split.
        prune: rule for stopping trials early; `first_epochs` every trial may train.
        baseline: whether trial 0 is the experiment unchanged.
        for_trials: overrides that hold in trials alone.
        roots: folder of each dataset.
        fingerprint: of the data.
    """

    objective: str
    algorithm: Literal["tpe", "random", "atpe"] = "tpe"
    seed: int = Field(0, ge=0)
    startup: int = Field(10, ge=0)
    folds: int = Field(1, ge=1)
    prune: Literal["median", "halving", "none"] = "median"
    first_epochs: int = Field(1, ge=1)
    baseline: bool = True
    for_trials: tuple[str, ...] = ()
    roots: dict[str, str] = {}
    fingerprint: str = ""


@dataclass(frozen=True)
class Search:
    """A search's folder, opened."""

    folder: Path
    settings: Settings
    space: Space
    experiment: Experiment
    spec: DatasetSpec
    store: Store

    @property
    def objective(self) -> Objective:
        return Objective(self.settings.objective)

    def path(self, number: int) -> Path:
        """Of a trial's run."""
        return self.folder / "trials" / f"{number:04d}"

    def outcome(self, number: int) -> Path:
        """Of how a trial ended, if it ran on another machine."""
        return self.folder / "trials" / f"{number:04d}.json"

    def log(self, number: int) -> Path:
        """Of what a trial printed."""
        return self.folder / "trials" / f"{number:04d}.log"

    def experiment_of(self, overrides: list[str], trial: bool = True) -> Experiment:
        """The experiment of a point of the space; with what holds in trials alone, or without."""
        extra = self.settings.for_trials if trial else ()
        return override(self.experiment, [*overrides, *extra])


def create_search(
    folder: Path, settings: Settings, space: Space, experiment: Experiment, spec: DatasetSpec
) -> Search:
    """Makes a search's folder, or opens it if it is the same search.

    Raises:
        UserError: there is another search, or something else.
    """
    parts = {
        "search.json": settings.model_dump_json(indent=2),
        "space.yaml": _yaml(space),
        "dataset.yaml": spec.to_yaml(),
        "experiment.yaml": experiment.to_yaml(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if (folder / "search.json").is_file():
            _check_same(folder, parts)
            return open_search(folder)
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "space.yaml").is_file():
            raise UserError(f"{folder} is there and is no search. Choose another --name.")
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        for name in reversed(parts):  # search.json last: with it the folder is whole
            write_text(folder / name, parts[name])
    return open_search(folder)


def open_search(folder: Path) -> Search:
    """Opens a search's folder.

    Raises:
        UserError: it is none, or damaged.
    """
    if not (folder / "search.json").is_file():
        raise UserError(f"There is no search in {folder}.")
    kinds = {"search.json": Settings, "space.yaml": Space, "experiment.yaml": Experiment,
             "dataset.yaml": DatasetSpec}  # fmt: skip
    parts = [
        validate(kind, read_yaml(folder / name), str(folder / name), folder / name)
        for name, kind in kinds.items()
    ]
    return Search(folder, *parts, Store(folder))


def _yaml(space: Space) -> str:
    data = space.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.safe_dump(data, sort_keys=False)


def _check_same(folder: Path, parts: dict[str, str]) -> None:
    for name, text in parts.items():
        try:
            before = (folder / name).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"The search {folder} is damaged: {error}.") from error
        if before == text:
            continue
        what = f"its {name.partition('.')[0]} is another one"
        if name == "search.json":
            old, new = json.loads(before), json.loads(text)
            key = next(key for key in new if old.get(key) != new[key])
            what = f"its {key} is {old.get(key)!r}, now {new[key]!r}"
        raise UserError(
            f"{folder} holds a search begun otherwise: {what}. To go on with it, give the same "
            "settings; for a new one, another --name."
        )
