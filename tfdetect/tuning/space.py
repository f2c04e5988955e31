"""`Space`: which values of an experiment a search varies, and how; read from YAML."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from tfdetect.core.documents import Document, Name, validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.load_experiment import override
from tfdetect.core.parsing import read_yaml
from tfdetect.core.shipped_documents import find_document

# Trials that differ in these values cannot be compared.
_FIXED = {"name", "data.dataset", "training.monitor"}
_WITHIN = (3 - math.sqrt(5)) / 2  # part of a range that is tried, a whole number of no range
_RANDOM_CHECKS = 200  # random points that are checked before the first trial


class Option(Document):
    """One option of a choice: a value, and parameters that exist only if it is chosen."""

    value: Any
    inside: dict[str, "Parameter"] = Field({}, alias="with")


class Parameter(Document):
    """How one value varies: exactly one of uniform, log_uniform and choice.

    Attributes:
        uniform, log_uniform: lowest and highest value.
        step: the step of uniform and log_uniform: allowed are the lowest value plus multiples of
            it.
        choice: plain values, or {value: ..., with: {key: parameter}}.
    """

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    step: float | None = Field(None, gt=0)
    choice: tuple[Option, ...] | None = None

    @field_validator("uniform", "log_uniform")
    @classmethod
    def _ordered(
        cls, value: tuple[float, float] | None, info: ValidationInfo
    ) -> tuple[float, float] | None:
        if value is not None:
            if not value[0] < value[1] or not all(map(math.isfinite, value)):
                raise ValueError("give the lowest value first, then a higher one")
            if info.field_name == "log_uniform" and value[0] <= 0:
                raise ValueError("log_uniform needs values above 0")
        return value

    @field_validator("choice", mode="before")
    @classmethod
    def _options(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        if not value:
            raise ValueError("the choice is empty; give at least one value")
        return [v if isinstance(v, dict) and "value" in v else {"value": v} for v in value]

    @model_validator(mode="after")
    def _exactly_one(self) -> "Parameter":
        kinds = [self.uniform, self.log_uniform, self.choice]
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("give exactly one of uniform, log_uniform and choice")
        if self.step is not None and self.choice is not None:
            raise ValueError("step needs uniform or log_uniform")
        if self.step is not None and self.step > self.range[1] - self.range[0]:
            raise ValueError("step is larger than the whole range")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value of uniform or log_uniform."""
        found = self.uniform or self.log_uniform
        assert found is not None
        return found

    @property
    def steps(self) -> int | None:
        """Number of steps that samplers draw instead of the value: None if there are no steps.

        They are those of a uniform range, or of a choice of rising numbers, such as batch sizes:
        samplers that model options as categories settle on one early, of numbers they try the
        neighbors (`benchmarks/search_peers.py`, valley).
        """
        if self.choice is not None:
            values = [option.value for option in self.choice]
            plain = not any(option.inside for option in self.choice)
            numbers = all(type(value) in (int, float) for value in values)
            return len(values) - 1 if plain and numbers and _rise(values) else None
        if self.uniform is None or self.step is None:
            return None
        return math.floor((self.uniform[1] - self.uniform[0]) / self.step)

    def to_sampler(self, value: float) -> float | int:
        """Return the number that stands for a point's value in hyperopt and Optuna."""
        if self.uniform is None or self.step is None:
            return value
        return round((value - self.uniform[0]) / self.step)

    def from_sampler(self, number: float) -> float | int:
        """Return a point's value: the index of an option, or a number in the range."""
        if self.choice is not None:
            return int(number)
        if self.uniform is None or self.step is None:
            return float(number)
        return self.uniform[0] + self.step * float(number)


def _rise(values: list[float]) -> bool:
    return len(values) > 1 and all(low < high for low, high in itertools.pairwise(values))


