"""`tfdetect predict`: verdicts on image files and folders."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.core import cli, console
from tfdetect.core.errors import UserError
from tfdetect.core.files import check_writable
from tfdetect.core.packages import PROGRAM
from tfdetect.core.run_command import run_command
from tfdetect.core.text import counted, images_are, printable, with_escapes

if TYPE_CHECKING:
    from tfdetect.api import Detector, Predictions
    from tfdetect.core.run import Run
    from tfdetect.core.spark_cluster import SparkCluster
    from tfdetect.forensics.evidence import Evidence
    from tfdetect.spark.predict_table import WrittenPredictions

_NAMED = 10  # images with copied regions that are named
_NO_SEARCH = (
    "copied regions were not looked for: OpenCV is not installed (pip install "
    "opencv-python-headless)"
)


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect predict",
        usage="%(prog)s [RUN] IMAGE [IMAGE ...] [options]",
        description="Give a verdict on images: P(fake), the probability of each class and, from "
        "detectors that predict masks, which pixels were altered. A file that cannot be read, "
        "or a folder without images, gets a row with its error, and the others go on.",
        incomplete="none of the images could be read, or a mask or a page could not be written",
        examples=[
            ("tfdetect predict photo.jpg", "one image, by the detector that comes with tfdetect"),
            ("tfdetect predict saved_models/my_run photos/ --output verdicts.csv",
             "all images below a folder, into a table"),
            ("tfdetect predict saved_models/my_run photo.jpg --explain pages/",
             "with a page that explains the verdict"),
            ("tfdetect predict photo_detector photo.jpg",
             "by another of the detectors that come with tfdetect"),
            ("tfdetect predict saved_models/localizer_photos photo.jpg --masks masks/",
             "where the image was altered"),
            ("tfdetect predict saved_models/my_run archive/ --output verdicts.parquet "
             "--spark spark://host:7077",
             "a million images, on the machines of a Spark cluster"),
            ("tfdetect predict s3://bucket/runs/my_run 's3://bucket/archive/**/*.jpg' "
             "--output s3://bucket/verdicts.parquet",
             "run, images and table in an object store"),
            ("tfdetect predict photo.jpg --evidence",
             "with everything else that is known: metadata, JPEG history, copied regions"),
        ],
    )  # fmt: skip
    p.add_argument("paths", nargs="+", metavar="[RUN] IMAGE", help=f"{cli.RUN_HELP} "
                   "(without one, a detector that comes with tfdetect is chosen by each image's "
                   "size, and with --masks the localizer). Then files, folders (with all folders "
                   "below), or quoted patterns such as 'photos/**/*.jpg'; also at addresses such "
                   "as s3://bucket/folder or https://host/photo.jpg")  # fmt: skip
    how = p.add_argument_group("verdicts")
    cli.add_verdict(how)
    cli.add_views(how)
    out = p.add_argument_group("output")
    out.add_argument("--output", type=Path, metavar="FILE", help="write the rows to a .csv, .jsonl "
                     "or .parquet file instead of printing a table; if the command is stopped, "
                     "the finished rows are in NAME.unfinished.csv")  # fmt: skip
    out.add_argument("--masks", type=Path, metavar="DIR", help="write mask, P(altered), regions "
                     "that are copies of others, and an overlay of each image as PNG files; for "
                     "detectors that predict masks, such as localizer_photos")  # fmt: skip
    out.add_argument("--explain", type=Path, metavar="DIR", help=cli.full_help(
        "write an HTML page for each image: verdict, probability, heat maps, stability, metadata"
    ))  # fmt: skip
    out.add_argument("--evidence", action="store_true", help="show what else is known of each "
                     "image and how often each finding is wrong: content credentials, notes of "
                     "generators, camera data, JPEG history, copied regions")  # fmt: skip
    out.add_argument("--copies", type=Path, metavar="DIR", help="write a mask and an overlay of "
                     "regions that are copies of other regions, as PNG files; needs no "
                     "detector that predicts masks")  # fmt: skip
    cli.add_batch_size(out)
    cli.add_max_pixels(out)
    cli.add_json(out)
    cli.add_quiet(out)
    cli.add_spark(p.add_argument_group("cluster"), "FILE.parts beside --output FILE")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    threshold, prior = cli.chosen_threshold(args), cli.chosen_prior(args)
    cluster = cli.chosen_cluster(args)
    if cluster is not None:
        _check_cluster(args)
    _check_outputs(args)

    from tfdetect.api.shipped import split_run

    chosen, images = split_run(args.paths)
    parts = [
        (detector.with_options(
            threshold=threshold, prior=prior, crops=args.crops, flips=args.flips,
            mask_threshold=args.mask_threshold,
        ), own)
        for detector, own in _open_detectors(chosen, images, args)
    ]  # fmt: skip
    if cluster is not None:
        [(detector, _)] = parts
        return _predict_on_cluster(detector, images, cluster, args)
    return _predict(parts, images, args, with_localizer=chosen is None)


def _check_outputs(args: argparse.Namespace) -> None:
    """Check early that the table and the copied regions can be written.

    Raises:
        UserError: one of them cannot, or OpenCV is missing, which finds the copied regions.
    """
    from tfdetect.evaluation.prediction_tables import check_output

    if args.output:
        check_output(args.output)
    if args.copies:
        check_writable(args.copies, "--copies")
        from tfdetect.forensics.copies import check_can_search

        check_can_search("--copies")


def _open_detectors(
    chosen: str | None, images: list[str], args: argparse.Namespace
) -> "list[tuple[Detector, list[str]]]":
    """Return the run that was named, or those that come with tfdetect and suit the images.

    Each comes with its images. On a cluster it is one, whatever the sizes of the images.
    """
    from tfdetect import api
    from tfdetect.api.shipped import shipped_detectors

    if chosen is not None:
        return [(api.load(Path(chosen)), images)]
    masks = args.masks is not None
    choices = shipped_detectors(images, masks, one_for_all=args.spark is not None)
    if not args.quiet:
        for each in choices:
            console.log(
                f"Detector: {each.run.name} ({each.reason}; name another: {PROGRAM} predict RUN "
                "...)"
            )
        if len(choices) > 1:  # each detector is given images alone
            from tfdetect.data.image_files import find_images

            files = find_images(images)
            if files.noteworthy:
                console.log(files.describe())
    return [(api.load(each.run), each.images) for each in choices]


def _predict_on_cluster(
    detector: "Detector", images: list[str], cluster: "SparkCluster", args: argparse.Namespace
) -> int:
    """Write the table of verdicts on a Spark cluster; return the exit code."""
    written = detector.predict_to_table(
        images, args.output, cluster, batch_size=args.batch_size, progress=not args.quiet,
        max_pixels=args.max_pixels,
    )  # fmt: skip
    console.result(f"{counted(written.rows, 'row')} in {args.output}")
    console.log(f"Its parts are in {written.parts}; remove them when you no longer need them")
    log_warnings(written.rows, written)
    return int(written.unreadable == written.rows)


def _predict(
    parts: "list[tuple[Detector, list[str]]]",
    images: list[str],
    args: argparse.Namespace,
    with_localizer: bool,
) -> int:
    """Show verdicts and whatever else is asked for; return the exit code.

    Args:
        parts: detectors with the images that they judge.
        images: paths, folders and patterns of all of them.
        args: of the command.
        with_localizer: whether evidence is also what the localizer that comes with tfdetect says.
    """
    from tfdetect.api.several_detectors import predict_with_each

    wants_evidence = args.evidence or args.copies is not None
    failures: list[OSError] = []

    def show(found: "Predictions") -> None:
        try:
            if not (args.json and wants_evidence and not args.output):  # they come with it
                _show(found, args.output, args.json and not wants_evidence)
        except OSError as error:  # masks and pages are written nevertheless
            failures.append(error)

    predictions = predict_with_each(
        parts, images, batch_size=args.batch_size, masks=args.masks, pages=args.explain,
        progress=not args.quiet, on_verdicts=show, on_stop=partial(_show_finished, args=args),
        max_pixels=args.max_pixels,
    )  # fmt: skip
    nothing_read = predictions.unreadable == len(predictions)
    if not (args.json or args.output or args.quiet or nothing_read):
        for detector, _ in parts:
            _log_meaning_of_p_fake(detector.run, detector.name if len(parts) > 1 else "")
    unwritten = dict(predictions.unwritten)
    if wants_evidence:
        verdicts = [(detector.run, predictions.of(detector.name)) for detector, _ in parts]
        if with_localizer and not parts[0][0].run.predicts_masks and args.evidence:
            verdicts += _localizer_verdicts(images, args)
        unwritten |= _show_evidence(list(predictions), verdicts, args)
    log_files(predictions, unwritten, args.masks)
    log_warnings(len(predictions), predictions)
    if failures:
        raise failures[0]
    return int(bool(unwritten) or nothing_read)


def log_files(found: "Predictions", unwritten: dict[Path, str], masks: Path | None) -> None:
    """Print where masks and pages were written, and which could not be written."""
    readable = [row for row in found if row["error"] is None]
    failed = sum(path.is_relative_to(masks) for path in unwritten) if masks else 0
    if masks and len(readable) > failed:
        console.log(f"Masks and overlays in {masks}")
    if masks and readable and all(row["copied_fraction"] is None for row in readable):
        console.warn(_NO_SEARCH)
    for page in found.pages:
        console.log(f"Explained in {printable(page)}")
    if unwritten:
        path, reason = next(iter(unwritten.items()))
        what = "mask or page" if len(unwritten) == 1 else "masks or pages, the first:"
        console.warn(f"Not written: {len(unwritten):,} {what} {path}: {reason}")


def _log_meaning_of_p_fake(run: "Run", name: str) -> None:
    """Print what P(fake) assumes, and which part of an image is read.

    Args:
        run: of the detector.
        name: of the detector, where there are several.
    """
    from tfdetect.evaluation.verdict_words import what_is_read, what_p_fake_assumes

    of = f"{name}: " if name else ""
    console.log(f"{of}{what_p_fake_assumes(run)}")
    if part := what_is_read(run):
        console.log(f"{of}{part}")


def _check_cluster(args: argparse.Namespace) -> None:
    """Check that nothing is asked for that a cluster does not do.

    Raises:
        UserError: there is such a thing, or no file for the table.
    """
    if args.output is None:
        raise UserError("--spark needs --output FILE: a .csv, .jsonl or .parquet file.")
    for name in ("masks", "explain", "evidence", "copies", "json"):
        if getattr(args, name):
            raise UserError(
                f"--spark writes a table of verdicts, without --{name}. Leave it out; then run "
                f"'tfdetect predict' with --{name} on the images that matter."
            )


def log_warnings(count: int, found: "Predictions | WrittenPredictions") -> None:
    """Warn of images without a verdict, and of verdicts that are not reliable."""
    if found.unreadable:
        console.warn(
            f"{found.unreadable:,} of {counted(count, 'file')} could not be read or classified"
        )
    count -= found.unreadable
    if unlike := found.out_of_domain:
        console.warn(
            f"{images_are(unlike, count)} unlike those that the detector was trained on, in "
            "size, format or features: do not rely on such verdicts"
        )
    if copies := found.duplicates_of_train:
        console.warn(
            f"{images_are(copies, count)} known to the detector from training or validation "
            "(the same or a copy): such verdicts say nothing about new images"
        )


def _localizer_verdicts(
    images: list[str], args: argparse.Namespace
) -> "list[tuple[Run, list[dict[str, Any]]]]":
    """Return what the localizer that comes with tfdetect says, if this installation has it."""
    from tfdetect import api
    from tfdetect.core.shipped_runs import LOCALIZER, shipped_folder
    from tfdetect.data.image_files import find_images

    try:
        localizer = api.load(shipped_folder(LOCALIZER))
    except UserError:
        return []
    files = find_images(images)
    once = images if files.entries else files.paths  # what was given twice has been said
    rows = localizer.predict(once, progress=False, max_pixels=args.max_pixels)
    return [(localizer.run, list(rows))]


def _show_evidence(
    rows: list[dict[str, Any]],
    verdicts: "list[tuple[Run, list[dict[str, Any]]]]",
    args: argparse.Namespace,
) -> dict[Path, str]:
    """Print the evidence on each image; return the files that could not be written, and why.

    Args:
        rows: the verdict on each image.
        verdicts: runs with their own rows, those for the headline first.
        args: of the command.
    """
    from tfdetect.api.evidence_functions import examine_files
    from tfdetect.core.files import FailedWrites
    from tfdetect.forensics.evidence import printed, wrapped
    from tfdetect.forensics.headline import RULE

    failed = FailedWrites()
    paths = [row["path"] for row in rows if row["error"] is None]
    found = dict(examine_files(paths, verdicts, args.copies, failed, not args.quiet,
                               args.max_pixels))  # fmt: skip
    if args.json:
        more = {path: {"evidence": each.to_dict()} for path, each in found.items()}
        console.print_json([row | {"path": with_escapes(row["path"])} | more.get(row["path"], {})
                            for row in rows])  # fmt: skip
    elif args.evidence:
        for path, each in found.items():
            console.result("\n" + printed(printable(path), each))
        if found:
            console.result("\n" + wrapped(f"How the headline follows from this: {RULE}"))
    if args.copies:
        log_copies(found, args.copies)
    return failed.reasons


def log_copies(found: "dict[str, Evidence]", folder: Path) -> None:
    """Print in which images copied regions were found.

    Args:
        found: the evidence by path.
        folder: of the masks and overlays.
    """
    searched = {path: each.copies for path, each in found.items() if each.copies is not None}
    if found and not searched:
        return console.warn(_NO_SEARCH)
    names = [printable(path) for path, copies in searched.items() if copies.found]
    images = counted(len(searched), "image")
    text = f"No copied regions were found in {images}"
    if names:
        text = f"Copied regions were found in {len(names):,} of {images}: "
        text += ", ".join(names[:_NAMED])
        text += f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    console.log(f"{text}; masks and overlays in {printable(folder)}")


def _show_finished(found: "Predictions", args: argparse.Namespace) -> None:
    """Write or print the verdicts that were finished when the command was stopped.

    `--output` itself is only written whole.
    """
    output = args.output
    if output is not None:
        output = output.with_name(f"{output.stem}.unfinished{output.suffix}")
    console.log(f"{counted(len(found), 'image')} finished when stopped; their verdicts:")
    _show(found, output, args.json)
    if args.masks:
        console.log(f"Their masks and overlays are in {args.masks}")


def _show(found: "Predictions", output: Path | None, as_json: bool) -> None:
    """Write the verdicts to a file; print them without one, or if it cannot be written."""
    if output:
        try:
            found.write(output)
        except OSError:
            from tfdetect.core.files import csv_text

            console.warn(f"{output} could not be written. Its rows follow on stdout, as CSV.")
            console.result(csv_text(list(found)))
            raise
    if as_json:
        console.print_json([row | {"path": with_escapes(row["path"])} for row in found])
    elif output:
        console.result(f"{counted(len(found), 'row')} in {output}")
    else:
        console.result(str(found))


if __name__ == "__main__":
    sys.exit(run_command(main))
