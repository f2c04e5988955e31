"""Fit the weights of fusions that sum the calibrated logits of the members."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from tfdetect.data.splits import fold_numbers
from tfdetect.evaluation.calibration import log_loss
from tfdetect.fusion.scores import MemberScores

_GREEDY_ROUNDS = 50
_NO_PENALTY = 1e6  # inverse strength of an L2 penalty that has no effect
_STRENGTHS = 10.0 ** np.arange(-4, 3)  # inverse strengths that cross-validation tries
_FOLDS = 5


def fit_weighted(logits: np.ndarray, fake: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return non-negative weights with sum 1, float [M], that minimize the log-loss.

    The log-loss is that of the fused logits at the best temperature.

    Args:
        logits: calibrated logits of the M members, float [n, M].
        fake: bool [n].
        weights: the weights of the images, float [n].
    """
    count = logits.shape[1]

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, scale = softmax(free[:count]), np.exp(free[count])
        fused = logits @ kernel
        error = weights * (expit(scale * fused) - fake) / weights.sum()
        by_kernel = scale * (logits.T @ error)
        gradient = kernel * (by_kernel - kernel @ by_kernel)
        return (log_loss(scale * fused, fake, weights),
                np.append(gradient, (error * fused).sum() * scale))  # fmt: skip

    found = minimize(loss, np.zeros(count + 1), jac=True, method="L-BFGS-B",
                     bounds=[(-8, 8)] * count + [(-5, 5)])  # fmt: skip
    return softmax(found.x[:count])


def fit_greedy(logits: np.ndarray, fake: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weights, float [M], of a greedy selection that minimizes the log-loss.

    The same member can be selected several times; its weight is how often it was selected.

    Source: Caruana et al., Ensemble selection from libraries of models, ICML 2004.

    Args:
        logits: calibrated logits of the M members, float [n, M].
        fake: bool [n].
        weights: the weights of the images, float [n].
    """
    counts, total = np.zeros(logits.shape[1]), np.zeros(len(logits))
    best = np.inf
    for number in range(1, _GREEDY_ROUNDS + 1):
        losses = [log_loss((total + member) / number, fake, weights) for member in logits.T]
        chosen = int(np.argmin(losses))
        if losses[chosen] >= best:
            break
        best = losses[chosen]
        counts[chosen] += 1
        total += logits[:, chosen]
    return counts / counts.sum()


def fit_regression(
    logits: np.ndarray, scores: MemberScores, penalized: bool
) -> tuple[np.ndarray, float]:
    """Return the weights, float [M], and the bias of a logistic regression on calibrated logits.

    Args:
        logits: calibrated logits of the M members, float [n, M].
        scores: the scores of the same images.
        penalized: whether to add an L2 penalty, whose strength is chosen by cross-validation by
            group. Without it, the likelihood is maximized.
    """
    weights, strength = scores.weights(), _NO_PENALTY
    mean = logits.mean(axis=0)  # without it, a constant member has no weight
    logits = logits - mean
    if penalized:
        strength = _choose_strength(logits, scores, weights)
    model = logistic_regression(logits, scores.fake, weights, strength)
    return model.coef_[0], float(model.intercept_[0] - mean @ model.coef_[0])


def _choose_strength(logits: np.ndarray, scores: MemberScores, weights: np.ndarray) -> float:
    """Return the inverse strength of the penalty with the smallest log-loss on held-out groups."""
    fold = fold_numbers(scores.groups, _FOLDS, "inner")
    usable = [
        number for number in np.unique(fold) if len(np.unique(scores.fake[fold != number])) == 2
    ]
    if not usable:  # too few groups to choose
        return 1.0
    losses = []
    for strength in _STRENGTHS:
        fused = np.zeros(len(logits))
        for number in usable:
            rest = fold != number
            model = logistic_regression(logits[rest], scores.fake[rest], weights[rest], strength)
            fused[~rest] = model.decision_function(logits[~rest])
        losses.append(log_loss(fused, scores.fake, weights))
    return float(_STRENGTHS[int(np.argmin(losses))])


def logistic_regression(
    inputs: np.ndarray, fake: np.ndarray, weights: np.ndarray, strength: float
) -> LogisticRegression:
    """Return a fitted logistic regression.

    Args:
        inputs: float [n, F].
        fake: bool [n].
        weights: the weights of the images, float [n].
        strength: the inverse strength of the L2 penalty.
    """
    model = LogisticRegression(C=strength, max_iter=1000)
    return model.fit(inputs, fake, sample_weight=weights)
