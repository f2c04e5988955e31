"""`tfdetect export`: write a run's detector in the formats of other runtimes."""

import sys
from dataclasses import asdict
from pathlib import Path

from tfdetect.core import cli, console
from tfdetect.core.experiment import EXPORT_FORMATS


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect export",
        description="Export a run's detector from its Keras model, with its current calibration "
        "and threshold, into other formats. Each export is compared with the Keras model on "
        "photographs when it is written, and refused if the probabilities differ.\n\n"
        "saved_model needs TensorFlow alone and takes image files; onnx lets `predict` answer "
        "without TensorFlow. The others are for phones, browsers and other hardware. They take "
        "images of the detector's size and return the same outputs.",
        examples=[
            ("tfdetect export saved_models/my_run", "write the formats again that the run has"),
            ("tfdetect export saved_models/my_run --format onnx,litert_int8",
             "into saved_models/my_run/exports"),
        ],
    )  # fmt: skip
    p.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    p.add_argument("--format", type=cli.names, metavar="NAMES", help="formats, separated by "
                   f"commas: {', '.join(EXPORT_FORMATS)} (default: those that the run "
                   "has)")  # fmt: skip
    cli.add_json(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api

    written = api.export(args.run, args.format)
    if args.json:
        return console.print_json({"run": args.run, "exports": [asdict(each) for each in written]})
    rows = [[e.format, str(args.run / e.path), f"{e.megabytes:g} MB", f"{e.max_difference:g}"]
            for e in written]  # fmt: skip
    console.result(console.format_table(rows, ["format", "path", "size", "largest difference"]))


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
