"""Files and folders appear whole or not at all; commands tidy up, however they end."""

import errno
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from commands import call
from conftest import write_images

from tfdetect.core import files
from tfdetect.core.errors import UserError
from tfdetect.core.files import (
    FailedWrites,
    check_writable,
    disk_error,
    merged,
    replacing,
    staged,
    write_bytes,
    write_text,
)
from tfdetect.core.locks import locked
from tfdetect.core.open_run import open_run
from tfdetect.core.process import Terminated, is_command, lock_directory
from tfdetect.core.run_command import continuing, run_command
from tfdetect.core.run_writer import check_changeable

ROOT = Path(__file__).parents[1]


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def dead_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.mark.parametrize("kind", [UserError, OSError])
@pytest.mark.parametrize("context", [lambda folder: staged(folder, copy=True), merged])
def test_errors_name_the_folder_not_its_staged_copy(kind, context, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("k/r").mkdir(parents=True)
    with pytest.raises(kind) as raised, context(Path("k/r")) as folder:
        assert ".staged-" in str(folder)
        if kind is UserError:
            raise UserError(f"{folder / 'model.keras'} is damaged.")
        (folder / "none" / "x").touch()
    assert ".staged-" not in str(raised.value) and "k/r/" in str(raised.value)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / f"{'n' * 250}.txt"  # with a prefix, the name would be too long
    write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert content(tmp_path) == {target.name: "old"}
    write_text(target, "new")
    assert content(tmp_path) == {target.name: "new"}


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    host = socket.gethostname()
    for name in (f".staged-{host}-{dead_process()}-3.png", f".staged-{host}-{dead_process()}-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    kept = [f".staged-{host}-{os.getppid()}-1", ".staged-another-machine-77-1"]
    for name in kept:
        (tmp_path / name).touch()
    in_use = tmp_path / f".staged-{host}-{dead_process()}-5"  # by that number in another container
    in_use.mkdir()
    lock = lock_directory(in_use)
    with staged(tmp_path / "folder") as folder:
        (folder / "file").touch()
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "folder", in_use.name])
    os.close(lock)


def test_results_leave_other_things_in_a_folder_alone(tmp_path):
    results = tmp_path / "results"

    def write(text):
        with merged(results) as new:
            (new / "figures").mkdir()
            (new / "report.html").write_text(text)
            (new / "figures/one.png").write_text(text)

    write("1")
    assert content(results) == {"report.html": "1", "figures/one.png": "1"}
    inode = results.stat().st_ino
    write("2")  # nothing else is in there: swapped as a whole
    assert results.stat().st_ino != inode and content(results)["report.html"] == "2"
    (results / "figures/mine.png").write_text("mine")
    (results / "notes.txt").write_text("mine")
    write("3")
    assert content(results) == {
        "report.html": "3", "figures/one.png": "3", "figures/mine.png": "mine", "notes.txt": "mine"
    }  # fmt: skip
    with pytest.raises(KeyError), merged(results) as new:
        (new / "report.html").write_text("4")
        raise KeyError
    assert content(results)["report.html"] == "3"
    assert os.listdir(tmp_path) == ["results"]


def test_results_go_into_a_folder_that_cannot_be_replaced(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setattr(files, "_is_fixed", lambda folder: True)  # for example a mounted disk
    inode = (tmp_path / "disk").stat().st_ino
    for text in "12":
        with merged(tmp_path / "link") as new:
            assert new.is_relative_to(tmp_path / "disk")  # on the same disk
            (new / "report.html").write_text(text)
        assert content(tmp_path / "disk") == {"report.html": text}
    assert (tmp_path / "disk").stat().st_ino == inode and (tmp_path / "link").is_symlink()


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path):
    (tmp_path / "disk/run").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mine").symlink_to(tmp_path / "disk/run")
    with staged(tmp_path / "runs/mine", copy=True) as new:
        assert new.name == "mine"
        (new / "file").touch()
    assert (tmp_path / "runs/mine").is_symlink() and (tmp_path / "disk/run/file").exists()
    assert os.listdir(tmp_path / "disk") == ["run"]


