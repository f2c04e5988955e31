"""When a trial's validation curve is unpromising: the median rule, and successive halving."""

import numpy as np

RULES = ("median", "halving", "none")
_FEW = 4  # others that the median rule wants to have seen


def unpromising(
    rule: str,
    curve: list[float],
    others: list[list[float]],
    maximize: bool,
    first: int = 1,
    factor: int = 3,
) -> bool:
    """Whether to stop a trial after its latest epoch.

    Args:
        rule: "median" (Golovin et al., KDD 2017): its best value so far is worse than the median
            of the others' best up to this epoch; "halving" (asynchronous successive halving, Li
            et al., MLSys 2020): at the epochs first * factor^k it is not among the best 1/factor
            of all that came so far; "none".
        curve: its monitored value, epoch by epoch.
        others: those of the other trials.
        first: epochs that every trial may train.
    """
    epoch = len(curve)
    if rule == "none" or epoch < first:
        return False
    sign = 1 if maximize else -1
    mine = np.max(sign * np.array(curve))
    theirs = np.array([np.max(sign * np.array(c[:epoch])) for c in others if len(c) >= epoch])
    if rule == "median":
        return len(theirs) >= _FEW and bool(mine < np.median(theirs))
    rung = first
    while rung < epoch:
        rung *= factor
    if rung != epoch:
        return False
    return bool((theirs > mine).sum() >= max(1, (len(theirs) + 1) // factor))
