"""`tfdetect COMMAND`, the console script, and `python -m tfdetect COMMAND`."""

import importlib
import sys

from tfdetect.core import console
from tfdetect.core.errors import nearest
from tfdetect.core.packages import PROGRAM, has_tensorflow
from tfdetect.core.run_command import EXIT_ERROR, run_command

# Commands by task: name and what it does.
TASKS = {
    "Use a detector": {
        "predict": "give verdicts on image files and folders",
        "explain": "show which image regions and features move a run's scores",
        "serve": "answer over HTTP, with a page to drop photographs on",
        "export": "write a run for TensorFlow alone, ONNX, phones or browsers",
        "push": "upload a run to Hugging Face or Kaggle",
    },
    "Train a detector": {
        "train": "train a detector on a dataset; the result is a run (a folder)",
        "launch": "start several workers of one training on this machine",
        "search": "search for better hyperparameters",
        "ensemble": "fuse runs into one detector",
        "models": "list the published detectors that train --model accepts",
        "convert": "convert published PyTorch weights into a run",
    },
    "Measure a detector": {
        "evaluate": "measure a run on its dataset or on other images",
        "calibrate": "make P(fake) a probability, and choose thresholds",
        "compare": "test whether runs differ by more than chance",
        "matrix": "train on each generator and test on all",
        "study": "learning curves, and variants of a setting compared",
        "benchmark": "measure runs on standard benchmarks, beside published figures",
    },
    "Prepare data": {
        "audit": "check a dataset for shortcuts, duplicates and leaks",
        "synthesize": "make forgeries with masks from photographs",
        "prepare": "write a dataset as shards, for fast training",
        "show-augment": "draw what an augmentation does to images",
        "extract-faces": "crop faces from images, and masks from FaceForensics++",
    },
}
LIGHT = ("predict", "serve")  # the commands of tfdetect-light
COMMANDS = {name: text for task in TASKS.values() for name, text in task.items()}


def help_text() -> str:
    """Return what `tfdetect --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [
        f"usage: {PROGRAM} COMMAND [...]", "",
        "Train, evaluate and deploy detectors of AI-generated and altered images.",
    ]  # fmt: skip
    full = has_tensorflow()
    for task, commands in TASKS.items():
        commands = {name: text for name, text in commands.items() if full or name in LIGHT}
        if not commands:
            continue
        lines += ["", f"{task}:", *(f"  {name:<{width}}  {t}" for name, t in commands.items())]
    lines += [
        *([] if full else ["", "All other commands need: pip install tfdetect"]),
        "", "examples:",
        *(["  # first training, on the built-in demonstration; two to three minutes",
           "  tfdetect train --dataset demo"] if full else []),
        "  # a verdict on your own image",
        f"  {PROGRAM} predict photo.jpg",
        "",
        f"{PROGRAM} COMMAND --help explains a command; python -m tfdetect.COMMAND runs it, too.",
    ]  # fmt: skip
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run `tfdetect COMMAND ...` and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        return run_command(lambda _: console.result(help_text()), [])
    if argv[0] in ("-V", "--version"):
        from tfdetect import __version__

        console.result(f"tfdetect {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        here = COMMANDS if has_tensorflow() else LIGHT
        console.error(f"Unknown command {argv[0]!r}.{nearest(argv[0], here)} "
                      f"Commands: {', '.join(here)}.\nSee: {PROGRAM} --help")  # fmt: skip
        return EXIT_ERROR
    # The command `models` is the __main__ of the package of that name.
    name = argv[0].replace("-", "_") + (".__main__" if argv[0] == "models" else "")

    def command(arguments: list[str]) -> int | None:
        return importlib.import_module(f"tfdetect.{name}").main(arguments)

    return run_command(command, argv[1:])


if __name__ == "__main__":
    sys.exit(main())
