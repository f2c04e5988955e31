"""Open the folders of runs, and find names for new ones."""

from pathlib import Path

import tfdetect
from tfdetect.core import console
from tfdetect.core.addresses import address_of, shown
from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError, nearest
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import recover
from tfdetect.core.model_hubs import HubAddress, check_keras_file, fetch_run
from tfdetect.core.packages import full_command
from tfdetect.core.parsing import read_object, read_text, read_yaml
from tfdetect.core.run import PARTIAL, Run, final_path, partial_path
from tfdetect.core.run_info import SCHEMA_VERSION, RunInfo
from tfdetect.core.run_migration import migrate_info
from tfdetect.core.shipped_runs import SHIPPED, run_containing, run_folder
from tfdetect.core.storage import exists, fetched
from tfdetect.core.text import checked_name, user_path


def open_run(path: str | Path) -> Run:
    """Open a finished run: a folder, or an address such as hf://user/run (`core.model_hubs`).

    A run at another address, such as s3://bucket/run, is fetched first (`core.storage`).

    Args:
        path: folder, address, or the name of a run that comes with tfdetect.

    Raises:
        UserError: there is no such folder or address, or it is not a run, corrupt, of a newer
            schema, unfinished, or without verdicts.
    """
    address = HubAddress.parse(path)
    path = fetched(run_folder(user_path(path))) if address is None else fetch_run(address)
    path = path if path.name else path.resolve()  # ".", inside of the folder
    recover(path)
    if not path.is_dir():
        raise _no_folder(path)
    run = read_run(path)
    _check_complete(run)
    if (address_of(path) or "").startswith("http") and run.model_path.is_file():
        check_keras_file(run.model_path, run.name)  # whoever it is from
    if run.info.pretraining:
        raise UserError(
            f"Run {path} learned what photographs show, not which are fake. It is for other "
            f"trainings: --set model.weights={path}"
        )
    return run


def _no_folder(path: Path) -> UserError:
    """Return the error for a path at which there is no run folder."""
    if partial_path(path).is_dir():
        return _unfinished(path)
    if path.exists():
        run = run_containing(path)
        hint = "" if run is None else f" It is a part of the run {run}: name that folder."
        return UserError(f"{str(path)!r} is a file, not the folder of a run.{hint}")
    return UserError(f"There is no run folder {str(path)!r}.{nearest_run(path)}")


def _check_complete(run: Run) -> None:
    """Check that a run has its experiment, unless it is an ensemble, and a model or exports.

    Raises:
        UserError: a file is missing.
    """
    needed = [] if run.is_ensemble else ["experiment.yaml"]
    needed += ["model.keras"] if run.onnx_path is None else []
    for name in needed:
        if not (run.path / name).is_file():
            if run.path.name.endswith(PARTIAL):
                raise _unfinished(run.path)
            raise UserError(f"Run {run.path} is corrupt: {name} is missing.")


def nearest_run(path: Path) -> str:
    """Return a hint for a path at which there is no run: a question, or what a run is.

    The question names the run of that name in saved_models/ or, without one, the run next to `path`
    or the shipped run with the most similar name.
    """
    default = Path("saved_models") / path.name
    if default != path and (default / "run.json").is_file():
        return f" Did you mean {str(default)!r}?"
    try:
        runs = [str(found.parent) for found in path.parent.glob("*/run.json")
                if not found.parent.name.endswith(PARTIAL)]  # fmt: skip
    except OSError:
        return ""
    found = nearest(str(path), [*runs, *SHIPPED])
    return found or " A run is a folder with a run.json, for example saved_models/my_run."


def _unfinished(path: Path) -> UserError:
    return UserError(
        f"Run {path} is not finished. Continue with: {full_command('train', resume=path)}"
    )


def read_run(path: Path) -> Run:
    """Read the run.json of a folder, finished or not; of schema 1 it is migrated in memory.

    Raises:
        UserError: there is none, or it is corrupt or of a newer schema.
    """
    file = path / "run.json"
    if not file.is_file():
        raise UserError(f"{path} is not a run: it has no run.json.")
    try:
        data = read_object(file)
    except UserError as error:
        raise UserError(f"Run {path} is corrupt: {error}") from error
    version = data.get("schema_version", data.get("schema"))
    if not isinstance(version, int) or version < 1:
        raise UserError(f"Run {path} is corrupt: run.json has no schema version.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"Run {path} has schema {version}, newer than {SCHEMA_VERSION}, which this tfdetect "
            f"({tfdetect.__version__}) reads. Install a newer tfdetect."
        )
    if version == 1:
        try:
            data = migrate_info(data, _has_mask_head(path))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"Run {path} is corrupt: its run.json is not of schema 1 ({error})."
            ) from error
    try:
        info = validate(RunInfo, data, str(file))
    except UserError as error:
        raise UserError(f"Run {path} is corrupt:\n{error}") from None
    return Run(path, info, migrated=version == 1)


def _has_mask_head(path: Path) -> bool:
    file = path / "experiment.yaml"
    if not file.is_file():
        return False
    model = read_yaml(file).get("model")
    return isinstance(model, dict) and model.get("mask_head") is not None


def new_run_path(output: Path, name: str, log: console.Log = console.log) -> Path:
    """Return a path below `output` that no run has yet: `name`, `name-2`, `name-3` ...

    Args:
        output: folder for runs.
        name: the wanted name.
        log: called with a line that says so, if the name is taken.

    Raises:
        UserError: the name is empty, a path, or that of an unfinished run.
    """
    checked_name(name, "the run")
    if name.endswith(PARTIAL):
        raise UserError(
            f"The names of unfinished runs end with {PARTIAL}. Choose another name than {name!r}."
        )
    number = 1
    while True:
        path = output / (name if number == 1 else f"{name}-{number}")
        if not exists(path) and not partial_path(path).exists():
            if number > 1:
                first = output / name
                why = "exists" if exists(first) else "was begun and can be continued (--resume)"
                log(f"{shown(first)} {why}, so this run is written to {shown(path)}")
            return path
        number += 1


def _has_text(path: Path, text: str) -> bool:
    try:
        return read_text(path) == text
    except UserError:  # of another run, which is no concern here
        return False


def is_finished(path: Path) -> bool:
    """Return whether there is a finished run at a path; an interrupted one is not finished."""
    return path.is_dir() and not (path / "state").is_dir()


def find_unfinished(output: Path, experiment: Experiment, name: str | None) -> Path:
    """Return the latest unfinished or interrupted run of an experiment below `output`.

    Args:
        output: folder for runs.
        experiment: the experiment with which the run was begun; it must be equal.
        name: the name of the run; None for any name.

    Raises:
        UserError: there is none.
    """
    found = [
        folder for folder in output.glob("*/")
        if (folder / "state").is_dir() or folder.name.endswith(PARTIAL)
    ]  # fmt: skip
    text = experiment.to_yaml()
    same = [folder for folder in found if _has_text(folder / "experiment.yaml", text)]
    if name is not None:
        same = [folder for folder in same if final_path(folder).name == name]
    if not same:
        others = ", ".join(str(f) for f in found) or "none"
        called = "" if name is None else f" called {name}"
        raise UserError(
            f"{output} has no unfinished run of this experiment{called} (unfinished there: "
            f"{others}). Name one with --resume RUN, or leave --resume out."
        )
    latest = max(same, key=lambda folder: folder.stat().st_mtime)
    return final_path(latest)
