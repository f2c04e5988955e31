"""`Document`: base class of everything that is read from YAML, and the messages about mistakes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tfdetect.core.errors import UserError, nearest, shortened
from tfdetect.core.parsing import line_of_key
from tfdetect.core.text import name_problem

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MAX_MISTAKES = 20  # number of mistakes that a message lists


class Document(BaseModel):
    """Base class of everything that is read from YAML: immutable, without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )
    old_keys: ClassVar[dict[str, str]] = {}  # names of keys before version 0.2 -> names today

    def as_data(self) -> dict[str, Any]:
        """Return the document as dicts, lists and scalars, as YAML has them."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the document as YAML, which `validate` turns back into the same document."""
        return yaml.safe_dump(self.as_data(), sort_keys=False)


Model = TypeVar("Model", bound=Document)


def _name(value: str) -> str:
    if problem := name_problem(value):
        raise ValueError(problem)
    return value


# A name that can be the name of a folder.
Name = Annotated[str, AfterValidator(_name)]


def validate(
    model: type[Model], data: dict[str, Any], source: str, path: Path | None = None
) -> Model:
    """Return `model` built from `data`.

    Args:
        model: the class of the document.
        data: its content.
        source: what messages call this document, for example its path.
        path: the YAML file that the data come from; messages then name the line of a mistake.

    Raises:
        UserError: the data are not valid; every mistake is one line of the message.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise as_user_error(error, model, source, path) from None


def as_user_error(
    error: ValidationError, model: type[Document], source: str, path: Path | None = None
) -> UserError:
    """Return a `UserError` whose message has one line for each mistake; see `validate`."""
    problems = error.errors()
    # Where an item of a list is refused, pydantic adds that the list without it is too short.
    problems = [
        problem for problem in problems
        if problem["type"] != "too_short" or not any(
            other is not problem and other["loc"][: len(problem["loc"])] == problem["loc"]
            for other in problems
        )
    ]  # fmt: skip
    lines = [_explain(model, problem, source, path) for problem in problems]
    return UserError("\n".join(lines[:_MAX_MISTAKES] + ["..."] * (len(lines) > _MAX_MISTAKES)))


# Messages in the words of YAML, by the type of the error in pydantic.
_PLAIN = {
    "tuple_type": "a list is expected, such as [a, b]",
    "list_type": "a list is expected, such as [a, b]",
    "model_type": "keys and values are expected, such as {key: value}",
    "dict_type": "keys and values are expected, such as {key: value}",
    "int_from_float": "a whole number is expected",
    "int_parsing": "a whole number is expected",
    "int_type": "a whole number is expected",
    "float_parsing": "a number is expected",
    "float_type": "a number is expected",
    "bool_parsing": "true or false is expected",
    "bool_type": "true or false is expected",
    "string_type": "text is expected",
}
_LIMITS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "greater than or equal to"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "less than or equal to"),
}
# What an instance of these classes is in YAML.
_PLAIN_CLASSES = {"Sequence": "list_type", "Mapping": "dict_type"}


def plain_problem(problem: "ErrorDetails") -> str:
    """Return the message of a pydantic error in the words of YAML, without a full stop."""
    facts = problem.get("ctx", {})
    kind = problem["type"]
    if kind == "is_instance_of":
        kind = _PLAIN_CLASSES.get(facts["class"], kind)
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", facts["expected"])
        near = nearest(str(problem["input"]), choices).strip()
        return f"{facts['expected']} is expected" + (
            f" ({near[0].lower()}{near[1:]})" if near else ""
        )
    if kind in _LIMITS:
        key, words = _LIMITS[kind]
        return f"should be {words} {facts[key]:g}"
    if kind == "too_short" and "min_length" in facts:
        return f"a list of at least {facts['min_length']} is expected"
    return _PLAIN.get(kind) or problem["msg"].removeprefix("Value error, ")


def _explain(model: type[Document], problem: "ErrorDetails", source: str, path: Path | None) -> str:
    keys = [str(part) for part in problem["loc"]]
    line = line_of_key(path, keys) if path else None
    where = f"{source}{f', line {line}' if line else ''}: key '{'.'.join(keys)}'"
    if problem["type"] == "extra_forbidden":
        at = _model_at(model, keys[:-1])
        if keys[-1] in at.old_keys:
            return f"{where} is called {at.old_keys[keys[-1]]} since version 0.2."
        known = list(at.model_fields)
        home = _nested_key(model, keys[-1])
        near = f" Did you mean {home!r}?" if home else nearest(keys[-1], known)
        return f"{where} is not known.{near} Keys allowed here: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"{where} is required."
    message = plain_problem(problem)
    if problem["type"] in ("model_type", "dict_type"):
        at = _model_at(model, keys)
        message += "" if at is model else f", of these: {', '.join(at.model_fields)}"
    if not keys:  # about several keys together, which the message names
        return f"{source}: {message}."
    return f"{where}: {message}. Received: {shortened(problem['input'])}."


def _nested_key(model: type[Document], key: str) -> str | None:
    """Return the full name of the nested key with this name, such as "training.epochs".

    Return None if there is none, or several at the smallest depth at which there are any.
    """
    level, seen = {"": model}, {model}
    while level:
        found = [above + key for above, each in level.items() if above and key in each.model_fields]
        if found:
            return found[0] if len(found) == 1 else None
        below = {
            f"{above}{name}.": nested
            for above, each in level.items()
            for name, field in each.model_fields.items()
            for nested in _nested(field.annotation)
        }
        level = {above: each for above, each in below.items() if each not in seen}
        seen |= set(level.values())
    return None


def _nested(annotation: Any) -> list[type[Document]]:
    """Return the classes of documents that a field may hold."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    candidates += [a for c in candidates for a in getattr(c, "__args__", ())]
    found = [c for c in candidates if isinstance(c, type) and issubclass(c, Document)]
    return list(dict.fromkeys(found))


def _model_at(model: type[Document], keys: list[str]) -> type[Document]:
    """Return the class of the nested document to which `keys` lead."""
    for key in keys:
        field = model.model_fields.get(key)
        if field is None:
            continue  # a list index, a mapping's key or a union's tag
        nested = _nested(field.annotation)
        if nested:
            model = nested[0]
    return model
