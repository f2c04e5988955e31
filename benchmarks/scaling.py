"""Images per second of an experiment on 1, 2, ... devices, relative to one.

    python benchmarks/scaling.py --devices 1 2 4            # GPUs
    python benchmarks/scaling.py --virtual --devices 1 2    # replicas on the CPU
    python benchmarks/scaling.py --workers --devices 1 2    # worker processes, as on 2 machines

Each count has its own process, since TensorFlow configures devices once per process. The global
batch grows with the devices (--batch-size is per device); the images are noise in memory. Virtual
devices share the cores, so their ratio shows the cost of replication, not a gain. With --workers
every worker has the same number of cores to itself, also where it is alone, so the ratio to the
number of workers is the efficiency; what is missing to 1 is the share of a step that goes into
communication and waiting. The result names the hardware; any table made of it must, too.
"""

import argparse
import json
import os
import platform
import socket
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

    from tfdetect.core.cluster import Cluster
    from tfdetect.core.load_experiment import load_experiment
    from tfdetect.data.examples import Examples
    from tfdetect.data.sources import Files
    from tfdetect.data.training_data import stream_of
    from tfdetect.models.detector import build_detector
    from tfdetect.training.devices import configure_devices
    from tfdetect.training.fit import set_seed_and_precision
    from tfdetect.training.optimizer import build_optimizer
    from tfdetect.training.workers import prepare_model

    batch = args.batch_size * count
    experiment = load_experiment(args.experiment, [
        f"training.batch_size={batch}", "data.augment=[{name: flip}]", "model.weights=none",
    ])  # fmt: skip
    if args.workers:
        cluster = Cluster(tuple(args.addresses.split(",")), args.task) if count > 1 else None
        devices = configure_devices(cluster=cluster)
    else:
        gpus = None if args.virtual else list(range(count))
        devices = configure_devices(gpus=gpus, virtual=count if args.virtual else None)
    workers = devices.workers
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

        def batches():
            if workers is None:
                return data.batches()
            return workers.distribute(data.batches(0, workers.part(batch)))

        with devices.scope():
            detector = build_detector(experiment, 2)
            if workers is not None:
                prepare_model(detector)
            detector.compile(
                build_optimizer(experiment.training, 1000),
                {"label": keras.losses.BinaryCrossentropy(from_logits=True)}, jit_compile=False,
            )  # fmt: skip
        fit = {"shuffle": False, "verbose": 0}
        detector.fit(batches(), steps_per_epoch=3, **fit)  # traces and warms up
        start = time.perf_counter()
        detector.fit(batches(), steps_per_epoch=args.steps, **fit)
        print(args.steps * batch / (time.perf_counter() - start), detector.count_params())
        if workers is not None:
            workers.leave()


def run(args, count):
    """Return images per second and the number of weights, measured in processes of their own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", str(count)]
    if not args.workers:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return result(done.returncode, done.stdout, done.stderr, count)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    cores = os.cpu_count() // max(args.devices)
    threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"), str(cores))
    processes = [
        subprocess.Popen(
            ["taskset", "-c", f"{task * cores}-{(task + 1) * cores - 1}", *command,
             "--addresses", addresses, "--task", str(task)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | threads,
        )
        for task in range(count)
    ]  # fmt: skip
    texts = [process.communicate() for process in processes]
    return result(processes[0].returncode, *texts[0], count)


def result(code, printed, error, count):
    if code:
        said = error.strip().splitlines() or ["no message"]
        sys.exit(f"{count} devices: exit status {code}: {said[-1]}")
    speed, weights = printed.split()[-2:]
    return float(speed), int(weights)


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
    parser.add_argument("--workers", action="store_true", help="worker processes, with cores each")
    parser.add_argument("--batch-size", type=int, default=64, help="per device (default: 64)")
    parser.add_argument("--steps", type=int, default=30)
    for name, kind in (("--measure", int), ("--addresses", str), ("--task", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args, args.measure)
    speeds = {}
    for count in args.devices:
        speeds[count], weights = run(args, count)
        ratio = speeds[count] / speeds[args.devices[0]]
        print(f"{count} devices {speeds[count]:8.0f} images/s   x {ratio:.2f}", flush=True)
    found = {"hardware": hardware(args.virtual or args.workers), "experiment": args.experiment,
             "weights": weights, "images_per_second": speeds}  # fmt: skip
    if args.workers and 1 in speeds:
        found["efficiency"] = {n: round(s / n / speeds[1], 3) for n, s in speeds.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
