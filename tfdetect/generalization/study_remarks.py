"""What the reader of a study must know before its figures: guesses, and trainings of one seed."""

from collections.abc import Sequence

from tfdetect.core.text import listed
from tfdetect.generalization.study_results import CurvePoint, VariantResult

GUESSING = "~"  # marks what may be no better than guesses, in tables
_ONE_SEED = (
    "One seed: each {what} was trained once. Intervals cover test images only, not the randomness "
    "of training, so another seed may {change}; --seeds 3 shows how much."
)
_NONE = (
    "No {what} is shown to be better than guessing: {why}. None has learned, or there are too few "
    "test images to say."
)


def none_learned(what: str, why: str) -> str:
    """Return that nothing is shown to be better than guesses: a title, a colon and the reason."""
    return _NONE.format(what=what, why=why)


def variants_remarks(variants: Sequence[VariantResult]) -> list[str]:
    """Return the remarks on a comparison of variants, the most important first."""
    guesses = [variant["name"] for variant in variants if variant["may_be_chance"]]
    found = []
    if len(guesses) == len(variants):
        why = "the 95% interval of every AUC reaches 0.5 or less"
        found.append(f"{none_learned('variant', why)} The differences mean nothing.")
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
    if all(guesses):
        why = "the 95% interval of every error reaches 0.5 or more"
        found.append(f"{none_learned('training', why)} The curve means nothing.")
    elif any(guesses):
        found.append(
            f"Not shown to be better than guessing ({GUESSING}), because the 95% interval of the "
            f"error reaches 0.5 or more: {sum(guesses)} of {len(points)} sizes."
            + (" The power law rests on these sizes, too." if fitted else "")
        )
    if all(len(point["seeds"]) == 1 for point in points):
        found.append(_ONE_SEED.format(what="size", change="give another curve"))
    return found