class Space(Document):
    """A search space.

    Attributes:
        name: the name of the space.
        description: for people.
        experiment: the one that is varied if the command line names none.
        parameters: by key of the experiment, such as training.optimizer.learning_rate.
    """

    name: Name
    description: str = ""
    experiment: str | None = None
    parameters: dict[str, Parameter]

    @field_validator("parameters")
    @classmethod
    def _not_empty(cls, value: dict[str, Parameter]) -> dict[str, Parameter]:
        if not value:
            raise ValueError("a space needs at least one parameter")
        return value

    def as_data(self) -> dict[str, Any]:
        """Return the space as plain data, as YAML has it."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def labels(self) -> dict[str, Parameter]:
        """Return every parameter by its label: its key after those of the options it needs."""
        return {label: parameter for label, _, parameter in _iterate(self.parameters, "")}

    def overrides(self, values: dict[str, float | int]) -> list[str]:
        """Return a point of the space as overrides of an experiment.

        Args:
            values: by label, a number in the parameter's range or the index of an option.
        """
        return [f"{key}={json.dumps(value)}" for key, value in self.chosen(values)]

    def chosen(self, values: dict[str, float | int]) -> list[tuple[str, Any]]:
        """Return keys and values of a point; those within an option follow the option."""
        return [(key, value) for _, key, value in _chosen(self.parameters, values, "")]

    def active_values(self, values: dict[str, float | int]) -> dict[str, float | int]:
        """Return a point without the values within options that are not chosen."""
        return {label: values[label] for label, _, _ in _chosen(self.parameters, values, "")}

    def sample(self, rng: np.random.Generator) -> dict[str, float | int]:
        """Return a random point, for checks; `tuning.suggest` draws the points of a search."""
        return self.draw(_RandomDraw(rng))

    def draw(self, draw: "Draw") -> dict[str, float | int]:
        """Return a point whose values `draw` draws, those within options after the option."""
        return dict(_sample(self.parameters, draw, ""))

    def check(
        self, experiment: Experiment, accept: Callable[[Experiment], object] | None = None
    ) -> None:
        """Refuse a space that does not fit the experiment, before any trial.

        Args:
            experiment: the experiment that is varied.
            accept: raises `UserError` for a varied experiment that cannot be trained; not called
                for random points.

        Raises:
            UserError: a key that the experiment lacks, an illegal value at the end of a range or
                in a choice, a key that is set twice, or an illegal combination among some random
                points.
        """
        keys = {key for _, key, _ in _iterate(self.parameters, "")}
        if fixed := keys & _FIXED:
            raise UserError(
                f"search space {self.name}: {', '.join(sorted(fixed))} must be the same in all "
                "trials. Remove it from the space."
            )
        for text, point in self._corners():
            self._apply(experiment, point, text, accept)
        rng = np.random.default_rng(0)
        for _ in range(_RANDOM_CHECKS):
            self._apply(experiment, self.sample(rng), "")

    def _apply(
        self,
        experiment: Experiment,
        point: dict,
        text: str,
        accept: Callable[[Experiment], object] | None = None,
    ) -> None:
        keys = [key for key, _ in self.chosen(point)]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise UserError(
                f"search space {self.name}: {', '.join(sorted(twice))} is set twice at one point."
            )
        try:
            found = override(experiment, self.overrides(point))
            if accept is not None:
                accept(found)
        except UserError as error:
            where = text or "combination " + ", ".join(self.overrides(point))
            message = str(error)
            if "a whole number is expected" in message:
                message += " A range of whole numbers needs a step, such as step: 1."
            raise UserError(f"search space {self.name}, {where}: {message}") from None

    def _corners(self) -> Iterator[tuple[str, dict]]:
        """Yield each end of each range and each option, other values at their first or lowest.

        A range without a step comes with a fraction first, which whole numbers do not take.
        """
        for label, key, parameter in _iterate(self.parameters, ""):
            needed = _options_for(self.parameters, label)
            if parameter.choice is None:
                point = self.draw(_FirstDraw(needed))
                low, high = parameter.range
                if parameter.step is None:
                    yield (
                        f"key {key!r} between {low:g} and {high:g}",
                        {**point, label: low + _WITHIN * (high - low)},
                    )
                for end in parameter.range:
                    yield f"key {key!r} at {end:g}", {**point, label: end}
            else:
                for number, option in enumerate(parameter.choice):
                    point = self.draw(_FirstDraw({**needed, label: number}))
                    yield f"key {key!r} = {option.value!r}", point


class Draw(Protocol):
    """Draws the values of a point."""

    def option(self, label: str, parameter: Parameter, count: int) -> int:
        """Return the index of one of the `count` options of a parameter."""

    def number(self, label: str, parameter: Parameter) -> float:
        """Return a value within a parameter's range."""


