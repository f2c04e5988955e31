"""A verdict in words that need no training in machine learning."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.probability import add_to_logit, logit
from tfdetect.core.run import Run
from tfdetect.evaluation.verdicts import is_fake, is_inconclusive

Outcome = Literal["authentic", "fake", "inconclusive"]


class VerdictWords(NamedTuple):
    """What a reader is told about an image.

    Attributes:
        headline: the verdict in a few words.
        lines: sentences: the probability, and what limits it.
        tone: how it is shown: "good" for authentic, "bad" for fake, "caution" for no verdict.
    """

    headline: str
    lines: list[str]
    tone: Literal["good", "caution", "bad"]


def verdict_words(run: Run, row: Mapping[str, Any], unlike: bool) -> VerdictWords:
    """Return the headline and the sentences of a verdict.

    Args:
        run: the run that gave the verdict.
        row: its prediction: p_fake, verdict, inconclusive and, if known, duplicate_of_train.
        unlike: whether the image is unlike those that the detector was made for.
    """
    authentic = row["verdict"] == run.class_names[0]
    looks = "Looks authentic" if authentic else f"Looks fake{_kind(row['verdict'])}"
    lines = [probability_sentence(run, row["p_fake"], unlike)]
    known = bool(row.get("duplicate_of_train"))
    if known:
        lines.insert(
            0, "The detector was trained, or chosen by validation, on this very image, so this "
            "says nothing about new images.",
        )  # fmt: skip
    if row["inconclusive"]:
        low, high = run.abstention_band
        lines.append(
            f"Between {percent(low)} and {percent(high)} this detector is wrong too often to give "
            f"a verdict.{_leaning(run, row['p_fake'], authentic)}"
        )
        return VerdictWords("Inconclusive", lines, "caution")
    if unlike:
        return VerdictWords(
            f"{looks}, but the detector was not made for such images", lines, "caution"
        )
    if known:
        return VerdictWords(f"{looks}, but the detector knows this image", lines, "caution")
    if authentic:
        lines.append("This means: the detector found no trace that it knows.")
        return VerdictWords(looks, lines, "good")
    return VerdictWords(looks, lines, "bad")


def _leaning(run: Run, p: float, authentic: bool) -> str:
    """Return to which side an inconclusive score leans, whatever fraction of images is fake.

    It is empty where the threshold and the probability lie on different sides.
    """
    even = add_to_logit(p, -logit(run.info.prior or 0.5))
    leans = (even < 0.5) == authentic
    return f" It leans to {'authentic' if authentic else 'fake'}." if leans else ""


def _kind(name: str) -> str:
    """Return the kind of fake in parentheses; nothing where it is just "fake"."""
    return "" if name.lower() in ("fake", "fakes") else f" ({name})"


def outcome(run: Run, p_fake: float) -> Outcome:
    """Return what a run says of an image with this P(fake)."""
    if is_inconclusive(p_fake, run.abstention_band):
        return "inconclusive"
    return "fake" if is_fake(p_fake, run.threshold) else "authentic"


def what_p_fake_assumes(run: Run) -> str:
    """Return for which images P(fake) is a probability, for the line below a table of verdicts."""
    prior = run.info.prior
    if run.info.calibration is None or prior is None:
        return "P(fake) is a score between 0 and 1, no probability: the detector is not calibrated"
    return (
        f"P(fake) assumes that {percent(prior)} of images like these are fake; --prior takes "
        "another fraction"
    )


def what_is_read(run: Run) -> str:
    """Return which part of a large image a detector reads, or "" where it is all of it."""
    sides = [view.equalize.side for view in run.views if view.equalize is not None]
    if len(sides) < len(run.views):
        return ""
    side = max(sides)
    text = f"Of larger images {run.name} reads the middle {side:,} x {side:,} pixels alone"
    height, width = run.views[0].size
    scaled = not cuts_windows(run.views[0].policy) and (height, width) != (side, side)
    if len(run.views) == 1 and scaled:
        text += f", scaled to {width:,} x {height:,}"
    return text


def probability_sentence(run: Run, p: float, unlike: bool) -> str:
    """Return what P(fake) says about the image; see `verdict_words`."""
    fitted, prior = run.info.calibration, run.info.prior
    if fitted is None or prior is None:
        return (
            f"The score for fake is {p:.3f}, on a scale from 0 to 1. This detector is not "
            "calibrated, so the score orders images and is no probability."
        )
    if unlike:
        return (
            f"The score for fake is {of_hundred(p)}. It is no probability here, because the image "
            "is unlike those that the detector was calibrated on."
        )
    return (
        f"Of images like those the detector was calibrated on, {of_hundred(p)} with such a score "
        f"are fake, if {percent(prior)} of all images are fake."
    )


def of_hundred(p: float) -> str:
    """Return a probability as a number of images in a hundred."""
    if p > 0.995:
        return "more than 99 in 100"
    if p < 0.005:
        return "fewer than 1 in 100"
    return f"about {max(1, round(100 * p))} in 100"


def percent(p: float) -> str:
    """Return a probability as a percentage that is never 0% or 100%, unless it is exactly that."""
    if p in (0.0, 1.0):
        return f"{p:.0%}"
    if 0.001 <= p <= 0.999:
        return f"{p:.1%}".replace(".0%", "%")
    if p < 0.0001:
        return "less than 0.01%"
    return f"{p:.2%}" if p <= 0.9999 else "more than 99.99%"
