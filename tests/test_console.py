"""Terminal output: in a terminal, in pipes, and for scripts."""

import os
import pty
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

from tfdetect.core import console

SCRIPT = """
import time
from tfdetect.core import console
console.log("message [flip,jpeg]")
console.warn("warning text")
console.table([{"path": "x/" * 60, "count": 1}, {"path": "[y]", "count": None}])
with console.progress(4, "working", "images", delay=0) as bar:
    for number in range(4):
        bar.set_note(f"best {number}")
        bar.advance()
    with console.progress(9, "nested", delay=0) as inner:
        inner.advance()
"""
COLORS = r"\x1b\[[0-9;]*m"


def in_terminal(columns, script=SCRIPT, **environment):
    """What the script writes into a terminal of that width."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=other, stdout=other, stderr=other,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **environment},
    )  # fmt: skip
    os.close(other)
    text = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux reports the end of the other side so
            break
        if not part:
            break
        text += part
    os.close(main)
    assert process.wait() == 0
    return text.decode()


def test_terminal_gets_colors_its_width_and_a_bar(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = in_terminal(60)
    assert re.search(COLORS, shown)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "message [flip,jpeg]" in plain and "4 of 4 images" in plain
    assert "nested" not in plain
    lines = re.split(r"[\r\n]+", plain)
    assert max(len(line) for line in lines) <= 60


NAMES = """
import sys
from tfdetect.core import console
photos = [f"photos/{'folder/' * 12}IMG_{n:03}.jpg" for n in range(3)]
names = [*photos, "a.jpg", "日本" * 40 + ".png"]
reason = "the file is empty, or it is no image, or " * 3
rows = [[name, "authentic", "0.1234", None] for name in names] + [[names[0], None, None, reason]]
print(console.format_table(rows, ["file", "verdict", "P(fake)", "error"], shortened=["file"]))
"""


def test_names_are_shortened_in_a_terminal_alone():
    """In the middle, so that each has one line beside the text of an error, which is wrapped."""
    lines = in_terminal(80, script=NAMES).splitlines()
    assert max(map(cell_len, lines)) <= 80
    for number in range(3):
        [line] = [line for line in lines if f"IMG_{number:03}.jpg" in line and "0.1234" in line]
        assert line.startswith("photos/") and "..." in line and "authentic" in line
    assert any(line.startswith("a.jpg ") for line in lines)
    assert any(line.startswith("日本") and "日本.png " in line for line in lines)
    assert " ".join(in_terminal(30, script=NAMES).split()).count("verdict: authentic") == 5
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", NAMES], capture_output=True, text=True, env=environment
    )
    assert f"photos/{'folder/' * 12}IMG_002.jpg" in done.stdout and "日本" * 40 in done.stdout


@pytest.mark.parametrize("width", [12, 13, 14, 15, 16, 40])
def test_the_middle_of_a_text_is_left_out(width):
    text = "photographs/2024/image.jpg"
    short = console.middle_out(text, width)
    assert len(short) == min(width, len(text))
    if width < len(text):
        before, after = short.split("...")
        assert text.startswith(before) and text.endswith(after) and len(before) < len(after)


def test_no_color_is_honored():
    shown = in_terminal(60, NO_COLOR="1")
    assert "warning: warning text" in shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", shown)


def test_pipes_get_plain_text():
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "x/" * 60 in done.stdout and "[y]" in done.stdout  # neither wrapped nor cut
    assert done.stderr.splitlines() == ["message [flip,jpeg]", "warning: warning text"]


def test_progress_elsewhere_is_a_line_now_and_then(monkeypatch, capsys):
    seconds = iter(range(0, 10_000, 4))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with console.progress(100, "working", "images") as bar:
        for _ in range(100):
            bar.set_note("best 0.9")
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 20
    assert re.fullmatch(r"working: \d+ of 100 images \(best 0.9\)", lines[0])
    assert lines[-1].startswith("working: 100 of 100 images (best 0.9), ")


def test_a_unit_that_takes_long_says_what_is_done_of_it(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.progress(1, "explaining", "images") as bar:
        for second, step in ((4, "reading"), (11, "occlusion"), (14, "mask"), (22, "evidence")):
            clock[0] = second
            bar.set_step(step)
    assert capsys.readouterr().err.splitlines() == [
        "explaining: 0 of 1 images (occlusion)", "explaining: 0 of 1 images (evidence)",
    ]  # fmt: skip


def test_progress_can_be_silent_and_shows_errors_through(capsys):
    with console.progress(2, "working", shown=False) as bar:
        bar.advance()
    with pytest.raises(ValueError), console.progress(2, "working"):
        raise ValueError
    with console.progress(3, "again"):  # the lock was given back
        assert list(console.track("ab", "nested")) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_narrow_terminals_get_rows_as_lines(monkeypatch):
    rows = [{"model": "cnnspot", "parameters": "23,510,081", "use case": "GAN images of 2020"},
            {"model": "npr", "parameters": "1,440,000", "use case": None}]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "20")
    lines = console.format_table(rows).splitlines()
    assert lines == [
        "model: cnnspot", "parameters:", "23,510,081", "use case: GAN images", "of 2020", "",
        "model: npr", "parameters:", "1,440,000",
    ]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "36")  # room for columns, in which words and numbers stay whole
    lines = console.format_table(rows).splitlines()
    assert lines[0].split() == ["model", "parameters", "use", "case"]
    assert "23,510,081" in lines[2] and "GAN" in lines[2]


def test_tables_align_numbers_and_keep_order():
    rows = [{"name": "one", "value": "1,234"}, {"name": "two", "value": "5"}]
    lines = console.format_table(rows, ["value", "name"], title="Results").splitlines()
    assert lines[0] == "Results" and lines[1].split() == ["value", "name"]
    assert lines[3] == "1,234   one" and lines[4] == "    5   two"
    assert console.format_table([], ["a", "b"]).split()[:2] == ["a", "b"]
