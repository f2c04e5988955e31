"""`tfdetect benchmark`: measure runs on standard benchmarks, beside the published figures."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import cli, console
from tfdetect.core.run_command import continuing, run_command
from tfdetect.core.text import counted

if TYPE_CHECKING:
    from tfdetect.benchmarks.result_types import PlannedScores


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect benchmark",
        description="Measure runs on standard benchmarks: GenImage, ForenSynths, CIFAKE, CASIA and "
        "others. You get the published tables with your runs in them, a report for each suite and "
        "a leaderboard.\n\n"
        "Every suite is measured twice: as published, and with both classes brought to one crop "
        "and one encoding, because file formats alone tell the classes of many benchmarks "
        "apart.\n\n"
        "The same command continues an interrupted one. Runs and suites can be added later; all "
        "results in the output folder are on the leaderboard.",
        examples=[
            ("tfdetect benchmark --list", "the suites, and what they need"),
            ("tfdetect benchmark genimage --run saved_models/my_run --data-dir DIR",
             "the tables of GenImage with your run in them"),
            ("tfdetect benchmark localization --run saved_models/localizer_photos --data-dir DIR "
             "--subset Columbia", "pixel F1 on one dataset with masks"),
            ("tfdetect benchmark cifake wildrf --run saved_models/a --run saved_models/b",
             "two runs on two suites"),
        ],
    )  # fmt: skip
    p.add_argument("suites", nargs="*", metavar="SUITE", help="a suite of --list, or a YAML file "
                   "with one of your own")  # fmt: skip
    p.add_argument("--run", dest="runs", action="append", type=Path, default=[], metavar="RUN",
                   help=f"{cli.RUN_HELP}; repeatable")  # fmt: skip
    p.add_argument("--list", action="store_true", help="list the suites and end")
    data = p.add_argument_group("images")
    data.add_argument("--data-dir", type=Path, metavar="DIR", help="the folder of the suite's "
                      "images, or a folder that holds one folder per dataset, each named as in "
                      "--list (default: $TFDETECT_DATA, then the cache, then a "
                      "download)")  # fmt: skip
    data.add_argument("--subset", dest="subsets", action="append", default=[], metavar="NAME",
                      help="score only this subset; repeatable (default: all)")  # fmt: skip
    out = p.add_argument_group("output")
    out.add_argument("--output", type=Path, default=Path("saved_models/benchmarks"), metavar="DIR",
                     help="folder for results (default: saved_models/benchmarks)")  # fmt: skip
    cli.add_batch_size(out)
    out.add_argument("--dry-run", action="store_true", help="look for the images, print what would "
                     "be scored and what was scored before, and stop")  # fmt: skip
    cli.add_json(out)
    cli.add_quiet(out)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.benchmarks.suite import list_rows, load_suite

    if args.list:
        headers, rows = list_rows()
        if args.json:
            return console.print_json([dict(zip(headers, row)) for row in rows])
        return console.result(console.format_table(rows, headers))

    from tfdetect.core.errors import UserError

    if not args.suites:
        raise UserError("Name a suite; see: tfdetect benchmark --list")
    if not args.runs:
        raise UserError("Give a run: --run saved_models/my_run")

    from tfdetect import api

    with continuing("Scores of finished subsets are"):
        results = api.benchmark(
            args.suites, args.runs, data_dir=args.data_dir, subsets=args.subsets,
            output=args.output, batch_size=args.batch_size, dry_run=args.dry_run,
            **cli.progress_of(args),
        )  # fmt: skip
    if args.json:
        return console.print_json(results.values)

    if args.dry_run:
        return _show_plan(results.values)

    from tfdetect.benchmarks.tables import format_benchmark

    for suite in map(load_suite, dict.fromkeys(args.suites)):
        console.result(format_benchmark(suite, results.values[suite.name], results.keys) + "\n")
        console.result(f"report       {results.reports[suite.name]}")
    console.result(f"leaderboard  {results.leaderboard}")


def _show_plan(values: "Mapping[str, list[PlannedScores]]") -> None:
    """Print what would be scored, and the command that does it."""
    from tfdetect.core.provenance import command_line

    rows = [(suite, row) for suite, found in values.items() for row in found]
    console.table([
        {"suite": suite, **row, "images": f"{row['images']:,}",
         "scored": "before" if row["scored"] else "now"}
        for suite, row in rows
    ])  # fmt: skip
    now = [row["images"] for _, row in rows if not row["scored"]]
    console.result(
        f"\n{len(rows) - len(now)} scored before, {len(now)} now ({counted(sum(now), 'image')})"
    )
    console.result(f"next    {command_line('benchmark', without=('--dry-run',))}")


if __name__ == "__main__":
    sys.exit(run_command(main))
