"""Seconds and memory of the catalog: many real files, and a million synthetic rows.

    python benchmarks/catalog.py --data path/to/cifake
    python benchmarks/catalog.py --rows 1000000
    python benchmarks/catalog.py --data path/to/cifake --steps 4000

The first scans files whose content was inspected before (warm). The second makes up rows
of files that do not exist, in place of reading folders and contents, and then starts a
training stream over them; it prints the memory of the process after each step, most of
which at the end is TensorFlow's own. The third streams batches of 256 from files, decoded anew
each time, and prints the memory ten times on the way.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from tfdetect.core.data_settings import Data
from tfdetect.core.load_spec import load_spec
from tfdetect.core.walk import FoundFile, Walk
from tfdetect.data import scan
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.parallel import reading_by


def memory():
    return psutil.Process().memory_info().rss >> 20


def real(data):
    spec, _ = load_spec("cifake")
    for name in ("cold or warm", "warm"):
        start = time.perf_counter()
        catalog = build_catalog(spec, {"cifake": data}, progress=False)
        seconds = time.perf_counter() - start
        print(f"{name}: {catalog.table.num_rows:,} files in {seconds:.1f} s")
    return {"files": catalog.table.num_rows, "seconds": round(seconds, 2)}


def synthetic(count):
    spec, _ = load_spec("cifake")
    spec = spec.model_copy(update={"expected_counts": {}})

    class MadeUp(Walk):
        """Files that do not exist."""

        def __iter__(self):
            for i in range(count):
                place = f"{'train' if i % 10 else 'test'}/{'REAL' if i // 10 % 2 else 'FAKE'}"
                stamp = 1_700_000_000_000_000_000 + i
                yield FoundFile(f"{place}/image_{i:08d}.jpg", 1000 + i % 97, stamp, 1, i)

    def inspect(read, paths, schema, *rest):
        hashes = pa.array((f"{p[-12:-4]:0>32}" for p in paths), pa.string())
        sides = pa.array(np.full(len(paths), 32, np.int32))
        formats, errors = pa.repeat("JPEG", len(paths)), pa.nulls(len(paths), pa.string())
        frames = pa.array(np.full(len(paths), 1, np.int32))
        return pa.table([hashes, sides, sides, formats, frames, errors], schema)

    scan.Walk = MadeUp
    result = {"rows": count, "MiB at start": memory()}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as root, reading_by(inspect):
        os.environ["TFDETECT_CACHE"] = f"{root}/cache"
        found = build_catalog(spec, {"cifake": Path(root)}, progress=False)
        result["seconds for the catalog"] = round(time.perf_counter() - start, 1)
    result["MiB with the catalog"] = memory()
    assert found.table.num_rows == count
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.data.training_data import training_data

    result["MiB with TensorFlow"] = memory()
    data = Data(image_size=32, cache="none")
    stream = training_data(found, found.split("train"), data, 2, 256, 0)
    iter(stream.batches())
    result |= {"MiB with the stream": memory(), "seconds": round(time.perf_counter() - start, 1)}
    result["MiB at most"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    for name, value in result.items():
        print(f"{name}: {value:,}")
    return result


def stream(data, steps):
    from tfdetect.core.quiet import import_tensorflow

    import_tensorflow()
    from tfdetect.data.training_data import training_data

    spec, _ = load_spec("cifake")
    found = build_catalog(spec, {"cifake": data}, progress=False)
    settings = Data(image_size=32, cache="none", augment=({"name": "flip"}, {"name": "shift"}))
    batches = iter(training_data(found, found.split("train"), settings, 2, 256, 0).batches())
    sizes, start = [], time.perf_counter()
    for step in range(1, steps + 1):
        next(batches)
        if step % (steps // 10) == 0:
            sizes.append(memory())
            print(f"step {step:,}: {sizes[-1]:,} MiB")
    speed = steps * 256 / (time.perf_counter() - start)
    return {"images": steps * 256, "MiB": sizes, "images_per_second": round(speed)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="CIFAKE's folder")
    parser.add_argument("--rows", type=int, help="synthetic rows")
    parser.add_argument("--steps", type=int, help="batches to stream from --data")
    args = parser.parse_args()
    if args.steps and args.data:
        print(json.dumps(stream(args.data, args.steps)))
    elif args.data:
        print(json.dumps(real(args.data)))
    if args.rows:
        print(json.dumps(synthetic(args.rows)))


if __name__ == "__main__":
    main()
