"""`UserError`: the exception for mistakes that the user can fix."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake of the user, or something that is missing on the machine.

    The message says what happened, what was received, what is allowed and what to do. Commands
    print it without a traceback and end with exit code 2.
    """


class NothingToDo(UserError):
    """There is nothing left to do; commands print the message and end with exit code 0."""


class UserTypeError(UserError, TypeError):
    """An argument of the Python API has a type that is not allowed."""


class UserKeyError(UserError, KeyError):
    """A name that a mapping of the Python API does not have."""

    __str__ = Exception.__str__  # KeyError's would put the message in quotes


class ModelNotAvailable(UserError):
    """A network from another project that cannot be loaded on this machine."""


class RunLockedError(UserError):
    """Another process is writing the same run."""


def nearest(name: str, choices: Iterable[str], prefix: str = "") -> str:
    """Return " Did you mean 'x'?" for the choice most similar to `name`, or "".

    `prefix` stands before the choice where it is used, such as "training.".
    """
    lowered = {choice.lower(): choice for choice in choices}
    match = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f" Did you mean {prefix + lowered[match[0]]!r}?" if match else ""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """Return the error for a name that is not among `choices`; `kind` is what it names."""
    choices = sorted(choices)
    available = f"Available: {', '.join(choices)}." if choices else "There is none."
    return UserError(f"Unknown {kind} {name!r}.{nearest(name, choices)} {available}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shortened(value: Any) -> str:
    """Return a description of a value for a message, in at most 80 characters."""
    if isinstance(value, dict | list | tuple | set) and len(value) > 5:
        return f"{type(value).__name__} of {len(value):,} values"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
