"""`tfdetect evaluate`: measure a run on its dataset or on other images."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.core import cli, console
from tfdetect.core.errors import UserError
from tfdetect.core.run_command import run_command
from tfdetect.core.text import counted

if TYPE_CHECKING:
    from tfdetect import api
    from tfdetect.evaluation.streamed_metrics import StreamedResult


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect evaluate",
        description="Measure a run on images with known labels: accuracy, AUC, recall at few false "
        "positives, calibration and more, with 95% intervals, figures and an HTML report.\n\n"
        "A folder of authentic images alone gives the false positive rate, one of fakes alone the "
        "recall. For images with unknown labels use 'tfdetect predict'.",
        examples=[
            ("tfdetect evaluate saved_models/cifake_small_resnet",
             "again on the run's own validation and test split"),
            ("tfdetect evaluate saved_models/my_run --dataset path/to/folder",
             "on other images: a folder with one folder per class"),
            ("tfdetect evaluate saved_models/my_run --dataset path/to/photos --label authentic",
             "false positives on a folder of photographs"),
            ("tfdetect evaluate saved_models/my_run --from-predictions",
             "metrics, report and card again, without the images"),
            ("tfdetect evaluate saved_models/my_run --degrade jpeg:65,blur:3",
             "how well verdicts survive recompression and blur"),
            ("tfdetect evaluate saved_models/my_run --attack pgd,square --strength 2/255,4/255",
             "how well they hold against somebody who changes pixels to mislead the detector"),
            ("tfdetect evaluate saved_models/my_run --dataset path/to/folder --spark "
             "spark://host:7077", "on the machines of a Spark cluster"),
            ("tfdetect evaluate saved_models/my_run --dataset path/to/folder "
             "--spark spark://host:7077 --streaming", "millions of images, in constant memory"),
        ],
    )  # fmt: skip
    cli.add_run(p)
    data = p.add_argument_group("images")
    cli.add_dataset(data, "Other images to measure on (default: the run's own dataset)")
    data.add_argument("--label", metavar="CLASS", help="class of all images of a --dataset folder "
                      "without class folders: authentic, fake, or a class name of the "
                      "run")  # fmt: skip
    data.add_argument("--split", action="append", choices=["train", "validation", "test", "all"],
                      metavar="SPLIT", help="train, validation, test or all; repeatable (default: "
                      "validation and test; all of a --dataset that has no splits)")  # fmt: skip
    data.add_argument("--videos", metavar="WHAT", help="also measure videos, whose P(fake) is the "
                      "mean of that of their frames: folder (each folder holds the frames of one "
                      "video), or a regular expression on paths whose first group is the "
                      "video's name")  # fmt: skip
    data.add_argument("--from-predictions", action="store_true", help="measure the run on its own "
                      "splits by the predictions that it keeps, without the images, and write its "
                      "report and model card again (default: predict the images)")  # fmt: skip
    how = p.add_argument_group("verdicts")
    cli.add_verdict(how)
    cli.add_views(how)
    how.add_argument("--degrade", metavar="NAME,NAME", help="measure on degraded images instead: "
                     "genimage (that benchmark's six), grid (every kind, mild to strong), bands "
                     "(one of eight bands of frequencies removed), reencode (jpeg:96, saved once "
                     "more), or single ones such as jpeg:65,blur:3,social:2")  # fmt: skip
    how.add_argument("--attack", metavar="NAME,NAME", help="measure on attacked images instead, or "
                     "beside --degrade: pgd (gradient descent by somebody who has the run) and "
                     "square (random squares by somebody who sees P(fake) alone)")  # fmt: skip
    how.add_argument("--strength", metavar="N/255,N/255", help="of "
                     "--attack: how far each color of a pixel may change (default: "
                     "2/255,4/255)")  # fmt: skip
    how.add_argument("--steps", type=cli.count, metavar="N",
                     help="of pgd: steps along the gradient (default: 10)")  # fmt: skip
    how.add_argument("--queries", type=cli.count, metavar="N",
                     help="of square: images that are tried (default: 200)")  # fmt: skip
    out = p.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="DIR", help="folder for the result (default: "
                     "the run; of other images or settings RUN/evaluations/NAME, with an ending if "
                     "other images have that name)")  # fmt: skip
    cli.add_no_images(out)
    cli.add_batch_size(out)
    cli.add_max_pixels(out, of_spec=True)
    cli.add_json(out)
    cli.add_quiet(out)
    cluster = p.add_argument_group("cluster")
    cli.add_spark(cluster, "DIR.parts beside the folder for the result")
    cluster.add_argument("--streaming", action="store_true", help="with --spark: measure part by "
                         "part in constant memory, for millions of images. The result is "
                         "streamed.json: counts, confusion, rates, recall and precision of each of "
                         "three or more classes, histogram, calibration error, and the AUC with "
                         "the bound of its error; no report")  # fmt: skip
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    cluster = cli.chosen_cluster(args)
    settings: dict[str, Any] = {
        "threshold": cli.chosen_threshold(args), "prior": cli.chosen_prior(args),
        "crops": args.crops, "flips": args.flips, "mask_threshold": args.mask_threshold,
    }  # fmt: skip
    _check_combination(args, settings)

    from tfdetect import api
    from tfdetect.api.arguments import own_run

    if args.from_predictions:
        return _show(args, api.remeasure(args.run, progress=not args.quiet))
    run = api.load(own_run(args.run, args.output)).with_options(**settings).run
    images: dict[str, Any] = {
        "dataset": args.dataset, "data_dir": args.data_dir, "authentic": args.authentic,
        "output": args.output, "batch_size": args.batch_size, "max_pixels": args.max_pixels,
        **cli.progress_of(args),
    }  # fmt: skip
    if args.degrade or args.attack:
        return _show(args, api.measure_robustness(
            run, args.degrade or "", attacks=args.attack or "",
            split=args.split[0] if args.split else None, **_of_attacks(args), **images,
        ))  # fmt: skip
    _show(args, api.evaluate(
        run, label=args.label, splits=args.split or (), videos=args.videos,
        images_in_report=not args.no_images, cluster=cluster, streaming=args.streaming, **images,
    ))  # fmt: skip


def _of_attacks(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of --attack that were given."""
    given = {name: getattr(args, name) for name in ("strength", "steps", "queries")}
    return {name: value for name, value in given.items() if value is not None}


