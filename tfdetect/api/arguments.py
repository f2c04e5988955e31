"""What the functions of the Python API take, brought into the form of the rooms below."""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tfdetect.core.addresses import address_of
from tfdetect.core.errors import UserError, UserTypeError, shortened
from tfdetect.core.open_run import open_run
from tfdetect.core.packages import missing_package
from tfdetect.core.run import Run
from tfdetect.core.run_command import in_command
from tfdetect.core.shipped_runs import own_folder
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.text import user_path

if TYPE_CHECKING:
    from tfdetect.data.plan import Plan
    from tfdetect.spark.dataset_jobs import DatasetJobs

Overrides = Mapping[str, Any] | Iterable[str]
RunLike = str | Path | Run


Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

# By their names in annotations: the types that are allowed, and what messages call them.
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "None": ((type(None),), "None"),
    "bool": ((bool,), "True or False"),
    "int": ((Integral,), "a whole number"),
    "float": ((Real,), "a number"),
    "str": ((str,), "text"),
    "Path": ((Path,), "a path"),
    "Callable": ((Callable,), "a function"),  # type: ignore[dict-item]
    "RunLike": ((str, Path, Run), "a run, its folder, name or address"),
    "Overrides": ((str, Mapping, Iterable), 'a mapping such as {"training.epochs": 5}'),
}
# A parameter that takes several values: what it takes instead of a list, what is in the list.
_SEVERAL = re.compile(r"(?:(?P<instead>.*) \| )?Sequence\[(?P<each>[^\]]*)\](?: \| None)?")
# An option in a message, with its value if that is to be typed as it is (--option=value). A command
# line, up to its end, and --set KEY=VALUE stay.
_OPTION = re.compile(
    r"\bpython -m tfdetect[^\n]*|--set [\w.]+=|"
    r"--(?P<option>[a-z]+(?:-[a-z]+)*)(?:=(?P<value>\w+(?:\.\w+)?))?"
)
# Arguments that are called otherwise than their options.
_OF_OPTIONS = {"from": "from_run", "set": "overrides", "explain": "pages"}
_AT_LEAST_1 = {
    "batch_size", "workers", "count", "parallel", "max_trials", "max_epochs", "folds", "seeds",
    "max_pixels",
}  # fmt: skip


