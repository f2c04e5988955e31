"""`tfdetect prepare`: write a dataset as TFRecord shards."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from tfdetect.core import cli, console
from tfdetect.core.choices import Background
from tfdetect.core.data_settings import Resize
from tfdetect.core.run_command import continuing, run_command
from tfdetect.core.text import counted, shell_command
from tfdetect.synthesis.mask_arguments import add_mask_inputs, mask_options_of


def parser() -> cli.Parser:
    from tfdetect.core.registry import FOREGROUND_MASKS

    p = cli.Parser(
        prog="tfdetect prepare",
        description="Write a dataset as TFRecord shards, from which training reads faster than "
        "from single files and which TensorFlow Datasets reads too. The same command continues an "
        "interrupted one, and checks and rewrites damaged shards of a finished one.",
        examples=[
            ("tfdetect prepare --dataset genimage --output prepared/",
             "then: tfdetect train --dataset prepared/genimage"),
            ("tfdetect prepare --dataset path/to/folder --output prepared/ --size 256",
             "store smaller copies"),
            ("tfdetect prepare --dataset path/to/faces --output without/ --foreground person "
             "--person selfie_segmentation.tflite", "people without what is behind them"),
            ("tfdetect prepare --dataset path/to/folder --output prepared/ "
             "--spark spark://host:7077",
             "the same shards, written by the machines of a Spark cluster"),
        ],
    )  # fmt: skip
    cli.add_dataset(p.add_argument_group("dataset"), "Images to write", required=True)
    copies = p.add_argument_group("copies")
    copies.add_argument("--size", type=_size, metavar="N|H,W", help="store copies of this size in "
                        "pixels (default: the images' own size)")  # fmt: skip
    copies.add_argument("--resize", default="crop", choices=get_args(Resize),
                        help="how to bring images to --size, as data.resize of an experiment "
                        "(default: crop)")  # fmt: skip
    copies.add_argument("--encode", default="keep", choices=("keep", "png", "jpeg"),
                        help="keep the files' bytes, or store copies as png or jpeg (default: "
                        "keep; with --size png)")  # fmt: skip
    copies.add_argument("--quality", type=cli.number_from(1, 100, whole=True), default=95,
                        metavar="Q",
                        help="quality of jpeg, 1 to 100 (default: 95)")  # fmt: skip
    what = p.add_argument_group("foreground")
    what.add_argument("--foreground", metavar="MASK", choices=FOREGROUND_MASKS,
                      help="remove the background: keep only what a mask maker of 'tfdetect "
                      f"synthesize' finds, one of {', '.join(FOREGROUND_MASKS)}. Images in which "
                      "it finds nothing are left out")  # fmt: skip
    what.add_argument("--background", default="gray", choices=get_args(Background),
                      help="with --foreground: fill the background with gray (128), or keep it, to "
                      "compare with the same images (default: gray)")  # fmt: skip
    add_mask_inputs(what, FOREGROUND_MASKS)
    out = p.add_argument_group("output")
    out.add_argument("--output", type=Path, required=True, metavar="DIR",
                     help="folder for datasets; NAME/1.0.0 is made in it")  # fmt: skip
    out.add_argument("--shard-size", type=cli.positive, default=32, metavar="MIB",
                     help="size of a shard in MiB (default: 32)")  # fmt: skip
    out.add_argument("--workers", type=cli.count, metavar="N",
                     help="shards written at a time (default: one per core)")  # fmt: skip
    cli.add_json(out)
    cli.add_quiet(out)
    cli.add_spark(p.add_argument_group("cluster"), "OUTPUT.parts beside --output")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    options = {}
    if args.foreground is not None:
        options = mask_options_of(args, [args.foreground]).get(args.foreground, {})
    cluster = cli.chosen_cluster(args)

    from tfdetect import api

    with continuing("Finished shards are"):
        done = api.prepare(
            args.dataset, args.output, data_dir=args.data_dir, authentic=args.authentic,
            size=args.size, resize=args.resize, encode=args.encode, quality=args.quality,
            foreground=args.foreground, mask_options=options, background=args.background,
            shard_mebibytes=args.shard_size, workers=args.workers, cluster=cluster,
            progress=not args.quiet,
        )  # fmt: skip
    dataset = done.folder.parent
    if args.json:
        return console.print_json({
            "dataset": dataset, "images": done.images, "shards": done.shards,
            "written": done.written, "skipped": done.skipped,
        })  # fmt: skip
    console.result(
        f"{counted(done.images, 'image')} in {counted(done.shards, 'shard')} in {done.folder} "
        f"({counted(done.written, 'shard')} written now, {counted(done.skipped, 'image')} skipped)"
    )
    console.result(f"next    {shell_command('train', dataset=dataset)}")


def _size(text: str) -> tuple[int, int]:
    sides = [side.strip() for side in text.split(",")]
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(
            f"expected one or two whole numbers, for example 256 or 240,320, received {text!r}"
        )
    return int(sides[0]), int(sides[-1])


if __name__ == "__main__":
    sys.exit(run_command(main))
