"""`Space`: which keys of an experiment a search may change, and how; read from YAML."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from tfdetect.core.documents import Document, find, read_yaml, validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment, override

# Trials that differ in these cannot be compared.
_FIXED = {"name", "data.dataset", "training.monitor"}
_TRIES = 200  # random points that are checked before the first trial


class Option(Document):
    """One of a choice: a value, and the parameters that exist only with it."""

    value: Any
    inside: dict[str, "Parameter"] = Field({}, alias="with")


class Parameter(Document):
    """How one key may vary: exactly one of three ways.

    Attributes:
        uniform, log_uniform: lowest and highest value.
        step: of uniform and log_uniform, the distance of allowed values from the lowest.
        choice: plain values, or {value: ..., with: {key: parameter}}.
    """

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    step: float | None = Field(None, gt=0)
    choice: tuple[Option, ...] | None = None

    @field_validator("uniform", "log_uniform")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None, info: ValidationInfo):
        if value is not None:
            if not value[0] < value[1] or not all(map(math.isfinite, value)):
                raise ValueError("the lowest value comes first, then a higher one")
            if info.field_name == "log_uniform" and value[0] <= 0:
                raise ValueError("log_uniform needs values above 0")
        return value

    @field_validator("choice", mode="before")
    @classmethod
    def _options(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        if not value:
            raise ValueError("an empty choice; give at least one value")
        return [v if isinstance(v, dict) and "value" in v else {"value": v} for v in value]

    @model_validator(mode="after")
    def _one(self):
        ways = [self.uniform, self.log_uniform, self.choice]
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give one of uniform, log_uniform and choice")
        if self.step is not None and self.choice is not None:
            raise ValueError("step goes with uniform and log_uniform")
        if self.step is not None and self.step > self.range[1] - self.range[0]:
            raise ValueError("step is larger than the whole range")
        return self

    @property
    def range(self) -> tuple[float, float]:
        return self.uniform or self.log_uniform


class Space(Document):
    """What a search may change.

    Attributes:
        name: what searches of it are called.
        experiment: the one that is changed, if none is named on the command line.
        parameters: by key of the experiment, such as training.optimizer.learning_rate.
    """

    name: str
    description: str = ""
    experiment: str | None = None
    parameters: dict[str, Parameter]

    @field_validator("parameters")
    @classmethod
    def _some(cls, value: dict[str, Parameter]) -> dict[str, Parameter]:
        if not value:
            raise ValueError("a space needs at least one parameter")
        return value

    def labels(self) -> dict[str, Parameter]:
        """Every parameter by its label: its key after those of the options it depends on."""
        return {label: parameter for label, _, parameter in _walk(self.parameters, "")}

    def overrides(self, values: dict[str, float | int]) -> list[str]:
        """A point of the space as overrides of an experiment.

        Args:
            values: by label, a number in the parameter's range or a choice's index.
        """
        return [f"{key}={json.dumps(value)}" for key, value in self.chosen(values)]

    def chosen(self, values: dict[str, float | int]) -> list[tuple[str, Any]]:
        """Keys and values of a point, those of an option after the option's own."""
        return [(key, value) for _, key, value in _chosen(self.parameters, values, "")]

    def within(self, values: dict[str, float | int]) -> dict[str, float | int]:
        """A point without the values of options that are not taken."""
        return {label: values[label] for label, _, _ in _chosen(self.parameters, values, "")}

    def sample(self, rng: np.random.Generator) -> dict[str, float | int]:
        """A random point, for checks; a search's points are drawn by hyperopt."""
        return dict(_sample(self.parameters, rng, ""))

    def check(self, experiment: Experiment) -> None:
        """Refuses a space that the experiment does not fit, before any trial.

        Raises:
            UserError: a key that is not there, an illegal value at the end of a range or in a
                choice, a key set twice, or an illegal combination among some random ones.
        """
        keys = {key for _, key, _ in _walk(self.parameters, "")}
        if fixed := keys & _FIXED:
            raise UserError(
                f"space {self.name}: {', '.join(sorted(fixed))} must be the same in all trials."
            )
        for text, point in self._corners():
            self._apply(experiment, point, text)
        rng = np.random.default_rng(0)
        for _ in range(_TRIES):
            self._apply(experiment, self.sample(rng), "")

    def _apply(self, experiment: Experiment, point: dict, text: str) -> Experiment:
        keys = [key for key, _ in self.chosen(point)]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise UserError(f"space {self.name}: {', '.join(sorted(twice))} is set twice at once.")
        try:
            return override(experiment, self.overrides(point))
        except UserError as error:
            place = text or "together, " + ", ".join(self.overrides(point))
            message = str(error).replace("--set ", "")
            raise UserError(f"space {self.name}, {place}: {message}") from None

    def _corners(self) -> Iterator[tuple[str, dict]]:
        """Each end of each range and each option, the rest at its first or lowest."""
        for label, key, parameter in _walk(self.parameters, ""):
            way = _way_to(self.parameters, label)
            lowest = _First(way)
            if parameter.choice is None:
                for end in parameter.range:
                    point = dict(_sample(self.parameters, lowest, ""))
                    yield f"key {key!r} at {end:g}", {**point, label: end}
            else:
                for number in range(len(parameter.choice)):
                    point = _First({**way, label: number})
                    value = parameter.choice[number].value
                    yield f"key {key!r} = {value!r}", dict(_sample(self.parameters, point, ""))


