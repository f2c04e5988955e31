"""`tfdetect extract-faces`: faces and masks from FaceForensics++ videos, or faces from images."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import cli, console
from tfdetect.core.run_command import continuing, run_command
from tfdetect.core.text import counted

if TYPE_CHECKING:
    from tfdetect.data.face_detectors import FaceCrop


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect extract-faces",
        description="Crop faces, and the masks of edited ones, from FaceForensics++ videos, in the "
        "layout of the dataset faces3; or, with --images, faces from a folder of images, in the "
        "same subfolders. The same command continues an interrupted one.",
        incomplete="none of the videos or images could be read",
        examples=[
            ("tfdetect extract-faces FaceForensics++ --output faces",
             "then: tfdetect train --dataset faces3 --data-dir faces"),
            ("tfdetect extract-faces my_images --images --output faces",
             "then: tfdetect train --dataset faces"),
            ("tfdetect extract-faces my_images --images --landmarks face_landmark.tflite "
             "--output faces", "then: tfdetect train --dataset faces --experiment "
             "faces_two_streams"),
        ],
    )  # fmt: skip
    p.add_argument("videos", type=Path, metavar="DIR", help="folder with original_sequences/ and "
                   "manipulated_sequences/, or with images")  # fmt: skip
    p.add_argument("--images", action="store_true", help="DIR has images: crop the most confident "
                   "face of each, as PNG in the same folder of --output")  # fmt: skip
    p.add_argument("--landmarks", metavar="FILE", help="with --images: write heat maps of the "
                   "face's landmarks below each face, in the same image, by MediaPipe's "
                   "face_landmark.tflite (which is in the wheel of mediapipe 0.10.21); needs pip "
                   "install \"tfdetect[litert]\"")  # fmt: skip
    p.add_argument("--detector", metavar="FILE", help="find faces by MediaPipe's "
                   "face_detection_short_range.tflite (or full_range) instead of OpenCV; "
                   "it is in the wheel of mediapipe 0.10.21 and needs pip install "
                   "\"tfdetect[litert]\"")  # fmt: skip
    p.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the "
                   "dataset; of videos real/, edited/ and masks/ are made in it")  # fmt: skip
    p.add_argument("--every", type=cli.count, default=10, metavar="N",
                   help="take every N-th frame of videos (default: 10)")  # fmt: skip
    p.add_argument("--margin", type=cli.positive, default=1.3, metavar="X",
                   help="side of the crop as a multiple of the face's (default: 1.3)")  # fmt: skip
    p.add_argument("--size", type=cli.count, metavar="PIXELS",
                   help="resize crops to this side (default: the original pixels)")  # fmt: skip
    cli.add_json(p)
    cli.add_quiet(p)
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)

    from tfdetect.core.errors import UserError
    from tfdetect.core.files import check_writable
    from tfdetect.core.storage import fetched

    if not fetched(args.videos).is_dir():
        raise UserError(f"There is no folder {args.videos}.")
    check_writable(args.output)
    if args.landmarks and not args.images:
        raise UserError("--landmarks is for images: add --images.")
    return _crop_images(args) if args.images else _crop_videos(args)


def _crop_videos(args: argparse.Namespace) -> int:
    from tfdetect.data.faces import extract_faces, find_videos

    videos = find_videos(args.videos)
    with continuing("Finished videos are"):
        cuts = extract_faces(videos, args.output, _crop(args), args.every, not args.quiet)
    failed = [(str(cut.video.path), cut.error) for cut in cuts if cut.error]
    counts = {
        "faces": sum(cut.faces for cut in cuts), "videos": len(cuts) - len(failed),
        "videos_done_before": len(videos) - len(cuts), "videos_failed": len(failed),
        "frames_without_face": sum(cut.missed for cut in cuts),
    }  # fmt: skip
    text = (
        f"{counted(counts['faces'], 'face')} from {counted(counts['videos'], 'video')} in "
        f"{args.output} ({counts['videos_done_before']:,} done before, {len(failed):,} failed, "
        f"{counted(counts['frames_without_face'], 'frame')} without a face)"
    )
    return _finish(args, failed, counts, text, nothing_read=len(failed) == len(videos))


def _crop_images(args: argparse.Namespace) -> int:
    from tfdetect.core.errors import UserError
    from tfdetect.core.text import from_os
    from tfdetect.data.image_faces import crop_images, face_paths

    if args.output.resolve().is_relative_to(args.videos.resolve()):
        raise UserError(f"--output {args.output} is inside {args.videos}. Give another folder.")
    images = face_paths(args.videos)
    with continuing("Finished faces are"):
        results = crop_images(
            args.videos, images, args.output, _crop(args), args.landmarks, not args.quiet
        )
    failed = [(from_os(args.videos / each.path), each.error) for each in results if each.error]
    faces = sum(result.found for result in results)
    counts = {
        "faces": faces, "images": len(results) - len(failed),
        "images_done_before": len(images) - len(results), "images_failed": len(failed),
        "images_without_face": len(results) - len(failed) - faces,
    }  # fmt: skip
    text = (
        f"{counted(faces, 'face')} from {counted(counts['images'], 'image')} in {args.output} "
        f"({counts['images_done_before']:,} done before, {len(failed):,} failed, "
        f"{counts['images_without_face']:,} without a face)"
    )
    return _finish(args, failed, counts, text, nothing_read=len(failed) == len(results))


def _crop(args: argparse.Namespace) -> "FaceCrop":
    from tfdetect.data.face_detectors import FaceCrop

    return FaceCrop(args.margin, args.size, args.detector)


def _finish(
    args: argparse.Namespace,
    failed: list[tuple[str, str]],
    counts: dict[str, int],
    text: str,
    nothing_read: bool,
) -> int:
    """Print which files failed and the counts, as data or as text; return the exit code."""
    from tfdetect.core.storage import publish

    publish(args.output)
    for path, error in failed:
        console.warn(f"{path}: {error}")
    if args.json:
        console.print_json({"dataset": args.output, **counts})
    else:
        console.result(text)
    return int(bool(failed) and nothing_read)


if __name__ == "__main__":
    sys.exit(run_command(main))
