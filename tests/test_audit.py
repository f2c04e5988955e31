"""The audit: planted confounds are found, clean sets are not accused, repairs mend."""

import csv
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tfdetect.audit import main as audit_command
from tfdetect.auditing import duplicates, shortcuts
from tfdetect.auditing.audit_dataset import audit, quick_findings, tolerant
from tfdetect.auditing.findings import CARE, NOTE, REFUSE
from tfdetect.auditing.findings import verdict as level_of
from tfdetect.auditing.fixes import _encode, repair
from tfdetect.auditing.traits import jpeg_quality, radial_spectrum, traits_of
from tfdetect.core.cli import run_command
from tfdetect.core.errors import UserError
from tfdetect.core.spec import load_spec
from tfdetect.data.catalog import build_catalog
from tfdetect.data.plan import locate_dataset
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


def audited(root):
    return audit(*locate_dataset(str(root)), progress=False)


CLEAN = {
    "jpeg": lambda rng, fake, i: {"quality": 85},
    "png": lambda rng, fake, i: {"extension": "png"},
    "sizes": lambda rng, fake, i: {"side": int(rng.integers(40, 90))},
    "qualities": lambda rng, fake, i: {"quality": int(rng.integers(60, 96))},
    "formats": lambda rng, fake, i: {"extension": str(rng.choice(["jpg", "png", "webp"]))},
    "exif": lambda rng, fake, i: {"exif": exif()} if rng.random() < 0.5 else {},
}
# How, level, topic, and words of the finding.
PLANTED = {
    "png fakes": (lambda rng, fake, i: {"extension": "png" if fake else "jpg"},
                  REFUSE, "format", "file format alone tells"),
    "quality": (lambda rng, fake, i: {"quality": 90 if fake else 95},
                REFUSE, "format", "JPEG quality alone tells"),
    "subsampling": (lambda rng, fake, i: {"quality": 85, "subsampling": 0 if fake else 2},
                    REFUSE, "format", "chroma subsampling alone tells"),
    "size": (lambda rng, fake, i: {"side": 64 if fake else int(rng.integers(50, 100))},
             REFUSE, "size", "width alone tells"),
    "exif": (lambda rng, fake, i: {} if fake else {"exif": exif()},
             CARE, "metadata", "EXIF alone tells"),
    "some gray": (lambda rng, fake, i: {"gray": bool(fake and i % 3 == 0)},
                  CARE, "content", "gray image tells the label of some"),
    "some png": (lambda rng, fake, i: {"extension": "png" if fake and i % 4 == 0 else "jpg"},
                 CARE, "format", "file format tells the label of some"),
    "a few small": (lambda rng, fake, i: {"side": 32 if fake and i % 4 else 48},
                    REFUSE, "size", "width alone tells"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_clean_sets_are_sound(tmp_path, name):
    found = audited(make(tmp_path / "set", CLEAN[name]))
    assert [f for f in found.findings if f.level != NOTE] == []
    assert found.verdict == "sound"


@pytest.mark.parametrize("name", PLANTED)
def test_planted_confounds_are_named(tmp_path, name):
    how, level, topic, words = PLANTED[name]
    found = audited(make(tmp_path / "set", how))
    named = [f for f in found.findings if f.topic == topic and words in f.text]
    assert [f.level for f in named] == [level]
    assert level_of(found.findings) == level


def test_the_quick_look_sees_what_headers_show(tmp_path):
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
    assert exact.in_test == (2, 0) and same.in_test == (1, 0) and near.in_test == (1, 0)
    assert exact.surplus_in_test == (1, 0) and exact.surplus == (0, 0)
    assert exact.labels == 3 and same.labels == 0
    texts = [f.text for f in found.findings if f.topic == "duplicates"]
    assert any("3 images with exactly the same pixels stand under different labels" in t
               for t in texts)  # fmt: skip
    assert level_of(found.findings) == REFUSE


def test_near_duplicates_are_all_found_and_only_they(tmp_path):
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
    assert near.groups == 40 and sum(near.surplus) == 40


def test_groups_that_straddle_splits(tmp_path):
    root = make(tmp_path / "set", CLEAN["jpeg"])
    rows = [
        {"path": str(p.relative_to(root)), "label": p.parent.name, "split": p.parts[-3],
         "group": f"video {i % 12}"} for i, p in enumerate(sorted(root.rglob("*.jpg")))
    ]  # fmt: skip
    write_manifest(root / "manifest.csv", rows)
    found = audited(root)
    assert [f.text for f in found.findings if f.topic == "groups"] == [
        "12 of 12 groups (100.0%) stand in several splits"
    ]
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


def test_generators_stored_otherwise_are_named(tmp_path):
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


def test_parts_of_a_union_are_not_compared_with_each_other(tmp_path):
    for name, side in (("one", 48), ("two", 64)):
        make(tmp_path / name, lambda rng, fake, i, side=side: {"side": side}, seed=side)
        rows = [{"path": str(p.relative_to(tmp_path / name)), "label": p.parent.name,
                 "generator": f"g{side}" if p.parent.name == "fake" else ""}
                for p in sorted((tmp_path / name).rglob("*.jpg"))]  # fmt: skip
        write_manifest(tmp_path / name / "manifest.csv", rows)
    found = audited(f"{tmp_path / 'one'}+{tmp_path / 'two'}")
    assert set(found.generators) == {"g48", "g64"}
    assert [f for f in found.findings if f.level != NOTE] == []


def test_nothing_readable_and_a_class_without_images(tmp_path):
    root = make(tmp_path / "set", CLEAN["jpeg"])
    for path in root.rglob("fake/*.jpg"):
        path.write_bytes(b"no image at all")
    found = audited(root)
    assert "there is no readable image of class fake" in [f.text for f in found.findings]
    assert level_of(found.findings) == REFUSE
    for path in root.rglob("real/*.jpg"):
        path.write_bytes(b"no image at all")
    with pytest.raises(UserError, match="None of the 120 images of set can be read"):
        audited(root)


def test_names_that_tell_the_label_are_a_note(tmp_path):
    root = make(tmp_path / "set", CLEAN["jpeg"])
    for path in sorted((root / "train/fake").iterdir()):
        path.rename(path.with_name(f"gen-{path.name}"))
    for path in sorted((root / "test/fake").iterdir()):
        path.rename(path.with_name(f"gen-{path.name}"))
    found = audited(root)
    assert [(f.level, f.topic) for f in found.findings] == [(NOTE, "name")]
    assert found.verdict == "sound"


def test_balance_and_broken_files(tmp_path):
    root = make(tmp_path / "set", CLEAN["jpeg"])
    for path in sorted((root / "test/fake").iterdir())[2:]:
        path.unlink()
    for number in range(20):
        (root / f"train/real/broken{number}.jpg").write_bytes(b"no image at all")
    found = audited(root)
    texts = {f.topic: f for f in found.findings}
    assert texts["files"].level == CARE and "20 files" in texts["files"].text
    assert texts["balance"].text == "test is unbalanced: 20 real, 2 fake"


def test_a_set_too_small_to_say_anything(tmp_path):
    found = audited(make(tmp_path / "set", PLANTED["png fakes"][0], count=6))
    assert found.shortcuts == [] and found.generators == {}


def test_mended_formats_are_sound(tmp_path):
    for name in ("png fakes", "quality", "size"):
        found = audited(make(tmp_path / name, PLANTED[name][0]))
        done = repair(found, tmp_path / f"{name} mended", ["formats"], progress=False)
        mended = audited(done.folder)
        assert [f for f in mended.findings if f.topic in ("format", "size")] == [], name
        assert mended.spec.class_names == ("real", "fake")
        assert mended.traits.num_rows >= COUNT, done.steps


def test_mended_duplicates_splits_and_balance(tmp_path):
    root = make(tmp_path / "set", CLEAN["png"])
    train = sorted((root / "train/real").iterdir())
    for number in range(5):
        shutil.copy(train[number], root / f"test/real/copy{number}.png")
    shutil.copy(train[7], root / "train/fake/contradiction.png")
    before = sorted(root.rglob("*"))
    found = audited(root)
    done = repair(found, tmp_path / "mended", ["duplicates", "balance", "splits"], progress=False)
    mended = audited(done.folder)
    assert mended.exact.groups == 0
    assert sorted(root.rglob("*")) == before
    kept = {p.name for p in map(type(root), mended.catalog.table["path"].to_pylist())}
    # The copy of the test split stays; what stands under two labels goes.
    assert train[7].name not in kept and "contradiction.png" not in kept
    assert {f"copy{i}.png" for i in range(5)} & kept and train[0].name not in kept
    for split in mended.catalog.counts(("real", "fake")).values():
        assert split["real"] == split["fake"] > 0
    assert load_spec(str(done.folder))[0].name == "set_mended"


def test_mending_keeps_masks(tmp_path):
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
    done = repair(audited(root), tmp_path / "mended", ["formats"], progress=False)
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


def test_mending_refuses_what_it_cannot_do(tmp_path):
    found = audited(make(tmp_path / "set", CLEAN["png"], count=12))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        repair(found, tmp_path / "full", ["formats"], progress=False)
    # All authentic images stand among the fakes too: nothing would be left of them.
    for path in (tmp_path / "set/train/real").iterdir():
        shutil.copy(path, tmp_path / "set/train/fake" / f"copy{path.name}")
    for path in (tmp_path / "set/test/real").iterdir():
        shutil.copy(path, tmp_path / "set/train/fake" / f"copy{path.name}")
    with pytest.raises(UserError, match="would leave no image of real"):
        repair(audited(tmp_path / "set"), tmp_path / "new", ["duplicates"], progress=False)
    assert not (tmp_path / "new").exists()


def test_the_command_writes_a_report_and_says_so(tmp_path, capsys):
    root = make(tmp_path / "set", PLANTED["quality"][0])
    output = tmp_path / "out"
    arguments = ["--dataset", str(root), "--output", str(output), "--quiet"]
    assert run_command(audit_command, [*arguments, "--repair", str(tmp_path / "mended")]) == 0
    said = capsys.readouterr().out
    assert "verdict: do not believe results from this" in said
    # Compressed twice, the files of one class still are the larger ones.
    assert "verdict: use with care" in said and (tmp_path / "out-mended/audit.html").is_file()
    assert run_command(audit_command, arguments) == 1
    document = json.loads((output / "audit.json").read_text())
    assert document["verdict"] == "do not believe results from this"
    assert document["findings"][0]["text"].startswith("JPEG quality alone tells")
    page = (output / "audit.html").read_text()
    assert "JPEG quality alone tells" in page and page.count("data:image/png;base64") == 4
    assert (output / "traits.parquet").is_file() and (output / "duplicates.csv").is_file()
    for wrong, words in (
        (["--repairs", "formats"], "--repairs needs --repair"),
        (["--repair", str(tmp_path / "x"), "--repairs", "format"], "'format' is none of"),
    ):
        assert run_command(audit_command, [*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err
    assert run_command(audit_command, ["--dataset", str(tmp_path / "nowhere")]) == 2


def test_training_warns_and_strictly_refuses(tmp_path, capsys):
    root = make(tmp_path / "set", PLANTED["quality"][0])
    arguments = ["--dataset", str(root), "--output", str(tmp_path / "runs"), "--dry-run"]
    assert run_command(train_command, arguments) == 0
    assert "warning: set: JPEG quality alone tells the label" in capsys.readouterr().err
    assert run_command(train_command, [*arguments, "--strict"]) == 2
    assert "should not be believed" in capsys.readouterr().err
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


def test_traits_of_odd_images():
    rng = np.random.default_rng(0)
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "I;16", "1"):
        image = picture(rng)
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, (48, 48), np.uint16))
        elif mode != "RGB":
            image = image.convert(mode)
        data = io.BytesIO()
        image.save(data, "TIFF" if mode == "CMYK" else "PNG")
        assert len(traits_of(data.getvalue())) > 20, mode
    for size in ((1, 1), (1, 40), (3, 2)):
        data = io.BytesIO()
        Image.new("RGB", size).save(data, "PNG")
        assert np.isfinite(traits_of(data.getvalue())[-16:]).all()


def test_images_are_seen_as_the_detector_sees_them(tmp_path):
    """Of 16 bits the upper 8, and turned as EXIF says: in the traits and in mended copies."""
    deep = np.random.default_rng(3).integers(0, 65536, (48, 40), np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "plain.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "turned.png", exif=exif)
    deep, plain, turned = (
        traits_of((tmp_path / f"{name}.png").read_bytes()) for name in ("deep", "plain", "turned")
    )
    places = [n for n, (a, b) in enumerate(zip(deep, plain)) if a != b]
    assert all(n < 9 for n in places)  # the header's traits alone
    assert turned[9] != plain[9]  # the hash of the pixels
    for name, size in (("deep", (40, 48)), ("turned", (48, 40))):
        target = tmp_path / f"{name}.jpg"
        assert _encode(None, 100, f"{tmp_path / name}.png\n{target}")[1]
        with Image.open(target) as copy:
            assert copy.size == size and 110 < np.asarray(copy).mean() < 145


def test_the_spectrum_shows_where_power_is():
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


def test_the_lower_end_of_an_accuracy_is_one(tmp_path):
    """Noise beats it in a few percent of all draws only."""
    rng, beaten = np.random.default_rng(0), 0
    for _ in range(200):
        labels = rng.integers(0, 2, 120)
        table = pa.table({"label": labels, "group": [str(i) for i in range(120)]})
        parts = shortcuts.folds(table, labels, 0)
        matrix = rng.normal(size=(120, 1)).astype(np.float32)
        beaten += shortcuts._tree(matrix, labels, 2, parts)[1] > 0.5
    assert beaten <= 0.08 * 200


def test_candidates_are_those_of_a_search_through_all_pairs():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 400, np.uint64)
    for i in range(0, 200, 2):  # neighbors in up to nine bits
        bits = rng.choice(64, rng.integers(0, 10), replace=False)
        hashes[i + 1] = hashes[i] ^ np.bitwise_or.reduce(
            [np.uint64(1) << np.uint64(b) for b in bits] or [np.uint64(0)]
        )
    table = pa.table({"phash": hashes, "contrast": np.full(400, 50.0),
                      "pixels": [str(i) for i in range(400)]})  # fmt: skip
    found = set(zip(*(side.tolist() for side in duplicates.candidates(table))))
    expected = {(i, j) for i in range(400) for j in range(i + 1, 400)
                if int(hashes[i] ^ hashes[j]).bit_count() <= duplicates.DISTANCE}  # fmt: skip
    assert found == expected and len(expected) > 50


def test_more_broken_files_than_allowed_are_audited_all_the_same(folder_dataset):
    spec, roots = locate_dataset(str(folder_dataset))
    for number in range(40):
        (folder_dataset / f"train/real/x{number}.png").write_bytes(b"x")
    with pytest.raises(UserError, match="max_unreadable_fraction"):
        build_catalog(spec, roots, progress=False)
    assert build_catalog(tolerant(spec), roots, progress=False).skipped.num_rows == 40


def test_spectra_show_the_peaks_that_upsampling_leaves(tmp_path):
    """Fakes enlarged by repeating pixels have peaks where the photographs have none."""
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
