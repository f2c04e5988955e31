"""`python -m tfdetect.prepare`: writes a dataset as shards."""

import os
import sys
from pathlib import Path
from typing import get_args

from tfdetect.core.cli import Parser, run_command
from tfdetect.core.experiment import Resize


def parser() -> Parser:
    p = Parser(
        prog="tfdetect prepare",
        description="Writes a dataset as TFRecord shards, from which training is faster than from "
        "files and which TensorFlow Datasets reads too. Goes on where it stopped; checks "
        "and mends what is whole.",
    )
    p.add_argument("--dataset", metavar="NAME", required=True, help="as for train")
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset lies")
    p.add_argument("--authentic", metavar="CLASS", help="the authentic class of a bare folder")
    p.add_argument("--output", type=Path, required=True, metavar="DIR",
                   help="folder for datasets; NAME/1.0.0 is made in it")  # fmt: skip
    p.add_argument("--shard-size", type=float, default=32, metavar="MIB", help="of a shard (32)")
    p.add_argument("--size", metavar="H,W", help="store copies of this size, or of N x N pixels")
    p.add_argument("--resize", default="crop", choices=get_args(Resize),
                   help="with --size, as data.resize of an experiment (crop)")  # fmt: skip
    p.add_argument("--encode", default="keep", choices=("keep", "png", "jpeg"),
                   help="keep the files' bytes, or store copies as png or jpeg (keep; copies of "
                   "another size become png)")  # fmt: skip
    p.add_argument("--quality", type=int, default=95, metavar="Q", help="of jpeg, 1 to 100 (95)")
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
                   help="shards written at a time (one a core)")  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.data.plan import make_plan
    from tfdetect.data.prepare_dataset import prepare_shards

    if args.shard_size <= 0 or args.workers < 1 or not 1 <= args.quality <= 100:
        raise UserError("--shard-size and --workers must be above 0, --quality from 1 to 100.")
    plan = make_plan(args.dataset, None, [], args.data_dir, args.authentic)
    check_writable(args.output)

    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.data.shards import Copies

    copies = Copies(_size(args.size), args.resize, args.encode, args.quality)
    done = prepare_shards(
        plan, args.output, copies, round(args.shard_size * 2**20), args.workers, not args.quiet
    )
    print(f"{done.images:,} images in {done.shards} shards, {done.written} of them written now, "
          f"{done.skipped} images left out: "
          f"{done.folder}\nTrain on them with --dataset {done.folder.parent}")  # fmt: skip


def _size(text: str | None) -> tuple[int, int] | None:
    from tfdetect.core.errors import UserError

    if text is None:
        return None
    sides = text.split(",")
    if len(sides) > 2 or not all(side.strip().isdigit() and int(side) for side in sides):
        raise UserError(
            f"--size must be one or two whole numbers, as 256 or 240,320. Got {text!r}."
        )
    return int(sides[0]), int(sides[-1])


if __name__ == "__main__":
    sys.exit(run_command(main))
