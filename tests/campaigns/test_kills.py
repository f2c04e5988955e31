"""Kills commands at random moments: what was finished before is the old or the new one, whole.

    python tests/campaigns/test_kills.py WORK_FOLDER KILLS SEED [COMMAND ...]

prints one JSON line for each kill, and a summary. After each kill by SIGKILL, SIGTERM or SIGINT:

- what the command writes is as it was before, or has all files of a finished one, each whole;
- no process of the command is left;
- its temporary directory is empty, after SIGKILL when the next command has started;
- after SIGTERM and SIGINT nothing half-written is left beside it, and no traceback was printed;
- trainings, searches, prepared and synthesized sets that go on give the result of one left alone.
"""

import csv
import hashlib
import importlib.util
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from hub_server import HubServer
from test_faces import moving_face, write_video

from tfdetect.data.locate import cache_dir
from tfdetect.serving.npm import archives

SMALL = [
    "data.image_size=24",
    "model.options={widths: [8], blocks: [1], strides: [2], stem: 8}",
    "training.batch_size=12", "training.epochs=2", "training.checkpoint_minutes=0",
    "training.optimizer.learning_rate=0.01", "model.dropout=0", "data.augment=[{name: flip}]",
    "training.export=[saved_model]",
]  # fmt: skip
SETTINGS = [part for text in SMALL for part in ("--set", text)]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
AGAIN = 0.25  # of the kills of commands that do not resume are followed by the whole command
UNTIL_GONE = 10.0  # seconds that worker processes may take to end
HUB = "hub"  # below the work folder: what a hub's branch contains after a command


@dataclass(frozen=True)
class Case:
    """A command to kill.

    Attributes:
        argv: the command line; {work} is the folder that each kill starts from a copy of.
        result: the file or folder that the command makes or changes, below the work folder.
        resumes: whether the same command continues; its result is then compared.
        again: the command line that continues, if it is another one.
        beside: what may exist beside the result while it is unfinished.
        weight: how often it is killed, among the others.
    """

    argv: list[str]
    result: str
    resumes: bool = False
    again: list[str] | None = None
    beside: tuple[str, ...] = ()
    weight: int = 2
    same: Callable[[Path], Any] | None = field(default=None, repr=False)


def weights_of(run: Path) -> str:
    """A digest of the weights of a run: the file itself contains times."""
    with zipfile.ZipFile(run / "model.keras") as archive:
        import h5py

        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            digest = hashlib.sha256()
            names: list[str] = []
            file.visit(names.append)
            for name in sorted(names):
                if isinstance(file[name], h5py.Dataset):
                    digest.update(name.encode() + np.asarray(file[name]).tobytes())
    return digest.hexdigest()


def pictures_of(folder: Path) -> dict[str, str]:
    return {
        name: text
        for name, text in digests(folder).items()
        if name.endswith((".webp", ".png", ".csv"))
    }


def shards_of(folder: Path) -> dict[str, str]:
    return {name: text for name, text in digests(folder).items() if "tfrecord" in name}


def trials_of(folder: Path) -> list[list[str]]:
    """The trials of a search: their numbers, states, objectives and values, without times."""
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    return [[v for k, v in row.items() if k not in ("seconds", "reason")] for row in rows]


