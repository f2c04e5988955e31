"""Datasets, runs and results at addresses: memory:// in most tests, a real S3 server in one."""

import http.server
import logging
import os
import shutil
import socket
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest
from commands import call
from conftest import write_dataset, write_images
from fsspec.implementations.memory import MemoryFileSystem

import tfdetect
from tfdetect.core import addresses, remote_files, storage
from tfdetect.core.errors import UserError
from tfdetect.core.files import staged
from tfdetect.core.open_run import open_run
from tfdetect.core.provenance import command_line
from tfdetect.core.run_writer import updating
from tfdetect.core.text import user_path
from tfdetect.data.locate import locate_dataset, present_roots
from tfdetect.data.plan import find_data, make_plan

RUN = Path(__file__).parent.parent / "saved_models" / "cifake_small_resnet"


@pytest.fixture
def memory(monkeypatch):
    """The files at memory://, none at first."""
    monkeypatch.setattr(remote_files, "FIRST_PAUSE", 0)
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def counted(monkeypatch, name, before=lambda *args: None):
    """The remote paths that a method of the storage was called with."""
    calls, method = [], getattr(MemoryFileSystem, name)

    def call(self, *args, **kwargs):
        calls.append(args[0 if name == "get_file" else 1])
        before(calls, *args)
        return method(self, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, name, call)
    return calls


# --- addresses


def test_an_address_has_one_local_copy():
    folder = Path(os.environ["TFDETECT_CACHE"]).resolve() / "storage"
    for text in ("s3://bucket/a/b.jpg", "s3:/bucket/a//b.jpg", "s3://bucket/a/b.jpg/"):
        assert user_path(text) == folder / "s3" / "bucket" / "a" / "b.jpg"
    assert user_path(Path("memory://x")) == folder / "memory" / "x"
    assert addresses.address_of(folder / "s3" / "bucket" / "a") == "s3://bucket/a"
    assert user_path("file:///a/b") == Path("/a/b")
    for text in ("a/b.jpg", "hf://user/run", "tfds:/a/b", "C:/photos", "storage/s3/x"):
        assert user_path(text) == Path(text) and addresses.address_of(text) is None
    with pytest.raises(UserError, match="one file or folder"):
        user_path("s3://bucket/../other")


def test_secrets_of_addresses_are_written_nowhere(monkeypatch, capsys):
    with pytest.raises(UserError, match="https://\\*\\*\\*@host/x.*fsspec") as error:
        user_path("https://me:hunter2@host/x")
    assert "hunter2" not in str(error.value)
    signed = "https://host/photo.jpg?X-Signature=hunter2"
    path = user_path(signed)
    assert addresses.address_of(path) == signed and "hunter2" not in str(path)
    assert addresses.shown(path) == "https://host/photo.jpg?***"
    assert user_path(addresses.shown(path)) == path  # as a row of predictions names it
    monkeypatch.setattr(sys, "argv", ["tfdetect", "train", "--dataset", signed])
    assert "hunter2" not in command_line("train") and "host/photo.jpg" in command_line("train")
    for address in (signed, "https://me:hunter2@host/x"):
        code, out, error = call("predict", [address, "--output", "x.csv"], capsys)
        assert code == 2 and "hunter2" not in out + error


def test_errors_of_the_storage_are_one_message_without_secrets(memory, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise PermissionError("403 for http://host/x?sig=hunter2")

    with pytest.raises(UserError, match="There is no file or folder memory://nothing"):
        storage.fetched(user_path("memory://nothing"))
    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    code, _, error = call("predict", ["memory://x/photo.jpg"], capsys)
    assert code == 2 and "Give the credentials" in error and "hunter2" not in error
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda address: exec("import no_such_package"))
    code, _, error = call("predict", ["s3://x/photo.jpg"], capsys)
    assert code == 2 and "pip install 'tfdetect[storage]'" in error
    with pytest.raises(UserError, match="can only be read"):
        storage.check_writable(user_path("https://host/out"))


# --- copies


