"""Read YAML documents into frozen, validated models; errors name file, line and key."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tfdetect.core.errors import UserError, nearest, unknown
from tfdetect.core.text import name_problem

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Document(BaseModel):
    """Base of everything read from YAML: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Model = TypeVar("Model", bound=Document)


def _name(value: str) -> str:
    if problem := name_problem(value):
        raise ValueError(problem)
    return value


# The name of something that becomes a folder or a part of a path.
Name = Annotated[str, AfterValidator(_name)]


def shipped(folder: str) -> Path:
    """Return the folder of shipped documents, in a checkout or in an installed wheel.

    Args:
        folder: "data_specs" or "experiments".
    """
    package = Path(__file__).resolve().parents[1]
    in_checkout = package.parent / folder
    if in_checkout.is_dir() and (package.parent / "setup.py").is_file():
        return in_checkout
    return package / folder


def shipped_names(folder: str) -> dict[str, Path]:
    """Return the shipped documents of a folder and of all folders below, by name."""
    top = shipped(folder)
    return {
        file.stem: file for file in sorted(top.rglob("*.yaml"))
        if "spaces" not in file.relative_to(top).parts  # search spaces are of another kind
    }  # fmt: skip


def find(kind: str, folder: str, name: str) -> Path:
    """Return the file of a document.

    Args:
        kind: what messages call it, for example "experiment".
        folder: where the shipped ones are; see `shipped`.
        name: path of a YAML file, or the name of a shipped one.

    Raises:
        UserError: there is no such file or name.
    """
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"There is no {kind} file {name!r}. Check the path.")
    choices = shipped_names(folder)
    if name not in choices:
        raise unknown(kind, name, choices)
    return choices[name]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file that holds a mapping.

    Raises:
        UserError: the file is not readable, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {data!r}.")
    return data


def validate(
    model: type[Model], data: dict[str, Any], source: str, path: Path | None = None
) -> Model:
    """Return `model` built from `data`.

    Args:
        model: the class of the document.
        data: its content.
        source: what the user would call this document, e.g. its path.
        path: the YAML file that the data came from, to name the line of a mistake.

    Raises:
        UserError: the data are not valid; every mistake is one line of the message.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, problem, source, path) for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def _explain(model: type[Document], problem: "ErrorDetails", source: str, path: Path | None) -> str:
    keys = [str(part) for part in problem["loc"]]
    line = _line_of(path, keys) if path else None
    where = f"{source}{f', line {line}' if line else ''}: key '{'.'.join(keys)}'"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, keys[:-1])
        return (
            f"{where} is not known.{nearest(keys[-1], known)} "
            f"Keys allowed here: {', '.join(known)}."
        )
    if problem["type"] == "missing":
        return f"{where} is required."
    message = problem["msg"].removeprefix("Value error, ")
    if not keys:  # about several keys together, which the message names
        return f"{source}: {message}."
    return f"{where}: {message}. Received: {problem['input']!r:.80}."


def _fields_at(model: type[Document], keys: list[str]) -> list[str]:
    """Return the field names of the nested model that `keys` leads to."""
    for key in keys:
        field = model.model_fields.get(key)
        if field is None:
            continue  # a list index, a mapping's key or a union's tag
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        candidates += [a for c in candidates for a in getattr(c, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, Document)]
        if nested:
            model = nested[0]
    return list(model.model_fields)


def _line_of(path: Path, keys: list[str]) -> int | None:
    """Return the line, from 1 on, of the deepest key of `keys` that the file has."""
    node, line = yaml.compose(path.read_text(encoding="utf-8")), None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if str(k.value) == key]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
    return line