CASES = {
    "train": Case(
        ["train", "--dataset", "{work}/pictures", "--name", "new", "--output", "{work}/runs",
         *SETTINGS], "runs/new", True, ["train", "--resume", "{work}/runs/new"],
        ("new.partial",), 2, weights_of,
    ),
    "evaluate": Case(["evaluate", "{work}/runs/small"], "runs/small", weight=3),
    "evaluate others": Case(
        ["evaluate", "{work}/runs/small", "--dataset", "{work}/others"],
        "runs/small/evaluations/others",
    ),
    "evaluate into": Case(
        ["evaluate", "{work}/runs/small", "--output", "{work}/out/evaluation"], "out/evaluation"
    ),
    "degrade": Case(
        ["evaluate", "{work}/runs/small", "--degrade", "jpeg:65", "--output",
         "{work}/out/degraded"],
        "out/degraded",
    ),
    "calibrate": Case(
        ["calibrate", "{work}/runs/small", "--prior", "0.2"], "runs/small", weight=3
    ),
    "export": Case(["export", "{work}/runs/small"], "runs/small", weight=3),
    "export onnx": Case(["export", "{work}/runs/small", "--format", "onnx"], "runs/small"),
    "push": Case(["push", "{work}/runs/light", "hf://user/small", "--license", "mit"], HUB),
    "explain": Case(
        ["explain", "{work}/runs/small", "--count", "4", "--output", "{work}/out/explained"],
        "out/explained",
    ),
    "explain the run": Case(["explain", "{work}/runs/small", "--count", "4"], "runs/small"),
    "evaluate again": Case(
        ["evaluate", "{work}/runs/small", "--from-predictions"], "runs/small"
    ),
    "ensemble": Case(
        ["ensemble", "{work}/runs/small", "{work}/runs/other", "--output", "{work}/runs", "--name",
         "both"], "runs/both",
    ),
    "predict": Case(
        ["predict", "{work}/runs/small", "{work}/pictures", "--output", "{work}/out/verdicts.csv"],
        "out/verdicts.csv", weight=3,
    ),
    "pages": Case(
        ["predict", "{work}/runs/small", "{work}/three", "--explain", "{work}/out/pages"],
        "out/pages",
    ),
    "audit": Case(
        ["audit", "--dataset", "{work}/pictures", "--output", "{work}/out/audit"], "out/audit"
    ),
    "fix": Case(
        ["audit", "--dataset", "{work}/pictures", "--output", "{work}/out/audit", "--fix",
         "{work}/fixed", "--fixes", "formats"], "fixed", weight=4,
    ),
    "synthesize": Case(
        ["synthesize", "--source", "{work}/photographs", "--output", "{work}/forged", "--fill",
         "telea,copy_move", "--masks", "blob"], "forged", True, same=pictures_of, weight=4,
    ),
    "extract-faces": Case(
        ["extract-faces", "{work}/videos", "--output", "{work}/faces", "--every", "3"], "faces",
        True, same=pictures_of,
    ),
    "prepare": Case(
        ["prepare", "--dataset", "{work}/pictures", "--output", "{work}/prepared", "--shard-size",
         "0.02"], "prepared/pictures/1.0.0", True, beside=(".1.0.0.partial",), same=shards_of,
        weight=4,
    ),
    "show-augment": Case(
        ["show-augment", "--dataset", "{work}/pictures", "--images", "2", "--variants", "2",
         "--output", "{work}/out/augment.png", *SETTINGS[:-2]], "out/augment.png", weight=1,
    ),
    "demo": Case(
        ["train", "--dataset", "demo", "--dry-run"], "cache/datasets/demo", weight=1
    ),
    "search": Case(
        ["search", "--space", "{work}/space.yaml", "--dataset", "{work}/pictures",
         "--max-trials", "2", "--output", "{work}/runs", "--name", "found", *SETTINGS],
        "runs/found", True,
        same=trials_of, weight=1,
    ),
    "matrix": Case(
        ["matrix", "--dataset", "{work}/kinds", "--by", "(one|two)/", "--output", "{work}/runs",
         "--name", "matrix",
         *SETTINGS], "runs/matrix", weight=1,
    ),
}  # fmt: skip


if importlib.util.find_spec("torch"):  # which writes the weights
    CASES["convert"] = Case(
        ["convert", "{work}/npr.pth", "--model", "npr", "--output", "{work}/runs", "--name",
         "converted"], "runs/converted",
    )  # fmt: skip
if shutil.which("npm"):  # which fetches what the page contains, once
    CASES["export web"] = Case(
        ["export", "{work}/runs/light", "--format", "web", "--output", "{work}/out/web",
         "--npm-packages", str(cache_dir() / "npm")], "out/web",
    )  # fmt: skip


