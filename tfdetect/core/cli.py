"""What all commands share: parsing, clear errors, exit codes."""

import argparse
import os
import sys
from collections.abc import Callable

from tfdetect.core.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """An argument parser that names the nearest flag when one is misspelled."""

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
