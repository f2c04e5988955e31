"""A local Spark cluster against plain `predict` or `audit`: throughput, memory, start-up.

    python benchmarks/spark.py --data path/to/cifake/test --images 20000
    python benchmarks/spark.py --data path/to/cifake/test --images 1000000 --driver
    python benchmarks/spark.py --data path/to/cifake/test --images 1000000 --work WORK
    python benchmarks/spark.py --audit --data path/to/cifake/train --images 1000000 --work WORK

The cluster is a standalone master and two workers of one core each, as processes of this machine.
Each round runs both ways one after the other, the next one in the other order; all files are in the
operating system's cache, if they fit, for they are read once before. The ratios are
those of all rounds together; Spark's own start, measured with the smallest job, is subtracted.

`predict` gets links to the images of --data, repeated; both ways use the same detector with ONNX
Runtime. `audit` needs files of its own: the images of --data, flipped, rotated and shifted where
there are too few of them, encoded as JPEG (4 kB of disk each), so that none is a copy of another.
Every audit begins with empty caches. Its results are equal if traits.parquet, duplicates.csv and
audit.json are.

Processor time is that of all processes that take part, the cluster's included; other programs on
the machine hardly change it. With --driver the machines read no image but return empty or made-up
rows: what is measured is the driver, whose work depends on the number of images alone.

With --work an interrupted command goes on where it was: plain `predict` after its last 100,000
images, a job on the cluster after its last part.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
FILES = 10_000  # in a folder
PARTS = "**/parts/[0-9]*.parquet"  # below the folder of parts of a command
CHUNK = 100_000  # images that plain `predict` is given at once
# The smallest job that Spark can do here: what it takes is Spark's own.
BARE = """
import os, sys
from pyspark.sql import SparkSession
os.environ["PYSPARK_PYTHON"] = sys.executable
spark = SparkSession.builder.master(sys.argv[1]).config("spark.log.level", "OFF").getOrCreate()
spark.range(2, numPartitions=2).mapInArrow(lambda batches: batches, "id long").collect()
spark.stop()
"""
# A command on machines that read nothing.
DRIVER = """
import importlib, sys
from tfdetect.core.run_command import run_command
from tfdetect.spark import dataset_jobs, predict_table
from empty_rows import EmptyRows, MadeUpRows

