"""`tfdetect synthesize`: make forgeries with masks out of photographs."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tfdetect.core import cli, console
from tfdetect.core.errors import UserError
from tfdetect.core.registry import FILLS, MASKS
from tfdetect.core.run_command import continuing, run_command
from tfdetect.core.text import counted, shell_command
from tfdetect.synthesis.mask_arguments import add_mask_inputs, mask_options_of
from tfdetect.synthesis.settings import Settings, read_captions

DEFAULT_MASKS, DEFAULT_FILLS = ",".join(Settings.masks), ",".join(Settings.fills)
DEFAULT_STEPS = 1500  # of the training of an autoencoder


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect synthesize",
        description="Alter regions of photographs and keep the masks. The result is a dataset to "
        "train and test detectors that localize forgeries: originals, forgeries, masks, a "
        "manifest, a dataset spec and a contact sheet. The same command continues an interrupted "
        "one.",
        examples=[
            ("tfdetect synthesize --source photos/ --output forgeries/",
             "then: tfdetect train --dataset forgeries --experiment localizer"),
            ("tfdetect synthesize --source photos/ --output forgeries/ --size 256 --variants 4 "
             "--fill copy_move,splice", "four forgeries of each photograph, by two methods"),
            ("tfdetect synthesize --source photos/ --output pairs/ --masks whole --fill "
             "autoencoder",
             "a generated image of the same content for each photograph, to train a classifier"),
            ("tfdetect synthesize --source photos/ --output forgeries/ --masks yolo "
             "--yolo yolo11n-seg.onnx", "alter objects that a YOLO network finds"),
            ("tfdetect synthesize --source photos/ --output forgeries/ --spark spark://host:7077",
             "on the machines of a Spark cluster"),
        ],
    )  # fmt: skip
    _add_files(p.add_argument_group("files"))
    _add_forgeries(p.add_argument_group("forgeries"))
    _add_models(p.add_argument_group("models and inputs of some masks and fills"))
    run = p.add_argument_group("execution")
    run.add_argument("--workers", type=cli.count, metavar="N",
                     help="processes (default: one per core)")  # fmt: skip
    cli.add_json(run)
    cli.add_quiet(run)
    cli.add_spark(p.add_argument_group("cluster"), "OUTPUT.parts beside OUTPUT")
    return p


# fmt: off
def _add_files(files: cli.Arguments) -> None:
    files.add_argument("--source", type=Path, required=True, metavar="DIR",
                       help="folder of photographs; all folders below it are searched too")
    files.add_argument("--output", type=Path, required=True, metavar="DIR",
                       help="folder of the new dataset")
    files.add_argument("--size", type=cli.count, metavar="N",
                       help="scale and crop photographs to N x N pixels (default: original size)")
    files.add_argument("--encode", default="webp", choices=("webp", "png", "jpeg"),
                       help="format of originals and forgeries alike; webp and png are lossless "
                       "(default: webp)")
    files.add_argument("--quality", type=int, metavar="Q",
                       help="quality of jpeg, 1 to 100 (default: 95)")
    files.add_argument("--split-rule", type=int, choices=(1, 2), default=2, metavar="N",
                       help="what decides the split of a photograph: 2 for its content, or 1 for "
                       "its path and the name of the output folder, as in earlier versions "
                       "(default: 2)")
    cli.add_max_pixels(files)


def _add_forgeries(what: cli.Arguments) -> None:
    what.add_argument("--masks", type=cli.names, default=DEFAULT_MASKS, metavar="NAME,NAME",
                      help=f"shapes of the altered region: {', '.join(MASKS)} "
                      f"(default: {DEFAULT_MASKS})")
    what.add_argument("--fill", type=cli.names, default=DEFAULT_FILLS, metavar="NAME,NAME",
                      help=f"how the region is filled: {', '.join(FILLS)} "
                      f"(default: {DEFAULT_FILLS})")
    what.add_argument("--variants", type=cli.count, default=1, metavar="N",
                      help="forgeries of each photograph (default: 1)")
    what.add_argument("--coverage", type=_coverage, default="0.02,0.4", metavar="LOW,HIGH",
                      help="fraction of the photograph that a mask covers, 0 to 1 "
                      "(default: 0.02,0.4)")
    what.add_argument("--edge", type=float, metavar="PIXELS",
                      help="width of the soft edge inside the mask, up to half of a photograph's "
                      "shorter side (default: 2)")
    what.add_argument("--mix", type=_mix, default="0,0", metavar="LOW,HIGH",
                      help="fraction of the photograph that is mixed into the altered pixels, 0 to "
                      "below 1; drawn from this range for each forgery (default: 0,0)")
    what.add_argument("--copy-rotation", type=cli.number_from(0, 180), default=0, metavar="DEGREES",
                      help="fill 'copy_move': rotate copies by up to this angle, 0 to 180 "
                      "(default: 0)")
    what.add_argument("--copy-scale", type=_factors, default="1,1", metavar="LOW,HIGH",
                      help="fill 'copy_move': scale copies by a factor from this range, 0.25 to 4 "
                      "(default: 1,1)")
    what.add_argument("--seed", type=cli.count_or_0, default=0, metavar="N",
                      help="seed of all random choices (default: 0)")


def _add_models(models: cli.Arguments) -> None:
    add_mask_inputs(models, tuple(MASKS))
    models.add_argument("--autoencoder", metavar="FILE",
                        help="fill 'autoencoder': file of a trained autoencoder, or one file of a "
                        "published pair such as taef1_decoder.safetensors (default: train one on "
                        "the photographs)")
    models.add_argument("--steps", type=cli.count, metavar="N",
                        help="fill 'autoencoder': training steps of a new autoencoder (default: "
                        f"{DEFAULT_STEPS})")
    models.add_argument("--diffusion", metavar="PRESET",
                        help="fills 'vae' and 'diffusion': a keras-hub Stable Diffusion 3 preset")
    models.add_argument("--prompt", action="append", default=[], metavar="TEXT",
                        help="fill 'diffusion': what to draw; {folder} and {stem} are replaced by "
                        "the photograph's folder and file name without extension; may be given "
                        "several times")
    models.add_argument("--captions", type=Path, metavar="FILE",
                        help="fill 'diffusion': CSV file with the columns name and caption")
# fmt: on


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    settings, cluster = settings_of(args), cli.chosen_cluster(args)

    from tfdetect import api

    with continuing("Finished forgeries are"):
        rows = api.synthesize(
            args.source, args.output, settings, workers=args.workers,
            autoencoder_steps=args.steps or DEFAULT_STEPS, cluster=cluster, progress=not args.quiet,
        )  # fmt: skip
    failed = Counter(row["error"] for row in rows if row["error"])
    skipped = failed.total()
    for reason, count in failed.most_common(5):
        console.warn(f"skipped: {reason}" + (f" ({count:,} forgeries)" if count > 1 else ""))
    if len(failed) > 5:
        more = counted(len(failed) - 5, "more reason")
        console.warn(f"skipped: {more}, see provenance.csv")
    sheet = args.output / "contact_sheet.png"
    if args.json:
        return console.print_json({
            "dataset": args.output, "forgeries": len(rows) - skipped, "skipped": skipped,
            "contact_sheet": sheet,
        })  # fmt: skip
    made = counted(len(rows) - skipped, "forgery", "forgeries")
    console.result(f"{made} in {args.output}, {skipped:,} skipped")
    console.result(f"look at  {sheet}")
    from tfdetect.core.spec import SPLITS

    if len({row["split"] for row in rows if not row["error"]}) < len(SPLITS):
        return console.result(
            "next     add photographs: a training needs some of them in each of its three splits, "
            "train, validation and test. Choose another --output for them"
        )
    command = shell_command("train", dataset=args.output, experiment=settings.experiment)
    console.result(f"next     {command}")


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings that the arguments ask for.

    Raises:
        UserError: an unknown name, a number out of range, or a missing argument.
    """
    masks, fills = tuple(args.masks), tuple(args.fill)
    _refuse_unused(args, fills)
    mask_options = mask_options_of(args, masks)
    prompts = {"": tuple(args.prompt)} if args.prompt else {}
    if args.captions:
        prompts |= read_captions(args.captions)
    fill_options: dict[str, dict] = {}
    if args.diffusion:
        fill_options = {name: {"preset": args.diffusion} for name in ("vae", "diffusion")}
    if args.copy_rotation or args.copy_scale != (1, 1):
        fill_options["copy_move"] = {"rotation": args.copy_rotation, "scale": args.copy_scale}
    return Settings(
        masks=masks, fills=fills, mask_options=mask_options, fill_options=fill_options,
        prompts=prompts, variants=args.variants, coverage=args.coverage,
        edge=Settings.edge if args.edge is None else args.edge, mix=args.mix, size=args.size,
        encode=args.encode, seed=args.seed,
        quality=Settings.quality if args.quality is None else args.quality,
        autoencoder=args.autoencoder, max_pixels=args.max_pixels, split_rule=args.split_rule,
    )  # fmt: skip


