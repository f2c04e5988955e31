"""Measure members and fusions on the same images, and what the chosen fusion gains."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit

from tfdetect.core.run_results import Metrics
from tfdetect.evaluation.intervals import binary_intervals, numbers
from tfdetect.evaluation.operating_points import choose_threshold, operating_points
from tfdetect.evaluation.paired import difference
from tfdetect.evaluation.verdicts import is_fake
from tfdetect.fusion.fusion_results import FusionPart, FusionsCompared, MemberPair, Thresholds
from tfdetect.fusion.fusions import Fusion, cross_fit
from tfdetect.fusion.scores import MemberScores

METRICS = ("balanced_accuracy", "ap", "auc", "log_loss", "ece")
_PRIOR = 0.5  # fraction of fakes that P(fake) assumes: `MemberScores.weights` balance the classes


@dataclass(frozen=True)
class Predicted:
    """Logits of members and fusions for the images of one split.

    Attributes:
        members, fusions: logits by name, float [n].
        scores: the scores of the members for these images.
    """

    members: dict[str, np.ndarray]
    fusions: dict[str, np.ndarray]
    scores: MemberScores


@dataclass(frozen=True)
class Comparison:
    """Members and fusions side by side.

    Attributes:
        splits: the predictions by split.
        chosen: name of the fusion that becomes the detector.
        cross_fitted: whether each validation image was scored by fusions that were fitted without
            its group. If not, the validation figures of fusions are optimistic.
    """

    splits: dict[str, Predicted]
    chosen: str
    cross_fitted: bool

    @property
    def last_split(self) -> str:
        """The split "test", or "validation" if there are no test images."""
        return "test" if "test" in self.splits else "validation"


def compare_fusions(
    scores: dict[str, MemberScores], fusions: dict[str, Fusion], names: list[str], chosen: str
) -> Comparison:
    """Apply fusions to every split; validation is cross-fitted if there are enough groups.

    Args:
        scores: the scores of the members by split, with "validation" among them.
        fusions: fusions by name that were fitted on all of validation, with "mean" among them.
        names: the names of the members.
        chosen: name of the fusion that becomes the detector.
    """
    crossed: dict[str, np.ndarray] = {}
    for name in fusions:
        logits = cross_fit(name, scores["validation"])
        if logits is not None:
            crossed[name] = logits
    cross_fitted = len(crossed) == len(fusions)
    temperatures, splits = fusions["mean"].temperatures, {}
    for split, own in scores.items():
        members = {name: own.logits[:, n] / temperatures[n] for n, name in enumerate(names)}
        fitted = {name: fusion(own) for name, fusion in fusions.items()}
        fused = crossed if cross_fitted and split == "validation" else fitted
        splits[split] = Predicted(members, fused, own)
    return Comparison(splits, chosen, cross_fitted)


def measure_comparison(comparison: Comparison) -> FusionsCompared:
    """Return the metrics of members and fusions, the gains and the similarity of the members."""
    thresholds = _thresholds(comparison.splits["validation"])
    splits = {name: _by_dataset(each, thresholds) for name, each in comparison.splits.items()}
    members, chosen = splits["validation"]["all"]["members"], comparison.chosen
    best = min(members, key=lambda name: numbers(members[name]["log_loss"])[0])
    gains = {
        split: _gains(
            p.scores.fake,
            (p.fusions[chosen], thresholds["fusions"][chosen]),
            (p.members[best], thresholds["members"][best]),
        )
        for split, p in comparison.splits.items()
    }
    return {
        "fusion": chosen,
        "cross_fitted": comparison.cross_fitted,
        "best_member": best,
        "splits": splits,
        "gains": gains,
        "thresholds": thresholds,
        "similarity": _similarity(comparison.splits[comparison.last_split], thresholds["members"]),
    }


def _thresholds(validation: Predicted) -> Thresholds:
    """Return the thresholds of P(fake) with the best balanced accuracy on validation."""
    fake = validation.scores.fake

    def choose(logits_by_name: dict[str, np.ndarray]) -> dict[str, float]:
        return {
            name: choose_threshold("balanced", operating_points(expit(logits), fake))
            for name, logits in logits_by_name.items()
        }

    return {"members": choose(validation.members), "fusions": choose(validation.fusions)}


def _by_dataset(predicted: Predicted, thresholds: Thresholds) -> dict[str, FusionPart]:
    """Return the metrics of all images, and of each dataset if there are several."""
    fake, datasets = predicted.scores.fake, predicted.scores.datasets
    parts = {"all": np.ones(len(fake), bool)}
    if len(names := np.unique(datasets)) > 1:
        parts |= {str(name): datasets == name for name in names}

    def measure(
        logits_by_name: dict[str, np.ndarray], threshold_by_name: dict[str, float], rows: np.ndarray
    ) -> dict[str, Metrics]:
        return {
            name: binary_intervals(
                fake[rows], expit(logits[rows]), threshold_by_name[name], _PRIOR,
                ranks=logits[rows],
            )
            for name, logits in logits_by_name.items()
        }  # fmt: skip

    return {
        part: {
            "members": measure(predicted.members, thresholds["members"], rows),
            "fusions": measure(predicted.fusions, thresholds["fusions"], rows),
        }
        for part, rows in parts.items()
    }


def _gains(
    fake: np.ndarray, fused: tuple[np.ndarray, float], member: tuple[np.ndarray, float]
) -> Metrics:
    """Return the metrics of a fusion minus those of a member, with paired bootstrap intervals.

    Args:
        fake: bool [n].
        fused: logits of the fusion, float [n], and the threshold of its P(fake).
        member: the same of the member.
    """
    (a, a_threshold), (b, b_threshold) = fused, member
    return difference(
        fake, expit(a), expit(b), METRICS, (a_threshold, b_threshold), ranks=(a, b),
        priors=(_PRIOR, _PRIOR),
    )  # fmt: skip


def _similarity(predicted: Predicted, thresholds: dict[str, float]) -> list[MemberPair]:
    """Return the correlation and the common errors of each pair of members.

    Args:
        predicted: the predictions for one split.
        thresholds: the thresholds of P(fake) by member.
    """
    verdicts = {
        name: is_fake(expit(logits), thresholds[name]) for name, logits in predicted.members.items()
    }
    fake, found = predicted.scores.fake, list[MemberPair]()
    for one, other in combinations(predicted.members, 2):
        a, b = predicted.members[one], predicted.members[other]
        wrong = verdicts[one] != fake, verdicts[other] != fake
        constant = np.ptp(a) == 0 or np.ptp(b) == 0
        found.append({
            "members": [one, other],
            "correlation": None if constant else float(np.corrcoef(a, b)[0, 1]),
            "disagreement": float((verdicts[one] != verdicts[other]).mean()),
            "both_wrong": float((wrong[0] & wrong[1]).mean()),
            "one_wrong": float((wrong[0] ^ wrong[1]).mean()),
        })  # fmt: skip
    return found
