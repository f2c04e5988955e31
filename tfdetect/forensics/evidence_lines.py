"""The pieces of evidence on an image: one line for each, with its measured error rate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tfdetect.core.run import Run
from tfdetect.core.text import capitalized
from tfdetect.evaluation.verdict_words import percent, verdict_words
from tfdetect.forensics.file_metadata import C2PA, Fact
from tfdetect.forensics.jpeg_history import MIN_SIDE, JpegHistory

if TYPE_CHECKING:
    from tfdetect.forensics.copy_search import Copies

Says = Literal["generated", "altered", "edited", "camera", "authentic", "nothing"]
TITLES = {
    "content_credentials": "Content credentials", "generator_note": "Notes of generators",
    "editing_software": "Editing software", "camera_data": "Camera data",
    "jpeg_history": "JPEG history", "jpeg_regions": "Regions with another JPEG history",
    "copies": "Copied regions", "detector": "Detector", "localizer": "Localizer",
}  # fmt: skip
_SETS = {
    "authentic": "authentic photographs", "generated": "generated images",
    "altered": "images altered in this way",
    "trained": "forgeries like those that it was trained on",
    "edited": "images of which a generator filled a region",
}  # fmt: skip
_NOTE = 80  # characters of a note that a sentence shows
UNSIGNED = (
    "It is not signed: anybody can write such a note or remove it, and a program that writes it "
    "can lie."
)
NONE_FOUND = "None found."
ABSENCE = "That nothing is found proves nothing: most websites remove all metadata."


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
    return f"Of images measured here, the same holds for {enumerated(parts)}." if parts else ""


def _upper(found: int, total: int) -> float:
    """Return the upper end of Wilson's 95% interval of a fraction; without SciPy."""
    z, p = NormalDist().inv_cdf(0.975), found / total
    reach = z * (p * (1 - p) / total + (z / (2 * total)) ** 2) ** 0.5
    return min(1.0, (p + z**2 / (2 * total) + reach) / (1 + z**2 / total))


def declaration_lines(facts: Sequence[Fact]) -> list[EvidenceLine]:
    """Return the lines on content credentials and on unsigned notes of generators."""
    signed = [fact for fact in facts if C2PA in fact.name]
    lines = []
    if not signed:
        lines.append(_line("content_credentials", NONE_FOUND, "nothing", "", ABSENCE))
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
        lines.append(_line("generator_note", finding, "generated", "generator_note", UNSIGNED))
    else:
        lines.append(_line("generator_note", NONE_FOUND, "nothing", "no_generator_note"))
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


def editing_line(facts: Sequence[Fact]) -> EvidenceLine:
    """Return the line on programs that edit images, by a file's metadata."""
    edits = [fact for fact in facts if fact.kind == "edited" and C2PA not in fact.name]
    if not edits:
        return _line("editing_software", NONE_FOUND, "nothing", "no_editing_software")
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


def camera_line(facts: Sequence[Fact]) -> EvidenceLine:
    """Return the line on what a camera writes into a file, by its metadata."""
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
        "none": NONE_FOUND,
    }[pipeline]
    if place is not None:
        finding += f" Location: {place}."
    more = "" if pipeline == "none" else "It is easily copied from a photograph into another image."
    says: Says = "nothing" if pipeline == "none" else "camera"
    return _line("camera_data", finding, says, f"camera_{pipeline}", more)


def jpeg_lines(history: JpegHistory | None, pixels: np.ndarray) -> list[EvidenceLine]:
    """Return the lines on the JPEG history of the image and of regions."""
    if history is None:
        return [_line("jpeg_history", "It could not be looked for.", "nothing")]
    if min(pixels.shape[:2]) < MIN_SIDE:
        return [_line("jpeg_history", f"Not looked for: a side is below {MIN_SIDE} pixels.",
                      "nothing")]  # fmt: skip
    return [_jpeg_history(history), _jpeg_regions(history)]


