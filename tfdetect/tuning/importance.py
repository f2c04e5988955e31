"""Estimate with a random forest how important each parameter of a search was."""

import math
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from tfdetect.tuning.parameter import Parameter
from tfdetect.tuning.search_folder import Search
from tfdetect.tuning.store import Trial

MISSING = -0.1  # position on the axis of a parameter that a trial does not have
_MIN_TRIALS = 10


@dataclass(frozen=True)
class Importance:
    """The permutation importance of all parameters.

    Attributes:
        rows: label, importance and its standard deviation as texts, the most important first.
        r2: out-of-bag R2 of the forest.
    """

    rows: list[list[str]]
    r2: float


def parameter_importance(search: Search, trials: list[Trial]) -> Importance | None:
    """Return the permutation importance of each parameter; None with too few trials.

    Args:
        search: the search.
        trials: its trials that succeeded and have a point, which the unchanged experiment lacks.
    """
    if len(trials) < _MIN_TRIALS:
        return None
    labels = search.space.labels()
    inputs = np.stack(
        [axis_positions(p, [t.point.get(label) for t in trials]) for label, p in labels.items()],
        axis=1,
    )
    values = np.array([t.value for t in trials])
    forest = RandomForestRegressor(300, min_samples_leaf=2, oob_score=True, random_state=0)
    forest.fit(inputs, values)
    found = permutation_importance(forest, inputs, values, n_repeats=20, random_state=0)
    rows = [
        [list(labels)[i], f"{found.importances_mean[i]:.3f}", f"{found.importances_std[i]:.3f}"]
        for i in np.argsort(-found.importances_mean)
    ]
    return Importance(rows, float(forest.oob_score_))


def axis_positions(parameter: Parameter, values: list[float | None]) -> np.ndarray:
    """Return the positions of values on the axis of a parameter, float [n] from 0 to 1.

    Args:
        parameter: the parameter.
        values: its values in points, [n]; the position of None is `MISSING`.
    """
    if parameter.choice is not None:
        last = max(1, len(parameter.choice) - 1)
        return np.array([MISSING if v is None else v / last for v in values])
    scale = math.log if parameter.log_uniform else float
    low, high = map(scale, parameter.range)
    return np.array([
        MISSING if v is None else (scale(parameter.grid_value(v)) - low) / (high - low)
        for v in values
    ])  # fmt: skip
