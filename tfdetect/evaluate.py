"""`python -m tfdetect.evaluate`: measures a run on its dataset or on another one."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect evaluate",
        description="Measures a run: metrics with intervals, figures, one HTML page. On its own "
        "dataset it writes into the run; on another one below evaluations/ in it.",
    )
    p.add_argument("run", type=Path, help="folder of a run")
    p.add_argument("--dataset", metavar="NAME", help="another dataset: a shipped one, a spec "
                   "file, or a folder of classes")  # fmt: skip
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    p.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    p.add_argument("--split", action="append", choices=["train", "validation", "test", "all"],
                   help="may be given more than once; default: validation and test")  # fmt: skip
    p.add_argument("--output", type=Path, metavar="DIR", help="write there instead")
    p.add_argument("--no-pictures", action="store_true",
                   help="keep images of the dataset out of the report")  # fmt: skip
    p.add_argument("--matrix", action="store_true", help="without a run: train on each generator "
                   "of a dataset and test on all; see tfdetect matrix --help")  # fmt: skip
    p.add_argument("--crops", type=int, choices=[1, 5, 9], help="windows of each image whose "
                   "probabilities are averaged (default: the run's)")  # fmt: skip
    p.add_argument("--flips", action="store_true",
                   help="look at each image's mirror image too, and average")  # fmt: skip
    p.add_argument("--degrade", metavar="NAME,NAME", help="score degraded images instead: genimage "
                   "(its six), grid (all kinds, mild to strong), bands (without each band of "
                   "frequencies), reencode, or such as "
                   "jpeg:65,blur:3,social:2")  # fmt: skip
    p.add_argument("--batch-size", type=int, default=64, metavar="N")
    p.add_argument("--json", action="store_true", help="print metrics.json, not a table")
    return p


def main(argv: list[str]) -> None:
    if "--matrix" in argv:  # trains before it evaluates, so it is a command of its own
        from tfdetect import matrix

        return matrix.main([each for each in argv if each != "--matrix"])
    args = parser().parse_args(argv)

    from tfdetect.core.run import open_run
    from tfdetect.data.plan import evaluation_data

    run = open_run(args.run).with_crops(args.crops).with_flips(args.flips)
    spec, roots, output = evaluation_data(
        run, args.dataset, args.data_dir, args.authentic, args.output
    )

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.data.catalog import build_catalog
    from tfdetect.evaluation.evaluate_run import evaluate_run
    from tfdetect.evaluation.run_report import terminal_table

    if args.degrade:
        _degrade(args, run, spec, roots, output)
        return
    catalog = build_catalog(spec, roots)
    results = evaluate_run(
        run, catalog, tuple(args.split or ("validation", "test")), output,
        pictures=not args.no_pictures,
        batch_size=args.batch_size,
        say=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    if args.json:
        import json

        print(json.dumps(results, indent=2))
    else:
        print(terminal_table(results))
        print(f"report {output / 'report.html'}")


def _degrade(args, run, spec, roots: dict[str, Path], output: Path) -> None:
    from tfdetect.core.errors import UserError
    from tfdetect.data.catalog import build_catalog
    from tfdetect.evaluation.robustness import degrade, terminal
    from tfdetect.imaging.degradations import parse_degradations

    if args.split and len(args.split) > 1:
        raise UserError("--degrade takes one --split.")
    degradations = parse_degradations(args.degrade)
    found = degrade(
        run, build_catalog(spec, roots), (args.split or ["test"])[0], degradations, output,
        args.batch_size, say=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    if args.json:
        import json

        print(json.dumps(found, indent=2))
    else:
        print(terminal(found))
        print(f"report {output / 'degradations.html'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