def checked(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Check the arguments of a function of the API by its annotations, before anything is done.

    Only annotations that consist of the types above, or of lists of them, are checked. Where a list
    is wanted, one value is a list of one.
    """
    signature = inspect.signature(function)
    names = [name for name in signature.parameters if name != "self"]
    annotations = {name: str(p.annotation) for name, p in signature.parameters.items()}
    allowed = {name: kinds for name, text in annotations.items() if (kinds := _known_kinds(text))}
    lists = {
        name: found for name, text in annotations.items() if (found := _SEVERAL.fullmatch(text))
    }

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UserTypeError(
                f"{function.__name__}(): {error}. Arguments: {', '.join(names)}."
            ) from None
        for name, value in bound.arguments.items():
            what = f"{function.__name__}(): {name}"
            if name in allowed:
                bound.arguments[name] = value = _plain_number(value)
                _check_argument(what, value, allowed[name])
            if name in lists and (value is not None or "None" not in annotations[name]):
                bound.arguments[name] = _several(what, value, **lists[name].groupdict())
            if name in _AT_LEAST_1 and value is not None and value < 1:
                raise UserError(f"{name} is at least 1. Received: {value}.")
        with _plain_errors(names):
            return function(*bound.args, **bound.kwargs)

    return call


@contextmanager
def _plain_errors(names: Sequence[str]) -> Iterator[None]:
    """Make errors in this context `UserError`s that name the arguments of a function."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from None
    except UserError as error:
        if not in_command():
            error.args = tuple(_by_arguments(each, names) for each in error.args)
        raise


def _by_arguments(message: Any, names: Sequence[str]) -> Any:
    """Return a message with the names of arguments in place of options; commands in it stay."""

    def by_argument(found: re.Match) -> str:
        option = str(found["option"] or "").replace("-", "_")
        name = _OF_OPTIONS.get(option, option)
        if name not in names:
            return found[0]
        value = found["value"]
        if value is None:
            return name
        is_number = re.fullmatch(r"[\d.]+", value)
        return f"{name}={value if is_number else json.dumps(value)}"

    return _OPTION.sub(by_argument, message) if isinstance(message, str) else message


def _known_kinds(annotation: str) -> list[str]:
    """Return the names of types in an annotation; none if one of them is not checked."""
    kinds = [
        "Callable" if kind.strip().startswith(("Callable[", "console.Log")) else kind.strip()
        for kind in annotation.split("|")
    ]
    return kinds if all(kind in _TYPES for kind in kinds) else []


def _several(what: str, value: Any, instead: str | None, each: str) -> Any:
    """Return a value as a list, or as it is where a function takes one of its type, too.

    Args:
        what: calls the argument in messages.
        value: the argument.
        instead: the types that the function takes in place of a list, as annotated.
        each: the types in the list.
    """
    if instead and isinstance(value, tuple(t for k in _known_kinds(instead) for t in _TYPES[k][0])):
        return value
    alone = isinstance(value, str | bytes | Path | Run) or not isinstance(value, Iterable)
    values = [value] if alone else list(value)
    if kinds := _known_kinds(each):
        for one in values:
            _check_argument(what, one, kinds)
    return values


def _check_argument(what: str, value: Any, kinds: list[str]) -> None:
    types = tuple(each for kind in kinds for each in _TYPES[kind][0])
    is_number = isinstance(value, bool) and "bool" not in kinds  # True is an int in Python
    if not isinstance(value, types) or is_number:
        words = " or ".join(dict.fromkeys(_TYPES[kind][1] for kind in kinds))
        received = f"Received: {shortened(value)}, of type {type(value).__name__}."
        if "RunLike" in kinds and isinstance(getattr(value, "run", None), Run):
            received += " Give its attribute run."  # of a Detector, or of results
        raise UserTypeError(f"{what} is {words}. {received}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{what} is a finite number. Received: {value}.")


def _plain_number(value: Any) -> Any:
    """Return a number of NumPy as one of Python; other values as they are."""
    return plain(value) if getattr(value, "ndim", None) == 0 else value


def plain(value: Any) -> Any:
    """Return a value with NumPy's numbers and arrays, tuples and paths as YAML has them."""
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as `key=value` texts, as `--set` takes them."""
    import yaml

    if not isinstance(overrides, Mapping):
        texts = [overrides] if isinstance(overrides, str) else list(overrides)
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise UserTypeError(
                'Overrides are a mapping such as {"training.epochs": 5}, or texts such as '
                f'"training.epochs=5". Received: {shortened(wrong[0])}.'
            )
        return texts

    def text(value: Any) -> str:
        try:
            dumped = yaml.safe_dump(plain(value), default_flow_style=True, width=10**9)
        except yaml.YAMLError:
            raise UserTypeError(
                "The value of an override is text, a number, a list or a mapping. Received: "
                f"{shortened(value)}, of type {type(value).__name__}."
            ) from None
        return dumped.strip().removesuffix("...").strip()

    return [f"{key}={text(value)}" for key, value in overrides.items()]


def plan_of(
    dataset: str | Path | None,
    experiment: str | Path | None,
    model: str | None,
    overrides: Overrides,
    data_dir: str | Path | None,
    authentic: str | None,
    from_run: RunLike | None = None,
    replay: float | None = None,
) -> Plan:
    """Resolve the arguments of `train` that name an experiment and its data."""
    from tfdetect.data.plan import make_plan

    return make_plan(
        text_of(dataset), text_of(experiment), override_texts(overrides), path_of(data_dir),
        authentic, model, run_of(from_run).path if from_run else None, replay,
    )  # fmt: skip


def run_of(run: RunLike) -> Run:
    """Return a run, opened if its folder was given."""
    return run if isinstance(run, Run) else open_run(run)


def own_run(run: RunLike, output: str | Path | None = None) -> Run:
    """Return a run that results are written into, if `output` is no other folder for them.

    A run of the installed package, or of a hub, is copied first (`core.shipped_runs`).
    """
    given, run = run, run_of(run)
    if output is not None or (own := own_folder(run.path)) == run.path:
        return run
    return replace(run, path=own) if given is run else open_run(own)


def runs_of(runs: RunLike | Sequence[RunLike]) -> list[Run]:
    """Return several runs, opened where folders were given; one alone is a list of one."""
    if not isinstance(runs, str | Path | Run | Iterable):
        raise UserTypeError(f"Runs are folders or runs. Received: {shortened(runs)}.")
    return [run_of(run) for run in ([runs] if isinstance(runs, str | Path | Run) else runs)]


def path_of(path: str | Path | None) -> Path | None:
    """Return a path, with ~ replaced."""
    return None if path is None else user_path(path)


def text_of(value: str | Path | None) -> str | None:
    """Return a name or path as text."""
    return None if value is None else str(value)


@contextmanager
def writing_on(
    cluster: SparkCluster | None, output: Path, roots: Mapping[str, Path], progress: bool
) -> Iterator[DatasetJobs | None]:
    """Yield what reads and writes files on the machines of a cluster; None without one.

    Args:
        cluster: its folder for parts is by default `output` with the ending .parts.
        output: what is written.
        roots: folders that are read.
        progress: whether to show progress.

    Raises:
        UserError: the output is no folder that the machines could see.
    """
    if cluster is None:
        yield None
        return
    if address_of(output) is not None:
        raise UserError("On a cluster the output is a folder that all machines see, no address.")
    from tfdetect.spark.dataset_jobs import dataset_jobs

    output = output.absolute()
    folder = cluster.folder or output.with_name(f"{output.name}.parts")
    with dataset_jobs(cluster, folder, roots, progress) as jobs:
        yield jobs


def gpus_of(gpus: str | Sequence[int] | None) -> str | None:
    """Return numbers of GPUs as `--gpus` takes them."""
    if gpus is None or isinstance(gpus, str):
        return gpus
    return ",".join(map(str, gpus)) or "none"
