"""Fits how members are fused, from what they said of validation images; no TensorFlow.

A member's score is its log-odds of fake, ln P(fake) / P(authentic), over its temperature. Each
fusion but `gated` and `fisher` is a weighted sum of scores. `gated` is a mean of the members'
P(fake), whose weights depend on the image, by what the members' features and its color and
sharpness say: a mixture of experts (Jacobs et al., Neural Computation 1991), for members that
learned different data. `fisher` sums -ln p, where p is the share of authentic images with as high
a score (Fisher, Statistical Methods for Research Workers, 1932): what is unusual to any member
counts, also where no fake of validation showed it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from tfdetect.data.splits import group_fraction
from tfdetect.evaluation.calibration import TINY, log_loss, temperature

FUSIONS = ("stacked", "mean", "weighted", "logistic", "greedy", "gated", "fisher")
_ROUNDS = 50  # of greedy selection
_SMALLEST = 0.01  # a weight below is none
_FREE = 1e6  # so weak a penalty is none
_PENALTY = 0.01  # on the squares of the gate's kernel
_GATE_IMAGES = 10_000  # that a gate is fitted on, at most
_TAIL = np.array([*np.arange(10, 0, -1) / 10, 0.05])  # the p at which -ln p bends


@dataclass(frozen=True)
class Scores:
    """What members said of images.

    Attributes:
        odds: log-odds of fake, float [n, members].
        fake: bool [n].
        groups: names [n] that must not straddle folds.
        datasets: names [n].
        features: float [n, F], all members' features side by side.
    """

    odds: np.ndarray
    fake: np.ndarray
    groups: np.ndarray
    datasets: np.ndarray
    features: np.ndarray

    def take(self, rows: np.ndarray) -> "Scores":
        return Scores(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))

    def weights(self) -> np.ndarray:
        """So that every dataset counts the same, and within it every class."""
        weights = np.zeros(len(self.fake))
        for name in np.unique(self.datasets):
            for fake in (False, True):
                rows = (self.datasets == name) & (self.fake == fake)
                weights[rows] = 1 / max(1, rows.sum())
        return weights * len(weights) / weights.sum()


@dataclass(frozen=True)
class Fusion:
    """A fitted fusion: log-odds = sum over members of weight x odds / temperature, plus bias.

    Attributes:
        temperatures: of the members [M].
        weights: [M]; of a gated fusion all the same, a factor on its log-odds.
        bias: of the sum.
        gate: None, or mean [F], deviation [F], kernel [F, M] and bias [M] of the gate.
        tails: None, or where -ln p of each member bends [M, K], and by how much it then rises
            more steeply [M, K]; it takes the odds' place in the sum.
    """

    name: str
    temperatures: np.ndarray
    weights: np.ndarray
    bias: float
    gate: tuple[np.ndarray, ...] | None = None
    tails: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, scores: Scores) -> np.ndarray:
        """Log-odds of fake, float [n]."""
        odds = scores.odds / self.temperatures
        if self.tails is not None:
            odds = _evidence(odds, *self.tails)
        if self.gate is None:
            return odds @ self.weights + self.bias
        mean, deviation, kernel, bias = self.gate
        shares = softmax((scores.features - mean) / deviation @ kernel + bias, axis=1)
        fake = np.clip((shares * expit(odds)).sum(axis=1), TINY, 1 - TINY)
        return self.weights[0] * (np.log(fake) - np.log1p(-fake))


def fit(name: str, scores: Scores) -> Fusion:
    """Fits one of `FUSIONS`. Members are calibrated before, the fused score after."""
    weights = scores.weights()
    temperatures = np.array([
        temperature(odds, scores.fake, weights) for odds in scores.odds.T
    ])  # fmt: skip
    odds = scores.odds / temperatures
    gate, tails, bias = None, None, 0.0
    if name == "mean":
        shares = np.full(odds.shape[1], 1 / odds.shape[1])
    elif name == "weighted":
        shares = _weighted(odds, scores.fake, weights)
    elif name == "greedy":
        shares = _greedy(odds, scores.fake, weights)
    elif name == "gated":
        shares = np.ones(odds.shape[1])
        temperatures, gate = _gate(temperatures, scores, weights)
    elif name == "fisher":
        tails = _tails(odds[~scores.fake], weights[~scores.fake])
        total = _evidence(odds, *tails).sum(axis=1, keepdims=True)
        line = _regression(total, scores.fake, weights, 1.0)  # few images are not believed
        shares, bias = np.full(odds.shape[1], line.coef_[0, 0]), float(line.intercept_[0])
    else:
        shares, bias = _linear(odds, scores, weights, regular=name == "logistic")
    fusion = Fusion(name, temperatures, shares, bias, gate, tails)
    if name in ("mean", "weighted", "greedy", "gated"):
        last = temperature(fusion(scores), scores.fake, weights)
        fusion = Fusion(name, temperatures, shares / last, bias, gate)
    return fusion


def cross_fit(name: str, scores: Scores, folds: int = 5) -> np.ndarray:
    """Log-odds of each image by a fusion that was fitted without its group, float [n].

    An image of a fold without both classes outside it keeps nan.
    """
    places = _folds(scores.groups, folds, "outer")
    found = np.full(len(places), np.nan)
    for number in range(folds):
        rest, held = np.flatnonzero(places != number), np.flatnonzero(places == number)
        if len(held) and len(np.unique(scores.fake[rest])) == 2:
            found[held] = fit(name, scores.take(rest))(scores.take(held))
    return found


def _folds(groups: np.ndarray, count: int, salt: str) -> np.ndarray:
    """The fold of each image, by its group; another salt parts otherwise."""
    return np.array([int(count * group_fraction(salt, group)) for group in groups])


def _weighted(odds: np.ndarray, fake: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Shares that sum to 1, none below 0, of the least log-loss at its best temperature."""
    count = odds.shape[1]

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        shares, scale = softmax(free[:count]), np.exp(free[count])
        fused = odds @ shares
        error = weights * (expit(scale * fused) - fake) / weights.sum()
        by_share = scale * (odds.T @ error)
        gradient = shares * (by_share - shares @ by_share)
        return (log_loss(scale * fused, fake, weights),
                np.append(gradient, (error * fused).sum() * scale))  # fmt: skip

    found = minimize(loss, np.zeros(count + 1), jac=True, method="L-BFGS-B",
                     bounds=[(-8, 8)] * count + [(-5, 5)])  # fmt: skip
    return softmax(found.x[:count])


