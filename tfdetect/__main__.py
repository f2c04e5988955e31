"""`tfdetect <command>`, the console script, and `python -m tfdetect <command>`."""

import importlib
import sys

from tfdetect.core.cli import run_command
from tfdetect.core.errors import nearest

COMMANDS = {
    "audit": "look for what a dataset gives away, before training",
    "train": "train a detector and leave a run",
    "models": "list the published detectors that train --model knows",
    "search": "search for a better experiment",
    "ensemble": "fuse trained runs into one detector",
    "calibrate": "make a run's P(fake) a probability, and choose thresholds",
    "evaluate": "measure a run on its dataset or on another one",
    "compare": "tell whether one run is better than another, or was lucky",
    "explain": "what moves a run's verdicts on a set of images",
    "matrix": "train on each generator and test on all",
    "predict": "give verdicts on files and folders",
    "synthesize": "make forgeries with masks out of photographs",
    "prepare": "write a dataset as shards, for fast training and for TensorFlow Datasets",
    "show-augment": "draw what an augmentation policy does to some images",
    "extract-faces": "cut faces and masks out of FaceForensics++ videos",
    "convert": "make a run of published PyTorch weights",
    "export": "write a run's SavedModel again",
}


def main(argv: list[str] | None = None) -> int:
    """The console script `tfdetect <command> ...`."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: tfdetect COMMAND [...]\n\ncommands:")
        for name, text in COMMANDS.items():
            print(f"  {name:<{width}}  {text}")
        print("\nEach has its own --help. python -m tfdetect.COMMAND does the same.")
        return 0
    if argv[0] in ("-V", "--version"):
        from tfdetect import __version__

        print(f"tfdetect {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        print(f"error: Unknown command {argv[0]!r}.{nearest(argv[0], COMMANDS)} "
              f"Commands: {', '.join(COMMANDS)}.", file=sys.stderr)  # fmt: skip
        return 2
    # Of the name of a room, the room's __main__.
    name = argv[0].replace("-", "_") + (".__main__" if argv[0] == "models" else "")
    module = importlib.import_module(f"tfdetect.{name}")
    return run_command(module.main, argv[1:])


if __name__ == "__main__":
    sys.exit(main())
