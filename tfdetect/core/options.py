"""Checks the options of an experiment against the function that will take them."""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from tfdetect.core.documents import plain_problem
from tfdetect.core.errors import UserError, nearest

_CHECKED_BY_DEFAULT = (bool, int, float, str)


def _is_odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


# Ranges that the signatures of registered functions name. The upper ends of counts and factors are
# far beyond what is of use; larger ones end in a memory error.
Count = Annotated[int, Field(ge=1, le=65_536)]
Counts = Annotated[Sequence[Count], Field(min_length=1)]
KernelSide = Annotated[int, Field(ge=1, le=255)]  # pixels
OddKernelSide = Annotated[int, Field(ge=3, le=255), AfterValidator(_is_odd)]
Fraction = Annotated[float, Field(ge=0, le=1)]  # probabilities, too
FractionAbove0 = Annotated[float, Field(gt=0, le=1)]
FractionBelow1 = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Quality = Annotated[int, Field(ge=1, le=100)]


def check_options(
    function: Callable,
    options: Mapping[str, Any],
    where: str,
    given: Collection[str] = (),
    closed: bool = False,
) -> dict[str, Any]:
    """Check names, kinds and ranges of options before a function is called with them.

    What the function itself raises afterwards is then no mistake of the user.

    Args:
        function: its annotations say what kind of value an option takes and, as pydantic's
            `Annotated[float, Field(ge=0, le=1)]`, in which range; where there are none, the default
            value says the kind. Two numbers min_x and max_x are in this order. A function with
            `**options` is expected to check those itself.
        options: option values by name.
        where: the key that holds them, for messages, such as "model.options".
        given: parameters that are not options, since the caller gives them.
        closed: refuse what only `**options` of the function would take.

    Returns:
        The options, converted where that loses nothing (a list to a tuple, 2 to 2.0, "2" to 2).

    Raises:
        UserError: an option that the function does not know, or a value of another kind or out of
            its range.
    """
    parameters = inspect.signature(function).parameters
    kinds = _annotations(function)
    open_ended = not closed and any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    known = {
        name: kinds.get(name, _kind_of_default(parameter.default))
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in given
    }
    checked = {}
    for name, value in options.items():
        if name in known:
            checked[name] = _checked(value, known[name], f"{where}.{name}")
        elif open_ended and name not in given:
            checked[name] = value
        else:
            choices = f"Options: {', '.join(known)}." if known else "There are no options."
            raise UserError(f"{where}: unknown option {name!r}.{nearest(name, known)} {choices}")
    for name in known:
        _check_order(name, {n: checked.get(n, parameters[n].default) for n in known}, where)
    return checked


def check_required(
    function: Callable, options: Mapping[str, Any], where: str, given: Collection[str] = ()
) -> None:
    """Check that the options that a function has no default for are there.

    Args:
        function, options, where, given: as `check_options` takes them.

    Raises:
        UserError: one is missing.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        required = named and parameter.default is parameter.empty and name not in given
        if required and name not in options:
            raise UserError(f"{where}: the option {name!r} is missing, which has no default.")


def _check_order(name: str, values: Mapping[str, Any], where: str) -> None:
    """Check that a value min_x is not above max_x, if there are both."""
    highest = name.replace("min_", "max_", 1)
    if not name.startswith("min_") or highest not in values:
        return
    low, high = values[name], values[highest]
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise UserError(f"{where}: {name} is at most {highest}. Received: {low} and {high}.")


def _annotations(function: Callable) -> dict[str, Any]:
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that are imported for type checkers only
        return {}


def _kind_of_default(default: Any) -> Any:
    return type(default) if type(default) in _CHECKED_BY_DEFAULT else Any


def _checked(value: Any, kind: Any, where: str) -> Any:
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    if isinstance(value, bool) and plain in (int, float):
        raise UserError(f"{where}: takes a number. Received: {value!r}.")
    try:
        adapter = TypeAdapter(
            kind, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
        )
    except PydanticUserError:  # of a kind that brings its own configuration
        adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        where += "".join(f".{part}" for part in problem["loc"] if isinstance(part, int))
        raise UserError(
            f"{where}: {plain_problem(problem)}. Received: {problem['input']!r:.80}."
        ) from None
