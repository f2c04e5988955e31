"""`python -m tfdetect.matrix`: trains on each generator, tests on all of them."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect matrix",
        description="Trains one detector on each generator of a dataset (or on all but each), "
        "tests each on every one, and writes the table with intervals, a heat map, CSV and LaTeX. "
        "The same command goes on where an interrupted one was; finished runs are reused.",
    )
    what = p.add_argument_group("what to train")
    what.add_argument("--dataset", metavar="NAME", help="as for train")
    what.add_argument("--experiment", metavar="NAME", help="as for train")
    what.add_argument("--model", metavar="NAME", help="as for train")
    what.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                      help="override a key of the experiment")  # fmt: skip
    what.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    what.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    how = p.add_argument_group("how")
    how.add_argument("--by", default="generator", metavar="WHAT", help="generator (default), "
                     "dataset (parts of a union), or a regular expression in paths whose group "
                     "names the part")  # fmt: skip
    how.add_argument("--leave-one-out", action="store_true",
                     help="train on all but one, instead")  # fmt: skip
    how.add_argument("--gpus", metavar="N,N", help="as for train")
    how.add_argument("--gpu-memory-limit", metavar="LIMIT", help="as for train")
    out = p.add_argument_group("what it leaves")
    out.add_argument("--published", metavar="TABLE", help="a published table to show beside: "
                     "genimage_resnet50, or a CSV file")  # fmt: skip
    out.add_argument("--output", type=Path, default=Path("saved_models"), metavar="DIR",
                     help="folder for the matrix' folder (default: saved_models)")  # fmt: skip
    out.add_argument("--name", help="of that folder (default: matrix-EXPERIMENT-DATASET)")
    out.add_argument("--quiet", action="store_true", help="no line for each epoch")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.files import check_writable
    from tfdetect.data.plan import find_data, make_plan
    from tfdetect.training.devices import configure_devices, parse_gpus, parse_memory_limit

    gpus, limits = parse_gpus(args.gpus), parse_memory_limit(args.gpu_memory_limit)
    plan = make_plan(
        args.dataset, args.experiment, args.overrides, args.data_dir, args.authentic, args.model
    )
    if args.published:
        from tfdetect.generalization.matrix_report import read_published

        read_published(args.published)  # refused before any training
    kind = "matrix-leave-one-out" if args.leave_one_out else "matrix"
    folder = args.output / (args.name or f"{kind}-{plan.experiment.name}-{plan.spec.name}")
    check_writable(folder)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.generalization import matrix_report as report
    from tfdetect.generalization import train_matrix as matrix
    from tfdetect.generalization.domains import find_domains

    devices = configure_devices(gpus, limits)
    catalog = find_data(plan, progress=not args.quiet)
    domains = find_domains(catalog, args.by)
    print(f"{len(domains.names)} trainings: {', '.join(domains.names)}; {folder}")
    if domains.left_out:
        print(f"left out, too few fakes: {', '.join(domains.left_out)}", file=sys.stderr)
    runs = matrix.train_all(
        plan, catalog, domains, args.leave_one_out, folder, devices, 0 if args.quiet else 2
    )
    found = {
        "experiment": plan.experiment.name, "dataset": plan.spec.name, "by": args.by,
        "domains": list(domains.names), "cells": matrix.measure(runs, domains, catalog),
    }  # fmt: skip
    report.write(found, folder, args.published)
    for metric in ("accuracy", "auc"):
        print(report.terminal(found, metric) + "\n")
    print(f"report {folder / 'matrix.html'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
