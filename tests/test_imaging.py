"""Resizing, warping, JPEG and blur, eagerly and inside tf.data."""

import numpy as np
import pytest
import tensorflow as tf

from tfdetect.core.data_settings import RESIZING_BIAS, Augmentation
from tfdetect.core.errors import UserError
from tfdetect.core.registry import AUGMENTATIONS
from tfdetect.data.augmentation import augment, check_policy
from tfdetect.imaging import erase, geometry
from tfdetect.imaging import random_degradations as degrade
from tfdetect.imaging import random_forgery as forge
from tfdetect.imaging.graph import traced_as_written
from tfdetect.imaging.resampling import antialiased, to_uint8

SEED = tf.constant([3, 4])


def pictures(count=6, height=30, width=30, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3)).astype(np.float32)
    return to_uint8(tf.image.resize(coarse, (height, width), "bicubic"))


def test_equal_size_is_untouched():
    images = pictures()
    for policy in ("stretch", "crop", "pad"):
        assert np.array_equal(geometry.resize(images, (30, 30), policy), images)


def test_windows_take_pixels_as_they_are():
    image = pictures(1, 20, 50)[0]
    middle = geometry.resize(image, (10, 31), "window_tile").numpy()
    assert np.array_equal(middle, image[5:15, 10:41])
    for place, part in (((0, 0), image[:10, :31]), ((1, 1), image[10:, 19:])):
        assert np.array_equal(geometry.window(image, (10, 31), "window_pad", place), part)
    tiled = geometry.resize(image, (45, 110), "window_tile").numpy()
    assert np.array_equal(tiled, np.tile(image, (3, 3, 1))[:45, :110])
    padded = geometry.resize(image, (26, 40), "window_pad").numpy()
    assert np.array_equal(padded[3:23], image[:, 5:45])
    assert not padded[:3].any() and not padded[23:].any()
    batch = geometry.resize(pictures(3, 20, 50), (10, 31), "window_tile")
    assert np.array_equal(batch, pictures(3, 20, 50)[:, 5:15, 10:41])


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


@pytest.mark.parametrize("size", [(20, 41), (63, 64), (224, 224)])
def test_enlarging_gives_what_the_filter_gives(size):
    images = pictures(4, 20, 30)
    filtered = tf.image.resize(images, size, antialias=True).numpy()
    enlarged = geometry.resize(images, size, "stretch").numpy()
    # Rounded; the bias lifts halves, and ties of it may go either way.
    assert np.abs(enlarged - filtered - RESIZING_BIAS).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (16, 20), (90, 11), (45, 60)])
def test_two_passes_give_every_bit_of_tensorflows_filter(size):
    images = pictures(2, 45, 60)
    for each in (images, images[0], tf.cast(images, tf.float32) / 3, images[..., :1]):
        expected = tf.image.resize(each, size, antialias=True)
        assert np.array_equal(antialiased(each, size), expected)
    traced = tf.function(antialiased, input_signature=[
        tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32)
    ])  # fmt: skip
    expected = tf.image.resize(images[1], size, antialias=True)
    assert np.array_equal(traced(images[1], tf.constant(size)), expected)


def test_warp_without_parameters_is_the_resize():
    images = pictures()
    warped = geometry.random_warp(images, SEED, (60, 60))[0].numpy().astype(int)
    resized = geometry.resize(images, (60, 60), "stretch").numpy().astype(int)
    assert np.abs(warped - resized).max() <= 1
    assert abs((warped - resized).mean()) < 0.1  # ties round differently


def test_warp_is_image_data_generators(monkeypatch):
    from scipy.ndimage import affine_transform

    images = pictures(1, 40, 52)
    angle, shear, down, across, zoom_y, zoom_x = 0.3, 0.2, 2.5, -3.0, 1.15, 0.85
    affine = geometry.Affine(
        angle=angle, shear=shear, down=down, across=across, zoom_y=zoom_y, zoom_x=zoom_x
    )
    ours = geometry.warp(images, (40, 52), affine)[0].numpy()[0]
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
    ours, _ = geometry.warp(images, (30, 30), geometry.Affine(mirror=True))
    assert np.array_equal(ours, images[:, :, ::-1])


def test_shift_moves_whole_pixels():
    images = pictures(40).numpy()
    shifted = geometry.random_shift(images, SEED, 2)[0].numpy()
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
    flipped = geometry.random_flip(images, SEED)[0].numpy()
    mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(images, flipped)]
    kept = [np.array_equal(a, b) for a, b in zip(images, flipped)]
    assert all(m != k for m, k in zip(mirrored, kept))
    assert 70 < sum(mirrored) < 130


def test_jpeg_changes_about_half_and_best_quality_little():
    images = pictures(100).numpy()
    squeezed = degrade.random_jpeg(images, SEED, 0.5, 30, 60).numpy()
    changed = [not np.array_equal(a, b) for a, b in zip(images, squeezed)]
    assert 30 < sum(changed) < 70
    gray = images[..., :1].repeat(3, 3)  # so that the coarser color planes play no part
    best = degrade.random_jpeg(gray, SEED, 1.0, 100, 100).numpy().astype(int)
    assert np.abs(best - gray).mean() < 2


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


