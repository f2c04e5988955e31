"""Runs a job on a cluster, from the command's process."""

import pickle
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import tfdetect
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.spark.executor import REPORT_FOR_SPARK, Assignment, Task, work
from tfdetect.spark.job import Job

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LOOK_SECONDS = 0.3  # between looks at how far the job is


def run_job(
    session: Callable[[], "SparkSession"],
    job: Job,
    task: Task,
    roots: Sequence[str],
    description: str,
    unit: str,
    progress: bool,
) -> None:
    """Finish a job: every partition has its part afterwards.

    Args:
        session: waits for Spark; not called if all parts are there.
        job: its folder.
        task: what is done.
        roots: folders that every machine must see.
        description: text of the progress bar.
        unit: what is counted.
        progress: whether to show the progress bar.

    Raises:
        UserError: machines could not do their part, or Spark gave up.
    """
    missing = job.missing()
    if not missing:
        return
    done = job.total - int(job.rows[missing].sum())
    if done and progress:
        console.log(f"{done:,} of {job.total:,} {unit} were done before, in {job.folder}")
    spark = session()
    threads = int(spark.conf.get("spark.task.cpus", "1") or 1)
    assignment = Assignment(
        job.folder, job.id, pickle.dumps(task), tuple(roots), tfdetect.__version__, threads
    )
    with console.progress(job.total, description, unit, shown=progress, initial=done) as bar:
        reports = _collect(spark, assignment, missing, bar)
    if problems := [row for row in reports if row["problem"] is not None]:
        first = problems[0]
        raise UserError(
            f"{len(problems)} of {len(job.rows)} parts could not be made. The first: the machine "
            f"{first['host']} says that {first['problem']}. When that is fixed, the same command "
            "goes on."
        )


def _collect(
    spark: "SparkSession", assignment: Assignment, missing: list[int], bar: console.Progress
) -> list[dict[str, Any]]:
    """Let Spark work through partitions; return the reports on them."""
    from pyspark.accumulators import Accumulator

    context = spark.sparkContext
    counted: Accumulator[int] = context.accumulator(0)
    # One Spark task for each partition, in this order.
    numbers = spark.range(len(missing), numPartitions=len(missing))
    reports = numbers.mapInArrow(partial(_work, assignment, missing, counted), REPORT_FOR_SPARK)
    group, ended = f"tfdetect {uuid.uuid4().hex}", threading.Event()
    found: list[dict[str, Any]] = []
    errors: list[Exception] = []

    def collect() -> None:
        try:
            context.setJobGroup(group, bar.description, interruptOnCancel=True)
            found.extend(row.asDict() for row in reports.collect())
        except Exception as error:
            errors.append(error)
        finally:
            ended.set()

    before = bar.done
    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        while not ended.wait(_LOOK_SECONDS):
            bar.set_done(min(before + counted.value, bar.total or 0))
    except BaseException:  # Ctrl-C
        context.cancelJobGroup(group)
        ended.wait(10)
        raise
    if errors:
        raise _explained(errors[0]) from errors[0]
    bar.set_done(bar.total or 0)
    return found


def _work(assignment: Assignment, missing: list[int], counted: Any, batches: Any) -> Any:
    """Do `work` with the partitions at the positions that Spark gives; count their rows."""
    import pyarrow as pa

    for batch in batches:
        numbers = [missing[position] for position in batch.column(0).to_pylist()]
        for report in work(assignment, iter([pa.record_batch([pa.array(numbers)], ["number"])])):
            counted.add(report.column("rows")[0].as_py())
            yield report


def _explained(error: Exception) -> UserError:
    """Return what to tell a user whose job Spark gave up.

    Spark hands on only the text of an error on another machine. A machine without tfdetect fails
    before any function of ours could run there and look.
    """
    text = str(error)
    if "No module named 'tfdetect'" in text:
        return UserError(
            "A machine of the cluster has no tfdetect. Install it on every machine, and name its "
            "Python in the environment variable PYSPARK_PYTHON."
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if "Error: " in line or "Exception: " in line), "")
    return UserError(
        f"Spark gave up the job: {(reason or lines[0] if lines else type(error).__name__)[:400]}. "
        "Finished parts are kept; the same command goes on."
    )
