"""Catalog: scanning, inspecting, splitting, caching, and bad files."""

import dataclasses
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from conftest import write_images

from tfdetect.core.caches import cache_dir
from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.core.run_migration import current_spec
from tfdetect.core.spec import SPLITS, DatasetSpec
from tfdetect.data import inspection
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.check_catalog import check_trainable
from tfdetect.data.folds import fold
from tfdetect.data.splits import Carved, carve, group_fraction, join_copies


def build(root, name=None, **changes):
    spec, _ = load_spec(str(name or root))
    return build_catalog(spec.model_copy(update=changes), {spec.name: root}, progress=False)


def test_columns_and_labels(folder_dataset):
    found = build(folder_dataset)
    assert set(found.table.column_names) == {
        "dataset", "path", "label", "generator", "mask", "group", "split", "size", "width",
        "height", "format", "hash", "mask_coverage",
    }  # fmt: skip
    for row in found.table.to_pylist():
        assert row["label"] == int("fake" in row["path"])
        assert (row["width"], row["height"], row["format"]) == (24, 24, "PNG")
        assert row["size"] == os.path.getsize(folder_dataset / row["path"])
    counts = found.counts(("real", "fake"))
    assert counts["test"] == {"real": 16, "fake": 16}
    assert sum(counts["train"].values()) + sum(counts["validation"].values()) == 120


def test_splits_are_carved_where_no_folder_gives_them(tmp_path):
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / name, 100, fake)
    counts = build(tmp_path).counts(("real", "fake"))
    assert set(counts) == {"train", "validation", "test"}
    assert 15 < sum(counts["test"].values()) < 50


def counts_of_split(found, split):
    return list(found.counts(("real", "fake"))[split].values())


@pytest.mark.parametrize("sizes", [(250, 5), (120, 120), (10, 10), (40, 3)])
def test_each_class_is_in_each_split(tmp_path, sizes):
    for name, count, fake in zip(("real", "fake"), sizes, (0, 1)):
        write_images(tmp_path / name, count, fake, side=8)
    found = build(tmp_path)
    for split in ("validation", "test"):
        for count, size in zip(counts_of_split(found, split), sizes):
            wanted = round(0.15 * size)
            assert min(20, max(1, wanted)) <= count <= max(1, round(1.5 * 0.15 * size))
    assert min(counts_of_split(found, "train")) >= 1


def test_runs_of_earlier_versions_keep_their_splits(tmp_path):
    """Their specs have no split_rule; large classes are split alike by both rules."""
    rng = np.random.default_rng(0)
    fractions = rng.random(3000)
    present = np.arange(3000)[:, None] % 2 == np.arange(2)
    assert np.array_equal(carve(fractions, 0.15, 0.1), carve(fractions, 0.15, 0.1, present))
    write_images(tmp_path / "real", 30, 0, side=8)
    write_images(tmp_path / "fake", 4, 1, side=8)
    spec, folders = load_spec(str(tmp_path))
    assert spec.split_rule == 2
    data = spec.as_data()
    assert current_spec(data)["split_rule"] == 2
    del data["split_rule"]
    old = DatasetSpec(**current_spec(data))
    table = build_catalog(old, folders, progress=False).table
    names = sorted(table["hash"].to_pylist())
    carved = carve(np.array([group_fraction(spec.name, name) for name in names]), 0.15, 0.15)
    expected = dict(zip(names, (SPLITS[number] for number in carved)))
    assert all(row["split"] == expected[row["hash"]] for row in table.to_pylist())


