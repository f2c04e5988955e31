"""`tfdetect show-augment`: draw what an augmentation policy does to some images."""

import sys
from pathlib import Path

from tfdetect.core import cli, console
from tfdetect.core.run_command import run_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect show-augment",
        description="Draw training images as they are loaded and, next to each, as the "
        "augmentation of the experiment changes them. Masks are shown in red.",
        examples=[
            ("tfdetect show-augment --dataset demo", "the default augmentation, into augment.png"),
            ("tfdetect show-augment --dataset path/to/folder --set 'data.augment=[flip,jpeg]'",
             "another one on your own images"),
        ],
    )  # fmt: skip
    cli.add_dataset(p.add_argument_group("dataset"), "Images to draw (default: those of the "
                    "experiment)")  # fmt: skip
    cli.add_experiment(p.add_argument_group("experiment"))
    out = p.add_argument_group("output")
    out.add_argument("--images", type=cli.count, default=10, metavar="N",
                     help="number of images, one per row (default: 10)")  # fmt: skip
    out.add_argument("--variants", type=cli.count, default=6, metavar="N",
                     help="augmented versions of each image (default: 6)")  # fmt: skip
    out.add_argument("--output", type=Path, default=Path("augment.png"), metavar="FILE",
                     help="PNG file to write (default: augment.png)")  # fmt: skip
    cli.add_json(out)
    cli.add_quiet(out)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.disk import replacing
    from tfdetect.core.files import check_writable
    from tfdetect.core.quiet import import_tensorflow
    from tfdetect.core.storage import publish
    from tfdetect.data.plan import find_data, make_plan

    plan = make_plan(
        args.dataset, args.experiment, args.overrides, args.data_dir, args.authentic, args.model
    )
    check_writable(args.output.absolute().parent)
    import_tensorflow()
    from tfdetect.evaluation.augmentation_sheet import draw_augmentation

    catalog = find_data(plan, **cli.progress_of(args))
    sheet = draw_augmentation(plan, catalog, args.images, args.variants)
    args.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.output) as temporary:
        sheet.save(temporary, "PNG")
    publish(args.output)
    if args.json:
        return console.print_json({"sheet": args.output})
    console.result(str(args.output))


if __name__ == "__main__":
    sys.exit(run_command(main))