def digests(path: Path) -> dict[str, str]:
    """The content of every file, without logs, which grow, and locks."""
    if path.is_file():
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file() and "logs" not in p.relative_to(path).parts and p.suffix != ".log"
    }


def check_file(path: Path) -> None:
    """Raise where a file is cut off."""
    kind = path.suffix
    if kind in (".png", ".webp", ".jpg"):
        with Image.open(path) as image:
            image.load()
    elif kind == ".json":
        json.loads(path.read_text())
    elif kind == ".yaml":
        yaml.safe_load(path.read_text())
    elif kind == ".parquet":
        pq.read_table(path)
    elif kind == ".html":
        assert path.read_text().rstrip().endswith("</html>"), path
    elif kind == ".keras":
        assert zipfile.ZipFile(path).testzip() is None, path
    elif kind == ".csv":
        rows = list(csv.reader(path.read_text().splitlines()))
        assert len({len(row) for row in rows}) <= 1, path
    elif kind == ".pb":
        assert path.stat().st_size, path


def check_run(run: Path) -> None:
    """The documents of a run are of one and the same evaluation."""
    info = json.loads((run / "run.json").read_text())
    results = json.loads((run / "metrics.json").read_text())
    found = results["test"]["operating_points"]["verdict"]["threshold"]
    assert abs(found - info["threshold"]) < 1e-6, (found, info["threshold"])
    assert f"{info['threshold']:.3f}" in (run / "report.html").read_text()


