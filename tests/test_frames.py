"""Animations and files of several pages: counted, and said on verdicts and of datasets."""

import json

import numpy as np
import pytest
from commands import call
from conftest import write_images
from PIL import Image

import tfdetect
from tfdetect.core.columns import Column, Table
from tfdetect.core.run import Run
from tfdetect.core.run_info import RunInfo
from tfdetect.data.describe import describe_files
from tfdetect.data.plan import find_data, make_plan
from tfdetect.evaluation.prediction_tables import format_predictions
from tfdetect.evaluation.remarks import MANY, frames_sentence, mask_contradiction, remarks
from tfdetect.imaging.frames import frames_of, may_have_several

KINDS = {"gif": "GIF", "webp": "WEBP", "png": "PNG", "tif": "TIFF", "avif": "AVIF"}


def write_frames(path, count, side=40):
    rng = np.random.default_rng(3)
    frames = [
        Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)) for _ in range(count)
    ]
    more = {"save_all": True, "append_images": frames[1:]} if count > 1 else {}
    frames[0].save(path, KINDS[path.suffix[1:]], **more)


@pytest.mark.parametrize("suffix", KINDS)
def test_frames_are_counted_from_a_path_and_from_bytes(suffix, tmp_path):
    for count in (1, 3):
        path = tmp_path / f"{count}.{suffix}"
        write_frames(path, count)
        assert frames_of(path) == frames_of(path.read_bytes()) == count
        if count > 1:
            assert may_have_several(path.read_bytes())


def test_what_cannot_be_counted_has_one_frame(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.jpg")
    assert frames_of(tmp_path / "a.jpg") == frames_of(tmp_path / "none.gif") == 1
    assert frames_of(b"GIF89a") == frames_of(b"") == 1
    write_frames(tmp_path / "a.gif", 3)
    assert frames_of(tmp_path / "a.gif", max_pixels=100) == 1  # refused before it is opened


def test_the_verdict_on_an_animation_says_that_it_is_of_the_first_frame(
    shared_run, tmp_path, capsys
):
    run, _ = shared_run
    write_frames(tmp_path / "moves.gif", 4)
    write_frames(tmp_path / "still.png", 1)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    _, out, _ = call("predict", [run.path, tmp_path], capsys)
    [line] = [line for line in out.splitlines() if "moves.gif" in line]
    assert "first of 4 frames or pages" in line and out.count("first of") == 1
    code, out, _ = call("predict", [run.path, tmp_path, "--json"], capsys)
    rows = {row["path"].rpartition("/")[2]: row for row in json.loads(out)}
    assert rows["moves.gif"]["frames"] == 4 and rows["still.png"]["frames"] == 1
    assert rows["still.png"]["remarks"] == "" and rows["broken.png"]["frames"] is None
    detector = tfdetect.load(run)
    found = detector.predict(tmp_path / "moves.gif", pages=tmp_path / "pages", progress=False)
    assert "and only the first was classified" in found.pages[0].read_text()
    assert found[0]["remarks"] == "first of 4 frames or pages"


def test_a_dataset_says_how_many_of_its_files_have_further_frames(tmp_path):
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / name, 30, fake)
    for number in range(2):
        write_frames(tmp_path / "fake" / f"moves{number}.gif", 2)
    for _ in range(2):  # the second time from the cache
        catalog = find_data(make_plan(str(tmp_path)), progress=False, log=None)
        assert catalog.several_frames == 2 and "frames" not in catalog.table.column_names
        assert any(line.endswith("only the first is read: 2") for line in describe_files(catalog))


# --- masks that contradict the verdict

RUN = Run(path=None, info=RunInfo.model_construct(class_names=("photo", "altered")))


@pytest.mark.parametrize(
    ("verdict", "inconclusive", "fraction", "expected"),
    [
        ("photo", False, MANY, "marked"), ("photo", False, MANY / 2, ""), ("photo", False, 0, ""),
        ("altered", False, 0, "empty"), ("altered", False, 0.3, ""), ("photo", True, 0.9, ""),
        ("altered", True, 0, ""), ("altered", False, None, ""),
    ],
)  # fmt: skip
def test_a_mask_that_contradicts_the_verdict_is_remarked_on(
    verdict, inconclusive, fraction, expected
):
    row = {"verdict": verdict, "inconclusive": inconclusive, "altered_fraction": fraction}
    assert mask_contradiction(RUN, row) == expected
    words = {"marked": ["authentic, but 1% of the pixels are marked"], "": [],
             "empty": ["altered, but no pixel is marked"]}  # fmt: skip
    assert remarks(RUN, row) == words[expected]
    assert not frames_sentence(row)


def test_remarks_are_a_column_only_where_there_are_any():
    def table(remark):
        return Table({
            "path": Column.texts(["a", "b"]), "p_fake": Column(np.array([0.1, 0.2])),
            "verdict": Column.texts(["photo", "photo"]), "inconclusive": Column(np.zeros(2, bool)),
            "in_domain": Column.missing_bools(2), "duplicate_of_train": Column.missing_bools(2),
            "remarks": Column.texts([remark, None]), "error": Column.texts([None, "damaged"]),
        })  # fmt: skip

    assert "remarks" in format_predictions(table("first of 2 frames or pages"), ["photo"])
    assert "remarks" not in format_predictions(table(""), ["photo"])
