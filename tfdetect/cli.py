"""What all commands share: parsing, clear errors, exit codes; and `tfdetect <command>`."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable

from tfdetect.errors import UserError, nearest

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


class Parser(argparse.ArgumentParser):
    """An argument parser that names the nearest flag when one is misspelt."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_args(self, args=None, namespace=None):
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown argument {rest[0]!r}.{nearest(rest[0].split('=')[0], flags)}")
        return parsed

    def error(self, message: str):
        raise UserError(f"{message}\nSee: {self.prog} --help")


def run_command(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Runs a command; a `UserError` becomes one message and exit code 2."""
    try:
        return main(sys.argv[1:] if argv is None else argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


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
    name = argv[0].replace("-", "_") + (".__main__" if argv[0] in ("audit", "models") else "")
    module = importlib.import_module(f"tfdetect.{name}")
    return run_command(module.main, argv[1:])