def _jpeg_history(history: JpegHistory) -> EvidenceLine:
    cropped = history.grid not in (None, (0, 0))
    if history.quality is not None:
        tables = ", with tables of a camera or of another program than libjpeg"
        tables = "" if history.standard else tables
        rate, text = "", f"The file is a JPEG of quality {history.quality:.0f}{tables}."
        if history.earlier_quality is not None:
            rate = "jpeg_twice"
            text += (
                " The image was compressed as JPEG at least once before, with a quality of about "
                f"{history.earlier_quality:.0f}."
            )
        elif cropped:
            rate = "jpeg_once"
            text += " The image was compressed as JPEG at least once before."
        elif history.evidence is None:
            text += (" Whether it was compressed before was not looked for, because it is no "
                     "ordinary JPEG: its colors may be CMYK, for example.")  # fmt: skip
        else:
            rate = "jpeg_once"
            text += " There is no trace of an earlier compression."
    elif history.grid is not None:
        rate = "jpeg_before"
        text = "The file is no JPEG, but the image was compressed as JPEG before."
    else:
        rate = "jpeg_none"
        text = "The file is no JPEG, and there is no trace of a JPEG compression."
    more = {
        "jpeg_twice": "Saving, uploading and sharing do this; it is no sign of a forgery.",
        "jpeg_none": "Generators, screenshots and shrunk photographs have none.",
    }.get(rate, "It says nothing about the origin.")
    if cropped:
        rate += "_cropped"  # a finding of its own, with a rate of its own
        text += (" After a compression it was cropped or turned: that compression's blocks of "
                 "8 x 8 pixels do not begin at the edge of the image.")  # fmt: skip
        more = "Editing programs and websites do this; it is no sign of a forgery."
    return _line("jpeg_history", text, "nothing", rate, more)


def _jpeg_regions(history: JpegHistory) -> EvidenceLine:
    fraction = float(history.differs.mean())
    if not fraction:
        more = "A region that was pasted before the last strong compression leaves no such trace."
        return _line("jpeg_regions", NONE_FOUND, "nothing", "no_jpeg_regions", more)
    what = ("its blocks lie on another grid" if history.other_grid.any() else
            "it was compressed fewer times than the rest")  # fmt: skip
    finding = f"{percent(fraction)} of the image have another history than the rest: {what}."
    more = "Text, flat areas and collages can look like this."
    return _line("jpeg_regions", finding, "altered", "jpeg_regions", more)


def copies_line(copies: "Copies | None") -> EvidenceLine:
    """Return the line on copied regions; None where nothing was looked for."""
    if copies is None:
        missing = "Not looked for: OpenCV is not installed (pip install opencv-python-headless)."
        return _line("copies", missing, "nothing")
    if not copies.searched:
        small = "Not looked for: the image is too small or too narrow."
        return _line("copies", small, "nothing")
    if not copies.found:
        more = "Copies of smooth areas such as sky, and small ones, are missed."
        return _line("copies", NONE_FOUND, "nothing", "no_copies", more)
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


def detector_line(run: Run, row: Mapping[str, Any]) -> EvidenceLine:
    """Return the line on the verdict of a detector.

    Args:
        run: the run that gave the verdict.
        row: its prediction.
    """
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
        metrics: Mapping[str, float] = run.metrics.get(split, {})
        if "fpr" in metrics and "recall" in metrics:
            fpr, recall = metrics["fpr"], metrics["recall"]
            where = f"its {split} images"
            if split == "validation":
                where += " (chosen on them, so that the figures are optimistic)"
            return (f"Of {where} it called {percent(float(fpr))} of the authentic ones fake, and "
                    f"found {percent(float(recall))} of the fakes. {other}")  # fmt: skip
    return f"How often it is wrong was not measured. {other}"


def localizer_line(run: Run, row: Mapping[str, Any]) -> EvidenceLine:
    """Return the line on the mask that a detector predicts; see `detector_line`."""
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


def enumerated(parts: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