def _check_combination(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Check that the flags can be used together."""
    verdicts = settings["threshold"] is not None or settings["prior"] is not None
    if (of_attacks := list(_of_attacks(args))) and not args.attack:
        raise UserError(f"--{of_attacks[0]} belongs to --attack: --attack pgd, for example.")
    if args.degrade or args.attack:
        flag = "--degrade" if args.degrade else "--attack"
        if args.split and len(args.split) > 1:
            raise UserError(f"{flag} takes one --split.")
        if args.label or args.videos or verdicts:
            raise UserError(f"{flag} takes no --label, --videos, --threshold, --at and --prior.")
        if args.spark or args.streaming or args.from_predictions:
            raise UserError(f"{flag} takes no --spark, --streaming and --from-predictions.")
    images = (args.dataset, args.data_dir, args.authentic, args.label, args.split, args.videos,
              args.output, args.spark, args.streaming)  # fmt: skip
    views = args.crops is not None or args.flips or args.mask_threshold is not None
    if args.from_predictions and (any(images) or verdicts or views):
        raise UserError(
            "--from-predictions measures the run as it is, on its own splits: give it no "
            "dataset, split, output and settings of verdicts."
        )


def _show(args: argparse.Namespace, results: "api.Results") -> None:
    if args.json:
        return console.print_json(results.values)
    if args.streaming:
        _show_streamed(results.values)
        return console.result(f"\nmetrics {results.report}")
    if args.degrade or args.attack:
        from tfdetect.evaluation.robustness_report import format_robustness

        console.result(format_robustness(results.values))
    else:
        from tfdetect.evaluation.result_tables import format_results

        console.result(format_results(results.values))
    console.result(f"\nreport  {results.report}")


def _show_streamed(values: "dict[str, StreamedResult]") -> None:
    """Print what was measured part by part."""
    from tfdetect.evaluation.result_tables import class_table

    for split, found in values.items():
        rows: list[tuple[str, object]] = [
            (name, None if value is None else f"{value:.4f}")
            for name, value in found["metrics"].items()
        ]
        if found["auc_error_bound"] is not None:
            rows.append(("AUC, off by at most", f"{found['auc_error_bound']:.1e}"))
        counts = f"{counted(found['count'], 'image')}, {found['unreadable']:,} unreadable"
        console.table(rows, ["metric", "value"], title=f"{split}: {counts}")
        if "classes" in found and (table := class_table({"classes": found["classes"]})) is not None:
            console.table(table.rows, table.headers, title=f"{split}: {table.title}")


if __name__ == "__main__":
    sys.exit(run_command(main))
