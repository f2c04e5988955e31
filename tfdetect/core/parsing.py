"""Read text, YAML, JSON and CSV files safely.

A file may come from a stranger: its size and depth are limited, and every mistake in it is a
`UserError` that names the file and, where possible, the line.
"""

import codecs
import csv
import io
import json
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tfdetect.core.errors import UserError, first_line, shortened

MAX_BYTES = 2**20  # size of a document that a person writes
MAX_JSON_BYTES = 2**26  # size of a file that a command writes, such as the metrics of a run
MAX_DEPTH = 50
MAX_NODES = 100_000
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """A safe loader whose errors name the line of a malformed number or date."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError) as error:
            mark = node.start_mark
            raise yaml.constructor.ConstructorError(None, None, first_line(error), mark) from None


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a file; devices, pipes and sockets are never read.

    Args:
        path: the file.
        limit: largest allowed size in bytes.

    Raises:
        UserError: it is not a file that can be read, or it is larger than the limit.
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

    The depth of the document and its size with all aliases replaced are limited. A key that occurs
    twice, an infinite number or a whole number of more than 64 bits is an error.

    Args:
        text: the YAML.
        source: what messages call the document, for example its path.

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


def line_of_key(path: Path, keys: list[str]) -> int | None:
    """Return the line of a nested key in a YAML file, counted from 1.

    Where the file lacks the key, return the line of the innermost key above it that the file has.
    """
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
