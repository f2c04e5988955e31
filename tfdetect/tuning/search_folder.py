"""`Search`: the directory of a search, with the settings with which it was started.

Layout:

    search.json      settings: objective, algorithm, seed, ...
    space.yaml       the search space
    experiment.yaml  the experiment that is varied
    dataset.yaml     the dataset spec
    search.sqlite    trials and curves; see `store`
    trials/0000 ...  an ordinary run for each trial, and its output in 0000.log
    logs/            for TensorBoard's HParams
    best.yaml        the best experiment, with trials.csv and report.html
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from tfdetect.core.choices import Algorithm, Rule
from tfdetect.core.documents import Document, validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import staged, write_text
from tfdetect.core.load_experiment import override
from tfdetect.core.locks import locked
from tfdetect.core.parsing import read_object, read_text, read_yaml
from tfdetect.core.run_migration import current_spec
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import shell_command, to_os
from tfdetect.data.locate import common_data_dir
from tfdetect.data.plan import data_flags
from tfdetect.training.progress import trained_so_far
from tfdetect.tuning.objective import Objective, objective_named
from tfdetect.tuning.space import Space
from tfdetect.tuning.store import FAILED, Outcome, Store

Kind = TypeVar("Kind", bound=Document)


def fold_name(number: int) -> str:
    """Return the name of the directory of a fold's run, in that of its trial."""
    return f"fold-{number}"


class SearchSettings(Document):
    """How a search works.

    Attributes:
        objective: the validation metric that is optimized.
        algorithm: the algorithm that suggests points of the space.
        seed: the seed of the suggestions.
        startup_trials: number of trials that are drawn at random before TPE begins.
        folds: the number of folds of the cross-validation of each trial on train and validation
            together; 1 for the dataset's validation split.
        prune: the rule that stops unpromising trials early.
        first_epochs: number of epochs that each trial trains before it can be stopped.
        baseline: whether trial 0 is the unchanged experiment.
        trial_overrides: overrides that apply to the trials, but not to the best experiment.
        roots: the directory of each dataset, by its name.
        fingerprint: the fingerprint of the data.
    """

    objective: str
    algorithm: Algorithm = "tpe"
    seed: int = Field(0, ge=0)
    startup_trials: int = Field(10, ge=0)
    folds: int = Field(1, ge=1)
    prune: Rule = "median"
    first_epochs: int = Field(1, ge=1)
    baseline: bool = True
    trial_overrides: tuple[str, ...] = ()
    roots: dict[str, str] = {}
    fingerprint: str = ""


@dataclass(frozen=True)
class SearchPlan:
    """What a search tries, and how.

    Attributes:
        settings: how it works.
        space: which values of the experiment vary.
        experiment: the experiment that is varied.
        spec: the dataset spec.
    """

    settings: SearchSettings
    space: Space
    experiment: Experiment
    spec: DatasetSpec


@dataclass(frozen=True)
class Search(SearchPlan):
    """An opened search: its plan, its directory and its state.

    Attributes:
        folder: its directory.
        store: its trials.
    """

    folder: Path
    store: Store

    @property
    def objective(self) -> Objective:
        """The validation metric that is optimized."""
        return objective_named(self.settings.objective)

    @property
    def train_flags(self) -> dict[str, object]:
        """The flags of `train`, besides --experiment, that name the data of the search."""
        roots = {name: Path(to_os(root)) for name, root in self.settings.roots.items()}
        if len(roots) == 1:
            return data_flags(self.spec, *roots.values())
        return data_flags(self.spec, common_data_dir(roots))

    @property
    def train_command(self) -> str:
        """The command that trains the best experiment, to be pasted into a shell."""
        return shell_command("train", experiment=self.folder / "best.yaml", **self.train_flags)

    def run_path(self, number: int) -> Path:
        """Return the directory of a trial's run."""
        return self.folder / "trials" / f"{number:04d}"

    def result_path(self, number: int) -> Path:
        """Return the file with the result of a trial that ran on another machine."""
        return self.folder / "trials" / f"{number:04d}.json"

    def log_path(self, number: int) -> Path:
        """Return the file with the output of a trial."""
        return self.folder / "trials" / f"{number:04d}.log"

    def failure(self, number: int, reason: str) -> Outcome:
        """Return the outcome of a trial that failed, with what it trained until then."""
        path, folds = self.run_path(number), self.settings.folds
        runs = [path] if folds == 1 else [path / fold_name(fold) for fold in range(folds)]
        trained = [trained_so_far(run) for run in runs]
        return Outcome(
            number, FAILED, epochs=sum(part.epochs for part in trained),
            seconds=sum(part.seconds for part in trained), reason=reason,
        )  # fmt: skip

    def experiment_of(self, overrides: list[str], trial: bool = True) -> Experiment:
        """Return the experiment of a point of the space.

        Args:
            overrides: the overrides of the point.
            trial: whether to add the overrides that apply to trials only.
        """
        extra = self.settings.trial_overrides if trial else ()
        return override(self.experiment, [*overrides, *extra])


def create_search(folder: Path, plan: SearchPlan) -> Search:
    """Create a search's directory, or open it if it holds the same search.

    Raises:
        UserError: the directory holds another search or something else.
    """
    parts = {
        "search.json": plan.settings.model_dump_json(indent=2),
        "space.yaml": plan.space.to_yaml(),
        "dataset.yaml": plan.spec.to_yaml(),
        "experiment.yaml": plan.experiment.to_yaml(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / f".{folder.name}.lock"):
        if (folder / "search.json").is_file():
            _check_same(folder, parts)
            return open_search(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and holds no search. Choose another --name.")
        with staged(folder) as new:
            (new / "trials").mkdir()
            for name, text in parts.items():
                write_text(new / name, text)
    return open_search(folder)


def open_search(folder: Path) -> Search:
    """Open a search's directory.

    Raises:
        UserError: there is no search, or its files are invalid.
    """
    if not (folder / "search.json").is_file():
        raise UserError(f"There is no search in {folder}.")

    def read(kind: type[Kind], name: str) -> Kind:
        return validate(kind, read_yaml(folder / name), str(folder / name), folder / name)

    return Search(
        read(SearchSettings, "search.json"),
        read(Space, "space.yaml"),
        read(Experiment, "experiment.yaml"),
        _read_spec(folder / "dataset.yaml"),
        folder,
        Store(folder),
    )


def _read_spec(path: Path) -> DatasetSpec:
    """Read dataset.yaml, also one that an earlier version wrote."""
    return validate(DatasetSpec, current_spec(read_yaml(path)), str(path), path)


def _check_same(folder: Path, parts: dict[str, str]) -> None:
    """Check that the files of a search are the given ones.

    Args:
        folder: the directory of the search.
        parts: the contents of the files, by name.

    Raises:
        UserError: a file differs or cannot be read.
    """
    for name, text in parts.items():
        try:
            before = read_text(folder / name)
        except UserError as error:
            raise UserError(f"The search {folder} is damaged: {error}") from error
        if before == text:
            continue
        what = f"its {name.partition('.')[0]} differs"
        if name == "search.json":
            old, new = read_object(folder / name), json.loads(text)
            key = next(key for key in new if old.get(key) != new[key])
            name = "trial-set" if key == "trial_overrides" else key.replace("_", "-")
            what = f"its {name} is {old.get(key)!r}, received {new[key]!r}"
        raise UserError(
            f"{folder} holds a search with other settings: {what}. To continue it, give the same "
            "settings; to start a new one, give another --name."
        )