class _First:
    """Draws the lowest value or first option, but that of some labels."""

    def __init__(self, fixed: dict[str, int]):
        self.fixed = fixed


def load_space(name: str) -> Space:
    """Loads a shipped space by name, or a file by path.

    Raises:
        UserError: no such space, an unknown key (names file and line) or a bad range.
    """
    path = find("space", "experiments/spaces", name)
    return validate(Space, read_yaml(path), str(path), path)


def grid_value(parameter: Parameter, value: float) -> float | int:
    """The nearest allowed value: within the range, a whole number where range and step are."""
    low, high = parameter.range
    if parameter.step is None:
        return float(min(max(value, low), high))
    steps = round((value - low) / parameter.step)
    value = low + parameter.step * min(max(steps, 0), math.floor((high - low) / parameter.step))
    whole = float(low).is_integer() and float(parameter.step).is_integer()
    return round(value) if whole else float(f"{value:.12g}")


def _walk(parameters: dict[str, Parameter], prefix: str) -> Iterator[tuple[str, str, Parameter]]:
    """Label, key and parameter of all, those within options included."""
    for key, parameter in parameters.items():
        yield prefix + key, key, parameter
        for number, option in enumerate(parameter.choice or ()):
            yield from _walk(option.inside, prefix_of(prefix + key, number, option))


def prefix_of(label: str, number: int, option: Option) -> str:
    """What the labels of the parameters within an option begin with."""
    plain = isinstance(option.value, str | int | float) and "/" not in str(option.value)
    return f"{label}={option.value if plain else number}/"


def _way_to(parameters: dict[str, Parameter], label: str, prefix: str = "") -> dict[str, int]:
    """The options to take, by label of their choice, so that `label` exists."""
    for key, parameter in parameters.items():
        for number, option in enumerate(parameter.choice or ()):
            within = prefix_of(prefix + key, number, option)
            if label.startswith(within):
                return {prefix + key: number, **_way_to(option.inside, label, within)}
    return {}


def _chosen(parameters: dict[str, Parameter], values: dict, prefix: str) -> Iterator[tuple]:
    """Label, key and value of what a point sets."""
    for key, parameter in parameters.items():
        value = values[prefix + key]
        if parameter.choice is None:
            yield prefix + key, key, grid_value(parameter, value)
        else:
            option = parameter.choice[int(value)]
            yield prefix + key, key, option.value
            yield from _chosen(option.inside, values, prefix_of(prefix + key, int(value), option))


def _sample(parameters: dict[str, Parameter], draw, prefix: str) -> Iterator[tuple]:
    first = isinstance(draw, _First)
    for key, parameter in parameters.items():
        label = prefix + key
        if parameter.choice is not None:
            number = (
                draw.fixed.get(label, 0) if first else int(draw.integers(len(parameter.choice)))
            )
            option = parameter.choice[number]
            yield label, number
            yield from _sample(option.inside, draw, prefix_of(label, number, option))
        elif first:
            yield label, parameter.range[0]
        elif parameter.uniform:
            yield label, float(draw.uniform(*parameter.uniform))
        else:
            yield label, float(math.exp(draw.uniform(*map(math.log, parameter.log_uniform))))
