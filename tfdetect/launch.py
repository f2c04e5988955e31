"""`tfdetect launch`: start several workers of one training on this machine."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

from tfdetect.core import cli, console
from tfdetect.core.cluster import Cluster
from tfdetect.core.errors import UserError
from tfdetect.core.run_command import EXIT_ERROR, run_command
from tfdetect.train import parser as train_parser

GRACE_SECONDS = 30  # that the other workers have to end by themselves when one has failed


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="tfdetect launch",
        usage="%(prog)s [--workers N] [--gpus LISTS] -- train ...",
        description="Start one training as several worker processes on this machine, and show "
        "one log. Each worker takes its part of every batch; the weights are those of a training "
        "in one process. If one worker ends with an error, all end. After Ctrl-C or an error, the "
        "same command with --resume at its end continues.",
        examples=[
            ("tfdetect launch --workers 2 -- train --dataset path/to/folder",
             "two workers that share the processor"),
            ("tfdetect launch --workers 2 --gpus '0;1' -- train --dataset path/to/folder",
             "two workers with one GPU each"),
        ],
    )  # fmt: skip
    p.add_argument("--workers", type=cli.count, default=2, metavar="N",
                   help="number of workers (default: %(default)s)")  # fmt: skip
    p.add_argument("--gpus", metavar="LISTS", help="the GPUs of each worker, workers separated by "
                   "semicolons, for example '0,1;2,3' (default: every worker uses all "
                   "GPUs)")  # fmt: skip
    p.add_argument("command", nargs=argparse.REMAINDER, metavar="-- train ...",
                   help="the training: the command that would start it alone, without "
                   "'tfdetect'")  # fmt: skip
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if command[:1] != ["train"]:
        raise UserError(
            "launch starts trainings: tfdetect launch --workers 2 -- train --dataset ... "
            f"Received: {' '.join(command) or 'no command'}."
        )
    train_parser().parse_args(command[1:])  # a mistake is told once, before anything starts
    gpus = args.gpus.split(";") if args.gpus else [None] * args.workers
    if len(gpus) != args.workers:
        raise UserError(
            f"--gpus names the GPUs of {len(gpus)} workers, but --workers is {args.workers}."
        )
    addresses = tuple(f"127.0.0.1:{port}" for port in _free_ports(args.workers))
    workers = []
    try:
        for task, devices in enumerate(gpus):
            own = [*command[1:], *(["--gpus", devices] if devices is not None else [])]
            workers.append(_Worker(Cluster(addresses, task), own))
        return _wait(workers)
    finally:
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:
            worker.end()


class _Worker:
    """One process of the training, whose output is printed line by line with its number."""

    def __init__(self, cluster: Cluster, arguments: list[str]) -> None:
        self.task = cluster.task
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if len(cluster) > 1:
            environment["TF_CONFIG"] = cluster.tf_config()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfdetect.train", *arguments], env=environment,
            stdout=None if cluster.is_chief else subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        streams = (self.process.stdout, self.process.stderr)
        self._readers = [
            threading.Thread(target=self._show, args=(stream,), daemon=True)
            for stream in streams if stream is not None
        ]  # fmt: skip
        for reader in self._readers:
            reader.start()

    def _show(self, stream: IO[str]) -> None:
        for line in stream:
            console.log(f"[worker {self.task}] {line.rstrip()}")

    def ask_to_end(self) -> None:
        """Tell the process to end, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Wait for the process, which was asked to end, and kill it if it does not."""
        if self.process.poll() is None:
            try:
                self.process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for reader in self._readers:
            reader.join(5)


def _wait(workers: list[_Worker]) -> int:
    """Wait until all workers have ended, or one has failed; return the exit code."""
    failed_at = None
    while True:
        codes = [worker.process.poll() for worker in workers]
        if all(code is not None for code in codes):
            break
        if any(codes) and failed_at is None:
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
            break
        time.sleep(0.1)
    failed = [(worker.task, code) for worker, code in zip(workers, codes) if code]
    for task, code in failed:
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        console.error(f"worker {task} ended with {ending}")
    return EXIT_ERROR if failed else 0


def _free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    sys.exit(run_command(main))