def test_copies_in_a_union_are_in_one_split(tmp_path):
    for part in ("a", "b", "c"):
        for name, fake in (("real", 0), ("fake", 1)):
            write_images(tmp_path / part / name, 40, fake, side=8, seed=ord(part))
    for number in range(40):  # copies of a in b
        for name in ("real", "fake"):
            source = tmp_path / "a" / name / f"{number:03d}.png"
            shutil.copy(source, tmp_path / "b" / name / f"copy{number}.png")
    alone = build(tmp_path / "a").table
    spec, folders = load_spec("+".join(str(tmp_path / part) for part in "abc"))
    found = build_catalog(spec, folders, progress=False)
    splits = {}
    for row in found.table.to_pylist():
        splits.setdefault(row["hash"], set()).add(row["split"])
    assert all(len(each) == 1 for each in splits.values())
    for row in alone.to_pylist():
        assert splits[row["hash"]] == {row["split"]}
    assert any("moved to the split of copies" in text for text in found.warnings)
    others = {row["path"]: row["split"] for row in build(tmp_path / "c").table.to_pylist()}
    rows = [row for row in found.table.to_pylist() if row["dataset"] == "c"]
    assert others == {row["path"]: row["split"] for row in rows}
    old = build_catalog(spec.model_copy(update={"split_rule": 1}), folders, progress=False)
    assert not old.warnings
    for number in range(3):
        part = fold(found, 3, number)
        held = [set(part.split(name)["hash"].to_pylist()) for name in ("train", "validation")]
        assert all(held) and not held[0] & held[1]


def test_named_splits_decide_for_copies_in_a_union():
    """A group moves as a whole, and nothing moves out of a split that its dataset names."""
    rows = [
        ("carved", "g1", "x", "train"), ("carved", "g1", "y", "train"),
        ("carved", "g2", "z", "test"),
        ("tests", "t", "x", "test"), ("tests", "u", "w", "train"),
        ("fixed", "f", "w", "validation"), ("fixed", "f2", "z", "train"),
        ("tests", "v", "q", "validation"), ("fixed", "f3", "q", "test"),
    ]  # fmt: skip
    columns = dict(zip(("dataset", "group", "hash", "split"), map(pa.array, zip(*rows))))
    carved = {
        "carved": Carved.ALL, "tests": Carved.VALIDATION, "fixed": Carved.NOTHING,
    }  # fmt: skip
    table, lines = join_copies(pa.table(columns), carved)
    assert table["split"].to_pylist() == [
        "test", "test", "train", "test", "validation", "validation", "train", "validation", "test",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines] == ["4", "1"]


