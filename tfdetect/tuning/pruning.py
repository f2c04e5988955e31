"""Rules that stop unpromising trials early: the median rule and successive halving."""

from typing import Literal

import numpy as np

from tfdetect.core.choices import Rule

_FACTOR = 3  # of successive halving
_MIN_TRIALS = 4  # other trials that the median rule needs


def should_prune(
    rule: Rule,
    curve: list[float],
    others: list[list[float]],
    direction: Literal["max", "min"],
    first_epochs: int = 1,
) -> bool:
    """Return whether to stop a trial after its latest epoch.

    Args:
        rule: "median" (Golovin et al., KDD 2017) prunes if the trial's best value so far is worse
            than the median of the others' best values up to this epoch; "halving" (asynchronous
            successive halving, Li et al., MLSys 2020) prunes at epochs first_epochs * 3^k
            unless the trial is among the best third of all that reached this epoch; "none"
            never prunes.
        curve: the trial's monitored value by epoch.
        others: the same of the other trials.
        direction: whether higher ("max") or lower ("min") values are better.
        first_epochs: number of epochs that each trial trains before it can be stopped.
    """
    epoch = len(curve)
    if rule == "none" or epoch < first_epochs:
        return False
    sign = 1 if direction == "max" else -1
    own = np.max(sign * np.array(curve))
    best = np.array([np.max(sign * np.array(c[:epoch])) for c in others if len(c) >= epoch])
    if rule == "median":
        return len(best) >= _MIN_TRIALS and bool(own < np.median(best))
    rung = first_epochs
    while rung < epoch:
        rung *= _FACTOR
    if rung != epoch:
        return False
    return bool((best > own).sum() >= max(1, (len(best) + 1) // _FACTOR))
