"""Throughput, latency and memory of the server under 1, 8 and 64 clients.

Each client sends one image, waits for the verdict, and sends the next. A client that is told to
wait (429) does so; its time counts from its first try.

    python benchmarks/serving.py saved_models/cifake_small_resnet IMAGE [--seconds 20]
    python benchmarks/serving.py saved_models/photo_detector photo.jpg --clients 1,8,64 --json
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("run", type=Path)
    p.add_argument("image", type=Path)
    p.add_argument("--clients", default="1,8,64", help="numbers of clients (default: %(default)s)")
    p.add_argument("--seconds", type=float, default=20, help="for each number (default: 20)")
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tfdetect.serve", str(args.run), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait(address)
            data = args.image.read_bytes()
            asyncio.run(load(address, data, 1, 2))  # processes and caches warm up
            rows = []
            for clients in map(int, args.clients.split(",")):
                row = asyncio.run(load(address, data, clients, args.seconds))
                rows.append({"clients": clients, **row, "memory_mib": memory(server.pid)})
                if not args.json:
                    print(" | ".join(f"{key} {value}" for key, value in rows[-1].items()))
        finally:
            server.terminate()
    if args.json:
        print(json.dumps(rows, indent=2))


def wait(address: str) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > end:
            sys.exit("The server does not answer.")
        time.sleep(0.1)


async def load(address: str, data: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Return images a second, percentiles of the latency in milliseconds, and waits (429)."""
    latencies: list[float] = []
    refused = 0
    started = time.perf_counter()
    end = started + seconds
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def work(session: httpx.AsyncClient) -> None:
        nonlocal refused
        while time.perf_counter() < end:
            begun = time.perf_counter()
            while True:
                answer = await session.post(f"{address}/v1/predict", files={"files": data})
                if answer.status_code != 429:
                    break
                refused += 1
                await asyncio.sleep(float(answer.headers["retry-after"]))
            assert answer.json()["predictions"][0]["error"] is None
            latencies.append(time.perf_counter() - begun)

    async with httpx.AsyncClient(limits=limits, timeout=120) as session:
        await asyncio.gather(*(work(session) for _ in range(clients)))
    elapsed = time.perf_counter() - started
    p50, p99 = (round(1000 * float(np.percentile(latencies, q)), 1) for q in (50, 99))
    return {"images_per_second": round(len(latencies) / elapsed, 1), "p50_ms": p50, "p99_ms": p99,
            "told_to_wait": refused}  # fmt: skip


def memory(pid: int) -> int:
    """Return the memory of a process and of its children in MiB."""
    parent = psutil.Process(pid)
    used = [each.memory_full_info().uss for each in (parent, *parent.children(recursive=True))]
    return round(sum(used) / 2**20)


if __name__ == "__main__":
    main()
