"""Augmentation of spectra: amplitudes, phases, bands, outlines."""

import numpy as np
import pytest
import tensorflow as tf

from tfdetect.imaging import frequency
from tfdetect.imaging.frequency import (
    amplitude_mix,
    fourier_mix,
    outlines,
    phase_mix,
    random_bands,
    spectral_noise,
)

SEED = tf.constant([3, 4])
RNG = np.random.default_rng(0)
# Far from black and white, so that nothing is clipped.
IMAGES = tf.constant(RNG.integers(110, 146, (8, 24, 30, 3)), tf.uint8)
TARGETS = tf.constant([0, 0, 0, 0, 0, 1, 1, 1], tf.float32)[:, None]


def spectra(images):
    return np.fft.fft2(np.asarray(images, np.float64), axes=(1, 2))


@pytest.mark.parametrize("step", [amplitude_mix, phase_mix])
def test_without_strength_or_blend_nothing_changes(step):
    for params in ({"max_weight": 0.0}, {"blend": 0.0}, {"probability": 0.0}):
        mixed, targets = step(IMAGES, SEED, TARGETS, **{"probability": 1.0, **params})
        np.testing.assert_array_equal(mixed, IMAGES)
        np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_partners_are_others_of_the_same_class(count):
    for draw in range(5):
        kinds = RNG.integers(0, 2, count).astype("float32")
        partner = frequency.another_of_same_class(
            tf.constant(kinds)[:, None], tf.constant([1, draw])
        )
        partner = partner.numpy()
        assert (kinds[partner] == kinds).all()
        assert sorted(partner) == list(range(count))  # everyone is somebody's
        alone = np.array([(kinds == k).sum() == 1 for k in kinds])
        assert ((partner == np.arange(count)) == alone).all()
    three = tf.one_hot([0, 1, 2, 2], 3)
    assert frequency.another_of_same_class(three, SEED).numpy().tolist() == [0, 1, 3, 2]


def test_amplitudes_come_from_the_partner_and_phases_stay(monkeypatch):
    def largest(images, seed, rows, low, high):
        return tf.ones_like(rows, tf.float32) * high

    monkeypatch.setattr(frequency, "uniform_for", largest)
    monkeypatch.setattr(frequency, "another_of_same_class", lambda t, s: tf.range(8)[::-1])
    smooth = tf.cast(
        tf.clip_by_value(
            tf.image.resize(RNG.uniform(70, 180, (8, 4, 5, 3)), (24, 30), "bicubic"), 0, 255
        ),
        tf.uint8,
    )
    own, other = spectra(smooth), spectra(smooth[::-1])
    mixed, _ = amplitude_mix(smooth, SEED, TARGETS, probability=1.0)
    strong = np.abs(other) > 2000  # above what rounding does
    got = spectra(mixed)
    assert np.abs(np.abs(got)[strong] / np.abs(other)[strong] - 1).mean() < 0.1
    turned = np.angle(got / own)[strong & (np.abs(own) > 2000)]
    assert np.abs(turned).mean() < 0.1
    turned, _ = phase_mix(smooth, SEED, TARGETS, probability=1.0, max_weight=1.0)
    got = spectra(turned)
    both = strong & (np.abs(own) > 2000)
    assert np.abs(np.angle(got / other)[both]).mean() < 0.1
    assert np.abs(np.abs(got)[both] / np.abs(own)[both] - 1).mean() < 0.1


def test_a_ring_is_removed_and_the_mean_stays():
    changed = random_bands(IMAGES, SEED, probability=1.0, max_gain=0.0, bandwidth=0.3)
    before, after = np.abs(spectra(IMAGES)), np.abs(spectra(changed))
    np.testing.assert_allclose(after[:, 0, 0], before[:, 0, 0], rtol=2e-3)
    ratio = after / before
    radius = 2 * np.hypot(np.fft.fftfreq(24)[:, None], np.fft.fftfreq(30))
    for image in ratio.mean(axis=3):
        rings = np.array([image[(radius > a) & (radius <= a + 0.1)].mean()
                          for a in np.arange(0, 1, 0.1)])  # fmt: skip
        assert rings.min() < 0.25 and (np.delete(rings, [rings.argmin()]) > 0.8).sum() >= 5
    doubled = random_bands(IMAGES, SEED, probability=1.0, min_gain=2.0, max_gain=2.0, bandwidth=0.3)
    assert (np.abs(spectra(doubled)) / before).mean() > 1.1


def test_spectral_noise_keeps_phases_and_the_mean():
    changed = spectral_noise(IMAGES, SEED, probability=1.0, max_sigma=0.5)
    before, after = spectra(IMAGES), spectra(changed)
    np.testing.assert_allclose(np.abs(after[:, 0, 0]), np.abs(before[:, 0, 0]), rtol=2e-3)
    strong = np.abs(before) > 100
    assert np.abs(np.angle(after / before)[strong]).mean() < 0.1
    spread = np.log(np.abs(after) / np.abs(before))[strong].std()
    assert 0.1 < spread < 0.6
    # Colors alike: noise that differed would turn gray into colors.
    gray = tf.repeat(IMAGES[..., :1], 3, axis=-1)
    assert np.ptp(spectral_noise(gray, SEED, probability=1.0), axis=3).max() == 0


@pytest.mark.parametrize("size", [(24, 30), (32, 32)])
def test_outlines_are_those_of_keras_cv_but_for_its_parts(size):
    """keras-cv takes two rows of the noise for its real and imaginary part; the rest agrees."""
    import keras_cv

    theirs = keras_cv.layers.FourierMix()
    normals = RNG.normal(size=(3, size[0], size[1] // 2 + 1, 2)).astype("float32")
    share = np.array([0.0, 0.31, 1.0], "float32")
    ours = outlines(tf.constant(normals), tf.constant(share), size, 3.0)
    for number in range(3):

        class Given:
            def normal(self, shape, number=number):
                return normals[number][None]

        theirs._random_generator = Given()
        freqs = theirs._apply_fftfreq(*tf.constant(size))
        spectrum = theirs._get_spectrum(freqs, 3.0, 1, *tf.constant(size))[0]
        noise = tf.signal.irfft2d(tf.complex(spectrum[..., 0], spectrum[..., 1]), size)
        expected = theirs._binarise_mask(noise[None], share[number], size)
        np.testing.assert_array_equal(ours[number], np.asarray(expected) > 0)


def test_fourier_mix_takes_pixels_whole():
    a = (
        tf.zeros([6, 24, 24, 3], tf.uint8)
        + tf.cast(tf.range(6) * 40, tf.uint8)[:, None, None, None]
    )
    targets = tf.one_hot(tf.range(6), 6)
    mixed, soft, _ = fourier_mix(a, SEED, targets)
    for number, image in enumerate(mixed.numpy()):
        levels, counts = np.unique(image[..., 0], return_counts=True)
        assert set(levels // 40) <= set(np.flatnonzero(soft[number]))
        shares = soft.numpy()[number][levels // 40]
        np.testing.assert_allclose(counts / 576, shares, atol=1e-6)
