"""A finished run that a command changes is the old one or the new one, whole, whatever happens."""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import tfdetect
from tfdetect.core.open_run import open_run
from tfdetect.models.saved_model import run_signature


def digest(folder):
    """The content of every file of a run but its lock."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*")) if p.is_file()
    }  # fmt: skip


def check_whole(path, images):
    """Model, SavedModel, metrics, predictions and report of a run agree."""
    run = open_run(path)
    points = run.results["test"]["operating_points"]
    assert points["verdict"]["threshold"] == pytest.approx(run.threshold)
    table = pq.read_table(path / "predictions" / "test.parquet")
    files = [str(images / name) for name in table["path"].to_pylist()]
    predicted = tfdetect.load(run).predict(files).to_arrow()
    assert np.allclose(predicted["p_fake"], table["p_fake"], atol=1e-5)
    data = [Path(file).read_bytes() for file in files]
    [answer] = run_signature(path / "saved_model", "encoded", [data])
    assert np.allclose(answer["p_fake"], table["p_fake"], atol=1e-5)
    verdicts = [text.decode() for text in answer["verdict"]]
    certain = [
        i for i, inconclusive in enumerate(table["inconclusive"].to_pylist()) if not inconclusive
    ]
    assert [verdicts[i] for i in certain] == [table["verdict"][i].as_py() for i in certain]
    assert f"{run.threshold:.3f}" in (path / "report.html").read_text(encoding="utf-8")
    left = [name for name in os.listdir(path.parent) if name.startswith(".staged")]
    assert not left, left


# The arguments of each command that writes into a run, and those of its function.
COMMANDS = {
    "calibrate": (["--cost", "5"], {"cost": 5}),
    "evaluate": ([], {}),
    "evaluate --from-predictions": ([], {}),
    "evaluate --degrade": (["jpeg:65"], {"degradations": "jpeg:65"}),
    "explain": (["--count", "4"], {"count": 4}),
    "export": ([], {}),
}
FUNCTIONS = {  # others have the command's name
    "evaluate --degrade": "measure_robustness", "evaluate --from-predictions": "remeasure",
}  # fmt: skip


@pytest.fixture
def run_copy(shared_run, tmp_path):
    run, images = shared_run
    folder = tmp_path / "runs" / "small"
    shutil.copytree(run.path, folder)
    return folder, images


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupted_command_leaves_the_run_as_it_was(command, run_copy, monkeypatch):
    """The last thing that a command does is made to fail; before the staged folders, each left
    a run without calibration, without SavedModel or with the figures of two evaluations."""
    folder, images = run_copy
    before = digest(folder)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    broken = {
        "evaluate": "tfdetect.evaluation.run_report.write_text",
        "evaluate --from-predictions": "tfdetect.evaluation.run_report.write_text",
        "evaluate --degrade": "tfdetect.evaluation.robustness_report.write_text",
        "calibrate": "tensorflow.saved_model.save",
        "explain": "tfdetect.explanation.explain_set.write_text",
        "export": "tensorflow.saved_model.save",
    }[command]
    function = getattr(tfdetect, FUNCTIONS.get(command, command.split()[0]))
    with monkeypatch.context() as patched:
        patched.setattr(broken, interrupted)
        with pytest.raises(KeyboardInterrupt):
            function(folder, **COMMANDS[command][1])
    assert digest(folder) == before
    assert sorted(os.listdir(folder.parent)) == ["small"]


@pytest.fixture(scope="module")
def server():
    """Starts commands in processes that have TensorFlow already."""
    sys.path.insert(0, str(Path(__file__).parent / "campaigns"))
    from test_kills import Server

    started = Server()
    yield started
    started.close()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_leaves_the_old_or_the_new_run(command, run_copy, server, tmp_path):
    """At random moments, most of them near the end, where the run is written."""
    folder, images = run_copy
    (tmp_path / "tmp").mkdir()
    name, *flags = command.split()
    argv = [name, str(folder), *flags, *COMMANDS[command][0]]
    seconds = server.run(argv, tmp_path)
    check_whole(folder, images)
    rng = random.Random(0)
    changed = 0
    for number in range(6):
        before = digest(folder)
        child = server.start(argv, tmp_path)
        if server.wait(child, seconds * rng.uniform(0.5, 1.05)) is None:
            os.kill(child, signal.SIGKILL if number % 3 else signal.SIGINT)
            assert server.wait(child, 60) is not None
        changed += digest(folder) != before
        server.run(argv, tmp_path)  # also removes leftovers
        check_whole(folder, images)
    print(json.dumps({"command": command, "kills": 6, "changed": changed}))
