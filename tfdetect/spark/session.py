"""Starts Spark for a command, and ends it with the command."""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tfdetect.core.errors import UserError
from tfdetect.core.spark_cluster import SparkCluster

if TYPE_CHECKING:
    from pyspark import SparkConf
    from pyspark.sql import SparkSession


@contextmanager
def spark_session(cluster: SparkCluster, name: str) -> Iterator["SparkSession"]:
    """Yield a Spark session, and stop it and its Java process at the end.

    A session that the caller has already is used, and left to the caller.

    Args:
        cluster: where to run.
        name: shown in Spark's pages.

    Raises:
        UserError: pyspark or Java is missing, or the cluster does not answer.
    """
    # Nothing here goes through pandas.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    try:
        from pyspark import SparkConf, SparkContext
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError(
            "--spark needs pyspark. Install it with: pip install 'tfdetect[spark]'"
        ) from error
    if SparkContext._active_spark_context is not None:
        yield SparkSession.builder.getOrCreate()
        return
    _check_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # on the machines, too
    conf = SparkConf().setMaster(cluster.master).setAppName(name).set("spark.log.level", "ERROR")
    conf.setAll(list(cluster.conf.items()))
    with tempfile.TemporaryFile() as noise:
        session = _started(conf, noise, cluster.master)
        try:
            yield session
        finally:
            _stop(session)


def _check_java() -> None:
    """Check that Java is there.

    Raises:
        UserError: it is not.
    """
    home = os.environ.get("JAVA_HOME")
    if (home and Path(home, "bin", "java").is_file()) or (not home and shutil.which("java")):
        return
    raise UserError(
        f"--spark needs Java 17 or newer, which is not in {home} (JAVA_HOME)."
        if home
        else "--spark needs Java 17 or newer, and there is no command java. Install it (on Debian: "
        "apt install openjdk-17-jre-headless), or set JAVA_HOME to its folder."
    )


def _started(conf: "SparkConf", noise: IO[bytes], master: str) -> "SparkSession":
    """Start Java and Spark in it; what they print goes into `noise`."""
    import signal

    from pyspark import SparkContext
    from pyspark.java_gateway import launch_gateway
    from pyspark.sql import SparkSession

    before, gateway, problem = signal.getsignal(signal.SIGINT), None, None
    try:
        gateway = launch_gateway(conf, {"stdout": noise, "stderr": noise})
        return SparkSession(SparkContext(conf=conf, gateway=gateway))
    except Exception as error:  # py4j raises many kinds, whose text comes from Java
        problem = str(error).strip() or type(error).__name__
    finally:
        if problem is not None or sys.exc_info()[0] is not None:
            _end_java(gateway)
        # Spark's own handler would stay behind.
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, before)
    noise.seek(0)
    printed = noise.read().decode(errors="replace")
    raise UserError(f"Spark does not start at {master}: {_reason(problem, printed)}")


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


def _stop(session: "SparkSession") -> None:
    gateway = session.sparkContext._gateway
    with suppress(Exception):  # Java may be gone already
        session.stop()
    _end_java(gateway)


def _end_java(gateway: Any) -> None:
    """End the Java process, which would live as long as this one."""
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
