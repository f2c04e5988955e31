"""A search's own time and the values it finds, against Optuna and KerasTuner.

    python benchmarks/search_peers.py --peers PEERS/bin/python

PEERS is a virtual environment with `pip install optuna keras-tuner "jax[cpu]" six grpcio protobuf`.
The trials of all compute the same known functions, which take no time, so that the time is that of
the search: it proposes a point with TPE, stores the trial in SQLite and reads it back. Optuna does
the same, with its TPE and its SQLite; KerasTuner's BayesianOptimization fits a Gaussian process and
stores JSON files, which takes minutes for a search. The time is that of the valley; the values are
the medians, over searches, of the best of each search's trials.
"""

import argparse
import contextlib
import functools
import io
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from timing import Results, compare, cores, describe, machine, serve, versions

TRIALS = 100


def valley(rate, smoothing, dropout, batch):
    """A valley in the rate whose bottom depends on the batch, as in trainings; 0 at best."""
    best = -3 + 0.5 * math.log2(batch / 64)
    return (
        (math.log10(rate) - best) ** 2 + 4 * (smoothing - 0.1) ** 2 + 2 * (dropout - 0.3) ** 2
        + 0.1 * abs(math.log2(batch / 64))
    )  # fmt: skip


def branin(x, y):
    """Three valleys of equal depth; 0 at best (Dixon and Szego, 1978)."""
    curve = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return curve**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.397887


def hartmann(*point):
    """Four hills in six dimensions; 0 at best (Dixon and Szego, 1978)."""
    distances = (HARTMANN["widths"] * (np.array(point) - HARTMANN["centers"]) ** 2).sum(1)
    return float(3.32237 - (HARTMANN["heights"] * np.exp(-distances)).sum())


HARTMANN = {
    "heights": np.array([1.0, 1.2, 3.0, 3.2]),
    "widths": np.array([
        [10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]),
    "centers": 1e-4 * np.array([
        [1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381],
    ]),
}  # fmt: skip
FUNCTIONS = {
    "valley": (valley, {
        "training.optimizer.learning_rate": {"log_uniform": [1e-5, 1.0]},
        "training.label_smoothing": {"uniform": [0.0, 0.5]},
        "model.dropout": {"uniform": [0.0, 0.9]},
        "training.batch_size": {"choice": [16, 32, 64, 128, 256]},
    }),
    "branin": (branin, {"x": {"uniform": [-5.0, 10.0]}, "y": {"uniform": [0.0, 15.0]}}),
    "hartmann": (hartmann, {f"x{number}": {"uniform": [0.0, 1.0]} for number in range(6)}),
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of the peers' environment")
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each (6)")
    parser.add_argument("--results", type=Path, default=Path("search_peers.json"))
    parser.add_argument("--against", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--functions", nargs="+", default=list(FUNCTIONS), choices=FUNCTIONS)
    parser.add_argument("--searches", type=int, default=5, help="of each function (5)")
    parser.add_argument("--algorithm", default="tpe", help="of ours (tpe)")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        search, package = WORKERS[args.worker]
        if args.worker == "ours":
            search = functools.partial(ours, algorithm=args.algorithm)
        best = {
            name: round(statistics.median(
                min(search(*FUNCTIONS[name], seed)) for seed in range(args.searches)
            ), 4)
            for name in args.functions
        }  # fmt: skip
        seeds = iter(range(args.searches, 10**6))
        timed = FUNCTIONS["valley"]
        return serve(
            versions(package) | {"best": best},
            {"search": lambda: len(search(*timed, next(seeds)))},
        )
    if not args.peers:
        parser.error("--peers names the interpreter of the peers' environment")
    results = Results(args.results)
    for peer in args.against:
        how = "" if args.algorithm == "tpe" else f" by {args.algorithm}"
        case = f"search of {TRIALS} trials{how} against {peer} {cores()}"
        if case in results.cases:
            continue
        commands = {
            name: [python, __file__, "--worker", name, "--searches", str(args.searches),
                   "--algorithm", args.algorithm, "--functions", *args.functions]
            for name, python in (("ours", sys.executable), (peer, args.peers))
        }  # fmt: skip
        found = compare(commands, "search", rounds=args.rounds, seconds=0.01)
        results.add(case, found | {"machine": machine()})
        bests = {name: facts["best"] for name, facts in found["facts"].items()}
        print(describe(case, found), bests)


def ours(function, parameters, seed, algorithm="tpe"):
    """Return the values of a search's trials."""
    from tfdetect.tuning.objective import objective_named
    from tfdetect.tuning.space import Space
    from tfdetect.tuning.store import COMPLETE, NewTrial, Outcome, Store
    from tfdetect.tuning.suggest import suggest

    space, objective = Space(name="known", parameters=parameters), objective_named("log_loss")
    values = []

    def propose(trials):
        point = suggest(space, objective, algorithm, seed, 10, trials)
        return NewTrial(point, space.overrides(point))

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for _ in range(TRIALS):
            trial = store.claim(propose)
            chosen = dict(space.chosen(trial.point))
            values.append(function(*(chosen[key] for key in parameters)))
            store.finish(Outcome(trial.number, COMPLETE, (values[-1],) * 3))
    return values


def optuna_worker(function, parameters, seed):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial):
        return function(*(
            trial.suggest_categorical(key, values) if kind == "choice"
            else trial.suggest_float(key, *values, log=kind == "log_uniform")
            for key, entry in parameters.items() for kind, values in entry.items()
        ))  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(storage=f"sqlite:///{folder}/study.sqlite", sampler=sampler)
        study.optimize(objective, TRIALS)
        return [trial.value for trial in study.trials]


def keras_tuner_worker(function, parameters, seed):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras_tuner

    values = []

    scales = {"uniform": "linear", "log_uniform": "log"}

    class Known(keras_tuner.BayesianOptimization):
        def run_trial(self, trial):
            given = trial.hyperparameters
            values.append(function(*(
                given.Choice(key, bounds) if kind == "choice"
                else given.Float(key, *bounds, sampling=scales[kind])
                for key, entry in parameters.items() for kind, bounds in entry.items()
            )))  # fmt: skip
            return values[-1]

    silent = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, silent:
        Known(max_trials=TRIALS, seed=seed, directory=folder, project_name="study").search()
    return values


WORKERS = {
    "ours": (ours, "hyperopt"),
    "optuna": (optuna_worker, "optuna"),
    "keras_tuner": (keras_tuner_worker, "keras-tuner"),
}
PEERS = [name for name in WORKERS if name != "ours"]


if __name__ == "__main__":
    main()
