"""Verdicts in NumPy are those of the graph."""

import numpy as np
import pytest
import tensorflow as tf

from tfdetect.core.run_info import Calibration
from tfdetect.evaluation import verdicts
from tfdetect.models import inference

CALIBRATIONS = {
    "none": None,
    "platt": Calibration(
        method="platt", scale=0.7, shift=-0.3, images=100, fake_fraction=0.4, log_loss=(0.2, 0.1)
    ),
    "isotonic": Calibration(
        method="isotonic", knots=((-4.0, -1.0, 2.0), (-3.0, 0.5, 2.5)), images=100,
        fake_fraction=0.4, log_loss=(0.2, 0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALIBRATIONS)
@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_equals_the_graph(name, classes):
    rng = np.random.default_rng(0)
    raw = rng.dirichlet([0.3] * classes, 200).astype(np.float32)
    raw[:3] = np.eye(classes)[[0, 1, classes - 1]]  # certain
    raw[3] = np.nan  # unreadable
    expected = inference.calibrated(tf.constant(raw), CALIBRATIONS[name]).numpy()
    np.testing.assert_allclose(
        verdicts.calibrated(raw, CALIBRATIONS[name]), expected, atol=2e-6, equal_nan=True
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_extreme_images_keep_their_ranks_and_probabilities_add_up_to_one(classes):
    logits = np.array([-80, -40, -25, -20, -17, 0, 17, 20, 25, 40, 80], np.float32)[:, None]
    if classes == 3:
        logits = np.concatenate([np.zeros_like(logits), logits, logits - 1], axis=1)
    raw = inference.probabilities(tf.constant(logits))
    graph = inference.calibrated(raw, CALIBRATIONS["platt"]).numpy()
    table = verdicts.calibrated(raw.numpy(), CALIBRATIONS["platt"])
    np.testing.assert_allclose(table, graph, rtol=1e-4)
    for each in (raw.numpy(), table):
        np.testing.assert_allclose(each.sum(axis=1), 1, atol=2e-7)
        assert (np.diff(each[:6, 1:].sum(axis=1)) > 0).all()
        assert (np.diff(each[5:, 0]) < 0).all()
    saturated = np.eye(classes, dtype=np.float32)[:2]  # as exports of older versions have it
    np.testing.assert_allclose(
        verdicts.calibrated(saturated, CALIBRATIONS["platt"]).sum(axis=1), 1, atol=2e-7
    )