def _refuse_unused(args: argparse.Namespace, fills: tuple[str, ...]) -> None:
    """Refuse arguments of fills, masks and formats that are not used."""
    fills_with = {
        "copy_rotation": ("copy_move",), "copy_scale": ("copy_move",), "prompt": ("diffusion",),
        "captions": ("diffusion",), "diffusion": ("vae", "diffusion"),
        "autoencoder": ("autoencoder",), "steps": ("autoencoder",),
    }  # fmt: skip
    for name, users in fills_with.items():
        if getattr(args, name) not in (None, 0, [], (1, 1)) and not {*users} & {*fills}:
            flag, needed = f"--{name.replace('_', '-')}", " or ".join(users)
            raise UserError(f"{flag} is for --fill {needed}. Add that fill, or leave out {flag}.")
    if args.edge is not None and args.masks == ["whole"]:
        raise UserError("--edge is for regions of a photograph; --masks whole leaves no edge.")
    if args.quality is not None and args.encode != "jpeg":
        raise UserError(f"--quality is for --encode jpeg. Received: --encode {args.encode}.")


def _coverage(text: str) -> tuple[float, float]:
    expected = "two fractions from 0 to 1, the lower one first, for example 0.02,0.4"
    return _range(text, expected, lambda low, high: 0 <= low < high <= 1)


def _mix(text: str) -> tuple[float, float]:
    expected = "two fractions from 0 to below 1, the lower one first, for example 0,0.5"
    return _range(text, expected, lambda low, high: 0 <= low <= high < 1)


def _factors(text: str) -> tuple[float, float]:
    expected = "two factors from 0.25 to 4, the lower one first, for example 0.8,1.25"
    return _range(text, expected, lambda low, high: 0.25 <= low <= high <= 4)


def _range(text: str, expected: str, fits: Callable[[float, float], bool]) -> tuple[float, float]:
    with suppress(ValueError):
        low, high = map(float, text.split(","))
        if fits(low, high):
            return low, high
    raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")


if __name__ == "__main__":
    sys.exit(run_command(main))
