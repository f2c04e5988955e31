"""`python -m tfdetect.extract_faces`: faces and masks out of FaceForensics++ videos."""

import sys
from pathlib import Path

from tfdetect.core.cli import Parser, run_command


def parser() -> Parser:
    p = Parser(
        prog="tfdetect extract-faces",
        description="Cuts faces, and the masks of edited ones, out of FaceForensics++ videos "
        "into the layout of the dataset faces3. Goes on where it stopped.",
    )
    p.add_argument("videos", type=Path, help="folder with original_sequences/ and "
                   "manipulated_sequences/")  # fmt: skip
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the "
                   "dataset; real/, edited/ and masks/ are made in it")  # fmt: skip
    p.add_argument("--every", type=int, default=10, metavar="N", help="every N-th frame (10)")
    p.add_argument("--margin", type=float, default=1.3, metavar="X",
                   help="side of the cut as a multiple of the face (1.3)")  # fmt: skip
    p.add_argument("--size", type=int, metavar="PIXELS",
                   help="resize to this side (default: pixels as they are)")  # fmt: skip
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable

    if args.every < 1 or args.margin <= 0 or (args.size is not None and args.size < 1):
        raise UserError("--every, --margin and --size must be above 0.")
    if not args.videos.is_dir():
        raise UserError(f"There is no folder {args.videos}.")
    check_writable(args.output)

    from tfdetect.data.faces import extract_faces, find_videos

    videos = find_videos(args.videos)
    cuts = extract_faces(videos, args.output, args.every, args.margin, args.size)
    failed = [cut for cut in cuts if cut.error]
    for cut in failed:
        print(f"{cut.video.path}: {cut.error}", file=sys.stderr)
    print(
        f"{sum(c.faces for c in cuts):,} faces of {len(cuts) - len(failed)} videos in "
        f"{args.output}; {len(videos) - len(cuts)} videos were done before, {len(failed)} failed, "
        f"{sum(c.missed for c in cuts):,} frames showed no face"
    )
    return 1 if failed and len(failed) == len(videos) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
