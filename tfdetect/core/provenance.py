"""The provenance of a run: versions of packages, git revision, command line."""

import datetime
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import tfdetect
from tfdetect.core.addresses import redacted
from tfdetect.core.text import shell_command


def provenance() -> dict[str, Any]:
    """Return versions, git revision and time for run.json."""
    packages = ("tensorflow", "keras", "keras-hub", "numpy", "pillow")
    versions = {"tfdetect": tfdetect.__version__, "python": sys.version.split()[0]}
    versions |= {p: metadata.version(p) for p in packages}
    revision = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    ).stdout.strip() if shutil.which("git") else ""  # fmt: skip
    return {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "git_revision": revision or None,
    }


def command_line(name: str, without: Sequence[str] = ()) -> str:
    """Return the command line with which this process was started as the command `name`.

    Args:
        name: the name of the command.
        without: flags to leave out.
    """
    arguments = sys.argv[1:] if sys.argv[1:2] != [name] else sys.argv[2:]
    arguments = [argument for argument in arguments if argument not in without]
    return redacted(shell_command(name, *arguments))
