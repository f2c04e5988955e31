"""Manifests as spreadsheets and other systems write them."""

import os

import pytest

from tfdetect.core.errors import UserError
from tfdetect.core.manifest import read_manifest

TABLE = "path,label,generator\nr/caf\u00e9.png,001,NA\nr/a.png,true,\n"
ROWS = [
    {"path": "r/caf\u00e9.png", "label": "001", "generator": "NA"},
    {"path": "r/a.png", "label": "true", "generator": None},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "r").mkdir()
    for name in ("caf\u00e9.png".encode(), b"a.png", "\u4e2d.png".encode("gbk")):
        with open(os.path.join(os.fsencode(tmp_path), b"r", name), "wb") as file:
            file.write(b"x")
    return tmp_path


def read(folder, content, columns=None):
    file = folder / "manifest.csv"
    file.write_bytes(content)
    return read_manifest(file, columns or {}).to_pylist()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_encodings_and_separators(folder, encoding, separator, capsys):
    assert read(folder, TABLE.replace(",", separator).encode(encoding)) == ROWS
    assert ("Windows-1252" in capsys.readouterr().err) == (encoding == "cp1252")


def test_names_in_the_encoding_of_the_files(folder, capsys):
    [row] = read(folder, "path,label\nr/\u4e2d.png,real\n".encode("gbk"))
    from tfdetect.core.text import to_os

    assert os.path.exists(folder / to_os(row["path"]))
    assert "the encoding of the file names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("path,label\nr/\u00e8.png,real\n".encode("cp1252"), "CSV UTF-8"),
        (TABLE.encode("utf-16-le"), "CSV UTF-8"),
        (b"path,label\na\0b,real\n", "CSV UTF-8"),
        (b"", "Empty"),
        (b"path,path,label\na,b,c\n", "twice"),
        (b"file,label\na,b\n", "has no column 'path'"),
        (b"path,label\nx\n", "Expected 2 columns"),
        (b"path,label\na.png,real\nb.png,\n", "row 3: the label is empty"),
        (b"path,label\n" + b"x" * 5000 + b",real\n", "4,000 bytes"),
    ],
)
def test_what_cannot_be_read_is_refused(folder, content, reason):
    with pytest.raises(UserError, match=reason):
        read(folder, content)


def test_own_column_names(folder):
    rows = read(folder, b"file,kind\na.png,007\n", {"path": "file", "label": "kind"})
    assert rows == [{"path": "a.png", "label": "007"}]


def test_no_device_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", tmp_path):
        with pytest.raises(UserError, match="is not a file"):
            read_manifest(path, {})
