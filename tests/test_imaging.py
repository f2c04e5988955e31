"""Resizing, warping, JPEG and blur, eagerly and inside tf.data."""

import numpy as np
import pytest
import tensorflow as tf

from tfdetect.imaging import degrade, geometry

SEED = tf.constant([3, 4])


def pictures(count=6, height=30, width=30, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3)).astype(np.float32)
    return geometry.to_uint8(tf.image.resize(coarse, (height, width), "bicubic"))


def test_equal_size_is_untouched():
    images = pictures()
    for policy in ("stretch", "crop", "pad"):
        assert np.array_equal(geometry.resize(images, (30, 30), policy), images)


def test_policies_keep_or_ignore_the_aspect_ratio():
    image = tf.fill([20, 40, 3], tf.constant(200, tf.uint8))
    assert (geometry.resize(image, (16, 16), "stretch").numpy() == 200).all()
    assert (geometry.resize(image, (16, 16), "crop").numpy() == 200).all()
    padded = geometry.resize(image, (16, 16), "pad").numpy()
    assert (padded[4:12] == 200).all()
    assert (padded[:4] == 0).all() and (padded[12:] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (17, 3), (301, 299)])
@pytest.mark.parametrize("policy", ["stretch", "crop", "pad"])
def test_any_shape_becomes_the_size(shape, policy):
    image = tf.zeros([*shape, 3], tf.uint8)
    assert geometry.resize(image, (32, 48), policy).shape == (32, 48, 3)


def test_shrinking_is_antialiased():
    checker = np.indices((64, 64)).sum(0) % 2 * 255
    image = np.repeat(checker[..., None], 3, 2).astype(np.uint8)
    assert np.abs(geometry.resize(image, (16, 16), "stretch").numpy().astype(int) - 128).max() <= 2


def test_warp_without_parameters_is_the_resize():
    images = pictures()
    warped = geometry.random_warp(images, SEED, (60, 60)).numpy().astype(int)
    resized = geometry.resize(images, (60, 60), "stretch").numpy().astype(int)
    assert np.abs(warped - resized).max() <= 1
    assert abs((warped - resized).mean()) < 0.1  # ties round differently


def test_warp_is_image_data_generators(monkeypatch):
    from scipy.ndimage import affine_transform

    images = pictures(1, 40, 52)
    angle, shear, down, across, zoom_y, zoom_x = 0.3, 0.2, 2.5, -3.0, 1.15, 0.85
    values = [tf.constant([v]) for v in (angle, shear, down, across, zoom_y, zoom_x)]
    ours = geometry.warp(images, (40, 52), *values, mirror=tf.constant([False])).numpy()[0]
    # The matrices of keras.preprocessing.image.apply_affine_transform, in (row, column).
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotate @ [[1, -np.sin(shear)], [0, np.cos(shear)]] @ np.diag([zoom_y, zoom_x])
    middle = np.array([19.5, 25.5])
    offset = middle + rotate @ [down, across] - matrix @ middle
    for channel in range(3):
        plane = images[0, ..., channel].numpy().astype(float)
        theirs = affine_transform(plane, matrix, offset, order=1, mode="nearest")
        assert np.abs(theirs - ours[..., channel]).max() <= 1.01


def test_warp_mirrors():
    images = pictures()
    none = tf.zeros([6])
    one = tf.ones([6])
    ours = geometry.warp(images, (30, 30), none, none, none, none, one, one, tf.fill([6], True))
    assert np.array_equal(ours, images[:, :, ::-1])


def test_shift_moves_whole_pixels():
    images = pictures(40).numpy()
    shifted = geometry.random_shift(images, SEED, 2).numpy()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "symmetric")
    moves = set()
    for before, after in zip(padded, shifted):
        found = [(y, x) for y in range(5) for x in range(5)
                 if np.array_equal(before[y : y + 30, x : x + 30], after)]  # fmt: skip
        assert found
        moves.add(found[0])
    assert len(moves) > 10


def test_flip_mirrors_about_half():
    images = pictures(200).numpy()
    flipped = geometry.random_flip(images, SEED).numpy()
    mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(images, flipped)]
    kept = [np.array_equal(a, b) for a, b in zip(images, flipped)]
    assert all(m != k for m, k in zip(mirrored, kept))
    assert 70 < sum(mirrored) < 130


def test_jpeg_changes_about_half_and_best_quality_little():
    images = pictures(100).numpy()
    squeezed = degrade.random_jpeg(images, SEED, 0.5, 30, 60).numpy()
    changed = [not np.array_equal(a, b) for a, b in zip(images, squeezed)]
    assert 30 < sum(changed) < 70
    grey = images[..., :1].repeat(3, 3)  # so that the coarser colour planes play no part
    best = degrade.random_jpeg(grey, SEED, 1.0, 100, 100).numpy().astype(int)
    assert np.abs(best - grey).mean() < 2


def test_jpeg_quality_orders_the_damage():
    images = pictures(8).numpy().astype(int)
    damage = [np.abs(degrade.random_jpeg(images.astype(np.uint8), SEED, 1.0, q, q).numpy() - images)
              .mean() for q in (10, 40, 90)]  # fmt: skip
    assert damage[0] > damage[1] > damage[2]


@pytest.mark.parametrize("sigma", [0.5, 1.7, 3.0])
def test_blur_is_scipys(sigma):
    from scipy.ndimage import gaussian_filter

    images = pictures(3, 40, 34)
    ours = degrade.gaussian_blur(images, tf.constant([sigma, 0.0, sigma]), 3.0).numpy()
    theirs = gaussian_filter(images[0].numpy().astype(float), (sigma, sigma, 0), mode="mirror",
                             radius=12)  # fmt: skip
    assert np.abs(ours[0] - theirs).max() < 0.01
    assert np.abs(ours[1] - images[1].numpy()).max() < 0.001  # sigma 0 is identity


def test_blur_takes_images_smaller_than_its_kernel():
    images = tf.fill([2, 5, 7, 3], tf.constant(90, tf.uint8))
    assert (degrade.random_blur(images, SEED, 1.0, 3.0).numpy() == 90).all()


STEPS = {
    "flip": geometry.random_flip,
    "shift": geometry.random_shift,
    "warp": lambda i, s: geometry.random_warp(i, s, (30, 30), 20, 0.1, 0.2, 0.2, True),
    "jpeg": degrade.random_jpeg,
    "blur": degrade.random_blur,
}


@pytest.mark.parametrize("name", STEPS)
def test_eager_and_tf_data_agree(name):
    images = pictures()
    eager = STEPS[name](images, SEED)
    dataset = tf.data.Dataset.from_tensors(images).map(lambda i: STEPS[name](i, SEED))
    inside = next(iter(dataset))
    assert eager.dtype == inside.dtype == tf.uint8
    assert np.abs(eager.numpy().astype(int) - inside.numpy()).max() <= 1
    other = STEPS[name](images, tf.constant([5, 6]))
    assert not np.array_equal(eager, other)
