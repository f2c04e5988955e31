"""`tfdetect compare`: test whether runs differ by more than chance."""

import sys

from tfdetect.core import cli, console
from tfdetect.core.run_command import run_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect compare",
        description="Compare evaluated runs on the images that all of them were evaluated on: "
        "metrics, paired differences with bootstrap intervals, McNemar's test of the verdicts and "
        "DeLong's test of the AUC, with p-values adjusted by Holm's method. Runs that predict "
        "masks are compared by their masks, too, with Wilcoxon's test of the IoU.",
        examples=[
            ("tfdetect compare saved_models/run_a saved_models/run_b",
             "on the test split of their dataset"),
            ("tfdetect compare saved_models/run_a saved_models/run_b --dataset photos",
             "after 'tfdetect evaluate RUN --dataset path/to/photos' of both"),
        ],
    )  # fmt: skip
    cli.add_runs(p)
    cli.add_split(
        p, "default: the first of test, all and validation of which every run has predictions"
    )
    p.add_argument("--dataset", metavar="NAME", help="compare evaluations on another dataset: the "
                   "name of a folder below evaluations/ in each run (default: the runs' own "
                   "dataset)")  # fmt: skip
    cli.add_json(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api

    found = api.compare(args.runs, split=args.split, dataset=args.dataset)
    if args.json:
        return console.print_json(found)

    from tfdetect.evaluation.paired import format_compared_runs

    console.result(format_compared_runs(found))


if __name__ == "__main__":
    sys.exit(run_command(main))
