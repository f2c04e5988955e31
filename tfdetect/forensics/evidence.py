"""Joins what is known of an image: one line for each piece of evidence, and a headline.

`evidence_lines` says how often each finding is wrong, as measured by benchmarks/evidence.py, and
`headline` has the rule of the headline. TensorFlow is not needed.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.run import Run
from tfdetect.forensics.copies import find_copies
from tfdetect.forensics.evidence_lines import (
    ABSENCE,
    NONE_FOUND,
    EvidenceLine,
    camera_line,
    copies_line,
    declaration_lines,
    detector_line,
    editing_line,
    enumerated,
    jpeg_lines,
    localizer_line,
)
from tfdetect.forensics.file_metadata import read_metadata
from tfdetect.forensics.headline import RULE, Basis, Tone, headline_of
from tfdetect.forensics.jpeg_history import JpegHistory, jpeg_history
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.pillow import read_rgb

if TYPE_CHECKING:
    from tfdetect.forensics.copy_search import Copies


@dataclass(frozen=True)
class Evidence:
    """What is known of an image.

    Attributes:
        headline: the result in a few words.
        basis: which part of the rule it follows from.
        reasons: sentences that say so.
        tone: how it is shown: "good" for authentic, "bad" for generated or altered, else "caution".
        lines: the pieces of evidence.
        copies: copied regions; none where nothing was looked for.
        history: traces of JPEG compression; none where nothing was looked for.
    """

    headline: str
    basis: Basis
    reasons: tuple[str, ...]
    tone: Tone
    lines: tuple[EvidenceLine, ...]
    copies: "Copies | None" = field(default=None, repr=False)  # with maps of the image's size
    history: JpegHistory | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the maps, for JSON."""
        return {
            "headline": self.headline, "basis": self.basis, "reasons": list(self.reasons),
            "rule": RULE, "lines": [asdict(line) for line in self.lines],
        }  # fmt: skip


def evidence(
    file: str | Path | bytes,
    verdicts: Sequence[tuple[Run, Mapping[str, Any]]] = (),
    pixels: np.ndarray | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Evidence:
    """Return what is known of an image.

    Args:
        file: a path, or the bytes of a file.
        verdicts: detectors with their rows of a prediction; the first gives the verdict.
        pixels: the decoded image, uint8 [H, W, 3]; None to decode it here.
        max_pixels: images with more pixels are refused.

    Raises:
        ImageError: the file cannot be read.
    """
    data = file if isinstance(file, bytes) else read_bytes(file, max_pixels)
    facts = read_metadata(data, max_pixels)
    if pixels is None:
        pixels = np.asarray(read_rgb(data, max_pixels))
    history = _history(data, max_pixels)
    copies = _copies(pixels, None if history is None else history.quality)
    lines = [
        *declaration_lines(facts),
        editing_line(facts),
        camera_line(facts),
        *jpeg_lines(history, pixels),
        copies_line(copies),
    ]
    readable = [(run, row) for run, row in verdicts if row.get("error") is None]
    for run, row in readable:
        if not run.predicts_masks or (run, row) == readable[0]:
            lines.append(detector_line(run, row))
        if run.predicts_masks:
            lines.append(localizer_line(run, row))
    headline = headline_of(facts, lines, readable[0] if readable else None)
    return Evidence(*headline, tuple(lines), copies, history)


def _history(data: bytes, max_pixels: int) -> JpegHistory | None:
    try:
        return jpeg_history(data, max_pixels)
    except ImageError:
        raise
    except Exception:  # Pillow raises many kinds; the other lines remain
        return None


def _copies(pixels: np.ndarray, quality: float | None) -> "Copies | None":
    try:
        return find_copies(pixels, quality)
    except ImportError:  # OpenCV
        return None


def told_once(found: Evidence) -> list[EvidenceLine]:
    """Return the lines for a reader who has read the headline: without what its reasons say."""
    return [
        replace(line, finding=_without(found.reasons, line, line.finding) or "As said above.",
                reliability=_without(found.reasons, line, line.reliability))
        for line in found.lines
    ]  # fmt: skip


def _without(reasons: Sequence[str], line: EvidenceLine, text: str) -> str:
    for reason in reasons:
        parts = text.split(reason.removeprefix(f"{line.title}: "))
        text = " ".join(part for each in parts if (part := each.strip()))
    return text


def printed(name: str, found: Evidence) -> str:
    """Return the evidence on an image as text for a terminal.

    Args:
        name: the name of the image, printable.
        found: the evidence.
    """
    rows = [name, f"  {found.headline}", wrapped(" ".join(found.reasons), 2)]
    for line in told_once(found):
        if line.finding != NONE_FOUND:
            rows += ["", f"  {line.title}", wrapped(line.finding, 4)]
            rows += [wrapped(line.reliability, 4)] if line.reliability else []
    if absent := [line.title for line in found.lines if line.finding == NONE_FOUND]:
        titles = enumerated([absent[0], *(f"{t[0].lower()}{t[1:]}" for t in absent[1:])])
        rows += ["", "  Nothing found", wrapped(f"{titles}. {ABSENCE}", 4)]
    return "\n".join(rows)


def wrapped(text: str, indent: int = 0) -> str:
    """Return a text in lines for a terminal."""
    return textwrap.fill(text, 88, initial_indent=" " * indent, subsequent_indent=" " * indent)
