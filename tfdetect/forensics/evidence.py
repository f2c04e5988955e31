"""Joins what is known of an image: one line for each piece of evidence, and a headline.

Each line says what was found and how often such a finding is wrong, as measured by
benchmarks/evidence.py. The headline follows one rule; see `RULE`. TensorFlow is not needed.
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.packages import with_extra
from tfdetect.core.run import Run
from tfdetect.core.text import capitalized
from tfdetect.evaluation.verdict_words import percent, verdict_words
from tfdetect.forensics.copies import find_copies
from tfdetect.forensics.file_metadata import C2PA, Fact, read_metadata
from tfdetect.forensics.jpeg_history import MIN_SIDE, JpegHistory, jpeg_history
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.pillow import read_rgb

if TYPE_CHECKING:
    from tfdetect.forensics.copy_search import Copies

Says = Literal["generated", "altered", "edited", "camera", "authentic", "nothing"]
Basis = Literal["declared", "detector", "inconclusive"]
Tone = Literal["good", "caution", "bad"]
Headline = tuple[str, Basis, tuple[str, ...], Tone]  # with its reasons

RULE = (
    "A declaration of where the image comes from counts first, signed content credentials before "
    "unsigned notes; then the verdict of a calibrated detector on an image of the kind that it was "
    "made for, unless traces of editing contradict a verdict of authentic. Without either the "
    "result is inconclusive."
)
TITLES = {
    "content_credentials": "Content credentials", "generator_note": "Notes of generators",
    "editing_software": "Editing software", "camera_data": "Camera data",
    "jpeg_history": "JPEG history", "jpeg_regions": "Regions with another JPEG history",
    "copies": "Copied regions", "detector": "Detector", "localizer": "Localizer",
}  # fmt: skip
_TRACES = ("copies", "jpeg_regions")
_SETS = {
    "authentic": "authentic photographs", "generated": "generated images",
    "altered": "images altered in this way",
    "trained": "forgeries like those that it was trained on",
    "edited": "images of which a generator filled a region",
}  # fmt: skip


@dataclass(frozen=True)
class EvidenceLine:
    """One piece of evidence.

    Attributes:
        name: a key of `TITLES`.
        title: in words.
        finding: what was found, in sentences.
        reliability: how often such a finding is wrong, in sentences.
        says: what it speaks for.
        key: the key of this finding in error_rates.json; "" where nothing is measured.
        measured: numbers of images with such a finding and of all images, by what the images are;
            empty where nothing was measured.
    """

    name: str
    title: str
    finding: str
    reliability: str
    says: Says
    key: str = ""
    measured: dict[str, tuple[int, int]] = field(default_factory=dict)


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
        *_declarations(facts), _editing(facts), _camera(facts), *_jpeg(history, pixels),
        _copied(copies),
    ]  # fmt: skip
    readable = [(run, row) for run, row in verdicts if row.get("error") is None]
    for run, row in readable:
        if not run.predicts_masks or (run, row) == readable[0]:
            lines.append(_detector(run, row))
        if run.predicts_masks:
            lines.append(_localizer(run, row))
    headline = _headline(facts, lines, readable[0] if readable else None)
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


# ---- the lines


def _line(name: str, finding: str, says: Says, rate: str = "", more: str = "") -> EvidenceLine:
    """Return a line; `rate` is the key of its measured error rates."""
    measured = error_rates()["findings"].get(rate, {})
    counts = {key: (int(k), int(n)) for key, (k, n) in measured.items()}
    sentence = _rates(counts, says != "nothing")
    reliability = " ".join(part for part in (sentence, more) if part)
    return EvidenceLine(name, TITLES[name], finding, reliability, says, rate, counts)


@cache
def error_rates() -> dict[str, Any]:
    """Return how often each finding was made on images whose origin is known.

    It is the content of error_rates.json, which benchmarks/evidence.py writes.
    """
    file = Path(__file__).parent / "error_rates.json"
    return json.loads(file.read_text(encoding="utf-8"))


def _rates(counts: Mapping[str, tuple[int, int]], bounded: bool) -> str:
    """Return how often a finding was made on known images, as a sentence.

    Args:
        counts: see `EvidenceLine.measured`.
        bounded: whether to say how high the fraction of authentic photographs may be.
    """
    parts = []
    for key, (found, total) in counts.items():
        part = f"{found:,} of {total:,} {_SETS.get(key, key)} ({percent(found / total)}"
        if key == "authentic" and bounded:
            part += f"; at most {percent(_upper(found, total))}"
        parts.append(f"{part})")
    return f"Of images measured here, the same holds for {_enumerated(parts)}." if parts else ""


def _upper(found: int, total: int) -> float:
    """Return the upper end of Wilson's 95% interval of a fraction; without SciPy."""
    z, p = NormalDist().inv_cdf(0.975), found / total
    reach = z * (p * (1 - p) / total + (z / (2 * total)) ** 2) ** 0.5
    return min(1.0, (p + z**2 / (2 * total) + reach) / (1 + z**2 / total))


