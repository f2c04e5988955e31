"""`python -m tfdetect.synthesize`: makes forgeries with masks out of photographs."""

import os
import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    from tfdetect.core.registry import FILLS, MASKS

    p = Parser(
        prog="tfdetect synthesize",
        description="Alters regions of photographs and keeps the masks: a data set to train and "
        "test detectors on. Goes on where it stopped.",
    )
    # fmt: off
    p.add_argument("--source", type=Path, required=True, metavar="DIR", help="photographs")
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="the data set")
    p.add_argument("--masks", default="brush,polygon,blob", metavar="A,B",
                   help=f"mask makers, of {', '.join(MASKS)} (brush,polygon,blob)")
    p.add_argument("--fill", default="telea,navier_stokes,copy_move,splice,autoencoder",
                   metavar="A,B", help=f"fills, of {', '.join(FILLS)} "
                   "(telea,navier_stokes,copy_move,splice,autoencoder)")
    p.add_argument("--variants", type=int, default=1, metavar="N",
                   help="forgeries of each photograph (1)")
    p.add_argument("--coverage", default="0.02,0.4", metavar="LOW,HIGH",
                   help="share of the photograph that a mask covers (0.02,0.4)")
    p.add_argument("--edge", type=float, default=2, metavar="PIXELS",
                   help="soft edge, inside the mask (2)")
    p.add_argument("--size", type=int, metavar="N",
                   help="scale and cut photographs to N x N pixels (default: as they are)")
    p.add_argument("--encode", default="webp", choices=("webp", "png", "jpeg"),
                   help="of originals and forgeries alike; webp and png are lossless (webp)")
    p.add_argument("--quality", type=int, default=95, metavar="Q", help="of jpeg (95)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices (0)")
    p.add_argument("--segmentations", metavar="DIR",
                   help="for the mask segments: PNG of region numbers, named as the photographs")
    p.add_argument("--segmenter", metavar="PRESET", help="for objects: a keras-hub segmenter")
    p.add_argument("--autoencoder", metavar="FILE",
                   help="a trained one (default: one is trained on the photographs)")
    p.add_argument("--steps", type=int, default=1500, metavar="N",
                   help="of training the autoencoder (1500)")
    p.add_argument("--diffusion", metavar="PRESET",
                   help="for vae and diffusion: a keras-hub Stable Diffusion 3 preset")
    p.add_argument("--prompt", action="append", default=[], metavar="TEXT",
                   help="for diffusion; {folder} and {stem} become the photograph's; repeatable")
    p.add_argument("--captions", type=Path, metavar="FILE",
                   help="for diffusion: CSV with the columns name and caption")
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
                   help="processes (one a core)")
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    # fmt: on
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable

    if not args.source.is_dir():
        raise UserError(f"There is no folder {args.source}.")
    settings = _settings(args)
    check_writable(args.output)

    from tfdetect.synthesis.contact_sheet import synthesize_with_sheet

    if needs_tensorflow(settings):
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
    rows = synthesize_with_sheet(
        args.source, args.output, settings, args.workers, args.steps, not args.quiet
    )
    failed = [row for row in rows if row["error"]]
    for row in failed[:5]:
        print(f"left out: {row['error']}", file=sys.stderr)
    if len(failed) > 5:
        print(f"left out: {len(failed) - 5} more, see provenance.csv", file=sys.stderr)
    print(f"{len(rows) - len(failed):,} forgeries in {args.output}, {len(failed)} left out")
    print(f"Look at {args.output / 'contact_sheet.png'}; train with --dataset {args.output}")


def needs_tensorflow(settings) -> bool:
    """Whether a fill or mask of the settings holds a model."""
    from tfdetect.synthesis.forge import WITH_MODEL

    return bool(set(WITH_MODEL) & {*settings.fills, *settings.masks})


def _settings(args):
    """The settings that the arguments ask for.

    Raises:
        UserError: a name is not known, a number out of range, or an argument is missing.
    """
    from tfdetect.core import registry
    from tfdetect.core.errors import UserError, unknown
    from tfdetect.synthesis.forge import Settings, read_captions
    from tfdetect.synthesis.photos import SMALLEST

    masks, fills = (tuple(filter(None, text.split(","))) for text in (args.masks, args.fill))
    for kind, names, known in (("mask", masks, registry.MASKS), ("fill", fills, registry.FILLS)):
        if wrong := [name for name in names if name not in known]:
            raise unknown(kind, wrong[0], known)
    if not masks or not fills:
        raise UserError("Name at least one mask and one fill.")
    try:
        low, high = map(float, args.coverage.split(","))
    except ValueError:
        raise UserError(
            f"--coverage must be two shares, as 0.02,0.4. Got {args.coverage!r}."
        ) from None
    if not 0 <= low < high <= 1:
        raise UserError("--coverage must be two shares from 0 to 1, the lower one first.")
    if min(args.variants, args.workers, args.steps) < 1 or args.edge < 0 or args.seed < 0:
        raise UserError(
            "--variants, --workers and --steps must be at least 1, --edge and --seed 0."
        )
    if args.size is not None and args.size < SMALLEST:
        raise UserError(f"--size must be at least {SMALLEST}.")
    if not 1 <= args.quality <= 100:
        raise UserError("--quality must be from 1 to 100.")
    if "segments" in masks and not args.segmentations:
        raise UserError("The mask segments needs --segmentations DIR.")
    prompts = {"": tuple(args.prompt)} if args.prompt else {}
    if args.captions:
        prompts |= read_captions(args.captions)
    if "diffusion" in fills and not prompts:
        raise UserError("The fill diffusion needs --prompt TEXT or --captions FILE.")
    mask_options, fill_options = {}, {}
    if args.segmentations:
        mask_options["segments"] = {"segmentations": args.segmentations}
    if args.segmenter:
        mask_options["objects"] = {"preset": args.segmenter}
    if args.diffusion:
        fill_options = {name: {"preset": args.diffusion} for name in ("vae", "diffusion")}
    return Settings(
        masks, fills, args.variants, (low, high), args.edge, args.size, args.encode, args.quality,
        args.seed, mask_options, fill_options, prompts, args.autoencoder,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
