"""Checks the options of an experiment against the function that will take them."""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from tfdetect.core.errors import UserError, nearest

_CHECKED_BY_DEFAULT = (bool, int, float, str)


def check_options(
    function: Callable,
    options: Mapping[str, Any],
    where: str,
    given: Collection[str] = (),
    closed: bool = False,
) -> dict[str, Any]:
    """Check names and kinds of options before a function is called with them.

    What the function itself raises afterwards is then no mistake of the user.

    Args:
        function: its annotations say what kind of value an option takes; where there are none,
            the default value does. A function with `**options` is expected to check those itself.
        options: option values by name.
        where: the key that holds them, for messages, such as "model.options".
        given: parameters that are not options, since the caller gives them.
        closed: refuse what only `**options` of the function would take.

    Returns:
        The options, converted where that loses nothing (a list to a tuple, 2 to 2.0).

    Raises:
        UserError: an option that the function does not know, or a value of another kind.
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
    return checked


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
    if isinstance(value, bool) and kind in (int, float):
        raise UserError(f"{where}: takes a number. Received: {value!r}.")
    try:
        adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # of a kind that brings its own configuration
        adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(f"{where}: {problem['msg']}. Received: {value!r:.80}.") from None
