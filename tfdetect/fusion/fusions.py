"""Fit fusions of the scores of the members on validation images, and cross-fit them.

| name | a fused logit is |
|---|---|
| stacked | a weighted sum of calibrated logits, with the maximum-likelihood weights and bias |
| mean | their mean |
| weighted | a weighted mean, no weight below 0 |
| logistic | as stacked, with an L2 penalty chosen by cross-validation |
| greedy | a mean of members that are selected one after another, with replacement |
| gated | the logit of a mean of P(fake) whose weights depend on the image |
| fisher | a sum of -log p values: unusually high scores of any member count |
| dense | the output of a dense unit on P(fake) of the members, trained by Adam for 10 epochs |

A calibrated logit is a member's logit divided by its temperature.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

from tfdetect.data.splits import fold_numbers
from tfdetect.evaluation.calibration import fit_temperature, logit
from tfdetect.fusion.fisher_fusion import evidence, fit_fisher
from tfdetect.fusion.gated_fusion import Gate, fit_gate
from tfdetect.fusion.linear_fusions import fit_greedy, fit_regression, fit_weighted
from tfdetect.fusion.scores import MemberScores

CROSS_FIT_FOLDS = 5
_MIN_WEIGHT = 0.01  # of the largest weight; a member with less is removed


@dataclass(frozen=True)
class FusionSettings:
    """How an ensemble is made.

    Attributes:
        fusion: the fusion that becomes the detector, one of `core.choices.FUSIONS`.
        masks: whether to fuse predicted masks, too.
        batch_size: images per step.
        epochs: the number of epochs of fine-tuning the whole fused detector; 0 for none.
        learning_rate: the learning rate of fine-tuning.
    """

    fusion: str
    masks: bool
    batch_size: int
    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Fusion:
    """A fitted fusion: fused logit = sum of weight x logit / temperature, plus bias.

    Attributes:
        name: one of `core.choices.FUSIONS`.
        temperatures: the temperatures of the M members, float [M].
        weights: the weights of the members, float [M]. Those of a gated fusion are all equal, and
            multiply its logit.
        bias: the bias of the sum.
        gate: mean [F], standard deviation [F], kernel [F, M] and bias [M] of a gate that weights
            P(fake) of the members by F features of the image; None without a gate.
        tails: the bends and slope changes, float [M, K], of the piecewise linear -log p of each
            member, see `fisher_fusion.evidence`, which replaces the logit in the sum; None to use
            the logit.
        on_probabilities: whether P(fake) replaces the logit in the sum.
    """

    name: str
    temperatures: np.ndarray
    weights: np.ndarray
    bias: float
    gate: Gate | None = None
    tails: tuple[np.ndarray, np.ndarray] | None = None
    on_probabilities: bool = False

    def __call__(self, scores: MemberScores) -> np.ndarray:
        """Return the fused logits of images, float [n]."""
        inputs = scores.logits / self.temperatures
        if self.gate is not None:
            mean, deviation, kernel, bias = self.gate
            gates = softmax((scores.features - mean) / deviation @ kernel + bias, axis=1)
            return self.weights[0] * logit((gates * expit(inputs)).sum(axis=1))
        if self.tails is not None:
            inputs = evidence(inputs, *self.tails)
        elif self.on_probabilities:
            inputs = expit(inputs)
        return inputs @ self.weights + self.bias

    @property
    def used_members(self) -> np.ndarray:
        """Whether each member contributes to the fused logit, bool [M]."""
        if self.gate is not None or self.on_probabilities:
            return np.ones(len(self.weights), bool)
        weights = np.abs(self.weights)
        return weights > _MIN_WEIGHT * weights.max()


def fit_fusion(name: str, scores: MemberScores) -> Fusion:
    """Fit a fusion on calibrated logits of the members, except dense, which takes P(fake) as it is.

    The fused logits of mean, weighted, greedy and gated are calibrated by a temperature, too.

    Args:
        name: one of `core.choices.FUSIONS`.
        scores: the scores of images that the members were not trained on.
    """
    weights = scores.weights()
    members = scores.logits.shape[1]
    if name == "dense":
        from tfdetect.fusion.dense_fusion import fit_dense  # imports TensorFlow

        kernel, bias = fit_dense(expit(scores.logits), scores.fake, weights)
        return Fusion(name, np.ones(members), kernel, bias, on_probabilities=True)
    temperatures = np.array(
        [fit_temperature(logits, scores.fake, weights) for logits in scores.logits.T]
    )
    logits = scores.logits / temperatures
    if name == "fisher":
        tails, weight, bias = fit_fisher(logits, scores.fake, weights)
        return Fusion(name, temperatures, np.full(members, weight), bias, tails=tails)
    if name in ("stacked", "logistic"):
        kernel, bias = fit_regression(logits, scores, penalized=name == "logistic")
        return Fusion(name, temperatures, kernel, bias)
    gate = None
    if name == "mean":
        kernel = np.full(members, 1 / members)
    elif name == "weighted":
        kernel = fit_weighted(logits, scores.fake, weights)
    elif name == "greedy":
        kernel = fit_greedy(logits, scores.fake, weights)
    else:
        kernel = np.ones(members)
        temperatures, gate = fit_gate(temperatures, scores, weights)
    fusion = Fusion(name, temperatures, kernel, 0.0, gate)
    last = fit_temperature(fusion(scores), scores.fake, weights)
    return Fusion(name, temperatures, kernel / last, 0.0, gate)


def cross_fit(name: str, scores: MemberScores) -> np.ndarray | None:
    """Return the logit of each image by a fusion that was fitted without the group of the image.

    Args:
        name: one of `core.choices.FUSIONS`.
        scores: the scores of all images.

    Returns:
        float [n]; None if there are fewer groups than folds, or if a class is in one fold only.
    """
    fold = fold_numbers(scores.groups, CROSS_FIT_FOLDS, "outer")
    held_out = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    remaining = [np.flatnonzero(fold != number) for number in np.unique(fold)]
    if len(np.unique(scores.groups)) < CROSS_FIT_FOLDS or any(
        len(np.unique(scores.fake[rows])) < 2 for rows in remaining
    ):
        return None
    logits = np.empty(len(fold))
    for fit_rows, rows in zip(remaining, held_out):
        logits[rows] = fit_fusion(name, scores.take(fit_rows))(scores.take(rows))
    return logits
