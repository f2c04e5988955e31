"""`Parameter`: how one value of an experiment varies in a search; read from YAML."""

import itertools
import math
from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tfdetect.core.documents import Document


class Option(Document):
    """One option of a choice.

    Attributes:
        value: the value of the experiment.
        inside: parameters that exist only if this option is chosen, by key of the experiment.
    """

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
        if value is None:
            return None
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

        A uniform range with a step has them, and a choice of rising numbers, such as batch sizes:
        samplers that model options as categories settle on one of them early, but of numbers they
        also try the neighbors (`benchmarks/search_peers.py`, valley).
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
        """Return the number that hyperopt and Optuna know for a value of a point."""
        if self.uniform is None or self.step is None:
            return value
        return round((value - self.uniform[0]) / self.step)

    def from_sampler(self, number: float) -> float | int:
        """Return the value of a point: the index of an option, or a number in the range."""
        if self.choice is not None:
            return int(number)
        if self.uniform is None or self.step is None:
            return float(number)
        return self.uniform[0] + self.step * float(number)

    def grid_value(self, number: float) -> float | int:
        """Return the nearest allowed value of a range to a number.

        It is a whole number if the lowest value and the step are.
        """
        low, high = self.range
        if self.step is None:
            return float(min(max(number, low), high))
        steps = round((number - low) / self.step)
        value = low + self.step * min(max(steps, 0), math.floor((high - low) / self.step))
        whole = float(low).is_integer() and float(self.step).is_integer()
        return round(value) if whole else float(f"{value:.12g}")

    def experiment_value(self, number: float) -> Any:
        """Return the value of the experiment for a value of a point.

        Args:
            number: the index of an option, or a number in the range.
        """
        return self.grid_value(number) if self.choice is None else self.choice[int(number)].value


def _rise(values: list[float]) -> bool:
    """Return whether there are several values, each higher than the one before."""
    return len(values) > 1 and all(low < high for low, high in itertools.pairwise(values))


def describe_value(value: Any) -> str:
    """Return a value of an experiment in short: lists of named steps as their names."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        names = [item.get("name") if isinstance(item, dict) else item for item in value]
        return "+".join(map(str, names)) or "none"
    return str(value)
