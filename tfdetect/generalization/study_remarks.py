"""What the reader of a study must know before its figures: guesses, and trainings of one seed."""

from collections.abc import Sequence
from typing import NamedTuple

from tfdetect.core.run_results import Metrics
from tfdetect.core.text import listed
from tfdetect.evaluation.intervals import may_be_chance
from tfdetect.generalization.study_results import CurvePoint, VariantResult

GUESSING = "~"  # marks what may be no better than guesses, in tables
_ONE_SEED = (
    "One seed: each {what} was trained once. Intervals cover test images only, not the randomness "
    "of training, so another seed may {change}; --seeds 3 shows how much."
)


class NoneLearned(NamedTuple):
    """The remark that nothing is shown to be better than guesses.

    Attributes:
        title: what is so, without a period.
        reason: one or more sentences; the first begins with a small letter.
    """

    title: str
    reason: str

    def __str__(self) -> str:
        return f"{self.title}: {self.reason}"


def none_learned(what: str, why: str, so: str = "") -> NoneLearned:
    """Return the remark on detectors, variants or trainings.

    Args:
        what: the word for one of them.
        why: the reason, as part of a sentence.
        so: what follows, as a sentence.
    """
    return NoneLearned(
        f"No {what} is shown to be better than guessing",
        f"{why}. None has learned, or there are too few test images to say. {so}".rstrip(),
    )


def no_variant_learned(variants: Sequence[VariantResult]) -> NoneLearned | None:
    """Return the remark on variants, if it holds."""
    if not all(variant["may_be_chance"] for variant in variants):
        return None
    why = "the 95% interval of every AUC reaches 0.5 or less"
    return none_learned("variant", why, "The differences mean nothing.")


def no_size_learned(points: Sequence[CurvePoint]) -> NoneLearned | None:
    """Return the remark on the points of a learning curve, if it holds."""
    if not all(point["may_be_chance"] for point in points):
        return None
    why = "the 95% interval of every error reaches 0.5 or more"
    return none_learned("training", why, "The curve means nothing.")


def may_guess(metrics: Metrics, name: str) -> bool:
    """Return whether one of the metrics is marked as what guesses may reach, too.

    Accuracies are by the interval of the balanced accuracy, other metrics by that of the AUC,
    which are 0.5 for guesses.
    """
    by = "balanced_accuracy" if name in ("accuracy", "balanced_accuracy") else "auc"
    return metrics[name]["value"] is not None and may_be_chance(metrics[by])


def variants_remarks(variants: Sequence[VariantResult]) -> list[str]:
    """Return the remarks on a comparison of variants, the most important first."""
    guesses = [variant["name"] for variant in variants if variant["may_be_chance"]]
    found = []
    if none := no_variant_learned(variants):
        found.append(str(none))
    elif guesses:
        found.append(
            f"Not shown to be better than guessing ({GUESSING}), because the 95% interval of the "
            f"AUC reaches 0.5 or less: {listed(guesses, most=len(guesses))}."
        )
    if all(len(variant["runs"]) == 1 for variant in variants):
        found.append(_ONE_SEED.format(what="variant", change="change or reverse a difference"))
    return found


def curve_remarks(points: Sequence[CurvePoint], fitted: bool) -> list[str]:
    """Return the remarks on a learning curve, the most important first.

    Args:
        points: its points.
        fitted: whether a power law was fitted to them.
    """
    guesses = [point["may_be_chance"] for point in points]
    found = []
    if none := no_size_learned(points):
        found.append(str(none))
    elif any(guesses):
        found.append(
            f"Not shown to be better than guessing ({GUESSING}), because the 95% interval of the "
            f"error reaches 0.5 or more: {sum(guesses)} of {len(points)} sizes."
            + (" The power law rests on these sizes, too." if fitted else "")
        )
    if all(len(point["seeds"]) == 1 for point in points):
        found.append(_ONE_SEED.format(what="size", change="give another curve"))
    return found
