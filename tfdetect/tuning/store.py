"""`Store`: the durable state of a search, one SQLite file that several processes share.

Tables: trials (a row each) and curve (their monitored value, epoch by epoch). Every change is one
transaction, so that a kill at any moment leaves a whole state. The processes must run on one
machine: a trial whose process died is taken over by another.
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

import psutil

from tfdetect.core.errors import UserError

RUNNING, COMPLETE, STOPPED, FAILED = "running", "complete", "stopped", "failed"

_TABLES = """
create table if not exists trials (
    number integer primary key,
    state text not null,            -- running, complete, stopped (early) or failed
    worker text not null,           -- host:process:start of who runs it
    point text,                     -- JSON: the point of the space, by label; null: no change
    overrides text not null,        -- JSON: the same as overrides of the experiment
    objective real, low real, high real,
    epochs integer not null default 0,
    seconds real not null default 0,
    started real not null, ended real,
    reason text                     -- why it failed
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
        point: of the space, by label; None for the experiment unchanged.
        objective: the objective's value with its interval; None until it ended well.
    """

    number: int
    state: str
    worker: str
    point: dict[str, float] | None
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
    def ended_well(self) -> bool:
        return self.state in (COMPLETE, STOPPED)


class Store:
    """The search's state in `search.sqlite`."""

    def __init__(self, folder: Path):
        """Opens or makes it.

        Raises:
            UserError: the file cannot be read.
        """
        self._path = folder / "search.sqlite"
        with self._connect() as base:
            base.executescript(_TABLES)

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        # Opened anew each time: connections must not be shared among processes or threads.
        try:
            base = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            base.row_factory = sqlite3.Row
            try:
                yield base
            finally:
                base.close()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"The state of the search cannot be used: {self._path}: {error}."
            ) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process's change comes between."""
        with self._connect() as base:
            base.execute("begin immediate")
            try:
                yield base
                base.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    base.execute("rollback")
                raise

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        with self._connect() as base:
            return _trials(base)

    def trial(self, number: int) -> Trial:
        return next(trial for trial in self.trials() if trial.number == number)

    def claim(self, suggest: Callable[[list[Trial]], tuple | None]) -> Trial | None:
        """Takes a trial to run: one whose process died, or a new one.

        Args:
            suggest: makes point and overrides of a new trial from all trials so far; None where
                there is to be no more. No other process changes the state meanwhile.
        """
        with self._alone() as base:
            trials = _trials(base)
            for trial in trials:
                if trial.state == RUNNING and not alive(trial.worker):
                    base.execute("update trials set worker = ? where number = ?",
                                 (this_process(), trial.number))  # fmt: skip
                    return next(t for t in _trials(base) if t.number == trial.number)
            new = suggest(trials)
            if new is None:
                return None
            point, overrides = new
            base.execute(
                "insert into trials (number, state, worker, point, overrides, started) "
                "values (?, ?, ?, ?, ?, ?)",
                (len(trials), RUNNING, this_process(), point and json.dumps(point),
                 json.dumps(overrides), time.time()),
            )  # fmt: skip
            return _trials(base)[-1]

    def end(self, number: int, state: str, objective: tuple = (None,) * 3, epochs: int = 0,
            seconds: float = 0.0, reason: str | None = None) -> None:  # fmt: skip
        """Records how a trial ended; of one that ended already nothing is changed."""
        with self._alone() as base:
            base.execute(
                "update trials set state = ?, objective = ?, low = ?, high = ?, epochs = ?, "
                "seconds = ?, ended = ?, reason = ? where number = ? and state = ?",
                (state, *objective, epochs, seconds, time.time(), reason, number, RUNNING),
            )

    def report(self, number: int, epoch: int, value: float) -> None:
        """Records a trial's monitored value after an epoch."""
        with self._alone() as base:
            base.execute("insert or replace into curve values (?, ?, ?)", (number, epoch, value))

    def curves(self) -> dict[int, list[float]]:
        """The monitored values of each trial, epoch by epoch."""
        with self._connect() as base:
            rows = base.execute("select trial, value from curve order by trial, epoch").fetchall()
        curves: dict[int, list[float]] = {}
        for row in rows:
            curves.setdefault(row["trial"], []).append(row["value"])
        return curves

    def beat(self) -> None:
        """Notes that this process works on the search now."""
        with self._alone() as base:
            now = time.time()
            base.execute(
                "insert into work values (?, ?, ?) on conflict (worker) do update set seen = ?",
                (this_process(), now, now, now),
            )

    def seconds(self) -> float:
        """How long the search was worked on, by one process or by several at once."""
        with self._connect() as base:
            spans = base.execute("select began, seen from work order by began").fetchall()
        total, until = 0.0, 0.0
        for span in spans:
            total += max(0.0, span["seen"] - max(span["began"], until))
            until = max(until, span["seen"])
        return total


def _trials(base: sqlite3.Connection) -> list[Trial]:
    rows = map(dict, base.execute("select * from trials order by number").fetchall())
    return [
        Trial(**{
            **row, "point": row["point"] and json.loads(row["point"]),
            "overrides": json.loads(row["overrides"]),
        })
        for row in rows
    ]  # fmt: skip


def this_process() -> str:
    """A name of this process that no other one ever has."""
    started = psutil.Process(os.getpid()).create_time()
    return f"{socket.gethostname()}:{os.getpid()}:{started}"


def alive(worker: str) -> bool:
    """Whether the process of that name still runs; one on another machine counts as alive."""
    host, number, started = worker.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(number))
        return (process.create_time() == float(started)
                and process.status() != psutil.STATUS_ZOMBIE)  # fmt: skip
    except psutil.NoSuchProcess:
        return False
