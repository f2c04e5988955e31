"""The headline of the evidence on an image, by one rule."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from tfdetect.core.packages import with_extra
from tfdetect.core.run import Run
from tfdetect.evaluation.verdict_words import verdict_words
from tfdetect.forensics.evidence_lines import UNSIGNED, EvidenceLine
from tfdetect.forensics.file_metadata import C2PA, Fact

Basis = Literal["declared", "detector", "inconclusive"]
Tone = Literal["good", "caution", "bad"]

RULE = (
    "A declaration of where the image comes from counts first, signed content credentials before "
    "unsigned notes; then the verdict of a calibrated detector on an image of the kind that it was "
    "made for, unless traces of editing contradict a verdict of authentic. Without either the "
    "result is inconclusive."
)
_TRACES = ("copies", "jpeg_regions")


class Headline(NamedTuple):
    """The headline of an image.

    Attributes:
        text: the result in a few words.
        basis: the part of `RULE` from which it follows.
        reasons: sentences that say so.
        tone: "good" for authentic, "bad" for generated or altered, else "caution".
    """

    text: str
    basis: Basis
    reasons: tuple[str, ...]
    tone: Tone


def headline_of(
    facts: Sequence[Fact], lines: Sequence[EvidenceLine], verdict: tuple[Run, Mapping] | None
) -> Headline:
    """Return the headline of an image by `RULE`.

    Args:
        facts: the metadata of the file.
        lines: the pieces of evidence; the first two are about declarations.
        verdict: the run of the detector with its row of a prediction; None without a detector.
    """
    traces = [line for line in lines if line.name in _TRACES and line.says == "altered"]
    if declared := _declared(facts, lines, traces):
        return declared
    found = tuple(f"{line.title}: {line.finding}" for line in traces)
    nothing = _nothing_declared(facts, lines)
    inconclusive = "Inconclusive: traces of editing" if traces else "Inconclusive"
    detector = next((line for line in lines if line.name == "detector"), None)
    reasons: tuple[str, ...]
    if verdict is None or detector is None:
        reasons = (*found, nothing, "No detector was asked.")
        return Headline(inconclusive, "inconclusive", reasons, "caution")
    run, row = verdict
    words = verdict_words(run, row, unlike=row.get("in_domain") is False)
    if detector.says == "nothing" or run.info.calibration is None:
        return Headline(inconclusive, "inconclusive", (*found, nothing, *words.lines), "caution")
    if detector.says == "authentic" and traces:
        reasons = (
            f"{words.headline}, says {run.name}. There are traces of editing, though.",
            *found,
        )
        return Headline(inconclusive, "inconclusive", reasons, "caution")
    return Headline(words.headline, "detector", (nothing, *words.lines, *found), words.tone)


def _declared(
    facts: Sequence[Fact], lines: Sequence[EvidenceLine], traces: Sequence[EvidenceLine]
) -> Headline | None:
    """Return the headline that follows from what the file declares; None if none does."""
    credentials, notes = lines[0], lines[1]
    if credentials.says == "generated":
        partly = any("composite" in fact.value for fact in facts if C2PA in fact.name)
        title = f"Declared as {'partly ' if partly else ''}generated, with a signature"
        return Headline(title, "declared", (credentials.finding, credentials.reliability), "bad")
    if notes.says == "generated":
        title = "Declared as generated, without a signature"
        return Headline(title, "declared", (notes.finding, UNSIGNED), "bad")
    trusted = any(fact.signature == "Trusted" for fact in facts)
    if credentials.says == "camera" and trusted and not traces:
        reasons = (credentials.finding, credentials.reliability)
        title = "Declared as a camera's picture, with a signature"
        return Headline(title, "declared", reasons, "good")
    return None


def _nothing_declared(facts: Sequence[Fact], lines: Sequence[EvidenceLine]) -> str:
    """Return why a headline does not follow from what the file declares."""
    if any(fact.signature == "Unread" for fact in facts):
        return (
            "The file has content credentials, which may say where it comes from. They were not "
            f"read: pip install '{with_extra('c2pa')}'."
        )
    if lines[0].says in ("camera", "edited"):
        return "What the file declares does not say whether it is generated."
    if any(line.name == "camera_data" and line.says == "camera" for line in lines):
        return "The file names a camera, which can be copied, and declares no generator."
    return "Nothing in the file declares where it comes from."
