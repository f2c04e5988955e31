"""Images per second of `fit` with data pipeline and callbacks, against a bare train_on_batch loop.

    python benchmarks/fit.py

Both train the default CIFAKE detector at the default batch size for the same number of steps. The
bare loop repeats one batch in memory: no data pipeline, no callbacks, no validation.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from tfdetect.core.quiet import import_tensorflow

import_tensorflow()

import keras
import numpy as np
from PIL import Image

from tfdetect.core.load_experiment import load_experiment
from tfdetect.data.examples import Examples
from tfdetect.data.sources import Files
from tfdetect.data.training_data import stream_of
from tfdetect.models.detector import build_detector
from tfdetect.training.callbacks import ImagesPerSecond, ReportBrokenFiles, StopOnNonFinite
from tfdetect.training.devices import configure_devices
from tfdetect.training.fit import set_seed_and_precision
from tfdetect.training.optimizer import build_optimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="cifake_small_resnet")
    parser.add_argument("--steps", type=int, default=50, help="steps per measurement (default: 50)")
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each (default: 6)")
    args = parser.parse_args()
    experiment = load_experiment(args.experiment)
    batch, size = experiment.training.batch_size, experiment.data.image_size
    with tempfile.TemporaryDirectory() as root:
        rng, paths = np.random.default_rng(0), []
        for number in range(4 * batch):
            paths.append(str(Path(root) / f"{number}.jpg"))
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(paths[-1])
        labels = np.arange(4 * batch) % 2
        examples = Examples(images=Files(paths), labels=labels, common_size=size)
        data = stream_of(examples, data=experiment.data, classes=2, batch_size=batch, seed=0)
        set_seed_and_precision(experiment, configure_devices())
        detector = build_detector(experiment, 2)
        detector.compile(
            build_optimizer(experiment.training, 1000),
            {"label": keras.losses.BinaryCrossentropy(from_logits=True)}, jit_compile=False,
        )  # fmt: skip
        x, y = next(iter(data.batches()))
        x, y = x.numpy(), {"label": y["label"].numpy()}
        callbacks = [ImagesPerSecond(batch), StopOnNonFinite(), ReportBrokenFiles(data, print)]

        def bare(steps):
            for _ in range(steps):
                detector.train_on_batch(x, y)

        def ours(steps):
            detector.fit(data.batches(), steps_per_epoch=steps, shuffle=False, verbose=0,
                         callbacks=callbacks)  # fmt: skip

        speeds = {"bare": [], "ours": []}
        for function in (bare, ours):
            function(3)  # traces and warms up
        for number in range(args.rounds):
            for function in (bare, ours) if number % 2 == 0 else (ours, bare):
                start = time.perf_counter()
                function(args.steps)
                speed = args.steps * batch / (time.perf_counter() - start)
                speeds[function.__name__].append(speed)
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        print(f"{name:5} {middle[name]:8.0f} images/s  ({min(values):.0f} to {max(values):.0f})")
    ratio = middle["ours"] / middle["bare"]
    print(f"ours / bare {ratio:.3f}")
    print(json.dumps({"cores": os.cpu_count(), "images_per_second": middle, "ratio": ratio}))


if __name__ == "__main__":
    main()
