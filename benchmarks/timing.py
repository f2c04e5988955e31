"""Fair timing of peers: workers that wait while another one is measured, and paired ratios.

A worker is a process that prepares what it measures, says so, and then runs each task for as long
as it is asked to. The workers of a comparison take turns, so that what else happens on the machine
meets all of them; each round gives one ratio. Ratios are what we claim, never absolute speeds.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil


def cores() -> int:
    """Return the number of cores that this process may use; all workers use as many threads."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """Return what the figures of a benchmark depend on."""
    with open("/proc/cpuinfo") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    return {
        "processor": f"{facts['model name']}, family {facts['cpu family']} model {facts['model']}",
        "bfloat16": "avx512_bf16" in facts["flags"], "cores": cores(),
        "system": platform.platform(terse=True), "python": platform.python_version(),
    }  # fmt: skip


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages, without those that are not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


# --- in a worker


def serve(facts: dict[str, Any], tasks: dict[str, Callable[[], int]], settle: float = 0) -> None:
    """Answer the requests of a `Worker`; does not return before it ends.

    Args:
        facts: what the worker says of itself, such as versions and the number of parameters.
        tasks: each does one step and returns the number of images in it.
        settle: processor seconds that a task runs before it is measured, to use up what was
            prepared while it waited.
    """
    channel = Channel(facts)
    while request := channel.next():
        task, seconds = request
        for length in (settle, seconds):
            clock, images = Clock(length), 0
            while not clock.is_over():
                images += tasks[task]()
        channel.answer(images, clock)


class Clock:
    """Measures by the clock and by the processor time of this process and its children.

    A measurement is over after `seconds` of processor time for each core, so that other work on
    the machine does not make it shorter.
    """

    def __init__(self, seconds: float):
        self._start, self._busy = time.perf_counter(), _processor_seconds()
        self._until = self._busy + seconds * cores()

    def is_over(self) -> bool:
        return _processor_seconds() >= self._until

    def elapsed(self) -> tuple[float, float]:
        """Return the seconds by the clock, and those of processor time."""
        return time.perf_counter() - self._start, _processor_seconds() - self._busy


def _processor_seconds() -> float:
    children = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(each.cpu_times()[:2]) for each in children)


class Channel:
    """A worker's end: what it is asked for, and its answers.

    What libraries print goes to the log, because the answers alone belong on standard output.
    """

    def __init__(self, facts: dict[str, Any]):
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        print(json.dumps(facts), file=self._out)

    def next(self) -> tuple[str, float] | None:
        """Wait for a task and its seconds; none when there are no more."""
        line = sys.stdin.readline().split()
        return (line[0], float(line[1])) if line else None

    def answer(self, images: int, clock: Clock) -> None:
        print(json.dumps([images / seconds for seconds in clock.elapsed()]), file=self._out)


# --- in the benchmark


class Worker:
    """A worker's process.

    Args:
        name: of the peer.
        command: that starts it.
        log: file for what it prints besides.

    Attributes:
        facts: what it says of itself.
    """

    def __init__(self, name: str, command: list[str], log: Path):
        self.name, self._log = name, log
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.facts = self._read()

    def measure(self, task: str, seconds: float) -> tuple[float, float]:
        """Return images per second by the clock and per second of processor time."""
        print(task, seconds, file=self._process.stdin, flush=True)
        clock, processor = self._read()
        return clock, processor

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            tail = "".join(self._log.read_text(errors="replace").splitlines(True)[-15:])
            raise SystemExit(f"{self.name} ended:\n{tail}")
        return json.loads(line)


def compare(
    commands: dict[str, list[str]], task: str, *, rounds: int, seconds: float
) -> dict[str, Any]:
    """Measure workers in turns, the first one against each of the others.

    Args:
        commands: the command of each worker.
        task: what they do.
        rounds: measurements of each; none only starts them, which fills the caches of compilers.
        seconds: length of a measurement, in processor time of each core.

    Returns:
        What `against_peers` does.
    """
    facts, speeds = in_turns(commands, task, rounds=rounds, seconds=seconds)
    return against_peers(facts, speeds)


def in_turns(
    commands: dict[str, list[str]], task: str, *, rounds: int, seconds: float
) -> tuple[dict[str, Any], dict[str, list[tuple[float, float]]]]:
    """Return what each worker says of itself, and of each round its images per second.

    They are by the clock and by processor time. Arguments as for `compare`.
    """
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        workers = []
        for name, command in commands.items():
            workers.append(Worker(name, command, Path(folder, f"{name}.log")))
            stack.callback(workers[-1].end)
        for each in workers:
            each.measure(task, 0.1)  # the first steps allocate memory
        speeds: dict[str, list[tuple[float, float]]] = {each.name: [] for each in workers}
        for number in range(rounds):
            for each in workers if number % 2 == 0 else reversed(workers):
                speeds[each.name].append(each.measure(task, seconds))
    return {each.name: each.facts for each in workers}, speeds


def against_peers(
    facts: dict[str, Any], speeds: dict[str, list[tuple[float, float]]]
) -> dict[str, Any]:
    """Compare the first of some workers with each of the others.

    Args:
        facts: of all workers that were measured, from `in_turns`.
        speeds: of those to compare.

    Returns:
        "facts" of each worker; "clock" and "processor": median images per second of each, and
        the ratios to each peer, as of `paired`. The last two are missing without rounds.
    """
    found: dict[str, Any] = {"facts": {name: facts[name] for name in speeds}}
    ours, *peers = speeds
    for column, by in enumerate(("clock", "processor") if speeds[ours] else ()):
        rates = {name: [each[column] for each in rows] for name, rows in speeds.items()}
        found[by] = {
            "speeds": {name: round(statistics.median(each), 1) for name, each in rates.items()},
            "ratios": {name: paired(rates[ours], rates[name]) for name in peers},
        }
    return found


def paired(ours: list[float], peer: list[float]) -> list[float]:
    """Return the median of the rounds' ratios, the smallest and the largest.

    Of six rounds, smallest and largest enclose the true median with 97% confidence.
    """
    ratios = [one / other for one, other in zip(ours, peer, strict=True)]
    return [round(each, 3) for each in (statistics.median(ratios), min(ratios), max(ratios))]


def describe(case: str, found: dict[str, Any]) -> str:
    """Return a line with the medians of a measured case."""
    parts = [
        ", ".join(f"{peer} {ratio[0]:.2f}" for peer, ratio in found[by]["ratios"].items())
        for by in ("clock", "processor") if by in found
    ]  # fmt: skip
    return f"{case}: by the clock {'; by processor time '.join(parts)}" if parts else case


class Results:
    """Measured cases in a JSON file; what is in it is not measured again."""

    def __init__(self, path: Path):
        self._path = path
        self.cases: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, name: str, case: dict[str, Any]) -> None:
        self.cases[name] = case
        self._path.write_text(json.dumps(self.cases, indent=1) + "\n")
