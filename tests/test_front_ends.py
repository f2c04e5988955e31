"""Front-ends: the laws of each filter, against libraries and by hand."""

import keras
import numpy as np
import pytest
import pywt
import tensorflow as tf
from scipy.signal import wiener
from test_models import detector

from tfdetect.core.errors import UserError
from tfdetect.core.registry import FRONT_ENDS
from tfdetect.models.networks.iidnet import Double, GlobalAttention, LocalAttention, Median
from tfdetect.models.patch_front_ends import SimplestPatch
from tfdetect.models.residual_front_ends import (
    SRM,
    Bayar,
    BayarInitializer,
    NoiseResidual,
    srm_kernels,
)
from tfdetect.models.spectral_front_ends import FAD, LFS, LogDCT, dct_matrix
from tfdetect.models.standardize import learn_statistics

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (2, 48, 64, 3)).astype("float32")


def front_end(name, shape=(48, 64, 3), **options):
    inputs = keras.Input(shape)
    return keras.Model(inputs, FRONT_ENDS.load(name)(inputs, **options))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_every_front_end_is_finite_in_float32_and_known_in_size(name, policy):
    keras.mixed_precision.set_global_policy(policy)
    model = front_end(name)
    for images in (NOISE, np.zeros_like(NOISE), np.full_like(NOISE, 255)):
        filtered = model(images, training=True)
        assert filtered.dtype == tf.float32
        assert np.isfinite(filtered).all()
    side = FRONT_ENDS[name].output_side
    assert filtered.shape[1:3] == (side(48, {}), side(64, {})) == model.output_shape[1:3]


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_every_front_end_feeds_a_network_that_learns(name):
    options = {"widths": [8], "blocks": [1], "strides": [2], "stem": 8}
    model = detector("small_resnet", 32, options, front_end=name)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(NOISE[:, :32, :32], training=True)["label"])
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(g is not None and np.isfinite(g).all() for g in gradients)


