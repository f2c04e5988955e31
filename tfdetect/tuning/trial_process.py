"""`TrialProcess`: the child process that runs one trial, and how it ended."""

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
from tfdetect.tuning.store import Trial

_TERMINATION_SECONDS = 1.5  # until the trials of a stopped search are killed


class TrialProcess:
    """A running trial; its output is written into the log file of the trial."""

    def __init__(self, search: Search, trial: Trial, slot: Slot):
        """Start the process.

        Args:
            search: the search.
            trial: a trial that was claimed from the store of the search.
            slot: the GPUs and CPU cores of the trial.
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
        # A process that was not killed has recorded the outcome itself; this does not change it.
        reason = exit_reason(code, self._log)
        self._search.store.finish(self._search.failure(self.trial.number, reason))
        return True

    def terminate(self) -> None:
        """Ask the process to end."""
        self._process.terminate()

    def end(self, until: float) -> None:
        """Wait for the end of the process, and kill it at a time of the monotonic clock."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._file.close()


def end_trials(processes: Iterable[TrialProcess]) -> None:
    """End the processes of trials, which can be resumed later.

    Some cannot end by themselves in time, for example while they import TensorFlow. They are
    killed: such a trial loses what it did since its last checkpoint, and leaves files that the
    search removes when it ends.
    """
    processes = list(processes)
    for process in processes:
        process.terminate()
    until = time.monotonic() + _TERMINATION_SECONDS
    for process in processes:
        process.end(until)


def exit_reason(code: int, log: Path) -> str:
    """Return in words how a process ended that recorded no outcome of its trial.

    Args:
        code: the exit code: negative if a signal killed the process, or 128 plus the number of the
            signal if the process handled it.
        log: the file with its output.
    """
    number = -code if code < 0 else code - 128
    if number in set(map(int, signal.Signals)):
        name = signal.Signals(number).name
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit code {code}; see {log}"
