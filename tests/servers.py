"""Servers for tests: the command in a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "saved_models"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CommandServer:
    """`tfdetect serve` in a process of its own.

    Attributes:
        address: of the server, with a slash at its end.
        process: the server's.
        log: file with what it has written to stderr.
    """

    def __init__(self, runs, log, *options):
        port = free_port()
        self.address, self.log = f"http://127.0.0.1:{port}/", log
        command = [sys.executable, "-m", "tfdetect.serve", *map(str, runs), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *options], stdout=subprocess.DEVNULL, stderr=file, env=environment
            )
        end = time.monotonic() + 120
        while not self.ready():
            assert self.process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)

    def ready(self):
        """Return whether it answers."""
        try:
            return httpx.get(f"{self.address}readyz").status_code == 200
        except httpx.TransportError:
            return False

    def memory(self):
        """Return the memory of the server and of its decoding processes, in bytes."""
        parent = psutil.Process(self.process.pid)
        total = 0
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().uss
        return total

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
