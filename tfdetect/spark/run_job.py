"""Run a job on a cluster, from the process of the command."""

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

_POLL_SECONDS = 0.3  # between updates of the progress bar


def run_job(
    session: Callable[[], "SparkSession"],
    job: Job,
    task: Task,
    roots: Sequence[str],
    description: str,
    unit: str,
    progress: bool,
) -> None:
    """Make the missing parts of a job.

    Args:
        session: returns the Spark session, once Spark has started; not called if no part is
            missing.
        job: the job.
        task: what is done with its items.
        roots: folders that every machine must see.
        description: text of the progress bar.
        unit: what the items are, in the plural, for the progress bar.
        progress: whether to show the progress bar.

    Raises:
        UserError: a part could not be made, or Spark ended the job with an error.
    """
    missing = job.missing()
    if not missing:
        return
    done = job.total - int(job.rows[missing].sum())
    if done and progress:
        console.log(f"{done:,} of {job.total:,} {unit} are finished already, in {job.folder}")
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
            f"{first['host']} reports that {first['problem']}. When this is fixed, run the same "
            "command again: it makes the missing parts."
        )


def _collect(
    spark: "SparkSession", assignment: Assignment, missing: list[int], bar: console.Progress
) -> list[dict[str, Any]]:
    """Let Spark work through partitions; return the row of `executor.REPORT` of each.

    Raises:
        UserError: Spark ended the job with an error.
    """
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
        while not ended.wait(_POLL_SECONDS):
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
    """Work through partitions on a machine, as `executor.work`; count the rows for the progress.

    Args:
        assignment: the job.
        missing: numbers of the partitions without a part.
        counted: an accumulator of Spark, to which the numbers of rows are added.
        batches: batches with positions in `missing`.
    """
    import pyarrow as pa

    for batch in batches:
        numbers = [missing[position] for position in batch.column(0).to_pylist()]
        for report in work(assignment, iter([pa.record_batch([pa.array(numbers)], ["number"])])):
            counted.add(report.column("rows")[0].as_py())
            yield report


def _explained(error: Exception) -> UserError:
    """Return an error with which Spark ended a job as a `UserError`.

    Spark reports an error on another machine as text only. A machine without tfdetect fails before
    `executor.Assignment.check` could report it.
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
        "Spark ended the job with an error: "
        f"{(reason or lines[0] if lines else type(error).__name__)[:400]}. Finished parts "
        "are kept; run the same command again to make the others."
    )