# Every registered step, with parameters that make it act.
STEPS = {
    "warp": {"rotation": 20, "shift": 0.1, "shear": 0.2, "zoom": 0.2, "flip": True},
    "rand_augment": {"magnitude": 0.9},
    "patches": {"patch_size": 5},
    "keras_cv": {"layer": "GridMask", "options": {"ratio_factor": [0.3, 0.5]}},
    **{name: {} for name in (
        "flip", "shift", "crop", "jpeg", "webp", "blur", "noise", "downsample", "color", "gray",
        "erasing", "mixup", "cutmix", "forgery", "amplitude_mix", "phase_mix", "bands",
        "spectral_noise", "fourier_mix",
    )},
}  # fmt: skip


def apply(name, images, seed=1, targets=None, masks=None):
    steps = (Augmentation(name=name, params=STEPS[name]),)
    position = tf.constant(seed, tf.int64)
    targets = tf.zeros([images.shape[0], 1]) if targets is None else targets
    return augment(images, steps, tuple(images.shape[1:3]), 7, position, targets, masks)


def test_all_steps_are_tried_here():
    assert set(STEPS) == set(AUGMENTATIONS)


@pytest.mark.parametrize("name", STEPS)
def test_steps_repeat_eagerly_and_in_tf_data_and_differ_by_seed(name):
    images = pictures(24)
    eager = apply(name, images)[0]
    inside_a_map = traced_as_written(lambda i: apply(name, i)[0])
    dataset = tf.data.Dataset.from_tensors(images).map(inside_a_map)
    inside = next(iter(dataset))
    assert eager.dtype == inside.dtype == tf.uint8
    assert eager.shape == inside.shape == images.shape
    assert np.abs(eager.numpy().astype(int) - inside.numpy()).max() <= 1
    assert np.array_equal(eager, apply(name, images)[0])
    assert not np.array_equal(eager, images)
    assert not np.array_equal(eager, apply(name, images, seed=5)[0])


MOVING = ["flip", "shift", "warp", "crop", "rand_augment", "cutmix", "fourier_mix"]


@pytest.mark.parametrize("name", MOVING)
def test_masks_move_with_their_images(name):
    """An image that is bright where its mask is 1 is so after the step too."""
    rng = np.random.default_rng(3)
    masks = np.zeros((16, 40, 40, 1), np.uint8)
    for mask in masks:
        y, x = rng.integers(4, 20, 2)
        mask[y : y + 14, x : x + 14] = 1
    images = np.repeat(np.where(masks, 220, 30), 3, axis=3).astype(np.uint8)
    steps = (Augmentation(name=name, params={**STEPS[name], **({"magnitude": 0.2}
             if name == "rand_augment" else {})}),)  # fmt: skip
    moved, _, after = augment(
        tf.constant(images), steps, (40, 40), 7, tf.constant(1, tf.int64), tf.zeros([16, 1]),
        tf.constant(masks),
    )  # fmt: skip
    assert after.dtype == tf.uint8 and set(np.unique(after)) == {0, 1}
    moved, after = moved.numpy().mean(axis=3), after.numpy()[..., 0]
    if name == "rand_augment":  # tones may change the levels, but not their order
        inside = np.array([m[a == 1].mean() > m[a == 0].mean() for m, a in zip(moved, after)])
        assert inside.mean() > 0.8
    else:
        assert ((moved > 125) == (after == 1)).mean() > 0.99
    assert not np.array_equal(after, masks[..., 0])


def test_mixing_keeps_the_sum_of_targets_and_of_pixels():
    images = tf.constant(np.where(np.arange(32) % 2, 200, 0)[:, None, None, None]
                         * np.ones((1, 20, 20, 3)), tf.uint8)  # fmt: skip
    targets = tf.cast(tf.range(32) % 2, tf.float32)[:, None]
    for name in ("mixup", "cutmix", "fourier_mix"):
        mixed, soft, _ = apply(name, images, targets=targets)
        # The brightness of each mixture is its target's share of the bright class.
        share = mixed.numpy().mean(axis=(1, 2, 3)) / 200
        np.testing.assert_allclose(share, soft.numpy()[:, 0], atol=0.01)
        assert ((soft > 0.01) & (soft < 0.99)).numpy().any()


def test_randaugment_without_magnitude_changes_next_to_nothing():
    images = pictures(12)
    steps = (Augmentation(name="rand_augment", params={"magnitude": 0.0, "operations": 1}),)
    after, _, _ = augment(images, steps, (30, 30), 7, tf.constant(1, tf.int64))
    changed = np.abs(after.numpy().astype(int) - images.numpy()).max(axis=(1, 2, 3))
    # Automatic contrast and equalization have no magnitude.
    assert (changed <= 1).sum() >= 7


