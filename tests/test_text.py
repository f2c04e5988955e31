"""Text from outside: every byte survives the way in and back, and every output stays whole."""

import csv
import io
import os

import pyarrow as pa
import pytest
from conftest import write_images

from tfdetect.core.errors import UserError
from tfdetect.core.text import (
    below,
    checked_name,
    csv_cell,
    file_name,
    from_os,
    legend_label,
    markdown,
    name_problem,
    printable,
    shell_command,
    to_os,
)

NAMES = [
    b"photo.jpg",
    b"caf\xe9.jpg",  # Latin-1
    "\u4e2d\u6587.png".encode("gbk"),
    "gr\u00f6\u00dfe \U0001f600".encode(),
    b"\xf4\x8f\xbe\x80",  # the character that stands for the byte 0x80
    b"\xed\xb3\xa9",  # a surrogate, encoded
    bytes(range(1, 256)),
    b"line\nbreak",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_any_bytes_goes_through_arrow_and_back(name):
    text = from_os(os.fsdecode(name))
    [stored] = pa.array([text], pa.string()).to_pylist()
    assert os.fsencode(to_os(stored)) == name
    assert "\n" not in printable(text)
    printable(text).encode()
    printable(os.fsdecode(name)).encode()


def test_different_bytes_are_different_texts():
    assert len({from_os(os.fsdecode(name)) for name in NAMES}) == len(NAMES)


def test_nothing_printed_moves_the_cursor_or_turns_the_text():
    assert printable("a\x1b[2J\u202egpj.exe\r\x9b") == r"a\x1b[2J\u202egpj.exe\r\x9b"
    assert printable("two\nlines\x07", lines=True) == "two\nlines\\x07"
    assert printable("na\u00efve \u65e5\u672c \u0639\u0631\u0628\u064a") == (
        "na\u00efve \u65e5\u672c \u0639\u0631\u0628\u064a"
    )


def test_dollar_signs_are_drawn_as_they_are():
    from matplotlib.figure import Figure

    from tfdetect.core.html import picture_of

    names = ["fake$^$x", "$$", "_hidden", r"\$x$", "a\x1bb"]
    figure = Figure()
    axes = figure.subplots()
    for number, name in enumerate(names):
        axes.plot([0, 1], [number, 1], label=legend_label(name))
    axes.set_xticks(range(len(names)), names)
    axes.set_title("cost $5 and $x_$")
    legend = axes.legend()
    picture_of(figure, "names")
    assert len(legend.get_texts()) == len(names)
    assert [label.get_text() for label in axes.get_xticklabels()] == [*names[:-1], r"a\x1bb"]


def test_a_command_can_be_pasted_into_a_shell():
    line = shell_command(
        "train", "--set", "seed=1", data_dir="my $set", gpus=None, name="caf\udce9"
    )
    assert line == ("python -m tfdetect.train --set seed=1 --data-dir 'my $set' --name 'caf\\xe9'")


def test_a_cell_is_no_formula():
    cells = ["=1+1", "@x", "-0.5", "+3e4", "-x", "plain", "\t=1", -2.5, None]
    assert [csv_cell(cell) for cell in cells] == [
        "'=1+1", "'@x", "-0.5", "+3e4", "'-x", "plain", "'\t=1", -2.5, None,
    ]  # fmt: skip
    row = next(csv.reader(io.StringIO("a,=b\n")))
    assert csv_cell(row[1]) == "'=b"


def test_markdown_shows_names_as_they_are():
    assert markdown("a|b*c`<d>\n[e](f)") == r"a\|b\*c\`\<d\>\\n\[e\](f)"


@pytest.mark.parametrize(
    "name", ["real", "0_real", "fake$^$x", "caf\u00e9", "a+b", "a.b", "x" * 200]
)
def test_names_that_can_be_folders(name):
    assert checked_name(name, "the class") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "../x", "a/b", "a\\b", "a\0b", "a\nb", "a\u202eb", " a", "x" * 201],
)
def test_names_that_are_paths_or_worse(name):
    assert name_problem(name)
    with pytest.raises(UserError, match="name of the class"):
        checked_name(name, "the class")


def test_nothing_is_written_outside(tmp_path):
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    assert below(tmp_path / "root", "in/a.png") == tmp_path / "root" / "in" / "a.png"
    for path in ("../a.png", "/a.png", "in/../../a.png", "out/a.png"):
        with pytest.raises(UserError, match="leads out"):
            below(tmp_path / "root", path)


@pytest.mark.parametrize("name", ["a" * 250, "\u00e9" * 200, "\u65e5" * 100, "b" * 251])
def test_a_long_name_is_cut_and_stays_its_own(tmp_path, name):
    cut = file_name(name, ".mask.png")
    (tmp_path / cut).write_bytes(b"")
    cut.encode()
    assert cut.endswith(".mask.png") and cut != file_name(name + "x", ".mask.png")
    assert file_name("short", ".png") == "short.png"


def test_names_of_any_bytes_and_length_reach_the_decoder(tmp_path):
    from tfdetect.data.build_catalog import build_catalog
    from tfdetect.data.locate import locate_dataset
    from tfdetect.data.sources import image_source

    names = [
        b"caf\xe9.png",
        "\u4e2d\u6587.png".encode("gbk"),
        b"a" * 246 + b".png",
        b"x\x1b[2J\ny.png",
    ]
    for seed, kind in enumerate(("real", "fake")):
        write_images(tmp_path / kind, 6, seed, 24)
        for number, name in enumerate(names):
            folder = os.fsencode(tmp_path / kind)
            os.rename(os.path.join(folder, b"%03d.png" % number), os.path.join(folder, name))
    spec, roots = locate_dataset(str(tmp_path))
    catalog = build_catalog(spec, roots, progress=False)
    assert catalog.table.num_rows == 12 and not catalog.skipped.num_rows
    source = image_source(catalog, catalog.table)
    for number, file in enumerate(catalog.files(catalog.table)):
        with open(file, "rb") as opened:
            content = opened.read()
        assert source.read(number) == content
        assert source.load(source.path(number)).numpy() == content
    assert len(catalog.fingerprint()) == 16
