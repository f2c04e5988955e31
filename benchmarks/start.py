"""How long commands take to start, beside what Python and TensorFlow alone take.

    python benchmarks/start.py

Each is a new process with its files in the operating system's cache; the median of the rounds, by
the clock and by processor time. `train` is measured to the end of a first epoch of one step on the
built-in demonstration, validation included.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from timing import machine, versions

BARE = {
    "python -c pass": ["-c", "pass"],
    "import tfdetect": ["-c", "import tfdetect"],
    "import tensorflow": ["-c", "import tensorflow"],
}
COMMANDS = ("train", "predict", "evaluate", "search", "ensemble", "audit", "serve", "export")
ONE_STEP = ["--set", "training.epochs=1", "--set", "training.steps_per_epoch=1"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="processes of each (7)")
    parser.add_argument("--slow-rounds", type=int, default=3, help="trainings (3)")
    args = parser.parse_args()
    print(machine() | versions("tensorflow", "keras"))
    cases = BARE | {f"{name} --help": ["-m", f"tfdetect.{name}", "--help"] for name in COMMANDS}
    for name, arguments in cases.items():
        report(name, [measured(arguments) for _ in range(args.rounds)])
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "tfdetect.train", "--dataset", "demo", "--output", folder, *ONE_STEP]
        measured(command)  # makes the demonstration's images
        for name, line in (("to the first epoch's line", "epoch 1/"), ("to the end", None)):
            rounds = [measured(command, line) for _ in range(args.slow_rounds)]
            report(f"train --dataset demo, one step, {name}", rounds)


def measured(arguments, until=None):
    """Return the seconds of a new process by the clock, and its processor time.

    Args:
        arguments: of Python.
        until: beginning of the line of output that ends the measurement; by default the end.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        if until and line.startswith(until):
            process.kill()
            break
    _, status, usage = os.wait4(process.pid, 0)
    if status and not until:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def report(name, rounds):
    clock, processor = (statistics.median(values) for values in zip(*rounds))
    print(f"{name}: {clock:.2f} s, {processor:.2f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
