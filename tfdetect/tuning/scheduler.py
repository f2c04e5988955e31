"""Runs a search: claims trials, gives each a process and a share of the machine, keeps a budget."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from tfdetect.core.errors import UserError
from tfdetect.tuning.settings import Search
from tfdetect.tuning.store import FAILED, RUNNING, Trial
from tfdetect.tuning.suggest import suggest

_REFRESH = 2.0  # seconds between looks at the state, for the progress line
_ALL_FAILED = 3  # so many trials, all failed: something is wrong with all of them


@dataclass(frozen=True)
class Budget:
    """When to begin no more trials; None is no limit.

    Attributes:
        trials: their number.
        hours: that the search was worked on.
        epochs: of all trials together.
    """

    trials: int | None = None
    hours: float | None = None
    epochs: int | None = None

    def spent(self, search: Search, trials: list[Trial]) -> bool:
        return (
            (self.trials is not None and len(trials) >= self.trials)
            or (self.hours is not None and search.store.seconds() >= 3600 * self.hours)
            or (self.epochs is not None and sum(t.epochs for t in trials) >= self.epochs)
        )


@dataclass(frozen=True)
class Slot:
    """The share of the machine that one trial gets.

    Attributes:
        arguments: on GPUs, for the trial's command line.
        cores: numbers of CPU cores.
    """

    arguments: tuple[str, ...]
    cores: tuple[int, ...]

    def environment(self) -> dict[str, str]:
        threads = str(len(self.cores))
        return {
            **os.environ, "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads,
            "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1",
        }  # fmt: skip


def share_out(parallel: int, gpus: list[int] | None, limit: str | None) -> list[Slot]:
    """Slots for so many trials at once, with GPUs and CPU cores shared out evenly.

    Args:
        gpus: which to use; None for all there are.
        limit: memory limit as `--gpu-memory-limit` takes it; by default trials that share a GPU
            share its memory evenly.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(
        range(psutil.cpu_count() or 1)
    )  # fmt: skip
    found = list(range(_count_gpus())) if gpus is None else gpus
    slots = []
    for number in range(parallel):
        own = _part(cores, number, parallel)
        if not found:
            slots.append(Slot(("--gpus", "none") if gpus is not None else (), own))
            continue
        cards = _part(found, number, parallel)
        sharing = -(-parallel // len(found)) if parallel > len(found) else 1
        memory = limit or (f"{0.95 / sharing:.3f}" if sharing > 1 else None)
        arguments = ["--gpus", ",".join(map(str, cards))]
        slots.append(Slot((*arguments, *(["--gpu-memory-limit", memory] if memory else [])), own))
    return slots


def _part(things: list[int], number: int, parts: int) -> tuple[int, ...]:
    """An even part of things; where there are fewer than parts, one of them in turn."""
    if len(things) < parts:
        return (things[number % len(things)],)
    return tuple(things[number * len(things) // parts : (number + 1) * len(things) // parts])


def _count_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return 0


def next_point(search: Search, trials: list[Trial]) -> tuple[dict | None, list[str]]:
    """Point and overrides of the next trial; the first is the experiment unchanged."""
    settings = search.settings
    if settings.baseline and not trials:
        return None, []
    point = suggest(search.space, search.objective, settings.algorithm, settings.seed,
                    settings.startup, trials)  # fmt: skip
    return point, search.space.overrides(point)


def run_search(search: Search, budget: Budget, slots: list[Slot], progress: bool = True) -> None:
    """Runs trials until the budget is spent; goes on where the search was.

    Raises:
        UserError: the first trials all failed.
    """
    store, running = search.store, {}
    store.beat()

    def new(trials: list[Trial]) -> tuple | None:
        refuse_hopeless(search, trials)
        return None if budget.spent(search, trials) else next_point(search, trials)

    with _progress(search, budget, progress) as show:
        try:
            more, due = True, 0.0
            while more or running:
                for slot in list(running):
                    if running[slot].ended():
                        del running[slot]
                        more, due = True, 0.0
                for number in range(len(slots)):
                    if more and number not in running:
                        trial = store.claim(new)
                        if trial is None:
                            more = False
                        else:
                            running[number] = _Child(search, trial, slots[number])
                if time.monotonic() >= due:
                    store.beat()
                    show([child.trial.number for child in running.values()])
                    due = time.monotonic() + _REFRESH
                time.sleep(0.1)
        finally:
            for child in running.values():
                child.end()
    refuse_hopeless(search, store.trials())


class _Child:
    """A trial's process."""

    def __init__(self, search: Search, trial: Trial, slot: Slot):
        self._search, self.trial = search, trial
        self._log = search.log(trial.number)
        self._log.parent.mkdir(exist_ok=True)
        self._file = self._log.open("ab")
        command = [sys.executable, "-m", "tfdetect.tuning.trial", str(search.folder),
                   str(trial.number), "--parent", str(os.getpid()), *slot.arguments]  # fmt: skip
        # Ctrl-C is for the search; it ends its trials itself, which then go on later.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._file, stderr=self._file,
            env=slot.environment(), start_new_session=True,
        )  # fmt: skip
        # Where the system has no such thing the environment limits its threads.
        with contextlib.suppress(AttributeError, OSError, psutil.Error):
            psutil.Process(self._process.pid).cpu_affinity(list(slot.cores))

    def ended(self) -> bool:
        code = self._process.poll()
        if code is None:
            return False
        self._file.close()
        # One that ended well has recorded so itself, and is not changed.
        self._search.store.end(self.trial.number, FAILED, reason=reason_of(code, self._log))
        return True

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._file.close()


def reason_of(code: int, log: Path) -> str:
    """Why a trial's process ended badly, in a line."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ") or "Error" in line.split(":")[0]]
    memory = [line for line in lines if "ResourceExhausted" in line or "OOM when" in line]
    if memory:
        return f"out of memory: {memory[-1].strip()[:200]}"
    return (errors or lines or [f"exit code {code}"])[-1].strip().removeprefix("error: ")[:300]


def refuse_hopeless(search: Search, trials: list[Trial]) -> None:
    """Ends a search none of whose trials can be run.

    Raises:
        UserError: the first trials all failed.
    """
    ended = [trial for trial in trials if trial.state != RUNNING]
    if len(ended) >= _ALL_FAILED and all(trial.state == FAILED for trial in ended):
        raise UserError(
            f"All of {len(ended)} trials failed; the last: {ended[-1].reason}\n"
            f"See {search.log(ended[-1].number)}."
        )


def best_trial(search: Search, trials: list[Trial] | None = None) -> Trial | None:
    """The trial with the best objective so far, the earliest of equals."""
    done = [t for t in trials or search.store.trials() if t.ended_well]
    return min(done, key=lambda t: search.objective.loss(t.objective), default=None)


@contextlib.contextmanager
def _progress(search: Search, budget: Budget, wanted: bool) -> Iterator:
    """A line with trials, the best so far and the time left."""
    ended = len([t for t in search.store.trials() if t.state != RUNNING])
    bar = tqdm(total=budget.trials, initial=ended, desc="search", unit=" trials",
               disable=None if wanted else True, smoothing=0)  # fmt: skip
    last = None

    def show(running: list[int]) -> None:
        nonlocal last
        trials = search.store.trials()
        best = best_trial(search, trials)
        states = tuple((t.state, t.reason) for t in trials), tuple(running)
        if states == last:
            bar.refresh()
            return
        last = states
        text = (
            f"best {search.settings.objective} {best.objective:.4f} (trial {best.number})"
            if best
            else ""
        )
        failed = sum(t.state == FAILED for t in trials)
        bar.set_postfix_str(
            ", ".join(filter(None, [text, f"{failed} failed" if failed else "",
                                    f"running {', '.join(map(str, running))}" if running else ""]))
        )  # fmt: skip
        bar.n = len([t for t in trials if t.state != RUNNING])
        bar.refresh()

    with bar:
        yield show
