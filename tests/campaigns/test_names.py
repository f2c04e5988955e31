"""Files and classes with odd names go through every command; nothing raw reaches the terminal.

Run it with

    python -m pytest -n 0 -m slow -s tests/campaigns/test_names.py
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands import call
from conftest import SMALL, write_images

pytestmark = pytest.mark.slow
NAMES = [
    b"caf\xe9.png", "\u4e2d\u6587.png".encode("gbk"), b"a" * 246 + b".png", b"x\x1b[2J\ny.png",
    b"=1+1.png", "\u202egnp.png".encode(), "gr\u00f6\u00dfe $x$ |b| *c*.png".encode(),
]  # fmt: skip


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for split, count in (("train", 20), ("test", 8)):
        for kind, fake in (("real", 0), ("fake$^$x", 1)):
            folder = root / split / kind
            write_images(folder, count, fake, 24)
            for number, name in enumerate(NAMES):
                os.rename(os.path.join(os.fsencode(folder), b"%03d.png" % number),
                          os.path.join(os.fsencode(folder), name))  # fmt: skip
    write_images(tmp_path / "photos", 8, 0, 64)
    for number, name in enumerate(NAMES):
        os.rename(os.path.join(os.fsencode(tmp_path), b"photos", b"%03d.png" % number),
                  os.path.join(os.fsencode(tmp_path), b"photos", name))  # fmt: skip
    return root


def test_every_command(tmp_path, pictures, capsys):
    run, count = tmp_path / "runs" / "r", 0

    def ends_well(command, *arguments, codes=(0,)):
        nonlocal count
        code, out, err = call(command, arguments, capsys)
        assert code in codes, err
        assert "\x1b" not in out + err and "\u202e" not in out + err
        count += 1
        return out

    settings = [text for each in SMALL for text in ("--set", each)]
    ends_well("train", "--dataset", pictures, "--output", run.parent, "--name", "r", "--quiet",
              *settings)  # fmt: skip
    ends_well("evaluate", run, "--quiet")
    ends_well("evaluate", run, "--dataset", pictures, "--split", "test", "--quiet")
    ends_well("explain", run, "--count", "4", "--quiet")
    odd = [path for path in (pictures / "test" / "real").iterdir() if not path.name[0].isdigit()]
    ends_well("predict", run, *odd[:3], "--explain", tmp_path / "pages", "--quiet")
    assert len(list((tmp_path / "pages").glob("*.html"))) == 3
    for ending in ("csv", "jsonl", "parquet"):
        ends_well("predict", run, pictures, "--output", tmp_path / f"p.{ending}", "--quiet")
    table = (tmp_path / "p.csv").read_text(encoding="utf-8")
    assert "caf\\xe9.png" in table and "\x1b" not in table
    ends_well("predict", run, pictures, "--json", "--quiet")
    ends_well("calibrate", run, "--quiet")
    ends_well("export", run)
    # The exit code is 1 if the audit finds shortcuts, as it may in so few images.
    ends_well("audit", "--dataset", pictures, "--output", tmp_path / "audit", "--fix",
              tmp_path / "fixed", "--fixes", "formats", codes=(0, 1))  # fmt: skip
    ends_well("prepare", "--dataset", pictures, "--output", tmp_path / "shards", "--quiet")
    ends_well("evaluate", run, "--dataset", tmp_path / "shards" / "pictures" / "1.0.0", "--quiet")
    ends_well("synthesize", "--source", tmp_path / "photos", "--output", tmp_path / "forged",
              "--masks", "rectangle", "--fill", "telea", "--quiet")  # fmt: skip
    with capsys.disabled():
        print(f"\nodd names: {count} commands, none refused or ended by a name")
