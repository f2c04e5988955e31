"""`tfdetect ensemble`: fuse runs into one detector."""

import sys

from tfdetect.core import cli, console
from tfdetect.core.choices import FUSIONS
from tfdetect.core.errors import UserError
from tfdetect.core.run_command import run_command
from tfdetect.core.text import shell_command


def parser() -> cli.Parser:
    fusions = "; ".join(f"{name}: {text}" for name, text in FUSIONS.items())
    p = cli.Parser(
        prog="tfdetect ensemble",
        description="Fuse runs into one detector, which is a run like any other, and report what "
        "that gains over its members. The fusion is fitted on the validation split and measured "
        "on the test split.",
        examples=[
            ("tfdetect ensemble saved_models/run_a saved_models/run_b", "fuse two runs"),
            ("tfdetect ensemble saved_models/run_* --fusion greedy --name best_of_all",
             "choose from many runs"),
            ("tfdetect ensemble saved_models/cifake_densenet121 saved_models/deepfakeart_xception "
             "--fusion dense", "a dense unit on two trained runs"),
        ],
    )  # fmt: skip
    cli.add_runs(p)
    how = p.add_argument_group("fusion")
    how.add_argument("--fusion", default="stacked", choices=list(FUSIONS), metavar="NAME",
                     help=f"{fusions} (default: stacked)")  # fmt: skip
    how.add_argument("--no-masks", action="store_true",
                     help="fuse only the labels, where members also predict masks")  # fmt: skip
    how.add_argument("--fine-tune", type=cli.count_or_0, default=0, metavar="N",
                     help="then train the fused detector as a whole for N epochs "
                     "(default: 0)")  # fmt: skip
    how.add_argument("--learning-rate", type=cli.positive, metavar="RATE",
                     help="learning rate of --fine-tune (default: 1e-5)")  # fmt: skip
    cli.add_dataset(p.add_argument_group("dataset"), "Images to fit the fusion on (default: all "
                    "datasets that the members were trained on)")  # fmt: skip
    out = p.add_argument_group("output")
    cli.add_runs_folder(out, "ensemble")
    cli.add_batch_size(out)
    cli.add_json(out)
    cli.add_quiet(out)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if args.learning_rate is not None and not args.fine_tune:
        raise UserError("--learning-rate is for --fine-tune N, which is missing.")

    from tfdetect import api
    from tfdetect.fusion.fusion_results import read_fusion

    run = api.ensemble(
        args.runs, args.fusion, dataset=args.dataset, data_dir=args.data_dir,
        authentic=args.authentic, masks=not args.no_masks, fine_tune_epochs=args.fine_tune,
        learning_rate=args.learning_rate or 1e-5, output=args.output, name=args.name,
        batch_size=args.batch_size, **cli.progress_of(args),
    )  # fmt: skip
    found = read_fusion(run.path)
    if args.json:
        return console.print_json({"run": run.path, **found})

    from tfdetect.fusion.fusion_report import format_comparison

    console.result(format_comparison(found))
    for warning in found["warnings"]:
        console.result(f"\nwarning: {warning}")
    console.result(f"\nrun      {run.path}")
    console.result(f"reports  {run.path / 'fusion.html'}, {run.path / 'report.html'}")
    console.result(f"next     {shell_command('predict', run.path, 'IMAGE_OR_FOLDER')}")


if __name__ == "__main__":
    sys.exit(run_command(main))
