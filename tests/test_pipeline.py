"""The training stream: full, repeatable, resumable; files that break do not end it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from conftest import write_images
from PIL import Image

from tfdetect.core.data_settings import Data, Equalize
from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.core.run_info import View
from tfdetect.core.training_settings import Curriculum
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.loading import image_dataset, read_files, view_dataset
from tfdetect.data.sampling import StratifiedOrder
from tfdetect.data.sources import Files
from tfdetect.data.strata import NO_CURRICULUM, Replay, find_strata
from tfdetect.data.training_data import stream_of, training_data
from tfdetect.data.validation_stream import validation_data
from tfdetect.imaging.draws import Part
from tfdetect.imaging.read import decode_any


def stream(root, batch_size=8, seed=1, **data):
    spec, _ = load_spec(str(root))
    catalog = build_catalog(spec, {spec.name: root}, progress=False)
    settings = Data(**{"image_size": 24, **data})
    return training_data(catalog, catalog.split("train"), settings, 2, batch_size, seed)


def take(dataset, count):
    return [(x.numpy(), y["label"].numpy()) for x, y in dataset.take(count)]


POLICY = [{"name": "flip"}, {"name": "warp", "rotation": 20, "shift": 0.1}, {"name": "noise"}]


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_same_seed_same_batches(folder_dataset, cache):
    one = take(stream(folder_dataset, cache=cache, augment=POLICY).batches(), 20)
    two = take(stream(folder_dataset, cache=cache, augment=POLICY).batches(), 20)
    other = take(stream(folder_dataset, seed=2, cache=cache, augment=POLICY).batches(), 20)
    for (x, y), (again, y_again) in zip(one, two):
        assert np.array_equal(x, again) and np.array_equal(y, y_again)
    assert not all(np.array_equal(x, z) for (x, _), (z, _) in zip(one, other))


def test_memory_and_files_give_the_same_batches(folder_dataset):
    memory = take(stream(folder_dataset, cache="memory", augment=POLICY).batches(), 15)
    files = take(stream(folder_dataset, cache="none", augment=POLICY).batches(), 15)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(memory, files))


def test_workers_change_nothing(folder_dataset, monkeypatch):
    found = []
    for workers in (1, 2, 7):
        monkeypatch.setattr("tfdetect.data.loading.WORKERS", workers)
        monkeypatch.setattr("tfdetect.data.training_stream.WORKERS", workers)
        found.append(take(stream(folder_dataset, cache="none", augment=POLICY).batches(), 10))
    for changed in found[1:]:
        assert all(np.array_equal(a[0], b[0]) for a, b in zip(found[0], changed))


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_goes_on_from_any_step(folder_dataset, cache):
    data = stream(folder_dataset, cache=cache, augment=POLICY)
    whole = take(data.batches(), 30)
    for start in (1, 13, 27):
        rest = take(data.batches(start), 3)
        assert all(np.array_equal(a[0], b[0]) for a, b in zip(whole[start:], rest))


def test_each_pass_sees_every_image_once_in_a_new_order(folder_dataset):
    data = stream(folder_dataset, batch_size=1)
    images = [x.tobytes() for x, _ in take(data.batches(), 2 * data.count)]
    first, second = images[: data.count], images[data.count :]
    assert len(set(first)) == data.count
    assert set(first) == set(second)
    assert first != second


def test_labels_and_range(folder_dataset):
    for x, y in take(stream(folder_dataset).batches(), 5):
        assert x.dtype == np.float32 and x.shape == (8, 24, 24, 3)
        assert x.min() >= 0 and 1 < x.max() <= 255
        checker = np.abs(np.diff(x, axis=2)).mean(axis=(1, 2, 3)) > 12
        assert np.array_equal(checker, y[:, 0] == 1)  # fakes are the ones with a checkerboard


def test_a_file_that_breaks_after_the_scan_ends_nothing(folder_dataset):
    data = stream(folder_dataset, cache="none", batch_size=8)
    broken = data.examples.images.name(3)
    Path(broken).write_bytes(b"broken now")
    passes = take(data.batches(), 3 * data.count // 8)
    assert all(x.shape == (8, 24, 24, 3) for x, _ in passes)
    assert data.skipped_count >= 2
    cached = cached_in_memory(data)
    assert list(cached.unreadable) == [broken]
    assert cached.count == data.count - 1


def test_workers_that_load_images_or_batches_give_the_same(folder_dataset, monkeypatch):
    """The broken files end neither, and the next images take their places in both."""
    data = stream(folder_dataset, cache="none", batch_size=8)
    for number in (3, 50, 51):
        Path(data.examples.images.name(number)).write_bytes(b"broken now")
    by_batch = take(data.batches(2), 40)
    skipped = data.skipped_count
    monkeypatch.setattr("tfdetect.data.loading.FEW_PIXELS", 0)
    by_image = take(data.batches(2), 40)
    assert skipped >= 6 and data.skipped_count == 2 * skipped
    for one, other in zip(by_batch, by_image, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def cached_in_memory(data):
    """The stream of the same files, cached in memory, without a new scan."""
    settings = Data(image_size=24, cache="memory")
    return stream_of(data.examples, data=settings, classes=2, batch_size=8, seed=1)


def test_small_images_are_enlarged_by_the_warp_itself(folder_dataset):
    data = stream(folder_dataset, image_size=48, augment=[{"name": "warp", "rotation": 5}])
    assert data.load_size == (24, 24)
    assert take(data.batches(), 1)[0][0].shape == (8, 48, 48, 3)
    assert stream(folder_dataset, image_size=12, augment=[{"name": "warp"}]).load_size == (12, 12)


def test_fewer_images_than_a_batch_is_said(tmp_path):
    for name, fake in (("real", 0), ("fake", 1)):
        write_images(tmp_path / name, 20, fake)
    with pytest.raises(UserError, match="training.batch_size="):
        stream(tmp_path, batch_size=500)


def test_validation_counts_each_image_once(folder_dataset):
    spec, folders = load_spec(str(folder_dataset))
    catalog = build_catalog(spec, folders, progress=False)
    table = catalog.split("test")
    labels = table["label"].to_numpy()
    batches = list(validation_data(catalog, table, Data(image_size=24), 2, 10))
    assert [x.shape[0] for x, _, _ in batches] == [10, 10, 10, 10]
    weights = np.concatenate([w["label"].numpy() for _, _, w in batches])
    assert weights.sum() == 32 and set(weights) == {0.0, 1.0}
    targets = np.concatenate([y["label"].numpy()[:, 0] for _, y, _ in batches])
    assert np.array_equal(targets[weights == 1], labels)


def test_broken_files_are_left_out_of_predictions(folder_dataset):
    paths = sorted(str(p) for p in (folder_dataset / "test").rglob("*.png"))
    Path(paths[5]).write_bytes(b"broken")
    view = View(size=(24, 24), policy="stretch")
    indices = np.concatenate([i.numpy() for i, _ in image_dataset(Files(paths), view, 7)])
    assert indices.tolist() == [i for i in range(32) if i != 5]


def test_a_few_files_are_read_as_by_a_pipeline(tmp_path):
    rng = np.random.default_rng(2)
    pixels = Image.fromarray(rng.integers(0, 255, (150, 200, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels.save(tmp_path / "turned.jpg", exif=turned)
    pixels.convert("L").save(tmp_path / "gray.png")
    pixels.save(tmp_path / "a.gif")
    pixels.save(tmp_path / "a.webp")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:3000])
    paths = [*sorted(map(str, tmp_path.glob("*.*"))), str(tmp_path / "none.png"), ""]
    broken = [n for n, path in enumerate(paths) if not path or "broken" in path or "none" in path]
    views = [
        View(size=(32, 48), policy="stretch"), View(size=(64, 64), policy="window_tile", crops=5),
        View(size=(48, 48), policy="crop", equalize=Equalize(side=64)),
    ]  # fmt: skip
    source = Files(paths)
    [(indices, parts, facts)] = view_dataset(source, views, len(paths), facts=True)
    assert sorted({*range(len(paths))} - {*indices.numpy()}) == broken
    found = read_files(source, views)
    for one, other in zip(tf.nest.flatten(found), [indices, *parts, facts], strict=True):
        np.testing.assert_array_equal(one, other)
    assert read_files(Files([paths[n] for n in broken]), views) is None


def test_windows_lie_elsewhere_each_pass_and_repeat_by_seed(folder_dataset):
    settings = {"image_size": 16, "resize": "window_tile"}
    one, again, other = (
        next(iter(stream(folder_dataset, seed=seed, **settings).batches()))[0].numpy()
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    paths = (folder_dataset / "train").rglob("*.png")
    whole = [decode_any(tf.io.read_file(str(path))).numpy() for path in paths]
    places = set()
    for picture in one:
        found = [(y, x) for image in whole for y in range(9) for x in range(9)
                 if np.array_equal(image[y : y + 16, x : x + 16], picture)]  # fmt: skip
        assert found
        places.update(found)
    assert len(places) > 3


def draws(stream, steps):
    """Indices of the images of each batch, int64 [steps, batch]."""
    start = np.arange(steps) * stream.batch_size
    return np.array([
        stream.sampler.indices(tf.range(s, s + stream.batch_size, dtype=tf.int64)).numpy()
        for s in start
    ])  # fmt: skip


@pytest.fixture
def uneven(tmp_path):
    """A union: 60 + 20 images in one set, 40 + 40 in the other."""
    counts = {"one": (60, 20), "two": (40, 40)}
    for seed, (name, pair) in enumerate(counts.items()):
        for fake, count in enumerate(pair):
            write_images(tmp_path / name / ("real", "fake")[fake], count, fake, 8, seed)
    return f"{tmp_path / 'one'}+{tmp_path / 'two'}"


def uneven_stream(name, batch_size=16, curriculum=NO_CURRICULUM, replay=None, **settings):
    spec, folders = load_spec(name)
    catalog = build_catalog(spec, folders, progress=False)
    table = catalog.split("train")
    data = Data(image_size=8, **settings)
    stream = training_data(
        catalog, table, data, 2, batch_size, 1, curriculum=curriculum, replay=replay
    )  # fmt: skip
    return stream, table


def test_balanced_sampling_draws_classes_alike_and_every_image_once_a_pass(uneven):
    stream, table = uneven_stream(uneven, balance="sample")
    labels = table["label"].to_numpy()
    fakes = labels.sum()
    batches = draws(stream, fakes)
    assert (labels[batches].sum(axis=1) == 8).all()
    # Eight fakes a batch: after `fakes` batches each was drawn eight times.
    counts = np.bincount(batches.ravel(), minlength=len(labels))
    assert (counts[labels == 1] == 8).all()
    reals = counts[labels == 0]
    assert reals.max() - reals.min() <= 1
    # Not all of one class at one end of the batch, where one replica would get it.
    halves = labels[batches][:, :8].sum(axis=1)
    assert 2 < halves.mean() < 6


def test_weights_fix_each_datasets_fraction(uneven):
    stream, table = uneven_stream(uneven, dataset_weights={"one": 1, "two": 3})
    second = table["dataset"].to_numpy() == "two"
    assert (second[draws(stream, 50)].sum(axis=1) == 12).all()
    both, table = uneven_stream(uneven, 15, dataset_weights={"one": 1, "two": 1}, balance="sample")
    picked = draws(both, 40).ravel()
    keys = second.astype(int) * 2 + table["label"].to_numpy()
    shares = np.bincount(keys[picked]) / len(picked)
    assert np.abs(shares - 0.25).max() < 0.01


def test_weights_of_unknown_datasets_are_refused(uneven):
    with pytest.raises(UserError, match="Unknown dataset in data.dataset_weights 'ones'.*'one'"):
        uneven_stream(uneven, dataset_weights={"ones": 2})


def test_class_weights_make_classes_count_alike(uneven):
    stream, table = uneven_stream(uneven, balance="weight")
    labels = table["label"].to_numpy()
    (_, target, weight) = next(iter(stream.batches()))
    by_class = dict(zip(target["label"].numpy()[:, 0], weight["label"].numpy()))
    counts = np.bincount(labels)
    assert by_class[0] * counts[0] == pytest.approx(by_class[1] * counts[1], rel=1e-5)
    assert sum(by_class[k] * counts[int(k)] for k in (0, 1)) == pytest.approx(len(labels))


def test_plain_streams_go_over_every_image_once_a_pass(uneven):
    stream, table = uneven_stream(uneven)
    count = table.num_rows
    picked = draws(stream, 3 * count // 16 + 1).ravel()
    passes = [picked[i * count : (i + 1) * count] for i in range(3)]
    assert all(sorted(p) == list(range(count)) for p in passes)
    assert not np.array_equal(passes[0], passes[1])


def test_domains_are_drawn_by_the_square_root_of_their_size():
    labels = np.array([0] * 100 + [0] * 4 + [1] * 25 + [1] * 9)
    domains = np.array(["a"] * 100 + ["b"] * 4 + ["c"] * 25 + ["a"] * 9)
    strata, weights = find_strata(labels, classes=2, domains=domains)
    shares = {
        (int(label), str(name)): weights[strata[(labels == label) & (domains == name)]][0]
        for label, name in {*zip(labels, domains)}
    }
    assert shares[0, "a"] == pytest.approx(10 / 12) and shares[0, "b"] == pytest.approx(2 / 12)
    assert shares[1, "c"] == pytest.approx(5 / 8) and shares[1, "a"] == pytest.approx(3 / 8)
    order = StratifiedOrder.of(tf.constant(strata), tf.constant(weights))
    drawn = order.indices(tf.range(4800, dtype=tf.int64), 48, 0).numpy()
    assert (labels[drawn] == 0).mean() == pytest.approx(0.5)
    assert ((domains[drawn] == "b").mean()) == pytest.approx(1 / 12, abs=0.01)


def curriculum(by, *points):
    return Curriculum(by=by, points=[{"step": step, "shares": shares} for step, shares in points])


def test_shares_of_a_curriculum_are_those_of_the_images_drawn(uneven):
    plan = curriculum("dataset", (10, {"one": 1}), (30, {"one": 1, "two": 3}), (31, {"two": 1}))
    stream, table = uneven_stream(uneven, curriculum=plan)
    second = table["dataset"].to_numpy() == "two"
    picked = draws(stream, 40)
    drawn = second[picked].mean(axis=1)
    assert not drawn[:11].any() and drawn[31:].all()
    # A line from 0 to 3/4 of a batch of 16.
    line = 0.75 * np.arange(20) / 20
    np.testing.assert_allclose(drawn[10:30], line, atol=1.5 / 16)
    assert second[picked[10:30]].sum() == pytest.approx(16 * line.sum(), abs=1)
    # No image of a dataset is drawn again before all were drawn, over all points.
    counts = np.bincount(picked.ravel(), minlength=len(second))
    for rows in (second, ~second):
        assert counts[rows].min() > 2 and np.ptp(counts[rows]) <= 1
    # The position alone decides.
    batch = stream.sampler.indices(tf.range(320, 336, dtype=tf.int64)).numpy()
    np.testing.assert_array_equal(batch, picked[20])
    weights = stream.sampler.whole.weights_at(tf.constant(20, tf.int64)).numpy()
    codes = stream.sampler.strata.numpy()
    assert weights[np.unique(codes[second])].sum() == pytest.approx(0.375)


def test_workers_draw_their_parts_of_a_curriculums_batches(uneven):
    plan = curriculum("dataset", (0, {"one": 1}), (6, {"two": 1}))
    stream, _ = uneven_stream(uneven, curriculum=plan, augment=[{"name": "flip"}])
    whole = next(iter(stream.batches(4)))[0].numpy()
    parts = [next(iter(stream.batches(4, Part(first, 8, 16))))[0].numpy() for first in (0, 8)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_curriculum_keeps_the_classes_balanced_where_that_is_asked(uneven):
    plan = curriculum("dataset", (0, {"one": 3, "two": 1}), (20, {"one": 1, "two": 3}))
    stream, table = uneven_stream(uneven, curriculum=plan, balance="sample")
    labels = table["label"].to_numpy()[draws(stream, 30)]
    assert np.abs(labels.sum(axis=1) - 8).max() <= 1


def test_images_without_a_generator_keep_their_share(uneven):
    stream, table = uneven_stream(uneven)
    generators = np.where(table["label"].to_numpy() == 0, None, table["dataset"].to_numpy())
    named = table.drop_columns("generator").append_column("generator", pa.array(generators))
    data, plan = Data(image_size=8), curriculum("generator", (0, {"one": 1}), (8, {"two": 1}))
    spec, folders = load_spec(uneven)
    catalog = build_catalog(spec, folders, progress=False)
    stream = training_data(catalog, named, data, 2, 16, 1, curriculum=plan)
    drawn = draws(stream, 24)
    authentic = (table["label"].to_numpy() == 0).mean()
    assert (generators[drawn] == None).mean() == pytest.approx(authentic, abs=0.01)  # noqa: E711
    assert not (generators[drawn[8:]] == "one").any()
    with pytest.raises(UserError, match="Unknown generator in training.curriculum 'on'.*'one'"):
        training_data(
            catalog, named, data, 2, 16, 1, curriculum=curriculum("generator", (0, {"on": 1}))
        )


def test_replay_draws_a_fraction_of_each_batch_from_old_data(uneven):
    replay = Replay(frozenset({"one"}), 0.25)
    stream, table = uneven_stream(uneven, replay=replay)
    old = table["dataset"].to_numpy() == "one"
    batches = draws(stream, 20)
    assert (old[batches].sum(axis=1) == 4).all()
    # An epoch goes over the new images once.
    assert stream.count == round((~old).sum() / 0.75)
    assert np.ptp(np.bincount(batches.ravel(), minlength=len(old))[~old]) <= 1


@pytest.mark.parametrize("wrong, words", [
    ({"by": "dataset"}, "has by"), ({"points": [{"step": 0, "shares": {"a": 1}}]}, "has by"),
    ({"by": "dataset", "points": [{"step": 0, "shares": {"a": 0}}]}, "above 0"),
    ({"by": "dataset", "points": [{"step": 3, "shares": {"a": 1}}] * 2}, "ascend"),
])  # fmt: skip
def test_wrong_curricula_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Curriculum(**wrong)
