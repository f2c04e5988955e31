"""`python -m tfdetect.predict`: gives verdicts on files and folders."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect predict",
        description="Gives a verdict, P(fake) and class probabilities for images, and shows where "
        "they were altered. A file that cannot be read gets a row with its error, and the rest "
        "go on.",
    )
    p.add_argument("run", type=Path, help="folder of a run")
    p.add_argument("inputs", nargs="+", metavar="IMAGE", help="files, folders (searched through), "
                   "or quoted globs such as 'photos/**/*.jpg'")  # fmt: skip
    p.add_argument("--output", type=Path, metavar="FILE", help="write the rows to a .csv, .jsonl "
                   "or .parquet file instead of the terminal")  # fmt: skip
    p.add_argument("--masks", type=Path, metavar="DIR", help="write mask, P(altered) and overlay "
                   "of each image as PNG; for runs with a mask head")  # fmt: skip
    p.add_argument("--explain", type=Path, metavar="DIR", help="write a page for each image: "
                   "verdict, probability, maps, stability, the file's metadata")  # fmt: skip
    p.add_argument("--threshold", type=float, metavar="P", help="P(fake) from which the verdict "
                   "is fake (default: the run's)")  # fmt: skip
    p.add_argument("--at", metavar="POINT", help="the threshold of an operating point of the run, "
                   "instead: fpr_1 and fpr_5 (so many percent false alarms on validation), eer, "
                   "balanced, cost")  # fmt: skip
    p.add_argument("--prior", type=float, metavar="P", help="share of fakes to expect among such "
                   "images (default: as many as the run was calibrated on)")  # fmt: skip
    p.add_argument("--crops", type=int, choices=[1, 5, 9], help="windows of each image whose "
                   "probabilities are averaged (default: the run's)")  # fmt: skip
    p.add_argument("--flips", action="store_true",
                   help="look at each image's mirror image too, and average")  # fmt: skip
    p.add_argument("--batch-size", type=int, default=64, metavar="N")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.core.run import open_run
    from tfdetect.evaluation import prediction_tables as tables
    from tfdetect.evaluation.calibration import threshold_at, uneven_prior, with_prior

    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold lies between 0 and 1. Got {args.threshold}.")
    if args.threshold is not None and args.at:
        raise UserError("--threshold and --at are two ways to choose one threshold. Give one.")
    if args.prior is not None and not 0 < args.prior < 1:
        raise UserError(f"--prior lies between 0 and 1. Got {args.prior}.")
    run = open_run(args.run).with_crops(args.crops).with_flips(args.flips)
    if args.threshold is not None:
        run.info["threshold"] = args.threshold
    if args.prior is not None:
        run.info.update(with_prior(run.info, args.prior, str(args.run)))
    if args.at:
        run.info["threshold"] = threshold_at(run.info, args.at, str(args.run))
    if args.output:
        tables.check_output(args.output)
    if args.masks:
        if not run.predicts_masks:
            raise UserError(f"{run.name} draws no masks: it was trained without model.mask_head.")
        check_writable(args.masks)
    if args.explain:
        check_writable(args.explain)
    paths = tables.collect(args.inputs)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.evaluation.overlays import MaskWriter, output_names
    from tfdetect.evaluation.predictions import predict_files
    from tfdetect.models.saving import load_detector

    write = MaskWriter(args.masks, paths).write if args.masks else None
    detector = load_detector(run)
    table = predict_files(run, detector, paths, args.batch_size, on_mask=write)
    if args.output:
        tables.write(table, args.output)
        print(f"{table.num_rows} rows in {args.output}")
    else:
        print(tables.terminal(table))
    if args.prior is None and (warning := uneven_prior(run.info)):
        print(warning, file=sys.stderr)
    if args.masks:
        print(f"masks and overlays in {args.masks}")
    if args.explain:
        from tfdetect.explanation.image_page import explain_files

        names = [args.explain / f"{name}.html" for name in output_names(paths)]
        for page in explain_files(run, detector, table, names):
            print(f"explained in {page}")
    unreadable = table.num_rows - table["error"].null_count
    if unreadable:
        print(f"{unreadable} of {table.num_rows} files could not be read", file=sys.stderr)
    return 1 if unreadable == table.num_rows else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
