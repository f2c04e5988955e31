"""Prepared datasets: what other readers see, what training sees, and what interruptions leave."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import train_small, write_dataset, write_images
from PIL import Image

import tfdetect
from tfdetect.core.data_settings import Data
from tfdetect.core.errors import UserError
from tfdetect.core.run_command import run_command
from tfdetect.core.run_info import View
from tfdetect.data.evaluation_data import evaluation_data
from tfdetect.data.loading import load_images
from tfdetect.data.plan import find_data, make_plan
from tfdetect.data.prepare_dataset import write_shards
from tfdetect.data.shard_writer import Copies, ShardWriter
from tfdetect.data.sources import image_source, mask_source
from tfdetect.data.training_data import training_data
from tfdetect.imaging.geometry import resize
from tfdetect.imaging.read import decode_any
from tfdetect.prepare import main as prepare_main

pytestmark = pytest.mark.filterwarnings(  # tensorflow-datasets' own
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


def prepare(root, output, copies=Copies(), shard_bytes=25_000):  # noqa: B008
    plan = make_plan(str(root))
    catalog = find_data(plan, progress=False)
    return write_shards(catalog, plan.spec, output, copies, shard_bytes, 2, progress=False)


def catalog_of(name):
    return find_data(make_plan(str(name)), progress=False)


def stream(name, batch_size=8, **settings):
    catalog = catalog_of(name)
    data = Data(**{"image_size": 24, "cache": "none", **settings})
    return training_data(catalog, catalog.split("train"), data, 2, batch_size, 1)


@pytest.fixture
def small_pools(monkeypatch):
    """Several shards a pool, several pools a pass."""
    monkeypatch.setattr("tfdetect.data.sampling.POOL_BYTES", 70_000)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Small pictures as shards, for tests that only read them."""
    base = tmp_path_factory.mktemp("prepared")
    return prepare(write_dataset(base / "pictures"), base / "out")


