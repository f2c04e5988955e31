"""`tfdetect convert`: convert published PyTorch weights into a run."""

import sys
from pathlib import Path

from tfdetect.core import cli, console
from tfdetect.core.text import shell_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect convert",
        description="Convert the PyTorch weights that a project published into a run, which "
        'predict, evaluate and export accept. Needs: pip install "tfdetect[convert]".',
        examples=[
            ("tfdetect convert NPR.pth --model npr",
             "into saved_models/npr_published; NPR.pth is the project's file"),
        ],
    )  # fmt: skip
    p.add_argument("weights", type=Path, metavar="FILE", help=".pth, .pt, .bin or .safetensors "
                   "file")  # fmt: skip
    p.add_argument("--model", required=True, metavar="NAME", help="the detector: cnnspot, f3net, "
                   "gramnet, iidnet, npr, probe (UniversalFakeDetect's), safe or spec")  # fmt: skip
    p.add_argument("--names", type=Path, metavar="CSV", help="which weight goes where, in the form "
                   "of a run's conversion.csv (default: by their names, and by order and shape "
                   "where the names are unknown)")  # fmt: skip
    cli.add_set(p)
    cli.add_runs_folder(p, "MODEL_published")
    cli.add_json(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api

    run = api.convert(
        args.weights, args.model, overrides=args.overrides, names=args.names, output=args.output,
        name=args.name,
    )  # fmt: skip

    from tfdetect.models.convert_run import is_matched_by_order

    by_order = is_matched_by_order(run)
    if by_order:
        console.warn(
            "some weights were matched by order and shape, not by name. Predict images whose "
            "scores you know; if they differ, correct conversion.csv and give it as --names."
        )
    table = run.path / "conversion.csv"
    if args.json:
        return console.print_json(
            {"run": run.path, "conversion": table, "matched_by_order": by_order}
        )
    console.result(f"run     {run.path}")
    console.result(f"weights {table} (which weight went where)")
    console.result(f"next    {shell_command('predict', run.path, 'IMAGE_OR_FOLDER')}")


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
