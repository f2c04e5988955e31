"""Prediction without TensorFlow: seconds and memory of a cold process, and images a second.

    python benchmarks/light.py                      # cold processes
    python benchmarks/light.py --data path/to/cifake/test --count 10000

Each row is a new process, the files in the operating system's cache. Its peer is what anybody would
write: Pillow and ONNX Runtime, a loop over batches of 64, and nothing else. Ratios are of processor
time, which other programs on the machine hardly change. `--python` names the interpreter of an
environment that has tfdetect-light alone.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfdetect.core.open_run import open_run

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "saved_models"
MODES = ("light", "tensorflow", "bare")
PROGRAM = """
import sys
from pathlib import Path
network, run, *paths = sys.argv[1:]
paths = [
    str(p)
    for each in paths
    for p in ([each] if Path(each).is_file() else sorted(Path(each).iterdir()))
]
"""
TENSORFLOW = (
    PROGRAM
    + """
from tfdetect.core.quiet import import_tensorflow
import_tensorflow()
from tfdetect.core.open_run import open_run
from tfdetect.evaluation.predictions import predict_files
from tfdetect.models.saving import load_detector
run = open_run(run)
print(predict_files(run, load_detector(run), paths, progress=False).num_rows)
"""
)
# Every image is one part of the detector's size: no windows, hashes or columns.
BARE = (
    PROGRAM
    + """
import numpy as np
import onnxruntime as ort
from PIL import Image
session = ort.InferenceSession(network, providers=["CPUExecutionProvider"])
[entry] = session.get_inputs()
crops, (height, width) = entry.shape[1] if len(entry.shape) == 5 else None, entry.shape[-3:-1]
for start in range(0, len(paths), 64):
    images = []
    for path in paths[start : start + 64]:
        with Image.open(path) as image:
            images.append(np.asarray(image.convert("RGB").resize((width, height))))
    batch = np.stack(images)
    if crops:
        batch = np.repeat(batch[:, None], crops, 1)
    session.run(["p_fake"], {entry.name: batch})
print(len(paths))
"""
)


def timed(python, mode, run, paths):
    """Return seconds, seconds of processors, and peak memory in MB of a process that predicts."""
    if mode == "light":
        command = ["-m", "tfdetect.predict", run, *paths, "--quiet", "--output", "rows.csv"]
    else:
        network = open_run(run).onnx_path
        command = ["-c", TENSORFLOW if mode == "tensorflow" else BARE, network, run, *paths]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [python, *map(str, command)], stdout=subprocess.DEVNULL, cwd=folder
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{mode} ended with status {status}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def measure(title, run, paths, modes, repeats, python, count=1):
    """Print a row for each mode, measured alternately."""
    found = {mode: [] for mode in modes}
    for _ in range(repeats):
        for mode in modes:
            found[mode].append(timed(python[mode], mode, run, paths))
    for mode, each in found.items():
        seconds, cpu, memory = (statistics.median(values) for values in zip(*each))
        bare = statistics.median(cpu for _, cpu, _ in found["bare"])
        row = {
            "benchmark": "light", "case": title, "mode": mode, "seconds": seconds,
            "cpu_seconds": cpu, "megabytes": memory, "images_per_second": count / seconds,
            "ratio_to_bare": cpu / bare,
        }  # fmt: skip
        print(f"{title}, {mode}: {seconds:.2f} s, {cpu:.2f} s of processors, {memory:.0f} MB, "
              f"{count / seconds:.0f} images/s, {cpu / bare:.1f} x bare")  # fmt: skip
        print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of small images, with those below")
    parser.add_argument("--count", type=int, default=10_000, help="images of --data")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind")
    parser.add_argument("--python", default=sys.executable, help="interpreter for `light`")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="default: all")
    args = parser.parse_args()
    modes = list(dict.fromkeys([*args.modes, "bare"]))
    python = dict.fromkeys(MODES, sys.executable) | {"light": args.python}

    from PIL import Image

    from tfdetect.imaging.photographs import photograph

    with tempfile.TemporaryDirectory() as folder:
        if args.data:
            files = sorted(p for p in args.data.rglob("*") if p.suffix in (".jpg", ".png"))
            if len(files) < args.count:
                parser.error(f"{args.data} has {len(files):,} images; choose --count")
            chosen = Path(folder, "images")
            chosen.mkdir()
            for n, file in enumerate(random.Random(0).sample(files, args.count)):
                (chosen / f"{n:06d}{file.suffix}").write_bytes(file.read_bytes())
            return measure(f"{args.count:,} small files", RUNS / "cifake_small_resnet", [chosen],
                           modes, args.repeats, python, args.count)  # fmt: skip
        source = photograph("china")
        small, large = Path(folder, "small.png"), Path(folder, "large.jpg")
        source.resize((32, 32)).save(small)
        source.resize((4000, 3000), Image.Resampling.BICUBIC).save(large, quality=92)
        measure("32 pixels", RUNS / "cifake_small_resnet", [small], modes, args.repeats, python)
        measure("12 megapixels", RUNS / "photo_detector", [large], modes, args.repeats, python)


if __name__ == "__main__":
    main()
