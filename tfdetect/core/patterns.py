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
_REPEAT = re.compile(r"\{(\d*),?(\d*)\}")


class PathPattern:
    """A regular expression for whole paths.

    Args:
        text: in Python's syntax; look-ahead, look-behind and back references do not exist.

    Raises:
        ValueError: it is not such an expression.
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

        A group that took no part in the match is empty.
        """
        return self.extract(paths).to_pylist()

    def extract(self, paths: Sequence[str]) -> "pa.StructArray":
        """Return the same as an Arrow array with a field for every named group."""
        import pyarrow as pa
        import pyarrow.compute as pc

        return pc.extract_regex(pa.array(paths, pa.string()), self._expression)


class PathSearch:
    """A regular expression that is searched in paths.

    Args:
        text: as of `PathPattern`.

    Raises:
        ValueError: it is not such an expression.
    """

    def __init__(self, text: str):
        import pyarrow as pa

        expression = _as_re2(text, first_group=_FOUND)
        if expression == _as_re2(text) and not _NAMED_GROUP.search(expression):
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


_FOUND = "found"
_NAMED_GROUP = re.compile(r"\(\?P?<\w+>")


def _reason(error: Exception) -> str:
    reason = str(error).removeprefix("Invalid regular expression: ")
    if reason.startswith("invalid perl operator") or "escape sequence" in reason:
        return (
            f"{reason} is not supported. Patterns are RE2 expressions, without look-ahead, "
            "look-behind and back references: https://github.com/google/re2/wiki/Syntax"
        )
    return f"not a regular expression: {reason}"


def _as_re2(text: str, first_group: str = "") -> str:
    """Return Python's syntax as RE2 has it; groups without a name capture nothing.

    Args:
        text: the expression.
        first_group: name for its first group, if that has none.
    """
    parts, place, in_set = [], 0, False
    while place < len(text):
        character = text[place]
        if character == "\\" and place + 1 < len(text):
            parts.append(_escaped(text[place + 1], in_set))
            place += 2
            continue
        if in_set:
            in_set = character != "]"
        elif character == "[":
            in_set = True
            if literal := re.match(r"\[\^?\]", text[place:]):  # a "]" that is in the set
                parts.append(literal[0])
                place += len(literal[0])
                continue
        elif character == "(" and text[place + 1 : place + 2] != "?":
            character, first_group = f"(?P<{first_group}>" if first_group else "(?:", ""
        elif _NAMED_GROUP.match(text, place):
            first_group = ""
        elif character == "{" and (repeat := _REPEAT.match(text, place)):
            if any(number and int(number) > _MAX_REPEATS for number in repeat.groups()):
                raise ValueError(f"{repeat[0]} repeats more than {_MAX_REPEATS:,} times")
            character = "{0" if text[place : place + 2] == "{," else "{"
        parts.append(character)
        place += 1
    return "".join(parts)


def _escaped(character: str, in_set: bool) -> str:
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
