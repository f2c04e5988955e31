"""Catalog: scanning, inspecting, splitting, caching, and bad files."""

import dataclasses
import os
import shutil

import pyarrow as pa
import pytest
from conftest import write_images

from tfdetect.core.caches import cache_dir
from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.data import inspection
from tfdetect.data.catalog import build_catalog


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
    write_images(tmp_path / "real", 80, 0, seed=9, extension="webp")
    after = {r["path"]: r for r in build(tmp_path).table.to_pylist()}
    assert len(after) == len(before) + 80
    assert all(after[path]["split"] == row["split"] for path, row in before.items())


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
    with pytest.raises(
        UserError, match=r"20 of 172 images .* more than the allowed fraction of 5%"
    ):
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
