"""Probabilities and their logits, without TensorFlow or NumPy."""

import math

EPSILON = 1e-7  # of a probability, before its logit


def logit(p: float) -> float:
    """Return ln p / (1 - p), of a probability that is kept away from 0 and 1."""
    p = min(max(p, EPSILON), 1 - EPSILON)
    return math.log(p) - math.log1p(-p)


def expit(x: float) -> float:
    """Return the probability of a logit."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def moved(p: float, by: float) -> float:
    """Return the probability whose logit is higher by a constant."""
    return expit(logit(p) + by)