def test_pixels_stand_beside_what_is_filtered():
    model = detector("small_resnet", 32, front_end="srm", with_pixels="true")
    x = keras.Model(model.input, model.get_layer("pixels_and_filtered").output)(NOISE[:, :32, :32])
    np.testing.assert_allclose(x[..., :3], NOISE[:, :32, :32] / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(x[..., 3:], front_end("srm", (32, 32, 3))(NOISE[:, :32, :32]))
    with pytest.raises(UserError, match="changes the image's size"):
        detector("small_resnet", 32, front_end="lfs", with_pixels="true")
    with pytest.raises(UserError, match="needs a model.front_end"):
        detector("small_resnet", 32, with_pixels="true")
    with pytest.raises(
        UserError, match=r"model\.front_end_options\.bank.*'three' or 'full'.*Received: 'half'"
    ):
        detector("small_resnet", 32, front_end="srm", front_end_options="{bank: half}")


# --- residuals


@pytest.mark.parametrize(("bank", "count"), [("three", 3), ("full", 30)])
def test_srm_is_blind_to_flat_and_to_ramps(bank, count):
    kernels = srm_kernels(bank)
    assert kernels.shape == (5, 5, 1, count)
    np.testing.assert_allclose(kernels.sum((0, 1, 2)), 0, atol=1e-6)
    assert len(np.unique(kernels.reshape(25, -1), axis=1).T) == count  # no two alike
    y, x = np.mgrid[:16, :20].astype("float32")
    flat = np.full((1, 16, 20, 3), 77, "float32")
    assert np.abs(SRM(bank, clip=1e6)(flat)).max() < 1e-2
    if bank == "three":
        ramp = np.stack([2 * x + 3 * y + 5] * 3, axis=-1)[None]
        inner = SRM(bank, clip=1.0)(ramp)[:, 2:-2, 2:-2]
        assert np.abs(inner).max() < 1e-3


def test_srm_of_a_parabola_and_norms():
    x = np.broadcast_to((np.arange(20.0) ** 2)[None, None, :, None], (1, 9, 20, 1))
    inner = SRM("three", clip=100.0)(x.astype("float32"))[0, 2:-2, 2:-2] * 100
    np.testing.assert_allclose(inner, np.broadcast_to([0, 0, 1], inner.shape), atol=1e-2)
    np.testing.assert_allclose(np.abs(srm_kernels("three")).sum((0, 1, 2)), [4, 8, 2], rtol=1e-6)
    full = srm_kernels("full").reshape(25, 30)
    assert (full[12] < 0).all()  # the center counts against the others


def test_srm_clips_in_one_scale_and_separates_colors():
    together, apart = SRM(clip=3)(NOISE), SRM(clip=1e4, separate=True)(NOISE) * 1e4
    assert together.shape[-1] == 3 and apart.shape[-1] == 9
    assert np.abs(together).max() == 1
    total = tf.reshape(apart, (*apart.shape[:3], 3, 3)).numpy().sum(3)
    np.testing.assert_allclose(np.clip(total, -3, 3) / 3, together, atol=1e-3)


def test_bayar_keeps_its_constraint_after_updates():
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, front_end("bayar", (32, 32, 3), filters=4)(inputs))
    model.compile(keras.optimizers.SGD(0.5), "mse")
    kernel = next(v for v in model.trainable_variables)
    start = kernel.numpy()
    model.fit(NOISE[:, :32, :32], np.ones((2, 32, 32, 4)), epochs=3, verbose=0)
    assert np.abs(kernel.numpy() - start).max() > 1e-3
    np.testing.assert_allclose(kernel.numpy().sum((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(kernel.numpy()[2, 2], -1, atol=1e-6)
    # The published code constrains the first channel alone, which is why it diverges.
    assert kernel.shape == (5, 5, 3, 4)


def test_bayar_divides_unless_the_sum_is_near_zero():
    w = RNG.normal(0, 1, (5, 5, 2, 2)) + 0.5
    w[..., 1, 1] -= (w[..., 1, 1].sum() - w[2, 2, 1, 1]) / 24  # the others sum to 0
    new = Bayar()(tf.constant(w, tf.float32)).numpy()
    np.testing.assert_allclose(new.sum((0, 1)), 0, atol=1e-5)
    others = w[..., 0, 0].sum() - w[2, 2, 0, 0]
    np.testing.assert_allclose(new[0, 0, 0, 0], w[0, 0, 0, 0] / others, rtol=1e-5)
    assert np.abs(new).max() < 100
    np.testing.assert_allclose(Bayar()(new), new, atol=1e-5)
    start = BayarInitializer(0)((5, 5, 3, 3)).numpy()
    np.testing.assert_allclose(start.sum((0, 1)), 0, atol=1e-5)


def test_noise_residuals_are_what_the_denoisers_remove():
    x = np.clip(NOISE * 0.05 + 100, 0, 255)
    from scipy.ndimage import median_filter

    ours = NoiseResidual("median", clip=50)(x) * 50
    theirs = x - median_filter(x, (1, 3, 3, 1), mode="mirror")
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    one = x[:1, :, :, :1]
    # Their noise is a mean over an edge padded with zeros: they are given ours.
    ours = NoiseResidual("wiener", clip=50)(one)[0, 2:-2, 2:-2, 0] * 50
    noise = _mean_variance(one[0, :, :, 0])
    theirs = wiener(one[0, :, :, 0], 3, noise=noise)
    np.testing.assert_allclose(ours, (one[0, :, :, 0] - theirs)[2:-2, 2:-2], atol=1e-2)
    for denoiser in ("wiener", "median", "gaussian"):
        assert np.abs(NoiseResidual(denoiser)(np.full_like(x, 200))).max() < 1e-4
    with pytest.raises(UserError, match="denoiser: .*'wiener', 'median' or 'gaussian'"):
        detector("small_resnet", 32, front_end="residual", front_end_options="{denoiser: best}")


def _mean_variance(x):
    padded = np.pad(x, 1, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return windows.var((2, 3)).mean()


def test_npr_by_hand():
    model = front_end("npr", (5, 6, 3))
    x = RNG.uniform(0, 255, (1, 5, 6, 3)).astype("float32")
    got = model(x).numpy()
    assert got.shape == (1, 4, 6, 3)
    assert (got[:, ::2, ::2] == 0).all()
    std = np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        got[0, 3, 5], (x[0, 3, 5] - x[0, 2, 4]) / 255 / std * 2 / 3, rtol=1e-4
    )
    assert (front_end("npr")(np.full_like(NOISE, 3)).numpy() == 0).all()


def test_gradient_by_hand():
    x = RNG.uniform(0, 255, (1, 5, 6, 3)).astype("float32")
    got = front_end("gradient", (5, 6, 3), towards="bottom_right")(x)[0]
    z = (x[0] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    inner = 2 * (z[3, 4] - z[1, 2]) + z[2, 4] + z[3, 3] - z[1, 3] - z[2, 2]
    np.testing.assert_allclose(got[2, 3], inner, atol=1e-4)
    flipped = front_end("gradient", (5, 6, 3))(x[:, ::-1])[0, ::-1]
    np.testing.assert_allclose(flipped, got, atol=1e-4)
    np.testing.assert_allclose(got[0, 0], 2 * z[1, 1] + z[0, 1] + z[1, 0], atol=1e-4)


@pytest.mark.parametrize("shape", [(48, 64), (33, 20), (16, 16)])
def test_wavelet_is_pywavelets(shape):
    from tfdetect.models.residual_front_ends import WaveletHH

    x = RNG.uniform(0, 255, (1, *shape, 1)).astype("float32")
    _, (_, _, diagonal) = pywt.dwt2(x[0, ..., 0] / 255, "bior1.3", mode="symmetric")
    np.testing.assert_allclose(WaveletHH()(x)[0, ..., 0], diagonal, atol=1e-5)
    y, x = np.mgrid[:16, :16].astype("float32")
    for ramp in (y, x, np.ones_like(x)):
        assert np.abs(WaveletHH()(ramp[None, ..., None])).max() < 1e-6


# --- frequencies


def test_dct_is_orthonormal_and_log():
    for side in (8, 31):
        d = dct_matrix(side)
        np.testing.assert_allclose(d @ d.T, np.eye(side), atol=1e-5)
    x = np.full((1, 16, 16, 1), 3.0, "float32")
    coefficients = np.exp(LogDCT()(x)[0, ..., 0])
    assert abs(coefficients[0, 0] - 48) < 1e-3
    assert np.delete(coefficients.ravel(), 0).max() < 1e-4
    x = RNG.normal(0, 5, (1, 16, 24, 1)).astype("float32")
    energy = (np.exp(LogDCT()(x)) ** 2).sum()
    assert abs(energy / (x**2).sum() - 1) < 1e-4


def test_dct_statistics_are_those_of_the_images_given():
    model = detector("frank_cnn", 32, head="flatten", front_end="dct")
    images = RNG.uniform(0, 255, (10, 32, 32, 3)).astype("float32")
    learn_statistics(model, lambda: [images[:4], images[4:8], images[8:], images[:0]])
    layer = model.get_layer("dct_statistics")
    seen = keras.Model(model.input, layer.output)(images).numpy()
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(seen.std(0), 1, atol=1e-3)
    assert not layer.trainable_variables
    assert len(detector("frank_cnn", 32, front_end="npr").get_layer("npr").weights) == 0


def test_spectrum_keeps_its_laws():
    model = front_end("spectrum", (64, 64, 3))
    x = RNG.uniform(1, 120, (2, 64, 64, 3)).astype("float32")
    v = model(x).numpy()
    assert v.min() == -1 and v.max() == 1
    for end in (-1, 1):
        assert abs((v == end).mean() - 0.05) < 0.002
    np.testing.assert_allclose(model(2 * x), v, atol=1e-2)  # |F| is large against 1e-3
    np.testing.assert_allclose(model(np.roll(x, (5, 9), (1, 2))), v, atol=2e-3)
    mirrored = np.roll(v[:, ::-1, ::-1], 1, (1, 2))
    np.testing.assert_allclose(mirrored, v, atol=2e-3)
    expected = np.log(np.abs(np.fft.fft2(x[0, :, :, 0] / 255)) + 1e-3)
    low, high = np.percentile(expected, [5, 95])
    expected = np.clip(2 * ((expected - low) / (high - low) - 0.5), -1, 1)
    np.testing.assert_allclose(v[0, :, :, 0], expected, atol=1e-3)


def test_spectrum_bands_part_the_published_frequencies():
    x = RNG.uniform(0, 255, (1, 224, 224, 3)).astype("float32")
    bands = {b: front_end("spectrum", (224, 224, 3), band=b)(x).numpy() for b in
             ("all", "low", "mid", "high")}  # fmt: skip
    np.testing.assert_allclose(bands["low"] + bands["mid"] + bands["high"], bands["all"])
    shifted = np.fft.fftshift(bands["low"], axes=(1, 2))[0, :, :, 0] != 0
    rows = np.flatnonzero(shifted.any(1))
    assert (rows[0], rows[-1]) == (57, 176)
    shifted = np.fft.fftshift(bands["high"], axes=(1, 2))[0, :, :, 0] != 0
    assert not shifted[21:203, 21:203].any() and shifted[20].mean() > 0.99


@pytest.mark.parametrize("shape", [(32, 32), (40, 30)])
def test_fad_bands_sum_to_the_image(shape):
    x = RNG.uniform(-1, 1, (1, *shape, 3)).astype("float32")
    low, middle, high, whole = np.split(FAD(learnable=False)(x).numpy(), 4, axis=-1)
    np.testing.assert_allclose(low + middle + high, x, atol=1e-4)
    np.testing.assert_allclose(whole, x, atol=1e-4)
    constant = FAD(learnable=False)(np.full_like(x, 0.3)).numpy()
    np.testing.assert_allclose(constant[..., :3], 0.3, atol=1e-5)
    assert np.abs(constant[..., 3:9]).max() < 1e-5


def test_fad_cuts_a_sixteenth_and_an_eighth():
    layer = FAD()
    layer.build((None, 224, 224, 3))
    shares = layer._bands.mean((1, 2))
    np.testing.assert_allclose(shares, [0.0646, 0.0654, 0.870, 1], atol=0.004)
    np.testing.assert_array_equal(layer._bands[:3].sum(0), 1)
    assert layer.filters.shape == (4, 224, 224)


def test_lfs_by_hand():
    layer = LFS(learnable=False)
    x = RNG.uniform(0, 255, (1, 24, 24, 1)).astype("float32")
    got = layer(x).numpy()
    assert got.shape == (1, 12, 12, 6)
    np.testing.assert_array_equal(layer._bands.sum(0), [10, 18, 27, 30, 12, 3])
    window = np.pad(x[0, :, :, 0], 4)[6:16, 2:12]  # of row 3, column 1
    d = dct_matrix(10)
    amounts = np.abs(d @ window @ d.T)
    diagonal = np.add.outer(np.arange(10), np.arange(10))
    for band in range(6):
        inside = (diagonal >= 20 * band / 6) & (diagonal < 20 * (band + 1) / 6)
        assert abs(got[0, 3, 1, band] - np.log10(amounts[inside].sum())) < 1e-4
    flat = layer(np.full_like(x, 99)).numpy()[:, 2:-2, 2:-2]
    assert (flat[..., 0] > 2.9).all() and (flat[..., 1:] < -2).all()
    assert front_end("lfs", (299, 299, 3)).output_shape[1] == 149


def test_simplest_patch_is_the_smoothest():
    x = RNG.uniform(0, 255, (2, 80, 96, 3)).astype("float32")
    x[0, 20:60, 30:70] = 50
    layer = SimplestPatch(16, 64)
    patch = layer(x).numpy()
    assert patch.shape == (2, 16, 16, 3)
    assert (patch[0] == 50).all()
    texture = layer._texture(x).numpy()
    assert texture.shape == (2, 65, 81, 1)
    by_hand = sum(
        np.abs(a - b).sum() for a, b in _neighbors(x[1, 7:23, 11:27])
    )  # fmt: skip
    assert abs(texture[1, 7, 11, 0] / by_hand - 1) < 1e-4
    assert texture.min() == 0
    np.testing.assert_array_equal(layer(x), layer(x))  # a score is repeatable
    draws = [layer(x, training=True).numpy() for _ in range(4)]
    assert any((draws[0] != other).any() for other in draws[1:])


def _neighbors(x):
    return [(x[:, 1:], x[:, :-1]), (x[1:], x[:-1]), (x[1:, 1:], x[:-1, :-1]),
            (x[1:, :-1], x[:-1, 1:])]  # fmt: skip


# --- IID-Net's layers


def test_attention_of_constant_maps_keeps_them():
    constant = np.full((2, 8, 8, 5), 0.7, "float32")
    np.testing.assert_allclose(GlobalAttention()(constant), constant, rtol=1e-6)
    inner = LocalAttention()(constant)[:, 2:-2, 2:-2]
    np.testing.assert_allclose(inner, 0.7, rtol=1e-4)
    np.testing.assert_allclose(Median()(constant[..., :1]), constant[..., :1])


def test_global_attention_by_hand():
    x = RNG.normal(0.5, 1, (1, 4, 5, 3)).astype("float32")
    flat = x.reshape(20, 3)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosines = unit @ unit.T
    order = np.argsort(-cosines, axis=1)[:, :15]
    means = np.take_along_axis(cosines, order, 1).mean(0)
    count = max(2, np.flatnonzero(means >= 0.5).max())
    expected = (flat + sum(flat[order[:, r]] for r in range(1, count))) / count
    np.testing.assert_allclose(GlobalAttention()(x)[0].numpy().reshape(20, 3), expected, atol=1e-5)
    both = GlobalAttention()(np.concatenate([x, 5 * x[:, ::-1] - 3]))
    np.testing.assert_allclose(both[:1], GlobalAttention()(x), atol=1e-6)  # no score by the batch


def test_doubling_keeps_the_corners_and_median_is_numpys():
    column = np.arange(4.0, dtype="float32")[None, :, None, None]
    got = Double()(np.repeat(column, 2, axis=2))[0, :, 0, 0]
    np.testing.assert_allclose(got, np.arange(8) * 3 / 7, atol=1e-6)
    x = RNG.normal(size=(1, 7, 9, 1)).astype("float32")
    windows = np.lib.stride_tricks.sliding_window_view(x[0, :, :, 0], (3, 3))
    inner = np.median(windows, axis=(2, 3))
    rows, columns = [int(i * 5 / 7) for i in range(7)], [int(i * 7 / 9) for i in range(9)]
    expected = inner[np.ix_(rows, columns)]  # nearest as PyTorch has it
    np.testing.assert_allclose(Median()(x)[0, ..., 0], expected, atol=1e-6)
