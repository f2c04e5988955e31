"""Writes runs: new ones beside their final name, finished ones in one swap."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tfdetect.core.errors import RunLockedError
from tfdetect.core.files import check_writable, staged, write_text
from tfdetect.core.run import PARTIAL, Run, read_run
from tfdetect.core.run_info import RunInfo

# Never written in place, and large or many: a staged copy shares them with the run.
_LINKED = ("model.keras", "saved_model", "logs", "state", "evaluations")


def write_info(run: Run) -> None:
    """Write the run's `RunInfo` as run.json into its folder."""
    write_text(run.path / "run.json", run.info.model_dump_json(indent=2) + "\n")


@contextmanager
def updating(run: Run) -> Iterator[Run]:
    """Yield the run in a staged copy of its folder, which replaces the folder in one swap.

    Whatever a command changes in a finished run, it changes here: killed at any moment, the run
    is the old one or the new one. An exception leaves the old one.

    Raises:
        RunLockedError: another process is writing this run.
        UserError: the folder cannot be written.
    """
    check_writable(run.path.parent)
    with _locked(run.path), staged(run.path, copy=True, linked=_LINKED) as folder:
        yield _as_current(replace(run, path=folder)) if run.migrated else replace(run, path=folder)


def _as_current(run: Run) -> Run:
    """Write the documents of a run of schema 1 as this version has them."""
    if not run.is_ensemble:
        write_text(run.path / "experiment.yaml", run.experiment().to_yaml())
    if (run.path / "dataset.yaml").is_file():
        write_text(run.path / "dataset.yaml", run.dataset_spec().to_yaml())
    write_info(run)
    return replace(run, migrated=False)


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock_of(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunLockedError(f"Another process is writing the run {path}.") from None
    try:
        yield
    finally:
        _release(lock)


def _release(lock: FileLock) -> None:
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


class RunWriter:
    """A new run being written: `<name>.partial`, locked while this process lives."""

    def __init__(self, path: Path):
        self.final = path
        self.path = path.with_name(path.name + PARTIAL)
        self._lock = _lock_of(path)

    def acquire(self) -> None:
        """Take the lock, and make the folder.

        Raises:
            RunLockedError: another process is writing this run.
            UserError: the folder cannot be written.
        """
        check_writable(self.final.parent)
        try:
            self._lock.acquire(timeout=0)
            self.path.mkdir(exist_ok=True)
            (self.path / "logs").mkdir(exist_ok=True)
        except Timeout:
            raise RunLockedError(f"Another process is writing the run {self.final}.") from None

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run atomically."""
        write_text(self.path / name, text)

    def begin(self, info: RunInfo) -> Run:
        """Write the first run.json; return the run."""
        run = Run(self.path, info)
        write_info(run)
        return run

    def update(self, **changes: Any) -> Run:
        """Change values in run.json; return the run."""
        run = read_run(self.path).with_info(**changes)
        write_info(run)
        return run

    def adopt(self) -> None:
        """Continue an interrupted run that has its final name already."""
        shutil.rmtree(self.path)  # the empty one that acquire made
        self.final.rename(self.path)

    def finish(self) -> Run:
        """Rename the run to its final name and give the lock back."""
        self.path.rename(self.final)
        self.release()
        return read_run(self.final)

    def abandon(self) -> None:
        """Give the lock back; a run without any state to resume from is removed."""
        if self.path.is_dir() and not (self.path / "state").is_dir():
            shutil.rmtree(self.path)
        self.release()

    def release(self) -> None:
        """Give the lock back."""
        _release(self._lock)