def test_a_copy_is_brought_up_to_date_file_by_file(memory, monkeypatch):
    for name in ("a.txt", "b/c.txt", "b/d.txt"):
        memory.pipe_file(f"/set/{name}", b"first")
    calls = counted(monkeypatch, "get_file")
    copy = storage.fetched(user_path("memory://set"))
    assert (copy / "b" / "c.txt").read_bytes() == b"first" and len(calls) == 3
    storage.fetched(copy)
    assert len(calls) == 3
    memory.pipe_file("/set/b/c.txt", b"other")  # as many bytes
    memory.rm_file("/set/b/d.txt")
    (copy / "a.txt").write_text("changed here")
    storage.fetched(copy)
    assert sorted(calls[3:]) == ["/set/a.txt", "/set/b/c.txt"]
    assert (copy / "b" / "c.txt").read_bytes() == b"other"
    assert not (copy / "b" / "d.txt").exists()


def test_requests_that_fail_are_tried_again(memory, monkeypatch):
    memory.pipe_file("/set/a.txt", b"whole")

    def fail_twice(calls, *args):
        if len(calls) < 3:
            raise ConnectionResetError("gone")

    calls = counted(monkeypatch, "get_file", fail_twice)
    assert (storage.fetched(user_path("memory://set")) / "a.txt").read_bytes() == b"whole"
    assert len(calls) == 3
    shown = MemoryFileSystem.info(memory, "/set/a.txt")
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path: shown | {"size": 9})
    with pytest.raises(UserError, match="was received incompletely"):
        storage.fetched(user_path("memory://set/a.txt"))
    assert not any(user_path("memory://set").glob(".*"))


def test_a_folder_that_changes_meanwhile_is_fetched_as_one_state(memory, monkeypatch):
    for name in ("a", "b"):
        memory.pipe_file(f"/set/{name}", b"1")

    def change(calls, *args):
        if len(calls) == 2:
            for name in ("a", "b"):
                memory.pipe_file(f"/set/{name}", b"2")

    counted(monkeypatch, "get_file", change)
    copy = storage.fetched(user_path("memory://set"))
    assert [(copy / name).read_bytes() for name in ("a", "b")] == [b"2", b"2"]


# --- results