class Server:
    """Starts commands; see command_server.py.

    Attributes:
        hub: a stand-in of Hugging Face's hub, for all of them.
    """

    def __init__(self) -> None:
        self.hub = HubServer("hf_token")
        environment = {
            **os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "1",
            "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "command_server.py")], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def _ask(self, document: dict) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(self, argv: list[str], work: Path, log: Path | None = None) -> int:
        environment = {
            "TMPDIR": str(work / "tmp"), "TFDETECT_CACHE": str(work / "cache"),
            "HF_ENDPOINT": self.hub.url, "HF_TOKEN": self.hub.token, "HF_HOME": str(work / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        argv = [part.replace("{work}", str(work)) for part in argv]
        return self._ask({"argv": argv, "cwd": str(work), "log": str(log or work / "log"),
                          "environment": environment})  # fmt: skip

    def wait(self, child: int, seconds: float = 900) -> int | None:
        return self._ask({"wait": child, "seconds": seconds})

    def run(self, argv: list[str], work: Path) -> float:
        """Run a command to its end; return the seconds that it took."""
        begin = time.monotonic()
        code = self.wait(self.start(argv, work))
        # An audit may say that data are unreliable.
        assert code == 0 or (argv[0] == "audit" and code == 1), (argv, code, log_of(work))
        return time.monotonic() - begin

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self.hub.close()


def log_of(work: Path) -> str:
    return (work / "log").read_text(errors="replace")


def leftovers(work: Path) -> list[str]:
    return [str(p.relative_to(work)) for p in work.rglob(".staged-*")]


def session_of(child: int) -> list[int]:
    """The living processes that a command started, and itself."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == child and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def processes_left(child: int) -> list[str]:
    """The command lines of the processes of a command that do not end, after some seconds."""
    end = time.monotonic() + UNTIL_GONE
    while (left := session_of(child)) and time.monotonic() < end:
        time.sleep(0.05)
    return [" ".join(psutil.Process(pid).cmdline()) for pid in left]


def build(base: Path, server: Server) -> None:
    """Make the inputs of all commands, and two runs."""
    for name in ("tmp", "out", "runs", "cache"):
        (base / name).mkdir(parents=True)
    for split, count in (("train", 40), ("test", 12)):
        for name, fake in (("real", 0), ("fake", 1)):
            pictures(base / "pictures" / split / name, count, fake, len(split))
            pictures(base / "others" / split / name, count // 4, fake, 90 + len(split))
            if fake:
                for kind in ("one", "two"):
                    pictures(base / "kinds" / split / name / kind, count // 2, fake, len(kind))
            else:
                pictures(base / "kinds" / split / name, count, fake, 70 + len(split))
    pictures(base / "three", 3, 1, 5)
    pictures(base / "photographs", 20, 0, 6, side=64)
    videos = base / "videos" / "original_sequences" / "youtube" / "c23" / "videos"
    for number in range(3):
        write_video(videos / f"{number:03d}.mp4", moving_face(9, start=5 * number)[0])
    if "convert" in CASES:
        import torch
        from test_convert import random_state

        torch.save(random_state("npr"), base / "npr.pth")
    (base / "space.yaml").write_text(yaml.safe_dump({
        "name": "tiny",
        "parameters": {"training.optimizer.learning_rate": {"log_uniform": [0.001, 0.02]}},
    }))  # fmt: skip
    for name, seed in (("small", 0), ("other", 1)):
        argv = list(CASES["train"].argv)
        argv[argv.index("new")] = name
        server.run([*argv, "--set", f"seed={seed}"], base)
    shutil.copytree(base / "runs" / "small", base / "runs" / "light")
    server.run(["export", "{work}/runs/light", "--format", "onnx"], base)
    if "export web" in CASES:
        archives(None)


def pictures(folder: Path, count: int, fake: int, seed: int, side: int = 24) -> None:
    """Smooth noise for real, the same with a checkerboard for fake."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, fake])
    checker = (np.indices((side, side)).sum(0) % 2 * 2 - 1)[..., None] * 12
    for number in range(count):
        coarse = Image.fromarray(rng.integers(40, 215, (4, 4, 3), np.uint8))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        image = Image.fromarray(np.clip(pixels + fake * checker, 0, 255).astype(np.uint8))
        image.save(folder / f"{number:03d}.png")


class Campaign:
    """Kills commands in copies of one folder."""

    def __init__(self, root: Path, seed: int):
        self.root, self.rng, self.server = root, random.Random(seed), Server()
        self.base = root / "base"
        if not self.base.is_dir():
            build(self.base, self.server)
        self.references: dict[str, tuple[float, set[str], Any]] = {}

    def reference(self, name: str) -> tuple[float, set[str], Any]:
        """Seconds, file names and content of a command that was left alone."""
        if name not in self.references:
            case, work = CASES[name], self.copy("whole")
            seconds = self.server.run(case.argv, work)
            result = self.result_of(case, work)
            names = set(digests(result))
            content = case.same(result) if case.same else None
            assert not os.listdir(work / "tmp"), os.listdir(work / "tmp")
            assert not leftovers(work), leftovers(work)
            self.references[name] = seconds, names, content
        return self.references[name]

    def copy(self, name: str) -> Path:
        work = self.root / name
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.base, work)
        self.server.hub.repositories.clear()
        self.server.hub.branches.clear()
        return work

    def result_of(self, case: Case, work: Path) -> Path:
        """The path of a command's result; what a hub contains is written to it first."""
        result = work / case.result
        if case.result == HUB:
            shutil.rmtree(result, ignore_errors=True)
            for (repository, _), commit in self.server.hub.branches.items():
                for name, data in self.server.hub.repositories[repository][commit].items():
                    path = result / repository / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
        return result

    def kill(self, name: str, number: int) -> dict[str, Any]:
        """Kill a command once and check everything; return what happened."""
        case = CASES[name]
        seconds, names, content = self.reference(name)
        work = self.copy("killed")
        result = work / case.result
        if number % 3 == 0 and not case.resumes and not result.exists():
            self.server.run(case.argv, work)  # there is an old one to lose
            if name == "fix":
                shutil.rmtree(result)  # it must be new
            self.result_of(case, work)
        before = digests(result)
        # Half of the kills aim at the end, where most is written.
        moment = seconds * self.rng.uniform(0.7 if number % 2 else 0.0, 1.05)
        how = self.rng.choice(SIGNALS)
        child = self.server.start(case.argv, work)
        code = self.server.wait(child, moment)
        ended = code is not None
        if code is None:
            os.kill(child, how)
            begin = time.monotonic()
            code = self.server.wait(child, 120)
            took = round(time.monotonic() - begin, 2)
        else:
            took = 0.0
        found = {"command": name, "signal": how.name, "at": round(moment / seconds, 2),
                 "code": code, "ended_before": ended, "seconds_to_end": took}  # fmt: skip
        assert code is not None, found
        assert not (left := processes_left(child)), (found, left)
        self.result_of(case, work)
        polite = how != signal.SIGKILL or ended
        if polite:
            assert "Traceback" not in log_of(work), (found, log_of(work))
            assert not os.listdir(work / "tmp"), (found, os.listdir(work / "tmp"))
            assert not leftovers(work), (found, leftovers(work))
            if not ended:  # -how: before the command began, or after it was done
                assert code in (0, 1, 128 + how, -how), (found, log_of(work))
        found["result"] = self.check(name, result, before, names, found)
        self.go_on(case, work, content, found)
        return found

    def check(self, name: str, result: Path, before: dict, names: set[str], found: dict) -> str:
        """The result is the old one, or none, or a whole new one."""
        case, after = CASES[name], digests(result)
        if after == before:
            return "old" if before else "none"
        for path in [result] if result.is_file() else result.rglob("*"):
            unfinished = path.parent.name.endswith(".partial") or path.name.startswith(".staged-")
            if path.is_file() and not unfinished:
                check_file(path)
        if name in ("search", "synthesize", "matrix", "pages", "extract-faces"):
            return "begun" if set(after) != names else "new"  # these grow, file by file
        if name == "convert":
            assert json.loads((result / "run.json").read_text())["status"] == "converted"
        elif case.result.startswith("runs/") and "evaluations" not in case.result:
            check_run(result)
        interrupted = name == "train" and found["signal"] == "SIGINT"
        assert set(after) == names or interrupted, (found, set(after) ^ names)
        return "new"

    def go_on(self, case: Case, work: Path, content: Any, found: dict) -> None:
        """The next command tidies up; one that resumes has the result of one left alone."""
        if case.resumes:
            begun = (work / "runs/new.partial").exists() or (work / "runs/new/state").exists()
            argv = case.again if case.again and begun else case.argv
            if not (case.again and (work / case.result).exists() and not begun):
                self.server.run(argv, work)
            assert case.same is not None
            assert case.same(work / case.result) == content, found
        elif self.rng.random() < AGAIN:
            new = "fixed", "runs/both", "runs/converted"
            if (work / case.result).exists() and case.result in new:
                shutil.rmtree(work / case.result)  # it must be new
            self.server.run(case.argv, work)
        else:  # any command, here one with a mistake
            assert self.server.wait(self.server.start(["audit"], work)) == 2
            assert not os.listdir(work / "tmp"), (found, os.listdir(work / "tmp"))
            return
        assert not os.listdir(work / "tmp"), (found, os.listdir(work / "tmp"))
        assert not leftovers(work), (found, leftovers(work))

    def run(self, kills: int, names: list[str]) -> Counter:
        """Kill random commands; print what happened."""
        counts: Counter = Counter()
        weights = [CASES[name].weight for name in names]
        # Each command at least once, then by weight.
        chosen = names[:kills]
        chosen += self.rng.choices(names, weights, k=max(0, kills - len(names)))
        for number, name in enumerate(chosen):
            try:
                found = self.kill(name, number)
            except AssertionError as error:
                found = {"command": name, "failed": str(error)[:4000]}
            counts["failed" if "failed" in found else found["result"]] += 1
            print(json.dumps({"kill": number, **found}), flush=True)
        self.server.close()
        return counts


@pytest.mark.slow
def test_a_killed_command_leaves_the_old_or_the_new(tmp_path):
    counts = Campaign(tmp_path, seed=0).run(len(CASES), list(CASES))
    assert not counts["failed"], counts


if __name__ == "__main__":
    chosen = sys.argv[4:] or list(CASES)
    print(json.dumps(Campaign(Path(sys.argv[1]), int(sys.argv[3])).run(int(sys.argv[2]), chosen)))
