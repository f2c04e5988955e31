"""`tfdetect export`: write a run's SavedModel again."""

import sys
from pathlib import Path

from tfdetect.core import cli, console


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect export",
        description="Write the SavedModel of a run again from its Keras model, with its current "
        "calibration and threshold. It runs with TensorFlow alone: its endpoint 'encoded' takes "
        "the bytes of image files, 'serving_default' pixels; both return p_fake, probabilities and "
        "the verdict.",
        examples=[("tfdetect export saved_models/my_run", "into saved_models/my_run/saved_model")],
    )
    p.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    cli.add_json(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api

    folder = api.export(args.run)
    if args.json:
        return console.print_json({"run": args.run, "saved_model": folder})
    console.result(str(folder))


if __name__ == "__main__":
    sys.exit(cli.run_command(main))
