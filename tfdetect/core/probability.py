"""Probabilities and their logits, without TensorFlow or NumPy."""

import math

EPSILON = 1e-7  # of a probability, before its logit
# Of a probability whose complement is known, too, before its logarithm: so small that certain
# images keep their ranks, and float32 still has it in full precision.
SMALLEST = 1e-37


def logit(p: float) -> float:
    """Return ln(p / (1 - p)) of a probability, which is clipped away from 0 and 1."""
    p = min(max(p, EPSILON), 1 - EPSILON)
    return math.log(p) - math.log1p(-p)


def expit(x: float) -> float:
    """Return the probability of a logit."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def add_to_logit(p: float, by: float) -> float:
    """Return a probability after a constant is added to its logit."""
    return expit(logit(p) + by)
