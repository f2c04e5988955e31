"""Suggests the next point of a search with hyperopt; equal histories give equal points."""

import hashlib
import math
import random
import warnings
from datetime import datetime

import numpy as np
from hyperopt import STATUS_FAIL, STATUS_NEW, STATUS_OK, Trials, hp, rand, tpe
from hyperopt.base import JOB_STATE_DONE, JOB_STATE_NEW, Domain

from tfdetect.core.choices import Algorithm
from tfdetect.core.errors import UserError
from tfdetect.tuning.objective import Objective
from tfdetect.tuning.space import Parameter, Space, prefix_of
from tfdetect.tuning.store import FAILED, RUNNING, Trial

# TPE models the best GAMMA * sqrt(n) of n trials as good: 10 of 100. By hyperopt's own 0.25 these
# are 3, too few to say where good values are (`benchmarks/search_peers.py`).
GAMMA = 1.0


def expression(space: Space) -> dict:
    """Return the space as hyperopt's expression: a dict of what `Space.overrides` takes."""
    return _expression(space.parameters, "")


def _expression(parameters: dict[str, Parameter], prefix: str) -> dict:
    found = {}
    for key, parameter in parameters.items():
        inner, label = prefix + key, _hyperopt_label(prefix + key)
        if parameter.choice is not None:
            found[label] = hp.choice(label, [
                _expression(option.inside, prefix_of(inner, number, option))
                for number, option in enumerate(parameter.choice)
            ])  # fmt: skip
        elif parameter.uniform and parameter.step:
            # Steps are counted from the lowest value: hyperopt's own grid starts at 0.
            low, high = parameter.uniform
            found[label] = hp.quniform(label, 0, math.floor((high - low) / parameter.step), 1)
        elif parameter.uniform:
            found[label] = hp.uniform(label, *parameter.uniform)
        else:
            found[label] = hp.loguniform(label, *map(math.log, parameter.range))
    return found


def _hyperopt_label(label: str) -> str:
    return label.replace(".", "/")  # adaptive TPE treats dots as structure


def suggest(
    space: Space, objective: Objective, algorithm: Algorithm, seed: int, startup_trials: int,
    trials: list[Trial],
) -> dict[str, float]:  # fmt: skip
    """Return the point of the next trial.

    Args:
        space: the search space.
        objective: of the search.
        algorithm: "tpe", "random", or "atpe", adaptive TPE.
        seed: of the search.
        startup_trials: how many trials are drawn at random before TPE begins.
        trials: all so far. Failed and running ones are known to hyperopt too, so that parallel
            trials differ.
    """
    number = len(trials)
    domain = Domain(None, expression(space), pass_expr_memo_ctrl=False)
    digest = hashlib.sha256(f"{seed}\n{number}".encode()).digest()
    drawn = int.from_bytes(digest[:4], "big") % (2**31 - 1)
    history = Trials()
    known = [t for t in trials if t.point and (t.succeeded or algorithm != "atpe")]
    history.insert_trial_docs([_document(t, space, objective) for t in known])
    history.refresh()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if algorithm == "random":
            documents = rand.suggest([number], domain, history, drawn)
        elif algorithm == "tpe":
            documents = tpe.suggest(
                [number], domain, history, drawn, n_startup_jobs=startup_trials, gamma=GAMMA,
                verbose=False,
            )  # fmt: skip
        else:
            documents = _adaptive_tpe()([number], domain, history, drawn)
    values = documents[0]["misc"]["vals"]
    point = {
        label: _from_hyperopt(parameter, values[_hyperopt_label(label)][0])
        for label, parameter in space.labels().items() if values[_hyperopt_label(label)]
    }  # fmt: skip
    return space.active_values(point)


def _adaptive_tpe():
    """Return adaptive TPE with seeded global random states, from which it draws."""
    try:
        import lightgbm  # noqa: F401
        from hyperopt import atpe
    except ImportError as error:
        raise UserError(
            "The algorithm atpe needs lightgbm. Install it with: pip install 'tfdetect[search]'"
        ) from error

    def seeded(numbers: list[int], domain: Domain, history: Trials, seed: int) -> list[dict]:
        random.seed(seed)
        np.random.seed(seed)
        return atpe.suggest(numbers, domain, history, seed)

    return seeded


def _from_hyperopt(parameter: Parameter, value: float) -> float | int:
    """Return the value of a point from hyperopt's, which counts steps from 0."""
    if parameter.choice is not None:
        return int(value)
    if parameter.uniform and parameter.step:
        return parameter.uniform[0] + parameter.step * float(value)
    return float(value)


def _to_hyperopt(parameter: Parameter, value: float) -> float | int:
    """Return hyperopt's value from that of a point."""
    if parameter.uniform and parameter.step:
        return (value - parameter.uniform[0]) / parameter.step
    return value


def _document(trial: Trial, space: Space, objective: Objective) -> dict:
    """Return a trial in hyperopt's format."""
    labels = {_hyperopt_label(label): (label, p) for label, p in space.labels().items()}
    result = {"status": STATUS_NEW}
    if trial.state == FAILED:
        result = {"status": STATUS_FAIL}
    elif trial.succeeded:
        result = {"status": STATUS_OK, "loss": objective.loss(trial.value)}
    number = trial.number
    return {
        "state": JOB_STATE_NEW if trial.state == RUNNING else JOB_STATE_DONE,
        "tid": number, "spec": None, "result": result,
        "misc": {
            "tid": number, "cmd": None, "workdir": None,
            "idxs": {
                name: [number] if label in trial.point else []
                for name, (label, _) in labels.items()
            },
            "vals": {
                name: [_to_hyperopt(parameter, trial.point[label])] if label in trial.point else []
                for name, (label, parameter) in labels.items()
            },
        },
        "exp_key": None, "owner": None, "version": 0,
        "book_time": datetime.fromtimestamp(trial.started),
        "refresh_time": datetime.fromtimestamp(trial.ended or trial.started),
    }  # fmt: skip
