"""Some 600 malformed documents and flags through the real commands: one message each, exit code 2.

Each case ends with exit code 0 (the value was legal) or 2 and one message, within its time, and
never with a traceback. Run it with

    python -m pytest -n 0 -m slow -s tests/campaigns/test_documents.py
"""

import importlib
import json
import shutil
import signal
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands import call
from conftest import write_images
from odd_documents import EXPERIMENT, ODD, RAW, RUN, SPACE, SPEC, changed, dumped, places

from tfdetect.__main__ import COMMANDS

pytestmark = pytest.mark.slow
SECONDS = 60  # of a case, on a machine with other work
SHIPPED = Path(__file__).parents[2] / "saved_models" / "cifake_small_resnet"


class TooLong(BaseException):
    """A case took longer than `SECONDS`."""


class Report:
    """Runs cases and counts how they end."""

    def __init__(self, capsys):
        self.capsys, self.codes, self.failures = capsys, Counter(), []

    def run(self, name, command, arguments):
        signal.signal(signal.SIGALRM, self._alarm)
        signal.alarm(SECONDS)
        try:
            code, _, err = call(command, arguments, self.capsys)
            problem = None
            if code not in (0, 2) and (command, code) != ("audit", 1):  # 1: unreliable data
                problem = f"exit code {code}"
            elif code == 2 and err.count("error: ") < 1:
                problem = "no message"
            elif "Traceback" in err or "\x1b" in err or len(err) > 40_000:
                problem = f"message: {err[-300:]}"
        except TooLong:
            code, problem = "hang", f"more than {SECONDS} s"
        except BaseException as error:
            code, problem = "traceback", f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        self.codes[str(code)] += 1
        if problem:
            self.failures.append((name, command, problem))

    def _alarm(self, *_):
        raise TooLong

    def end(self, what):
        with self.capsys.disabled():
            print(f"\n{what}: {self.codes.total()} cases, {dict(self.codes)}")
            for failure in self.failures:
                print("  ", *failure)
        assert not self.failures


@pytest.fixture
def pictures(tmp_path):
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / "pictures" / name, 8, fake, 32)
    return tmp_path / "pictures"


def variants(document, kind, step):
    """Yield name and content: every value of a document replaced by some of the odd ones."""
    number = 0
    for path in places(document):
        yield f"{path} removed", dumped(changed(document, path, ...), kind).encode()
        for value in ODD[number % step :: step]:
            number += 1
            try:
                yield (
                    f"{path} = {value!r:.40}",
                    dumped(changed(document, path, value), kind).encode(),
                )
            except (TypeError, ValueError):
                continue
        number += 1
    for content in RAW:
        yield repr(content[:40]), content


def test_specs(tmp_path, pictures, capsys):
    report = Report(capsys)
    file = tmp_path / "odd.yaml"
    for name, content in variants(SPEC, "spec", 9):
        file.write_bytes(content)
        report.run(name, "audit", ["--dataset", file, "--data-dir", pictures, "--quiet"])
    for parts in (["odd.yaml"], [str(file)], [{"dataset": 5}], [["x"]], [str(pictures)] * 2, [""]):
        spec = {"name": "u", "parts": parts, "classes": SPEC["classes"]}
        file.write_text(dumped(spec, "spec"))
        report.run(str(parts), "audit", ["--dataset", file])
    report.end("dataset specs")


def test_experiments(tmp_path, pictures, capsys):
    report = Report(capsys)
    file = tmp_path / "odd.yaml"
    for name, content in variants(EXPERIMENT, "experiment", 16):
        file.write_bytes(content)
        report.run(name, "train", ["--dataset", pictures, "--experiment", file, "--dry-run"])
    report.end("experiments")


