"""Griffe extension: one docstring entry may describe several parameters, "height, width: ..."."""

import re

import griffe

_GROUP = re.compile(r"^(\s+)(\w+(?:, \w+)+): (.+)$")


class GroupedParameters(griffe.Extension):
    """Give each parameter of such an entry an entry of its own, with the same text."""

    def on_function(self, *, func: griffe.Function, **kwargs) -> None:
        """Expand the entries of one function's docstring."""
        if func.docstring is not None:
            func.docstring.value = expand(func.docstring.value)


def expand(text: str) -> str:
    """Return a docstring with its grouped entries repeated for every name."""
    lines, out = text.splitlines(), []
    while lines:
        line = lines.pop(0)
        match = _GROUP.match(line)
        if match is None:
            out.append(line)
            continue
        indent = len(match[1])
        more = []
        while lines and len(lines[0]) - len(lines[0].lstrip()) > indent:
            more.append(lines.pop(0))
        for name in match[2].split(", "):
            out += [f"{match[1]}{name}: {match[3]}", *more]
    return "\n".join(out)
