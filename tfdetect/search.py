"""`tfdetect search`: search for a better experiment."""

import sys
from typing import TYPE_CHECKING, Any, get_args

from tfdetect.core import cli, console
from tfdetect.core.choices import Algorithm, Rule
from tfdetect.core.run_command import continuing, run_command
from tfdetect.core.text import shell_command

if TYPE_CHECKING:
    from tfdetect.tuning.search_folder import SearchPlan


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect search",
        description="Search for better hyperparameters with hyperopt. Each trial is a training in "
        "a process of its own, measured on the validation split; unpromising ones are stopped "
        "early. The result is a report, a table of the trials and best.yaml, the best "
        "experiment.\n\n"
        "The same command continues an interrupted search; several at once share one search.",
        examples=[
            ("tfdetect search --space small_resnet --dataset cifake --max-hours 8 --retrain",
             "one night, then train the best experiment"),
            ("tfdetect search --space small_resnet --dataset demo --max-trials 5 "
             "--trial-set training.epochs=1", "a quick try with short trials"),
        ],
    )  # fmt: skip
    what = p.add_argument_group("search space")
    what.add_argument(
        "--space",
        required=True,
        metavar="NAME|FILE",
        help="which values of the experiment vary, and how: a shipped search space or a YAML file",
    )
    cli.add_experiment(what, "the space's, or else the dataset's own")
    what.add_argument("--trial-set", dest="trial_overrides", action="append", default=[],
                      metavar="KEY=VALUE", help="change one value in the trials alone, for example "
                      "training.epochs=3; the best experiment keeps its own; "
                      "repeatable")  # fmt: skip
    cli.add_dataset(p.add_argument_group("dataset"), "Images to train on (default: those of the "
                    "experiment)")  # fmt: skip
    how = p.add_argument_group("method")
    how.add_argument("--objective", metavar="METRIC", help="validation metric to optimize: "
                     "accuracy, auc, ap, log_loss, mask_iou_altered, ... (default: what the "
                     "experiment monitors)")  # fmt: skip
    how.add_argument("--algorithm", default="tpe", choices=get_args(Algorithm),
                     help="algorithm that suggests hyperparameters (default: tpe, hyperopt's); "
                     "optuna is Optuna's TPE, which models parameters jointly, atpe hyperopt's "
                     'adaptive TPE; both need pip install "tfdetect[search]"')  # fmt: skip
    how.add_argument("--startup", type=cli.count_or_0, default=10, metavar="N",
                     help="trials drawn at random before TPE begins (default: 10)")  # fmt: skip
    how.add_argument("--seed", type=int, default=0, metavar="N",
                     help="seed of the suggestions (default: 0)")  # fmt: skip
    how.add_argument("--folds", type=cli.count, default=1, metavar="N", help="N-fold cross-"
                     "validation of each trial on train and validation together (default: 1, the "
                     "validation split)")  # fmt: skip
    how.add_argument("--prune", default="median", choices=get_args(Rule),
                     help="rule that stops unpromising trials early (default: median)")  # fmt: skip
    how.add_argument("--first-epochs", type=cli.count, default=1, metavar="N",
                     help="epochs that each trial trains before it can be stopped "
                     "(default: 1)")  # fmt: skip
    how.add_argument("--no-baseline", action="store_true",
                     help="do not begin with the unchanged experiment")  # fmt: skip
    budget = p.add_argument_group("budget")
    budget.add_argument("--max-trials", type=cli.count, metavar="N",
                        help="number of trials (default: 50, without another limit)")  # fmt: skip
    budget.add_argument("--max-hours", type=cli.positive, metavar="H",
                        help="start no trial after this many hours "
                        "(default: no limit)")  # fmt: skip
    budget.add_argument("--max-epochs", type=cli.count, metavar="N",
                        help="start no trial once all trials together have trained this "
                        "many epochs (default: no limit)")  # fmt: skip
    devices = p.add_argument_group("devices")
    devices.add_argument("--parallel", type=cli.count, default=1, metavar="N", help="trials at "
                         "once; they share GPUs and CPU cores (default: 1)")  # fmt: skip
    cli.add_devices(devices, " by each trial")
    devices.add_argument(
        "--spark",
        metavar="MASTER",
        help="run the trials on a Spark cluster, for "
        'example spark://host:7077; needs pip install "tfdetect[spark]" (default: no cluster)',
    )
    out = p.add_argument_group("output")
    cli.add_runs_folder(out, "search-SPACE-DATASET")
    out.add_argument("--retrain", action="store_true",
                     help="then train the best experiment as a run of its own")  # fmt: skip
    out.add_argument("--dry-run", action="store_true", help="check space, experiment and dataset, "
                     "print some points of the space, and stop")  # fmt: skip
    cli.add_json(out)
    cli.add_quiet(out)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api
    from tfdetect.api.search_functions import prepare_search

    what: dict[str, Any] = {
        "space": args.space, "dataset": args.dataset, "experiment": args.experiment,
        "model": args.model, "overrides": args.overrides, "trial_overrides": args.trial_overrides,
        "data_dir": args.data_dir, "authentic": args.authentic, "objective": args.objective,
        "algorithm": args.algorithm, "startup_trials": args.startup, "seed": args.seed,
        "folds": args.folds, "prune": args.prune, "first_epochs": args.first_epochs,
        "baseline": not args.no_baseline,
    }  # fmt: skip
    if args.dry_run:
        return _show_points(prepare_search(**what), args.json)
    with continuing("Finished trials are"):
        found = api.search(
            **what, max_trials=args.max_trials, max_hours=args.max_hours,
            max_epochs=args.max_epochs, parallel=args.parallel, gpus=args.gpus,
            gpu_memory_limit=args.gpu_memory_limit, spark=args.spark, output=args.output,
            name=args.name, retrain=args.retrain, progress=not args.quiet,
        )  # fmt: skip
    run = found.run.path if found.run else None
    if args.json:
        return console.print_json({
            "search": found.folder, "objective": found.objective, "best": found.best,
            "experiment": found.experiment, "run": run, "trials": found.trials,
        })  # fmt: skip
    console.result(found.summary)
    console.result(f"\nsearch  {found.folder}")
    console.result(f"report  {found.report}")
    if run:
        console.result(f"run     {run}")
        console.result(f"next    {shell_command('predict', run, 'IMAGE_OR_FOLDER')}")
    else:
        console.result(f"next    {found.train_command}")


def _show_points(plan: "SearchPlan", as_json: bool) -> None:
    """Print what would be searched, and some points of the space."""
    from tfdetect.core.provenance import command_line
    from tfdetect.tuning.make_search import example_overrides

    points, labels = example_overrides(plan), plan.space.labels()
    objective = plan.settings.objective
    if as_json:
        return console.print_json({
            "space": plan.space.name, "parameters": labels, "experiment": plan.experiment.name,
            "dataset": plan.spec.name, "objective": objective, "points": points,
        })  # fmt: skip
    console.result(
        f"space {plan.space.name}, parameters {len(labels)}, experiment {plan.experiment.name}, "
        f"dataset {plan.spec.name}, objective {objective}"
    )
    for overrides in points:
        console.result("  " + "  ".join(overrides))
    console.result(f"next    {command_line('search', without=('--dry-run',))}")


if __name__ == "__main__":
    sys.exit(run_command(main))
