"""Pools of worker processes, whatever the calling script looks like and however it ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from types import ModuleType
from typing import Any

from tfdetect.core.process import deferred_signals

_PR_SET_PDEATHSIG = 1  # of prctl: a signal for when the parent ends


class _Pool(ProcessPoolExecutor):
    """Starts its processes without the script of the user, which may have no main guard."""

    def submit(self, *args: Any, **kwargs: Any) -> Future:
        with _hidden_main(), _no_interrupts(), deferred_signals():
            return super().submit(*args, **kwargs)

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is None:
            self.shutdown()
        else:
            end_pool(self)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep a new process from importing the main script: what it runs is in modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C from their first moment on; this one is told later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def process_pool(workers: int | None) -> ProcessPoolExecutor:
    """Return a pool of worker processes, one for each core if their number is None.

    They work whatever the calling script looks like, and end when this process ends, however it
    ends.
    """
    return _Pool(workers, get_context("spawn"), _end_with_parent, (os.getpid(),))


def end_pool(pool: ProcessPoolExecutor) -> None:
    """End a pool at once, whatever its processes are doing."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _end_with_parent(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends the pool
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)
