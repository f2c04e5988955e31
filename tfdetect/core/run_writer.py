"""Write runs: new ones under a temporary name, finished ones by one swap."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from tfdetect.core.addresses import shown
from tfdetect.core.errors import RunLockedError, UserError
from tfdetect.core.files import (
    check_writable,
    copy_folder,
    exchange,
    staged,
    write_json,
    write_text,
)
from tfdetect.core.locks import acquire, locked, release
from tfdetect.core.open_run import read_run
from tfdetect.core.process import deferred_signals
from tfdetect.core.run import Run, partial_path
from tfdetect.core.run_info import RunInfo
from tfdetect.core.text import from_os

# Never written in place, and large or many: a staged copy shares them with the run.
_LINKED = ("model.keras", "saved_model", "logs", "state", "evaluations")
_SOURCE = "source.json"  # in a folder below evaluations/: where the images are


def write_info(run: Run) -> None:
    """Write the run's `RunInfo` as run.json into its folder."""
    write_text(run.path / "run.json", run.info.model_dump_json(indent=2) + "\n")


def check_changeable(run: Run) -> None:
    """Check that a finished run can be changed: its folder, and the one that contains it.

    Raises:
        UserError: one of them cannot be written.
    """
    for folder in (run.path.parent, run.path):
        check_writable(folder, None, f"copy the run {run.path} elsewhere and give the copy")


@contextmanager
def updating(run: Run) -> Iterator[Run]:
    """Yield the run in a staged copy of its folder, which replaces the folder in one swap.

    Whatever a command changes in a finished run, it changes here: killed at any moment, the run
    is the old one or the new one. An exception leaves the old one.

    Raises:
        RunLockedError: another process is writing this run.
        UserError: the folder cannot be written.
    """
    check_changeable(run)
    with (
        locked(_lock_of(run.path), _refusal(run.path)),
        staged(run.path, copy=True, linked=_LINKED) as folder,
    ):
        yield _as_current(replace(run, path=folder)) if run.migrated else replace(run, path=folder)


def _as_current(run: Run) -> Run:
    """Write the documents of a schema-1 run in the form of this version."""
    if not run.is_ensemble:
        write_text(run.path / "experiment.yaml", run.experiment().to_yaml())
    if (run.path / "dataset.yaml").is_file():
        write_text(run.path / "dataset.yaml", run.dataset_spec().to_yaml())
    write_info(run)
    return replace(run, migrated=False)


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Yield a folder to write a new run into, which appears at `path` when it is whole.

    For runs that are made in one go; `RunWriter` is for those that can be resumed.

    Raises:
        RunLockedError: another process is writing this run.
        UserError: the folder cannot be written.
    """
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(_lock_of(path), _refusal(path)):
        _check_new(path)
        with staged(path) as folder:
            yield folder


def evaluation_folder(run: Run, name: str, images: Mapping[str, Path]) -> Path:
    """Return the folder below evaluations/ in a run for the results on some images.

    If results on images in another location have this name already, a hash of the location of these
    images is added to the name. It is the same in every run.

    Args:
        run: the run.
        name: the name of the dataset.
        images: the folders of its parts, by name.
    """
    folder, source = run.path / "evaluations" / name, _source(images)
    if not folder.exists() or _read_source(folder) == source:
        return folder
    digest = hashlib.sha256(json.dumps(source).encode()).hexdigest()
    return folder.with_name(f"{name}-{digest[:8]}")


def write_source(folder: Path, images: Mapping[str, Path]) -> None:
    """Write the location of the images of an evaluation into the folder of its results."""
    write_json(folder / _SOURCE, _source(images))


def _source(images: Mapping[str, Path]) -> dict[str, str]:
    return {name: from_os(shown(path.resolve())) for name, path in sorted(images.items())}


def _read_source(folder: Path) -> object:
    try:
        return json.loads((folder / _SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # of an earlier version, or damaged: of unknown images


@contextmanager
def evaluating(run: Run, target: Path, images: Mapping[str, Path]) -> Iterator[Path]:
    """Yield a folder for results about a run, which takes the place of `target` at the end.

    Args:
        run: the run.
        target: an `evaluation_folder` of the run; what it holds already is kept.
        images: what the results are about, as for that.
    """
    with ExitStack() as stack, staged(target, copy=True, beside=run.path) as folder:
        yield folder
        write_source(folder, images)
        stack.enter_context(locked(_lock_of(run.path)))  # another command may swap the run


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _check_new(path: Path) -> None:
    """Refuse to overwrite a run that another process has finished meanwhile."""
    if path.exists():
        raise UserError(f"There is a run {path} by now. Choose another name with --name.")


def _refusal(path: Path) -> RunLockedError:
    return RunLockedError(f"Another process is writing the run {path}.")


class RunWriter:
    """A new run being written: `<name>.partial`, locked while this process lives."""

    def __init__(self, path: Path):
        self.final = path
        self.path = partial_path(path)
        self._lock: FileLock | None = None

    def acquire(self) -> None:
        """Take the lock, and make the folder.

        Raises:
            RunLockedError: another process is writing this run.
            UserError: the folder cannot be written.
        """
        check_writable(self.final.parent)
        self.final.parent.mkdir(parents=True, exist_ok=True)
        self._lock = acquire(_lock_of(self.final), _refusal(self.final))
        if not (self.final / "state").is_dir():  # of a run to be continued
            try:
                _check_new(self.final)
            except UserError:
                self.release()
                raise
        self.path.mkdir(exist_ok=True)
        (self.path / "logs").mkdir(exist_ok=True)

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
        """Continue an interrupted run in a copy; until the end, the run keeps its final name."""
        shutil.rmtree(self.path)  # the empty one that acquire made
        with staged(self.path) as copy:
            copy.rmdir()
            copy_folder(self.final, copy, _LINKED)

    def finish(self) -> Run:
        """Give the run its final name, in one step, and give the lock back."""
        exchange(self.path, self.final)
        with deferred_signals():
            shutil.rmtree(self.path, ignore_errors=True)  # what had the name before
        self.release()
        return read_run(self.final)

    def abandon(self) -> bool:
        """Give up: keep the folder if it has a state to resume from, or else remove it.

        Returns:
            Whether there is a state to resume from.
        """
        kept = (self.path / "state").is_dir()
        if self.path.is_dir() and not kept:
            shutil.rmtree(self.path)
        self.release()
        return kept

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            release(self._lock)
