"""Loads experiments by name or from files, and changes them by settings such as KEY=VALUE."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfdetect.core import plugins
from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError, nearest, shortened, unknown
from tfdetect.core.experiment import Experiment
from tfdetect.core.parsing import parse_yaml, read_yaml
from tfdetect.core.shipped_documents import find_document, shipped_names
from tfdetect.core.text import as_number

# Where the options of what a key names are, in the same section.
_OPTIONS_OF = {
    "model.backbone": "options",
    "model.front_end": "front_end_options",
    "model.head": "head_options",
    "model.mask_head": "mask_options",
    "training.loss": "loss_options",
}
# Below these keys an override may add new ones.
_FREE = (
    "model.front_end_options.",
    "model.head_options.",
    "model.options.",
    "model.mask_options.",
    "training.loss_options.",
    "data.augment.",
)


def load_experiment(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Load a shipped experiment by name, or a file by path.

    The plug-ins that it names are loaded.

    Args:
        name: the name of a shipped experiment, or the path of a YAML file.
        overrides: changes such as "training.epochs=5".

    Raises:
        UserError: unknown experiment, unknown key (names file, line and the
            nearest key) or illegal value.
    """
    path = find_document("experiment", "experiments", name)
    data = read_yaml(path)
    if isinstance(data.get("plugins"), list):
        data["plugins"] = [plugins.load_plugin(str(source)) for source in data["plugins"]]
    return _with_overrides(data, overrides, str(path), path)


def published() -> dict[str, Experiment]:
    """Return the shipped experiments that are published detectors, by name."""
    found = map(load_experiment, shipped_names("experiments"))
    return {experiment.name: experiment for experiment in found if experiment.published}


def load_model(name: str) -> Experiment:
    """Return a published detector's own experiment.

    Raises:
        UserError: no such detector.
    """
    if name not in shipped_names("experiments") or not load_experiment(name).published:
        raise unknown("detector", name, published())
    return load_experiment(name)


def with_model(experiment: Experiment, model: Experiment) -> Experiment:
    """Return the experiment with the detector and the image size of another one."""
    data = {"image_size": model.data.image_size, "resize": model.data.resize}
    return experiment.model_copy(update={
        "name": model.name, "description": model.description, "published": model.published,
        "model": model.model, "data": experiment.data.model_copy(update=data),
    })  # fmt: skip


def override(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Return the experiment with changes such as "training.epochs=5" applied."""
    if not overrides:
        return experiment
    return _with_overrides(experiment.as_data(), overrides, experiment.name)


def _with_overrides(
    data: dict[str, Any], overrides: Sequence[str], source: str, path: Path | None = None
) -> Experiment:
    plain = validate(Experiment, data, source, path)  # so that errors name the right place
    if not overrides:
        return plain
    data = plain.as_data()
    for key, options in _OPTIONS_OF.items():
        section, _, part = key.partition(".")
        chosen = [
            value.strip()
            for name, _, value in (text.partition("=") for text in overrides)
            if name.strip() == key
        ]
        if chosen and chosen[-1] != data[section][part]:
            data[section][options] = {}  # they were another one's
    for text in overrides:
        _set(data, text)
    if any(text.startswith("plugins") for text in overrides) and isinstance(data["plugins"], list):
        data["plugins"] = [plugins.load_plugin(str(source)) for source in data["plugins"]]
    return validate(Experiment, data, ", ".join(overrides))


def _keys(data: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the full names of all keys."""
    for name, value in data.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{above}{name}.")


def _set(data: dict[str, Any], text: str) -> None:
    """Set the value of one `KEY=VALUE`; each part of the key is a key or an index into a list."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(
            f"A setting is KEY=VALUE, for example training.epochs=5. Received: {shortened(text)}."
        )
    node: Any = data
    parts = key.strip().split(".")
    for depth, name in enumerate(parts, 1):
        part: str | int = name
        if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            part = int(name)
        elif not isinstance(node, dict) or (part not in node and not key.startswith(_FREE)):
            choices = list(node) if isinstance(node, dict) else []
            above = "".join(f"{part}." for part in parts[: depth - 1])
            same = [key for key in _keys(data) if key.rpartition(".")[2] == parts[-1]]
            near = (
                f" Did you mean {same[0]!r}?"
                if len(same) == 1
                else nearest(name, map(str, choices), above)
            )
            raise UserError(
                f"{text}: no key {above + name!r}.{near}"
                + (f" Keys there: {', '.join(map(str, choices))}." if choices else "")
            )
        if depth < len(parts):
            node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
    found = parse_yaml(value, f"{text:.80}")
    node[part] = _number(found) if isinstance(found, str) else found


def _number(text: str) -> str | float:
    found = as_number(text)  # YAML 1.1 reads 1e-3 as text; a user means the number
    return text if found is None or not math.isfinite(found) else found
