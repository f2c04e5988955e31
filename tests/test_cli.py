"""The commands as a user types them: help, mistakes, speed, the demo."""

import errno
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa
import pytest
from commands import call
from conftest import write_images

from tfdetect.__main__ import COMMANDS, main
from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.core.run_command import explanation_of, run_command
from tfdetect.core.spec import PREPARED
from tfdetect.data import demo
from tfdetect.data.locate import common_data_dir, find_roots, locate, present_roots
from tfdetect.data.parallel import write_cache


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, check=False,
        cwd=cwd, env={**os.environ, **environment},
    )  # fmt: skip


def test_help_and_mistakes_need_no_tensorflow():
    """Asks every command for its help, and misspells a flag of it, in one process."""
    script = """
import contextlib, io, sys
from tfdetect.__main__ import COMMANDS, main
for command in COMMANDS:
    for flag, wanted in (("--help", 0), ("--halp", 2)):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                code = main([command, flag])
            except SystemExit as end:
                code = end.code
        assert code == wanted, (command, flag, code)
assert not {"tensorflow", "keras", "rich", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flag, lacking", [
    ("--json", {"serve", "launch"}),  # they end only when they are stopped, or print of others
    ("--quiet", {"serve", "launch", "export", "push", "models", "convert", "compare"}),
])  # fmt: skip
def test_all_commands_have_the_common_flags(flag, lacking):
    """A result can be printed as JSON; where progress is shown, it can be silenced."""
    found = set()
    for command in COMMANDS:
        module = command.replace("-", "_") + (".__main__" if command == "models" else "")
        parser = importlib.import_module(f"tfdetect.{module}").parser()
        found |= {command for action in parser._actions if flag in action.option_strings}
    assert set(COMMANDS) - found == lacking


@pytest.mark.parametrize("command", COMMANDS)
def test_help_stands_alone(command, capsys, monkeypatch):
    """Every help has examples that parse, names defaults, and refers to no other help."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "examples:" in text and f"tfdetect {command}" in text.partition("examples:")[2]
    assert not re.search(r"as for \w+|see \w+\s+--", text)
    module = command.replace("-", "_") + (".__main__" if command == "models" else "")
    parser = importlib.import_module(f"tfdetect.{module}").parser()
    for action in parser._actions:
        assert action.help, f"{action.dest} has no help"
        takes_value = action.option_strings and action.nargs != 0 and action.default not in (
            None, [], False
        )  # fmt: skip
        assert not takes_value or "default" in action.help, f"{action.dest} names no default"
    examples = [line for line in parser.epilog.splitlines() if line.startswith("  tfdetect ")]
    assert examples
    for example in examples:
        _, name, *arguments = shlex.split(example)
        if name == command:
            parser.parse_args(arguments)


def test_help_is_fast():
    def seconds():  # of a processor, which other processes disturb less than a clock
        def used():
            times = os.times()
            return times.children_user + times.children_system

        start = used()
        assert run("tfdetect.train", "--help").returncode == 0
        return used() - start

    assert any(seconds() < 0.5 for _ in range(3))


