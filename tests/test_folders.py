"""How folders are listed and understood: links, junk, masks, nested layouts."""

import json
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_images
from PIL import Image

from tfdetect.core.class_order import RunClasses
from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError
from tfdetect.core.folder_names import class_polarity, is_mask_folder
from tfdetect.core.image_names import has_signature, is_image
from tfdetect.core.load_spec import load_spec
from tfdetect.core.run_migration import current_spec
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.walk import _MAX_VISITS, Walk
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.describe import describe_classes, describe_data
from tfdetect.data.image_files import find_images
from tfdetect.data.locate import locate
from tfdetect.data.scan import scan
from tfdetect.data.scan_result import (
    IN_MASKS,
    IS_MASK,
    MASK_FILE,
    OUTSIDE,
    SAME_FILE,
)


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


# --- what a folder is


def images(root, *paths):
    """One image of a pixel each, all different: scans do not decode, and each file is another."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(f"image {path}".encode())


def understood(root, authentic=None, evaluation=None):
    """The spec and the scan of a folder."""
    spec, _ = load_spec(str(root), authentic, evaluation)
    return spec, scan(spec, root)


def counts(spec, scanned):
    """Number of images by split text and class name."""
    found = {}
    for row in scanned.files.to_pylist():
        key = row["folder_split"], spec.class_names[row["label"]]
        found[key] = found.get(key, 0) + 1
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("real", "authentic"), ("REAL", "authentic"), ("0_real", "authentic"), ("Au", "authentic"),
        ("Real Images", "authentic"), ("training_real", "authentic"), ("nature", "authentic"),
        ("fake", "fake"), ("1_fake", "fake"), ("AI-generated", "fake"), ("deepfakes", "fake"),
        ("0", None), ("1", None), ("real_and_fake", None), ("not real", None), ("cats", None),
        ("unreal", None), ("", None), ("train", None),
    ],
)  # fmt: skip
def test_polarity_is_never_guessed(name, expected):
    assert class_polarity(name) == expected


@pytest.mark.parametrize(
    "folder",
    ["Groundtruth", "CASIA 2 Groundtruth", "masks", "mask", "gt", "Ground-Truth", "fake_masks",
     "edgemask", "MASK", "segmentation", "SegmentationClass", "annotations", "fake_seg"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["{}", "train/{}", "fake/{}"])
def test_folders_of_masks_are_no_classes(tmp_path, folder, where):
    top = "train/" if where.startswith("train") else ""
    images(tmp_path, f"{top}real/1.png", f"{top}fake/2.png", f"{top}fake/3.png")
    place = where.format(folder)
    images(tmp_path, f"{place}/2.png", f"{place}/deep/3.png")
    spec, scanned = understood(tmp_path)
    assert spec.class_names == ("real", "fake")
    assert sorted(scanned.files["label"].to_pylist()) == [0, 1, 1]
    assert set(scanned.left_out["reason"].to_pylist()) == {IN_MASKS}
    assert scanned.left_out.num_rows == 2


@pytest.mark.parametrize("name", ["Fake annotated", "matted", "labels", "segments of trains"])
def test_other_folders_are_not_taken_for_masks(name):
    assert not is_mask_folder(name)


def test_maps_beside_images_of_one_class_are_left_out_and_counted(tmp_path):
    images(tmp_path, "segmentation/1.png", "deep/annotations/2.png")
    for number in (1, 2):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    run_classes = RunClasses(("real", "fake"), label="authentic")
    spec, _ = load_spec(str(tmp_path), run_classes=run_classes)
    catalog = build_catalog(spec, {spec.name: tmp_path}, progress=False)
    lines = describe_data(spec, catalog)
    assert sorted(catalog.table["path"].to_pylist()) == ["1.png", "2.png"]
    assert "2 left out" in "".join(lines) and "may be masks" not in "".join(lines)
    images(tmp_path, "only/annotations/1.png")
    spec, _ = load_spec(str(tmp_path / "only"), run_classes=run_classes)
    with pytest.raises(UserError, match="If these are the images, rename their folder"):
        scan(spec, tmp_path / "only")


def test_masks_beside_their_images_are_no_fakes(tmp_path):
    images(tmp_path, "real/1.png", "fake/2.jpg", "fake/2_mask.png", "fake/3.png", "fake/3-gt.png",
           "fake/venetian_mask.png")  # fmt: skip
    _, scanned = understood(tmp_path)
    assert {r["path"]: r["reason"] for r in scanned.left_out.to_pylist()} == {
        "fake/2_mask.png": MASK_FILE, "fake/3-gt.png": MASK_FILE
    }  # fmt: skip
    assert "fake/venetian_mask.png" in scanned.files["path"].to_pylist()


@pytest.mark.parametrize("leave_out", [[], ["mask"]])
def test_a_mask_beside_its_image_is_left_out_by_a_spec(tmp_path, leave_out):
    """The pattern matches masks, too, and they would lack masks of their own."""
    images(tmp_path, "real/1.png", "fake/2.png", "fake/2_mask.png", "fake/3.png", "fake/3_mask.png",
           "fake/4.png", "fake/5.png", "fake/5_mask.png")  # fmt: skip
    (tmp_path / "fake/5.png").write_bytes(b"")
    classes = [{"name": "real", "folders": ["real"]},
               {"name": "fake", "folders": ["fake"], "mask": "fake/{stem}_mask.png"}]  # fmt: skip
    spec = DatasetSpec(name="x", pattern=r"(?P<class>real|fake)/(?P<stem>.+)\.png", classes=classes,
                       leave_out=leave_out)  # fmt: skip
    scanned = scan(spec, tmp_path)
    assert scanned.files["path"].to_pylist() == ["fake/2.png", "fake/3.png", "real/1.png"]
    assert {row["path"]: row["error"] for row in scanned.skipped.to_pylist()} == {
        "fake/4.png": "its mask fake/4_mask.png is missing", "fake/5.png": "empty file",
    }  # fmt: skip
    left = {row["path"]: row["reason"] for row in scanned.left_out.to_pylist()}
    assert set(left) == {f"fake/{n}_mask.png" for n in (2, 3, 5)}
    assert left["fake/2_mask.png"] == left["fake/3_mask.png"] == IS_MASK
    assert scanned.counts == {(None, 0): 1, (None, 1): 4} and scanned.total == 8


@pytest.mark.parametrize("count", [3, 4, 5])
def test_never_is_just_one_unusable_file_hidden(tmp_path, count):
    write_images(tmp_path / "real", 60, 0)
    write_images(tmp_path / "fake", 90, 1)
    for number in range(count):
        (tmp_path / f"fake/00{number}.png").write_bytes(b"")
    spec, _ = load_spec(str(tmp_path))
    [line] = [line for line in describe_data(
        spec, build_catalog(spec, {spec.name: tmp_path}, progress=False)
    ) if "cannot be used: " in line]  # fmt: skip
    assert line.count("empty file") == (count if count <= 4 else 3)
    assert line.endswith("...") == (count > 4)


def test_a_mask_that_a_manifest_lists_as_an_image_is_left_out(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png", "m.png")
    (tmp_path / "manifest.csv").write_text(
        "path,label,mask\na.png,real,\nb.png,fake,m.png\nc.png,fake,c.png\nm.png,fake,\n"
    )
    _, scanned = understood(tmp_path)
    assert scanned.files["path"].to_pylist() == ["a.png", "b.png", "c.png"]
    assert scanned.left_out.to_pylist() == [{"path": "m.png", "reason": IS_MASK}]


@pytest.mark.parametrize(("image", "mask"), [
    ("fake/{}.png", "fake/{}_mask.png"), ("{split}/fake/{}.jpg", "{split}/fake/{}-gt.png"),
    ("fake/{}.png", "masks/{}.png"), ("fake/{}.png", "fake/masks/{}.png"),
    ("{split}/fake/{}.png", "{split}/masks/{}_gt.png"),
    ("fake/deep.er/{}.png", "fake/deep.er/{}.mask.png"),
    ("{split}/fake/{}.png", "masks/{split}/fake/{}.png"),
])  # fmt: skip
def test_the_spec_that_is_offered_uses_the_masks(tmp_path, image, mask):
    """As it is printed; the one before took masks beside their images for fakes."""
    splits = ("train", "test") if "{split}" in image else ("",)
    for split, number in ((s, n) for s in splits for n in range(6)):
        for place, value in ((image.replace("fake", "real"), 40 * number), (image, 255), (mask, 0)):
            file = tmp_path / place.format(f"{split}{number}", split=split)
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 8), value, np.uint8)
            pixels[number, :5] = 255 - value
            Image.fromarray(pixels).save(file, "PNG")

    def described():
        spec, _ = load_spec(str(tmp_path))
        catalog = build_catalog(spec, {spec.name: tmp_path}, progress=False)
        return catalog, describe_data(spec, catalog)

    before, lines = described()
    count = 6 * len(splits)
    assert f"{count} files may be masks" in lines[-2] and lines[-2].endswith(
        f"save this dataset spec as {tmp_path / 'dataset.yaml'}, by which the folder is read "
        f"then; {count} of {count} fakes have a mask:"
    )
    (tmp_path / "dataset.yaml").write_text(lines[-1])
    after, lines = described()
    assert f"fake: {count} masks, 0 empty, 0 full" in "\n".join(lines)
    assert after.table["path"].to_pylist() == before.table["path"].to_pylist()
    assert after.table["split"].to_pylist() == before.table["split"].to_pylist()
    assert not after.skipped.num_rows
    assert after.left_out["reason"].to_pylist() == [IS_MASK] * count


def test_a_mask_folder_that_is_named_is_a_class(tmp_path):
    images(tmp_path, "gt/1.png", "fake/2.png")
    with pytest.raises(UserError, match="only one class, 'fake'"):
        load_spec(str(tmp_path))
    spec, scanned = understood(tmp_path, "gt")
    assert spec.class_names == ("gt", "fake") and scanned.files.num_rows == 2


@pytest.mark.parametrize("extra", ["__MACOSX/real/._1.png", "ela/1.png", "empty/", ".cache/1.png",
                                   "notes/readme.txt", "@eaDir/1.png"])  # fmt: skip
def test_junk_and_empty_folders_are_no_classes(tmp_path, extra):
    images(tmp_path, "real/1.png", "fake/2.png")
    if extra.endswith("/"):
        (tmp_path / extra).mkdir()
    else:
        images(tmp_path, extra)
    spec, scanned = understood(tmp_path)
    assert spec.class_names == ("real", "fake") and scanned.files.num_rows == 2


def test_an_empty_class_is_named(tmp_path):
    images(tmp_path, "real/1.png")
    (tmp_path / "fake").mkdir()
    with pytest.raises(UserError, match=r"only one class, 'real'.*No images are in fake\."):
        load_spec(str(tmp_path))


@pytest.mark.parametrize(
    ("layout", "names", "splits"),
    [
        ("Dataset/{Train,Validation,Test}/{Real,Fake}", ("Real", "Fake"), 3),
        ("{train,val}/{car,cat}/{0_real,1_fake}", ("0_real", "1_fake"), 2),
        ("{biggan,crn}/{0_real,1_fake}", ("0_real", "1_fake"), 0),
        ("a/b/c/{real,fake}", ("real", "fake"), 0),
        ("{ADM,glide}/inner/{train,val}/{ai,nature}", ("nature", "ai"), 2),
        ("{train,test}/{real,sdxl,midjourney}", ("real", "midjourney", "sdxl"), 2),
        ("real_vs_fake/real-vs-fake/{train,valid,test}/{fake,real}", ("real", "fake"), 3),
        ("{Train/Real,Train/Fake,test/real,test/fake}", ("Real", "Fake"), 2),
    ],
)
def test_nested_layouts(tmp_path, layout, names, splits):
    folders = expanded(layout)
    images(tmp_path, *(f"{folder}/{n}.png" for folder in folders for n in range(2)))
    spec, scanned = understood(tmp_path)
    assert spec.class_names == names and len(spec.splits) == splits
    assert set(read_as(spec)) >= set(folders)
    assert scanned.files.num_rows == 2 * len(folders) and not scanned.left_out.num_rows
    for row in scanned.files.to_pylist():
        folder = row["path"].split("/")[-2]
        assert spec.class_names[row["label"]].lower() == folder.lower()


def read_as(spec):
    """The folders that the title of a spec names."""
    return expanded(spec.title.partition(", read as ")[2])


def test_folders_that_are_no_classes_beside_splits_without_classes(tmp_path):
    images(tmp_path, "train/1.png", "test/2.png", "A/real/3.png", "A/fake/4.png")
    spec, scanned = understood(tmp_path)
    assert spec.class_names == ("real", "fake") and scanned.files.num_rows == 2
    assert scanned.left_out["reason"].to_pylist() == [OUTSIDE] * 2


def test_many_files_beside_class_folders_do_not_hide_them(tmp_path):
    images(tmp_path, *(f"{n}.png" for n in range(2000)), "real/1.png", "fake/2.png")
    spec, scanned = understood(tmp_path)
    assert spec.class_names == ("real", "fake") and scanned.left_out.num_rows == 2000


def test_a_thousand_unknown_folders_make_a_short_message(tmp_path):
    images(tmp_path, *(f"person{n}/1.png" for n in range(1000)))
    with pytest.raises(UserError, match="No class looks authentic") as error:
        load_spec(str(tmp_path))
    assert len(str(error.value)) < 600


def expanded(layout):
    """The paths of a layout with alternatives in braces, as in a shell."""
    before, brace, rest = layout.partition("{")
    if not brace:
        return [layout]
    inside, _, after = rest.partition("}")
    return [path for part in inside.split(",") for path in expanded(before + part + after)]


def test_generators_are_known_by_their_folders(tmp_path):
    images(tmp_path, "real/1.png", "fake/sd21/2.png", "fake/Midjourney_v5/3.png")
    _, scanned = understood(tmp_path)
    assert [row["generator"] for row in scanned.files.to_pylist()] == [
        "Midjourney", "Stable Diffusion 2.1", None
    ]  # fmt: skip
    layout = "{ADM/imagenet_ai_0508_adm,glide/imagenet_glide}/{train,val}/{ai,nature}"
    images(tmp_path / "g", *(f"{folder}/0.png" for folder in expanded(layout)))
    _, scanned = understood(tmp_path / "g")
    assert set(scanned.files["generator"].to_pylist()) == {"ADM", "GLIDE"}


def test_categories_of_objects_are_no_generators(tmp_path):
    images(tmp_path, *(f"{c}/{k}/0.png" for c in ("car", "cat") for k in ("0_real", "1_fake")))
    _, scanned = understood(tmp_path)
    assert set(scanned.files["generator"].to_pylist()) == {None}


def test_a_category_is_not_taken_for_the_authentic_class(tmp_path):
    images(tmp_path, *(f"{c}/{k}/0.png" for c in ("car", "cat") for k in ("0_real", "1_fake")))
    with pytest.raises(UserError, match=r"Unknown class for --authentic 'car'.*0_real, 1_fake"):
        load_spec(str(tmp_path), "car")


def test_class_folders_beside_split_folders_are_refused(tmp_path):
    images(tmp_path, "real/1.png", "fake/2.png", "test/real/3.png", "test/fake/4.png")
    with pytest.raises(UserError, match="beside the split folder test"):
        load_spec(str(tmp_path))


def test_unlabeled_test_images_are_left_out_and_said(tmp_path):
    images(tmp_path, "train/real/1.png", "train/fake/2.png", "test/3.png", "cover.png")
    spec, scanned = understood(tmp_path)
    assert counts(spec, scanned) == {("train", "real"): 1, ("train", "fake"): 1}
    assert {r["path"]: r["reason"] for r in scanned.left_out.to_pylist()} == {
        "test/3.png": OUTSIDE, "cover.png": OUTSIDE
    }  # fmt: skip


# --- labels


def test_numbers_are_no_labels(tmp_path):
    """In this set 1 is real and 0 is fake, as in many sets of Kaggle."""
    images(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "manifest.csv").write_text("path,label\na.png,1\nb.png,0\nc.png,1\nd.png,0\n")
    with pytest.raises(UserError, match=r"No class looks authentic among 0, 1.*Numbers are not"):
        load_spec(str(tmp_path))
    spec, scanned = understood(tmp_path, "1")
    assert {r["path"]: r["label"] for r in scanned.files.to_pylist()} == {
        "a.png": 0, "b.png": 1, "c.png": 0, "d.png": 1
    }  # fmt: skip
    assert "Authentic: 1 (by --authentic or --label)" in describe_classes(spec)


@pytest.mark.parametrize("names", [("0", "1"), ("cats", "dogs"), ("class_a", "class_b")])
def test_unknown_class_folders_are_asked_about(tmp_path, names):
    images(tmp_path, *(f"{name}/1.png" for name in names))
    with pytest.raises(UserError, match=f"among {names[0]}, {names[1]} .*--authentic NAME"):
        load_spec(str(tmp_path))
    assert understood(tmp_path, names[1])[0].class_names == names[::-1]


@pytest.mark.parametrize("label", ["0", "1"])
def test_one_number_alone_needs_a_label(tmp_path, label):
    images(tmp_path, "a.png")
    (tmp_path / "manifest.csv").write_text(f"path,label\na.png,{label}\n")
    with pytest.raises(UserError, match="--label authentic or --label fake"):
        load_spec(str(tmp_path), None, RunClasses(("real", "fake")))


def test_a_label_that_class_folders_contradict_is_refused(tmp_path):
    images(tmp_path, "real/a.png", "fake/b.png")
    with pytest.raises(UserError, match=r"\(real, fake\), which --label fake contradicts"):
        load_spec(str(tmp_path), None, RunClasses(("real", "fake"), "fake"))
    spec, _ = load_spec(str(tmp_path / "real"), None, RunClasses(("real", "fake"), "authentic"))
    assert spec.classes[0].folders == ("",)


def write_spec(root, **changes):
    file = root / "mine.yaml"
    document = {
        "name": "mine", "pattern": "(?P<class>[^/]+)/.+",
        "classes": [{"name": "fake", "folders": ["f"]}, {"name": "real", "folders": ["r"]}],
    } | changes  # fmt: skip
    file.write_text(json.dumps(document))
    return str(file)


def test_a_spec_whose_first_class_is_fake_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"the first class is the authentic one.*authentic: real"):
        load_spec(write_spec(tmp_path))
    spec, _ = load_spec(write_spec(tmp_path, authentic="real"))
    assert spec.class_names == ("real", "fake")
    assert "Authentic: real (by the dataset spec)" in describe_classes(spec)
    with pytest.raises(UserError, match=r"authentic is 'reel'.*fake, real"):
        load_spec(write_spec(tmp_path, authentic="reel"))


def test_authentic_must_agree_with_a_spec(tmp_path):
    name = write_spec(tmp_path, authentic="real")
    assert load_spec(name, "real")[0].class_names == ("real", "fake")
    with pytest.raises(UserError, match="says that real is authentic, not fake"):
        load_spec(name, "fake")
    with pytest.raises(UserError, match="Did you mean 'real'"):
        load_spec(name, "reel")


def test_what_the_user_says_of_a_doubtful_class_is_repeated(tmp_path):
    images(tmp_path, "real/1.png", "fake/2.png")
    spec, _ = load_spec(str(tmp_path), "fake")
    assert spec.class_names == ("fake", "real")
    assert "Check this: real counts as fake" in describe_classes(spec)
    assert load_spec_of_run(spec).class_names == ("fake", "real")


def load_spec_of_run(spec):
    """The spec as a run keeps it, read again."""
    data = yaml.safe_load(spec.to_yaml())
    return validate(DatasetSpec, current_spec(data), "dataset.yaml")


def test_three_classes_have_the_order_of_the_run(tmp_path):
    """By the alphabet, edited would be class 1 and generated class 2."""
    images(tmp_path, "real/1.png", "edited/2.png", "generated/3.png")
    run = RunClasses(("real", "generated", "edited"))
    spec, scanned = understood(tmp_path, None, run)
    assert spec.class_names == run.class_names
    assert {r["path"].split("/")[0]: r["label"] for r in scanned.files.to_pylist()} == {
        "real": 0, "generated": 1, "edited": 2
    }  # fmt: skip
    images(tmp_path / "other", "real/1.png", "pasted/2.png", "drawn/3.png")
    with pytest.raises(UserError, match=r"real, generated, edited.*real, drawn, pasted"):
        load_spec(str(tmp_path / "other"), None, run)


# --- files that add up


def test_every_file_is_used_skipped_or_counted(tmp_path):
    images(
        tmp_path, "real/1.png", "real/2.JPG", "fake/3.ppm", "fake/4", "fake/new\nline.png",
        "fake/masks/3.png", "extra/1.png", "notes.txt", "fake/.hidden.png",
        "fake/Thumbs.db", "__MACOSX/fake/._3.png", ".git/objects/ab", "fake/data.json",
    )  # fmt: skip
    (tmp_path / "fake" / "4").write_bytes(b"\x89PNG\r\n\x1a\nrest")  # an image without a suffix
    (tmp_path / "real" / "empty.png").write_bytes(b"")
    (tmp_path / "real" / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "real" / "again.png").symlink_to("1.png")
    os.mkfifo(tmp_path / "real" / "pipe.png")
    (tmp_path / "real" / "self").symlink_to(".")
    (tmp_path / "extra").rename(tmp_path / "gt")
    _, scanned = understood(tmp_path)
    assert sorted(scanned.files["path"].to_pylist()) == [
        "fake/3.ppm", "fake/4", "fake/new\nline.png", "real/1.png", "real/2.JPG"
    ]  # fmt: skip
    skipped = {r["path"]: r["error"] for r in scanned.skipped.to_pylist()}
    assert skipped == {
        "real/empty.png": "empty file",
        "real/broken.png": "a link to a file that does not exist",
        "real/pipe.png": "a named pipe",
    }
    left_out = {r["path"]: r["reason"] for r in scanned.left_out.to_pylist()}
    assert left_out == {
        "fake/masks/3.png": IN_MASKS, "gt/1.png": IN_MASKS,
        "real/again.png": f"{SAME_FILE} real/1.png",
    }  # fmt: skip
    assert scanned.other == {
        ".txt": 1, ".json": 1, "hidden": 1, "Thumbs.db": 1, "__MACOSX": 1, ".git": 1
    }  # fmt: skip
    on_disk = sum(len(files) for _, _, files in os.walk(tmp_path))
    assert scanned.total == on_disk
    assert scanned.warnings[0] == "links to a folder above are not followed: real/self"


def test_only_files_of_a_manifest_are_counted(tmp_path):
    images(tmp_path, "a.png", "b.png", "c.png", "masks/b.png", "readme.md")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "manifest.csv").write_text(
        "path,label,mask\na.png,real,\nb.png,fake,masks/b.png\nlost.png,fake,\npipe.png,fake,\n"
    )
    _, scanned = understood(tmp_path)
    assert {r["path"]: r["error"] for r in scanned.skipped.to_pylist()} == {
        "lost.png": "no such file", "pipe.png": "it is a pipe or device, not a file"
    }  # fmt: skip
    assert scanned.total == 4  # files beside it are not looked at


def test_links_count_once_in_a_class_and_split(tmp_path):
    images(tmp_path, "store/1.png", "store/2.png", "train/fake/3.png", "val/fake/4.png")
    for name in ("train/real", "val/real"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "train" / "real" / "a").symlink_to("../../store")
    (tmp_path / "train" / "real" / "b").symlink_to("../../store")
    os.link(tmp_path / "store" / "1.png", tmp_path / "val" / "real" / "hard.png")
    spec, scanned = understood(tmp_path)
    assert counts(spec, scanned) == {
        ("train", "real"): 2, ("train", "fake"): 1, ("val", "real"): 1, ("val", "fake"): 1
    }  # fmt: skip
    again = [r for r in scanned.left_out.to_pylist() if r["reason"].startswith(SAME_FILE)]
    assert [r["path"] for r in again] == ["train/real/b/1.png", "train/real/b/2.png"]
    assert "2 paths through links to files that count already" in scanned.warnings[0]
    assert scanned.warnings[1] == (
        "several splits have the same files through links: train/real/a/1.png = val/real/hard.png"
    )


def test_one_file_in_two_classes_is_an_error(tmp_path):
    images(tmp_path, "real/1.png", "fake/2.png")
    (tmp_path / "fake" / "copy.png").symlink_to("../real/1.png")
    with pytest.raises(UserError, match=r"same file, in the class fake and in the class real"):
        understood(tmp_path)


def test_linked_datasets_are_found_by_locate(tmp_path):
    images(tmp_path, "store/train/REAL/1.jpg", "store/train/FAKE/2.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifake").symlink_to("../store")
    spec, _ = load_spec("cifake")
    assert locate(spec, tmp_path / "data") == tmp_path / "data" / "cifake"
    assert find_images([str(tmp_path / "data")]).paths == [
        str(tmp_path / "data" / "cifake" / "train" / name) for name in ("FAKE/2.jpg", "REAL/1.jpg")
    ]


def test_patterns_do_not_follow_links_in_circles(tmp_path):
    images(tmp_path, "a/1.png", "a/b/2.png")
    for name in ("x", "y"):
        (tmp_path / "a" / name).symlink_to(".")
    found = find_images([str(tmp_path / "**" / "*.png")])
    assert found.paths == [str(tmp_path / "a/1.png"), str(tmp_path / "a/b/2.png")]


def test_what_cannot_be_read_is_named_in_predictions(readable_by_all):
    root = readable_by_all
    images(root, "1.png", "secret/2.png", "notes.txt")
    os.mkfifo(root / "pipe.png")
    (root / "secret").chmod(0)
    with unprivileged():
        found = find_images([str(root)])
    (root / "secret").chmod(0o700)
    assert found.paths == [str(root / "1.png")]
    assert found.errors == {
        str(root / "secret"): "it cannot be listed: Permission denied",
        str(root / "pipe.png"): "a named pipe",
    }
    assert found.describe().startswith(
        "Files: 4 = 1 image + 2 that cannot be opened + 1 of other kinds"
    )
