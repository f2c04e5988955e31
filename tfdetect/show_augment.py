"""`python -m tfdetect.show_augment`: draws what an augmentation policy does to some images."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect show-augment",
        description="Draws training images as they are loaded and, beside each, as the "
        "experiment's augmentation policy changes them; masks in red.",
    )
    p.add_argument("--dataset", metavar="NAME", help="as for train")
    p.add_argument("--experiment", metavar="NAME", help="as for train")
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    p.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                   help="override a key, e.g. data.augment=[flip,jpeg]")  # fmt: skip
    p.add_argument("--images", type=int, default=10, metavar="N", help="rows (10)")
    p.add_argument("--variants", type=int, default=6, metavar="N", help="columns (6)")
    p.add_argument("--output", type=Path, default=Path("augment.png"), metavar="FILE",
                   help="PNG to write (augment.png)")  # fmt: skip
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if args.images < 1 or args.variants < 1:
        from tfdetect.core.errors import UserError

        raise UserError("--images and --variants must be at least 1.")

    from tfdetect.core.files import check_writable
    from tfdetect.data.plan import find_data, make_plan
    from tfdetect.evaluation.augmentation_sheet import draw_augmentation

    plan = make_plan(args.dataset, args.experiment, args.overrides, args.data_dir, args.authentic)
    check_writable(args.output.absolute().parent)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    catalog = find_data(plan)
    sheet = draw_augmentation(plan, catalog, args.images, args.variants)
    sheet.save(args.output, "PNG")
    print(args.output)


if __name__ == "__main__":
    sys.exit(run_command(main))
