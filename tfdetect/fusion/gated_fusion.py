"""A mixture of experts: the weights of the members depend on features of the image.

The features are those of the members, and color, contrast and sharpness. It is meant for members
that were trained on different data. Source: Jacobs et al., Adaptive mixtures of local experts,
Neural Computation 1991.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, softmax

from tfdetect.core.probability import EPSILON
from tfdetect.fusion.scores import MemberScores

Gate = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_PENALTY = 0.01  # factor of the sum of squares of the kernel
_MAX_IMAGES = 10_000


def fit_gate(
    temperatures: np.ndarray, scores: MemberScores, weights: np.ndarray
) -> tuple[np.ndarray, Gate]:
    """Maximize the likelihood of the mixture over the gate and the members' temperatures.

    Args:
        temperatures: the temperatures of the M members to start from, float [M].
        scores: the scores of validation images; a sample of at most 10,000 is used.
        weights: the weights of the images, float [n].

    Returns:
        Temperatures [M]; and the gate: mean and standard deviation of the features, both [F],
        kernel [F, M] and bias [M].
    """
    if len(weights) > _MAX_IMAGES:
        chances = weights / weights.sum()  # so that small datasets keep their images
        rows = np.random.default_rng(0).choice(len(weights), _MAX_IMAGES, p=chances)
        scores, weights = scores.take(rows), np.ones(_MAX_IMAGES)
    mean = scores.features.mean(axis=0)
    deviation = scores.features.std(axis=0) + 1e-6
    inputs = (scores.features - mean) / deviation
    size, count = inputs.shape[1], scores.logits.shape[1]
    signed = np.where(scores.fake, 1.0, -1.0)[:, None] * scores.logits
    weights = weights / weights.sum()

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = free[: size * count].reshape(size, count), free[size * count :][:count]
        scale = np.exp(free[-count:])
        gates, correct = softmax(inputs @ kernel + bias, axis=1), expit(scale * signed)
        mixture = (gates * correct).sum(axis=1) + EPSILON
        error = (weights / mixture)[:, None] * gates
        by_gate = -error * (correct - mixture[:, None])
        by_scale = -(error * correct * (1 - correct) * signed).sum(axis=0) * scale
        by_kernel = inputs.T @ by_gate + 2 * _PENALTY * kernel
        return (-(weights * np.log(mixture)).sum() + _PENALTY * (kernel**2).sum(),
                np.concatenate([by_kernel.ravel(), by_gate.sum(axis=0), by_scale]))  # fmt: skip

    scales = -np.log(temperatures)
    free = np.concatenate([np.zeros((size + 1) * count), scales])
    bounds = [(None, None)] * (size + 1) * count
    bounds += [(min(np.log(0.01), start), np.log(20)) for start in scales]
    found = minimize(loss, free, jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"maxiter": 300}).x  # fmt: skip
    kernel, bias = found[: size * count].reshape(size, count), found[size * count :][:count]
    return np.exp(-found[-count:]), (mean, deviation, kernel, bias)