def _greedy(odds: np.ndarray, fake: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Selection with replacement (Caruana et al., ICML 2004), by log-loss."""
    counts, total = np.zeros(odds.shape[1]), np.zeros(len(odds))
    best = np.inf
    for number in range(1, _ROUNDS + 1):
        losses = [log_loss((total + member) / number, fake, weights) for member in odds.T]
        chosen = int(np.argmin(losses))
        if losses[chosen] >= best:
            break
        best = losses[chosen]
        counts[chosen] += 1
        total += odds[:, chosen]
    return counts / counts.sum()


def _linear(odds: np.ndarray, scores: Scores, weights: np.ndarray, regular: bool) -> tuple:
    """Weights and bias of a logistic regression on the scores.

    `stacked` is the plain maximum of the likelihood, what a dense layer on the members learns;
    `logistic` is drawn towards 0, how strongly is chosen by five folds.
    """
    strength = _FREE
    if regular:
        strengths = 10.0 ** np.arange(-4, 3)
        places = _folds(scores.groups, 5, "inner")
        losses = []
        for c in strengths:
            fused = np.zeros(len(odds))
            for number in range(5):
                rest = places != number
                if rest.all() or len(np.unique(scores.fake[rest])) < 2:
                    continue
                model = _regression(odds[rest], scores.fake[rest], weights[rest], c)
                fused[~rest] = model.decision_function(odds[~rest])
            losses.append(log_loss(fused, scores.fake, weights))
        strength = strengths[int(np.argmin(losses))]
    model = _regression(odds, scores.fake, weights, strength)
    return model.coef_[0], float(model.intercept_[0])


def _regression(odds, fake, weights, strength: float) -> LogisticRegression:
    model = LogisticRegression(C=strength, max_iter=1000)
    return model.fit(odds, fake, sample_weight=weights)


def _tails(odds: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-ln p of each member as a broken line: where it bends, and by how much [M, K].

    p is the share of these authentic images with as high odds; above the highest twentieth it
    falls as in an exponential distribution, so that the surest fakes still differ.
    """
    bends, turns = [], []
    for member in odds.T:
        places = np.quantile(member, 1 - _TAIL, method="inverted_cdf", weights=weights)
        heights = -np.log(_TAIL)
        distinct = np.append(np.diff(places) > TINY, True)  # of equal places the last
        places, heights = places[distinct], heights[distinct]
        rises = np.diff(heights) / np.diff(places)
        above = member > places[-1]
        if above.any():
            last = 1 / np.average(member[above] - places[-1], weights=weights[above])
        else:  # too few images
            last = rises[-1] if len(rises) else 1.0
        slopes = np.append(rises, last)
        missing = len(_TAIL) - len(places)
        bends.append(np.pad(places, (0, missing)))
        turns.append(np.pad(np.diff(slopes, prepend=0), (0, missing)))
    return np.array(bends), np.array(turns)


def _evidence(odds: np.ndarray, bends: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """-ln p of each member's odds [n, M]."""
    return (np.maximum(odds[:, :, None] - bends, 0) * turns).sum(axis=2)


def _gate(start: np.ndarray, scores: Scores, weights: np.ndarray) -> tuple:
    """Temperatures of the members, and mean, deviation, kernel and bias of the gate.

    They maximize the likelihood of the mixture together, from the members' own temperatures on.
    """
    if len(weights) > _GATE_IMAGES:
        share = weights / weights.sum()  # so that small datasets keep their images
        rows = np.random.default_rng(0).choice(len(weights), _GATE_IMAGES, p=share)
        scores, weights = scores.take(rows), np.ones(_GATE_IMAGES)
    mean = scores.features.mean(axis=0)
    deviation = scores.features.std(axis=0) + 1e-6
    inputs = (scores.features - mean) / deviation
    size, count = inputs.shape[1], scores.odds.shape[1]
    sides = np.where(scores.fake, 1.0, -1.0)[:, None] * scores.odds
    weights = weights / weights.sum()

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = free[: size * count].reshape(size, count), free[size * count :][:count]
        scale = np.exp(free[-count:])
        shares, right = softmax(inputs @ kernel + bias, axis=1), expit(scale * sides)
        mixture = (shares * right).sum(axis=1) + TINY
        error = (weights / mixture)[:, None] * shares
        by_share = -error * (right - mixture[:, None])
        by_scale = -(error * right * (1 - right) * sides).sum(axis=0) * scale
        by_kernel = inputs.T @ by_share + 2 * _PENALTY * kernel
        return (-(weights * np.log(mixture)).sum() + _PENALTY * (kernel**2).sum(),
                np.concatenate([by_kernel.ravel(), by_share.sum(axis=0), by_scale]))  # fmt: skip

    free = np.concatenate([np.zeros((size + 1) * count), -np.log(start)])
    bounds = [(None, None)] * (size + 1) * count + [(np.log(0.01), np.log(20))] * count
    found = minimize(loss, free, jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"maxiter": 300}).x  # fmt: skip
    kernel, bias = found[: size * count].reshape(size, count), found[size * count :][:count]
    return np.exp(-found[-count:]), (mean, deviation, kernel, bias)


def used(fusion: Fusion) -> np.ndarray:
    """Which members a fusion needs, bool [M]."""
    if fusion.gate is not None:
        return np.ones(len(fusion.weights), bool)
    weights = np.abs(fusion.weights)
    return weights > _SMALLEST * weights.max()
