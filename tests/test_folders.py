"""How folders are listed and understood: links, junk, masks, nested layouts."""

import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import write_images

from tfdetect.core.errors import UserError
from tfdetect.core.image_names import has_signature, is_image
from tfdetect.core.walk import _MAX_VISITS, Walk


def listed(root):
    """The walk when it has ended, and the paths that it found, sorted."""
    walk = Walk(root)
    return walk, sorted(found.path for found in walk)


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def test_a_walk_finds_what_is_below_with_size_and_time(tmp_path):
    touch(tmp_path, "a/1.png", "a/b/2.png", "3.png")
    walk = Walk(tmp_path)
    found = {f.path: f for f in walk}
    assert set(found) == {"a/1.png", "a/b/2.png", "3.png"} == set(Walk(tmp_path).paths())
    for path, file in found.items():
        state = os.stat(tmp_path / path)
        assert file[1:] == (state.st_size, state.st_mtime_ns, state.st_dev, state.st_ino)
    assert not (walk.unreadable or walk.unusable or walk.loops or walk.left_out)


@pytest.mark.parametrize("targets", [["."], [".", ".."], [".", "../..", "../real"]])
def test_links_to_a_folder_above_are_not_entered(tmp_path, targets):
    touch(tmp_path, "real/1.png", "real/sub/2.png")
    for number, target in enumerate(targets):
        (tmp_path / "real" / f"self{number}").symlink_to(target)
    walk, paths = listed(tmp_path)
    assert paths == ["real/1.png", "real/sub/2.png"]
    assert len(walk.loops) == len(targets)


def test_folders_that_are_linked_twice_are_entered_twice(tmp_path):
    touch(tmp_path, "shared/1.png", "shared/deep/2.png")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to("shared")
    _, paths = listed(tmp_path)
    assert paths == [f"{f}/{n}" for f in ("a", "b", "shared") for n in ("1.png", "deep/2.png")]


def test_folders_full_of_links_to_each_other_end(tmp_path):
    names = [f"d{n}" for n in range(12)]  # 12! paths through them
    for name in names:
        touch(tmp_path, f"{name}/x.png")
        for other in names:
            (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
    walk, paths = listed(tmp_path)
    assert set(names) == {path.split("/")[0] for path in paths if path.count("/") == 1}
    assert len(paths) <= _MAX_VISITS * len(names)
    assert any("other paths lead to already" in why for why in walk.unusable.values())


def test_links_to_files_count_and_links_to_nowhere_are_named(tmp_path):
    touch(tmp_path, "real/1.png")
    (tmp_path / "real" / "2.png").symlink_to("1.png")
    (tmp_path / "real" / "3.png").symlink_to("nowhere.png")
    (tmp_path / "real" / "4.png").symlink_to("4.png")
    walk = Walk(tmp_path)
    found = {f.path: f for f in walk}
    assert set(found) == {"real/1.png", "real/2.png"}
    assert found["real/1.png"][3:] == found["real/2.png"][3:]
    assert walk.unusable["real/3.png"] == "a link to a file that does not exist"
    assert set(walk.unusable) == {"real/3.png", "real/4.png"}


def test_pipes_and_sockets_are_not_opened(tmp_path, monkeypatch):
    touch(tmp_path, "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "linked.png").symlink_to("pipe.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket is short
        server.bind("socket.png")
        walk, paths = listed(tmp_path)
    assert paths == ["1.png"]
    assert walk.unusable == {
        "pipe.png": "a named pipe", "linked.png": "a named pipe", "socket.png": "a socket",
        "null.png": "a device",
    }  # fmt: skip


def test_hidden_names_and_junk_are_left_out_and_counted(tmp_path):
    touch(
        tmp_path, "1.png", ".hidden.png", "real/._1.png", "real/.DS_Store", "real/Thumbs.db",
        "desktop.ini", "__MACOSX/real/._1.png", "__MACOSX/real/1.png", ".git/a/b", ".git/c",
    )  # fmt: skip
    walk, paths = listed(tmp_path)
    assert paths == ["1.png"]
    assert walk.left_out == {
        "hidden": 3, "Thumbs.db": 1, "desktop.ini": 1, "__MACOSX": 2, ".git": 2
    }  # fmt: skip
    files = sum(len(names) for _, _, names in os.walk(tmp_path))
    assert len(paths) + walk.left_out.total() == files


@contextmanager
def unprivileged():
    """The right to read everything is given up, and taken again."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)


@pytest.fixture
def readable_by_all():
    """A folder that every user may read; those that pytest makes are for one alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_folders_that_cannot_be_read_are_named(readable_by_all):
    root = readable_by_all
    touch(root, "real/1.png", "secret/2.png")
    (root / "secret").chmod(0)
    with unprivileged():
        walk, paths = listed(root)
    (root / "secret").chmod(0o700)
    assert paths == ["real/1.png"] and set(walk.unreadable) == {"secret"}
    with pytest.raises(UserError, match=r"Cannot read .*secret: Permission denied"):
        walk.check_readable()


def test_a_folder_that_does_not_exist_is_said(tmp_path):
    walk, paths = listed(tmp_path / "nowhere")
    assert paths == []
    with pytest.raises(UserError, match="nowhere.*No such file"):
        walk.check_readable()


@pytest.mark.parametrize(
    "extension", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm", "jp2", "avif"]
)
def test_images_without_a_suffix_are_known_by_their_first_bytes(tmp_path, extension):
    write_images(tmp_path, 1, 0, extension=extension)
    data = (tmp_path / f"000.{extension}").read_bytes()
    assert has_signature(data)
    for name in ("000", "000.download", "000.2024"):
        (tmp_path / name).write_bytes(data)
        assert is_image(str(tmp_path), name)
    (tmp_path / "000.json").write_bytes(data)
    assert not is_image(str(tmp_path), "000.json")


@pytest.mark.parametrize("data", [b"", b"P", b"PK\3\4", b"BMW is a car", b"text", b"RIFF1234WAVE",
                                  b"0000ftypisom"])  # fmt: skip
def test_other_files_without_a_suffix_are_no_images(tmp_path, data):
    (tmp_path / "README").write_bytes(data)
    assert not is_image(str(tmp_path), "README")
