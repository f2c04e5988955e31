"""Situations of people's own folders, through the real commands: each with its right value.

Every command that reads a dataset is called on trees as they come out of archives, file managers
and other people's scripts. It gives the right labels, says which class is authentic and why, and
accounts for every file on the disk; or it refuses with one message and exit code 2. Run it with

    python -m pytest -n 0 -m slow -s tests/campaigns/test_situations.py
"""

import csv
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands import call
from conftest import SMALL, train_small, write_images

pytestmark = pytest.mark.slow
FILES = re.compile(
    r"Files: ([\d,]+) = ([\d,]+) images used \+ ([\d,]+) that cannot be used \+ ([\d,]+) left out "
    r"\+ ([\d,]+) that are no images"
)
SETTINGS = [part for text in SMALL for part in ("--set", text)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that tells real from fake."""
    root = tmp_path_factory.mktemp("situations")
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(root / "data" / name, 60, fake)
    return train_small(root / "data", root, ["training.epochs=15"], name="judge").path


@pytest.fixture
def answers(capsys, tmp_path, monkeypatch):
    """Calls commands, in a folder of their own; answers with exit code, stdout and stderr."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def ask(command, *arguments):
        code, out, err = call(command, arguments, capsys)
        assert "Traceback" not in err
        return code, out, err

    return ask


def tree(root, *folders, count=20, extension="png"):
    """Images in folders: with a checkerboard where the last known word of the path means fake."""
    for number, folder in enumerate(folders):
        fake = bool(re.search(r"fake|\btp\b|\bai\b|altered", folder.lower().replace("_", " ")))
        write_images(root / folder, count, int(fake), seed=number, extension=extension)
    return root


def on_disk(root):
    """The number of files below a folder; links are not followed."""
    return sum(len(names) + sum((Path(parent) / f).is_symlink() for f in folders)
               for parent, folders, names in os.walk(root))  # fmt: skip


def commands_on(answers, run, root, *arguments):
    """What the commands that read a dataset say of it: the numbers of files, and the text."""
    found = {}
    given = ["--dataset", root, *arguments]
    for command, more in (
        ("audit", []), ("train", ["--dry-run", *SETTINGS]),
        ("prepare", ["--output", "shards"]), ("evaluate", ["--no-images", "--split", "all"]),
    ):  # fmt: skip
        start = [run] if command == "evaluate" else []
        code, out, err = answers(command, *start, *given, *more)
        assert code == 0 or (command == "audit" and code == 1), f"{command}: {err}"
        text = out + err
        total, *parts = (int(n.replace(",", "")) for n in FILES.search(text).groups())
        assert total == sum(parts), command
        found[command] = total, *parts, text
    return found


@pytest.mark.parametrize(
    ("name", "layout", "authentic"),
    [
        ("plain", ["real", "fake"], "real"),
        ("nested", [f"Dataset/{s}/{c}" for s in ("Train", "Validation", "Test")
                    for c in ("Real", "Fake")], "Real"),
        ("forensynths", [f"{s}/{o}/{c}" for s in ("train", "val") for o in ("car", "cat")
                         for c in ("0_real", "1_fake")], "0_real"),
        ("forensynths test", [f"{g}/{c}" for g in ("crn", "biggan")
                              for c in ("0_real", "1_fake")], "0_real"),
        ("genimage", [f"ADM/inner/{s}/{c}" for s in ("train", "val") for c in ("ai", "nature")],
         "nature"),
        ("casia", ["Au", "Tp", "CASIA 2 Groundtruth"], "Au"),
        ("masks", ["real", "fake", "masks", "ela"], "real"),
        ("macosx", ["real", "fake", "__MACOSX/real"], "real"),
    ],
)  # fmt: skip
def test_layouts_through_every_command(answers, run, tmp_path, name, layout, authentic):
    root = tree(tmp_path / name, *layout)
    (root / "notes.txt").write_text("notes")
    classes = [f for f in layout if "masks" not in f and "Ground" not in f and "MACOSX" not in f
               and f != "ela"]  # fmt: skip
    for command, (total, used, bad, left, other, text) in commands_on(answers, run, root).items():
        assert total == on_disk(root), command
        assert used == 20 * len(classes) and bad == 0, command
        assert left + other == total - used
        # `evaluate` names the classes as the run does: Real is its real.
        assert f"authentic: {authentic} (by its name)".lower() in text.lower(), command
    rows = pq.read_table(next(Path("shards").rglob("catalog.parquet"))).to_pylist()
    assert len(rows) == 20 * len(classes)
    for row in rows:
        fake = re.search(r"fake|tp|ai", row["path"].rsplit("/", 2)[-2].lower())
        assert row["label"] == bool(fake)


def test_labels_of_numbers_are_asked_for_by_every_command(answers, run, tmp_path):
    root = tree(tmp_path / "d", "a", "fake", count=30)
    lines = [f"{folder}/{n:03d}.png,{int(folder == 'a')}" for folder in ("a", "fake")
             for n in range(30)]  # fmt: skip
    (root / "manifest.csv").write_text("\n".join(["path,label", *lines]))
    for command, more in (("audit", []), ("train", []), ("evaluate", []),
                          ("prepare", ["--output", "s"]), ("matrix", [])):  # fmt: skip
        start = [run] if command == "evaluate" else []
        code, _, err = answers(command, *start, "--dataset", root, *more)
        assert code == 2 and "--authentic NAME" in err, command
        assert len(err.strip().splitlines()) <= 3, err
    for command, found in commands_on(answers, run, root, "--authentic", "1").items():
        assert "Authentic: 1 (by --authentic or --label). Fake: 0." in found[-1], command
    result = json.loads(answers("evaluate", run, "--dataset", root, "--authentic", "1", "--json",
                                "--no-images")[1])  # fmt: skip
    assert result["all"]["metrics"]["auc"]["value"] > 0.9  # and not below 0.1


def test_files_of_all_kinds_add_up(answers, run, tmp_path):
    root = tree(tmp_path / "odd", "real", "fake", count=100)
    for number in range(3):
        Image.open(root / f"fake/{number:03d}.png").save(root / f"fake/x{number}.ppm")
    (root / "fake/000.png").rename(root / "fake/no suffix")
    (root / "fake/001.png").rename(root / "fake/new\nline.png")
    (root / "fake/broken.jpg").write_text("no image")
    (root / "real/lost.png").symlink_to("nowhere.png")
    os.mkfifo(root / "real/pipe.png")
    (root / "real/self").symlink_to(".")
    (root / "real/other").symlink_to("..")
    (root / "real/again.png").symlink_to("000.png")
    (root / "real/.hidden.png").write_bytes(b"x")
    (root / "cover.png").write_bytes((root / "real/000.png").read_bytes())
    (root / "readme.md").write_text("x")
    links = 2  # of folders, which are no files
    for command, (total, used, bad, left, other, text) in commands_on(answers, run, root).items():
        assert total == on_disk(root) - links, command
        assert used + bad == 200 + 3 + 3, command
        assert bad >= 3 and (left, other) == (2, 2), text
        assert "links to a folder above are not followed" in text
    skipped = list(
        csv.DictReader(next(Path("shards").rglob("skipped.csv")).read_text().splitlines())
    )
    rows = pq.read_table(next(Path("shards").rglob("catalog.parquet"))).num_rows
    assert rows + len(skipped) == on_disk(root) - links - 2

    code, out, err = answers("predict", run, root, "--output", "p.jsonl")
    assert code == 0, err
    verdicts = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    images = [row for row in verdicts if row["error"] is None]
    assert len(verdicts) + 2 == on_disk(root) - links  # .hidden.png and readme.md are no images
    assert sum("new\nline" in row["path"] or "new\\nline" in row["path"] for row in images) == 1
    errors = {Path(row["path"]).name for row in verdicts if row["error"]}
    assert {"lost.png", "pipe.png", "broken.jpg"} <= errors


def test_linked_folders_are_followed_once(answers, run, tmp_path):
    store = tree(tmp_path / "store", "real", "fake")
    root = tmp_path / "links"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        (root / split / "fake").symlink_to(store / "fake")
    (root / "train" / "real").symlink_to(store / "real")
    tree(root, "test/real")
    for command, found in commands_on(answers, run, root).items():
        assert found[1] == 20 + 20 + 20 + 20, command
        assert "several splits have the same files" in found[-1], command
    code, out, _ = answers("audit", "--dataset", root)
    assert code == 1 and "unreliable" in out  # the leak
    (root / "test" / "fake").unlink()
    (root / "test" / "fake").symlink_to(store / "real")
    for command in ("audit", "train", "evaluate"):
        start = [run] if command == "evaluate" else []
        code, _, err = answers(command, *start, "--dataset", root)
        assert code == 2 and "are the same file, in the class" in err, command
    code, _, err = answers("predict", run, root, "--output", "p.csv")
    assert code == 0 and len(Path("p.csv").read_text().splitlines()) == 1 + 80


def test_too_many_unusable_images_stop_every_command(answers, run, tmp_path):
    root = tree(tmp_path / "half", "real", "fake", count=40)
    for number in range(6):
        (root / f"fake/{number:03d}.png").write_text("no image")
    for command, more in (("train", []), ("evaluate", []), ("prepare", ["--output", "s"])):
        start = [run] if command == "evaluate" else []
        code, _, err = answers(command, *start, "--dataset", root, *more)
        assert code == 2 and "6 of 80 images" in err and "max_unreadable_fraction" in err, command
    code, out, _ = answers("audit", "--dataset", root)
    assert "6 that cannot be used" in out


@pytest.mark.parametrize(("folder", "metric"), [("fake", "recall"), ("real", "false positive")])
def test_one_class_alone_can_be_evaluated(answers, run, tmp_path, folder, metric):
    root = tree(tmp_path / "only", folder)
    code, out, err = answers("evaluate", run, "--dataset", root, "--no-images")
    assert code == 0, err
    assert metric in out.lower() and FILES.search(err)
    code, out, err = answers("train", "--dataset", root)
    assert code == 2 and f"only one class, '{folder}'" in err


def test_three_classes_are_not_swapped(answers, tmp_path):
    root = tree(tmp_path / "three", "real", "generated_fake", "edited")
    (root / "generated_fake").rename(root / "generated")
    spec = {
        "name": "three", "pattern": "(?P<class>real|generated|edited)/.+",
        "classes": [{"name": n, "folders": [n]} for n in ("real", "generated", "edited")],
    }  # fmt: skip
    (root / "dataset.yaml").write_text(json.dumps(spec))
    found = train_small(root, tmp_path, name="kinds")
    shutil.copytree(root, tmp_path / "bare", ignore=shutil.ignore_patterns("dataset.yaml"))
    results = [
        json.loads(answers("evaluate", found.path, "--dataset", folder, "--split", "all",
                           "--no-images", "--json", "--output", tmp_path / name)[1])
        for folder, name in ((root, "spec"), (tmp_path / "bare", "folder"))
    ]  # fmt: skip
    assert results[0]["all"]["confusion"] == results[1]["all"]["confusion"]


def test_photographs_are_synthesized_once(answers, tmp_path):
    root = tmp_path / "photos"
    write_images(root / "a", 6, 0, side=64)
    (root / "b").symlink_to("a")
    (root / "a/self").symlink_to(".")
    (root / "a/.hidden.png").write_bytes(b"x")
    (root / "notes.txt").write_text("x")
    os.mkfifo(root / "pipe.jpg")
    code, out, err = answers("synthesize", "--source", root, "--output", "forged", "--fill",
                             "telea", "--workers", "1")  # fmt: skip
    assert code == 0 and "6 forgeries in forged" in out, err
    assert "6 images" in err and "a named pipe" in err
    rows = csv.DictReader(Path("forged/provenance.csv").read_text().splitlines())
    sources = {row["source"] for row in rows}
    assert len(sources) == 6


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (["Groundtruth"], "no class folders"),
        (["cats", "dogs"], "--authentic NAME"),
        (["0", "1"], "Numbers are not taken for labels"),
        (["real", "fake", "test/real", "test/fake"], "beside the split folder test"),
        (["real", "original", "fake"], "Several classes look authentic"),
        (["test/real", "test/fake"], "no train folder"),
        (["."], "no class folders"),
    ],
)
@pytest.mark.parametrize("command", ["train", "audit", "prepare"])
def test_what_is_not_clear_is_asked(answers, tmp_path, layout, message, command):
    root = tree(tmp_path / "unclear", *layout, count=3)
    more = ["--output", "s"] if command == "prepare" else []
    code, _, err = answers(command, "--dataset", root, *more)
    assert code == 2 and message in err
    assert not Path("s").exists()


def test_long_names_get_their_row(answers, run, tmp_path):
    write_images(tmp_path / "long", 2, 0)
    name = "a_photo_of_an_astronaut_riding_a_horse_" * 6 + "on_mars"
    (tmp_path / "long/000.png").rename(tmp_path / "long" / f"{name[:250]}.png")
    code, _, err = answers("predict", run, tmp_path / "long", "--output", "p.csv", "--explain",
                           "pages")  # fmt: skip
    assert code == 0, err
    assert len(Path("p.csv").read_text().splitlines()) == 3
    assert len(list(Path("pages").glob("*.html"))) == 2
