"""Manifests as spreadsheets and other systems write them."""

import json
import os

import pytest
from PIL import Image

from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.core.manifest import read_manifest, row_number
from tfdetect.data.build_catalog import build_catalog

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


def test_json_lines_and_the_column_of_hugging_face(folder):
    lines = [
        {"file_name": row["path"], "label": row["label"], "prompt": ["a", "b"]} for row in ROWS
    ]
    file = folder / "metadata.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    rows = [(row["path"], row["label"]) for row in ROWS]
    assert [(r["path"], r["label"]) for r in read_manifest(file, {}).to_pylist()] == rows
    assert row_number(file, 0) == 1
    # A column path is the path, whatever else there is.
    assert read(folder, b"file_name,path,label\n1,a.png,real\n")[0]["path"] == "a.png"
    # Names that look like numbers are text.
    assert read(folder, b"file_name,label\n001,0\n") == [{"path": "001", "label": "0"}]
    lines[0]["label"] = None
    file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    with pytest.raises(UserError, match="row 1: the label is empty"):
        read_manifest(file, {})


def test_all_missing_columns_are_named_with_what_to_write(folder):
    with pytest.raises(UserError, match="no column 'path' and no column 'label'") as error:
        read(folder, b"image,class\na.png,real\n")
    assert "manifest: manifest.csv, columns: {path: NAME, label: NAME}" in str(error.value)


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of images that only a table tells apart, named as Hugging Face does."""
    names = [f"{number:03}.png" for number in range(8)]
    (tmp_path / "train").mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "train" / name)
    table = "\n".join(
        json.dumps({"file_name": f"train/{name}", "label": ["real", "fake"][number % 2]})
        for number, name in enumerate(names)
    )
    (tmp_path / "metadata.jsonl").write_text(table, "utf-8")
    return tmp_path


def counted(name, **options):
    spec, roots = load_spec(str(name), **options)
    return build_catalog(spec, roots, progress=False).counts(spec.class_names)


def test_a_folder_of_hugging_face_is_read_by_its_table(pictures):
    found = counted(pictures)
    totals = [sum(c[name] for c in found.values()) for name in ("real", "fake")]
    assert totals == [4, 4]
    # Tables in the folders of splits are named.
    table = (pictures / "metadata.jsonl").read_text("utf-8").replace("train/", "")
    (pictures / "metadata.jsonl").unlink()
    (pictures / "train" / "metadata.jsonl").write_text(table, "utf-8")
    with pytest.raises(UserError, match="no class folders.*tables of images.*train/metadata.json"):
        counted(pictures)
    assert counted(pictures / "train" / "metadata.jsonl") == found
    # Captions are no labels.
    (pictures / "train" / "metadata.jsonl").write_text('{"file_name": "000.png", "text": "a"}')
    with pytest.raises(UserError, match="no class folders") as error:
        counted(pictures)
    assert "tables of images" not in str(error.value)


def test_class_folders_come_before_a_table_of_captions(pictures):
    for name in ("real", "fake"):
        (pictures / name).mkdir()
        Image.new("RGB", (8, 8)).save(pictures / name / "a.png")
    assert load_spec(str(pictures))[0].pattern


def test_a_spec_beside_its_manifest_needs_no_data_dir(pictures):
    spec = (
        "name: mine\nmanifest: metadata.jsonl\ncolumns: {path: file_name}\n"
        "classes:\n- {name: real, folders: [real]}\n- {name: fake, folders: [fake]}\n"
    )
    (pictures / "mine.yaml").write_text(spec)
    assert load_spec(str(pictures / "mine.yaml"))[1] == {"mine": pictures}
    assert sum(counted(pictures / "mine.yaml")["train"].values()) > 0
    assert load_spec(str(pictures / "mine.yaml"), by_name=True)[1] == {}  # with --data-dir
