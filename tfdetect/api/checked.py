"""`checked`: the decorator that checks the arguments of the functions of the Python API."""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tfdetect.api.arguments import plain
from tfdetect.core.errors import UserError, UserTypeError, shortened
from tfdetect.core.packages import missing_package
from tfdetect.core.run import Run
from tfdetect.core.run_command import in_command

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
