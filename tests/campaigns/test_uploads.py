"""Ten thousand malformed uploads: the server answers each, keeps running and keeps its memory.

python -m pytest -n 0 -m slow -s tests/campaigns/test_uploads.py
"""

import base64
import json
import os
import random
import socket
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from decode_mutants import mutant
from servers import SHIPPED, CommandServer

pytestmark = pytest.mark.slow
UPLOADS = int(os.environ.get("TFDETECT_UPLOADS", "10000"))
CLIENTS = 4
MAX_GROWTH = 60 * 2**20  # bytes that the server may grow by after the first tenth of the uploads


def upload(client, address, number):
    """Send one malformed request or file; return what came back in a word."""
    rng = random.Random(number)
    _, _, data = mutant(number)
    kind = rng.choice(["file"] * 12 + ["json", "form", "body", "cut", "bytes", "headers"])
    url = f"{address}v1/{rng.choice(['predict'] * 9 + ['evidence'])}"
    if kind == "file":
        name = bytes(rng.randrange(256) for _ in range(8)).decode("latin1")
        answer = client.post(url, files=[("files", (name, data, "image/jpeg"))])
    elif kind == "json":
        text = bytearray(
            json.dumps({"images": [{"data": base64.b64encode(data[:3_000]).decode()}]}).encode()
        )
        for _ in range(rng.randint(0, 3)):
            text[rng.randrange(len(text))] = rng.randrange(256)
        answer = client.post(url, content=bytes(text), headers={"content-type": "application/json"})
    elif kind == "form":
        boundary = rng.choice(["x", "", "-" * 70, "é".encode().decode("latin1")])
        body = f"--{boundary}\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\n"
        content = body.encode("latin1") + data[: rng.randrange(2_000)]
        kind_ = f"multipart/form-data; boundary={boundary}".encode("latin1")
        answer = client.post(url, content=content, headers={"content-type": kind_})
    elif kind == "body":
        types = ["image/png", "application/json", "multipart/form-data", "text/plain", ""]
        answer = client.post(url, content=data, headers={"content-type": rng.choice(types)})
    else:
        return _raw(urlsplit(address), kind, data, rng)
    if answer.status_code == 200:
        rows = answer.json().get("predictions") or answer.json()["evidence"]
        return "refused" if rows[0]["error"] else "answered"
    return str(answer.status_code)


def _raw(address, kind, data, rng):
    """Write bytes that are no request, or leave in the middle of one."""
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        if kind == "bytes":
            connection.sendall(data[:2_000])
            connection.shutdown(socket.SHUT_WR)
        elif kind == "cut":
            head = (
                f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data) + 9}\r\n\r\n"
            )
            connection.sendall(head.encode() + data)
        else:
            line = "X-Long: " + "a" * rng.choice([10, 70_000]) + "\r\n"
            connection.sendall(f"POST /v1/predict HTTP/1.1\r\nHost: a\r\n{line}\r\n".encode())
            connection.shutdown(socket.SHUT_WR)
        if kind != "cut":
            connection.recv(1_000)
    return kind


def test_malformed_uploads_are_answered_and_memory_stays(tmp_path):
    counts, sizes = Counter(), []
    run = SHIPPED / "cifake_small_resnet"
    with CommandServer(
        [run], tmp_path / "log", "--max-pixels", "1000000", "--timeout", "20"
    ) as server:
        with httpx.Client(timeout=120) as client, ThreadPoolExecutor(CLIENTS) as pool:
            for part in range(10):
                numbers = range(part * UPLOADS // 10, (part + 1) * UPLOADS // 10)
                counts.update(pool.map(lambda n: upload(client, server.address, n), numbers))
                assert server.ready() and server.process.poll() is None
                sizes.append(server.memory())
        log = server.log.read_text()
    print(f"\n{UPLOADS:,} uploads: {dict(counts)}; MiB {[round(s / 2**20) for s in sizes]}")
    assert sum(counts.values()) == UPLOADS
    assert "Traceback" not in log, log[log.index("Traceback") :][:3_000]
    assert not [status for status in counts if status.startswith("5")]
    assert max(sizes[1:]) - sizes[0] < MAX_GROWTH