def _enumerated(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


_NOTE = 80  # characters of a note that a sentence shows
_UNSIGNED = "Anybody can write such a note or remove it; a program that writes it can lie."
_NONE = "None found."
_ABSENT = "That nothing is found proves nothing: most websites remove all metadata."


def _declarations(facts: Sequence[Fact]) -> list[EvidenceLine]:
    """Return the lines on content credentials and on unsigned notes of generators."""
    signed = [fact for fact in facts if C2PA in fact.name]
    lines = []
    if not signed:
        lines.append(_line("content_credentials", _NONE, "nothing", "", _ABSENT))
    else:
        state = signed[0].signature
        kinds = {fact.kind for fact in signed} if state in ("Trusted", "Valid") else set()
        declared = [f"{fact.value} ({fact.meaning.removeprefix('the file declares: ')})"
                    for fact in signed[1:]]  # fmt: skip
        says = f" They declare: {', '.join(declared)}." if declared else ""
        first = [part for part in (signed[0].value, signed[0].meaning) if part]
        finding = f"{': '.join(first)}.{says}"
        trust = {
            "Trusted": "The signature proves who signed it, not that the signer tells the truth.",
            "Valid": "Anybody can sign with a certificate of their own: the signature proves only "
            "that nothing was changed afterwards.",
            "Invalid": "They say nothing reliable about this image.",
            "Unread": "They may say whether the image was generated.",
        }.get(state, "They were not checked.")
        lines.append(_line("content_credentials", finding, _first(kinds), "", trust))
    notes = [fact for fact in facts if fact.kind == "generated" and C2PA not in fact.name]
    if notes:
        finding = " ".join(_told(fact) for fact in notes[:3])
        lines.append(_line("generator_note", finding, "generated", "generator_note", _UNSIGNED))
    else:
        lines.append(_line("generator_note", _NONE, "nothing", "no_generator_note"))
    return lines


def _told(fact: Fact) -> str:
    """Return what a note says, in a sentence; of long ones their beginning, of data nothing."""
    if fact.value[:1] in ("{", "["):
        return f"{capitalized(fact.name)}: {fact.meaning}."
    value = fact.value if len(fact.value) <= _NOTE else f"{fact.value[:_NOTE]}..."
    return f"{capitalized(fact.name)}: {fact.meaning} ({value})."


def _first(kinds: set[str]) -> Says:
    order: tuple[Says, ...] = ("generated", "edited", "camera")
    return next((kind for kind in order if kind in kinds), "nothing")


def _editing(facts: Sequence[Fact]) -> EvidenceLine:
    edits = [fact for fact in facts if fact.kind == "edited" and C2PA not in fact.name]
    if not edits:
        return _line("editing_software", _NONE, "nothing", "no_editing_software")
    finding = f'{edits[0].name}: "{edits[0].value}".'
    more = ("Most photographs in newspapers pass through such a program. It says nothing about "
            "what was changed.")  # fmt: skip
    return _line("editing_software", finding, "edited", "editing_software", more)


def camera_pipeline(facts: Sequence[Fact]) -> Literal["complete", "partial", "none"]:
    """Return whether a file holds what a camera writes: its name, an exposure, a maker note."""
    names = {fact.name for fact in facts}
    camera = any(fact.kind == "camera" and C2PA not in fact.name for fact in facts)
    if camera and {"exposure (EXIF)", "maker note (EXIF)"} <= names:
        return "complete"
    return "partial" if camera or "exposure (EXIF)" in names else "none"


def _camera(facts: Sequence[Fact]) -> EvidenceLine:
    pipeline = camera_pipeline(facts)
    values = {fact.name: fact.value for fact in reversed(facts)}  # the first of a name counts
    told, place, names = values.get("camera (EXIF)", ""), values.get("location (EXIF)"), set(values)
    parts = {"the exposure": "exposure (EXIF)", "the camera maker's own note": "maker note (EXIF)"}
    missing = [words for words, name in parts.items() if name not in names]
    if all(fact.kind != "camera" for fact in facts):
        missing.insert(0, "the camera's name")
    finding = {
        "complete": f"Camera, exposure and the camera maker's own note are there: {told}.",
        "partial": f"Some: {told}. Missing: {', '.join(missing)}.",
        "none": _NONE,
    }[pipeline]
    if place is not None:
        finding += f" Location: {place}."
    more = "" if pipeline == "none" else "It is easily copied from a photograph into another image."
    says: Says = "nothing" if pipeline == "none" else "camera"
    return _line("camera_data", finding, says, f"camera_{pipeline}", more)


def _jpeg(history: JpegHistory | None, pixels: np.ndarray) -> list[EvidenceLine]:
    """Return the lines on the JPEG history of the image and of regions."""
    if history is None:
        return [_line("jpeg_history", "It could not be looked for.", "nothing")]
    if min(pixels.shape[:2]) < MIN_SIDE:
        return [_line("jpeg_history", f"Not looked for: a side is below {MIN_SIDE} pixels.",
                      "nothing")]  # fmt: skip
    return [_jpeg_history(history), _jpeg_regions(history)]


def _jpeg_history(history: JpegHistory) -> EvidenceLine:
    if history.quality is not None:
        tables = ", with tables of a camera or of another program than libjpeg"
        tables = "" if history.standard else tables
        text = f"The file is a JPEG of quality {history.quality:.0f}{tables}."
        if history.earlier_quality is not None:
            rate = "jpeg_twice"
            text += (
                " It was compressed at least twice, before with a quality of about "
                f"{history.earlier_quality:.0f}."
            )
        elif history.evidence is None:
            rate = ""
            text += (" In a JPEG of this kind, such as one in CMYK, no earlier compression on the "
                     "same grid is looked for.")  # fmt: skip
        else:
            rate = "jpeg_once"
            text += " There is no trace of an earlier compression on the same grid."
    elif history.grid is not None:
        rate = "jpeg_before"
        text = "The file is no JPEG, but its pixels were compressed as JPEG before."
    else:
        rate = "jpeg_none"
        text = "The file is no JPEG, and there is no trace of a JPEG compression."
    if history.grid not in (None, (0, 0)):
        text += (" The image was cropped after that." if history.quality is None else
                 " The pixels have another grid: the image was cropped after an earlier "
                 "compression.")  # fmt: skip
    more = {
        "jpeg_twice": "Saving, uploading and sharing do this; it is no sign of a forgery.",
        "jpeg_none": "Generators, screenshots and shrunk photographs have none.",
    }.get(rate, "It says nothing about the origin.")
    return _line("jpeg_history", text, "nothing", rate, more)


def _jpeg_regions(history: JpegHistory) -> EvidenceLine:
    fraction = float(history.differs.mean())
    if not fraction:
        more = "A region that was pasted before the last strong compression leaves no such trace."
        return _line("jpeg_regions", _NONE, "nothing", "no_jpeg_regions", more)
    what = ("its blocks lie on another grid" if history.other_grid.any() else
            "it was compressed fewer times than the rest")  # fmt: skip
    finding = f"{percent(fraction)} of the image have another history than the rest: {what}."
    more = "Text, flat areas and collages can look like this."
    return _line("jpeg_regions", finding, "altered", "jpeg_regions", more)


def _copied(copies: "Copies | None") -> EvidenceLine:
    if copies is None:
        missing = "Not looked for: OpenCV is not installed (pip install opencv-python-headless)."
        return _line("copies", missing, "nothing")
    if not copies.found:
        more = "Copies of smooth areas such as sky, and small ones, are missed."
        return _line("copies", _NONE, "nothing", "no_copies", more)
    largest = copies.found[0]
    how = []
    if largest.mirrored:
        how.append("mirrored")
    if abs(largest.rotation) >= 1:
        how.append(f"turned by {abs(largest.rotation):.0f} degrees")
    if abs(largest.scale - 1) >= 0.02:
        how.append(f"scaled to {largest.scale:.0%}")
    changed = f" ({', '.join(how)})" if how else ""
    number, part = len(copies.found), percent(float(copies.copied.mean()))
    finding = f"A region looks like a copy of another one{changed}: {part} of the image."
    if number > 1:
        largest_one = f"; the largest one{changed}" if changed else ""
        finding = (
            f"{number} regions look like copies of others, together {part} of the image"
            f"{largest_one}."
        )
    more = "Printed patterns, screens, logos and repeated architecture can look like this."
    return _line("copies", finding, "altered", "copies", more)


def _detector(run: Run, row: Mapping[str, Any]) -> EvidenceLine:
    words = verdict_words(run, row, unlike=row.get("in_domain") is False)
    authentic = row["verdict"] == run.class_names[0]
    conclusive = not row["inconclusive"] and row.get("in_domain") is not False
    says: Says = "nothing" if not conclusive else "authentic" if authentic else "generated"
    if says == "generated" and run.predicts_masks:
        says = "altered"
    finding = f"{run.name}: {words.headline}. {' '.join(words.lines)}"
    return EvidenceLine("detector", TITLES["detector"], finding, _measured(run), says)


def _measured(run: Run) -> str:
    """Return how often a detector is wrong, from its own test or validation images."""
    other = "On images of other generators and cameras it may be wrong much more often."
    for split in ("test", "validation"):
        metrics = run.metrics.get(split, {})
        if "fpr" in metrics and "recall" in metrics:
            fpr, recall = metrics["fpr"], metrics["recall"]
            where = f"its {split} images"
            if split == "validation":
                where += " (chosen on them, so that the figures are optimistic)"
            return (f"Of {where} it called {percent(float(fpr))} of the authentic ones fake, and "
                    f"found {percent(float(recall))} of the fakes. {other}")  # fmt: skip
    return f"How often it is wrong was not measured. {other}"


def _localizer(run: Run, row: Mapping[str, Any]) -> EvidenceLine:
    fraction = float(row.get("altered_fraction") or 0.0)
    rate = f"localizer.{run.name}"
    unlike = " It was not made for such images." if row.get("in_domain") is False else ""
    if not fraction:
        finding = f"{run.name} marks no pixel as altered.{unlike}"
        more = "Alterations unlike those that it was trained on leave its mask empty."
        return _line("localizer", finding, "nothing", f"{rate}.none", more)
    conclusive = not row["inconclusive"] and row.get("in_domain") is not False
    altered = conclusive and row["verdict"] != run.class_names[0]
    finding = f"{run.name} marks {percent(fraction)} of the pixels as altered.{unlike}"
    return _line("localizer", finding, "altered" if altered else "nothing", rate)


# ---- the headline


def _headline(
    facts: Sequence[Fact], lines: Sequence[EvidenceLine], verdict: tuple[Run, Mapping] | None
) -> Headline:
    """Return headline, basis, reasons and tone by `RULE`."""
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
        return inconclusive, "inconclusive", reasons, "caution"
    run, row = verdict
    words = verdict_words(run, row, unlike=row.get("in_domain") is False)
    if detector.says == "nothing":
        return inconclusive, "inconclusive", (*found, nothing, *words.lines), "caution"
    if run.info.calibration is None:
        reasons = (*found, nothing, f"{words.headline}, says {run.name}. It is not calibrated.")
        return inconclusive, "inconclusive", reasons, "caution"
    if detector.says == "authentic" and traces:
        reasons = (
            f"{words.headline}, says {run.name}. There are traces of editing, though.",
            *found,
        )
        return inconclusive, "inconclusive", reasons, "caution"
    return words.headline, "detector", (nothing, *words.lines, *found), words.tone


def _declared(
    facts: Sequence[Fact], lines: Sequence[EvidenceLine], traces: Sequence[EvidenceLine]
) -> Headline | None:
    """Return the headline that follows from what the file declares; None if none does."""
    credentials, notes = lines[0], lines[1]
    if credentials.says == "generated":
        partly = any("composite" in fact.value for fact in facts if C2PA in fact.name)
        title = f"Declared as {'partly ' if partly else ''}generated, with a signature"
        return title, "declared", (credentials.finding, credentials.reliability), "bad"
    if notes.says == "generated":
        reasons = (notes.finding, "This note is not signed: anybody can write or remove it.")
        return "Declared as generated, without a signature", "declared", reasons, "bad"
    trusted = any(fact.signature == "Trusted" for fact in facts)
    if credentials.says == "camera" and trusted and not traces:
        reasons = (credentials.finding, credentials.reliability)
        return "Declared as a camera's picture, with a signature", "declared", reasons, "good"
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


def printed(name: str, found: Evidence) -> str:
    """Return the evidence on an image as text for a terminal.

    Args:
        name: the name of the image, printable.
        found: the evidence.
    """
    rows = [name, f"  {found.headline}", wrapped(" ".join(found.reasons), 2)]
    for line in found.lines:
        if line.finding != _NONE:
            rows += ["", f"  {line.title}", wrapped(line.finding, 4)]
            rows += [wrapped(line.reliability, 4)] if line.reliability else []
    if absent := [line.title for line in found.lines if line.finding == _NONE]:
        titles = _enumerated([absent[0], *(f"{t[0].lower()}{t[1:]}" for t in absent[1:])])
        rows += ["", "  Nothing found", wrapped(f"{titles}. {_ABSENT}", 4)]
    return "\n".join(rows)


def wrapped(text: str, indent: int = 0) -> str:
    """Return a text in lines for a terminal."""
    return textwrap.fill(text, 88, initial_indent=" " * indent, subsequent_indent=" " * indent)