def test_forgeries_change_their_masks_and_nothing_else():
    size = 50, 96
    images = tf.constant(np.random.default_rng(0).integers(0, 255, (48, *size, 3)), tf.uint8)
    targets = tf.cast(tf.range(48) % 3 == 0, tf.float32)[:, None]  # these are fakes already
    masks = tf.zeros([48, *size, 1], tf.uint8)
    forged, after, drawn = forge.random_forgery(images, SEED, targets, 0.6, 0.05, 0.3, masks=masks)
    drawn, changed = drawn.numpy()[..., 0] == 1, (forged != images).numpy().any(axis=3)
    assert not (changed & ~drawn).any()
    assert changed[drawn].mean() > 0.9
    share = drawn.mean(axis=(1, 2))
    altered = share > 0
    assert not altered[::3].any() and 10 < altered.sum() < 28
    assert share[altered].min() > 0.04 and share[altered].max() < 0.31
    assert np.array_equal(after[:, 0] == 1, altered | (np.arange(48) % 3 == 0))
    _, classes, _ = forge.random_forgery(
        images, SEED, tf.one_hot(tf.zeros(48, tf.int32), 3), 1.0, label=2
    )
    assert np.array_equal(classes, np.tile([0, 0, 1], (48, 1)))


def test_forgeries_have_the_named_fills_alone():
    gray = np.arange(20, 212, 8, dtype=np.uint8)  # of flat images only another one differs
    images = tf.tile(tf.constant(gray)[:, None, None, None], [1, 30, 30, 3])
    targets = tf.zeros([24, 1])
    for fills, expected in ((["spliced"], 24), (["copied", "smooth", "resampled"], 0)):
        forged, after, _ = forge.random_forgery(images, SEED, targets, 1.0, fills=fills)
        assert (forged != images).numpy().any(axis=(1, 2, 3)).sum() == expected
        assert after.numpy().all()
    step = Augmentation(name="forgery", params={"fills": []})
    with pytest.raises(UserError, match="forgery.fills"):
        check_policy((step,), (32, 32), with_masks=True)


def test_strokes_cover_what_is_published():
    shares = [forge.free_form_masks(tf.constant([number, 3]), (64, 256, 256)).numpy()
              .mean(axis=(1, 2, 3)) for number in range(4)]  # fmt: skip
    shares = np.concatenate(shares)
    assert abs(shares.mean() - 0.150) < 0.015
    assert np.allclose(np.quantile(shares, [0.05, 0.5, 0.95]), [0.036, 0.141, 0.290], atol=0.03)


def test_smooth_fills_continue_what_is_around():
    ramp = np.tile(np.linspace(20, 230, 64)[:, None, None], (1, 64, 3))[None].astype(np.uint8)
    hole = np.zeros((1, 64, 64, 1), bool)
    hole[:, 24:40, 24:40] = True
    filled = forge._smooth(tf.constant(ramp), tf.constant(hole)).numpy()
    assert np.array_equal(filled[~hole[..., 0]], ramp[~hole[..., 0]])
    assert np.abs(filled.astype(int) - ramp)[hole[..., 0]].mean() < 12


def test_erasing_and_patches_cover_the_share_asked_for():
    images = tf.fill([64, 40, 40, 3], tf.constant(90, tf.uint8))
    erased = erase.random_erasing(images, SEED, 1.0, 0.2, 0.3).numpy()
    share = (erased != 90).any(axis=3).mean(axis=(1, 2))
    assert share.min() > 0.15 and share.max() < 0.35
    black = erase.random_patches(images, SEED, 1.0, 8, 0.5).numpy()
    share = (black == 0).all(axis=3).mean(axis=(1, 2))
    assert share.min() < 0.1 and 0.4 < share.max() < 0.75


def test_noise_and_downsampling_do_what_they_say():
    flat = tf.fill([200, 30, 30, 3], tf.constant(128, tf.uint8))
    deviations = degrade.random_noise(flat, SEED, 1.0, 10.0).numpy().std(axis=(1, 2, 3))
    assert 4 < deviations.mean() < 6 and deviations.max() < 10.5
    checker = tf.constant(np.indices((30, 30)).sum(0)[None, ..., None] % 2 * 255
                          * np.ones((8, 1, 1, 3)), tf.uint8)  # fmt: skip
    smooth = degrade.random_downsample(checker, SEED, 1.0, 0.4).numpy()
    assert (smooth.std(axis=(1, 2, 3)) < 110).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {"name": "warp", "rotatoin": 3},
            "warp: unknown option 'rotatoin'.*'rotation'",
        ),
        ({"name": "warp", "rotation": "many"}, "warp.rotation: .*number.*Received: 'many'"),
        ({"name": "warp", "flip": 3}, "warp.flip: true or false is expected. Received: 3"),
        ({"name": "flip", "masks": 3}, "flip: unknown option 'masks'"),
    ],
)
def test_unknown_parameters_are_explained(step, message):
    with pytest.raises(UserError, match=message):
        check_policy((Augmentation(**step),), (30, 30))


def test_mixup_is_refused_with_masks():
    policy = (Augmentation(name="mixup"),)
    check_policy(policy, (30, 30))
    with pytest.raises(UserError, match="mixup: .*cannot mix their masks"):
        check_policy(policy, (30, 30), with_masks=True)
