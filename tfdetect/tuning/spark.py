"""Runs the trials of a search on a Spark cluster with hyperopt's SparkTrials.

The search's directory and the data must be visible to every worker under the same path. Only the
driver changes the search's state; trials leave their runs and results in the directory.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.tuning.budget import Budget
from tfdetect.tuning.resources import thread_limits
from tfdetect.tuning.scheduler import check_progress, proposer
from tfdetect.tuning.search_folder import Search, open_search
from tfdetect.tuning.store import FAILED
from tfdetect.tuning.trial_process import failure_reason

_RECORD_SECONDS = 1.0  # between looks at the results of trials


def run_on_spark(search: Search, budget: Budget, master: str, parallel: int) -> None:
    """Run trials until the budget is exhausted; an interrupted search is continued.

    Trials are not pruned.

    Args:
        search: the search.
        budget: its limits.
        master: of the cluster, such as spark://host:7077.
        parallel: trials at once.

    Raises:
        UserError: Spark is not installed, the cluster does not answer, or all trials failed.
    """
    try:
        from hyperopt import STATUS_NEW, SparkTrials, fmin, hp
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError(
            "--spark needs pyspark. Install it with: pip install 'tfdetect[spark]'"
        ) from error
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers need tfdetect as well
    logging.getLogger("hyperopt-spark").setLevel(logging.ERROR)
    try:
        session = SparkSession.builder.master(master).appName(search.folder.name).getOrCreate()
    except Exception as error:  # py4j raises many kinds
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The Spark cluster at {master} does not answer: {line}") from error
    folder, store = str(search.folder.resolve()), search.store
    propose = proposer(search, budget)

    def suggest_numbers(ids: list[int], domain: Any, trials: Any, seed: int) -> list[dict]:
        """Return numbers of claimed trials to hyperopt, which suggested their points before."""
        documents = []
        for tid in ids:
            claimed = store.claim(propose)
            if claimed is None:
                break
            misc = {"tid": tid, "cmd": domain.cmd, "workdir": None,
                    "idxs": {"number": [tid]}, "vals": {"number": [claimed.number]}}  # fmt: skip
            documents += trials.new_trial_docs([tid], [None], [{"status": STATUS_NEW}], [misc])
        return documents

    threads = int(session.conf.get("spark.task.cpus", "1"))

    def objective(parameters: dict[str, float]) -> dict[str, Any]:
        return run_remote_trial(folder, int(parameters["number"]), threads)

    recorded, finished = set(), threading.Event()
    trials = SparkTrials(parallelism=parallel, spark_session=session)

    def record_results() -> None:
        for document in list(trials._dynamic_trials):
            result = document["result"].get("trial_result")
            if result is not None and result["number"] not in recorded:
                recorded.add(result["number"])
                store.finish(**result)

    def watch() -> None:
        while not finished.wait(_RECORD_SECONDS):
            record_results()
            store.heartbeat()

    store.heartbeat()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        fmin(objective, {"number": hp.quniform("number", 0, 2**31, 1)}, suggest_numbers,
             max_evals=sys.maxsize, trials=trials, rstate=np.random.default_rng(0),
             show_progressbar=False, verbose=False, return_argmin=False)  # fmt: skip
    finally:
        finished.set()
        watcher.join()
        record_results()
        session.stop()
    check_progress(search, store.trials())


def run_remote_trial(folder: str, number: int, threads: int) -> dict[str, Any]:
    """Run a trial in a process of its own on a worker; return hyperopt's result.

    Args:
        folder: of the search.
        number: of the trial.
        threads: that it may use.
    """
    search = open_search(Path(folder))
    log = search.log_path(number)
    command = [sys.executable, "-m", "tfdetect.tuning.trial", folder, str(number), "--remote"]
    with log.open("ab") as output:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=os.environ | thread_limits(threads), check=False,
        ).returncode  # fmt: skip
    if code == 0:
        result = json.loads(search.result_path(number).read_text(encoding="utf-8"))
        loss = search.objective.loss(result["objective"][0])
        return {"status": "ok", "loss": loss, "trial_result": result}
    result = {"number": number, "state": FAILED, "reason": failure_reason(code, log)}
    return {"status": "fail", "trial_result": result}
