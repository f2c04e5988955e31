"""What a command does to its process: its own temporary directory, and signals that clean up."""

import _thread
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PREFIX = "tfdetect-"
_ENDING = ("SIGTERM", "SIGHUP")  # what ends a process politely, beside Ctrl-C


class Terminated(SystemExit):
    """A signal asked the process to end; the exit code is 128 plus the number of the signal."""

    code: int


def allowed_cores() -> list[int]:
    """Return the numbers of the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


_running = 0  # commands in this process: one, or none in a program of the user
_termination: Terminated | None = None  # of the command that runs, or ran last


def stopped_by(error: BaseException) -> Terminated | KeyboardInterrupt | None:
    """Return the exception of a signal if an error was caused by it.

    TensorFlow's C++ code may raise an error of its own in its place; of Ctrl-C it keeps the name.
    """
    if _termination is not None:
        return _termination
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, RuntimeError) and KeyboardInterrupt.__name__ in str(found):
            return KeyboardInterrupt()
        found = found.__cause__ or found.__context__
    return None


@contextmanager
def command_process() -> Iterator[None]:
    """Give a command a temporary directory of its own, and let signals end it in order.

    The directory is removed at the end, whatever libraries left in it; that of a killed command
    is removed by the next one. SIGTERM and SIGHUP raise `Terminated`, so that everything that is
    being written is cleaned up, as after Ctrl-C.
    """
    global _running
    _running += 1
    try:
        with _signals(), _temporary_directory():
            yield
    finally:
        _running -= 1


def is_command() -> bool:
    """Return whether this process runs a command, and is not a program of the user."""
    return _running > 0


@contextmanager
def _temporary_directory() -> Iterator[None]:
    base = os.environ.get("TMPDIR") or "/tmp"
    own = os.path.join(base, f"{_PREFIX}{os.getpid()}-{time.time_ns():x}")
    try:
        _remove_leftovers(base)
        os.mkdir(own, 0o700)
    except OSError:  # the library decides which other directory to use
        yield
        return
    lock = lock_directory(own)
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = own  # of worker processes, and of this one
    _forget_directory()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = before
        _forget_directory()
        with deferred_signals():
            shutil.rmtree(own, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _forget_directory() -> None:
    """Make `tempfile` look up the temporary directory again."""
    if (module := sys.modules.get("tempfile")) is not None:
        module.tempdir = None  # type: ignore[attr-defined]


def lock_directory(directory: str | os.PathLike[str]) -> int | None:
    """Lock a directory while this process lives, and return the file to close.

    Other processes see that it is in use, also those in other containers, where process numbers
    say nothing, and systemd, which else removes old temporary directories.

    Returns:
        The descriptor of the open directory; None where directories cannot be locked.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        import fcntl

        file = os.open(directory, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError:  # some network file systems
        os.close(file)
        return None
    return file


def _remove_leftovers(base: str) -> None:
    """Remove the directories of processes that were killed."""
    for entry in os.scandir(base):
        if not entry.name.startswith(_PREFIX) or not entry.is_dir(follow_symlinks=False):
            continue
        with suppress(OSError):
            mine = entry.stat(follow_symlinks=False).st_uid == os.getuid()
            if mine and not _is_alive(entry.name):
                remove_unlocked(entry.path)


def remove_unlocked(directory: str | os.PathLike[str]) -> None:
    """Remove a directory with all that it holds, unless a process has locked it."""
    try:
        lock = lock_directory(directory)
    except BlockingIOError:
        return
    shutil.rmtree(directory, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _is_alive(name: str) -> bool:
    """Return whether the process in the name of a directory may exist; the lock decides as well."""
    number = name.removeprefix(_PREFIX).partition("-")[0]
    if not number.isdecimal():
        return True  # not of this kind
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    return int(number) != os.getpid()  # of an earlier process with this number


@contextmanager
def _signals() -> Iterator[None]:
    """Let `_ENDING` raise `Terminated`, once, and see to it that this and Ctrl-C are not lost."""
    global _termination
    _termination = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raised = False

    def terminate(number: int, frame: object) -> None:
        global _termination
        nonlocal raised
        if not raised:  # a second signal would interrupt the cleaning up
            raised = True
            _termination = Terminated(128 + number)
            raise _termination

    def once_more(lost: "sys.UnraisableHookArgs") -> None:
        """Send a signal again whose exception fell into a finalizer, where Python drops it."""
        nonlocal raised
        if isinstance(lost.exc_value, Terminated):
            raised, number = False, lost.exc_value.code - 128
        elif isinstance(lost.exc_value, KeyboardInterrupt):
            number = int(signal.SIGINT)
        else:
            return hook(lost)
        timer = threading.Timer(0.02, _thread.interrupt_main, [number])  # not in the finalizer
        timer.daemon = True
        timer.start()

    hook, before = sys.unraisablehook, {}
    for name in _ENDING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # not nohup
            before[number] = signal.signal(number, terminate)
    sys.unraisablehook = once_more
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let Ctrl-C and other signals wait, where in the middle they would leave a mess.

    For example in the import of TensorFlow, where they become odd errors, while a worker process
    is started, which would complain that its parent is gone, and while a folder is removed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        received.append(number)

    numbers = [getattr(signal, name) for name in ("SIGINT", *_ENDING) if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    raising = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in raising:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in raising.items():
            signal.signal(number, handler)
    if received:
        raising[received[0]](received[0], None)