def test_identical_files_stay_together_and_new_ones_move_none(tmp_path):
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / name, 50, fake)
        for number in range(50):  # a copy of each under another name
            shutil.copy(tmp_path / name / f"{number:03d}.png", tmp_path / name / f"z{number}.png")
    before = {r["path"]: r for r in build(tmp_path).table.to_pylist()}
    by_hash = {}
    for row in before.values():
        by_hash.setdefault(row["hash"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_hash.values())
    old = {r["path"]: r for r in build(tmp_path, split_rule=1).table.to_pylist()}
    write_images(tmp_path / "real", 80, 0, seed=9, extension="webp")
    after = {r["path"]: r for r in build(tmp_path).table.to_pylist()}
    assert len(after) == len(before) + 80
    moved = {row["hash"] for path, row in before.items() if after[path]["split"] != row["split"]}
    assert len(moved) < 8  # few, since the classes are small
    after = {r["path"]: r for r in build(tmp_path, split_rule=1).table.to_pylist()}
    assert all(after[path]["split"] == row["split"] for path, row in old.items())


def test_bad_files_are_skipped_and_named(folder_dataset):
    folder = folder_dataset / "train" / "real"
    (folder / "text.jpg").write_text("this is no image")
    (folder / "empty.png").write_bytes(b"")
    data = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    write_images(folder, 1, 0, extension="jp2")
    (folder / "notes.txt").write_text("not an image by name: passed over")
    found = build(folder_dataset)
    errors = {os.path.basename(r["path"]): r["error"] for r in found.skipped.to_pylist()}
    assert set(errors) == {"text.jpg", "empty.png", "cut.png", "000.jp2"}
    assert errors["text.jpg"] == "not an image"
    assert errors["empty.png"] == "empty file"
    assert errors["cut.png"].startswith("damaged")
    assert "not supported" in errors["000.jp2"]
    assert not set(errors) & {os.path.basename(p) for p in found.table["path"].to_pylist()}


def test_huge_images_are_skipped_unread(folder_dataset):
    write_images(folder_dataset / "train" / "real", 1, 0, side=200, extension="webp")
    found = build(folder_dataset, max_pixels=10_000)
    assert found.skipped.to_pylist() == [
        {
            "path": "train/real/000.webp",
            "error": "200 x 200 pixels are more than 10,000 (max_pixels)",
        }
    ]


def test_too_many_bad_files_stop(folder_dataset):
    for number in range(20):
        (folder_dataset / "train" / "real" / f"x{number}.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"20 of 172 images .* Allowed are 5% .*\n.*train/real/x0"):
        build(folder_dataset)
    assert build(folder_dataset, max_unreadable_fraction=0.2).skipped.num_rows == 20


def test_only_changed_files_are_inspected_again(folder_dataset, monkeypatch):
    first = build(folder_dataset)
    asked = []
    real = inspection.read_all
    monkeypatch.setattr(
        inspection, "read_all",
        lambda read, paths, *rest: asked.extend(paths) or real(read, paths, *rest),
    )  # fmt: skip
    assert build(folder_dataset).table.equals(first.table)
    assert asked == []
    write_images(folder_dataset / "train" / "fake", 1, 1, side=24, seed=7)
    second = build(folder_dataset)
    assert asked == [str(folder_dataset.resolve() / "train/fake/000.png")]
    assert second.fingerprint() != first.fingerprint()


def test_broken_cache_is_rebuilt(folder_dataset):
    first = build(folder_dataset)
    (cache,) = (cache_dir() / "catalogs").glob("*.parquet")
    cache.write_bytes(b"garbage")
    assert build(folder_dataset).table.equals(first.table)


def test_genimage_generators_at_any_depth(tmp_path):
    layout = {
        "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4": "Stable Diffusion 1.4",
        "Midjourney/imagenet_midjourney": "Midjourney",
        "imagenet_ai_0419_biggan": "BigGAN",
        "somethingnew": "somethingnew",
    }
    for folder in layout:
        for split in ("train", "val"):
            for name, fake in (("ai", 1), ("nature", 0)):
                write_images(tmp_path / folder / split / name, 12, fake, seed=len(folder + split))
    found = build(tmp_path, "genimage")
    for row in found.table.to_pylist():
        folder = row["path"].split("/train")[0].split("/val")[0]
        assert row["generator"] == layout[folder]
        assert row["label"] == int("/ai/" in row["path"])
        assert (row["split"] == "test") == ("/val/" in row["path"])


def test_unexpected_counts_warn(tmp_path):
    for split in ("train", "test"):
        for name, fake in (("REAL", 0), ("FAKE", 1)):
            write_images(tmp_path / split / name, 40, fake, seed=len(split), extension="jpg")
    found = build(tmp_path, "cifake", validation_fraction=0.3)
    assert "cifake: expected 50,000 real files in train, found 40" in found.warnings
    assert len(found.warnings) == 4


def test_nothing_found_is_said(tmp_path):
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="No images"):
        build(tmp_path)


def test_many_files_are_inspected_in_processes(tmp_path):
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / name, 300, fake, side=8)
    (tmp_path / "real" / "bad.png").write_text("no")
    found = build(tmp_path)
    assert found.table.num_rows == 600
    assert found.skipped["path"].to_pylist() == ["real/bad.png"]


def test_the_fingerprint_does_not_depend_on_how_the_table_is_parted(folder_dataset):
    found = build(folder_dataset)
    parts = [found.table.slice(0, 7), found.table.slice(7, 0), found.table.slice(7)]
    parted = dataclasses.replace(found, table=pa.concat_tables(parts))
    assert parted.table["hash"].num_chunks > found.table["hash"].num_chunks
    assert parted.fingerprint() == found.fingerprint()


def test_one_image_of_each_class_is_refused_with_what_to_do(tmp_path):
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / name, 1, fake)
    spec, _ = load_spec(str(tmp_path))
    catalog = build_catalog(spec, {spec.name: tmp_path}, progress=False)
    with pytest.raises(UserError, match=r"has no image of class .*Add images of each class"):
        check_trainable(spec, catalog)
