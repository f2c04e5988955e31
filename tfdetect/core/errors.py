"""The one exception that means: the user can mend this."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake or a missing thing outside the program.

    The message says what was wrong, where, and what to do. Commands print it
    without a traceback and end with exit code 2.
    """


class RunLockedError(UserError):
    """Another process is writing the same run."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the choice most like `name`, or ""."""
    lowered = {choice.lower(): choice for choice in choices}
    match = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f" Did you mean {lowered[match[0]]!r}?" if match else ""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """The error for a name that is not among `choices`."""
    choices = sorted(choices)
    return UserError(
        f"Unknown {kind} {name!r}.{nearest(name, choices)} Choices: {', '.join(choices)}."
    )
