"""Suggest the next point of a search: the same trials and seed give the same point."""

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
from tfdetect.tuning.parameter import Parameter
from tfdetect.tuning.space import Space, option_prefix
from tfdetect.tuning.store import FAILED, RUNNING, Trial

# TPE models the best GAMMA * sqrt(n) of n trials as good: 10 of 100. With 0.25, the default of
# hyperopt, they are 3, too few to learn where good values are (`benchmarks/search_peers.py`).
GAMMA = 1.0


def expression(space: Space) -> dict:
    """Return a space in the form of hyperopt, whose samples are points of the space."""
    return _expression(space.parameters, "")


def _expression(parameters: dict[str, Parameter], prefix: str) -> dict:
    """Return parameters in the form of hyperopt; `prefix` is the beginning of their labels."""
    found = {}
    for key, parameter in parameters.items():
        inner, label = prefix + key, _hyperopt_label(prefix + key)
        if parameter.steps is not None:
            # Steps are counted from the lowest value: hyperopt's own grid starts at 0.
            found[label] = hp.quniform(label, 0, parameter.steps, 1)
        elif parameter.choice is not None:
            found[label] = hp.choice(label, [
                _expression(option.inside, option_prefix(inner, number, option))
                for number, option in enumerate(parameter.choice)
            ])  # fmt: skip
        elif parameter.uniform:
            found[label] = hp.uniform(label, *parameter.uniform)
        else:
            found[label] = hp.loguniform(label, *map(math.log, parameter.range))
    return found


def _hyperopt_label(label: str) -> str:
    """Return a label without dots, in which adaptive TPE sees a structure."""
    return label.replace(".", "/")


def suggest(
    space: Space, objective: Objective, algorithm: Algorithm, seed: int, startup_trials: int,
    trials: list[Trial],
) -> dict[str, float]:  # fmt: skip
    """Return the point of the next trial.

    Args:
        space: the search space.
        objective: the objective of the search.
        algorithm: "tpe", "random" or "atpe" (adaptive TPE) of hyperopt, or "optuna", Optuna's TPE.
        seed: the seed of the search.
        startup_trials: number of trials that are drawn at random before TPE begins.
        trials: all trials so far, also the running ones, from which parallel trials should differ.

    Raises:
        UserError: the algorithm needs a package that is not installed.
    """
    digest = hashlib.sha256(f"{seed}\n{len(trials)}".encode()).digest()
    drawn = int.from_bytes(digest[:4], "big") % (2**31 - 1)
    if algorithm == "optuna":
        try:
            from tfdetect.tuning.suggest_optuna import suggest_with_optuna
        except ModuleNotFoundError as error:
            raise _missing(algorithm, "optuna") from error
        point = suggest_with_optuna(space, objective, drawn, startup_trials, trials)
    else:
        point = _suggest_with_hyperopt(space, objective, algorithm, drawn, startup_trials, trials)
    return space.active_values(point)


def _suggest_with_hyperopt(
    space: Space, objective: Objective, algorithm: Algorithm, seed: int, startup_trials: int,
    trials: list[Trial],
) -> dict[str, float]:  # fmt: skip
    """Return the point of the next trial by hyperopt, whose algorithms see failed trials, too.

    Args:
        space, objective, algorithm, startup_trials, trials: see `suggest`.
        seed: the seed of this trial.
    """
    number = len(trials)
    domain = Domain(None, expression(space), pass_expr_memo_ctrl=False)
    history = Trials()
    known = [t for t in trials if t.point and (t.succeeded or algorithm != "atpe")]
    history.insert_trial_docs([_document(t, space, objective) for t in known])
    history.refresh()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if algorithm == "random":
            documents = rand.suggest([number], domain, history, seed)
        elif algorithm == "tpe":
            documents = tpe.suggest(
                [number], domain, history, seed, n_startup_jobs=startup_trials, gamma=GAMMA,
                verbose=False,
            )  # fmt: skip
        else:
            documents = _adaptive_tpe()([number], domain, history, seed)
    values = documents[0]["misc"]["vals"]
    return {
        label: parameter.from_sampler(values[_hyperopt_label(label)][0])
        for label, parameter in space.labels().items() if values[_hyperopt_label(label)]
    }  # fmt: skip


def _missing(algorithm: Algorithm, package: str) -> UserError:
    """Return the error that an algorithm needs a package that is not installed."""
    return UserError(
        f"The algorithm {algorithm} needs {package}. Install it with: "
        "pip install 'tfdetect[search]'"
    )


def _adaptive_tpe():
    """Return the suggest function of adaptive TPE, which seeds the global random states it uses.

    Raises:
        UserError: lightgbm, which it needs, is not installed.
    """
    try:
        import lightgbm  # noqa: F401
        from hyperopt import atpe
    except ImportError as error:
        raise _missing("atpe", "lightgbm") from error

    def seeded(numbers: list[int], domain: Domain, history: Trials, seed: int) -> list[dict]:
        random.seed(seed)
        np.random.seed(seed)
        return atpe.suggest(numbers, domain, history, seed)

    return seeded


def _document(trial: Trial, space: Space, objective: Objective) -> dict:
    """Return a trial in the format of hyperopt."""
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
                name: [parameter.to_sampler(trial.point[label])] if label in trial.point else []
                for name, (label, parameter) in labels.items()
            },
        },
        "exp_key": None, "owner": None, "version": 0,
        "book_time": datetime.fromtimestamp(trial.started),
        "refresh_time": datetime.fromtimestamp(trial.ended or trial.started),
    }  # fmt: skip
