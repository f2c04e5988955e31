"""Runs a search's trials on a Spark cluster, by hyperopt's own SparkTrials.

The search's folder and the data must lie where every worker sees them under the same path. The
driver alone keeps the search's state; trials leave their runs and outcomes in the folder.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.tuning.scheduler import Budget, next_point, reason_of, refuse_hopeless
from tfdetect.tuning.settings import Search, open_search
from tfdetect.tuning.store import FAILED, Trial


def run_on_spark(search: Search, budget: Budget, master: str, parallel: int) -> None:
    """Runs trials until the budget is spent; goes on where the search was. None stops early.

    Args:
        master: of the cluster, such as spark://host:7077.
        parallel: trials at once.

    Raises:
        UserError: Spark is not installed or the cluster does not answer; all trials failed.
    """
    try:
        from hyperopt import STATUS_NEW, SparkTrials, fmin, hp
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError("--spark needs pyspark: pip install 'tfdetect[spark]'.") from error
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the workers' must have tfdetect too
    logging.getLogger("hyperopt-spark").setLevel(logging.ERROR)
    try:
        session = SparkSession.builder.master(master).appName(search.folder.name).getOrCreate()
    except Exception as error:  # py4j raises many kinds
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"No Spark cluster answers at {master}: {line}") from error
    folder, store = str(search.folder.resolve()), search.store

    def new(trials: list[Trial]) -> tuple | None:
        refuse_hopeless(search, trials)
        return None if budget.spent(search, trials) else next_point(search, trials)

    def suggest_numbers(ids: list[int], domain, trials, seed: int) -> list[dict]:
        """What hyperopt hands out are numbers of our trials, whose points we asked it for."""
        documents = []
        for tid in ids:
            claimed = store.claim(new)
            if claimed is None:
                break
            misc = {"tid": tid, "cmd": domain.cmd, "workdir": None,
                    "idxs": {"number": [tid]}, "vals": {"number": [claimed.number]}}  # fmt: skip
            documents += trials.new_trial_docs([tid], [None], [{"status": STATUS_NEW}], [misc])
        return documents

    threads = int(session.conf.get("spark.task.cpus", "1"))

    def objective(parameters: dict) -> dict:
        return run_remotely(folder, int(parameters["number"]), threads)

    recorded, over = set(), threading.Event()
    trials = SparkTrials(parallelism=parallel, spark_session=session)

    def record() -> None:
        for document in list(trials._dynamic_trials):
            outcome = document["result"].get("outcome")
            if outcome is not None and outcome["number"] not in recorded:
                recorded.add(outcome["number"])
                store.end(**outcome)

    def watch() -> None:
        while not over.wait(1.0):
            record()
            store.beat()

    store.beat()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        fmin(objective, {"number": hp.quniform("number", 0, 2**31, 1)}, suggest_numbers,
             max_evals=sys.maxsize, trials=trials, rstate=np.random.default_rng(0),
             show_progressbar=False, verbose=False, return_argmin=False)  # fmt: skip
    finally:
        over.set()
        watcher.join()
        record()
        session.stop()
    refuse_hopeless(search, store.trials())


def run_remotely(folder: str, number: int, threads: int) -> dict:
    """On a worker: runs a trial in a process of its own; returns hyperopt's result."""
    search = open_search(Path(folder))
    log, file = search.log(number), search.outcome(number)
    environment = {
        **os.environ, "TF_NUM_INTRAOP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
    }  # fmt: skip
    command = [sys.executable, "-m", "tfdetect.tuning.trial", folder, str(number), "--apart"]
    with log.open("ab") as printed:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, env=environment,
            check=False,
        ).returncode  # fmt: skip
    if code == 0:
        outcome = json.loads(file.read_text(encoding="utf-8"))
        loss = search.objective.loss(outcome["objective"][0])
        return {"status": "ok", "loss": loss, "outcome": outcome}
    outcome = {"number": number, "state": FAILED, "reason": reason_of(code, log)}
    return {"status": "fail", "outcome": outcome}
