"""The audit: planted shortcuts are found, clean datasets are sound, fixes work."""

import csv
import io
import json
import shutil
import textwrap

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tfdetect.audit import main as audit_command
from tfdetect.auditing import duplicates, findings, shortcuts
from tfdetect.auditing.audit_dataset import audit_dataset, quick_findings
from tfdetect.auditing.audit_report import format_audit, write_report
from tfdetect.auditing.findings import CAUTION, NOTE, UNRELIABLE, file_findings
from tfdetect.auditing.fix_images import ImageToWrite, write_cropped
from tfdetect.auditing.fixes import fix_dataset
from tfdetect.auditing.traits import image_traits, radial_spectrum
from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.core.run_command import run_command
from tfdetect.data import splits
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.check_catalog import too_many_unusable
from tfdetect.data.locate import locate_dataset
from tfdetect.imaging.formats import MAX_PIXELS, ImageError
from tfdetect.imaging.jpeg_tables import jpeg_quality
from tfdetect.train import main as train_command

COUNT = 60  # images a class, a third of them test


def picture(rng, side=48):
    """Smooth noise with some grain, of the same kind for every class."""
    coarse = Image.fromarray(rng.integers(30, 225, (6, 6, 3), np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype("uint8"))


def exif():
    tags = Image.Exif()
    tags[0x010F] = "A camera"
    return tags


def make(root, how, seed=0, count=COUNT):
    """A folder dataset; `how(rng, fake, number)` gives an image's extension and save options,
    and may give its side and whether it is gray."""
    rng = np.random.default_rng(seed)
    for fake, name in enumerate(("real", "fake")):
        for number in range(count):
            options = {"extension": "jpg", "side": 48, "gray": False} | how(rng, fake, number)
            extension, side, gray = (options.pop(k) for k in ("extension", "side", "gray"))
            image = picture(rng, side)
            image = image.convert("L").convert("RGB") if gray else image
            split = "test" if number % 3 == 0 else "train"
            path = root / split / name / f"{rng.integers(10**8):08}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, **options)
    return root


@pytest.fixture(autouse=True)
def _few_images_are_enough(monkeypatch):
    """The datasets of these tests are small."""
    monkeypatch.setattr(splits, "MIN_IMAGES", 2)


def audited(root):
    return audit_dataset(*locate_dataset(str(root)), progress=False)


CLEAN = {
    "jpeg": lambda rng, fake, i: {"quality": 85},
    "png": lambda rng, fake, i: {"extension": "png"},
    "sizes": lambda rng, fake, i: {"side": int(rng.integers(40, 90))},
    "qualities": lambda rng, fake, i: {"quality": int(rng.integers(60, 96))},
    "formats": lambda rng, fake, i: {"extension": str(rng.choice(["jpg", "png", "webp"]))},
    "exif": lambda rng, fake, i: {"exif": exif()} if rng.random() < 0.5 else {},
}
# How to make images, then level, topic and words of the finding.
PLANTED = {
    "png fakes": (lambda rng, fake, i: {"extension": "png" if fake else "jpg"},
                  UNRELIABLE, "format", "File format alone predicts"),
    "quality": (lambda rng, fake, i: {"quality": 90 if fake else 95},
                UNRELIABLE, "format", "JPEG quality alone predicts"),
    "subsampling": (lambda rng, fake, i: {"quality": 85, "subsampling": 0 if fake else 2},
                    UNRELIABLE, "format", "Chroma subsampling alone predicts"),
    "size": (lambda rng, fake, i: {"side": 64 if fake else int(rng.integers(50, 100))},
             UNRELIABLE, "size", "Width alone predicts"),
    "exif": (lambda rng, fake, i: {} if fake else {"exif": exif()},
             CAUTION, "metadata", "EXIF alone predicts"),
    "some gray": (lambda rng, fake, i: {"gray": bool(fake and i % 3 == 0)},
                  CAUTION, "content", "Gray image predicts the label of some"),
    "some png": (lambda rng, fake, i: {"extension": "png" if fake and i % 4 == 0 else "jpg"},
                 CAUTION, "format", "File format predicts the label of some"),
    "a few small": (lambda rng, fake, i: {"side": 32 if fake and i % 4 else 48},
                    UNRELIABLE, "size", "Width alone predicts"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_clean_datasets_are_sound(tmp_path, name):
    found = audited(make(tmp_path / "set", CLEAN[name]))
    assert [f for f in found.findings if f.level != NOTE] == []
    assert found.verdict == "sound"


@pytest.mark.parametrize("name", PLANTED)
def test_planted_shortcuts_are_reported(tmp_path, name):
    how, level, topic, words = PLANTED[name]
    found = audited(make(tmp_path / "set", how))
    named = [f for f in found.findings if f.topic == topic and words in f.text]
    assert [f.level for f in named] == [level]
    assert found.level == level
    told = "A detector reads pixels alone" if topic == "metadata" else "Fix: crop all images"
    assert named[0].remedy.startswith("No fix can" if topic == "content" else told)
    assert textwrap.shorten(named[0].remedy, 40)[:-6] in " ".join(format_audit(found).split())


def test_the_quick_audit_finds_what_headers_show(tmp_path):
    for name, (how, level, topic, words) in PLANTED.items():
        spec, roots = locate_dataset(str(make(tmp_path / name, how)))
        found = quick_findings(spec, build_catalog(spec, roots, progress=False))
        seen = [f for f in found if f.topic == topic and words in f.text and f.level == level]
        assert bool(seen) == (topic != "content"), name


def test_duplicates_are_counted_by_kind(tmp_path):
    root = make(tmp_path / "set", CLEAN["png"])
    train, test = sorted((root / "train/real").iterdir()), sorted((root / "test/real").iterdir())
    shutil.copy(train[0], root / "test/real/byte.png")
    with Image.open(train[1]) as image:  # equal pixels, other bytes
        image.save(root / "test/real/pixel.png", compress_level=0)
        image.save(root / "train/fake/contradiction.png", compress_level=1)
        image.save(root / "test/real/near.jpg", quality=80)
    shutil.copy(test[0], root / "test/real/surplus.png")
    found = audited(root)
    exact, same, near = found.exact, found.same_bytes, found.near
    assert (exact.groups, same.groups, near.groups) == (3, 2, 1)
    assert exact.test_leaks == (2, 0) and same.test_leaks == (1, 0) and near.test_leaks == (1, 0)
    assert exact.redundant_test == (1, 0) and exact.redundant == (0, 0)
    assert exact.label_conflicts == 3 and same.label_conflicts == 0
    texts = [f.text for f in found.findings if f.topic == "duplicates"]
    assert (
        "3 images have exact duplicates with another label, so that their labels contradict each "
        "other."
    ) in texts
    assert found.level == UNRELIABLE


def test_similar_images_that_cannot_be_compared_are_told(tmp_path, monkeypatch):
    root = make(tmp_path / "set", CLEAN["png"])
    with Image.open(min((root / "train/real").iterdir())) as image:
        image.save(root / "test/real/near.jpg", quality=80)
    real = duplicates.read_rgb

    def read(path, *args, **kwargs):
        if path.endswith("near.jpg"):
            raise ImageError("it is gone")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(duplicates, "read_rgb", read)
    found = audited(root)
    assert found.near.groups == 0 and found.near.uncompared == 1
    [text] = [f.text for f in found.findings if f.topic == "duplicates"]
    assert text.startswith("1 pair of similar images could not be compared")
    assert duplicates._not_compared(("a.png", "b.png")) == (None,)  # where the process ended


def test_all_near_duplicates_are_found_and_nothing_else(tmp_path):
    rng = np.random.default_rng(3)
    root = tmp_path / "set"
    for name in ("real", "fake"):
        (root / "train" / name).mkdir(parents=True)
    for number in range(150):
        image = picture(rng, 64)
        image.save(root / f"train/real/{number}.png")
        if number < 40:
            brighter = Image.fromarray(np.clip(np.asarray(image) * 1.05 + 3, 0, 255).astype("u1"))
            brighter.save(root / f"train/real/{number}_again.jpg", quality=85)
        picture(rng, 64).save(root / f"train/fake/{number}.png")
    near = audited(root).near
    assert near.groups == 40 and sum(near.redundant) == 40


def test_groups_in_several_splits_are_reported(tmp_path):
    root = make(tmp_path / "set", CLEAN["jpeg"])
    rows = [
        {"path": str(p.relative_to(root)), "label": p.parent.name, "split": p.parts[-3],
         "group": f"video {i % 12}"} for i, p in enumerate(sorted(root.rglob("*.jpg")))
    ]  # fmt: skip
    write_manifest(root / "manifest.csv", rows)
    found = audited(root)
    texts = [f.text for f in found.findings if f.topic == "groups"]
    assert "12 of 12 groups (100.0%) occur in several splits." in texts
    for row in rows:
        row["group"] = row["group"].replace("video", row["split"])
        row["group"] = "test 0" if row["split"] == "test" else row["group"]
    write_manifest(root / "manifest.csv", rows)
    [few] = [f.text for f in audited(root).findings if f.topic == "groups"]
    assert "test has 1 of 13 groups" in few
    for row in rows:
        row["group"] = row["path"]
    write_manifest(root / "manifest.csv", rows)
    assert not [f for f in audited(root).findings if f.topic == "groups"]


def write_manifest(path, rows):
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    path.write_text(text.getvalue())


def test_generators_with_another_format_or_size_are_reported(tmp_path):
    root = make(tmp_path / "set", lambda rng, fake, i: {"side": 64 if fake and i % 2 else 48})
    rows = []
    for path in sorted(root.rglob("*.jpg")):
        with Image.open(path) as image:
            kind = "large" if image.width == 64 else "small"
        label = path.parent.name
        rows.append({"path": str(path.relative_to(root)), "label": label,
                     "generator": kind if label == "fake" else ""})  # fmt: skip
    write_manifest(root / "manifest.csv", rows)
    found = audited(root)
    assert set(found.generators) == {"large", "small"}
    assert found.generators["large"].accuracy == 1 and found.generators["small"].accuracy <= 0.6
    assert any("the fakes of 1 of 2 generators" in f.text and "large 100%" in f.text
               for f in found.findings)  # fmt: skip


def test_generators_are_compared_with_authentic_images_of_their_dataset(tmp_path):
    for name, side in (("one", 48), ("two", 64)):
        make(tmp_path / name, lambda rng, fake, i, side=side: {"side": side}, seed=side)
        rows = [{"path": str(p.relative_to(tmp_path / name)), "label": p.parent.name,
                 "generator": f"g{side}" if p.parent.name == "fake" else ""}
                for p in sorted((tmp_path / name).rglob("*.jpg"))]  # fmt: skip
        write_manifest(tmp_path / name / "manifest.csv", rows)
    found = audited(f"{tmp_path / 'one'}+{tmp_path / 'two'}")
    assert set(found.generators) == {"g48", "g64"}
    assert [f for f in found.findings if f.level != NOTE] == []


def test_no_readable_image_and_a_class_without_images(tmp_path):
    root = make(tmp_path / "set", CLEAN["jpeg"])
    for path in root.rglob("fake/*.jpg"):
        path.write_bytes(b"no image at all")
    found = audited(root)
    assert "Class fake has no readable image." in [f.text for f in found.findings]
    assert found.level == UNRELIABLE
    for path in root.rglob("real/*.jpg"):
        path.write_bytes(b"no image at all")
    with pytest.raises(UserError, match="set: of 120 images none can be read"):
        audited(root)


def test_file_names_that_predict_the_label_are_a_note(tmp_path):
    root = make(tmp_path / "set", CLEAN["jpeg"])
    for path in sorted((root / "train/fake").iterdir()):
        path.rename(path.with_name(f"gen-{path.name}"))
    for path in sorted((root / "test/fake").iterdir()):
        path.rename(path.with_name(f"gen-{path.name}"))
    found = audited(root)
    assert [(f.level, f.topic) for f in found.findings] == [(NOTE, "name")]
    assert found.verdict == "sound"


def test_imbalance_and_unreadable_files_are_reported(tmp_path):
    root = make(tmp_path / "set", CLEAN["jpeg"])
    for path in sorted((root / "test/fake").iterdir())[2:]:
        path.unlink()
    for number in range(20):
        (root / f"train/real/broken{number}.jpg").write_bytes(b"no image at all")
    found = audited(root)
    texts = {f.topic: f for f in found.findings}
    assert texts["files"].level == CAUTION and "20 files" in texts["files"].text
    assert texts["balance"].text == "Split test is unbalanced: 20 real, 2 fake."


def test_few_images_of_a_class_are_weighted_not_balanced(tmp_path, capsys):
    root = make(tmp_path / "set", CLEAN["png"], count=40)
    for path in sorted((root / "train/fake").iterdir())[3:]:
        path.unlink()
    arguments = ["--dataset", str(root), "--output", str(tmp_path / "out"), "--quiet"]
    assert run_command(audit_command, arguments) == 0
    said = capsys.readouterr().out
    assert "weight the classes instead (data.balance=weight)" in " ".join(said.split())
    assert f"train --dataset {root} --set data.balance=weight" in said and "--fix DIR" not in said


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_few_groups_give_fewer_folds_or_no_measurement(tmp_path, groups):
    rows = ["path,label,group"]
    root = make(tmp_path / "set", PLANTED["png fakes"][0], count=16)
    for number, path in enumerate(sorted(root.rglob("*.*"))):
        rows.append(f"{path},{path.parent.name},g{number % groups}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    found = audited(tmp_path / "table.csv")
    said = any("two groups of each class" in f.text for f in found.findings)
    assert said == (groups == 1) == (not found.shortcuts)


def test_a_dataset_too_small_to_measure_shortcuts(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "MIN_IMAGES", 20)
    found = audited(make(tmp_path / "set", PLANTED["png fakes"][0], count=6))
    assert found.shortcuts == [] and found.generators == {}
    few = [f.text for f in found.findings if f.level == CAUTION and "has only" in f.text]
    assert [text.split(" has only ")[0] for text in few] == [
        "Split train", "Split validation", "Split test"
    ]  # fmt: skip
    assert "the threshold and the calibration rest on them" in few[1]
    assert "too few images or groups to measure shortcuts" in format_audit(found)
    assert "balanced accuracy" not in format_audit(found)  # no table of a header alone
    write_report(found, tmp_path / "report")
    page = (tmp_path / "report" / "audit.html").read_text()
    assert "too few images or groups to measure shortcuts" in page and "95% lower bound" not in page


def test_fixed_formats_are_sound(tmp_path):
    for name in ("png fakes", "quality", "size"):
        found = audited(make(tmp_path / name, PLANTED[name][0]))
        done = fix_dataset(found, tmp_path / f"{name} fixed", ["formats"], progress=False)
        fixed_audit = audited(done.folder)
        assert [f for f in fixed_audit.findings if f.topic in ("format", "size")] == [], name
        assert fixed_audit.spec.class_names == ("real", "fake")
        assert fixed_audit.traits.num_rows >= COUNT, done.steps


def test_fixed_duplicates_splits_and_balance(tmp_path):
    root = make(tmp_path / "set", CLEAN["png"])
    train = sorted((root / "train/real").iterdir())
    for number in range(5):
        shutil.copy(train[number], root / f"test/real/copy{number}.png")
    shutil.copy(train[7], root / "train/fake/contradiction.png")
    before = sorted(root.rglob("*"))
    found = audited(root)
    done = fix_dataset(
        found, tmp_path / "fixed", ["duplicates", "balance", "splits"], progress=False
    )
    fixed_audit = audited(done.folder)
    assert fixed_audit.exact.groups == 0
    assert sorted(root.rglob("*")) == before
    moved = done.folder.rename(tmp_path / "moved")  # its table names the original files
    assert audited(moved).traits.num_rows == fixed_audit.traits.num_rows
    assert "manifest.csv names the original files" in done.steps[-1]
    kept = {p.name for p in map(type(root), fixed_audit.catalog.table["path"].to_pylist())}
    # The copy in the test split is kept; images with conflicting labels are removed.
    assert train[7].name not in kept and "contradiction.png" not in kept
    assert {f"copy{i}.png" for i in range(5)} & kept and train[0].name not in kept
    for split in fixed_audit.catalog.counts(("real", "fake")).values():
        assert split["real"] == split["fake"] > 0
    assert load_spec(str(moved))[0].name == "set_fixed"


def test_fixing_keeps_masks(tmp_path):
    root = tmp_path / "set"
    rng, rows = np.random.default_rng(0), []
    for number in range(24):
        for name in ("real", "fake"):
            side = 48 if name == "real" else 64
            picture(rng, side).save(tmp(root / f"{name}/{number}.png"))
            mask = np.zeros((side, side), np.uint8)
            mask[side // 4 : side // 2] = 255
            if name == "fake":
                Image.fromarray(mask).save(tmp(root / f"masks/{number}.png"))
            rows.append({"path": f"{name}/{number}.png", "label": name,
                         "mask": f"masks/{number}.png" if name == "fake" else ""})  # fmt: skip
    write_manifest(root / "manifest.csv", rows)
    done = fix_dataset(audited(root), tmp_path / "fixed", ["formats"], progress=False)
    table = audited(done.folder).catalog.table
    masked = [row for row in table.to_pylist() if row["label"]]
    assert len(masked) == 24
    with Image.open(done.folder / masked[0]["mask"]) as mask:
        assert mask.size == (48, 48)
        # The crop of 64 begins at 8, the quarter at 16.
        assert np.flatnonzero(np.asarray(mask)[:, 0]).tolist() == list(range(8, 24))


def tmp(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_fixing_refuses_impossible_requests(tmp_path):
    found = audited(make(tmp_path / "set", CLEAN["png"], count=12))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        fix_dataset(found, tmp_path / "full", ["formats"], progress=False)
    # Every authentic image is also among the fakes: none would remain.
    for path in (tmp_path / "set/train/real").iterdir():
        shutil.copy(path, tmp_path / "set/train/fake" / f"copy{path.name}")
    for path in (tmp_path / "set/test/real").iterdir():
        shutil.copy(path, tmp_path / "set/train/fake" / f"copy{path.name}")
    with pytest.raises(UserError, match="would leave no image of class real"):
        fix_dataset(audited(tmp_path / "set"), tmp_path / "new", ["duplicates"], progress=False)
    assert not (tmp_path / "new").exists()


def test_the_command_writes_a_report_and_a_fixed_copy(tmp_path, capsys):
    root = make(tmp_path / "set", PLANTED["quality"][0])
    output = tmp_path / "out"
    arguments = ["--dataset", str(root), "--output", str(output), "--quiet"]
    assert run_command(audit_command, [*arguments, "--fix", str(tmp_path / "fixed")]) == 0
    said = capsys.readouterr().out
    assert "verdict: unreliable" in said
    # Compressed twice, the files of one class are still larger.
    assert "verdict: caution" in said and (tmp_path / "out-fixed/audit.html").is_file()
    assert "--fix DIR" not in said
    assert run_command(audit_command, arguments) == 1
    assert "--fix DIR   (writes a fixed copy)" in capsys.readouterr().out
    document = json.loads((output / "audit.json").read_text())
    assert document["verdict"] == "unreliable"
    assert document["findings"][0]["text"].startswith("JPEG quality alone predicts")
    page = (output / "audit.html").read_text()
    assert "JPEG quality alone predicts" in page and page.count("data:image/png;base64") == 4
    assert (output / "skipped.csv").read_text() == '"path","error"\n'
    assert (output / "traits.parquet").is_file() and (output / "duplicates.csv").is_file()
    for wrong, words in (
        (["--fixes", "formats"], "--fixes needs --fix"),
        (["--fix", str(tmp_path / "x"), "--fixes", "format"], "Did you mean 'formats'"),
    ):
        assert run_command(audit_command, [*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err
    assert run_command(audit_command, ["--dataset", str(tmp_path / "nowhere")]) == 2


def test_strict_refuses_contradicting_labels_however_few(tmp_path, monkeypatch, capsys):
    root = make(tmp_path / "set", CLEAN["png"])
    [first, *_] = sorted((root / "train/real").iterdir())
    shutil.copy(first, root / "train/fake" / first.name)
    monkeypatch.setattr(findings, "_UNRELIABLE_CONFLICTS", 0.5)  # else these would be too many
    arguments = ["--dataset", str(root), "--output", str(tmp_path / "runs"), "--dry-run"]
    assert run_command(train_command, arguments) == 0
    assert "2 images have exact duplicates with another label" in capsys.readouterr().err
    assert run_command(train_command, [*arguments, "--strict"]) == 2
    assert "their labels contradict each other" in capsys.readouterr().err


def test_training_warns_of_unreliable_data_and_strict_refuses_it(tmp_path, capsys):
    root = make(tmp_path / "my set", PLANTED["quality"][0])
    arguments = ["--dataset", str(root), "--output", str(tmp_path / "runs"), "--dry-run"]
    assert run_command(train_command, arguments) == 0
    said = capsys.readouterr().err
    assert "warning: my_set: JPEG quality alone predicts the label" in said
    assert f"tfdetect.audit --dataset '{root}'" in said
    assert run_command(train_command, [*arguments, "--strict"]) == 2
    assert "would be unreliable" in capsys.readouterr().err
    clean = make(tmp_path / "clean", CLEAN["jpeg"])
    assert run_command(train_command, ["--dataset", str(clean), *arguments[2:], "--strict"]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("quality", [1, 10, 30, 50, 51, 75, 90, 95, 100])
def test_jpeg_quality_is_that_of_libjpeg(quality):
    data = io.BytesIO()
    picture(np.random.default_rng(0)).save(data, "JPEG", quality=quality)
    with Image.open(data) as image:
        assert jpeg_quality(image.quantization) == (quality, True)
        tables = {k: [min(255, v + (i == 5)) for i, v in enumerate(t)]
                  for k, t in image.quantization.items()}  # fmt: skip
    assert abs(jpeg_quality(tables)[0] - quality) <= 1


def test_traits_of_unusual_images():
    rng = np.random.default_rng(0)
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "I;16", "1"):
        image = picture(rng)
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, (48, 48), np.uint16))
        elif mode != "RGB":
            image = image.convert(mode)
        data = io.BytesIO()
        image.save(data, "TIFF" if mode == "CMYK" else "PNG")
        assert len(image_traits(data.getvalue())) > 20, mode
    for size in ((1, 1), (1, 40), (3, 2)):
        data = io.BytesIO()
        Image.new("RGB", size).save(data, "PNG")
        assert np.isfinite(image_traits(data.getvalue())[-16:]).all()


def test_images_are_decoded_as_the_detector_decodes_them(tmp_path):
    """16-bit images keep their upper 8 bits, and EXIF orientation is applied."""
    deep = np.random.default_rng(3).integers(0, 65536, (48, 40), np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "plain.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "turned.png", exif=exif)
    deep, plain, turned = (
        image_traits((tmp_path / f"{name}.png").read_bytes())
        for name in ("deep", "plain", "turned")
    )
    positions = [n for n, (a, b) in enumerate(zip(deep, plain)) if a != b]
    assert all(n < 9 for n in positions)  # the header's traits alone
    assert turned[9] != plain[9]  # the hash of the pixels
    for name, size in (("deep", (40, 48)), ("turned", (48, 40))):
        target = tmp_path / f"{name}.jpg"
        item = ImageToWrite(f"{tmp_path / name}.png", str(target))
        assert write_cropped(None, 100, MAX_PIXELS, item) == (str(target), True)
        with Image.open(target) as copy:
            assert copy.size == size and 110 < np.asarray(copy).mean() < 145


def test_the_radial_spectrum_shows_where_power_is():
    y, x = np.indices((64, 64))
    low = radial_spectrum(np.cos(2 * np.pi * x / 32).astype(np.float32))
    high = radial_spectrum(np.cos(2 * np.pi * 0.45 * x).astype(np.float32))
    assert low.argmax() <= 1 and high.argmax() == 14
    assert np.isclose((10.0**high).sum(), 1, atol=1e-3)


def test_cramers_v_is_unbiased():
    rng = np.random.default_rng(0)
    independent = [
        shortcuts.cramers_v(np.stack([np.bincount(rng.integers(0, 8, 100), minlength=8)
                                      for _ in range(2)], 1)) for _ in range(50)
    ]  # fmt: skip
    assert np.median(independent) < 0.02
    assert shortcuts.cramers_v(np.array([[500, 0], [0, 500]])) > 0.99


def test_the_lower_bound_of_the_accuracy_holds(tmp_path):
    """Noise is significantly above chance in only a few percent of all draws."""
    rng, beaten = np.random.default_rng(0), 0
    for _ in range(200):
        labels = rng.integers(0, 2, 120)
        table = pa.table({"label": labels, "group": [str(i) for i in range(120)]})
        parts = shortcuts.cross_validation_folds(table, labels)
        matrix = rng.normal(size=(120, 1)).astype(np.float32)
        beaten += shortcuts.tree_accuracy(matrix, labels, 2, parts)[1] > 0.5
    assert beaten <= 0.08 * 200


def test_candidate_pairs_equal_an_exhaustive_search():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 400, np.uint64)
    for i in range(0, 200, 2):  # neighbors in up to nine bits
        bits = rng.choice(64, rng.integers(0, 10), replace=False)
        hashes[i + 1] = hashes[i] ^ np.bitwise_or.reduce(
            [np.uint64(1) << np.uint64(b) for b in bits] or [np.uint64(0)]
        )
    table = pa.table({"phash": hashes, "contrast": np.full(400, 50.0),
                      "pixels": [str(i) for i in range(400)]})  # fmt: skip
    found = set(zip(*(side.tolist() for side in duplicates.candidate_pairs(table))))
    limit = duplicates.MAX_HASH_DISTANCE
    expected = {(i, j) for i in range(400) for j in range(i + 1, 400)
                if int(hashes[i] ^ hashes[j]).bit_count() <= limit}  # fmt: skip
    assert found == expected and len(expected) > 50


def test_datasets_with_many_unreadable_files_can_be_audited(folder_dataset):
    spec, roots = locate_dataset(str(folder_dataset))
    for number in range(40):
        (folder_dataset / f"train/real/x{number}.png").write_bytes(b"x")
    with pytest.raises(UserError, match="max_unreadable_fraction"):
        build_catalog(spec, roots, progress=False)
    catalog = build_catalog(spec.with_values(max_unreadable_fraction=1.0), roots, progress=False)
    assert catalog.skipped.num_rows == 40
    found, *_ = file_findings(spec, catalog)
    assert "train or measure stop above 5%" in found.remedy and "skipped.csv" in found.remedy
    [some, *_] = file_findings(spec.with_values(max_unreadable_fraction=0.5), catalog)
    assert some.remedy.startswith("skipped.csv")
    few = [(bad, total) for total in range(1, 8) for bad in range(1, total + 1)
           if not too_many_unusable(spec, bad, total)]  # fmt: skip
    assert few == [(1, 3), (1, 4), (1, 5), (2, 5), (1, 6), (2, 6), (1, 7), (2, 7)]


def test_noise_spectra_show_the_peaks_of_upsampling(tmp_path):
    """Fakes enlarged by repeating pixels have peaks where authentic images have none."""
    draw = np.random.default_rng(0)
    for name in ("real", "fake"):
        (tmp_path / "s" / name).mkdir(parents=True)
        for number in range(24):
            small = draw.integers(60, 190, (32, 32, 3), np.uint8)
            pixels = np.kron(small, np.ones((2, 2, 1), np.uint8))
            if name == "real":
                pixels = draw.integers(60, 190, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "s" / name / f"{number}.png")
    found = audited(tmp_path / "s")
    assert list(found.spectra) == ["real", "fake"]
    (real, count), (fake, _) = found.spectra.values()
    assert count == 24 and real.shape == (64, 64)
    # Repeating pixels silences half a cycle a pixel: row and column 0 of the shifted spectrum.
    assert (fake - real)[0, 1:].mean() < -0.5
    assert np.abs((fake - real)[32, 20:28].mean() - (fake - real)[0, 20:28].mean()) > 0.5


def test_where_nothing_is_to_be_fixed_no_copy_is_written(tmp_path, capsys):
    root = make(tmp_path / "set", CLEAN["png"])
    arguments = ["--dataset", str(root), "--output", str(tmp_path / "out"), "--quiet"]
    assert run_command(audit_command, [*arguments, "--fix", str(tmp_path / "fixed")]) == 0
    out, err = capsys.readouterr()
    assert "fixed is not written: the audit found nothing" in err and "next " in out
    assert not (tmp_path / "fixed").exists()