def test_checking_a_folder_makes_none(tmp_path):
    check_writable(tmp_path / "a/b/c")
    assert not os.listdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write to .*file/b: Not a directory.*--masks"):
        check_writable(tmp_path / "file/b", "--masks")
    run = replace(open_run(ROOT / "saved_models/cifake_small_resnet"), path=tmp_path / "file/run")
    with pytest.raises(UserError, match="to it, or copy the run .*file/run elsewhere and give the"):
        check_changeable(run)


@pytest.mark.parametrize(("error", "reason"), [
    (OSError(errno.ENOSPC, "-", "x.png"), "No space is left on the disk: x.png"),
    (OSError(errno.EDQUOT, "-"), "The disk quota is used up"),
    (PermissionError(errno.EACCES, "-", "x"), "Permission denied: x"),
    (ValueError("Unable to write (... errno = 28, 'No space left on device')"), "No space is left"),
    (OSError(errno.ENOENT, "-", "x"), None), (ValueError("odd"), None),
])  # fmt: skip
def test_errors_of_the_disk_are_recognized(error, reason):
    for raised in (error, RuntimeError("a library failed")):
        raised.__cause__ = None if raised is error else error
        found = disk_error(raised)
        assert found is None if reason is None else found.startswith(reason)


def test_errors_of_the_disk_name_what_was_written(tmp_path):
    texts = ValueError("Unable to write (errno = 28, 'No space left on device')")
    for error in (OSError(errno.ENOSPC, "-"), texts):
        with pytest.raises(type(error)) as failed, replacing(tmp_path / "a.csv"):
            raise error
        assert disk_error(failed.value) == f"No space is left on the disk: {tmp_path / 'a.csv'}"
    with (
        pytest.raises(OSError) as failed,
        staged(tmp_path / "run") as new,
        replacing(new / "x.npy") as temporary,
    ):
        raise PermissionError(errno.EACCES, "-", str(temporary))
    assert disk_error(failed.value) == f"Permission denied: {tmp_path / 'run' / 'x.npy'}"
    with pytest.raises(ConnectionError, match="^gone$"), replacing(tmp_path / "b"):
        raise ConnectionError("gone")


def test_a_folder_that_cannot_be_exchanged_is_named(tmp_path, monkeypatch):
    def refused(self, target):
        raise PermissionError(errno.EPERM, "-", str(self), None, str(target))

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: None)
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError) as failed, staged(tmp_path / "run"):
        pass
    assert disk_error(failed.value) == f"Permission denied: {tmp_path / 'run'}"
    assert ".replaced" not in str(failed.value)


def test_sqlite_is_understood_by_its_codes(tmp_path):
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as database:
        for setting, reason in (
            ("query_only = 1", "The disk is read-only"),
            ("query_only = 0; pragma max_page_count = 1", "No space is left on the disk"),
        ):
            database.executescript(f"pragma {setting}")
            with pytest.raises(sqlite3.OperationalError) as failed:
                database.execute("create table t (x)")
            assert disk_error(failed.value) == reason


def test_a_full_disk_is_not_taken_for_a_lack_of_memory(capsys):
    import tensorflow as tf

    def main(argv):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    assert run_command(main, []) == 2
    assert capsys.readouterr().err.startswith("error: No space is left on the disk.")


def test_a_full_disk_is_one_message(capsys):
    def main(argv):
        raise OSError(errno.ENOSPC, "-", "x.png")

    assert run_command(main, []) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: No space is left on the disk: x.png.") and "again" in line


def test_one_file_that_cannot_be_written_costs_itself(tmp_path):
    failed = FailedWrites()
    for name in ("a", f"{'b' * 300}", "c"):
        with failed.skipping(tmp_path / name):
            write_bytes(tmp_path / name, b"1")
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]
    assert list(failed.reasons.values()) == [
        f"A file name is too long for this disk: {tmp_path / ('b' * 300)}"
    ]


def test_a_lock_that_is_given_back_leaves_no_file(tmp_path):
    refusal = UserError("another")
    with locked(tmp_path / "lock", refusal):
        with pytest.raises(UserError, match="another"), locked(tmp_path / "lock", refusal):
            pass
        assert (tmp_path / "lock").exists()
    assert not os.listdir(tmp_path)


