"""`TrialProcess`: the child process of one trial, and how it ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from tfdetect.tuning.resources import Slot
from tfdetect.tuning.search_folder import Search
from tfdetect.tuning.store import FAILED, Outcome, Trial

_TERMINATION_SECONDS = 1.5  # for all trials of a search that is stopped; then they are killed


class TrialProcess:
    """A running trial. Its output goes into the trial's log file."""

    def __init__(self, search: Search, trial: Trial, slot: Slot):
        """Start the process.

        Args:
            search: the search.
            trial: one that was claimed from its store.
            slot: GPUs and CPU cores to use.
        """
        self.trial = trial
        self._search = search
        self._log = search.log_path(trial.number)
        self._log.parent.mkdir(exist_ok=True)
        self._file = self._log.open("ab")
        command = [sys.executable, "-m", "tfdetect.tuning.trial", str(search.folder),
                   str(trial.number), "--parent", str(os.getpid()), *slot.arguments]  # fmt: skip
        # In a session of its own: the search handles Ctrl-C and terminates its trials itself.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._file, stderr=self._file,
            env=slot.environment(), start_new_session=True,
        )  # fmt: skip
        # Not every system has CPU affinity; the environment limits the threads there.
        with contextlib.suppress(AttributeError, OSError, psutil.Error):
            psutil.Process(self._process.pid).cpu_affinity(list(slot.cores))

    def poll(self) -> bool:
        """Return whether the process has ended; a failure is recorded in the store."""
        code = self._process.poll()
        if code is None:
            return False
        self._file.close()
        # A trial that was not killed has recorded its outcome itself; this does not change it.
        reason = exit_reason(code, self._log)
        self._search.store.finish(Outcome(self.trial.number, FAILED, reason=reason))
        return True

    def terminate(self) -> None:
        """Ask the process to end."""
        self._process.terminate()

    def end(self, until: float) -> None:
        """Kill the process if it has not ended at that time, of the monotonic clock."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._file.close()


def end_trials(processes: Iterable[TrialProcess]) -> None:
    """End trials, which can be resumed later.

    A trial cannot end in order while it imports TensorFlow, for example. Killed, it loses what it
    did since its last checkpoint, and leaves files that the search removes at its own end.
    """
    processes = list(processes)
    for process in processes:
        process.terminate()
    until = time.monotonic() + _TERMINATION_SECONDS
    for process in processes:
        process.end(until)


def exit_reason(code: int, log: Path) -> str:
    """Return how a process ended that recorded no outcome of its trial.

    Args:
        code: its exit code, negative for a signal, or above 128 if it ended in order after one.
        log: what it printed.
    """
    number = -code if code < 0 else code - 128
    if number in set(map(int, signal.Signals)):
        name = signal.Signals(number).name
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit code {code}; see {log}"
