"""Evidence that needs no training: its traces are found, and its headline follows its rule."""

import dataclasses
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from tfdetect.core.files import FailedWrites
from tfdetect.core.run import Run
from tfdetect.core.run_info import RunInfo
from tfdetect.evaluation.prediction_columns import MaskPrediction
from tfdetect.evaluation.prediction_columns import uncalibrated as uncalibrated_of
from tfdetect.evaluation.verdict_words import verdict_words
from tfdetect.forensics import copy_check
from tfdetect.forensics.copies import find_copies, find_copies_in_file
from tfdetect.forensics.evidence import evidence, printed, told_once
from tfdetect.forensics.evidence_lines import UNSIGNED, copies_line, error_rates, jpeg_lines
from tfdetect.forensics.file_metadata import C2PA, Fact, format_of, read_metadata
from tfdetect.forensics.headline import RULE
from tfdetect.forensics.jpeg_history import jpeg_history
from tfdetect.forensics.region_pictures import MaskWriter
from tfdetect.imaging.photographs import photograph
from tfdetect.predict import log_copies
from tfdetect.synthesis.blend import paste, soften
from tfdetect.synthesis.fills import copy_move


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photograph that was shrunk, so that it has no grid of a JPEG."""
    image = photograph("chelsea").convert("RGB")
    return np.asarray(image.resize((400, 266), Image.Resampling.LANCZOS))


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def disc(shape, center, radius) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


# ---- copies


@pytest.mark.parametrize(("options", "quality", "least"), [
    ({}, None, 0.6), ({}, 85, 0.6), ({"rotation": 30, "scale": (0.8, 1.25)}, None, 0.6),
])  # fmt: skip
def test_copies_are_found(options, quality, least):
    photo = np.asarray(photograph("astronaut").convert("RGB").resize((384, 384)))
    for center, seed in (((250, 90), 0), ((120, 60), 1)):
        mask = disc(photo.shape, center, 45)
        filled = copy_move(photo, mask, np.random.default_rng(seed), **options)
        forged = paste(photo, filled, soften(mask, 2))
        forged = decoded(encoded(forged, "JPEG", quality=quality)) if quality else forged
        copies = find_copies(forged, quality)
        assert iou(copies.copied, mask) > least
        assert not (copies.copied & copies.sources).any()
        assert copies.found[0].area == pytest.approx(copies.copied.mean(), rel=0.5)


def test_masks_mark_copies_in_a_layer_of_their_own(tmp_path):
    photo = np.asarray(photograph("astronaut").convert("RGB").resize((384, 384)))
    mask = disc(photo.shape, (250, 90), 45)
    filled = copy_move(photo, mask, np.random.default_rng(0))
    paths = [str(tmp_path / name) for name in ("forged.jpg", "photo.png")]
    (tmp_path / "forged.jpg").write_bytes(encoded(paste(photo, filled, soften(mask, 2)), "JPEG"))
    (tmp_path / "photo.png").write_bytes(encoded(photo))
    writer = MaskWriter(tmp_path / "masks", paths, FailedWrites(), find_copies_in_file)
    altered = np.zeros(photo.shape[:2], np.float32)
    altered[:20, :30] = 0.9  # what a detector marks
    for number, path in enumerate(paths):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        writer.write(MaskPrediction(number, pixels, altered, np.zeros(altered.shape, np.uint8)))

    def written(name: str, kind: str) -> np.ndarray:
        return np.asarray(Image.open(tmp_path / "masks" / f"{name}.{kind}.png"))

    copies = written("forged", "copies")
    assert iou(copies == 255, mask) > 0.6 and (copies == 128).any()
    assert np.array_equal(written("forged", "mask") == 255, (copies == 255) | (altered > 0.5))
    assert not written("photo", "copies").any()
    assert np.array_equal(written("photo", "mask") == 255, altered > 0.5)
    assert writer.copied_fractions == pytest.approx([(copies == 255).mean(), 0])
    pixels = np.asarray(Image.open(paths[0]).convert("RGB")).astype(int)
    tint = written("forged", "overlay").astype(int) - pixels
    assert tint[10, 10, 0] > tint[10, 10, 1]  # red
    assert tint[copies == 255][:, :2].mean() > tint[copies == 255][:, 2].mean() + 30  # yellow


def test_authentic_patterns_are_no_copies(photo):
    assert not find_copies(photo).found
    assert not find_copies(np.asarray(photograph("astronaut").convert("RGB"))).found
    y, x = np.mgrid[:200, :300]
    rng = np.random.default_rng(0)
    sky = np.clip(120 + y[..., None] / 3 + rng.normal(0, 2, (200, 300, 3)), 0, 255)
    stripes = 128 + 90 * np.sin(x / 4)[..., None] + rng.normal(0, 6, (200, 300, 3))
    for pixels in (sky, np.clip(stripes, 0, 255), np.full((200, 300, 3), 255.0)):
        assert not find_copies(pixels.astype(np.uint8)).found
    for shape in ((8, 500, 3), (60, 9000, 3)):
        small = find_copies(np.zeros(shape, np.uint8))
        assert not small.found and not small.searched
        assert copies_line(small).finding.startswith("Not looked for: the image is too small")
        assert copies_line(small).reliability == ""


def test_the_two_halves_of_a_frame_are_no_copies(monkeypatch):
    gray = np.repeat(np.arange(400, dtype=np.float32)[:, None] // 3 + 100, 600, axis=1)
    gray[100:300, 150:450] = 90
    inset = np.random.default_rng(0).integers(0, 256, (9, 14), np.uint8)
    gray[110:290, 160:440] = np.asarray(Image.fromarray(inset).resize((280, 180)))
    mirror = np.array([[-1, 0, 599], [0, 1, 0]], np.float64)  # takes the frame to itself
    assert copy_check.check(gray, np.zeros_like(gray), mirror) is None
    monkeypatch.setattr(copy_check, "MIN_TEXTURED", 0)
    assert copy_check.check(gray, np.zeros_like(gray), mirror) is not None


# ---- JPEG history


def test_grid_and_cropping_are_seen_in_pixels(photo):
    assert jpeg_history(encoded(photo)).grid is None
    once = decoded(encoded(photo, "JPEG", quality=75))
    history = jpeg_history(encoded(once))
    assert history.grid == (0, 0) and history.quality is None
    assert jpeg_history(encoded(once[3:, 5:])).grid == (3, 5)
    assert jpeg_history(encoded(photo, "JPEG", quality=75)).quality == 75


def test_a_jpeg_in_cmyk_is_a_jpeg(photo):
    file = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(file, "JPEG", quality=75)
    [line] = [each for each in evidence(file.getvalue()).lines if each.name == "jpeg_history"]
    assert line.finding.startswith("The file is a JPEG of quality 75.")
    assert "Whether it was compressed before was not looked for" in line.finding


def test_the_history_of_a_cropped_image_has_no_rate_of_another_finding(photo):
    once = decoded(encoded(photo, "JPEG", quality=75))

    def line(pixels, **options):
        return jpeg_lines(jpeg_history(encoded(pixels, **options)), pixels)[0]

    cropped = line(once[3:, 5:], kind="JPEG", quality=100)
    assert "compressed as JPEG at least once before. After a compression it was cropped" in (
        cropped.finding
    )
    assert "no trace" not in cropped.finding
    assert cropped.key == "jpeg_once_cropped" and not cropped.measured
    assert "Of images measured" not in cropped.reliability
    lossless = line(once[3:, 5:])
    assert lossless.key == "jpeg_before_cropped" and not lossless.measured
    plain = line(photo, kind="JPEG", quality=75)
    assert plain.key == "jpeg_once" and "no trace of an earlier" in plain.finding
    assert "32 of 40 authentic photographs" in plain.reliability


def test_an_earlier_compression_is_found_with_its_quality(photo):
    once = encoded(photo, "JPEG", quality=65)
    assert jpeg_history(once).earlier_quality is None
    twice = jpeg_history(encoded(decoded(once), "JPEG", quality=90))
    assert abs(twice.earlier_quality - 65) <= 3 and not twice.differs.any()


def test_regions_of_another_history_are_found(photo):
    mask = disc(photo.shape, (130, 200), 60)
    twice = decoded(encoded(photo, "JPEG", quality=65))
    other = np.asarray(photograph("astronaut").convert("RGB").resize((400, 266)))
    spliced = np.where(mask[..., None], other, twice)
    found = jpeg_history(encoded(spliced, "JPEG", quality=90))
    assert iou(found.once, mask) > 0.4
    moved = decoded(encoded(np.pad(other, ((3, 0), (5, 0), (0, 0)), "edge"), "JPEG", quality=65))
    spliced = np.where(mask[..., None], moved[3:, 5:], twice)
    found = jpeg_history(encoded(spliced))
    assert found.grid == (0, 0) and iou(found.other_grid, mask) > 0.4


def test_maps_of_turned_photographs_are_upright(photo):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    history = jpeg_history(encoded(photo, "JPEG", quality=80, exif=exif))
    assert history.differs.shape == photo.shape[1::-1]


# ---- metadata


def text_chunk(key: str, value: str) -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text(key, value)
    return encoded(np.zeros((8, 8, 3), np.uint8), pnginfo=notes)


@pytest.mark.parametrize(("key", "value", "generated"), [
    ("prompt", '{"3": {"class_type": "KSampler"}}', True),
    ("prompt", "What do you see?", False),
    ("Software", "NovelAI", True), ("fooocus_scheme", "fooocus", True),
    ("Description", "The Gemini Observatory at dusk", False),
    ("Description", "una imagen de la plaza", False),
    ("Description", "a fox --v 6 Job ID: 0123abcd-1234", True),
    ("Comment", "Steps: 20, Sampler: Euler a", True),
])  # fmt: skip
def test_notes_of_generators_and_mere_mentions(key, value, generated):
    facts = read_metadata(text_chunk(key, value))
    assert any(fact.kind == "generated" for fact in facts) == generated


@pytest.mark.parametrize("fields, told", [
    ({1: "N", 2: (52.0, 30.0, 58.8), 3: "W", 4: (13.0, 22.0, 39.6), 17: 215.0, 7: (9, 5, 0),
      29: "2021:06:01"}, "52.51633° N 13.37767° W, facing 215°, 2021:06:01 09:05:00 UTC"),
    ({1: "S", 2: (10.5, 0.0, 0.0), 3: "E", 4: (179.0, 0.0, 0.0)}, "10.50000° S 179.00000° E"),
    ({1: "N", 2: (95.0, 0.0, 0.0), 3: "E", 4: (13.0, 0.0, 0.0)},
     "present, without readable coordinates"),
    ({17: 12.0}, "present, without readable coordinates, facing 12°"),
])  # fmt: skip
def test_coordinates_are_told_as_a_map_takes_them(fields, told):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(fields)
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
    [fact] = [fact for fact in read_metadata(buffer.getvalue()) if fact.name == "location (EXIF)"]
    assert fact.value == told
    lines = evidence(buffer.getvalue()).lines
    assert any(f"Location: {told}." in line.finding for line in lines)


def test_the_format_of_an_image_is_known_up_to_the_limit_of_the_command(tmp_path):
    data = io.BytesIO()
    Image.new("L", (1, 1)).save(data, "PNG")
    large, small = ((20_000).to_bytes(4) + (10_000).to_bytes(4), (1).to_bytes(4) * 2)
    header = data.getvalue()[12:29].replace(small, large)
    content = data.getvalue()[:12] + header + zlib.crc32(header).to_bytes(4)
    (tmp_path / "large.png").write_bytes(content + data.getvalue()[33:])
    assert format_of(tmp_path / "large.png", 200_000_000) == "PNG"
    assert format_of(tmp_path / "large.png", 100_000_000) == ""


def test_hostile_metadata_is_printable_and_short():
    facts = read_metadata(text_chunk("Software", "\x1b[31mMidjourney\u202e" + "a" * 100_000))
    [fact] = [fact for fact in facts if fact.kind]
    assert len(fact.value) < 400 and fact.value.isprintable()
    damaged = [read_metadata(data) for data in (b"", b"\xff\xd8\xff\xe1\xff\xff", b"c2pa jumb" * 9)]
    assert all("cannot be read" in facts[0].value for facts in damaged)


# ---- lines and headline


@pytest.fixture
def detector(tmp_path) -> Run:
    return Run(tmp_path, RunInfo.model_validate({
        "status": "complete", "class_names": ["real", "fake"], "threshold": 0.5,
        "views": [{"size": [64, 64], "policy": "stretch"}], "prior": 0.5,
        "dataset": {"name": "d", "fingerprint": "0"},
        "calibration": {"method": "platt", "images": 100, "fake_fraction": 0.5,
                        "log_loss": [0.5, 0.4]},
    }))  # fmt: skip


def row(p: float, **changes) -> dict:
    return {"p_fake": p, "verdict": "fake" if p >= 0.5 else "real", "inconclusive": False,
            "in_domain": True, "error": None} | changes  # fmt: skip


def test_the_headline_follows_the_rule(photo, detector, monkeypatch):
    plain = encoded(photo[:40, :40])  # too small for traces
    declared = text_chunk("parameters", "a cat\nSteps: 20, Sampler: Euler a")

    def headline(data, *rows, run=detector):
        found = evidence(data, [(run, each) for each in rows])
        return found.basis, found.headline, found.tone

    assert headline(plain, row(0.9)) == ("detector", "Looks fake", "bad")
    assert headline(plain, row(0.1)) == ("detector", "Looks authentic", "good")
    assert headline(plain)[0] == "inconclusive"
    assert headline(plain, row(0.9, inconclusive=True))[0] == "inconclusive"
    assert headline(plain, row(0.9, in_domain=False))[0] == "inconclusive"
    uncalibrated = uncalibrated_of(detector).with_threshold(0.5)
    assert headline(plain, row(0.9), run=uncalibrated)[0] == "inconclusive"
    told = evidence(plain, [(uncalibrated, row(0.1))]).reasons
    assert any("This detector is not calibrated" in each for each in told)
    assert headline(declared, row(0.1))[0] == "declared"
    assert "without a signature" in headline(declared, row(0.1))[1]

    known = evidence(plain, [(detector, row(0.1, duplicate_of_train=True))])
    [line] = [line for line in known.lines if line.name == "detector"]
    assert "on this very image" in line.finding

    # A copied region contradicts "authentic", and nothing else.
    mask = disc(photo.shape, (90, 120), 42)
    forged = paste(photo, copy_move(photo, mask, np.random.default_rng(0)), soften(mask, 2))
    assert headline(encoded(forged), row(0.1))[:2] == (
        "inconclusive", "Inconclusive: traces of editing",
    )  # fmt: skip
    assert headline(encoded(forged), row(0.9))[0] == "detector"

    # Signed declarations come before everything else; broken ones do not count.
    def signed(state, *types):
        facts = [Fact(C2PA, "by Studio, signed by Somebody", "signed", "", state)]
        facts += [Fact(f"digital source type ({C2PA})", name, "", kind, state)
                  for name, kind in types]  # fmt: skip
        monkeypatch.setattr("tfdetect.forensics.evidence.read_metadata", lambda *_: facts)
        return headline(plain, row(0.1))

    assert "partly generated, with a signature" in signed(
        "Valid", ("compositeWithTrainedAlgorithmicMedia", "generated"))[1]  # fmt: skip
    assert signed("Trusted", ("digitalCapture", "camera"))[:2] == (
        "declared", "Declared as a camera's picture, with a signature",
    )  # fmt: skip
    assert signed("Valid", ("digitalCapture", "camera"))[0] == "detector"
    assert signed("Invalid", ("trainedAlgorithmicMedia", "generated"))[0] == "detector"


def test_images_with_copied_regions_are_named(capsys):
    found = {f"{n}.jpg": SimpleNamespace(copies=SimpleNamespace(found=n % 2)) for n in range(4)}
    log_copies(found, Path("out"))
    assert "found in 2 of 4 images: 1.jpg, 3.jpg; masks and ov" in capsys.readouterr().err
    many = {f"{n}.jpg": SimpleNamespace(copies=SimpleNamespace(found=True)) for n in range(12)}
    log_copies(many, Path("out"))
    assert ", 9.jpg and 2 more; masks" in capsys.readouterr().err


def test_every_line_says_how_reliable_it_is(photo, detector):
    found = evidence(encoded(photo, "JPEG", quality=90), [(detector, row(0.9))])
    assert [line.name for line in found.lines] == [
        "content_credentials", "generator_note", "editing_software", "camera_data", "jpeg_history",
        "jpeg_regions", "copies", "detector",
    ]  # fmt: skip
    assert all(line.finding and line.reliability for line in found.lines)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["rule"] == RULE and data["lines"][0]["title"] == "Content credentials"
    text = printed("a.jpg", found)
    assert max(map(len, text.splitlines())) <= 88 and "Nothing found" in text
    assert "copied regions" in text and "Copied regions" not in text


def test_a_reader_of_the_headline_reads_nothing_twice(photo, detector):
    """Neither what the detector says, nor a declaration, nor a trace of editing."""
    note = text_chunk("parameters", "a cat\nSteps: 20, Sampler: Euler a")
    mask = disc(photo.shape, (90, 120), 42)
    forged = paste(photo, copy_move(photo, mask, np.random.default_rng(0)), soften(mask, 2))
    uncalibrated = uncalibrated_of(detector).with_threshold(0.5)
    small = encoded(photo[:40, :40])
    for data, run, p in (
        (small, detector, 0.9), (small, uncalibrated, 0.1), (note, detector, 0.1),
        (encoded(forged), detector, 0.1), (encoded(forged), detector, 0.9),
    ):  # fmt: skip
        known = evidence(data, [(run, row(p))])
        lines = told_once(known)
        shown = " ".join(
            [*known.reasons, *(f"{x.title}: {x.finding} {x.reliability}" for x in lines)]
        )
        said = [*verdict_words(run, row(p), False).lines]
        said += [line.finding for line in known.lines if line.name in ("generator_note", "copies")
                 and line.says != "nothing"]  # fmt: skip
        said += [UNSIGNED] if data is note else []
        assert [shown.count(each) for each in said] == [1] * len(said), shown
        assert all(line.finding for line in lines)
        assert lines[-1].finding.startswith(f"{run.name}: Looks") and lines[-1].reliability
        text = " ".join(printed("a.png", known).split())
        assert [text.count(each) for each in said] == [1] * len(said), text


def test_the_localizer_says_how_often_it_marks_authentic_and_altered_images(photo, detector):
    path = detector.path / "localizer_photos"
    localizer = dataclasses.replace(detector.with_info(predicts_masks=True), path=path)
    for fraction, key in ((0.2, ""), (0.0, ".none")):
        marks = (localizer, row(0.9, altered_fraction=fraction))
        line = evidence(encoded(photo[:40, :40]), [(detector, row(0.9)), marks]).lines[-1]
        assert line.name == "localizer" and line.key == f"localizer.localizer_photos{key}"
        rates = error_rates()["findings"][line.key]
        assert set(rates) == {"authentic", "trained", "edited"}
        for (count, total), words in zip(rates.values(), (
            "authentic photographs", "forgeries like those that it was trained on",
            "images of which a generator filled a region",
        )):  # fmt: skip
            assert f"{count} of {total} {words} (" in line.reliability


def test_error_rates_were_measured():
    rates = error_rates()
    assert rates["command"].startswith("python benchmarks/evidence.py")
    for name, least in (("generator_note", 1000), ("camera_complete", 1000), ("copies", 10),
                        ("jpeg_regions", 10)):  # fmt: skip
        found, total = rates["findings"][name]["authentic"]
        assert 0 <= found <= total and total >= least


def test_files_are_examined_without_tensorflow_and_scipy(tmp_path, photo):
    (tmp_path / "a.jpg").write_bytes(encoded(photo, "JPEG"))
    program = (
        "import sys; from tfdetect.forensics.evidence import evidence; "
        f"print(evidence({str(tmp_path / 'a.jpg')!r}).headline); "
        "sys.exit(any(n in sys.modules for n in ('tensorflow', 'keras', 'scipy', 'sklearn')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "Inconclusive\n", done.stderr


def test_credentials_that_cannot_be_read_are_said_in_the_headline(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)  # as where it is not installed
    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, "PNG")
    found = evidence(data.getvalue() + b"jumb c2pa", [])
    line = next(each for each in found.lines if each.name == "content_credentials")
    assert line.finding == "Present, but not read. To read them: pip install 'tfdetect[c2pa]'."
    assert "which may say where it comes from" in found.reasons[0]
