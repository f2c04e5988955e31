"""`python -m tfdetect.ensemble`: fuses trained runs into one detector."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect ensemble",
        description="Fuses trained runs into one detector, a run like any other, and reports what "
        "that gains over its members. Weights come from validation; test is for the report.",
    )
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    p.add_argument("--fusion", default="stacked",
                   choices=["stacked", "mean", "weighted", "logistic", "greedy", "gated", "fisher"],
                   help="stacked: a dense layer on the members' calibrated scores (default); mean, "
                   "weighted mean; logistic: regularized; greedy: selection from many runs; gated: "
                   "weights by image, for members that learned different data; fisher: what is "
                   "unusual to any member, for members that look for different things")  # fmt: skip
    p.add_argument("--dataset", metavar="NAME", help="what to fuse on (default: all that members "
                   "were trained on, a+b)")  # fmt: skip
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    p.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    p.add_argument("--no-masks", action="store_true", help="fuse the labels alone")
    p.add_argument("--fine-tune", type=int, default=0, metavar="N", help="then train all of it for "
                   "N epochs (0: members stay as they are)")  # fmt: skip
    p.add_argument("--learning-rate", type=float, default=1e-5, metavar="RATE",
                   help="of fine-tuning (1e-5)")  # fmt: skip
    p.add_argument("--output", type=Path, default=Path("saved_models"), metavar="DIR",
                   help="folder for runs (default: saved_models)")  # fmt: skip
    p.add_argument("--name", help="name of the run (default: ensemble)")
    p.add_argument("--batch-size", type=int, default=64, metavar="N")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.core.run import new_run_path
    from tfdetect.fusion.members import open_members

    if args.fine_tune < 0 or args.learning_rate <= 0 or args.batch_size < 1:
        raise UserError("--fine-tune takes a number from 0 on, --learning-rate and --batch-size "
                        "numbers above 0.")  # fmt: skip
    members = open_members(args.runs, masks=not args.no_masks)
    if args.fine_tune and members.masked and not args.no_masks:
        raise UserError("--fine-tune trains labels alone, and masks would suffer. Give --no-masks.")
    path = new_run_path(args.output, args.name or "ensemble")
    check_writable(path.parent)

    from tfdetect.fusion.fuse import find_data, fuse

    spec, catalog = find_data(members, args.dataset, args.data_dir, args.authentic)
    print(f"{args.fusion} fusion of {', '.join(members.names)} on {spec.name}")
    for warning in catalog.warnings:
        print(f"warning: {warning}", file=sys.stderr)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    run, text = fuse(
        members, args.fusion, spec, catalog, path, not args.no_masks, args.batch_size,
        args.fine_tune, args.learning_rate,
    )  # fmt: skip
    print(text)
    print(f"run {run.path}; reports {run.path / 'fusion.html'}, {run.path / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