# A command that leaves something in every place, says so, and waits to be ended.
WAITS = """
import pathlib, signal, sys, tempfile, time
from tfdetect.core.run_command import run_command
from tfdetect.core.files import staged
from tfdetect.core.process_pool import process_pool

def main(argv):
    tempfile.NamedTemporaryFile(prefix="__autograph", delete=False).close()
    with process_pool(2) as pool, staged(pathlib.Path("folder")) as folder:
        (folder / "half").touch()
        pool.submit(time.sleep, 60)
        pool.submit(print, "begun", flush=True)
        time.sleep(60)

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
sys.exit(run_command(main, []))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_signals_end_a_command_in_order(tmp_path, how):
    temporary, work = tmp_path / "tmp", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", WAITS], cwd=work, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stdout.readline() == "begun\n"
    child.send_signal(how)
    begin = time.monotonic()
    _, err = child.communicate(timeout=30)  # ends when the worker processes have ended, too
    assert time.monotonic() - begin < 20 and "Traceback" not in err
    if how == signal.SIGKILL:
        assert os.listdir(temporary) and os.listdir(work)
        with staged(work / "folder"):  # by the next command
            pass
        again = subprocess.run(
            [sys.executable, "-m", "tfdetect.audit"], env=environment, capture_output=True
        )
        assert again.returncode == 2
    else:
        assert child.returncode == 128 + how
        assert "Stopped." in err
        assert not os.listdir(work)
    assert not os.listdir(temporary)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_while_what_was_staged_is_removed(tmp_path, monkeypatch, number):
    remove, temporary = shutil.rmtree, tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "folder").mkdir()
    removed = []

    def slow(path, ignore_errors):
        removed.append(Path(path).name.split("-")[0])
        signal.raise_signal(number)
        remove(path)

    def main(argv):
        tempfile.NamedTemporaryFile(delete=False).close()
        with staged(tmp_path / "folder") as new:
            (new / "file").touch()
            monkeypatch.setattr(shutil, "rmtree", slow)

    assert run_command(main, []) == 128 + number
    assert removed == [".staged", "tfdetect"]
    assert os.listdir(tmp_path / "folder") == ["file"]
    assert sorted(os.listdir(tmp_path)) == ["folder", "tmp"] and not os.listdir(temporary)


class Finalized:
    """Gets a signal where Python drops what its handler raises."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)  # the handler runs here


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_not_lost_in_a_finalizer(number, capsys):
    def main(argv):
        Finalized(number)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            pass
        return 0

    assert run_command(main, []) == 128 + number
    assert "ignored" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", [RuntimeError, UserError])
def test_a_signal_that_foreign_code_turns_into_an_error_is_no_error(kind, capsys):
    def main(argv):
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit:  # TensorFlow raises an error of its own in its place
            raise kind("replaced") from None

    assert run_command(main, []) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "\nStopped.\n"

    def broken(argv):
        raise kind("not by a signal")

    with pytest.raises(RuntimeError) if kind is RuntimeError else nullcontext():
        assert run_command(broken, []) == 2


@pytest.mark.parametrize("ended", [KeyboardInterrupt, Terminated(143), UserError("wrong")])
def test_a_command_says_that_it_continues(ended, capsys):
    def main(argv):
        with continuing("Finished parts are"):
            assert is_command()
            raise ended

    assert run_command(main, []) in (130, 143, 2) and not is_command()
    said = "\nFinished parts are kept; the same command continues.\n\nStopped.\n"
    assert capsys.readouterr().err == ("error: wrong\n" if isinstance(ended, UserError) else said)


def test_ctrl_c_that_foreign_code_turns_into_an_error_is_no_error(capsys):
    def main(argv):
        try:
            raise RuntimeError("ORIGINAL InvalidArgumentError REPLACED BY KeyboardInterrupt: <>")
        except RuntimeError as error:
            raise UserError("Cannot export") from error

    assert run_command(main, []) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "\nStopped.\n"


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    code = "from tfdetect.core.run_command import run_command; import sys; "
    code += "sys.exit(run_command(lambda argv: print('x\\n' * 10**6), []))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    child.stdout.read(10)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 141


def test_a_disk_that_fills_up_is_one_message(tmp_path, monkeypatch, capsys):
    """A limit on the size of files stands for a full disk: the audit's report does not fit."""
    import resource

    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / "data" / name, 6, fake)
    monkeypatch.chdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code, _, err = call("audit", ["--dataset", "data", "--output", "out"], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and err.count("error: ") == 1 and "too large for this disk" in err
    assert os.listdir(tmp_path) == ["data"]
