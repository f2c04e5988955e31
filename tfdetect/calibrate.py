"""`python -m tfdetect.calibrate`: makes a run's P(fake) a probability, and chooses thresholds."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command

METHODS = ("auto", "temperature", "platt", "isotonic", "none")


def parser() -> Parser:
    p = Parser(
        prog="tfdetect calibrate",
        description="Calibrates a run anew on its validation split, or on other images that it was "
        "not trained on, chooses operating points and an unsure band, measures again and writes "
        "the SavedModel again. Training does it by itself; this is for other images and wishes.",
    )
    p.add_argument("run", type=Path, help="folder of a run")
    p.add_argument("--dataset", metavar="NAME", help="other images, as for evaluate")
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    p.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    p.add_argument(
        "--split",
        choices=["train", "validation", "all"],
        default="validation",
        help="default: validation; another only with --dataset",
    )
    p.add_argument("--method", choices=METHODS, default="auto", help="default: auto, the one that "
                   "does best on folds it was not fitted on")  # fmt: skip
    p.add_argument("--cost", type=float, metavar="C", help="what a false alarm costs, where a "
                   "missed fake costs 1: for the operating point 'cost'")  # fmt: skip
    p.add_argument("--unsure", type=float, metavar="SHARE", help="of each class that may get a "
                   "wrong verdict outside the unsure band (default: 0.01, of few images "
                   "0.05)")  # fmt: skip
    p.add_argument("--no-pictures", action="store_true",
                   help="keep images of the dataset out of the report")  # fmt: skip
    p.add_argument("--batch-size", type=int, default=64, metavar="N")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.core.run import open_run
    from tfdetect.data.plan import evaluation_data

    if args.cost is not None and args.cost <= 0:
        raise UserError(f"--cost takes a number above 0. Got {args.cost}.")
    if args.unsure is not None and not 0 < args.unsure < 0.5:
        raise UserError(f"--unsure lies between 0 and 0.5. Got {args.unsure}.")
    if args.dataset is None and args.split != "validation":
        raise UserError(f"--split {args.split} of the run's own dataset holds images that it was "
                        "trained on. Calibrate on validation, or give --dataset.")  # fmt: skip
    run = open_run(args.run)
    check_writable(run.path)
    spec, roots, output = evaluation_data(run, args.dataset, args.data_dir, args.authentic, None)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.data.catalog import build_catalog
    from tfdetect.evaluation.evaluate_run import Calibrate, evaluate_run
    from tfdetect.evaluation.run_report import terminal_table
    from tfdetect.models.saved_model import export_saved_model

    splits = (args.split,) if args.split == "all" else (args.split, "test")
    results = evaluate_run(
        run, build_catalog(spec, roots), splits, output,
        pictures=not args.no_pictures, batch_size=args.batch_size,
        calibrate=Calibrate(args.method, args.cost, args.unsure),
        say=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    export_saved_model(run.reread())
    print(terminal_table(results))
    print(f"report {output / 'report.html'}; the run and its SavedModel are calibrated")


if __name__ == "__main__":
    sys.exit(run_command(main))