def test_runs(tmp_path, pictures, capsys):
    report = Report(capsys)
    run = tmp_path / "run"
    shutil.copytree(SHIPPED, run, ignore=shutil.ignore_patterns("saved_model", "figures", "logs"))
    before = json.loads((run / "run.json").read_text())
    image = next((pictures / "real").iterdir())
    for name, content in variants(RUN | {"views": before["views"]}, "run", 12):
        (run / "run.json").write_bytes(content)
        report.run(name, "predict", [run, image, "--quiet"])
    for change in ({"class_names": ["real", "fake", "third"]}, {"predicts_masks": True}):
        (run / "run.json").write_text(json.dumps(before | change))
        report.run(str(change), "predict", [run, image])
    (run / "run.json").write_text(json.dumps(before))
    for name in ("model.keras", "metrics.json", "experiment.yaml", "history.csv"):
        kept = (run / name).read_bytes()
        for content in (b"", b"x", kept[: len(kept) // 2], b"[" * 3000):
            (run / name).write_bytes(content)
            report.run(f"{name} {content[:9]!r}", "predict", [run, image, "--quiet"])
        (run / name).write_bytes(kept)
    report.end("runs")


def test_damaged_files_of_runs(tmp_path, capsys, shared_run):
    """Commands that read more of a run than its model: one message, and the run is as it was."""
    report = Report(capsys)
    for name in ("run", "other"):
        shutil.copytree(shared_run[0].path, tmp_path / name)
    run, other, out = tmp_path / "run", tmp_path / "other", tmp_path / "out"
    commands = {
        "evaluate": [run, "--output", out, "--no-images"], "calibrate": [run],
        "explain": [run, "--count", "1", "--output", out], "compare": [run, other],
        "ensemble": [run, other, "--output", tmp_path / "both"],
    }  # fmt: skip
    files = ["metrics.json", "history.csv", "domain.npy", "training_images.npy", "skipped.csv",
             "dataset.yaml", "experiment.yaml", "model_card.md", "predictions/test.parquet",
             "predictions/validation.parquet"]  # fmt: skip
    for name in files:
        kept = (run / name).read_bytes()
        for content in (kept[: len(kept) // 2], b'{"test": [1, {"a": "\xe9"}]}'):
            for command, arguments in commands.items():
                (run / name).write_bytes(content)
                report.run(f"{name} {content[:9]!r}", command, arguments)
                shutil.rmtree(tmp_path / "both", ignore_errors=True)
            shutil.rmtree(run)
            shutil.copytree(shared_run[0].path, run)
    report.end("damaged files of runs")


def test_manifests(tmp_path, pictures, capsys):
    report = Report(capsys)
    file = pictures / "list.csv"
    rows = [
        f"{path.parent.name}/{path.name},{path.parent.name}" for path in pictures.glob("*/*.png")
    ]
    table = "\n".join(["path,label", *rows]) + "\n"
    contents = {
        "plain": table.encode(), "UTF-16": table.encode("utf-16"), "BOM": table.encode("utf-8-sig"),
        "UTF-16 without a mark": table.encode("utf-16-le"), "empty": b"", "zeros": b"\0" * 100,
        "no rows": b"path,label\n", "no column": b"a,b\n1,2\n", "short rows": b"path,label\nx\n",
        "quote": b'path,label\n"x,real\n', "twice": (table + rows[0]).encode(),
        "other label": (table + "x.png,third\n").encode(), "no path": (table + ",real\n").encode(),
        "null": (table + "a\0b.png,real\n").encode(), "far": (table + "/etc/x.png,real\n").encode(),
        "cp1252": (table + "caf\u00e9.png,real\n").encode("cp1252"),
        "GBK": (table + "\u4e2d.png,real\n").encode("gbk"), "semicolons": table.replace(
            ",", ";").encode(), "long": (table + "x" * 9000 + ",real\n").encode(),
        "numbers": b"path,label\n1,0\n2,1\n", "column twice": b"path,path,label\na,b,real\n",
    }  # fmt: skip
    for name, content in contents.items():
        file.write_bytes(content)
        report.run(name, "audit", ["--dataset", file, "--quiet"])
    report.run("device", "audit", ["--dataset", "/dev/zero"])
    report.end("manifests")


def test_spaces_and_searches(tmp_path, pictures, capsys):
    report = Report(capsys)
    file = tmp_path / "odd.yaml"
    options = ["--dataset", pictures, "--output", tmp_path, "--dry-run"]
    for name, content in variants(SPACE, "space", 6):
        file.write_bytes(content)
        report.run(name, "search", ["--space", file, *options])
    report.end("search spaces")


def test_flags(tmp_path, pictures, capsys):
    report = Report(capsys)
    values = ["", "x", "-1", "0", "nan", "inf", "1e999", "9" * 30, "\u00b2", "../x", "~nouser/x"]
    for command in (name for name in COMMANDS if name != "models"):
        module = importlib.import_module(f"tfdetect.{command.replace('-', '_')}")
        actions = module.parser()._actions
        positions = ["x" for a in actions if not a.option_strings]
        required = [t for a in actions if a.option_strings and a.required
                    for t in (a.option_strings[-1], tmp_path / "nothing")]  # fmt: skip
        for number, action in enumerate(a for a in actions if a.option_strings and a.nargs != 0):
            flag = action.option_strings[-1]
            for value in islice(values[number % 4 :: 4], 3):
                report.run(f"{flag} {value!r}", command, [*positions, *required, f"{flag}={value}"])
    report.end("flags")
