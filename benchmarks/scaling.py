"""Images per second of an experiment on 1, 2, ... devices, relative to one.

    python benchmarks/scaling.py --devices 1 2 4            # GPUs
    python benchmarks/scaling.py --virtual --devices 1 2    # replicas on the CPU

Each count has its own process, since TensorFlow configures devices once per process. The global
batch grows with the devices (--batch-size is per device); the images are noise in memory. Virtual
devices share the cores, so their ratio shows the cost of replication, not a gain. The result names
the hardware; any table made of it must, too.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(args, count):
    """Train in this process and print images per second."""
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    import keras
    import numpy as np
    from PIL import Image

    from tfdetect.core.experiment import load_experiment
    from tfdetect.data.examples import Examples
    from tfdetect.data.sources import Files
    from tfdetect.data.training_stream import stream_of
    from tfdetect.models.detector import build_detector
    from tfdetect.training.devices import configure_devices
    from tfdetect.training.fit import set_seed_and_precision
    from tfdetect.training.optimizer import build_optimizer

    batch = args.batch_size * count
    experiment = load_experiment(args.experiment, [
        f"training.batch_size={batch}", "data.augment=[{name: flip}]", "model.weights=none",
    ])  # fmt: skip
    gpus = None if args.virtual else list(range(count))
    devices = configure_devices(gpus=gpus, virtual=count if args.virtual else None)
    set_seed_and_precision(experiment, devices)
    size = experiment.data.image_size
    with tempfile.TemporaryDirectory() as root:
        rng, paths = np.random.default_rng(0), []
        for number in range(batch):
            paths.append(str(Path(root) / f"{number}.jpg"))
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(paths[-1])
        labels = np.arange(batch) % 2
        examples = Examples(images=Files(paths), labels=labels, common_size=size)
        data = stream_of(examples, data=experiment.data, classes=2, batch_size=batch, seed=0)
        with devices.scope():
            detector = build_detector(experiment, 2)
            detector.compile(
                build_optimizer(experiment.training, 1000),
                {"label": keras.losses.BinaryCrossentropy(from_logits=True)}, jit_compile=False,
            )  # fmt: skip
        fit = {"shuffle": False, "verbose": 0}
        detector.fit(data.batches(), steps_per_epoch=3, **fit)  # traces and warms up
        start = time.perf_counter()
        detector.fit(data.batches(), steps_per_epoch=args.steps, **fit)
        print(args.steps * batch / (time.perf_counter() - start))


def hardware(virtual):
    if not virtual:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout.strip().splitlines()
    return [f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="cifake_small_resnet")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--virtual", action="store_true", help="replicas on the CPU")
    parser.add_argument("--batch-size", type=int, default=64, help="per device (default: 64)")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args, args.measure)
    speeds = {}
    for count in args.devices:
        command = [sys.executable, __file__, *sys.argv[1:], "--measure", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{count} devices: {done.stderr.strip().splitlines()[-1]}")
        speeds[count] = float(done.stdout.split()[-1])
        ratio = speeds[count] / speeds[args.devices[0]]
        print(f"{count} devices {speeds[count]:8.0f} images/s   x {ratio:.2f}", flush=True)
    print(json.dumps({"hardware": hardware(args.virtual), "experiment": args.experiment,
                      "images_per_second": speeds}))  # fmt: skip


if __name__ == "__main__":
    main()
