"""`tfdetect export`: write a run's detector in the formats of other runtimes."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from tfdetect.core import cli, console
from tfdetect.core.choices import EXPORT_FORMATS
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.run_command import run_command


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect export",
        description="Export a run's detector from its Keras model, with its current calibration "
        "and threshold, into other formats. Each export is compared with the Keras model on "
        "photographs when it is written, and refused if the probabilities differ.\n\n"
        "saved_model needs TensorFlow alone and takes image files; onnx lets `predict` answer "
        "without TensorFlow. So does onnx_shared, a small detector.onnx in the run's folder that "
        "reads its weights from model.keras beside it: keep both together. It is for detectors "
        "with few convolutions, such as photo_detector. The others are for phones, browsers and "
        "other hardware. They take images of the detector's size and return the same outputs.\n\n"
        "web writes a folder for any static web host: its page analyzes images in the browser, so "
        "that they never leave the machine. The run needs an ONNX export.",
        examples=[
            ("tfdetect export saved_models/my_run", "write the formats again that the run has"),
            ("tfdetect export saved_models/my_run --format onnx,litert_int8",
             "into saved_models/my_run/exports"),
            ("tfdetect export saved_models/my_run --format web", "into the folder my_run-web"),
        ],
    )  # fmt: skip
    cli.add_run(p)
    p.add_argument("--format", type=cli.names, metavar="NAMES", help="formats, separated by "
                   f"commas: {', '.join(EXPORT_FORMATS)}, web (default: those that the run "
                   "has)")  # fmt: skip
    web = p.add_argument_group("format web")
    web.add_argument("--output", type=Path, metavar="DIR", help="folder to write (default: the "
                     "run's name and '-web', in the current directory)")  # fmt: skip
    web.add_argument("--npm-packages", type=Path, metavar="DIR", help="folder with the archives "
                     "that `npm pack` wrote of ONNX Runtime and the image decoders (default: npm "
                     "fetches them once)")  # fmt: skip
    cli.add_json(p)
    return p


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    from tfdetect import api
    from tfdetect.api.arguments import own_run, run_of

    for name in args.format or ():
        if name not in (known := (*EXPORT_FORMATS, "web")):
            raise unknown("export format", name, known)
    web = args.format is not None and "web" in args.format
    if not web and (args.output or args.npm_packages):
        raise UserError("--output and --npm-packages are for --format web.")
    formats = [name for name in args.format if name != "web"] if web else args.format
    run = own_run(args.run) if formats or not web else run_of(args.run)
    written = api.export(run, formats) if formats or not web else []
    page = api.export_web(run, args.output, npm_packages=args.npm_packages) if web else None
    if args.json:
        exports = [asdict(each) for each in written]
        return console.print_json({"run": run.path, "exports": exports, "web": page})
    if written:
        rows = [[e.format, str(run.path / e.path), f"{e.megabytes:g} MB", f"{e.max_difference:g}"]
                for e in written]  # fmt: skip
        console.result(console.format_table(rows, ["format", "path", "size", "largest difference"]))
    if page is not None:
        console.result(str(page))
        folder = shlex.quote(str(page.parent))
        console.log(f"Try it with: python -m http.server --directory {folder} --bind 127.0.0.1")


if __name__ == "__main__":
    sys.exit(run_command(main))
