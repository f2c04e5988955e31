"""The shipped layouts, manifests and unions, on small trees shaped like the real ones."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import fit_small, train_small, write_images
from PIL import Image

from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.locate import locate
from tfdetect.evaluation.intervals import format_interval, wilson


def build(name, root=None):
    spec, folders = load_spec(str(name))
    return spec, build_catalog(spec, folders or {spec.name: root}, progress=False)


def write_mask(path, side=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side, side), np.uint8)
    mask[4:12, 6:20] = 255
    Image.fromarray(mask).save(path)


def one_image(path, seed, side=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def splits_of(catalog, key):
    found = {}
    for row in catalog.table.to_pylist():
        found.setdefault(key(row), set()).add(row["split"])
    return found


@pytest.fixture
def deepfakeart(tmp_path):
    for number in range(60):
        folder = tmp_path / "inpainting" / str(number)
        one_image(folder / "original.jpg", [number, 0])
        one_image(folder / "inpainting.jpg", [number, 1])
        one_image(folder / "group.jpg", [number, 2])
        write_mask(folder / "mask.jpg")
    return tmp_path


def test_deepfakeart_pairs_paintings_with_masks_and_leaves_previews_out(deepfakeart):
    spec, found = build("deepfakeart", deepfakeart)
    rows = found.table.to_pylist()
    assert len(rows) == 120 and spec.class_names == ("original", "inpainted")
    for row in rows:
        folder, name = row["path"].rsplit("/", 1)
        assert name in ("original.jpg", "inpainting.jpg")
        fake = name == "inpainting.jpg"
        assert row["label"] == fake
        assert row["mask"] == (f"{folder}/mask.jpg" if fake else None)
        assert row["generator"] == ("Stable Diffusion 2 inpainting" if fake else None)
        assert row["group"] == folder.rsplit("/", 1)[1]
    assert all(len(s) == 1 for s in splits_of(found, lambda r: r["group"]).values())
    assert set(found.table["split"].to_pylist()) == {"train", "validation", "test"}
    masks = found.paths(found.table, "mask").to_pylist()
    assert all(m is None or Path(m).is_file() for m in masks)


def test_a_missing_mask_takes_its_image_out(deepfakeart):
    (deepfakeart / "inpainting" / "7" / "mask.jpg").unlink()
    _, found = build("deepfakeart", deepfakeart)
    (skipped,) = found.skipped.to_pylist()
    assert skipped["path"] == "inpainting/7/inpainting.jpg"
    assert skipped["error"] == "its mask inpainting/7/mask.* is missing"


def test_the_same_painting_in_two_records_stays_in_one_split(deepfakeart):
    base = deepfakeart / "inpainting"
    for number in range(0, 60, 2):
        shutil.copy(base / str(number) / "original.jpg", base / str(number + 1) / "original.jpg")
    _, found = build("deepfakeart", deepfakeart)
    splits = splits_of(found, lambda r: int(r["path"].split("/")[1]) // 2)
    assert all(len(s) == 1 for s in splits.values())


@pytest.fixture
def faces3(tmp_path):
    for number in range(20):
        one_image(tmp_path / "real" / "ffhq" / "00000" / f"{number:05d}.png", [0, number])
        for kind, name in enumerate(("wgan-gp", "stylegan", "mspie-stylegan2"), 1):
            one_image(tmp_path / "generated" / name / f"{number}.png", [kind, number])
    # A chain 000-001-002-..-009 of pairs, and pairs of their own.
    pairs = [(n, n + 1) for n in range(9)] + [(n, n + 1) for n in range(100, 140, 2)]
    for kind, name in enumerate(("F2F", "FS"), 10):
        for a, b in pairs:
            for frame in range(2):
                tail = f"{name}/{a:03d}_{b:03d}/{frame:04d}.png"
                one_image(tmp_path / "edited" / tail, [kind, a, b, frame])
                write_mask(tmp_path / "masks" / tail)
    for number in (3, 100):
        one_image(tmp_path / "real" / "youtube" / f"{number:03d}" / "0000.png", [20, number])
    return tmp_path


def test_faces3_three_classes_masks_and_connected_videos(faces3):
    spec, found = build("faces3", faces3)
    assert spec.class_names == ("real", "generated", "edited")
    rows = found.table.to_pylist()
    generators = {(r["label"], r["generator"]) for r in rows}
    assert {(1, "WGAN-GP"), (1, "StyleGAN"), (1, "MSPIE-StyleGAN2"), (2, "Face2Face"),
            (2, "FaceSwap")} < generators  # fmt: skip
    assert all((r["mask"] is not None) == (r["label"] == 2) for r in rows)
    videos = {}
    for row in rows:
        parts = row["path"].split("/")
        if parts[1] in ("F2F", "FS", "youtube"):
            for video in parts[2].split("_"):
                videos.setdefault(int(video), set()).add(row["split"])
    chain = set.union(*(videos[n] for n in range(10)))
    assert len(chain) == 1
    assert all(len(videos[n] | videos[n + 1]) == 1 for n in range(100, 140, 2))
    assert len({s for n in range(100, 140) for s in videos[n]}) > 1


def test_three_classes_reach_the_report(faces3, tmp_path_factory):
    spec, _ = load_spec("faces3")
    folder, overrides = tmp_path_factory.mktemp("runs"), ["training.label_smoothing=0.1"]
    run = train_small("faces3", folder, overrides, data_dir=faces3)
    assert run.class_names == ("real", "generated", "edited")
    result = run.results["test"]
    counts, found = np.array(result["confusion"]), result["metrics"]["class_accuracy"]
    assert counts.shape == (3, 3)
    assert found["value"] == pytest.approx(counts.trace() / counts.sum(), abs=1e-6)
    for number, (name, one) in enumerate(result["classes"].items()):
        assert name == run.class_names[number] and one["count"] == counts[number].sum()
        share = counts[number, number] / counts[number].sum()
        assert one["recall"]["value"] == pytest.approx(share, abs=1e-6)
        low, high = wilson(share, counts[number].sum())
        assert one["recall"]["low"] == pytest.approx(low, abs=1e-6)
        assert one["recall"]["high"] == pytest.approx(high, abs=1e-6)
        called = counts[:, number].sum()
        expected = counts[number, number] / called if called else None
        assert one["precision"]["value"] == pytest.approx(expected, abs=1e-6)
    card = (run.path / "model_card.md").read_text()
    page = (run.path / "report.html").read_text().replace("\N{NO-BREAK SPACE}<wbr>", " ")
    first = result["classes"]["generated"]
    cells = f">{first['count']}</td>"
    assert "Metrics by class" in page and format_interval(first["recall"]) in page and cells in page
    assert f"| generated | {first['count']} | {format_interval(first['recall'])} |" in card
    assert "| accuracy of the class |" in card and "right one of 3 classes" in card
    predictions = pq.read_table(run.path / "predictions" / "test.parquet")
    assert {"probability_edited", "mask", "dataset"} < set(predictions.column_names)
    for row in predictions.to_pylist():
        assert (row["mask"] is not None) == (row["label"] == 2)
        assert row["p_fake"] == pytest.approx(1 - row["probability_real"], abs=1e-5)


def test_three_classes_are_mixed(faces3, tmp_path_factory):
    policy = "data.augment=[{name: mixup}, {name: cutmix, alpha: 0.5}]"
    overrides = [policy, "training.label_smoothing=0.1", "data.balance=weight"]
    folder = tmp_path_factory.mktemp("fit")
    _, state = fit_small("faces3", folder, overrides, data_dir=faces3)
    assert state.epoch == 2 and all(np.isfinite(list(row.values())).all() for row in state.history)


@pytest.mark.parametrize(("train", "val", "named"), [
    ("train", "val", True), ("train", "validation", False),
])  # fmt: skip
def test_a_folder_in_the_layout_of_genimage_is_told_so(tmp_path, train, val, named):
    """Its val is the test split there; here it may be either, so nothing is guessed."""
    for generator in ("biggan", "adm"):
        for split, count in ((train, 8), (val, 4)):
            for name in ("ai", "nature"):
                write_images(tmp_path / "my set" / generator / split / name, count, name == "ai")
    root = tmp_path / "my set"
    spec, _ = load_spec(str(root))
    found = build_catalog(spec, {spec.name: root}, progress=False)
    assert found.split("validation").num_rows == 16 and "no test split" in found.warnings[-1]
    hint = f"of which val/ is test. If it is: --dataset genimage --data-dir '{root}'"
    assert (hint in found.warnings[-1]) is named
    spec, _ = load_spec("genimage")
    if named:
        found = build_catalog(spec, {"genimage": locate(spec, root)}, progress=False)
        assert found.split("test").num_rows == 16
        assert set(found.table["generator"].to_pylist()) == {"BigGAN", "ADM"}


def test_inpainting_is_paired_by_stem(tmp_path):
    for number in range(40):
        stem = tmp_path / "photos" / f"a.{number}"
        for kind, name in enumerate(("original", "realfake", "fakefake")):
            one_image(stem.with_name(f"{stem.name}.{name}.webp"), [number, kind])
        write_mask(stem.with_name(f"{stem.name}.mask.webp"))
        one_image(stem.with_name(f"{stem.name}.inpainted.webp"), [number, 9])
    _, found = build("inpainting", tmp_path)
    rows = found.table.to_pylist()
    assert len(rows) == 120
    for row in rows:
        kind = row["path"].split(".")[-2]
        assert row["label"] == (kind != "original")
        assert row["generator"] == (None if kind == "original" else kind)
        stem = row["path"].rsplit(".", 2)[0]
        assert row["mask"] == (None if kind == "original" else f"{stem}.mask.webp")
    assert all(len(s) == 1 for s in splits_of(found, lambda r: r["group"]).values())


@pytest.fixture
def manifest(tmp_path):
    """A folder with manifest.csv; its class folders alone would mislead."""
    root = tmp_path / "Some Set"
    lines = ["path,label,generator,mask,group,split,width"]
    for number in range(40):
        one_image(root / "a" / f"{number}.png", [0, number])
        one_image(root / "b" / f"{number}.png", [1, number])
        write_mask(root / "masks" / f"{number}.png")
        split = ("train", "train", "val", "test")[number % 4]
        lines.append(f"a/{number}.png,real,,masks/{number}.png,g{number},{split},24")
        lines.append(f"b/{number}.png,fake,LaMa,masks/{number}.png,g{number},{split},24")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet"])
def test_manifests(manifest, kind):
    name = manifest if kind == "folder" else manifest / f"manifest.{kind}"
    if kind == "parquet":
        from pyarrow.csv import read_csv

        pq.write_table(read_csv(manifest / "manifest.csv"), name)
    spec, found = build(name)
    assert spec.name == "some_set" and spec.class_names == ("real", "fake")
    rows = found.table.to_pylist()
    assert len(rows) == 80
    for row in rows:
        fake = row["path"].startswith("b/")
        assert row["label"] == fake
        assert row["generator"] == ("LaMa" if fake else None)
        # The masks of authentic images mark no alteration.
        assert row["mask"] == (f"masks/{row['path'][2:]}" if fake else None)
        number = int(row["path"][2:-4])
        assert row["split"] == ("train", "train", "validation", "test")[number % 4]


def test_a_manifest_of_absolute_paths(manifest, tmp_path):
    table = csv.DictReader((manifest / "manifest.csv").read_text().splitlines())
    (tmp_path / "elsewhere").mkdir()
    with (tmp_path / "elsewhere" / "manifest.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, table.fieldnames)
        rows.writeheader()
        for row in table:
            rows.writerow({**row, "path": manifest / row["path"], "mask": manifest / row["mask"]})
    _, found = build(tmp_path / "elsewhere" / "manifest.csv")
    assert found.table.num_rows == 80 and not found.skipped.num_rows
    assert all(Path(path).is_file() for path in found.paths(found.table).to_pylist())
    fakes = found.table.filter(pc.equal(found.table["label"], 1))
    assert all(Path(path).is_file() for path in found.paths(fakes, "mask").to_pylist())


def test_a_manifest_that_lists_a_missing_file(manifest):
    (manifest / "b" / "3.png").unlink()
    _, found = build(manifest)
    assert found.skipped.to_pylist() == [{"path": "b/3.png", "error": "no such file"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na/0.png,real\n", r"no column 'path'.* It has: file, label"),
        ("path,lable\na/0.png,real\n", r"no column 'label'. Did you mean 'lable'"),
        ("path,label\na/0.png,real\n", "only one class"),
        ("path,label\na/0.png,x\nb/0.png,y\n", "--authentic"),
        (
            "path,label\na/0.png,real\nb/0.png,fake\na/0.png,fake\n",
            "row 4: a/0.png is listed twice, first in row 2",
        ),
        ("path,label,split\na/0.png,real,train\nb/0.png,fake,trian\n", "split 'trian'"),
        ("path,label\n", "lists no files"),
        ("path,label\n,real\nb/0.png,fake\n", "row 2: no path"),
    ],
)
def test_mistakes_in_manifests_are_explained(manifest, text, message):
    (manifest / "manifest.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        build(manifest)


def test_a_spec_maps_a_manifests_columns(manifest, tmp_path):
    text = (manifest / "manifest.csv").read_text().replace("path,label,", "file,kind,", 1)
    (manifest / "list.csv").write_text(text)
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\nmanifest: list.csv\ncolumns: {path: file, label: kind}\n"
        "classes: [{name: authentic, folders: [real]}, {name: altered, folders: [fake]}]\n"
        "splits: {train: train, val: validation, test: test}\n"
    )
    spec, _ = load_spec(str(file))
    found = build_catalog(spec, {"mine": locate(spec, manifest)}, progress=False)
    assert found.counts(("authentic", "altered"))["test"] == {"authentic": 10, "altered": 10}
    with pytest.raises(UserError, match="does not contain the dataset 'mine'.*manifest list.csv"):
        locate(spec, tmp_path)


@pytest.fixture
def two_sets(tmp_path):
    for number, name in enumerate(("one", "two")):
        for folder, fake in (("real", 0), ("fake", 1)):
            write_images(tmp_path / name / folder, 60 - 20 * number, fake, seed=5 + number)
    return tmp_path / "one", tmp_path / "two"


def test_a_union_of_folders_trains_and_is_measured_by_set(two_sets, tmp_path):
    run = train_small("+".join(map(str, two_sets)), tmp_path)
    assert run.info.dataset.name == "one+two" and set(run.roots) == {"one", "two"}
    predictions = pq.read_table(run.path / "predictions" / "validation.parquet")
    assert set(predictions["dataset"].to_pylist()) == {"one", "two"}
    import json

    metrics = json.loads((run.path / "metrics.json").read_text())["validation"]
    assert set(metrics["datasets"]) == {"one", "two"}
    assert sum(part["count"] for part in metrics["datasets"].values()) == metrics["count"]
    assert "two" in (run.path / "report.html").read_text()


def test_the_parts_of_a_union_keep_their_own_splits(two_sets):
    spec, union = build("+".join(map(str, two_sets)))
    for path in two_sets:
        _, alone = build(path)
        rows = union.table.filter(pa.compute.equal(union.table["dataset"], path.name))
        assert rows["split"].to_pylist() == alone.table["split"].to_pylist()
        assert rows["path"].to_pylist() == alone.table["path"].to_pylist()


def test_a_union_maps_classes(faces3, two_sets, tmp_path):
    file = tmp_path / "both.yaml"
    file.write_text(
        f"name: both\nparts:\n  - faces3\n  - dataset: {two_sets[0]}\n"
        "    classes: {fake: generated}\n"
        "classes: [{name: real, folders: []}, {name: generated, folders: []}, "
        "{name: edited, folders: []}]\n"
    )
    spec, folders = load_spec(str(file))
    found = build_catalog(spec, {**folders, "faces3": faces3}, progress=False)
    rows = found.table.to_pylist()
    assert {r["label"] for r in rows if r["dataset"] == "faces3"} == {0, 1, 2}
    assert {r["label"] for r in rows if r["dataset"] == "one" and "fake" in r["path"]} == {1}


def test_unions_that_cannot_be_are_explained(two_sets, tmp_path):
    with pytest.raises(UserError, match="names one dataset twice"):
        load_spec("cifake+cifake")
    with pytest.raises(UserError, match="Did you mean 'cifake'"):
        load_spec("cifaek+genimage")
    with pytest.raises(UserError, match="class fake of cifake is not among faces3's"):
        load_spec("faces3+cifake")
    file = tmp_path / "bad.yaml"
    file.write_text(
        "name: bad\nparts: [cifake, genimage]\n"
        "classes: [{name: real, folders: []}, {name: fake, folders: []}]\n"
    )
    with pytest.raises(UserError, match="class nature, ai of the part genimage"):
        load_spec(str(file))


@pytest.mark.parametrize(("name", "extension", "kinds"), [
    ("splices", "jpg", {"splicing": "splicing"}),
    ("casia1_samples", "png", {"splicing": "splicing", "copymove": "copy-move"}),
])  # fmt: skip
def test_manipulated_sets_have_masks_and_keep_pairs(name, extension, kinds, tmp_path):
    for number in range(40):
        folder = list(kinds)[number % len(kinds)]
        one_image(tmp_path / "real" / f"a{number}.{extension}", [number, 0])
        one_image(tmp_path / "fake" / folder / f"a{number}.{extension}", [number, 1])
        write_mask(tmp_path / "masks" / f"a{number}.png")
        write_mask(tmp_path / "object_masks" / f"a{number}.png")
    spec, found = build(name, tmp_path)
    rows = found.table.to_pylist()
    assert len(rows) == 80 and found.split("all").num_rows == 80
    for row in rows:
        stem = Path(row["path"]).stem
        assert row["mask"] == (f"masks/{stem}.png" if row["label"] else None)
        if row["label"]:
            assert row["generator"] == kinds[Path(row["path"]).parent.name]
    assert all(len(s) == 1 for s in splits_of(found, lambda r: Path(r["path"]).stem).values())
