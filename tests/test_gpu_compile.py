"""What Keras does on a GPU and not on a CPU: it compiles training steps by XLA, in bfloat16."""

import keras
import numpy as np
import pytest
from test_export_matrix import SETTINGS, SIZES
from test_models import detector

from tfdetect.core.process_pool import process_pool

MASK_HEADS = {"nixnet": "nixnet", "iidnet": "iidnet"}


def train_step(backbone):
    """Return the loss of a training step, compiled by XLA, in half precision."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    size, options = SIZES[backbone]
    settings = dict(SETTINGS.get(backbone, {}))
    if backbone in MASK_HEADS:
        settings["mask_head"] = MASK_HEADS[backbone]
    network = detector(backbone, size, options, **settings)
    network.compile("sgd", dict.fromkeys(network.output, "mse"), jit_compile=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, size, size, 3)).astype(np.float32)
    targets = {
        name: rng.random((2, *output.shape[1:])).astype(np.float32)
        for name, output in network.output.items()
    }
    return float(network.train_on_batch(images, targets))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SIZES)
def test_a_training_step_is_compiled_as_on_a_gpu(backbone):
    """XLA refuses operations that mix precisions, where TensorFlow's kernels do not."""
    with process_pool(1) as pool:
        assert np.isfinite(pool.submit(train_step, backbone).result())


def test_bilinear_resizing_has_a_gradient_in_half_precision_that_xla_compiles():
    from tfdetect.models.bilinear import Bilinear

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((4, 4, 2))
        x = keras.layers.ReLU()(keras.layers.Conv2D(2, 1)(inputs))
        larger = keras.layers.Conv2D(2, 1, strides=2)(Bilinear(8, 8)(x))
        network = keras.Model(inputs, keras.layers.Add()([x, larger]))
    finally:
        keras.config.set_dtype_policy(before)
    network.compile("sgd", "mse", jit_compile=True)
    ones = np.ones((1, 4, 4, 2), np.float32)
    assert np.isfinite(network.train_on_batch(ones, ones))
