"""Read YAML documents into frozen, validated models; errors name file, line and key."""

import codecs
import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from tfdetect.core.errors import UserError, first_line, nearest, shortened, unknown
from tfdetect.core.text import name_problem, user_path

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


MAX_BYTES = 2**20  # of a document that a person writes
MAX_JSON_BYTES = 2**26  # of one that a command writes, such as the metrics of a run
MAX_DEPTH = 50
MAX_NODES = 100_000
_MAX_MISTAKES = 20  # that a message lists
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """Says on which line a value is that looks like a number or a date and is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError) as error:
            mark = node.start_mark
            raise yaml.constructor.ConstructorError(None, None, first_line(error), mark) from None


class Document(BaseModel):
    """Base of everything read from YAML: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )
    old_keys: ClassVar[dict[str, str]] = {}  # names before version 0.2, and today's

    def as_data(self) -> dict[str, Any]:
        """Return the document as plain data, as YAML has it."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the document as YAML, from which `validate` makes it again."""
        return yaml.safe_dump(self.as_data(), sort_keys=False)


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
    path = user_path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"There is no {kind} file {name!r}. Check the path.")
    choices = shipped_names(folder)
    if name not in choices:
        error = unknown(kind, name, choices)
        beside = [file for suffix in (".yaml", ".yml") if Path(file := f"{name}{suffix}").is_file()]
        if beside:
            raise UserError(f"{error} A file is named with its suffix: {beside[0]}.")
        raise error
    return choices[name]


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a document; devices, pipes and sockets are never read.

    Args:
        path: the file.
        limit: the most bytes that such a document may have.

    Raises:
        UserError: it is not a readable file, or larger.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"{path} is not a file that can be read.")
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Cannot read {path}: {reason}.") from error
    if len(content) > limit:
        raise UserError(f"{path} has more than {limit:,} bytes, which is too large a document.")
    return content


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Return the text of a document in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        UserError: see `read_bytes`; or the text has another encoding.
    """
    content = read_bytes(path, limit)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text in UTF-8 (byte {error.start:,}). Save it so."
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file that holds a mapping.

    Raises:
        UserError: the file is not readable, not YAML, not a mapping, or beyond the limits of
            `parse_yaml`.
    """
    data = parse_yaml(read_text(path), str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {shortened(data)}.")
    return data


def parse_yaml(text: str, source: str) -> Any:
    """Return the value that YAML describes.

    A document may come from a stranger, so its depth and its size with all aliases replaced are
    limited, and a key that occurs twice, an infinite number or one of more than 64 bits is a
    mistake.

    Args:
        text: the YAML.
        source: what the user would call it, for messages.

    Raises:
        UserError: it is not YAML, or beyond these limits.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise UserError(f"{source} is nested more than {MAX_DEPTH} levels deep.")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_node(node, source)
            data = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        parts = ": ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{source}{line}: this is not YAML: {parts}.") from None
    except (
        yaml.YAMLError, ValueError, TypeError, AttributeError, ArithmeticError, LookupError,
        RecursionError,
    ) as error:  # fmt: skip
        raise UserError(f"{source}: this is not YAML: {first_line(error)}.") from None
    _check_numbers(data, source)
    return data


def _check_node(node: yaml.Node, source: str) -> None:
    """Check that a document has no cycle, no key twice, and a sensible size without aliases."""
    sizes: dict[int, int | None] = {}  # by the id of a node; None while it is being measured

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                _check_keys(node, source)
                children = [child for pair in node.value for child in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            sizes[id(node)] = 1 + sum(map(size, children))
        found = sizes[id(node)]
        if found is None:
            raise UserError(f"{source}, line {_line(node)}: an alias stands in its own anchor.")
        return found

    if size(node) > MAX_NODES:
        raise UserError(
            f"{source} has more than {MAX_NODES:,} values, counted with its aliases replaced."
        )


def _check_keys(node: yaml.MappingNode, source: str) -> None:
    keys = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{source}, line {_line(key)}: a key is one word, not a collection.")
        if (key.tag, key.value) in keys:
            raise UserError(f"{source}, line {_line(key)}: the key {key.value!r:.80} occurs twice.")
        keys.add((key.tag, key.value))


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Return the value in a JSON file, with the checks of `parse_yaml`.

    Raises:
        UserError: the file is not readable, not JSON, or beyond the limits.
    """
    text = read_text(path, limit)
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise UserError(f"{path} is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    _check_numbers(data, str(path))
    return data


def read_object(path: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object; see `read_json`."""
    data = read_json(path, limit)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {shortened(data)}.")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.80} occurs twice")
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _check_numbers(data: Any, source: str) -> None:
    """Check that all numbers are finite, and all whole numbers of 64 bits."""
    stack = [data]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list | tuple | set):
            stack.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{source}: {value} is not a finite number.")
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{source}: a whole number has more than 64 bits.")


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the rows of a CSV file by the headings of its first line.

    Args:
        path: the file, in UTF-8 or UTF-16.
        columns: the columns that it must have.

    Raises:
        UserError: it cannot be read, lacks a column, or a row has more or fewer cells.
    """
    text = read_text(path, MAX_JSON_BYTES)
    rows = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        headings = next(reader, [])
        if missing := [name for name in columns if name not in headings]:
            raise UserError(f"{path} has no column {missing[0]!r}. It has: {', '.join(headings)}.")
        for cells in filter(None, reader):
            if len(cells) != len(headings):
                raise UserError(
                    f"{path}, line {reader.line_num}: expected {len(headings)} cells, found "
                    f"{len(cells)}."
                )
            rows.append(dict(zip(headings, cells)))
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV table: {error}.") from error
    return rows


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
        raise explained(error, model, source, path) from None


def explained(
    error: ValidationError, model: type[Document], source: str, path: Path | None = None
) -> UserError:
    """Return the error whose message has a line for each mistake; see `validate`."""
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


_PLAIN = {  # messages of pydantic in the words of YAML
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
_PLAIN_CLASSES = {"Sequence": "list_type", "Mapping": "dict_type"}  # what an instance of is wanted


def plain_problem(problem: "ErrorDetails") -> str:
    """Return what pydantic found, in the words of YAML, without a full stop."""
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
    return _PLAIN.get(kind) or problem["msg"].removeprefix("Value error, ")


def _explain(model: type[Document], problem: "ErrorDetails", source: str, path: Path | None) -> str:
    keys = [str(part) for part in problem["loc"]]
    line = _line_of(path, keys) if path else None
    where = f"{source}{f', line {line}' if line else ''}: key '{'.'.join(keys)}'"
    if problem["type"] == "extra_forbidden":
        at = _model_at(model, keys[:-1])
        if keys[-1] in at.old_keys:
            return f"{where} is called {at.old_keys[keys[-1]]} since version 0.2."
        known = list(at.model_fields)
        home = _home(model, keys[-1])
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


def _home(model: type[Document], key: str) -> str | None:
    """Return the full name of the nested key that is called so, if there is one such least deep."""
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
    """Return the documents that a field may hold."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    candidates += [a for c in candidates for a in getattr(c, "__args__", ())]
    found = [c for c in candidates if isinstance(c, type) and issubclass(c, Document)]
    return list(dict.fromkeys(found))


def _model_at(model: type[Document], keys: list[str]) -> type[Document]:
    """Return the nested model that `keys` leads to."""
    for key in keys:
        field = model.model_fields.get(key)
        if field is None:
            continue  # a list index, a mapping's key or a union's tag
        nested = _nested(field.annotation)
        if nested:
            model = nested[0]
    return model


def _line_of(path: Path, keys: list[str]) -> int | None:
    """Return the line, from 1 on, of the deepest key of `keys` that the file has."""
    node, line = yaml.compose(read_text(path), Loader=_Loader), None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if str(k.value) == key]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
    return line
