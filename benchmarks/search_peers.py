"""A search's own time and the values it finds, against Optuna: the same space and budget.

    python benchmarks/search_peers.py --peers PEERS/bin/python

PEERS is a virtual environment with `pip install optuna`. The trials compute a known function of
four parameters at once, so that the time is that of the search: it proposes a point with TPE,
stores the trial in SQLite and reads it back. Optuna does the same, with its TPE and its SQLite.
"""

import argparse
import math
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
    parser.add_argument("--worker", choices=("ours", "optuna"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        search = ours if args.worker == "ours" else optuna_worker
        package = "hyperopt" if args.worker == "ours" else "optuna"
        best = statistics.median(min(search(seed)) for seed in range(SEARCHES))
        seeds = iter(range(SEARCHES, 10**6))
        facts = versions(package) | {"best": round(best, 4)}
        return serve(facts, {"search": lambda: len(search(next(seeds)))})
    if not args.peers:
        parser.error("--peers names the interpreter of the peers' environment")
    results, case = Results(args.results), f"search of {TRIALS} trials {cores()}"
    if case in results.cases:
        return
    commands = {"ours": [sys.executable, __file__, "--worker", "ours"],
                "optuna": [args.peers, __file__, "--worker", "optuna"]}  # fmt: skip
    found = compare(commands, "search", rounds=args.rounds, seconds=0.01)
    results.add(case, found | {"machine": machine()})
    print(describe(case, found), {name: facts["best"] for name, facts in found["facts"].items()})


def ours(seed):
    """Return the values of a search's trials."""
    from tfdetect.tuning.objective import objective_named
    from tfdetect.tuning.space import Space
    from tfdetect.tuning.store import COMPLETE, NewTrial, Store
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
            store.finish(trial.number, COMPLETE, objective=(values[-1],) * 3)
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


if __name__ == "__main__":
    main()
