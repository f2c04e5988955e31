"""Kills trainings at random moments, resumes them, and compares with one left alone.

    python tests/kills.py FOLDER_OF_CLASSES WORK_FOLDER KILLS SEED [DEVICES]

Each training is a forked process that is really killed (signal 9), in mid-epoch and
in mid-write too: a state is written after every step. Prints one JSON line a kill, with
the largest difference of a weight. DEVICES are replicas on the CPU, 1 if not given.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from conftest import fit_small, prepare_tensorflow

prepare_tensorflow()

import numpy as np

from tfdetect.training.devices import configure_devices

SETTINGS = [
    "training.epochs=4", "training.checkpoint_minutes=0", "model.dropout=0.3",
    "training.schedule={name: plateau, patience: 0, factor: 0.5}", "training.early_stopping=3",
]  # fmt: skip


DEVICES = int(sys.argv[5]) if len(sys.argv) > 5 else 1


def start(root: Path, folder: Path) -> int:
    """Trains in a child process; nothing of TensorFlow runs in this one, so it may fork."""
    pid = os.fork()
    if pid:
        return pid
    try:
        detector, state = fit_small(root, folder, SETTINGS, configure_devices(virtual=DEVICES))
        np.savez(folder / "weights.npz", *detector.get_weights())
        history = [{k: v for k, v in e.items() if k != "images_per_second"} for e in state.history]
        (folder / "result.json").write_text(json.dumps([history, state.best]))
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def finish(root: Path, folder: Path) -> tuple:
    """Trains to the end: (weights, history and best value, seconds from the first state on)."""
    pid = start(root, folder)
    begin = wait_for_state(folder, pid)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    with np.load(folder / "weights.npz") as saved:
        weights = [saved[name] for name in saved.files]
    return weights, json.loads((folder / "result.json").read_text()), time.monotonic() - begin


def near(one, other) -> bool:
    """Whether numbers agree within 1e-6: metrics are summed over replicas when saved."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    return abs(one - other) <= 1e-6


def wait_for_state(folder: Path, pid: int) -> float:
    while not (folder / "state").exists() and os.waitid(
        os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ) is None:  # fmt: skip
        time.sleep(0.005)
    return time.monotonic()


def main(root: Path, work: Path, kills: int, seed: int) -> None:
    weights, result, seconds = finish(root, work / "whole")
    rng = random.Random(seed)
    for number in range(kills):
        folder = work / f"killed-{number}"
        pid = start(root, folder)
        wait_for_state(folder, pid)
        time.sleep(rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        again, other, _ = finish(root, folder)
        equal = len(again) == len(weights) and all(map(np.array_equal, again, weights))
        worst = max(float(np.abs(a - b).max()) for a, b in zip(again, weights))
        print(json.dumps({"kill": number, "weights": bool(equal), "history": other == result,
                          "difference": worst, "near": near(other, result)}),
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
