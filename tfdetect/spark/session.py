"""Start Spark in the background of a command, and stop it when the command ends."""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tfdetect.core.errors import UserError
from tfdetect.core.spark_cluster import SparkCluster

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def starting_spark(
    cluster: SparkCluster, name: str, at_once: bool = True
) -> Iterator[Callable[[], "SparkSession"]]:
    """Start Spark in a thread, yield a function that returns its session, and stop it at the end.

    The function waits until Spark has started, and raises a `UserError` if it cannot: pyspark or
    Java is missing, or the cluster does not answer. If this process has a session already, that one
    is used and not stopped.

    Args:
        cluster: the cluster to run on.
        name: the name of the job on the pages of Spark.
        at_once: whether Spark starts in the background now, or only when the function is called,
            where it is probably not needed.
    """
    start = _Start(cluster, name)
    with ThreadPoolExecutor(1, "spark") as thread, tempfile.TemporaryFile() as noise:
        started: list[Future[SparkSession]] = []

        def session() -> "SparkSession":
            if not started:
                started.append(thread.submit(start.run, noise))
            return started[0].result()

        if at_once:
            started.append(thread.submit(start.run, noise))
        try:
            yield session
        finally:
            start.stop()
            wait(started)


class _Start:
    """Starts Spark in one thread, and can be stopped from another one."""

    def __init__(self, cluster: SparkCluster, name: str):
        self._cluster, self._name = cluster, name
        self._gateway: Any = None
        self._session: SparkSession | None = None
        self._stopped = False

    def run(self, noise: IO[bytes]) -> "SparkSession":
        """Return a session; what Java and Spark print is written into `noise`.

        Raises:
            UserError: pyspark or Java is missing, or the cluster does not answer.
        """
        # Nothing here goes through pandas.
        warnings.filterwarnings(
            "ignore", "PySpark does not yet fully support pandas", FutureWarning
        )
        try:
            from pyspark import SparkConf, SparkContext
            from pyspark.java_gateway import launch_gateway
            from pyspark.sql import SparkSession
        except ImportError as error:
            raise UserError(
                "--spark needs pyspark. Install it with: pip install 'tfdetect[spark]'"
            ) from error
        if SparkContext._active_spark_context is not None:
            return SparkSession.builder.getOrCreate()
        _check_java()
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # on the machines, too
        master = self._cluster.master
        conf = SparkConf().setMaster(master).setAppName(self._name).set("spark.log.level", "ERROR")
        conf.setAll(list(self._cluster.conf.items()))
        try:
            self._gateway = launch_gateway(conf, {"stdout": noise, "stderr": noise})
            if not self._stopped:  # otherwise `stop` may have come before the gateway
                self._session = SparkSession(SparkContext(conf=conf, gateway=self._gateway))
                return self._session
            problem = "It was stopped."
        except Exception as error:  # py4j raises many kinds, whose text comes from Java
            problem = str(error).strip() or type(error).__name__
        _end_java(self._gateway)
        noise.seek(0)
        printed = noise.read().decode(errors="replace")
        raise UserError(f"Spark does not start at {master}: {_reason(problem, printed)}")

    def stop(self) -> None:
        """Stop Spark and its Java process, which would otherwise live as long as this process."""
        self._stopped = True
        if self._gateway is not None:
            with suppress(Exception):  # Java may be gone already
                if self._session is not None:
                    self._session.stop()
            _end_java(self._gateway)


def _check_java() -> None:
    """Check that Java is installed.

    Raises:
        UserError: it is not found.
    """
    home = os.environ.get("JAVA_HOME")
    if (home and Path(home, "bin", "java").is_file()) or (not home and shutil.which("java")):
        return
    raise UserError(
        f"--spark needs Java 17 or newer, which is not in {home} (JAVA_HOME). Set JAVA_HOME to the "
        "folder of Java."
        if home
        else "--spark needs Java 17 or newer, and there is no command java. Install it (on Debian: "
        "apt install openjdk-17-jre-headless), or set JAVA_HOME to its folder."
    )


def _reason(problem: str, printed: str) -> str:
    """Return why Spark does not start, in one line, from an error and what Java printed."""
    if "UnsupportedClassVersionError" in printed:
        return "Java is older than 17. Install Java 17, or set JAVA_HOME to its folder."
    lines = [line.strip() for line in f"{printed}\n{problem}".splitlines()]
    for word in ("unresponsive", "Exception: ", "Error: ", ": "):
        for line in lines:
            if word in line and not line.startswith("at "):
                return line.partition(" ERROR ")[2][:300] or line[:300]
    return problem[:300]


def _end_java(gateway: Any) -> None:
    """End the Java process of a gateway, so that a later session starts a new one."""
    from pyspark import SparkContext

    with suppress(Exception):
        gateway.shutdown()
    process = getattr(gateway, "proc", None)
    if process is not None:
        with suppress(OSError):
            process.stdin.close()  # at which it ends
        try:
            process.wait(20)
        except Exception:
            process.kill()
            process.wait()
    SparkContext._gateway = SparkContext._jvm = None
