"""A local Spark cluster against plain `predict`: throughput, memory of the driver, start-up.

    python benchmarks/spark.py --data path/to/cifake/test --images 20000
    python benchmarks/spark.py --data path/to/cifake/test --images 1000000 --driver
    python benchmarks/spark.py --data path/to/cifake/test --images 1000000 --work WORK

With --work an interrupted command goes on where it was: plain `predict` after its last 100,000
images, the job on the cluster after its last part.
The images are links to those of --data, repeated. The cluster is a standalone master and two
workers of one core each, as processes of this machine. Both ways use the same detector with ONNX
Runtime.
Processor time is that of all processes that take part, the cluster's included; other programs on
the machine hardly change it. With --driver the machines read no image but return empty rows: what
is measured is the driver, whose work depends on the number of images alone.
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

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
LINKS = 10_000  # in a folder
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
# `predict` on machines that return empty rows.
DRIVER = """
import sys
from dataclasses import dataclass
import tfdetect.predict as command
from tfdetect.core import cli
from tfdetect.spark import predict_table
from empty_rows import EmptyRows

predict_table.PredictFiles = EmptyRows
sys.exit(cli.run_command(command.main))
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


def links(data: Path, work: Path, count: int) -> int:
    """Fill the folder images with links to the images below another folder; return their number."""
    folder = work / "images"
    shutil.rmtree(folder, ignore_errors=True)  # of an interruption
    images = sorted(p for p in data.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number in range(count):
        if number % LINKS == 0:
            below = folder / f"{number // LINKS:04d}"
            below.mkdir(parents=True)
        image = images[number % len(images)]
        os.symlink(image, below / f"{number:07d}{image.suffix}")
    return count


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
        if self.first_part is None and any(self._parts.glob("[0-9]*.parquet")):
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
    command: list, others: list[subprocess.Popen] = (), parts: Path = Path("nowhere")
) -> Measured:
    """Run a command and return what it took."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    process = subprocess.Popen([sys.executable, *map(str, command)], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    watch = Watch(process, list(others), parts)
    error = process.communicate()[1]
    if process.returncode:
        raise SystemExit(error.decode())
    return watch.end()


def largest_difference(ones: list[Path], other: Path) -> float:
    """Return the largest difference of a number in two tables; their other columns are equal."""
    one, other = pa.concat_tables(map(pq.read_table, ones)), pq.read_table(other)
    largest = 0.0
    for name in one.column_names:
        if pa.types.is_floating(one[name].type):
            pairs = (t[name].to_numpy(zero_copy_only=False) for t in (one, other))
            largest = max(largest, float(np.nanmax(np.abs(np.subtract(*pairs)))))
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


def measure_plain(args: argparse.Namespace, folder: Path, predict: list) -> dict:
    """Measure plain `predict`, `CHUNK` images at a time; a chunk is not measured twice."""
    chunks = sorted((folder / "images").iterdir())
    total = {"seconds": 0.0, "processor": 0.0}
    for number, start in enumerate(range(0, len(chunks), CHUNK // LINKS)):

        def chunk(start=start, number=number) -> dict:
            images = chunks[start : start + CHUNK // LINKS]
            output = folder / f"plain-{number:03d}.parquet"
            done = measure([*predict, *images, "--quiet", "--output", output])
            return {"seconds": done.seconds, "processor": done.processor}

        found = kept(folder / f"plain-{number:03d}.json", chunk)
        total = {name: total[name] + found[name] for name in total}
    return total


def measure_spark(args: argparse.Namespace, folder: Path, predict: list) -> dict:
    """Measure `predict --spark`. After an interruption it goes on: `images` are those of now."""
    output, parts = folder / "spark.parquet", folder / "spark.parquet.parts" / "parts"
    before = sum(pq.read_metadata(part).num_rows for part in parts.glob("[0-9]*.parquet"))
    command = [*predict, folder / "images", "--quiet", "--output", output]
    command = ["-c", DRIVER, *command[2:]] if args.driver else command
    with cluster(folder) as (master, running):
        bare = measure(["-c", BARE, master], running)
        spark = measure([*command, "--spark", master], running, parts)
    half = [size for seconds, size in spark.memory if seconds > spark.seconds / 2]
    return {
        "images": args.images - before, "seconds": spark.seconds, "processor": spark.processor,
        "bare_seconds": bare.seconds, "bare_processor": bare.processor,
        "first_part": spark.first_part, "driver": spark.driver, "driver_half": max(half),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--images", type=int, default=1_000_000, help="number of images")
    parser.add_argument("--run", type=Path, default=ROOT / "saved_models" / "cifake_small_resnet")
    parser.add_argument("--driver", action="store_true", help="measure the driver alone")
    parser.add_argument("--work", type=Path, help="folder that keeps links, tables and what was "
                        "measured, so that an interrupted command goes on")  # fmt: skip
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cluster.log").unlink(missing_ok=True)
        kept(folder / "links.json", lambda: links(args.data.resolve(), folder, args.images))
        predict = ["-m", "tfdetect.predict", args.run]
        row: dict[str, object] = {"images": args.images}
        os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'benchmarks'}"
        spark = kept(folder / "spark.json", lambda: measure_spark(args, folder, predict))
        row |= {
            "spark_images": spark["images"],
            "spark_seconds": round(spark["seconds"], 1),
            "spark_processor_seconds": round(spark["processor"], 1),
            "bare_spark_seconds": round(spark["bare_seconds"], 1),
            "bare_spark_processor_seconds": round(spark["bare_processor"], 1),
            "first_part_after_seconds": round(spark["first_part"], 1),
            "driver_peak_mib": spark["driver"] // MIB,
            "driver_peak_of_second_half_mib": spark["driver_half"] // MIB,
        }
        if not args.driver:
            plain = measure_plain(args, folder, predict)
            # Of an interrupted job the rest was measured.
            share = spark["images"] / args.images
            seconds, processor = plain["seconds"] * share, plain["processor"] * share
            row |= {
                "plain_seconds": round(plain["seconds"], 1),
                "plain_processor_seconds": round(plain["processor"], 1),
                "throughput_ratio": round(seconds / spark["seconds"], 3),
                "throughput_ratio_without_sparks_start": round(
                    seconds / (spark["seconds"] - spark["bare_seconds"]), 3
                ),
                "processor_ratio_without_sparks_own": round(
                    processor / (spark["processor"] - spark["bare_processor"]), 3
                ),
                "largest_difference": largest_difference(
                    sorted(folder.glob("plain-*.parquet")), folder / "spark.parquet"
                ),
            }
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
