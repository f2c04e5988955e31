"""`python -m tfdetect.train`: trains a detector and leaves a run."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect train",
        description="Trains a detector on a dataset and leaves a run: model, SavedModel, "
        "predictions, metrics, report.",
    )
    what = p.add_argument_group("what to train")
    what.add_argument("--dataset", metavar="NAME", help="a shipped dataset (demo, cifake, "
                      "genimage), a spec file, or a folder with one folder per class")  # fmt: skip
    what.add_argument("--experiment", metavar="NAME", help="a shipped experiment or a YAML file; "
                      "without it the dataset's default")  # fmt: skip
    what.add_argument("--model", metavar="NAME", help="a published detector (see tfdetect models), "
                      "by its own recipe or, with --experiment, by that one's")  # fmt: skip
    what.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                      help="override a key of the experiment, e.g. training.epochs=5")  # fmt: skip
    what.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    what.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    where = p.add_argument_group("where it runs")
    where.add_argument("--gpus", metavar="N,N", help="GPUs to use, e.g. 0,1; none for the CPU; "
                       "default: all there are")  # fmt: skip
    where.add_argument("--gpu-memory-limit", metavar="LIMIT", help="share (0.95), size (14GiB), "
                       "or one per GPU (0=0.9,1=10GiB); default: memory grows")  # fmt: skip
    where.add_argument("--virtual-devices", type=int, metavar="N",
                       help="train N replicas on the CPU")  # fmt: skip
    out = p.add_argument_group("what it leaves")
    out.add_argument("--output", type=Path, default=Path("saved_models"), metavar="DIR",
                     help="folder for runs (default: saved_models)")  # fmt: skip
    out.add_argument("--name", help="name of the run (default: the experiment's)")
    out.add_argument("--no-pictures", action="store_true",
                     help="keep images of the dataset out of the report")  # fmt: skip
    out.add_argument("--resume", nargs="?", const="", metavar="RUN", help="go on with an "
                     "interrupted run; without RUN, the latest one of this experiment")  # fmt: skip
    out.add_argument("--strict", action="store_true", help="refuse data that a quick audit would "
                     "not believe; without it, only warn")  # fmt: skip
    out.add_argument("--dry-run", action="store_true", help="print the resolved experiment, the "
                     "data and the parameter count, and stop")  # fmt: skip
    out.add_argument("--quiet", action="store_true", help="one line an epoch, no progress bars")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.training.devices import configure_devices, parse_gpus, parse_memory_limit

    gpus, limits = parse_gpus(args.gpus), parse_memory_limit(args.gpu_memory_limit)
    if args.virtual_devices is not None and args.virtual_devices < 1:
        raise UserError("--virtual-devices takes a number from 1 on.")

    from tfdetect.auditing.check_training_data import check_training_data
    from tfdetect.core.files import check_writable
    from tfdetect.core.run import PARTIAL, find_unfinished, new_run_path
    from tfdetect.data.plan import describe_data, find_data, load_plan, make_plan
    from tfdetect.train_run import describe_plan, train_run

    if args.resume:
        path = Path(args.resume)
        path = path.with_name(path.name.removesuffix(PARTIAL))
        plan = load_plan(path)
    else:
        plan = make_plan(
            args.dataset, args.experiment, args.overrides, args.data_dir, args.authentic,
            args.model,
        )  # fmt: skip
        if args.resume is None:
            path = new_run_path(args.output, args.name or plan.experiment.name)
        else:
            path = find_unfinished(args.output, plan.experiment)
    if not args.dry_run:
        check_writable(path.parent)
    print(f"experiment {plan.experiment.name} ({plan.chosen}), dataset {plan.spec.name}")

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    devices = configure_devices(gpus, limits, args.virtual_devices)
    catalog = find_data(plan, progress=not args.quiet)
    places = ", ".join(map(str, catalog.roots.values()))
    print(f"data {places}: {describe_data(plan, catalog)}")
    for warning in catalog.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    check_training_data(plan, catalog, args.strict)
    if args.dry_run:
        print(describe_plan(plan))
        return
    print(f"training on {devices.text}, run {path}")
    run = train_run(
        plan, catalog, path, devices, pictures=not args.no_pictures,
        verbose=2 if args.quiet or not sys.stdout.isatty() else 1,
    )  # fmt: skip
    report = run.path / "report.html"
    print(f"run {run.path} ({run.info['status']})" + (f"; report {report}" * report.is_file()))
    if run.info["status"] == "interrupted":
        print(f"go on with: python -m tfdetect.train --resume {run.path}")


if __name__ == "__main__":
    sys.exit(run_command(main))
