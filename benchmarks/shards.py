"""Images a second of the training stream from shards against the same from files.

    python benchmarks/shards.py --data path/to/cifake

Both decode every image anew, without augmentation, at the images' own size. The dataset is
prepared in a temporary folder first.
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

from tfdetect.core.data_settings import Data
from tfdetect.data.plan import find_data, make_plan
from tfdetect.data.prepare_dataset import write_shards
from tfdetect.data.shard_writer import Copies
from tfdetect.data.training_data import training_data

BATCH = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--dataset", default="cifake", help="its name (cifake)")
    parser.add_argument("--size", type=int, default=32, help="pixels (32)")
    parser.add_argument("--seconds", type=float, default=5, help="a measurement (5)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (5)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(args.dataset, data_dir=args.data)
        start = time.perf_counter()
        catalog, cores = find_data(plan), os.cpu_count()
        done = write_shards(catalog, plan.spec, Path(folder), Copies(), 32 * 2**20, cores)
        print(f"prepared {done.images:,} images in {time.perf_counter() - start:.0f} s")
        shards = make_plan(str(done.folder))
        streams = {}
        for name, found in (("files", plan), ("shards", shards)):
            catalog = find_data(found)
            settings = Data(image_size=args.size, cache="none")
            streams[name] = training_data(
                catalog, catalog.split("train"), settings, len(plan.spec.classes), BATCH, 0
            )
        speeds = {name: [] for name in streams}
        for number in range(args.rounds):
            for name in streams if number % 2 == 0 else reversed(streams):
                batches = iter(streams[name].batches())
                next(batches)
                begin, images = time.perf_counter(), 0
                while (now := time.perf_counter()) < begin + args.seconds:
                    next(batches)
                    images += BATCH
                speeds[name].append(images / (now - begin))
                del batches
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        print(f"{name:8} {middle[name]:8.0f} images/s  ({min(values):.0f} to {max(values):.0f})")
    ratio = middle["shards"] / middle["files"]
    print(f"shards / files {ratio:.2f}")
    print(json.dumps({"cores": os.cpu_count(), "images_per_second": middle, "ratio": ratio}))


if __name__ == "__main__":
    main()
