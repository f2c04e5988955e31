"""Run the trials of a search on a Spark cluster with the SparkTrials of hyperopt.

Every worker must see the directory of the search and the data under the same path. Only the driver
changes the state of the search; trials write their runs and results into the directory.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.spark.session import starting_spark
from tfdetect.tuning.budget import Budget
from tfdetect.tuning.resources import thread_limits
from tfdetect.tuning.scheduler import check_progress, proposer
from tfdetect.tuning.search_folder import Search, open_search
from tfdetect.tuning.store import FAILED, Outcome, Store
from tfdetect.tuning.trial_process import exit_reason

if TYPE_CHECKING:
    from hyperopt import SparkTrials

_RECORD_SECONDS = 1.0  # between checks for results of trials


def run_on_spark(search: Search, budget: Budget, master: str, parallel: int) -> None:
    """Run trials until the budget is exhausted; an interrupted search is continued.

    Trials are not pruned.

    Args:
        search: the search.
        budget: the limits of the search.
        master: the master of the cluster, such as spark://host:7077.
        parallel: number of trials at once.

    Raises:
        UserError: pyspark or Java is missing, the cluster does not answer, or all trials failed.
    """
    with starting_spark(SparkCluster(master), search.folder.name) as started:
        from hyperopt import SparkTrials, fmin, hp

        session = started()

        logging.getLogger("hyperopt-spark").setLevel(logging.ERROR)
        folder = str(search.folder.resolve())
        threads = int(session.conf.get("spark.task.cpus", "1"))

        def objective(parameters: dict[str, float]) -> dict[str, Any]:
            return run_remote_trial(folder, int(parameters["number"]), threads)

        trials = SparkTrials(parallelism=parallel, spark_session=session)
        with _recording(search.store, trials):
            fmin(objective, {"number": hp.quniform("number", 0, 2**31, 1)},
                 _claimer(search, budget), max_evals=sys.maxsize, trials=trials,
                 rstate=np.random.default_rng(0), show_progressbar=False, verbose=False,
                 return_argmin=False)  # fmt: skip
    check_progress(search, search.store.trials())


def _claimer(search: Search, budget: Budget) -> Callable[..., list[dict]]:
    """Return a suggest function for hyperopt that claims trials of the search.

    The points of hyperopt are only the numbers of the trials. Their hyperparameters are proposed
    when the search claims them.
    """
    from hyperopt import STATUS_NEW

    propose = proposer(search, budget)

    def claim(ids: list[int], domain: Any, trials: "SparkTrials", seed: int) -> list[dict]:
        documents = []
        for tid in ids:
            claimed = search.store.claim(propose)
            if claimed is None:
                break
            misc = {"tid": tid, "cmd": domain.cmd, "workdir": None,
                    "idxs": {"number": [tid]}, "vals": {"number": [claimed.number]}}  # fmt: skip
            documents += trials.new_trial_docs([tid], [None], [{"status": STATUS_NEW}], [misc])
        return documents

    return claim


@contextmanager
def _recording(store: Store, trials: "SparkTrials") -> Iterator[None]:
    """Write the results of trials into the state of the search as soon as they are there."""
    recorded, ended = set(), threading.Event()

    def record_results() -> None:
        for document in list(trials._dynamic_trials):
            outcome = document["result"].get("outcome")
            if outcome is not None and outcome["number"] not in recorded:
                recorded.add(outcome["number"])
                store.finish(Outcome(**outcome))

    def watch() -> None:
        while not ended.wait(_RECORD_SECONDS):
            record_results()
            store.heartbeat()

    store.heartbeat()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        record_results()


def run_remote_trial(folder: str, number: int, threads: int) -> dict[str, Any]:
    """Run a trial in a process of its own on a worker; return its result as hyperopt takes it.

    Args:
        folder: the directory of the search.
        number: the number of the trial.
        threads: the number of threads that the trial may use.
    """
    search = open_search(Path(folder))
    log, path = search.log_path(number), search.result_path(number)
    path.unlink(missing_ok=True)  # Spark may have given the trial to another process before
    command = [sys.executable, "-m", "tfdetect.tuning.trial", folder, str(number), "--remote"]
    with log.open("ab") as output:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=os.environ | thread_limits(threads), check=False,
        ).returncode  # fmt: skip
    if path.is_file():
        outcome = json.loads(path.read_text(encoding="utf-8"))
    else:
        outcome = asdict(search.failure(number, exit_reason(code, log)))
    if outcome["state"] == FAILED:
        return {"status": "fail", "outcome": outcome}
    loss = search.objective.loss(outcome["objective"][0])
    return {"status": "ok", "loss": loss, "outcome": outcome}
