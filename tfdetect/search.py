"""`python -m tfdetect.search`: searches for a better experiment with hyperopt."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect search",
        description="Searches for a better experiment: hyperopt suggests, each trial is a run in a "
        "process of its own, measured on validation. The same command goes on where an "
        "interrupted search was; several at once work on one search.",
    )
    what = p.add_argument_group("what to search")
    what.add_argument("--space", required=True, metavar="NAME", help="a shipped search space or a "
                      "YAML file: which keys of the experiment vary, and how")  # fmt: skip
    what.add_argument("--dataset", metavar="NAME", help="as for train")
    what.add_argument("--experiment", metavar="NAME", help="what is varied (default: the space's, "
                      "or the dataset's)")  # fmt: skip
    what.add_argument("--model", metavar="NAME", help="as for train")
    what.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                      help="override a key of the experiment, in trials and result")  # fmt: skip
    what.add_argument("--trial-set", dest="for_trials", action="append", default=[],
                      metavar="KEY=VALUE", help="override a key in the trials alone, e.g. "
                      "training.epochs=3; the result keeps the experiment's")  # fmt: skip
    what.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    what.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    how = p.add_argument_group("how")
    how.add_argument("--objective", metavar="METRIC", help="of validation, e.g. auc, ap, log_loss, "
                     "mask_iou_altered (default: what the experiment monitors)")  # fmt: skip
    how.add_argument("--algorithm", default="tpe", choices=["tpe", "random", "atpe"],
                     help="default: tpe; atpe is adaptive TPE (tfdetect[search])")  # fmt: skip
    how.add_argument("--startup", type=int, default=10, metavar="N",
                     help="trials drawn at random before TPE begins (10)")  # fmt: skip
    how.add_argument("--seed", type=int, default=0)
    how.add_argument("--folds", type=int, default=1, metavar="N", help="validate each trial on N "
                     "folds of train and validation, by group (1: the own validation)")  # fmt: skip
    how.add_argument("--prune", default="median", choices=["median", "halving", "none"],
                     help="stop unpromising trials early (default: median)")  # fmt: skip
    how.add_argument("--first-epochs", type=int, default=1, metavar="N",
                     help="epochs that every trial may train (1)")  # fmt: skip
    how.add_argument("--no-baseline", action="store_true",
                     help="do not begin with the experiment unchanged")  # fmt: skip
    budget = p.add_argument_group("how much")
    budget.add_argument("--max-trials", type=int, metavar="N", help="default: 50, if there is no "
                        "other limit")  # fmt: skip
    budget.add_argument("--max-hours", type=float, metavar="H", help="begin no trial after that")
    budget.add_argument("--max-epochs", type=int, metavar="N", help="the same, of all trials")
    where = p.add_argument_group("where it runs")
    where.add_argument("--parallel", type=int, default=1, metavar="N",
                       help="trials at once; GPUs and CPU cores are shared out (1)")  # fmt: skip
    where.add_argument("--gpus", metavar="N,N", help="GPUs to use; none for the CPU")
    where.add_argument("--gpu-memory-limit", metavar="LIMIT", help="of each trial, as for train")
    where.add_argument("--spark", metavar="MASTER", help="on a Spark cluster, as "
                       "spark://host:7077, by SparkTrials (tfdetect[spark])")  # fmt: skip
    out = p.add_argument_group("what it leaves")
    out.add_argument("--output", type=Path, default=Path("saved_models"), metavar="DIR",
                     help="folder for the search's folder (default: saved_models)")  # fmt: skip
    out.add_argument("--name", help="of that folder (default: search-SPACE-DATASET)")
    out.add_argument("--retrain", action="store_true", help="then train the best experiment as a "
                     "run of its own")  # fmt: skip
    out.add_argument("--dry-run", action="store_true", help="check space, experiment and data, "
                     "print some points of the space, and stop")  # fmt: skip
    out.add_argument("--quiet", action="store_true", help="no progress line")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.training.devices import parse_gpus, parse_memory_limit
    from tfdetect.tuning.lifecycle import examples, finish, make_search, retrain
    from tfdetect.tuning.scheduler import Budget, run_search, share_out
    from tfdetect.tuning.settings import create_search

    for name in ("parallel", "max_trials", "max_hours", "max_epochs", "folds", "first_epochs"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} takes a number above 0. Got {value}.")
    gpus = parse_gpus(args.gpus)
    parse_memory_limit(args.gpu_memory_limit)  # refused before the first trial, not in each
    limits = args.max_trials, args.max_hours, args.max_epochs
    budget = Budget(*limits) if any(limits) else Budget(50)
    parts = make_search(
        args.space, args.dataset, args.experiment, args.overrides, args.data_dir, args.authentic,
        args.model,
        objective=args.objective, algorithm=args.algorithm, startup=args.startup, seed=args.seed,
        folds=args.folds, prune=args.prune, first_epochs=args.first_epochs,
        baseline=not args.no_baseline, for_trials=tuple(args.for_trials),
    )  # fmt: skip
    settings, space, experiment, spec = parts
    print(f"space {space.name} ({len(space.labels())} parameters), experiment {experiment.name}, "
          f"dataset {spec.name}, objective {settings.objective} of "
          + ("validation" if settings.folds == 1 else f"{settings.folds} folds"))  # fmt: skip
    if args.dry_run:
        for overrides in examples(space, settings):
            print("  " + "  ".join(overrides))
        return
    check_writable(args.output)
    search = create_search(args.output / (args.name or f"search-{space.name}-{spec.name}"), *parts)
    print(f"search {search.folder}")
    try:
        if args.spark:
            from tfdetect.tuning.spark import run_on_spark

            run_on_spark(search, budget, args.spark, args.parallel)
        else:
            run_search(search, budget, share_out(args.parallel, gpus, args.gpu_memory_limit),
                       progress=not args.quiet)  # fmt: skip
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        raise
    print(finish(search))
    if args.retrain:
        run = retrain(search, args.output, args.data_dir, args.gpus, args.gpu_memory_limit)
        print(f"run {run}")


if __name__ == "__main__":
    sys.exit(run_command(main))
