"""data.equalize: crops on the grid of JPEG's blocks, and one encoding, wherever an image is."""

import io

import numpy as np
import pytest
import tensorflow as tf
from conftest import run_at
from PIL import Image

from tfdetect.core.data_settings import Equalize
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.run_info import View
from tfdetect.data.loading import ExampleLoader, view_dataset
from tfdetect.data.sources import Files
from tfdetect.imaging.equalize import (
    equalize,
    equalize_images,
    equalize_randomly,
    quality_of_pixels,
)
from tfdetect.imaging.geometry import view_parts
from tfdetect.light import resample
from tfdetect.models.saved_model import export_saved_model, run_signature
from tfdetect.models.saving import save_detector

RNG = np.random.default_rng(0)
BLOCKS = np.kron(RNG.integers(0, 255, (20, 30, 1), np.uint8), np.ones((8, 8, 3), np.uint8))


def test_crops_lie_on_the_grid_and_are_encoded_once():
    settings = Equalize(side=64, quality=(90, 90))
    for number in range(5):
        seed = tf.constant([number, 1])
        found = equalize_randomly(tf.constant(BLOCKS), settings, seed).numpy()
        assert found.shape == (64, 64, 3)
        # Where JPEG's blocks coincide with those of the image, brightness is flat within them.
        gray = found.mean(-1).reshape(8, 8, 8, 8)
        assert np.median(gray.std((1, 3))) < 1.5
    center = equalize(tf.constant(BLOCKS), settings).numpy()
    top, left = (160 - 64) // 2 // 8 * 8, (240 - 64) // 2 // 8 * 8
    data = tf.io.encode_jpeg(BLOCKS[top : top + 64, left : left + 64], quality=90)
    expected = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(center, expected)


def test_small_images_keep_their_size_and_shrinking_is_for_training():
    small = tf.constant(BLOCKS[:50, :70])
    assert equalize(small, Equalize(side=64)).shape == (50, 64, 3)
    shrinking = Equalize(side=512, min_scale=0.5)
    sides = {equalize_randomly(tf.constant(BLOCKS), shrinking, tf.constant([n, 0])).shape[0]
             for n in range(12)}  # fmt: skip
    assert 160 in sides and min(sides) >= 80 and len(sides) > 2
    assert equalize_images(tf.constant(BLOCKS), shrinking).shape == (160, 240, 3)


def test_the_quality_that_follows_from_pixels_is_right_where_their_sum_has_over_31_bits():
    bright = RNG.integers(250, 256, (1720, 1720, 3), np.uint8)
    found = quality_of_pixels(tf.constant(bright), Equalize(quality=(40, 94)))
    assert found == 40 + int(bright.sum(dtype=np.int64)) % 55


def test_a_gray_level_changes_what_a_detector_is_given_only_around_its_pixel():
    """Else the score of an image would depend on noise that nobody sees."""
    image = RNG.integers(1, 255, (64, 64, 3), np.uint8)
    before = resample.equalize(image, Equalize(side=64))
    image[8, 24] += 1
    differs = (before != resample.equalize(image, Equalize(side=64))).any(-1)
    differs[:24, 8:40] = False  # the block of 16 x 16 pixels, and where its colors blend
    assert not differs.any()


def test_a_fraction_of_the_training_images_is_read_as_in_evaluation():
    seeds = [tf.constant([number, 3]) for number in range(24)]
    image = tf.constant(BLOCKS)
    same = {}
    for fraction in (0.0, 0.5, 1.0):
        settings = Equalize(side=64, min_scale=0.5, random_fraction=fraction)
        expected = equalize(image, settings).numpy()
        found = [equalize_randomly(image, settings, seed).numpy() for seed in seeds]
        same[fraction] = sum(np.array_equal(each, expected) for each in found)
    assert same[0.0] == 24 and 4 < same[0.5] < 20 and same[1.0] == 0


def test_qualities_that_follow_from_pixels_cover_the_range():
    """Those of benchmarks say nothing of the class, and all occur."""
    settings = Equalize(side=32, quality=(20, 95))
    images = RNG.integers(0, 255, (400, 8, 8, 3), np.uint8)
    found = {int(quality_of_pixels(tf.constant(image), settings)) for image in images}
    assert {20, 95} <= found <= {*range(20, 96)} and len(found) > 70


def test_an_image_looks_the_same_wherever_it_is_read(tmp_path):
    """File, array, batch, exported model; PNG or BMP."""
    pixels = RNG.integers(0, 255, (90, 130, 3), np.uint8)
    view = View(size=(48, 48), policy="window_tile", crops=5, equalize=Equalize(side=64))
    paths = []
    for name in ("a.png", "a.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    [(_, (from_files,))] = list(view_dataset(Files(paths), (view,), 2))
    [alone] = view_parts(tf.constant(pixels), [view])
    [batch] = view_parts(tf.constant(pixels[None]), [view])
    [light] = resample.view_parts(pixels, [view])
    for found in (from_files[0], from_files[1], batch[0], light):
        np.testing.assert_array_equal(found, alone)
    one_crop = view.model_copy(update={"crops": 1})
    [(_, (quick,))] = list(view_dataset(Files(paths), (one_crop,), 2))
    np.testing.assert_array_equal(quick[0, 0], alone[2])


def test_the_exported_model_equalizes(tmp_path):
    from test_models import detector

    from tfdetect.api.detect import Detector

    settings = Equalize(side=64)
    view = View(size=(32, 32), policy="window_tile", equalize=settings)
    run = run_at(tmp_path / "run", side=32).with_info(views=(view,))
    (tmp_path / "run").mkdir()
    options = {"widths": [8], "blocks": [1], "strides": [1], "stem": 8}
    save_detector(detector("small_resnet", 32, options), run.model_path)
    export_saved_model(run)
    pixels = RNG.integers(0, 255, (80, 100, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    [file] = run_signature(run.path / "saved_model", "encoded", [[buffer.getvalue()]])
    [array] = run_signature(
        run.path / "saved_model", "serving_default", [pixels[None].astype("f4")]
    )
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    [row] = list(Detector(run).predict([str(tmp_path / "a.png")], progress=False))
    np.testing.assert_allclose([file["p_fake"][0], array["p_fake"][0]], row["p_fake"], atol=1e-6)


def test_training_images_differ_from_pass_to_pass_and_resume_alike():
    view = View(size=(32, 32), policy="crop", equalize=Equalize(side=64))
    loader = ExampleLoader(view=view, seed=3)
    data = tf.io.encode_png(BLOCKS)
    one, two, again = (loader(tf.constant(n, tf.int64), data)[0].numpy() for n in (0, 1, 0))
    np.testing.assert_array_equal(one, again)
    assert (one != two).any()


@pytest.mark.parametrize(("override", "message"), [
    ("data.equalize={side: 100}", "multiple of 8"),
    ("data.equalize={quality: [95, 80]}", "lowest and a highest quality"),
    ("data.equalize={min_scale: 2}", "less than or equal to 1"),
    ("data.equalize={}|model.mask_head=decoder", "detectors without a mask_head"),
])  # fmt: skip
def test_wrong_settings_are_explained(override, message):
    with pytest.raises(UserError, match=message):
        load_experiment("demo", override.split("|"))
