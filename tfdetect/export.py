"""`python -m tfdetect.export`: writes a run's SavedModel again."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(prog="tfdetect export", description="Writes a run's SavedModel (for TensorFlow "
               "alone) again from its Keras model.")  # fmt: skip
    p.add_argument("run", type=Path, help="folder of a run")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.run import open_run

    run = open_run(args.run)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.models.saved_model import export_saved_model

    export_saved_model(run)
    print(run.path / "saved_model")


if __name__ == "__main__":
    sys.exit(run_command(main))
