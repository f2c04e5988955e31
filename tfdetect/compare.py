"""`python -m tfdetect.compare`: is one run better than another, or was it luck?"""

import json
import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command

METRICS = ("accuracy", "balanced_accuracy", "auc", "ap", "tpr_at_fpr_1", "tpr_at_fpr_5", "log_loss")


def parser() -> Parser:
    p = Parser(
        prog="tfdetect compare",
        description="Compares evaluated runs on the images that all of them were asked about: "
        "metrics, paired differences with bootstrap intervals, McNemar's test of verdicts and "
        "DeLong's of AUC, adjusted for their number after Holm.",
    )
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="two or more runs")
    p.add_argument("--split", choices=["train", "validation", "test", "all"], default="test",
                   help="default: test")  # fmt: skip
    p.add_argument("--dataset", metavar="NAME", help="of an evaluation on other images: its name "
                   "below evaluations/ in the runs")  # fmt: skip
    p.add_argument("--json", action="store_true", help="print JSON, not tables")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.run import open_run

    if len(set(args.runs)) < 2:
        raise UserError("Comparing takes two runs or more.")
    runs = {}
    for path in args.runs:
        run = open_run(path)
        runs[run.name if run.name not in runs else str(path)] = run

    from tfdetect.evaluation.paired import compare, terminal

    found = compare(runs, args.split, args.dataset, METRICS)
    print(json.dumps(found, indent=2) if args.json else terminal(found))


if __name__ == "__main__":
    sys.exit(run_command(main))
