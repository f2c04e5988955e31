"""`python -m tfdetect.explain`: what moves a run's verdicts on a set of images."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect explain",
        description="Averages a run's maps (Grad-CAM, integrated gradients, occlusion, attention) "
        "and features by class over images of a dataset, and tests whether the maps may be "
        "believed. One image is explained by: tfdetect predict RUN IMAGE --explain DIR",
    )
    p.add_argument("run", type=Path, help="folder of a run")
    p.add_argument("--dataset", metavar="NAME", help="another dataset: a shipped one, a spec "
                   "file, or a folder of classes")  # fmt: skip
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    p.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    p.add_argument("--split", default="test", choices=["train", "validation", "test", "all"])
    p.add_argument("--count", type=int, default=60, metavar="N",
                   help="images, shared among the classes (default: 60)")  # fmt: skip
    p.add_argument("--output", type=Path, metavar="DIR", help="write there instead")
    p.add_argument("--json", action="store_true", help="print explanation.json, not a table")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.core.run import open_run
    from tfdetect.data.plan import evaluation_data

    if args.count < 1:
        raise UserError(f"--count is at least 1. Got {args.count}.")
    run = open_run(args.run)
    spec, roots, output = evaluation_data(
        run, args.dataset, args.data_dir, args.authentic, args.output
    )
    check_writable(output)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.data.catalog import build_catalog
    from tfdetect.explanation.explain_set import explain_set, terminal

    found = explain_set(
        run, build_catalog(spec, roots), args.split, args.count, output,
        say=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    if args.json:
        import json

        print(json.dumps(found, indent=2))
    else:
        print(terminal(found))
        print(f"report {output / 'explanation.html'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
