"""Trains for a given time, for the tables of detectors; not a benchmark by itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment, override
from tfdetect.core.open_run import open_run

EPOCHS, MIN_STEPS = 4, 20  # epochs that the time is divided into, and steps of each at least


def rate(common: list[str]) -> float:
    """Return steps per second of a training with these arguments of `tfdetect.train`.

    It is computed from the CPU time, so that other work on the machine does not change it.
    """
    return float(call(__file__, *common))


def train(run: Path, common: list[str], minutes: float, steps: int | None = None) -> tuple:
    """Train, if there is no such run yet.

    Args:
        run: folder of the run.
        common: arguments of `tfdetect.train`.
        minutes: how long, by its `rate`; the schedule is scaled accordingly.
        steps: number of steps instead.

    Returns:
        The run, its steps and its seconds.
    """
    common = [*common, "--output", str(run.parent), "--quiet"]
    if not (run / "metrics.json").is_file():
        if steps is None:
            steps = round(60 * minutes * rate(common))
        epochs = max(1, min(EPOCHS, steps // MIN_STEPS))
        parts = settings(f"training.epochs={epochs}", "training.early_stopping=null",
                         f"training.steps_per_epoch={max(1, steps // epochs)}")  # fmt: skip
        call("-m", "tfdetect.train", *common, *parts, "--name", run.name)
    done = open_run(run)
    steps = done.experiment().training.steps_per_epoch * done.info.epochs
    return done, steps, done.info.training_seconds


def smallest_side(experiment: str, side: int, changes: list[str]) -> int:
    """Return the smallest side, from this one on, that an experiment with these changes accepts."""
    for size in range(side, 1024):
        try:
            override(load_experiment(experiment), [*changes, f"data.image_size={size}"])
        except UserError:
            continue
        return size
    sys.exit(f"{experiment} takes no images of {side} to 1023 pixels.")


def settings(*texts: str) -> list[str]:
    """Return overrides of an experiment as arguments."""
    return [part for text in texts for part in ("--set", text)]


def call(*arguments: str) -> str:
    """Run Python with arguments; return the last line that it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"failed: {' '.join(arguments)}")
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Print steps per second of a training, without its validation."""
    from tfdetect.core.quiet import import_tensorflow
    from tfdetect.train import parser

    import_tensorflow()
    from tfdetect.data.plan import find_data, make_plan
    from tfdetect.data.training_data import training_data
    from tfdetect.models.detector import build_detector
    from tfdetect.training.devices import configure_devices, parse_gpus
    from tfdetect.training.fit import set_seed_and_precision
    from tfdetect.training.losses import losses_of

    args = parser().parse_args()
    plan = make_plan(
        args.dataset, args.experiment, args.overrides, args.data_dir, args.authentic, args.model
    )
    catalog, experiment = find_data(plan, progress=False), plan.experiment
    training, classes = experiment.training, len(plan.spec.class_names)
    devices = configure_devices(parse_gpus(args.gpus), None, None)
    set_seed_and_precision(experiment, devices, lambda text: None)
    stream = training_data(
        catalog, catalog.split("train"), experiment.data, classes, training.batch_size, 0,
        experiment.model.mask_head is not None,
    )  # fmt: skip
    detector = build_detector(experiment, classes)
    losses, weights = losses_of(training, classes, list(detector.output))
    detector.compile("adam", losses, loss_weights=weights)
    batches = stream.batches()
    detector.fit(batches, steps_per_epoch=2, shuffle=False, verbose=0)
    steps, start, cores = 0, time.process_time(), len(os.sched_getaffinity(0))
    while steps < 4 or time.process_time() - start < 5 * cores:
        detector.fit(batches, steps_per_epoch=4, shuffle=False, verbose=0)
        steps += 4
    print(steps * cores / (time.process_time() - start))


if __name__ == "__main__":
    main()