MISTAKES = {
    "unknown dataset": (["--dataset", "cifak"], "Did you mean 'cifake'"),
    "nothing to do": ([], "--dataset=demo"),
    "unknown experiment": (["--experiment", "dmo"], "Did you mean 'demo'"),
    "unknown backbone": (["--dataset", "demo", "--set", "model.backbone=densnet121"],
                         "Did you mean 'densenet121'"),
    "misspelled key": (["--dataset", "demo", "--set", "training.epoch=1"],
                       "Did you mean 'training.epochs'"),
    "illegal size": (["--dataset", "demo", "--set", "data.image_size=8"],
                     "nearest legal size is 16"),
    "misspelled flag": (["--dateset", "demo"], "Did you mean '--dataset'"),
    "a GPU that is not there": (["--dataset", "demo", "--gpus", "7"], "GPU 7 was requested"),
    "a bad limit": (["--dataset", "demo", "--gpu-memory-limit", "14"], "14GiB"),
    "no replica": (["--dataset", "demo", "--virtual-devices", "0"], "--virtual-devices"),
    "no such folder": (["--dataset", "./nowhere/at/all"], "There is no folder"),
    "no flag": (["demo"], "Did you mean '--dataset demo'?"),
    "an image as dataset": (["--dataset", __file__], "is a file. A dataset is a folder"),
    "no such run": (["--resume", "nowhere"], "no unfinished run"),
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_code_2_and_one_message(name, here, capsys):
    arguments, message = MISTAKES[name]
    code, _, error = call("train", arguments, capsys)
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert not (here / "saved_models").exists() or not any((here / "saved_models").iterdir())


def test_images_in_the_wrong_place_are_answered_with_the_way_out(here, capsys):
    (here / "-dash").write_bytes(b"")
    for name in ("-dash.jpg", "-dash"):
        code, _, error = call("predict", [name], capsys)
        assert code == 2 and f"Give it as ./{name}\n" in error
    code, _, error = call("explain", ["photo.jpg"], capsys)
    assert code == 2 and "tfdetect.predict photo.jpg --explain pages" in error
    code, _, error = call("explain", ["cifake_small_resnet", "photo.jpg"], capsys)
    assert code == 2 and "for 'tfdetect predict', which explains each" in error
    (here / "photo.jpg").write_bytes(b"")
    arguments = ["cifake_small_resnet", "photo.jpg", "--masks", "masks"]
    code, _, error = call("predict", arguments, capsys)
    assert code == 2 and "Choose localizer_photos, which comes with tfdetect" in error
    code, _, error = call("serve", ["cifake_small_resnet", "--port", "70000"], capsys)
    assert code == 2 and "at least 0 and at most 65,535, received" in error


def test_a_mistake_ends_a_process_with_code_2(tmp_path):
    """Before the import of TensorFlow; one after it is in the process of the dry run below."""
    arguments, message = MISTAKES["misspelled key"]
    done = run("tfdetect.train", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) < 8
    assert "Traceback" not in done.stderr


def test_folder_mistakes_end_with_code_2(here, capsys):
    tmp_path = here
    empty = tmp_path / "empty"
    empty.mkdir()
    one = tmp_path / "one"
    write_images(one / "real", 2, 0)
    pair = tmp_path / "pair"
    for name in ("cats", "dogs"):
        write_images(pair / name, 2, 0)
    for folder, message in ((empty, "no class folders"), (one, "only one class"),
                            (pair, "--authentic")):  # fmt: skip
        code, _, error = call("train", ["--dataset", folder], capsys)
        assert code == 2 and message in error, error


@pytest.mark.slow
def test_unwritable_output_is_reported_before_any_work(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    done = run("tfdetect.train", "--dataset", "demo", "--output", blocked / "runs", cwd=tmp_path)
    assert done.returncode == 2
    assert "Cannot write to" in done.stderr and "--output" in done.stderr


def test_without_a_network_the_error_says_what_to_download(here, monkeypatch, capsys):
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name, folder in (("TFDETECT_CACHE", "c"), ("KAGGLEHUB_CACHE", "k"), ("KERAS_HOME", "h")):
        monkeypatch.setenv(name, str(here / folder))
    monkeypatch.setattr(demo, "PAIRS", 18)  # few enough to be inspected in this process
    code, _, error = call("train", ["--dataset", "cifake"], capsys)
    assert code == 2 and "Traceback" not in error
    for piece in ("kaggle.com/datasets/birdy654", "--data-dir", "TFDETECT_DATA"):
        assert piece in error
    code, _, error = call("train", [
        "--dataset", "demo", "--set", "model.backbone=mobilenetv3_small", "--set",
        "model.options={}", "--set", "model.weights=imagenet",
    ], capsys)  # fmt: skip
    assert code == 2 and "Traceback" not in error
    assert "model.weights=none" in error


def test_unknown_values_get_the_nearest_one(capsys):
    assert main(["ensemble", "a", "b", "--fusion", "stackd"]) == 2
    error = capsys.readouterr().err
    assert "unknown value 'stackd'. Did you mean 'stacked'? Available: stacked, mean," in error
    assert main(["predict", "run", "a.jpg", "--crops", "3"]) == 2
    assert "Available: 1, 5, 9." in capsys.readouterr().err


def test_console_script():
    shown = run("tfdetect", "--help").stdout
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert run("tfdetect", "--version").stdout.startswith("tfdetect ")
    wrong = run("tfdetect", "trian")
    assert wrong.returncode == 2 and "Did you mean 'train'" in wrong.stderr


def test_data_are_looked_for_in_order(tmp_path, monkeypatch, folder_dataset):
    spec = load_spec(str(folder_dataset))[0].model_copy(update={"name": "pictures"})
    assert locate(spec, folder_dataset) == folder_dataset
    assert locate(spec, folder_dataset.parent) == folder_dataset
    inside = {"pictures": folder_dataset, "other": folder_dataset.parent / "other" / PREPARED}
    assert common_data_dir(inside) == folder_dataset.parent
    assert common_data_dir(inside | {"third": tmp_path / "x" / "third"}) is None
    monkeypatch.setenv("TFDETECT_DATA", str(folder_dataset.parent))
    assert locate(spec) == folder_dataset
    monkeypatch.delenv("TFDETECT_DATA")
    with pytest.raises(UserError, match="TFDETECT_DATA"):
        locate(spec)
    monkeypatch.setenv("TFDETECT_CACHE", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "pictures").symlink_to(folder_dataset)
    assert locate(spec) == tmp_path / "datasets" / "pictures"
    with pytest.raises(UserError, match="does not contain the dataset"):
        locate(spec, tmp_path / "datasets" / "pictures" / "test" / "real")
    known = {"pictures": folder_dataset}
    assert find_roots(spec, known, None) == find_roots(spec, known, folder_dataset.parent) == known
    with pytest.raises(UserError, match=f"is in {folder_dataset}. Leave --data-dir out"):
        find_roots(spec, known, tmp_path / "datasets")
    # Of a run the recorded folder comes first, a relative one from here, if it holds the dataset.
    recorded = {"pictures": Path("recorded")}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recorded" / "of_something_else").mkdir(parents=True)
    assert present_roots(spec, recorded) == {}
    (tmp_path / "recorded").rename(tmp_path / "other")
    (tmp_path / "recorded").symlink_to(folder_dataset)
    monkeypatch.setenv("TFDETECT_DATA", str(folder_dataset.parent))
    assert find_roots(spec, present_roots(spec, recorded), None) == recorded


def test_demo_is_split_by_photograph(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "PAIRS", 24)
    root = demo.build(tmp_path / "demo")
    stems = {}
    for path in root.rglob("*.png"):
        split = path.relative_to(root).parts[0]
        stems.setdefault(path.stem.rsplit("-", 1)[0], set()).add(split)
    assert len(stems) == 11
    assert all(len(splits) == 1 for splits in stems.values())
    again = demo.build(tmp_path / "again")
    names = [sorted(p.relative_to(r).as_posix() for p in r.rglob("*.png")) for r in (root, again)]
    assert names[0] == names[1]
    assert all((root / n).read_bytes() == (again / n).read_bytes() for n in names[0][::97])


def test_a_python_without_the_requirements_says_which_to_use():
    """As in a clone whose environment is not active."""
    done = subprocess.run([sys.executable, "-S", "-m", "tfdetect.predict", "photo.jpg"], text=True,
                          capture_output=True, cwd=Path(__file__).parent.parent)  # fmt: skip
    assert done.returncode == 1 and "source .venv/bin/activate" in done.stderr.splitlines()[-1]


def builds_wheels():
    """Return whether the setuptools that pyproject.toml asks for is installed."""
    try:
        return int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        return False


def test_shipped_documents_are_found_from_a_wheel(tmp_path):
    """Builds the wheel from a copy and unpacks it elsewhere, away from the checkout."""
    checkout, copy = Path(__file__).resolve().parent.parent, tmp_path / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, copy)
    for name in ("tfdetect", "data_specs", "experiments"):
        shutil.copytree(checkout / name, copy / name)
    (copy / "saved_models").symlink_to(checkout / "saved_models")
    # Without an environment of its own where this one can build it, which takes half of the time.
    here = ["--no-build-isolation"] if builds_wheels() else []
    built = run("pip", "wheel", copy, "--no-deps", "-q", "-w", tmp_path, *here, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    script = (
        "import json, tfdetect\n"
        "from tfdetect.core.load_spec import load_spec\n"
        "from tfdetect.core.load_experiment import load_experiment\n"
        "spec = load_spec('cifake')[0]\n"
        "from tfdetect.api.shipped import served_runs\n"
        f"assert all(str(path).startswith('{site}') for path in served_runs([]))\n"
        "from tfdetect.api.arguments import own_run\n"
        f"assert str(own_run('photo_detector', 'results').path).startswith('{site}')\n"
        "run = own_run('photo_detector')  # results are written into a copy, which its name finds\n"
        "assert str(run.path) == 'saved_models/photo_detector' and run.model_path.is_file()\n"
        "assert tfdetect.load('photo_detector').run.path == own_run(run).path == run.path\n"
        "print(json.dumps([tfdetect.__file__, load_experiment(spec.experiment).name]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    file, experiment = json.loads(done.stdout)
    assert file.startswith(str(site)) and experiment == "cifake_small_resnet"


# Two commands in one process, which imports TensorFlow once: a mistake that is found after that
# import, then a dry run.
TWO_COMMANDS = """
import json, sys
from tfdetect.__main__ import main
mistake, dry_run = map(json.loads, sys.argv[1:])
assert main(["train", *mistake]) == 2 and "tensorflow" in sys.modules
print("---", file=sys.stderr)
sys.exit(main(["train", *dry_run]))
"""


def test_dry_run_shows_and_starts_nothing(here, monkeypatch, capsys):
    """Results to stdout, messages to stderr; --json is one document; pipes get no colors."""
    monkeypatch.setenv("TFDETECT_CACHE", str(here / "c"))
    monkeypatch.setattr(demo, "PAIRS", 18)  # few enough to be inspected in this process
    arguments = ("--dataset", "demo", "--dry-run", "--set", "training.epochs=3", "--set",
                 "training.early_stopping=2", "--set", "training.monitor=auc")  # fmt: skip
    code, out, error = call("train", arguments, capsys)
    assert "stops after 2 epochs without a better validation AUC" in out
    assert code == 0 and "3 epochs, each 7 batches of 32 images" in out, error
    assert "train 108 authentic + 108 altered" in out and "parameters" in out
    assert "epochs: 3" not in out and len(out.splitlines()) == 9
    one = ("--set", "training.batch_size=108", "--set", "training.epochs=1",
           "--set", "training.early_stopping=null")  # fmt: skip
    code, out, error = call("train", [*arguments, *one, "--show-config"], capsys)
    assert code == 0 and "1 epoch, each 2 batches of 108 images" in out, error
    assert "  epochs: 1\n" in out
    mistake, message = MISTAKES["a GPU that is not there"]
    commands = [json.dumps(command) for command in (mistake, [*arguments, "--json"])]
    done = subprocess.run(
        [sys.executable, "-c", TWO_COMMANDS, *commands], capture_output=True, text=True,
        env={**os.environ, "FORCE_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused, error = done.stderr.split("---\n")
    assert message in refused and len(refused.strip().splitlines()) < 8, refused
    assert "Traceback" not in refused
    found = json.loads(done.stdout)
    assert found["counts"]["train"] == {"authentic": 108, "altered": 108}
    assert found["parameters"] > 0 and found["experiment"]["training"]["epochs"] == 3
    assert "108 authentic + 108 altered" in error and "\x1b" not in error
    # None of TensorFlow's messages, only our own.
    ours = (
        "Experiment demo",
        "Data in",
        "inspecting files",
        "warning: demo",
        "For the full audit",
        "Authentic: ",
        "Files: ",
        "Next: ",
        "next",
    )
    assert all(line.startswith(ours) for line in error.splitlines()), error
    assert all(line.startswith((*ours, "error: ")) for line in refused.splitlines()), refused
    assert not (here / "saved_models").exists()


def test_tables_in_a_pipe_are_plain():
    models = run("tfdetect", "models").stdout
    assert "npr" in models and "\x1b" not in models
    assert all(line == line.rstrip() for line in models.splitlines())
    assert {"model", "parameters", "paper"} <= set(json.loads(run("tfdetect", "models",
                                                                  "--json").stdout)[0])  # fmt: skip


@pytest.mark.parametrize("message", [
    "cudaSetDevice() on GPU:0 failed. Status: out of memory",
    "Failed copying input tensor to GPU:0: Dst tensor is not initialized.",
])  # fmt: skip
def test_a_gpu_without_memory_is_no_traceback(message, capsys):
    import tensorflow as tf

    def main(argv):
        raise tf.errors.InternalError(None, None, message)

    assert run_command(main, []) == 2
    assert "not enough memory for this on the GPU" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_said_in_words(tmp_path, monkeypatch, capsys, recwarn):
    (tmp_path / "file").write_text("")
    write_cache(tmp_path / "file" / "cache.parquet", pa.table({"a": [1]}))
    assert "cannot be written" in (said := capsys.readouterr().err) and "TFDETECT_CACHE" in said
    assert not recwarn.list
    monkeypatch.setenv("TFDETECT_CACHE", str(tmp_path / "home" / "cache"))
    for refused, told in (
        (tmp_path / "home", True),
        (tmp_path / "home" / "cache" / "datasets", True),
        (tmp_path / "runs", False),
        ("relative", False),
    ):
        text = explanation_of(PermissionError(errno.EACCES, "denied", str(refused)))
        assert str(refused) in text and ("TFDETECT_CACHE=FOLDER" in text) == told
    monkeypatch.setenv("TFDETECT_CACHE", "s3://bucket/cache")
    assert explanation_of(PermissionError(errno.EACCES, "denied", "/somewhere"))


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "Free space on the disk ("),
        (errno.EDQUOT, "Free space on the disk ("),
        (errno.EFBIG, "Raise the limit on the size of a file (ulimit -f), or"),
        (errno.ENAMETOOLONG, "Shorten the name, or"),
        (errno.EIO, "Check the disk and its connection, or"),
        (errno.EROFS, "Allow access to {path}, or"),
        (errno.EPERM, "Allow access to {path}, or"),
    ],
)
def test_what_to_do_fits_what_the_disk_refused(tmp_path, number, way_out):
    path = tmp_path / "space: too long.html"  # the number decides, not words
    text = explanation_of(OSError(number, "-", str(path)))
    assert f": {path}. What was finished before is unchanged. {way_out.format(path=path)}" in text
