"""Check that a search space fits an experiment, before the first trial."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.load_experiment import override
from tfdetect.tuning.parameter import Parameter
from tfdetect.tuning.space import Space

# Trials that differ in these values cannot be compared.
_FIXED = {"name", "data.dataset", "training.monitor"}
# Position of a value that is tried, within a range from 0 to 1; irrational, so that it is no whole
# number in any range.
_BETWEEN = (3 - math.sqrt(5)) / 2
_RANDOM_CHECKS = 200  # random points that are checked


def check_space(
    space: Space, experiment: Experiment, accept: Callable[[Experiment], object] | None = None
) -> None:
    """Check the values at the ends of ranges and in choices, and some random combinations.

    Args:
        space: what varies.
        experiment: the experiment that is varied.
        accept: called with each varied experiment, but not with those of random combinations;
            raises `UserError` for one that cannot be trained.

    Raises:
        UserError: the experiment has no such key, or a value or a combination is not allowed.
    """
    if fixed := {variable.key for variable in space.variables()} & _FIXED:
        raise UserError(
            f"search space {space.name}: {', '.join(sorted(fixed))} must be the same in all "
            "trials. Remove it from the space."
        )
    for where, point in _points_of_each_value(space):
        _check_point(space, experiment, point, where, accept)
    rng = np.random.default_rng(0)
    for _ in range(_RANDOM_CHECKS):
        _check_point(space, experiment, space.sample(rng))


def _check_point(
    space: Space,
    experiment: Experiment,
    point: Mapping[str, float],
    where: str = "",
    accept: Callable[[Experiment], object] | None = None,
) -> None:
    """Check the experiment of one point.

    Args:
        space: what varies.
        experiment: the experiment that is varied.
        point: a point of the space.
        where: which point it is, for the message; by default all its values.
        accept: see `check_space`.

    Raises:
        UserError: the experiment of this point is not allowed.
    """
    keys = [key for key, _ in space.chosen(point)]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise UserError(
            f"search space {space.name}: {', '.join(sorted(twice))} is set twice, by parameters "
            "that exist at the same time. Remove one of them."
        )
    try:
        varied = override(experiment, space.overrides(point))
        if accept is not None:
            accept(varied)
    except UserError as error:
        where = where or "combination " + ", ".join(space.overrides(point))
        message = str(error)
        if "a whole number is expected" in message:
            message += " A range of whole numbers needs a step, such as step: 1."
        raise UserError(f"search space {space.name}, {where}: {message}") from None


def _points_of_each_value(space: Space) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield points that contain each end of each range and each option, and what they contain.

    The other values are the lowest ones and the first options. A range without a step comes with a
    fraction first, which keys for whole numbers do not accept.
    """
    for variable in space.variables():
        label, key, parameter = variable.label, variable.key, variable.parameter
        if parameter.choice is not None:
            for number, option in enumerate(parameter.choice):
                point = space.draw(_LowestDraw({**variable.needs, label: number}))
                yield f"key {key!r} = {option.value!r}", point
            continue
        point, (low, high) = space.draw(_LowestDraw(variable.needs)), parameter.range
        if parameter.step is None:
            fraction = low + _BETWEEN * (high - low)
            yield f"key {key!r} between {low:g} and {high:g}", {**point, label: fraction}
        for end in (low, high):
            yield f"key {key!r} at {end:g}", {**point, label: end}


@dataclass(frozen=True)
class _LowestDraw:
    """Draws the lowest number and the first option.

    Attributes:
        fixed: the index of the option to draw instead, by the label of the choice.
    """

    fixed: Mapping[str, int]

    def option(self, label: str, parameter: Parameter, count: int) -> int:
        return self.fixed.get(label, 0)

    def number(self, label: str, parameter: Parameter) -> float:
        return parameter.range[0]
