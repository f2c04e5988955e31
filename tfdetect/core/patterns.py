"""Regular expressions of dataset specs, matched in time that grows linearly with a path's length.

A spec may come from a stranger, and Python's `re` takes exponential time on expressions such as
(a+)+b. These are matched by RE2 (https://github.com/google/re2/wiki/Syntax), which Arrow contains.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_REPEATS = 1000  # RE2's own limit; beyond it, braces would be read as text
_CLASSES = {"w": r"\p{L}\p{M}\p{N}_", "d": r"\p{Nd}"}  # of Unicode, as in Python's re
# The parts of an expression that Python and RE2 write differently, and single characters.
_TOKEN = re.compile(
    r"""
      (?P<escape> \\. )
    | (?P<set> \[ \^? \]? (?: \\. | [^]\\] )* \]? )  # a set can begin with a literal "]"
    | (?P<group> \( (?!\?) )
    | (?P<named_group> \( \? P? < \w+ > )
    | (?P<repeat> \{ \d* ,? \d* \} )
    | (?P<other> . )
    """,
    re.DOTALL | re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_FOUND = "found"  # name of the group whose text `PathSearch` returns


class PathPattern:
    """A regular expression for whole paths.

    Args:
        text: the expression in Python's syntax, without look-ahead, look-behind and back
            references, which RE2 does not have.

    Raises:
        ValueError: the text is no such expression.
    """

    def __init__(self, text: str):
        import pyarrow as pa

        self._expression = rf"\A(?s:{_as_re2(text)})\z"
        try:
            found = self.extract([""]).type
        except pa.ArrowInvalid as error:
            raise ValueError(_reason(error)) from None
        self.groups = tuple(found.field(i).name for i in range(found.num_fields))
        if len(set(self.groups)) < len(self.groups):
            raise ValueError("not a regular expression: a group name is used twice")

    def match(self, paths: Sequence[str]) -> list[dict[str, str] | None]:
        """Return, for each path, the text of every named group; None where it does not match.

        The text of a group that took no part in the match is "".
        """
        return self.extract(paths).to_pylist()

    def extract(self, paths: Sequence[str]) -> "pa.StructArray":
        """Return the same as `match` as an Arrow array, with a field for every named group."""
        import pyarrow as pa
        import pyarrow.compute as pc

        return pc.extract_regex(pa.array(paths, pa.string()), self._expression)


class PathSearch:
    """A regular expression that may match any part of a path.

    Args:
        text: the expression, as for `PathPattern`.

    Raises:
        ValueError: the text is no such expression.
    """

    def __init__(self, text: str):
        import pyarrow as pa

        expression = _as_re2(text, first_group=_FOUND)
        if not any(token.lastgroup in ("group", "named_group") for token in _TOKEN.finditer(text)):
            expression = f"(?P<{_FOUND}>{expression})"
        self._expression = expression
        try:
            self.search([""])
        except pa.ArrowInvalid as error:
            raise ValueError(_reason(error)) from None

    def search(self, paths: Sequence[str]) -> list[str | None]:
        """Return the text of the first group in each path, or of the whole match without groups.

        It is "" where the group took no part in the match, and None without a match.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.extract_regex(pa.array(paths, pa.string()), self._expression)
        return pc.struct_field(found, [0]).to_pylist()


def _reason(error: Exception) -> str:
    """Return why RE2 refuses an expression, from Arrow's error."""
    reason = str(error).removeprefix("Invalid regular expression: ")
    if reason.startswith("invalid perl operator") or "escape sequence" in reason:
        return (
            f"{reason} is not supported. Patterns are RE2 expressions, without look-ahead, "
            "look-behind and back references: https://github.com/google/re2/wiki/Syntax"
        )
    return f"not a regular expression: {reason}"


def _as_re2(text: str, first_group: str = "") -> str:
    """Return an expression in RE2's syntax; groups without a name become non-capturing ones.

    Args:
        text: the expression in Python's syntax.
        first_group: name for the first group, if it has none; "" leaves it without a name.

    Raises:
        ValueError: RE2 has no equivalent of a part of the expression.
    """
    parts = []
    for token in _TOKEN.finditer(text):
        part = token[0]
        match token.lastgroup:
            case "escape":
                part = _translate_escape(part[1], in_set=False)
            case "set":
                part = _ESCAPE.sub(lambda escape: _translate_escape(escape[1], in_set=True), part)
            case "group":
                part, first_group = f"(?P<{first_group}>" if first_group else "(?:", ""
            case "named_group":
                first_group = ""
            case "repeat":
                part = _translate_repeat(part)
        parts.append(part)
    return "".join(parts)


def _translate_escape(character: str, in_set: bool) -> str:
    """Return a character that follows a backslash, such as the d of \\d, as RE2 writes it.

    Args:
        character: the character after the backslash.
        in_set: whether it is between brackets.

    Raises:
        ValueError: it is a negated class between brackets.
    """
    if character == "Z":
        return r"\z"
    found = _CLASSES.get(character.lower())
    if found is None:
        return f"\\{character}"
    if character.islower():
        return found if in_set else f"[{found}]"
    if in_set:
        raise ValueError(f"\\{character} is not supported between brackets")
    return f"[^{found}]"


def _translate_repeat(text: str) -> str:
    """Return a repetition such as {,5} as RE2 writes it, with a lower limit: {0,5}.

    Raises:
        ValueError: it repeats more often than RE2 allows.
    """
    if any(int(number) > _MAX_REPEATS for number in re.findall(r"\d+", text)):
        raise ValueError(f"{text} repeats more than {_MAX_REPEATS:,} times")
    return text.replace("{,", "{0,")
