"""`Space`: which values of an experiment a search varies, and how; read from YAML.

A point of a space is a dictionary of numbers by label: the index of an option of a choice, or a
number in a range. Parameters within options that are not chosen are not in it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import field_validator

from tfdetect.core.documents import Document, Name, validate
from tfdetect.core.parsing import read_yaml
from tfdetect.core.shipped_documents import find_document
from tfdetect.tuning.parameter import Option, Parameter


@dataclass(frozen=True)
class Variable:
    """A parameter and its position in a space.

    Attributes:
        label: its unique name: its key after those of the options that it is within.
        key: the key of the experiment that it varies.
        parameter: how it varies.
        needs: the index of each option that it is within, by the label of the choice, the
            outermost one first. It exists only at points with these options.
    """

    label: str
    key: str
    parameter: Parameter
    needs: Mapping[str, int]

    def exists_at(self, point: Mapping[str, float]) -> bool:
        """Return whether a point has the options that this variable is within."""
        return all(int(point[label]) == number for label, number in self.needs.items())


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

    def variables(self) -> Iterator[Variable]:
        """Yield every parameter, each choice before the parameters within its options."""
        yield from _variables(self.parameters, "", {})

    def labels(self) -> dict[str, Parameter]:
        """Return every parameter by its label."""
        return {variable.label: variable.parameter for variable in self.variables()}

    def overrides(self, point: Mapping[str, float]) -> list[str]:
        """Return a point as overrides of an experiment, KEY=VALUE with the value as JSON."""
        return [f"{key}={json.dumps(value)}" for key, value in self.chosen(point)]

    def chosen(self, point: Mapping[str, float]) -> list[tuple[str, Any]]:
        """Return the keys and values that a point sets in an experiment."""
        return [
            (variable.key, variable.parameter.experiment_value(point[variable.label]))
            for variable in self._existing(point)
        ]

    def active_values(self, point: Mapping[str, float]) -> dict[str, float]:
        """Return a point without the values within options that are not chosen."""
        return {variable.label: point[variable.label] for variable in self._existing(point)}

    def sample(self, rng: np.random.Generator) -> dict[str, float]:
        """Return a random point, for checks; `tuning.suggest` draws the points of a search."""
        return self.draw(_RandomDraw(rng))

    def draw(self, draw: "Draw") -> dict[str, float]:
        """Return a point whose values are drawn one after the other, in the order of `variables`.

        Args:
            draw: draws the value of a parameter.
        """
        point: dict[str, float] = {}
        for variable in self.variables():
            if not variable.exists_at(point):
                continue
            label, parameter = variable.label, variable.parameter
            if parameter.choice is None:
                point[label] = draw.number(label, parameter)
            else:
                point[label] = draw.option(label, parameter, len(parameter.choice))
        return point

    def _existing(self, point: Mapping[str, float]) -> Iterator[Variable]:
        """Yield the variables that exist at a point."""
        return (variable for variable in self.variables() if variable.exists_at(point))


def _variables(
    parameters: Mapping[str, Parameter], prefix: str, needs: Mapping[str, int]
) -> Iterator[Variable]:
    """Yield parameters and those within their options.

    Args:
        parameters: by key of the experiment.
        prefix: the beginning of their labels.
        needs: the options that all of them are within.
    """
    for key, parameter in parameters.items():
        label = prefix + key
        yield Variable(label, key, parameter, needs)
        for number, option in enumerate(parameter.choice or ()):
            inner = option_prefix(label, number, option)
            yield from _variables(option.inside, inner, {**needs, label: number})


def option_prefix(label: str, number: int, option: Option) -> str:
    """Return the beginning of the labels of parameters within an option.

    Args:
        label: the label of the choice.
        number: the index of the option.
        option: the option.
    """
    plain = isinstance(option.value, str | int | float) and "/" not in str(option.value)
    return f"{label}={option.value if plain else number}/"


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


def load_space(name: str) -> Space:
    """Load a shipped search space by name, or a file by path.

    Raises:
        UserError: no such space, an unknown key (with file and line) or an invalid range.
    """
    path = find_document("space", "experiments/spaces", name)
    return validate(Space, read_yaml(path), str(path), path)
