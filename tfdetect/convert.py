"""`python -m tfdetect.convert`: makes a run of published PyTorch weights."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect convert",
        description="Makes a run of the PyTorch weights that a project published, for evaluate, "
        'predict and export. Needs pip install "tfdetect[convert]".',
    )
    p.add_argument("weights", type=Path, help=".pth, .pt, .bin or .safetensors file")
    p.add_argument("--model", required=True, metavar="NAME", help="cnnspot, f3net, gramnet, "
                   "iidnet, npr, probe (UniversalFakeDetect's), safe or spec")  # fmt: skip
    p.add_argument("--names", type=Path, metavar="CSV", help="what belongs where, as a run's "
                   "conversion.csv says it; default: by names, and by order and shape where "
                   "names are not known")  # fmt: skip
    p.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                   help="override a key of the detector's experiment")  # fmt: skip
    p.add_argument("--output", type=Path, default=Path("saved_models"), metavar="DIR",
                   help="folder for runs (default: saved_models)")  # fmt: skip
    p.add_argument("--name", help="name of the run (default: the model's, and published)")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.experiment import load_model, override
    from tfdetect.core.files import check_writable
    from tfdetect.core.run import new_run_path
    from tfdetect.models.convert_run import convert_run, is_matched_by_order

    experiment = override(load_model(args.model), args.overrides)
    path = new_run_path(args.output, args.name or f"{args.model}_published")
    check_writable(args.output)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    run = convert_run(args.weights, experiment, path, args.names)
    print(f"run {run.path}; what went where: {run.path / 'conversion.csv'}")
    if is_matched_by_order(run):
        print(
            "warning: some tensors were matched by order and shape, not by name. Try images whose "
            "scores you know; if they differ, mend conversion.csv and give it as --names.",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
