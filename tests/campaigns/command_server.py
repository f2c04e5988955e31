"""Runs commands in processes of their own that need no time to start, for tests that kill them.

The server has imported TensorFlow and has run nothing of it, so that it may fork. It reads one JSON
document a line, {"argv": [...], "cwd": ..., "log": ..., "environment": {...}}, starts the command,
and answers with its process id; {"wait": id, "seconds": s} is answered with the exit code, negative
for a signal, or null while the process runs.
"""

import json
import os
import signal
import sys
import time

from tfdetect.core.quiet import import_tensorflow

import_tensorflow()

import tfdetect.__main__ as cli
import tfdetect.api  # what commands import on their way
import tfdetect.auditing.audit_report
import tfdetect.evaluation.evaluate_run
import tfdetect.evaluation.run_report
import tfdetect.explanation.explain_set
import tfdetect.explanation.image_page
import tfdetect.fusion.fuse
import tfdetect.models.saved_model
import tfdetect.synthesis.synthesize_dataset
import tfdetect.train_run  # noqa: F401
from tfdetect.core.run_command import run_command


def start(job: dict) -> int:
    """Return the process id of a command; in that process, end with the command."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for file, number in ((null, 0), (log, 1), (log, 2)):
        os.dup2(file, number)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    sys.argv = ["tfdetect", *job["argv"]]
    code = run_command(cli.main, job["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: with TensorFlow, Python takes a second to end


def wait(child: int, seconds: float) -> int | None:
    """Return the exit code of a command, or None if it still runs after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


if __name__ == "__main__":
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        answer = wait(job["wait"], job["seconds"]) if "wait" in job else start(job)
        print(json.dumps(answer), flush=True)
