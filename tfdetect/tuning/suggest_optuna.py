"""Suggest the next point of a search with Optuna's TPE, which models parameters jointly."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from tfdetect.tuning.objective import Objective
from tfdetect.tuning.parameter import Parameter
from tfdetect.tuning.space import Space
from tfdetect.tuning.store import RUNNING, Trial


def suggest_with_optuna(
    space: Space, objective: Objective, seed: int, startup_trials: int, trials: list[Trial]
) -> dict[str, float | int]:
    """Return the point of the next trial; see `tuning.suggest.suggest`.

    This file cannot be imported without Optuna.
    """
    with _quiet():
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup_trials, multivariate=True, group=True,
                constant_liar=True,
            )
        )  # fmt: skip
        labels = space.labels()
        study.add_trials([_frozen(trial, labels, objective) for trial in trials if trial.point])
        return space.draw(_OptunaDraw(study.ask()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log of Optuna and its warnings that options are experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


@dataclass(frozen=True)
class _OptunaDraw:
    """Draws the values that Optuna suggests for a trial; see `space.Draw`."""

    trial: optuna.Trial

    def option(self, label: str, parameter: Parameter, count: int) -> int:
        if parameter.steps is not None:
            return self.trial.suggest_int(label, 0, parameter.steps)
        return self.trial.suggest_categorical(label, range(count))

    def number(self, label: str, parameter: Parameter) -> float:
        if parameter.steps is not None:
            return parameter.from_sampler(self.trial.suggest_int(label, 0, parameter.steps))
        logarithmic = parameter.log_uniform is not None
        return self.trial.suggest_float(label, *parameter.range, log=logarithmic)


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Return the distribution from which `_OptunaDraw` draws a parameter."""
    if parameter.steps is not None:
        return IntDistribution(0, parameter.steps)
    if parameter.choice is not None:
        return CategoricalDistribution(range(len(parameter.choice)))
    return FloatDistribution(*parameter.range, log=parameter.log_uniform is not None)


def _frozen(trial: Trial, labels: dict[str, Parameter], objective: Objective) -> FrozenTrial:
    """Return a trial in Optuna's format, to be minimized."""
    state = TrialState.COMPLETE if trial.succeeded else TrialState.FAIL
    return create_trial(
        state=TrialState.RUNNING if trial.state == RUNNING else state,
        value=objective.loss(trial.value) if trial.succeeded else None,
        params={label: labels[label].to_sampler(value) for label, value in trial.point.items()},
        distributions={label: _distribution(labels[label]) for label in trial.point},
    )
