"""Files read in several processes: from any script, whatever a file does to its process."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa

from tfdetect.data import parallel

SCHEMA = pa.schema([("name", pa.string()), ("error", pa.string())])


def read(deadly, path):
    if path in deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return path, None


def test_a_file_that_kills_its_process_costs_itself_alone(monkeypatch, capsys):
    monkeypatch.setattr(parallel, "_MIN_FILES", 10)
    files = [f"{number}.png" for number in range(40)]
    deadly = {"3.png", "38.png"}
    table = parallel.read_all(
        partial(read, deadly), files, SCHEMA, "reading", False, lambda path: (path, "killed")
    )
    assert table["name"].to_pylist() == files
    errors = table["error"].to_pylist()
    assert {name for name, error in zip(files, errors) if error == "killed"} == deadly
    assert "38.png ended the process" in capsys.readouterr().err


SCRIPT = """
import sys
from tfdetect.data.plan import find_data, make_plan
found = find_data(make_plan(sys.argv[1]))
print("images", found.table.num_rows)
"""


def test_a_script_without_a_main_guard_reads_a_large_folder(tmp_path, monkeypatch):
    from PIL import Image

    for number in range(520):  # enough for several processes
        path = tmp_path / "data" / ("real" if number % 2 else "fake") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, number // 2 % 256, 7)).save(path)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(parallel.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data")], capture_output=True, text=True,
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "images 520" and done.stdout.count("images 520") == 1


WAITS = """
import os, time
from tfdetect.core.process_pool import process_pool
with process_pool(2) as pool:
    print(*[pool.submit(os.getpid).result() for _ in range(4)], flush=True)
    time.sleep(60)
"""


def test_workers_end_with_their_parent(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True)
    workers = {int(number) for number in child.stdout.readline().split()}
    assert workers and child.pid not in workers
    child.kill()
    child.wait()
    child.stdout.close()
    end = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in workers)
