"""A local Spark cluster against plain `predict`: throughput, memory of the driver, start-up.

    python benchmarks/spark.py --data path/to/cifake/test --images 20000
    python benchmarks/spark.py --data path/to/cifake/test --images 1000000 --driver

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
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
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


def links(data: Path, folder: Path, count: int) -> None:
    """Fill a folder with links to the images below another one."""
    images = sorted(p for p in data.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number in range(count):
        if number % 10_000 == 0:
            below = folder / f"{number // 10_000:04d}"
            below.mkdir(parents=True)
        image = images[number % len(images)]
        os.symlink(image, below / f"{number:07d}{image.suffix}")


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


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference of a number in two tables; their other columns are equal."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    one, other = pq.read_table(one), pq.read_table(other)
    largest = 0.0
    for name in one.column_names:
        if pa.types.is_floating(one[name].type):
            pairs = (t[name].to_numpy(zero_copy_only=False) for t in (one, other))
            largest = max(largest, float(np.nanmax(np.abs(np.subtract(*pairs)))))
        else:
            assert one[name].equals(other[name]), name
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--images", type=int, default=1_000_000, help="number of images")
    parser.add_argument("--run", type=Path, default=ROOT / "saved_models" / "cifake_small_resnet")
    parser.add_argument("--driver", action="store_true", help="measure the driver alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        links(args.data.resolve(), folder / "images", args.images)
        os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'benchmarks'}"
        predict = ["-m", "tfdetect.predict", args.run, folder / "images", "--quiet", "--output"]
        row: dict[str, object] = {"images": args.images}
        if not args.driver:
            plain = measure([*predict, folder / "plain.parquet"])
            row |= {"plain_seconds": round(plain.seconds, 1),
                    "plain_processor_seconds": round(plain.processor, 1)}  # fmt: skip
        with cluster(folder) as (master, running):
            bare = measure(["-c", BARE, master], running)
            command = ["-c", DRIVER, *predict[2:]] if args.driver else predict
            output = folder / "spark.parquet"
            spark = measure([*command, output, "--spark", master], running,
                            folder / "spark.parquet.parts" / "parts")  # fmt: skip
        half = [size for seconds, size in spark.memory if seconds > spark.seconds / 2]
        assert spark.first_part is not None
        row |= {
            "spark_seconds": round(spark.seconds, 1),
            "spark_processor_seconds": round(spark.processor, 1),
            "bare_spark_seconds": round(bare.seconds, 1),
            "bare_spark_processor_seconds": round(bare.processor, 1),
            "first_part_after_seconds": round(spark.first_part, 1),
            "driver_peak_mib": spark.driver // MIB,
            "driver_peak_of_second_half_mib": max(half) // MIB,
        }
        if not args.driver:
            row |= {
                "throughput_ratio": round(plain.seconds / spark.seconds, 3),
                "throughput_ratio_without_sparks_start": round(
                    plain.seconds / (spark.seconds - bare.seconds), 3
                ),
                "processor_ratio_without_sparks_own": round(
                    plain.processor / (spark.processor - bare.processor), 3
                ),
                "largest_difference": largest_difference(folder / "plain.parquet", output),
            }
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
