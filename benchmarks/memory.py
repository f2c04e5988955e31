"""Run a command and print how its memory grows.

    python benchmarks/memory.py [--every 60] -- python -m tfdetect.train --dataset demo

Every so many seconds it adds up the memory of the command and of the processes that it started
(what each holds alone and its part of what several share) and writes a line. At the end: the most,
and the growth in MiB an hour over the second half of the time, with the interval of the slope.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psutil


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=float, default=60, help="seconds (default: 60)")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()

    start, samples = time.monotonic(), []
    process = subprocess.Popen(args.command)
    while process.poll() is None:
        samples.append((time.monotonic() - start, memory(process.pid)))
        print(f"memory: {samples[-1][0]:,.0f} s {samples[-1][1]:,.0f} MiB", file=sys.stderr)
        try:
            process.wait(args.every)
        except subprocess.TimeoutExpired:
            continue
    report(np.array(samples), time.monotonic() - start)
    return process.returncode


def memory(pid):
    """Return the memory of a process and its descendants in MiB; of those that ended, nothing."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().pss
    return total / 2**20


def report(samples, seconds):
    """Print the most memory, and the slope over the second half."""
    values = {"seconds": round(seconds), "MiB at most": round(samples[:, 1].max())}
    later = samples[samples[:, 0] > seconds / 2]
    if len(later) > 4:
        (slope, _), covariance = np.polyfit(later[:, 0] / 3600, later[:, 1], 1, cov=True)
        error = 1.96 * covariance[0, 0] ** 0.5
        print(f"growth in the second half: {slope:,.0f} MiB an hour "
              f"[{slope - error:,.0f}, {slope + error:,.0f}]")  # fmt: skip
        values["MiB an hour"] = round(slope)
    print(json.dumps(values))


if __name__ == "__main__":
    sys.exit(main())