def test_a_folder_appears_with_its_description_last(memory, monkeypatch):
    puts = counted(monkeypatch, "put_file")
    target = user_path("memory://out/run")
    with staged(target) as folder:
        for name in ("run.json", "metrics.json", "a.txt", ".hidden", "logs/b.txt"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        assert not memory.exists("/out")
    names = [name.removeprefix("/out/run/") for name in memory.find("/out")]
    assert sorted(names) == ["a.txt", "logs/b.txt", "metrics.json", "run.json"]
    assert [Path(name).name.split(".")[1] for name in puts[-2:]] == ["metrics", "run"]
    with staged(target.with_name("other.partial")) as folder:
        (folder / "a.txt").write_text("unfinished")
    assert not memory.exists("/out/other.partial")


def test_an_upload_that_fails_leaves_no_run_there_and_the_whole_result_here(memory, monkeypatch):
    def fail(calls, source, remote):
        if "run.json" in remote:
            raise ConnectionResetError("gone")

    counted(monkeypatch, "put_file", fail)
    target = user_path("memory://out/run")
    with pytest.raises(UserError, match="storage/memory/out/run in the cache"), staged(target) as f:
        (f / "run.json").write_text("{}")
        (f / "a.txt").write_text("a")
    assert not memory.exists("/out/run/run.json") and (target / "run.json").is_file()
    shutil.rmtree(addresses.copies_folder())  # as another machine sees it
    with pytest.raises(UserError, match=r"has no run\.json"):
        open_run("memory://out/run")


def test_a_changed_run_is_uploaded_and_fetched_in_part(memory, monkeypatch):
    memory.put(str(RUN), "/runs/small", recursive=True)
    puts, gets = counted(monkeypatch, "put_file"), counted(monkeypatch, "get_file")
    run = open_run("memory://runs/small")
    assert run.threshold == open_run(RUN).threshold and run.name == "small"
    before = len(gets)
    with updating(run) as copy:
        (copy.path / "note.txt").write_text("new")
        (copy.path / "model_card.md").unlink()
    assert len(puts) == 1 and memory.cat_file("/runs/small/note.txt") == b"new"
    assert not memory.exists("/runs/small/model_card.md")
    open_run("memory://runs/small")
    assert len(gets) == before


# --- commands


def test_predict_gives_the_rows_of_local_files(tmp_path, memory, monkeypatch, capsys):
    write_images(tmp_path / "images" / "a", 9, 0, side=32)
    (tmp_path / "images" / "junk.png").write_text("no image")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    memory.put(str(tmp_path / "images"), "/images", recursive=True)
    memory.put(str(RUN), "/runs/small", recursive=True)
    monkeypatch.setattr(storage, "TURN", 4)

    def rows(images, **options):
        return [{**row, "path": row["path"].rpartition("images/")[2]}
                for row in tfdetect.load(RUN).predict(images, batch_size=4, **options)]  # fmt: skip

    assert rows("memory://images") == rows(str(tmp_path / "images"))
    assert not user_path("memory://images").exists()  # nothing of it stays
    assert len(rows("memory://images/**/00[0-2].png")) == 3
    arguments = ["memory://runs/small", "memory://images", "--output", "memory://out/t.csv"]
    code, out, _ = call("predict", arguments, capsys)
    assert code == 0 and "10 rows in memory://out/t.csv" in out
    assert memory.cat_file("/out/t.csv").count(b"\n") == 11
    code, out, _ = call("predict", ["memory://images/a/000.png"], capsys)
    assert code == 0 and "memory://images/a/000.png" in out

    def fail(calls, remote, *args):
        if "000" in remote:
            raise PermissionError("403")

    counted(monkeypatch, "get_file", fail)
    [bad] = [row for row in rows("memory://images") if "000" in row["path"]]
    assert "Give the credentials" in bad["error"] and bad["p_fake"] is None
    with pytest.raises(UserError, match="Give the credentials"):
        rows("memory://images/a/000.png")


def test_a_dataset_at_an_address_is_the_local_one(tmp_path, memory):
    root = write_dataset(tmp_path / "pictures")
    memory.put(str(root), "/data/pictures", recursive=True)
    local, remote = (
        find_data(make_plan(name, None, []), progress=False)
        for name in (str(root), "memory://data/pictures")
    )
    names = ["path", "label", "split", "size"]
    assert local.table.select(names).equals(remote.table.select(names))
    plan = make_plan("memory://data/pictures", None, [])
    assert plan.experiment.data.dataset == "memory://data/pictures"
    [folder] = remote.roots.values()
    assert addresses.shown(folder) == "memory://data/pictures"


def test_of_a_manifest_what_it_names_is_fetched(tmp_path, memory, monkeypatch):
    root = write_dataset(tmp_path / "pictures")
    rows = [f"{path.relative_to(root).as_posix()},{path.parent.name}"
            for path in sorted((root / "train").rglob("*.png"))]  # fmt: skip
    table = ["path,label", f"./{rows[0]}", *rows[1:], "gone.png,real"]
    (root / "list.csv").write_text("\n".join(table))
    memory.put(str(root), "/data/pictures", recursive=True)
    calls = counted(monkeypatch, "get_file")
    plan = make_plan("memory://data/pictures/list.csv", None, [])
    found = find_data(plan, progress=False)
    named = {"list.csv", *(row.partition(",")[0] for row in rows)}
    assert sorted(calls) == sorted(f"/data/pictures/{name}" for name in named)
    assert found.table.num_rows == len(rows) and found.skipped.num_rows == 1
    assert present_roots(plan.spec, found.roots) == found.roots and len(calls) == len(named)


# --- real servers


@pytest.fixture
def s3(monkeypatch):
    """An S3 server on this machine, and a bucket."""
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDSECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fs = fsspec.filesystem("s3")
    fs.mkdir("bucket")
    yield fs
    server.stop()
    server._server.server_close()


@pytest.fixture
def gs(monkeypatch):
    """A server for Google Cloud Storage on this machine, and a bucket.

    It needs `pip install gcsfs gcp-storage-emulator`.
    """
    # Else gcsfs asks by gRPC what kind each bucket is, which this server does not speak.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    # It answers one connection at a time, and gcsfs keeps several open.
    monkeypatch.setattr(http.server, "HTTPServer", http.server.ThreadingHTTPServer)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    yield fsspec.filesystem("gs")
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_all_commands_with_a_bucket(tmp_path, scheme, request, capsys):
    fs, bucket = request.getfixturevalue(scheme), f"{scheme}://bucket"
    write_dataset(tmp_path / "pictures")
    fs.put(str(tmp_path / "pictures"), "bucket/pictures", recursive=True)
    small = ["--set", "data.image_size=24", "--set", "training.epochs=1",
             "--set", "training.batch_size=12", "--set", "data.augment=[]",
             "--set", "model.options={widths: [8], blocks: [1], strides: [2], stem: 8}",
             "--set", "training.export=[onnx]", "--experiment", "cifake_small_resnet"]  # fmt: skip
    steps = [
        ("audit", ["--dataset", f"{bucket}/pictures", "--output", f"{bucket}/audit"]),
        ("prepare", ["--dataset", f"{bucket}/pictures", "--output", f"{bucket}/prepared"]),
        ("train", ["--dataset", f"{bucket}/prepared/pictures", "--output", f"{bucket}/runs",
                   "--name", "one", *small]),
        ("evaluate", [f"{bucket}/runs/one", "--split", "validation"]),
        ("export", [f"{bucket}/runs/one", "--format", "onnx_float16"]),
        ("predict", [f"{bucket}/runs/one", f"{bucket}/pictures/test", "--output",
                     f"{bucket}/verdicts.parquet"]),
    ]  # fmt: skip
    for command, arguments in steps:
        code, out, error = call(command, arguments, capsys)
        assert code in (0, 1) and "Traceback" not in error, (command, error)
        assert "hunter2" not in out + error and "AKIDSECRET" not in out + error
        shutil.rmtree(Path(os.environ["TFDETECT_CACHE"], "storage"))  # another machine goes on
    found = fs.find("bucket")
    for name in ("audit/audit.html", "prepared/pictures/1.0.0/dataset_info.json",
                 "runs/one/run.json", "runs/one/exports/detector_float16.onnx",
                 "verdicts.parquet"):  # fmt: skip
        assert f"bucket/{name}" in found, name
    assert not any(Path(name).name.startswith(".") or ".partial" in name for name in found)
    run = open_run(f"{bucket}/runs/one")
    assert "validation" in run.results and run.onnx_path is not None
    for file in run.path.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert b"hunter2" not in data and b"AKIDSECRET" not in data, file
    local = tmp_path / "prepared"
    tfdetect.prepare(tmp_path / "pictures", local, progress=False)
    for shard in sorted((local / "pictures" / "1.0.0").glob("*.tfrecord*")):
        assert fs.cat(f"bucket/prepared/pictures/1.0.0/{shard.name}") == shard.read_bytes()
    code, _, error = call("predict", [f"{bucket}/runs/one", f"{bucket}/nothing"], capsys)
    assert code == 2 and f"There is no file or folder {bucket}/nothing" in error
    code, _, error = call("train", ["--dataset", f"{bucket}/pictures", "--output",
                                    f"{scheme}://no-bucket/runs", *small], capsys)  # fmt: skip
    assert code == 2 and f"no bucket {scheme}://no-bucket" in error


def test_a_server_that_cannot_be_reached_is_no_missing_file(monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote_files, "FIRST_PAUSE", 0)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/x.jpg"
    with pytest.raises(UserError, match=f"{address} cannot be used: .*connect"):
        storage.listing(user_path(address))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_images_on_a_web_server(tmp_path, capsys):
    pytest.importorskip("aiohttp")
    write_images(tmp_path / "images", 3, 0, side=32)
    (tmp_path / "list.csv").write_text("path,label\nimages/000.png,real\nimages/001.png,fake")
    shutil.copytree(RUN, tmp_path / "run")
    seen = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            if "signed" in self.path and urlsplit(self.path).query != "key=hunter2":
                return self.send_error(403)
            if self.path.startswith("/bare") and self.path.endswith("/"):  # it lists no folders
                return self.send_error(403)
            self.path = self.path.replace("/signed", "").replace("/bare", "")
            return super().do_GET()

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        code, out, _ = call("predict", [f"{url}/run/", f"{url}/images/", "--json"], capsys)
        assert code == 0 and out.count(f"{url}/images/00") == 3
        arguments = [RUN, f"{url}/signed/images/000.png?key=hunter2", "--evidence"]
        code, out, error = call("predict", arguments, capsys)
        assert code == 0 and "000.png?***" in out and "hunter2" not in out + error
        assert "/signed/images/000.png?key=hunter2" in seen
        [folder] = locate_dataset(f"{url}/bare/list.csv")[1].values()
        found = sorted(path.name for path in folder.rglob("*") if path.is_file())
        assert found == ["000.png", "001.png", "list.csv"] and "/bare/images/002.png" not in seen
        code, _, error = call("predict", [RUN, f"{url}/images/gone.png"], capsys)
        assert code == 2 and "There is no file or folder" in error
        code, _, error = call(
            "predict", [RUN, f"{url}/images/", "--output", f"{url}/x.csv"], capsys
        )
        assert code == 2 and "can only be read" in error
    finally:
        server.shutdown()
        server.server_close()
