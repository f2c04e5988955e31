"""A search's own time and the values it finds, against Optuna and KerasTuner.

    python benchmarks/search_peers.py --peers PEERS/bin/python

PEERS is a virtual environment with `pip install optuna keras-tuner "jax[cpu]" six grpcio protobuf`.
The trials of all compute the same known function of four parameters, which takes no time, so that
the time is that of the search: it proposes a point with TPE, stores the trial in SQLite and reads
it back. Optuna does the same, with its TPE and its SQLite; KerasTuner's BayesianOptimization fits a
Gaussian process and stores JSON files, which takes minutes for a search.
"""

import argparse
import contextlib
import io
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path

from timing import Results, compare, cores, describe, machine, serve, versions

TRIALS, SEARCHES = 100, 5
SPACE = {
    "training.optimizer.learning_rate": {"log_uniform": [1e-5, 1.0]},
    "training.label_smoothing": {"uniform": [0.0, 0.5]},
    "model.dropout": {"uniform": [0.0, 0.9]},
    "training.batch_size": {"choice": [16, 32, 64, 128, 256]},
}


def loss(rate, smoothing, dropout, batch):
    """A valley in the rate whose bottom depends on the batch, as in trainings; 0 at best."""
    best = -3 + 0.5 * math.log2(batch / 64)
    return (
        (math.log10(rate) - best) ** 2 + 4 * (smoothing - 0.1) ** 2 + 2 * (dropout - 0.3) ** 2
        + 0.1 * abs(math.log2(batch / 64))
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of the peers' environment")
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each (6)")
    parser.add_argument("--results", type=Path, default=Path("search_peers.json"))
    parser.add_argument("--against", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        search, package = WORKERS[args.worker]
        best = statistics.median(min(search(seed)) for seed in range(SEARCHES))
        seeds = iter(range(SEARCHES, 10**6))
        facts = versions(package) | {"best": round(best, 4)}
        return serve(facts, {"search": lambda: len(search(next(seeds)))})
    if not args.peers:
        parser.error("--peers names the interpreter of the peers' environment")
    results = Results(args.results)
    for peer in args.against:
        case = f"search of {TRIALS} trials against {peer} {cores()}"
        if case in results.cases:
            continue
        commands = {
            name: [python, __file__, "--worker", name]
            for name, python in (("ours", sys.executable), (peer, args.peers))
        }
        found = compare(commands, "search", rounds=args.rounds, seconds=0.01)
        results.add(case, found | {"machine": machine()})
        bests = {name: facts["best"] for name, facts in found["facts"].items()}
        print(describe(case, found), bests)


def ours(seed):
    """Return the values of a search's trials."""
    from tfdetect.tuning.objective import objective_named
    from tfdetect.tuning.space import Space
    from tfdetect.tuning.store import COMPLETE, NewTrial, Outcome, Store
    from tfdetect.tuning.suggest import suggest

    space, objective = Space(name="known", parameters=SPACE), objective_named("log_loss")
    values = []

    def propose(trials):
        point = suggest(space, objective, "tpe", seed, 10, trials)
        return NewTrial(point, space.overrides(point))

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for _ in range(TRIALS):
            trial = store.claim(propose)
            chosen = dict(space.chosen(trial.point))
            values.append(loss(*(chosen[key] for key in SPACE)))
            store.finish(Outcome(trial.number, COMPLETE, (values[-1],) * 3))
    return values


def optuna_worker(seed):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial):
        return loss(
            trial.suggest_float("rate", 1e-5, 1.0, log=True),
            trial.suggest_float("smoothing", 0.0, 0.5),
            trial.suggest_float("dropout", 0.0, 0.9),
            trial.suggest_categorical("batch", [16, 32, 64, 128, 256]),
        )

    with tempfile.TemporaryDirectory() as folder:
        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(storage=f"sqlite:///{folder}/study.sqlite", sampler=sampler)
        study.optimize(objective, TRIALS)
        return [trial.value for trial in study.trials]


def keras_tuner_worker(seed):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras_tuner

    values = []

    class Known(keras_tuner.BayesianOptimization):
        def run_trial(self, trial):
            given = trial.hyperparameters
            values.append(loss(
                given.Float("rate", 1e-5, 1.0, sampling="log"), given.Float("smoothing", 0.0, 0.5),
                given.Float("dropout", 0.0, 0.9), given.Choice("batch", [16, 32, 64, 128, 256]),
            ))  # fmt: skip
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
