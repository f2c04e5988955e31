"""`run_command`: runs a command and turns errors and signals into messages and exit codes."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core import console
from tfdetect.core.caches import cache_dir
from tfdetect.core.errors import NothingToDo, UserError, first_line
from tfdetect.core.packages import missing_package
from tfdetect.core.plugin_faults import shows_traceback
from tfdetect.core.process import Terminated, command_process, stopped_by

if TYPE_CHECKING:
    from tfdetect.core.disk import DiskError

_in_command: ContextVar[bool] = ContextVar("in_command", default=False)

EXIT_ERROR = 2  # a mistake that the user can fix
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def run_command(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    A `UserError`, a missing package, a GPU without enough memory, and a disk that is full or denies
    access are reported by one message on stderr and exit code 2. A signal ends the process only
    after everything half-written was removed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    token = _in_command.set(True)
    try:
        with command_process():
            return main(list(sys.argv[1:] if argv is None else argv)) or 0
    except NothingToDo as done:
        console.log(str(done))
        return 0
    except (KeyboardInterrupt, Terminated) as ended:
        return _stopped(ended)
    except BrokenPipeError:  # the reader of a pipe went away
        _discard_output()
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if (asked := stopped_by(error)) is not None:
            return _stopped(asked)
        if (message := explanation_of(error)) is not None:
            if shows_traceback():
                traceback.print_exception(error)
            return _failed(message)
        raise
    finally:
        _in_command.reset(token)


def in_command() -> bool:
    """Return whether a command is running, whose messages name options, not arguments."""
    return _in_command.get()


@contextmanager
def continuing(kept: str) -> Iterator[None]:
    """If a signal ends the work in this context, print that the same command continues it.

    Args:
        kept: what is kept, with its verb, such as "Finished trials are".
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | Terminated) or stopped_by(error):
            with suppress(OSError):
                console.log(f"\n{kept} kept; the same command continues.")
        raise


def explanation_of(error: Exception) -> str | None:
    """Return a message that says what the user can do about an error; None if it is a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (missing := missing_package(error)):
        return str(missing)
    from tfdetect.core.disk import find_disk_error

    if found := find_disk_error(error):  # first: TensorFlow calls a full disk an exhausted resource
        return (
            f"{found}. What was finished before is unchanged. {_way_out(found)}, or choose "
            f"another folder{_of_caches(found.path)}, and run the command again."
        )
    if lacks_memory(error):
        return (
            "There is not enough memory for this on the GPU (or, without one, in the machine). "
            "Other programs may hold it: nvidia-smi lists those on a GPU. Take smaller images "
            "or batches (data.image_size, training.batch_size, or training.accumulate for the "
            f"same batch in parts), or another GPU. What TensorFlow says: {first_line(error)}"
        )
    return None


def _way_out(refused: "DiskError") -> str:
    """Return what to do about what the disk refused."""
    from tfdetect.core.disk import room_left

    if refused.number in (errno.ENOSPC, errno.EDQUOT):
        free = room_left(refused.path)
        return "Free space on the disk" + (
            "" if free is None else f" ({free / 1e6:,.1f} MB are free)"
        )
    if refused.number == errno.EFBIG:
        return "Raise the limit on the size of a file (ulimit -f)"
    if refused.number == errno.ENAMETOOLONG:
        return "Shorten the name"
    if refused.number == errno.EIO:
        return "Check the disk and its connection"
    return f"Allow access to {refused.path or 'the folder'}"


def _of_caches(path: str) -> str:
    """Return how to choose another folder for caches if the disk refused that one; else ""."""
    try:
        refused, cache = Path(path), cache_dir()
    except UserError:  # what the variable says is no folder
        return ""
    if refused.is_absolute() and (refused.is_relative_to(cache) or cache.is_relative_to(refused)):
        return " for caches with TFDETECT_CACHE=FOLDER"
    return ""


def _stopped(ended: KeyboardInterrupt | Terminated) -> int:
    with suppress(OSError):  # the terminal may be gone
        console.log("\nStopped.")
    return ended.code if isinstance(ended, Terminated) else EXIT_INTERRUPTED


def _failed(message: str) -> int:
    """Print an error and return its exit code; stderr may be on a full disk or closed, too."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
    with suppress(OSError):
        console.error(message)
    return EXIT_ERROR


# Texts of TensorFlow's internal errors that mean that a GPU has no memory: CUDA's own error when a
# device is started, and a failed copy to it. Nothing else tells them from other internal errors.
_NO_GPU_MEMORY = ("out of memory", "Dst tensor is not initialized")


def lacks_memory(error: Exception) -> bool:
    """Return whether TensorFlow, if it is imported, could not allocate memory."""
    if (tf := sys.modules.get("tensorflow")) is None:
        return False
    if isinstance(error, tf.errors.InternalError):
        return any(text in str(error) for text in _NO_GPU_MEMORY)
    return isinstance(error, tf.errors.ResourceExhaustedError)


def _discard_output() -> None:
    """Discard unwritten output, which Python would otherwise fail to write when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())
    os.close(null)
