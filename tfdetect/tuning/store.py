"""`Store`: the state of a search, in one SQLite file that several processes share.

Its tables are trials (one row each), curve (the monitored value of each trial by epoch) and work
(when each process worked on the search). Every change is one transaction, so that the state is
consistent if a process is killed at any moment. The processes must run on one machine: a trial
whose process died is continued by another process.
"""

import contextlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from tfdetect.core.errors import UserError

RUNNING, COMPLETE, PRUNED, FAILED = "running", "complete", "pruned", "failed"

_TABLES = """
create table if not exists trials (
    number integer primary key,
    state text not null,            -- running, complete, pruned or failed
    worker text not null,           -- name of the process that runs it
    point text not null,            -- JSON: point of the space by label; {}: unchanged
    overrides text not null,        -- JSON: the same as overrides of the experiment
    objective real, low real, high real,
    epochs integer not null default 0,
    seconds real not null default 0,
    started real not null, ended real,
    reason text                     -- of a failure
);
create table if not exists curve (
    trial integer, epoch integer, value real,
    primary key (trial, epoch)
);
create table if not exists work (
    worker text primary key, began real not null, seen real not null
);
"""


@dataclass(frozen=True)
class Trial:
    """A row of the table trials.

    Attributes:
        number: the number of the trial, from 0.
        state: RUNNING, COMPLETE, PRUNED or FAILED.
        worker: name of the process that runs it, see `process_name`.
        point: the point of the space, by label; {} for the unchanged experiment.
        overrides: the same as overrides of the experiment.
        objective, low, high: the objective and its 95% interval; None unless the trial succeeded.
        epochs: the number of epochs that were trained.
        seconds: the seconds of training.
        started, ended: Unix times in seconds; None for a trial that has not ended.
        reason: why the trial failed, or None.
    """

    number: int
    state: str
    worker: str
    point: dict[str, float]
    overrides: list[str]
    objective: float | None
    low: float | None
    high: float | None
    epochs: int
    seconds: float
    started: float
    ended: float | None
    reason: str | None

    @property
    def succeeded(self) -> bool:
        """Whether the trial ended with a value of the objective; pruned trials have one, too."""
        return self.state in (COMPLETE, PRUNED)

    @property
    def interval(self) -> tuple[float, float, float]:
        """The objective and its 95% interval, of a trial that succeeded: value, low and high."""
        assert self.objective is not None and self.low is not None and self.high is not None
        return self.objective, self.low, self.high

    @property
    def value(self) -> float:
        """The objective of a trial that succeeded."""
        return self.interval[0]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        number: the number of the trial.
        state: COMPLETE, PRUNED or FAILED.
        objective: the objective and its 95% interval: value, low and high; None if it failed.
        epochs, seconds: the number of whole epochs and seconds of training, of all folds.
        reason: why the trial failed, or None.
    """

    number: int
    state: str
    objective: tuple[float | None, float | None, float | None] = (None, None, None)
    epochs: int = 0
    seconds: float = 0.0
    reason: str | None = None


class NewTrial(NamedTuple):
    """What a new trial tries: a point of the space, and the same as overrides."""

    point: dict[str, float]
    overrides: list[str]


class Store:
    """The state of a search in `search.sqlite`."""

    def __init__(self, folder: Path):
        """Open the state, or create it.

        Args:
            folder: the directory of the search.

        Raises:
            UserError: the file cannot be read.
        """
        self._path = folder / "search.sqlite"
        with self._connect() as database:
            database.executescript(_TABLES)

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        # A new connection each time: processes and threads must not share one.
        try:
            database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            database.row_factory = sqlite3.Row
            try:
                yield database
            finally:
                database.close()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"The state of the search, {self._path}, cannot be used: {error}. If the file is "
                "damaged, start a new search with another --name."
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction; other processes wait until it ends."""
        with self._connect() as database:
            database.execute("begin immediate")
            try:
                yield database
                database.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("rollback")
                raise

    def trials(self) -> list[Trial]:
        """Return all trials, in the order of their numbers."""
        with self._connect() as database:
            return _trials(database)

    def trial(self, number: int) -> Trial:
        """Return the trial of a number."""
        return next(trial for trial in self.trials() if trial.number == number)

    def claim(self, propose: Callable[[list[Trial]], NewTrial | None]) -> Trial | None:
        """Return a trial for this process to run: one whose process died, or a new one.

        Args:
            propose: called with all trials so far; returns a new one, or None to start none. Other
                processes that claim a trial wait until it returns.

        Returns:
            The trial; None if there is none to run.
        """
        with self._transaction() as database:
            trials = _trials(database)
            for trial in trials:
                if trial.state == RUNNING and not is_alive(trial.worker):
                    database.execute("update trials set worker = ? where number = ?",
                                 (process_name(), trial.number))  # fmt: skip
                    return next(t for t in _trials(database) if t.number == trial.number)
            new = propose(trials)
            if new is None:
                return None
            database.execute(
                "insert into trials (number, state, worker, point, overrides, started) "
                "values (?, ?, ?, ?, ?, ?)",
                (len(trials), RUNNING, process_name(), json.dumps(new.point),
                 json.dumps(new.overrides), time.time()),
            )  # fmt: skip
            return _trials(database)[-1]

    def finish(self, outcome: Outcome) -> None:
        """Record how a running trial ended; do nothing if this is recorded already."""
        with self._transaction() as database:
            database.execute(
                "update trials set state = ?, objective = ?, low = ?, high = ?, epochs = ?, "
                "seconds = ?, ended = ?, reason = ? where number = ? and state = ?",
                (outcome.state, *outcome.objective, outcome.epochs, outcome.seconds, time.time(),
                 outcome.reason, outcome.number, RUNNING),
            )  # fmt: skip

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record a trial's monitored value after an epoch."""
        with self._transaction() as database:
            row = number, epoch, value
            database.execute("insert or replace into curve values (?, ?, ?)", row)

    def curves(self) -> dict[int, list[float]]:
        """Return the monitored values by epoch of each trial, by its number."""
        with self._connect() as database:
            query = "select trial, value from curve order by trial, epoch"
            rows = database.execute(query).fetchall()
        curves: dict[int, list[float]] = {}
        for row in rows:
            curves.setdefault(row["trial"], []).append(row["value"])
        return curves

    def heartbeat(self) -> None:
        """Record that this process works on the search now."""
        with self._transaction() as database:
            now = time.time()
            database.execute(
                "insert into work values (?, ?, ?) on conflict (worker) do update set seen = ?",
                (process_name(), now, now, now),
            )

    def seconds(self) -> float:
        """Return for how many seconds at least one process worked on the search."""
        with self._connect() as database:
            spans = database.execute("select began, seen from work order by began").fetchall()
        total, until = 0.0, 0.0
        for span in spans:
            total += max(0.0, span["seen"] - max(span["began"], until))
            until = max(until, span["seen"])
        return total


def _trials(database: sqlite3.Connection) -> list[Trial]:
    """Return all rows of the table trials, in the order of their numbers."""
    rows = map(dict, database.execute("select * from trials order by number").fetchall())
    return [
        Trial(**{
            **row, "point": json.loads(row["point"]),
            "overrides": json.loads(row["overrides"]),
        })
        for row in rows
    ]  # fmt: skip


def process_name() -> str:
    """Return a unique name of this process: host, process id and start time."""
    started = psutil.Process(os.getpid()).create_time()
    return f"{socket.gethostname()}:{os.getpid()}:{started}"


def is_alive(worker: str) -> bool:
    """Return whether a process is running; one on another machine counts as running.

    Args:
        worker: the `process_name` of the process.
    """
    host, number, started = worker.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(number))
        return process.create_time() == float(started) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