@pytest.fixture
def masked(tmp_path):
    """Photographs and edits in four formats, edits with masks, listed in a manifest."""
    rng, rows = np.random.default_rng(0), ["path,label,mask,group,generator"]
    root = tmp_path / "masked"
    for number in range(40):
        extension = ("png", "jpg", "webp", "bmp")[number % 4]
        label, mask = ("real", "fake")[number // 4 % 2], ""
        write_images(root / str(number), 1, number // 4 % 2, side=32, extension=extension)
        if label == "fake" and number % 3:
            mask = f"{number}/mask.png"
            drawn = rng.integers(0, 2, (32, 32), np.uint8) * 255
            Image.fromarray(drawn).save(root / mask)
        rows.append(f"{number}/000.{extension},{label},{mask},{number},lama")
    (root / "manifest.csv").write_text("\n".join(rows))
    return root


def test_tensorflow_datasets_reads_them(masked, tmp_path):
    import tensorflow_datasets as tfds

    done = prepare(masked, tmp_path / "out", shard_bytes=8_000)
    found = catalog_of(masked)
    counts = {s: found.split(s).num_rows for s in ("train", "validation", "test")}
    builder = tfds.builder_from_directory(str(done.folder))
    assert {s: i.num_examples for s, i in builder.info.splits.items()} == counts
    assert sum(i.num_shards for i in builder.info.splits.values()) == done.shards > 3
    assert builder.info.features["label"].names == ["real", "fake"]
    by_path = {row["path"]: row for row in found.table.to_pylist()}
    loaded = tfds.load("masked", data_dir=str(tmp_path / "out"))
    seen = set()
    for split, rows in loaded.items():
        for row in rows.as_numpy_iterator():
            path = row["path"].decode()
            meant = by_path[path]
            seen.add(path)
            assert meant["split"] == split and meant["label"] == row["label"]
            assert row["generator"] == b"lama"
            distance = np.abs(row["image"].astype(int) - decoded(masked / path)).mean()
            assert distance < 3 if path.endswith("jpg") else distance == 0  # it has a faster DCT
            assert row["mask_known"] == (meant["mask"] is not None or not meant["label"])
            expected = np.zeros((32, 32, 1), np.uint8)
            if meant["mask"]:
                expected = np.asarray(Image.open(masked / meant["mask"]))[..., None]
            assert np.array_equal(row["mask"], expected)
    assert seen == set(by_path)


SMALL_VIEW = View(size=(24, 24), policy="stretch")


def decoded(path):
    return decode_any(tf.io.read_file(str(path))).numpy()


def test_our_reader_sees_what_files_show(masked, tmp_path):
    done = prepare(masked, tmp_path / "out", shard_bytes=8_000)
    files, prepared = catalog_of(masked), catalog_of(done.folder.parent)
    assert prepared.table.num_rows == files.table.num_rows
    rows = {row["path"]: row for row in files.table.to_pylist()}
    for split in ("train", "validation", "test"):
        table = prepared.split(split)
        kept, images, _ = load_images(image_source(prepared, table), SMALL_VIEW)
        assert kept.tolist() == list(range(table.num_rows))
        for row, image in zip(table.to_pylist(), images):
            assert {k: row[k] for k in rows[row["path"]]} == rows[row["path"]]
            whole = decoded(masked / row["path"])
            assert np.array_equal(image, resize(tf.constant(whole), (24, 24), "stretch"))
        with_mask = table.filter(table["mask"].is_valid())
        source = mask_source(prepared, with_mask)
        images = image_source(prepared, with_mask)
        _, _, masks = load_images(images, View(size=(32, 32), policy="stretch"), source)
        for place, (path, mask) in enumerate(zip(with_mask["mask"].to_pylist(), masks)):
            assert np.array_equal(mask[..., 0] * 255, np.asarray(Image.open(masked / path)))
            stored = Image.open(io.BytesIO(source.source.read(place)))
            assert np.array_equal(np.asarray(stored), np.asarray(Image.open(masked / path)))


def test_each_pass_sees_every_image_once_in_a_new_order(pictures, small_pools):
    data = stream(pictures.folder, batch_size=1)
    source = data.examples.images
    assert len(source.shards) > 3 and source.lengths.sum() == data.count
    images = [x.numpy().tobytes() for x, _ in data.batches().take(2 * data.count)]
    first, second = images[: data.count], images[data.count :]
    assert len(set(first)) == data.count and set(first) == set(second) and first != second


def test_labels_belong_to_their_images(pictures, small_pools):
    for x, y in stream(pictures.folder).batches().take(40):
        checker = np.abs(np.diff(x, axis=2)).mean(axis=(1, 2, 3)) > 12
        assert np.array_equal(checker, y["label"][:, 0] == 1)


POLICY = [{"name": "flip"}, {"name": "warp", "rotation": 20}]


@pytest.mark.parametrize("settings", [
    {"augment": POLICY, "balance": "sample"},
    pytest.param({"resize": "window_tile", "image_size": 16}, marks=pytest.mark.slow),
])  # fmt: skip
def test_goes_on_from_any_step(pictures, small_pools, settings, monkeypatch):
    data = stream(pictures.folder, **settings)
    whole = [x.numpy() for x, _ in data.batches().take(40)]
    monkeypatch.setattr("tfdetect.data.training_stream.WORKERS", 5)
    for start in (1, 11, 26, 37):
        rest = [x.numpy() for x, _ in data.batches(start).take(3)]
        assert all(np.array_equal(a, b) for a, b in zip(whole[start:], rest))


def test_balanced_sampling(tmp_path, small_pools):
    for name, count, fake in (("real", 120, 0), ("fake", 30, 1)):
        write_images(tmp_path / "uneven" / name, count, fake)
    data = stream(prepare(tmp_path / "uneven", tmp_path / "out").folder, balance="sample")
    labels = np.concatenate([y["label"][:, 0] for _, y in data.batches().take(60)])
    assert abs(labels.mean() - 0.5) < 0.03


def test_a_run_on_shards_is_a_run(pictures, tmp_path, small_pools):
    run = train_small(pictures.folder, tmp_path / "runs", ["data.cache=none", "training.epochs=4"])
    assert run.results["test"]["metrics"]["accuracy"]["value"] > 0.9
    assert (run.path / "report.html").is_file()
    table = pq.read_table(run.path / "predictions/test.parquet")
    assert table.num_rows == 32 and table["error"].null_count == 32
    spec, roots, _ = evaluation_data(run, None, None, None, None)
    assert roots == {"pictures": pictures.folder} and spec.shards


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord*")}


def test_interrupted_it_goes_on_to_the_same_shards(pictures, folder_dataset, tmp_path, monkeypatch):
    real, calls = ShardWriter.write, []

    def fails_at_the_fourth(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return real(self, *args)

    monkeypatch.setattr(ShardWriter, "write", fails_at_the_fourth)
    with pytest.raises(UserError, match="No space left on device.*to continue"):
        prepare(folder_dataset, tmp_path / "cut")
    assert not (tmp_path / "cut/pictures/1.0.0").exists()
    monkeypatch.setattr(ShardWriter, "write", real)
    done = prepare(folder_dataset, tmp_path / "cut")
    assert 0 < done.written < done.shards == pictures.shards
    for record in tf.data.TFRecordDataset(sorted(map(str, done.folder.glob("*.tfrecord*")))):
        example = tf.train.Example.FromString(record.numpy())  # not in a process's own order
        assert example.SerializeToString(deterministic=True) == record.numpy()
    assert bytes_of(done.folder) == bytes_of(pictures.folder)


def test_damaged_shards_are_refused_and_fixed(folder_dataset, tmp_path):
    done = prepare(folder_dataset, tmp_path / "out")
    before = bytes_of(done.folder)
    flipped, short, gone = sorted(done.folder.glob("*-train*"))[:3]
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 255
    flipped.write_bytes(data)
    with pytest.raises(UserError, match="which fixes them"):
        train_small(done.folder, tmp_path / "runs", ["data.cache=none"])
    short.write_bytes(before[short.name][:-9])
    with pytest.raises(UserError, match="has .* bytes, not"):
        catalog_of(done.folder)
    gone.unlink()
    again = prepare(folder_dataset, tmp_path / "out")
    assert again.written == 3 and bytes_of(again.folder) == before
    assert prepare(folder_dataset, tmp_path / "out").written == 0


def test_other_data_or_copies_do_not_mix(folder_dataset, tmp_path):
    prepare(folder_dataset, tmp_path / "out")
    with pytest.raises(UserError, match="with other copies"):
        prepare(folder_dataset, tmp_path / "out", Copies(encode="png"))
    with pytest.raises(UserError, match="own folder"):
        prepare(folder_dataset, tmp_path)
    next((folder_dataset / "train/real").iterdir()).unlink()
    with pytest.raises(UserError, match="from other data"):
        prepare(folder_dataset, tmp_path / "out")


def test_what_tensorflow_cannot_decode_is_left_out_and_named(folder_dataset, tmp_path):
    broken = sorted((folder_dataset / "train/fake").iterdir())[7]
    find_data(make_plan(str(folder_dataset)), progress=False)
    data = bytearray(broken.read_bytes())
    status = broken.stat()
    data[-30] ^= 255  # the scan is cached: it does not know
    broken.write_bytes(data)
    import os

    os.utime(broken, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = prepare(folder_dataset, tmp_path / "out")
    assert done.skipped == 1 and done.images == 151
    assert "fake/007.png,damaged: " in (done.folder / "skipped.csv").read_text()
    found = catalog_of(done.folder)
    assert found.table.num_rows == 151 and found.skipped.num_rows == 1
    kept, _, _ = load_images(image_source(found, found.split("train")), SMALL_VIEW)
    assert len(kept) == found.split("train").num_rows


@pytest.mark.parametrize(("encode", "kind"), [("keep", "PNG"), ("jpeg", "JPEG")])
def test_copies(masked, tmp_path, encode, kind):
    done = prepare(masked, tmp_path / "out", Copies(size=(16, 20), resize="stretch", encode=encode))
    found = catalog_of(done.folder)
    source = image_source(found, found.table)
    for place, row in enumerate(found.table.to_pylist()):
        with Image.open(io.BytesIO(source.read(place))) as image:
            assert image.format == kind == row["format"]
            assert image.size == (20, 16) == (row["width"], row["height"])
            whole = tf.constant(decoded(masked / row["path"]))
            meant = resize(whole, (16, 20), "stretch").numpy()
            distance = np.abs(np.asarray(image, int) - meant).mean()
            assert distance == 0 if encode == "keep" else distance < 12


@pytest.mark.slow
def test_unions_of_prepared_sets(folder_dataset, masked, tmp_path, small_pools):
    one, two = prepare(folder_dataset, tmp_path / "out"), prepare(masked, tmp_path / "out")
    both = f"{one.folder}+{two.folder}"
    counts = catalog_of(both).table["dataset"].value_counts().to_pylist()
    assert {c["values"]: c["counts"] for c in counts} == {"pictures": 152, "masked": 40}
    weights = {"masked": 3.0, "pictures": 1.0}
    catalog = catalog_of(both)
    data = Data(image_size=24, cache="none", dataset_weights=weights)
    batches = training_data(catalog, catalog.split("train"), data, 2, 8, 1).batches()
    assert all(x.shape == (8, 24, 24, 3) for x, _ in batches.take(20))
    with pytest.raises(UserError, match="Prepare its other parts too"):
        catalog_of(f"{one.folder}+{masked}")
    done = prepare(f"{folder_dataset}+{masked}", tmp_path / "u", shard_bytes=10**6)
    assert done.folder.parent.name == "pictures_masked" and done.images == 192
    with pytest.raises(UserError, match="contains a dataset twice"):
        catalog_of(f"{one.folder}+{done.folder}")
    with pytest.raises(UserError, match="prepared already"):
        prepare(done.folder, tmp_path)


def test_the_background_is_removed(tmp_path):
    """One image in four has no segmentation, and one class has no foreground at all in one."""
    root, regions = tmp_path / "faces", tmp_path / "regions"
    write_images(root / "real", 12, 0, side=32, extension="jpg")
    write_images(root / "fake", 12, 1, side=32, extension="jpg")
    regions.mkdir()
    number = np.zeros((32, 32), np.uint8)
    number[8:24, 4:20] = 3
    for name in range(9):
        Image.fromarray(number).save(regions / f"{name:03}.png")
    base = ["--dataset", str(root), "--foreground", "panoptic", "--panoptic", str(regions)]
    for background in ("gray", "keep"):
        output = tmp_path / background
        argv = [*base, "--background", background, "--output", str(output), "--quiet"]
        assert run_command(prepare_main, argv) == 0
    assert run_command(prepare_main, argv) == 0  # finished: checked, and nothing is made
    whole, cut = (catalog_of(tmp_path / name / "faces") for name in ("keep", "gray"))
    assert whole.table["path"].equals(cut.table["path"]) and whole.table.num_rows == 18
    skipped = (tmp_path / "gray/faces/1.0.0/skipped.csv").read_text()
    assert skipped.count("no foreground: 009.jpg: no segmentation of it") == 2
    view = View(size=(32, 32), policy="crop")
    images = [load_images(image_source(c, c.table), view)[1] for c in (whole, cut)]
    inside = number > 0
    assert np.array_equal(images[0][:, inside], images[1][:, inside])
    assert (images[1][:, ~inside] == 128).all() and not (images[0][:, ~inside] == 128).all()
    argv = [*base, "--output", str(tmp_path / "keep"), "--quiet"]
    assert run_command(prepare_main, argv) == 2  # with another background
    assert run_command(prepare_main, [*argv, "--foreground", "brush"]) == 2  # finds nothing
    none = ["--foreground", "panoptic", "--panoptic", str(root / "real")]
    assert run_command(prepare_main, ["--dataset", str(root), "--output", str(output), *none]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encode": "bmp"}, "Unknown encoding of copies 'bmp'. Available: jpeg, keep, png"),
        ({"resize": "cut"}, "Unknown way to resize 'cut'"),
        ({"size": -5}, "at least 1 pixel. Received: \\(-5, -5\\)"),
        ({"quality": 0}, "from 1 to 100. Received: 0"),
        ({"background": "foo"}, "Unknown background 'foo'"),
        ({"shard_mebibytes": 0}, "must be above 0"),
    ],
)
def test_what_copies_cannot_be_is_refused_before_the_data_is_read(
    arguments, message, folder_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr("tfdetect.data.plan.find_data", None)
    with pytest.raises(UserError, match=message):
        tfdetect.prepare(folder_dataset, tmp_path / "shards", progress=False, **arguments)
