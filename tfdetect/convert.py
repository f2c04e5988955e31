"""`tfdetect convert`: convert published PyTorch weights into a run."""

import math
import sys
from pathlib import Path
from typing import Any

from tfdetect.core import cli, console
from tfdetect.core.run_command import run_command
from tfdetect.core.text import shell_command

CHECKED = 200  # images whose statistics are computed, at most
SHOWN = 5  # normalization layers that are shown


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect convert",
        description="Convert the PyTorch weights that a project published into a run, which "
        'predict, evaluate and export accept. Needs: pip install "tfdetect[convert]".',
        examples=[
            ("tfdetect convert NPR.pth --model npr",
             "into saved_models/npr_published; NPR.pth is the project's file"),
            ("tfdetect convert NPR.pth --model npr --check path/to/photos",
             "and see on photographs whether the preprocessing is that of the training"),
        ],
    )  # fmt: skip
    p.add_argument("weights", type=Path, metavar="FILE", help=".pth, .pt, .bin or .safetensors "
                   "file")  # fmt: skip
    p.add_argument("--model", required=True, metavar="NAME", help="the detector: cnnspot, f3net, "
                   "gramnet, iidnet, ladeda, npr, probe (UniversalFakeDetect's), safe, spec or "
                   "tiny_ladeda")  # fmt: skip
    p.add_argument("--names", type=Path, metavar="CSV", help="which weight goes where, in the form "
                   "of a run's conversion.csv (default: by their names, and by order and shape "
                   "where the names are unknown)")  # fmt: skip
    p.add_argument("--check", metavar="IMAGES", help="folder of photographs (or pattern): compare "
                   "the statistics that the network keeps of its training with those of up to 200 "
                   "of them, which differ if preprocessing does")  # fmt: skip
    cli.add_set(p)
    cli.add_runs_folder(p, "MODEL_published")
    cli.add_json(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api

    images: list[str] = []
    if args.check is not None:
        from tfdetect.data.image_files import find_images

        images = find_images([args.check]).paths
        images = images[:: math.ceil(len(images) / CHECKED) or 1]
    run = api.convert(
        args.weights, args.model, overrides=args.overrides, names=args.names, output=args.output,
        name=args.name,
    )  # fmt: skip

    from tfdetect.models.convert_run import is_matched_by_order, statistics_on

    by_order = is_matched_by_order(run)
    if by_order:
        console.warn(
            "some weights were matched by order and shape, not by name. Predict images whose "
            "scores you know; if they differ, correct conversion.csv and give it as --names."
        )
    table = run.path / "conversion.csv"
    statistics = statistics_on(run, images) if images else []
    if args.json:
        return console.print_json({
            "run": run.path, "conversion": table, "matched_by_order": by_order,
            "statistics": statistics if args.check is not None else None,
        })  # fmt: skip
    if statistics:
        _show_statistics(statistics, len(images))
    elif args.check is not None:
        console.warn(
            "--check compared nothing: the network has no batch normalization, or none of the "
            "images can be read."
        )
    console.result(f"run     {run.path}")
    console.result(f"weights {table} (which weight went where)")
    console.result(f"next    {shell_command('predict', run.path, 'IMAGE_OR_FOLDER')}")


def _show_statistics(rows: list[dict[str, Any]], count: int) -> None:
    first = rows[0]
    if first["spread"] > 0.5 or first["mean"] > 1 or not 0.25 < first["variance"] < 4:
        console.warn(
            "the first layer's statistics on these images are unlike those of the training. Was "
            "the preprocessing another one (--set model.front_end=..., data.resize=...)?"
        )
    shown = [
        {key: value if key == "layer" else f"{value:.2f}" for key, value in row.items()}
        for row in rows[:SHOWN]
    ]
    console.table(shown)
    console.result(
        f"Variance on {count} images as a multiple of the training's, its spread over channels\n"
        "(logarithm), and the difference of means in standard deviations. They are 1, 0 and 0 on\n"
        "the images of the training.\n"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
