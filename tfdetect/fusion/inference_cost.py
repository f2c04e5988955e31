"""Measure the inference cost of members and of the fused detector: parameters and speed."""

import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.run_info import View
from tfdetect.fusion.fusion_results import InferenceCost
from tfdetect.fusion.members import Members
from tfdetect.fusion.network import FusionNetwork
from tfdetect.models.inference import predict_views

_BATCH_SIZE = 32
_ROUNDS = 3  # of which the fastest one is used


def measure_inference_cost(
    members: Members, network: FusionNetwork, detector: keras.Model, views: Sequence[View]
) -> dict[str, InferenceCost]:
    """Return the cost of each member by name, and that of the fused detector as "fused".

    Args:
        members: the runs.
        network: their network.
        detector: the fused detector.
        views: the views of an image that the fused detector takes.
    """
    cost: dict[str, InferenceCost] = {
        name: {
            "parameters": count,
            "images_per_second": _images_per_second(alone, run.views),
        }
        for name, run, alone, count in zip(
            members.names, members.runs, network.detectors, network.parameters
        )
    }
    cost["fused"] = {
        "parameters": detector.count_params(),
        "images_per_second": _images_per_second(detector, views),
    }
    return cost


def _images_per_second(model: keras.Model, views: Sequence[View]) -> float:
    """Return the speed of a model on batches of noise."""
    noise = np.random.default_rng(0)
    images = [
        tf.constant(noise.integers(0, 256, (_BATCH_SIZE, v.crops, *v.size, 3)), tf.float32)
        for v in views
    ]
    predict = tf.function(lambda *parts: predict_views(model, parts), autograph=False)
    predict(*images)
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        predict(*images).numpy()
        seconds.append(time.perf_counter() - start)
    return round(_BATCH_SIZE / min(seconds), 1)
