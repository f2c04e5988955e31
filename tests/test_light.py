"""Prediction without TensorFlow gives what TensorFlow gives."""

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from tfdetect.core.choices import TilePooling
from tfdetect.core.data_settings import Equalize
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.evaluation.stability import REENCODINGS
from tfdetect.imaging import equalize, geometry
from tfdetect.imaging import tiles as tf_tiles
from tfdetect.imaging.degradations import parse_degradations
from tfdetect.light import numpy_tiles, resample
from tfdetect.light.normal import normal
from tfdetect.light.onnx_detector import LightDetector, light_detector
from tfdetect.light.reencodings import reencoded
from tfdetect.models.inference import pool_tiles as pool_in_graph

SHAPES = [(32, 32), (7, 5), (31, 64), (64, 31), (100, 257), (301, 97), (1, 40)]


def photo(height, width, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(height // 8 + 2, width // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)
    pixels = 128 + 50 * smooth[:height, :width] + 10 * rng.normal(size=(height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("policy", ["stretch", "crop", "pad", "window_tile", "window_pad"])
def test_resize_equals_the_graph(policy):
    for shape in SHAPES:
        image = photo(*shape)
        for size in ((32, 32), (48, 33)):
            expected = geometry.resize(tf.constant(image), size, policy).numpy()
            found = resample.resize(image, size, policy)
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 1 and (difference > 0).mean() < 0.002


def test_copies_equal_the_degradations():
    for image in (photo(200, 260), photo(3, 40)):
        for change in parse_degradations(",".join(REENCODINGS)):
            expected = change(tf.constant(image), tf.constant(0, tf.int64)).numpy()
            found = reencoded(image, change.name)
            assert found.shape == expected.shape and found.dtype == np.uint8, change.name
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 1 and (difference > 0).mean() < 0.001, change.name


def test_a_brighter_copy_takes_little_memory():
    image = np.full((2000, 100, 3), 200, np.uint8)
    tracemalloc.start()
    brighter = reencoded(image, "brighter:1.2")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (brighter == 240).all() and peak < 2 * image.nbytes


def test_normal_numbers_equal_those_of_tensorflow():
    for seed in ((0, 3000), (2**31 - 1, 12)):
        expected = tf.random.stateless_normal([403], seed).numpy()
        for first, count in ((0, 403), (4, 8), (57, 5), (398, 1)):
            found = normal(seed, first, count)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected[first : first + count], atol=3e-6)


@pytest.mark.parametrize("policy", ["window_tile", "window_pad"])
@pytest.mark.parametrize("count", [5, 9])
def test_windows_equal_the_graph(policy, count):
    for shape in SHAPES:
        image = photo(*shape)
        expected = geometry.windows(tf.constant(image), (32, 48), policy, count).numpy()
        np.testing.assert_array_equal(resample.windows(image, (32, 48), policy, count), expected)


@pytest.mark.parametrize("policy", ["stretch", "crop", "pad"])
def test_restored_masks_equal_the_graph(policy):
    mask = np.random.default_rng(0).random((32, 48), np.float32)
    for shape in SHAPES:
        expected = geometry.restore(tf.constant(mask)[None, ..., None], tf.constant(shape), policy)
        found = resample.restore(mask, shape, policy)
        np.testing.assert_allclose(found, expected[0, ..., 0], atol=1e-5)


@pytest.mark.parametrize("policy", ["window_tile", "window_pad"])
def test_tiles_equal_the_graph(policy):
    def predict(parts):
        parts = parts[..., 0] / np.float32(255)
        rows = np.arange(32, dtype=np.float32)[:, None] / 100  # tiles that differ in overlaps
        return np.stack([parts.mean((1, 2)), parts.std((1, 2))], 1), parts + rows

    def predict_in_graph(parts):
        parts = tf.cast(parts[..., 0], tf.float32) / 255
        rows = tf.range(32, dtype=tf.float32)[:, None] / 100
        moments = tf.reduce_mean(parts, [1, 2]), tf.math.reduce_std(parts, [1, 2])
        return tf.stack(moments, 1), (parts + rows)[..., None]

    for shape in SHAPES:
        image = photo(*shape)
        outputs, joined = tf_tiles.by_tiles(
            tf.constant(image)[None], (32, 32), policy, predict_in_graph
        )
        found, whole = numpy_tiles.by_tiles(image, (32, 32), policy, predict)
        np.testing.assert_allclose(found, outputs[0], atol=1e-5)
        np.testing.assert_allclose(whole, joined[0, ..., 0], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (10, 19), (40, 50), (90, 300)])
def test_pooled_tiles_equal_the_graph(shape):
    rng = np.random.default_rng(0)
    masks = 1 / (1 + np.exp(-rng.normal(0, 8, (2, *shape, 1)).astype(np.float32)))
    for classes in (2, 3):
        tables = rng.dirichlet([0.2] * classes, (2, 5)).astype(np.float32)
        for pooling in get_args(TilePooling):
            graph = pool_in_graph(tf.constant(tables), tf.constant(masks), pooling)
            found = [numpy_tiles.pool_tiles(table, mask[..., 0], pooling)
                     for table, mask in zip(tables, masks)]  # fmt: skip
            np.testing.assert_allclose(graph, found, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(np.sum(found, axis=1), 1, rtol=1e-5)
        # More of the same, so more tiles, changes nothing.
        wide = numpy_tiles.pool_tiles(tables[0], np.tile(masks[0, ..., 0], (20, 10)), "top_pixels")
        wider = numpy_tiles.pool_tiles(tables[0], np.tile(masks[0, ..., 0], (20, 30)), "top_pixels")
        np.testing.assert_allclose(wide, wider, rtol=0.01)


@pytest.mark.parametrize("quality", [(80, 95), (50, 50), (1, 100)])
def test_equalized_images_equal_the_graph(quality):
    settings = Equalize(side=48, quality=quality)
    for shape in SHAPES:
        image = photo(*shape)
        expected = equalize.equalize(tf.constant(image), settings).numpy()
        np.testing.assert_array_equal(resample.equalize(image, settings), expected)


def test_a_damaged_export_is_warned_of_and_other_settings_are_not(tmp_path, capsys):
    run = open_run(Path(__file__).parents[1] / "saved_models" / "cifake_small_resnet")
    flips = replace(run, info=run.info.model_copy(update={"flips": True}))
    assert light_detector(flips).mirrors and not capsys.readouterr().err
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("saved_model"))
    (tmp_path / "run/exports/detector.onnx").write_bytes(b"cut off")
    assert light_detector(open_run(tmp_path / "run")) is None
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: TensorFlow predicts" in said and "detector.onnx cannot be read" in said
    assert "Write it again with: python -m tfdetect.export" in said


def test_an_export_of_another_detector_is_refused():
    run = open_run(Path(__file__).parents[1] / "saved_models" / "cifake_small_resnet")
    assert LightDetector(run).graph_views == run.views
    for change in ({"predicts_masks": True}, {"class_names": ("real", "fake", "edited")}):
        other = replace(run, info=run.info.model_copy(update=change))
        with pytest.raises(UserError, match="is not of this detector"):
            LightDetector(other)
