"""`tfdetect explain`: what moves a run's verdicts on a set of images."""

import sys
from pathlib import Path

from tfdetect.core import cli, console
from tfdetect.core.errors import UserError
from tfdetect.core.image_names import IMAGE_SUFFIXES, suffix_of
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.run_command import run_command
from tfdetect.core.text import shell_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect explain",
        description="Show what moves a run's verdicts on a dataset: mean heat maps (Grad-CAM, "
        "integrated gradients, occlusion, attention) and features by class, with tests of whether "
        "the maps can be trusted.\n\n"
        "A single image is explained by: tfdetect predict RUN IMAGE --explain DIR",
        examples=[
            ("tfdetect explain saved_models/cifake_small_resnet",
             "on 60 images of the run's own test split"),
            ("tfdetect explain saved_models/my_run --dataset path/to/folder --count 200",
             "on other images"),
            ("tfdetect explain saved_models/my_run --features all",
             "where and in which channels the classes differ, at every stage of the network"),
            ("tfdetect explain saved_models/my_run --count 2000 --spark spark://host:7077",
             "on the machines of a Spark cluster"),
            ("tfdetect explain saved_models/my_run --front-end photo.jpg",
             "what the front-ends residual, SRM, Bayar, NPR and DCT leave of one image"),
        ],
    )  # fmt: skip
    cli.add_run(p)
    data = p.add_argument_group("images")
    cli.add_dataset(data, "Other images (default: the run's own dataset)")
    cli.add_split(
        data,
        "default: test, or validation if there is no test split; all images of a "
        "--dataset without splits",
    )
    data.add_argument("--count", type=cli.count, default=60, metavar="N", help="number of images, "
                      "equally many of each class (default: 60)")  # fmt: skip
    data.add_argument("--features", type=cli.names, default=[], metavar="STAGE,STAGE",
                      help="stages of the backbone whose mean feature maps by class are shown: "
                      "stage1 (the finest), stage2, ..., or all (default: the last "
                      "features)")  # fmt: skip
    data.add_argument("--front-end", type=Path, metavar="IMAGE", help="show instead what "
                      "front-ends leave of this image, and what the run's own front-end leaves "
                      "of it before and after training")  # fmt: skip
    out = p.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="DIR", help="folder for explanation.html and "
                     "explanation.json (default: the run; for another dataset or --front-end "
                     "RUN/evaluations/NAME)")  # fmt: skip
    cli.add_max_pixels(out, of_spec=True)
    cli.add_json(out)
    cli.add_quiet(out)
    cli.add_spark(p.add_argument_group("cluster"), "DIR.parts beside the folder for the result")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if suffix_of(str(args.run)) in IMAGE_SUFFIXES and not args.run.is_dir():
        raise UserError(
            f"{args.run} is an image, and this command takes a run and a dataset. One image is "
            f"explained by: {shell_command('predict', args.run, explain='pages')}"
        )
    cluster = cli.chosen_cluster(args)
    if args.front_end is not None and cluster is not None:
        raise UserError("--front-end takes no --spark: it shows one image.")

    from tfdetect import api

    if args.front_end is not None:
        results = api.show_front_ends(
            args.run, args.front_end, output=args.output, progress=not args.quiet,
            max_pixels=args.max_pixels or MAX_PIXELS,
        )  # fmt: skip
        if args.json:
            return console.print_json(results.values)

        from tfdetect.explanation.front_ends import format_front_ends

        console.result(format_front_ends(results.values))
        return console.result(f"\nreport  {results.report}")
    results = api.explain(
        args.run, args.dataset, data_dir=args.data_dir, authentic=args.authentic,
        split=args.split, count=args.count, stages=args.features, output=args.output,
        cluster=cluster, max_pixels=args.max_pixels, **cli.progress_of(args),
    )  # fmt: skip
    if args.json:
        return console.print_json(results.values)

    from tfdetect.explanation.set_page import format_explanation

    console.result(format_explanation(results.values))
    console.result(f"\nreport  {results.report}")


if __name__ == "__main__":
    sys.exit(run_command(main))
