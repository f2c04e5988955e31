"""Makes P(fake) mean something: calibration on validation, operating points, an unsure band.

Scores are log-odds of fake, ln P(fake) / P(authentic), before and after calibration. Fitted on
images that the detector was not trained on; the test split only shows what came of it.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from tfdetect.core.errors import UserError
from tfdetect.data.splits import group_fraction

METHODS = ("temperature", "platt", "isotonic")
POINTS = {  # what each is chosen for, on validation
    "fpr_1": "1% false alarms",
    "fpr_5": "5% false alarms",
    "eer": "equal error rates",
    "balanced": "balanced accuracy",
    "cost": "least cost",
}
TINY = 1e-7  # of a probability, before its logarithm
_FOLDS = 5
_MANY = 1_000  # images of each class, from which isotonic regression is tried unasked
_FEWEST = 20  # images of each class, below which nothing is fitted


def odds(p: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities."""
    return logit(np.clip(np.asarray(p, np.float64), TINY, 1 - TINY))


def log_loss(odds: np.ndarray, fake: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
    """Mean weighted log-loss in nats."""
    weights = np.broadcast_to(weights, np.shape(odds))
    return float(-(weights * log_expit(np.where(fake, odds, -odds))).sum() / weights.sum())


def temperature(odds: np.ndarray, fake: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
    """The T for which odds / T has the least log-loss (Guo et al., ICML 2017), 0.05 to 100.

    Few images are not believed when they are told apart without a mistake: ln T is drawn towards 0
    by a normal prior of deviation 1.
    """
    found = minimize_scalar(
        lambda t: log_loss(odds / np.exp(t), fake, weights) + t * t / (2 * len(odds)),
        bounds=(np.log(0.05), np.log(100)), method="bounded",
    )  # fmt: skip
    return float(np.exp(found.x))


def apply(calibration: dict[str, Any] | None, odds: np.ndarray) -> np.ndarray:
    """Calibrated log-odds: scale x odds + shift, or by interpolation between knots."""
    if calibration is None:
        return odds
    if "knots" in calibration:
        return np.interp(odds, *calibration["knots"])
    return calibration["scale"] * odds + calibration["shift"]


def fit(method: str, odds: np.ndarray, fake: np.ndarray) -> dict[str, Any] | None:
    """What `apply` takes; None where the method would turn scores upside down."""
    if method == "temperature":
        return {"method": method, "scale": 1 / temperature(odds, fake), "shift": 0.0}
    if method == "platt":
        line = LogisticRegression(C=1000.0).fit(odds[:, None], fake)
        scale, shift = float(line.coef_[0, 0]), float(line.intercept_[0])
        return {"method": method, "scale": scale, "shift": shift} if scale > 0 else None
    stairs = IsotonicRegression(out_of_bounds="clip").fit(odds, fake)
    x, first = np.unique(stairs.X_thresholds_, return_index=True)
    least = 1 / (len(odds) + 2)  # nobody is surer than so many images allow
    y = logit(np.clip(stairs.y_thresholds_[first], least, 1 - least))
    if len(x) < 2 or y[-1] <= y[0]:
        return None
    return {"method": method, "knots": [x.tolist(), y.tolist()]}


def choose(
    scores: np.ndarray, fake: np.ndarray, groups: np.ndarray, method: str = "auto",
    methods: tuple[str, ...] = METHODS,
) -> dict[str, Any] | None:  # fmt: skip
    """The calibration that does best on validation images it was not fitted on.

    Args:
        scores: log-odds of fake, [n].
        fake: bool [n].
        groups: names [n] that do not straddle folds.
        method: "auto", or one of `METHODS`; then it is only refused where it would do harm.
        methods: that auto may choose from, the simplest first.

    Returns:
        What `apply` takes, with method, images, fakes (share of them) and log_loss (before and
        after, on all these images); None where nothing helps, or there are too few images.
    """
    counts = np.bincount(fake.astype(int), minlength=2)
    if counts.min() < _FEWEST:
        return None
    tried = [m for m in methods if m != "isotonic" or counts.min() >= _MANY]
    tried = tried if method == "auto" else [method]
    places = np.array([int(_FOLDS * group_fraction("calibration", str(g))) for g in groups])
    losses = {name: _held_out(name, scores, fake, places) for name in tried}
    best = tried[0]
    for name in tried[1:]:  # a less simple one must be better by more than chance
        gain = losses[best] - losses[name]
        if gain.mean() > 2 * gain.std() / np.sqrt(len(gain)):
            best = name
    found = fit(best, scores, fake)
    before, after = log_loss(scores, fake), log_loss(apply(found, scores), fake)
    if found is None or after > before or losses[best].mean() > before:
        return None
    return found | {
        "images": len(scores), "fakes": round(float(fake.mean()), 6),
        "log_loss": [round(before, 6), round(after, 6)],
    }  # fmt: skip


def _held_out(name: str, scores: np.ndarray, fake: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Log-loss of each image by a calibration fitted on the other folds."""
    losses = np.full(len(scores), np.inf)
    for number in range(_FOLDS):
        held = places == number
        if not held.any():
            continue
        if len(np.unique(fake[~held])) < 2:
            return losses
        found = apply(fit(name, scores[~held], fake[~held]), scores[held])
        losses[held] = -log_expit(np.where(fake[held], found, -found))
    return losses


def operating_points(
    p: np.ndarray, fake: np.ndarray, cost: float | None = None
) -> dict[str, dict[str, float]]:
    """Thresholds of P(fake), chosen on these images, and what they give on them.

    Args:
        p: float32 [n].
        fake: bool [n].
        cost: of a false alarm, where a missed fake costs 1.

    Returns:
        Of each of `POINTS` that the images suffice for: threshold, fpr and tpr.
    """
    p = np.asarray(p, np.float32)
    authentic, fakes = np.sort(p[~fake]), np.sort(p[fake])
    if not len(authentic) or not len(fakes):
        return {}
    # Every threshold that parts the images otherwise; above the last none is called fake.
    cuts = np.append(np.unique(p), np.nextafter(p.max(), np.float32(2)))
    fpr = 1 - np.searchsorted(authentic, cuts) / len(authentic)
    tpr = 1 - np.searchsorted(fakes, cuts) / len(fakes)
    found = {}
    for name, rate in (("fpr_1", 0.01), ("fpr_5", 0.05)):
        if len(authentic) * rate >= 1:  # else one image decides
            found[name] = int(np.argmax(fpr <= rate))
    found["eer"] = int(np.argmin(np.abs(fpr - (1 - tpr))))
    found["balanced"] = int(np.argmax(tpr - fpr))
    if cost is not None:
        found["cost"] = int(np.argmin(cost * fpr * len(authentic) + (1 - tpr) * len(fakes)))
    return {
        name: {"threshold": float(cuts[i]), "fpr": float(fpr[i]), "tpr": float(tpr[i])}
        for name, i in found.items()
    }


def unsure_band(p: np.ndarray, fake: np.ndarray, rate: float | None = None) -> dict | None:
    """P(fake) from low up to, not including, high: where a verdict would be wrong too often.

    Args:
        rate: share of authentic images that may lie at or above high, and of fakes below low;
            by default 1%, or 5% of fewer than a hundred images.

    Returns:
        low, high, rate and coverage, the share of these images outside; None where there are
        too few images.
    """
    p = np.asarray(p, np.float32)
    authentic, fakes = np.sort(p[~fake]), np.sort(p[fake])
    fewest = min(len(authentic), len(fakes))
    rate = rate or (0.01 if fewest >= 100 else 0.05)
    if fewest * rate < 1:
        return None
    high = np.nextafter(authentic[-1 - int(rate * len(authentic))], np.float32(2))
    low = fakes[int(rate * len(fakes))]
    if low > high:  # a gap: any threshold in it will do
        low = high = (low + high) / 2
    coverage = float(((p < low) | (p >= high)).mean())
    return {"low": float(low), "high": float(high), "rate": rate, "coverage": coverage}


def threshold_at(info: dict[str, Any], point: str, name: str) -> float:
    """The threshold of one of a run's operating points.

    Args:
        info: the content of run.json.
        name: of the run, for the message.

    Raises:
        UserError: the run has none of that name.
    """
    points = info.get("points", {})
    if point not in points:
        there = ", ".join(points) or "none"
        raise UserError(
            f"{name} has no operating point {point!r} (it has: {there}). Choose them on its "
            f"validation split with: python -m tfdetect.calibrate {name}"
        )
    return points[point]["threshold"]


def with_prior(info: dict[str, Any], prior: float, name: str) -> dict[str, Any]:
    """run.json's content for images of which a share `prior` is fake.

    P(fake) moves, and with it the operating points and the unsure band: they part the same images
    as before.

    Raises:
        UserError: the run is not calibrated, so that its P(fake) is no probability to begin with.
    """
    found = info.get("calibration")
    if found is None:
        raise UserError(
            f"{name} is not calibrated, so a prior means nothing to it. Calibrate it with: "
            f"python -m tfdetect.calibrate {name}"
        )
    more = float(logit(prior) - logit(found["fakes"]))

    def moved(p: float) -> float:
        return float(expit(odds(p) + more))

    if "knots" in found:
        x, y = found["knots"]
        found = found | {"knots": [x, [value + more for value in y]]}
    else:
        found = found | {"shift": found["shift"] + more}
    found = found | {"prior": prior}
    points = {
        key: point | {"threshold": moved(point["threshold"])}
        for key, point in info.get("points", {}).items()
    }
    band = info.get("unsure")
    band = band and band | {"low": moved(band["low"]), "high": moved(band["high"])}
    return info | {"calibration": found, "points": points, "unsure": band}


def uneven_prior(info: dict[str, Any]) -> str | None:
    """A warning where P(fake) supposes far more, or fewer, fakes than authentic images."""
    share = (info.get("calibration") or {}).get("fakes", 0.5)
    if 1 / 3 <= share <= 2 / 3:
        return None
    return (
        f"P(fake) supposes that {share:.0%} of the images are fake, as of those that it was "
        "calibrated on. For another share, say a half: --prior 0.5"
    )


def precision_at(tpr: float, fpr: float, prior: float) -> float | None:
    """Share of fakes among what is called fake, where a share `prior` of all images is fake."""
    called = tpr * prior + fpr * (1 - prior)
    return tpr * prior / called if called else None
