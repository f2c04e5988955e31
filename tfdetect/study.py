"""`tfdetect study`: answer a question by several trainings."""

import sys

from tfdetect.core import cli, console
from tfdetect.core.errors import UserError
from tfdetect.core.run_command import continuing, run_command

STUDIES = ("learning-curve", "variants")


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect study",
        description="Answer a question by several trainings, and write a page with a table, "
        "intervals and a figure.\n\n"
        "learning-curve: does more data help? Trains on nested subsets of a dataset, by number of "
        "images, generators or contents, tests all on its test split, and fits a power law.\n\n"
        "variants: does a setting help? Trains variants of an experiment with the same seeds, "
        "data and budget, and measures the paired differences.\n\n"
        "The same command continues an interrupted study; finished runs are reused. For unseen "
        "generators and contents see 'tfdetect matrix --leave-one-out'.",
        examples=[
            ("tfdetect study learning-curve --dataset cifake --seeds 3",
             "the error over the number of training images"),
            ("tfdetect study learning-curve --dataset genimage --by generator --equal-images",
             "more generators, with the same number of images"),
            ("tfdetect study variants --dataset cifake --vary model.front_end=dct,spectrum "
             "--seeds 3",
             "DCT or DFT?"),
        ],
    )  # fmt: skip
    p.add_argument("study", choices=STUDIES, metavar="STUDY", help=f"one of {', '.join(STUDIES)}")
    cli.add_dataset(p.add_argument_group("dataset"), "Images to train and test on (default: those "
                    "of the experiment)")  # fmt: skip
    cli.add_experiment(p.add_argument_group("experiment"))
    how = p.add_argument_group("study")
    how.add_argument("--seeds", type=cli.count, default=1, metavar="N", help="trainings of each "
                     "kind, with different random numbers (default: 1)")  # fmt: skip
    how.add_argument("--by", metavar="WHAT", help="of learning-curve, what smaller trainings have "
                     "less of: images, generator, dataset (the parts of A+B), or a regular "
                     "expression on paths whose group names the content "
                     "(default: images)")  # fmt: skip
    how.add_argument("--points", type=cli.number_above(1, whole=True), metavar="N", help="of "
                     "learning-curve, number of sizes: all, a half, a quarter, ... "
                     "(default: 5, or as many as there are)")  # fmt: skip
    how.add_argument("--equal-images", action="store_true", help="of learning-curve by generator "
                     "or content: give all trainings as many images as the smallest")  # fmt: skip
    how.add_argument("--vary", action="append", default=[], metavar="KEY=A,B", help="of variants, "
                     "a setting and its values. Or once for each variant: --vary KEY=A --vary "
                     "\"KEY=B; OTHER=C\", or with a name for the table: --vary \"NAME: "
                     "KEY=A\"")  # fmt: skip
    cli.add_devices(p.add_argument_group("devices"))
    out = p.add_argument_group("output")
    cli.add_runs_folder(out, "STUDY-EXPERIMENT-DATASET")
    out.add_argument("--dry-run", action="store_true", help="print which trainings there would be, "
                     "and which finished runs would be reused, and stop")  # fmt: skip
    cli.add_json(out)
    cli.add_quiet(out)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api

    of_curve = {"by": args.by, "points": args.points, "equal_images": args.equal_images or None}
    given = {name: value for name, value in of_curve.items() if value is not None}
    common = {
        "model": args.model, "overrides": args.overrides, "data_dir": args.data_dir,
        "authentic": args.authentic, "seeds": args.seeds, "gpus": args.gpus,
        "gpu_memory_limit": args.gpu_memory_limit, "output": args.output, "name": args.name,
        "dry_run": args.dry_run, "progress": not args.quiet,
    }  # fmt: skip
    if args.study == "variants":
        if given:
            raise UserError(f"--{next(iter(given)).replace('_', '-')} is for learning-curve.")
        with continuing("Finished trainings are"):
            results = api.compare_variants(args.vary, args.dataset, args.experiment, **common)
    else:
        if args.vary:
            raise UserError("--vary is for variants.")
        with continuing("Finished trainings are"):
            results = api.learning_curve(args.dataset, args.experiment, **given, **common)
    values = results.values
    if "trainings" in values:
        from tfdetect.generalization.planned import show_planned

        return show_planned(values, "study", args.json)
    if args.json:
        return console.print_json(values)

    from tfdetect.generalization.study_report import format_curve, format_variants

    console.result(format_curve(values) if "points" in values else format_variants(values))
    console.result(f"\nreport  {results.report}")


if __name__ == "__main__":
    sys.exit(run_command(main))