@dataclass(frozen=True)
class _RandomDraw:
    """Draws options and numbers at random."""

    rng: np.random.Generator

    def option(self, label: str, parameter: Parameter, count: int) -> int:
        return int(self.rng.integers(count))

    def number(self, label: str, parameter: Parameter) -> float:
        if parameter.log_uniform is None:
            return float(self.rng.uniform(*parameter.range))
        low, high = map(math.log, parameter.range)
        return float(math.exp(self.rng.uniform(low, high)))


@dataclass(frozen=True)
class _FirstDraw:
    """Draws the lowest number and the first option.

    Attributes:
        fixed: options to draw instead, by label of their choice.
    """

    fixed: dict[str, int]

    def option(self, label: str, parameter: Parameter, count: int) -> int:
        return self.fixed.get(label, 0)

    def number(self, label: str, parameter: Parameter) -> float:
        return parameter.range[0]


def load_space(name: str) -> Space:
    """Load a shipped search space by name, or a file by path.

    Raises:
        UserError: no such space, an unknown key (with file and line) or an invalid range.
    """
    path = find_document("space", "experiments/spaces", name)
    return validate(Space, read_yaml(path), str(path), path)


def grid_value(parameter: Parameter, value: float) -> float | int:
    """Return the nearest allowed value, a whole number if lowest value and step are."""
    low, high = parameter.range
    if parameter.step is None:
        return float(min(max(value, low), high))
    steps = round((value - low) / parameter.step)
    value = low + parameter.step * min(max(steps, 0), math.floor((high - low) / parameter.step))
    whole = float(low).is_integer() and float(parameter.step).is_integer()
    return round(value) if whole else float(f"{value:.12g}")


def describe_value(value: Any) -> str:
    """Return a value of an experiment in short: lists of named steps as their names."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        names = [item.get("name") if isinstance(item, dict) else item for item in value]
        return "+".join(map(str, names)) or "none"
    return str(value)


def _iterate(parameters: dict[str, Parameter], prefix: str) -> Iterator[tuple[str, str, Parameter]]:
    """Yield label, key and parameter, those within options included."""
    for key, parameter in parameters.items():
        yield prefix + key, key, parameter
        for number, option in enumerate(parameter.choice or ()):
            yield from _iterate(option.inside, prefix_of(prefix + key, number, option))


def prefix_of(label: str, number: int, option: Option) -> str:
    """Return the prefix of the labels of parameters within an option."""
    plain = isinstance(option.value, str | int | float) and "/" not in str(option.value)
    return f"{label}={option.value if plain else number}/"


def _options_for(parameters: dict[str, Parameter], label: str, prefix: str = "") -> dict[str, int]:
    """Return the options, by label of their choice, that must be chosen for `label` to exist."""
    for key, parameter in parameters.items():
        for number, option in enumerate(parameter.choice or ()):
            within = prefix_of(prefix + key, number, option)
            if label.startswith(within):
                return {prefix + key: number, **_options_for(option.inside, label, within)}
    return {}


def _chosen(parameters: dict[str, Parameter], values: dict, prefix: str) -> Iterator[tuple]:
    """Yield label, key and value of what a point sets."""
    for key, parameter in parameters.items():
        value = values[prefix + key]
        if parameter.choice is None:
            yield prefix + key, key, grid_value(parameter, value)
        else:
            option = parameter.choice[int(value)]
            yield prefix + key, key, option.value
            yield from _chosen(option.inside, values, prefix_of(prefix + key, int(value), option))


def _sample(
    parameters: dict[str, Parameter], draw: Draw, prefix: str
) -> Iterator[tuple[str, float | int]]:
    """Yield label and drawn value of each parameter that exists."""
    for key, parameter in parameters.items():
        label = prefix + key
        if parameter.choice is None:
            yield label, draw.number(label, parameter)
        else:
            number = draw.option(label, parameter, len(parameter.choice))
            yield label, number
            option = parameter.choice[number]
            yield from _sample(option.inside, draw, prefix_of(label, number, option))