predict_table.PredictFiles, dataset_jobs.ReadFiles = EmptyRows, MadeUpRows
sys.exit(run_command(importlib.import_module("tfdetect.{name}").main))
"""


@dataclass
class Measured:
    """What a command took.

    Attributes:
        seconds: by the clock.
        processor: seconds of processor time of all processes.
        driver: peak memory of the command's own processes together, bytes.
        memory: the same over time: (seconds, bytes).
        first_part: seconds until the first part was finished; None without parts.
    """

    seconds: float
    processor: float
    driver: int
    memory: list[tuple[float, int]]
    first_part: float | None


def make_images(data: Path, folder: Path, count: int, copies: bool) -> int:
    """Fill a folder with links to the images below another one, or with files; return the number.

    Files are in folders of the names of those that the images are in: their classes.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an interruption
    images = sorted(p for p in data.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number in range(count):
        image = images[
            number * len(images) // count if count < len(images) else number % len(images)
        ]
        below = folder / (image.parent.name if copies else "") / f"{number // FILES:04d}"
        below.mkdir(parents=True, exist_ok=True)
        if copies:
            save_variant(image, number // len(images), below / f"{number:07d}.jpg")
        else:
            os.symlink(image, below / f"{number:07d}{image.suffix}")
    return count


def save_variant(image: Path, variant: int, path: Path) -> None:
    """Save an image as JPEG; of the variants, 0 is as it is, the others are turned or shifted."""
    with Image.open(image) as opened:
        pixels = opened.convert("RGB")
    if variant % 8:
        pixels = pixels.transpose(Image.Transpose(variant % 8 - 1))
    ImageChops.offset(pixels, 5 * (variant // 8)).save(path, quality=75)


def read_once(folder: Path) -> None:
    """Read all files below a folder, so that every way finds them in the system's cache."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                file.read()


@contextmanager
def cluster(folder: Path):
    """A standalone master and two workers; yields the master's address and the processes."""
    import pyspark

    home = Path(pyspark.__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, deploy = f"spark://127.0.0.1:{port}", "org.apache.spark.deploy"
    commands = [[f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", str(port),
                 "--webui-port", "0"]]  # fmt: skip
    commands += [[f"{deploy}.worker.Worker", "--cores", "1", "--memory", "1g", "--webui-port", "0",
                  "--work-dir", str(folder / f"worker{n}"), address] for n in range(2)]  # fmt: skip
    environment = os.environ | {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"}
    with (folder / "cluster.log").open("wb") as log:
        running = [
            subprocess.Popen([home / "bin" / "spark-class", *command], env=environment,
                             stdout=log, stderr=log)
            for command in commands
        ]  # fmt: skip
        try:
            while (folder / "cluster.log").read_text().count("Registering worker") < 2:
                time.sleep(0.3)
            yield address, running
        finally:
            for process in running:
                process.terminate()
                process.wait(30)


class Watch:
    """Sums the processor time of process trees, and the memory of one, twice a second."""

    def __init__(self, command: subprocess.Popen, others: list[subprocess.Popen], parts: Path):
        self.begin, self.first_part = time.monotonic(), None
        self._command, self._others, self._parts = command, others, parts
        self._used: dict[tuple[int, float], float] = {}
        self._before: dict[tuple[int, float], float] | None = None
        self.memory: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._look()
            self._ended.wait(0.5)

    def _look(self) -> None:
        resident = 0
        for root in (self._command, *self._others):
            for process in _tree(root.pid):
                try:
                    times = process.cpu_times()
                    self._used[process.pid, process.create_time()] = times.user + times.system
                    if root is self._command:
                        resident += process.memory_info().rss
                except psutil.Error:
                    continue
        if self._before is None:
            self._before = dict(self._used)
        self.memory.append((time.monotonic() - self.begin, resident))
        if self.first_part is None and any(self._parts.glob(PARTS)):
            self.first_part = time.monotonic() - self.begin

    def end(self) -> Measured:
        self._ended.set()
        self._thread.join()
        assert self._before is not None
        used = sum(seconds - self._before.get(key, 0) for key, seconds in self._used.items())
        peak = max(size for _, size in self.memory)
        seconds = time.monotonic() - self.begin
        return Measured(seconds, used, peak, self.memory, self.first_part)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def measure(
    command: list, others: list[subprocess.Popen] = (), parts: Path = Path("nowhere"),
    cache: Path | None = None, output: Path | None = None,
) -> Measured:  # fmt: skip
    """Run a command, with a cache that is empty if one is given, and return what it took.

    It ends well with code 0, or with 1 and the output that is named: of an unreliable dataset.
    """
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    if cache is not None:
        shutil.rmtree(cache, ignore_errors=True)
        environment["TFDETECT_CACHE"] = str(cache)
    process = subprocess.Popen([sys.executable, *map(str, command)], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    watch = Watch(process, list(others), parts)
    error = process.communicate()[1]
    if process.returncode and not (process.returncode == 1 and output and output.exists()):
        raise SystemExit(error.decode())
    return watch.end()


def largest_difference(ones: list[Path], other: Path) -> float:
    """Return the largest difference of a number in two tables; all else in them is equal."""
    one, other = pa.concat_tables(map(pq.read_table, ones)), pq.read_table(other)
    assert one.schema.equals(other.schema)
    largest = 0.0
    for name in one.column_names:
        if pa.types.is_floating(one[name].type):
            pair = [t[name].to_numpy(zero_copy_only=False) for t in (one, other)]
            assert np.array_equal(*map(np.isnan, pair)), name
            largest = max(largest, float(np.nanmax(np.abs(np.subtract(*pair)), initial=0)))
        else:
            assert one[name].equals(other[name]), name
    return largest


def kept(file: Path, function) -> dict:
    """Return what a function measures, or what it measured before an interruption."""
    if not file.is_file():
        found = function()
        file.with_suffix(".new").write_text(json.dumps(found))
        file.with_suffix(".new").rename(file)
    return json.loads(file.read_text())


class Predict:
    """Both ways to score the images in a folder."""

    def __init__(self, folder: Path, run: Path, driver: bool):
        self._folder, self._driver = folder, driver
        self._command = ["-m", "tfdetect.predict", run]

    def plain(self, number: int) -> dict:
        """Measure plain `predict`, `CHUNK` images at a time; a chunk is not measured twice."""
        folders = sorted(p for p in self._folder.glob("images/**/[0-9]*") if p.is_dir())
        total = {"seconds": 0.0, "processor": 0.0}
        for start in range(0, len(folders), CHUNK // FILES):
            name = self._folder / f"plain-{number}-{start:03d}.parquet"

            def chunk(start=start, name=name) -> dict:
                images = folders[start : start + CHUNK // FILES]
                done = measure([*self._command, *images, "--quiet", "--output", name])
                return {"seconds": done.seconds, "processor": done.processor}

            found = kept(name.with_suffix(".json"), chunk)
            total = {key: total[key] + found[key] for key in total}
        return total

    def spark(self, number: int, master: str, running: list[subprocess.Popen]) -> dict:
        """Measure `predict --spark`. After an interruption it goes on: `rest` is what was left."""
        output = self._folder / f"spark-{number}.parquet"
        parts = output.with_name(f"{output.name}.parts")
        before = sum(pq.read_metadata(part).num_rows for part in parts.glob(PARTS))
        command = self._command
        if self._driver:
            command = ["-c", DRIVER.format(name="predict"), *command[2:]]
        images = self._folder / "images"
        command = [*command, images, "--quiet", "--output", output, "--spark", master]
        return {"before": before, **vars(measure(command, running, parts))}

    def difference(self, number: int) -> float:
        """Return the largest difference of a number in both tables, whose rows are the same."""
        plain = sorted(self._folder.glob(f"plain-{number}-*.parquet"))
        return largest_difference(plain, self._folder / f"spark-{number}.parquet")


class Audit:
    """Both ways to audit the images in a folder."""

    def __init__(self, folder: Path, driver: bool):
        self._folder = folder
        self._command = ["-m", "tfdetect.audit", "--dataset", folder / "images", "--quiet"]
        if driver:
            self._command[:2] = ["-c", DRIVER.format(name="audit")]

    def plain(self, number: int) -> dict:
        return self._measure("plain", number)

    def spark(self, number: int, master: str, running: list[subprocess.Popen]) -> dict:
        return {"before": 0, **self._measure("spark", number, running, "--spark", master)}

    def _measure(self, way: str, number: int, running: list = (), *arguments: str) -> dict:
        output = self._folder / f"{way}-{number}"
        parts = output.with_name(f"{output.name}.parts")
        for old in (output, parts):  # of an interruption
            shutil.rmtree(old, ignore_errors=True)
        command = [*self._command, "--output", output, *arguments]
        cache = self._folder / "cache"
        return vars(measure(command, running, parts, cache, output / "audit.json"))

    def difference(self, number: int) -> float:
        """Return the largest difference of a trait; all else in the results is equal."""
        plain, spark = (self._folder / f"{way}-{number}" for way in ("plain", "spark"))
        for name in ("duplicates.csv", "audit.json"):
            assert (plain / name).read_bytes() == (spark / name).read_bytes(), name
        return largest_difference([plain / "traits.parquet"], spark / "traits.parquet")


def on_cluster(folder: Path, ways: Predict | Audit, number: int) -> dict:
    """Measure a round of a way on a cluster of its own, and Spark's own start there."""
    (folder / "cluster.log").unlink(missing_ok=True)
    with cluster(folder) as (master, running):
        bare = measure(["-c", BARE, master], running)
        found = ways.spark(number, master, running)
    half = max(size for seconds, size in found["memory"] if seconds > found["seconds"] / 2)
    return {**found, "half": half, "bare_seconds": bare.seconds, "bare_processor": bare.processor}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--images", type=int, default=1_000_000, help="number of images")
    parser.add_argument("--audit", action="store_true", help="audit them, instead of scoring them")
    parser.add_argument("--copies", action="store_true", help="score files as of --audit, no links")
    parser.add_argument("--rounds", type=int, default=1, help="times that each way is measured")
    parser.add_argument("--run", type=Path, default=ROOT / "saved_models" / "cifake_small_resnet")
    parser.add_argument("--driver", action="store_true", help="measure the driver alone")
    parser.add_argument("--work", type=Path, help="folder that keeps images, results and what was "
                        "measured, so that an interrupted command goes on")  # fmt: skip
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'benchmarks'}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        data, copies = args.data.resolve(), args.copies or args.audit
        kept(
            folder / "images.json",
            lambda: make_images(data, folder / "images", args.images, copies),
        )
        ways = Audit(folder, args.driver) if args.audit else Predict(folder, args.run, args.driver)
        spark, plain = [], []
        if not args.driver:
            read_once(folder / "images")
        for number in range(args.rounds):
            both = [
                (spark, "spark", lambda number=number: on_cluster(folder, ways, number)),
                (plain, "plain", lambda number=number: ways.plain(number)),
            ]
            for found, name, measured in both if number % 2 == 0 else both[::-1]:
                if not args.driver or name == "spark":
                    found.append(kept(folder / f"{name}-{number}-measured.json", measured))
        print(json.dumps(summary(args, spark, plain, ways), indent=2))


def summary(
    args: argparse.Namespace, spark: list[dict], plain: list[dict], ways: Predict | Audit
) -> dict:
    """Return what is printed of all rounds."""

    def total(key: str, rounds: list[dict] = spark) -> float:
        return round(sum(each[key] for each in rounds), 1)

    row = {
        "images": args.images, "rounds": args.rounds,
        "spark_seconds": total("seconds"), "spark_processor_seconds": total("processor"),
        "bare_spark_seconds": total("bare_seconds"),
        "bare_spark_processor_seconds": total("bare_processor"),
        "first_part_after_seconds": [round(each["first_part"], 1) for each in spark],
        "driver_peak_mib": max(each["driver"] for each in spark) // MIB,
        "driver_peak_of_second_half_mib": max(each["half"] for each in spark) // MIB,
    }  # fmt: skip
    if not plain:
        return row
    # Of an interrupted job the rest was measured.
    done = 1 - total("before") / (args.images * args.rounds)
    seconds, processor = done * total("seconds", plain), done * total("processor", plain)
    of_round = [
        round(one["seconds"] / (other["seconds"] - other["bare_seconds"]), 3)
        for one, other in zip(plain, spark, strict=True)
    ]
    return row | {
        "plain_seconds": total("seconds", plain),
        "plain_processor_seconds": total("processor", plain),
        "plain_peak_mib": max(each.get("driver", 0) for each in plain) // MIB,
        "throughput_ratio": round(seconds / row["spark_seconds"], 3),
        "throughput_ratio_without_sparks_start": round(
            seconds / (row["spark_seconds"] - row["bare_spark_seconds"]), 3
        ),
        "of_each_round": of_round,
        "processor_ratio_without_sparks_own": round(
            processor / (row["spark_processor_seconds"] - row["bare_spark_processor_seconds"]), 3
        ),
        "largest_difference": max(ways.difference(number) for number in range(args.rounds)),
    }


if __name__ == "__main__":
    main()
