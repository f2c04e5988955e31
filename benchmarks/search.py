"""Measures the overhead of a search between its trials, and whether its memory stays constant.

    python benchmarks/search.py --trials 50

Trials are trainings of two steps on the embedded demonstration, so that the overhead is as visible
as possible. Overhead is the time from the first trial's start to the last trial's end without the
time that the trials' processes ran; the imports of such a process count as part of its trial.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from tfdetect.tuning.search_folder import open_search
from tfdetect.tuning.store import RUNNING

SPACE = {
    "name": "overhead",
    "parameters": {
        "training.optimizer.learning_rate": {"log_uniform": [1e-4, 1e-1]},
        "model.dropout": {"uniform": [0.0, 0.5]},
        "training.label_smoothing": {"choice": [0.0, 0.1]},
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "space.yaml"
        space.write_text(yaml.safe_dump(SPACE))
        process = subprocess.Popen([
            sys.executable, "-m", "tfdetect.search", "--dataset", "demo", "--space", str(space),
            "--max-trials", str(args.trials), "--startup", "5", "--prune", "none", "--quiet",
            "--output", folder, "--name", "s",
            "--trial-set", "training.epochs=1", "--trial-set", "training.steps_per_epoch=2",
        ], stdout=subprocess.DEVNULL)  # fmt: skip
        memory = watch(process, Path(folder) / "s", args.trials)
        trials = open_search(Path(folder) / "s").store.trials()
        busy = sum(t.ended - t.started for t in trials)
        between = trials[-1].ended - trials[0].started - busy
        print(f"{len(trials)} trials of {busy / len(trials):.1f} s each; overhead between them "
              f"{between:.1f} s in total, {between / busy:.2%} of the trials' time")  # fmt: skip
        for count, size in memory.items():
            print(f"search process after {count:3} trials: {size / 2**20:.0f} MiB")


def watch(process: subprocess.Popen, folder: Path, count: int) -> dict[int, int]:
    """Return the resident bytes of the search's process after each tenth of the trials."""
    found, step = {}, max(1, count // 10)
    while process.poll() is None:
        time.sleep(1)
        if not (folder / "search.json").is_file():
            continue
        ended = sum(t.state != RUNNING for t in open_search(folder).store.trials())
        if ended and ended % step == 0 and ended not in found:
            try:
                found[ended] = psutil.Process(process.pid).memory_info().rss
            except psutil.NoSuchProcess:
                break
    if process.returncode:
        sys.exit("the search failed")
    return found


if __name__ == "__main__":
    main()
