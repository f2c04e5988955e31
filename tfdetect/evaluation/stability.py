"""Whether the verdict on an image survives re-encoding: which copies are tried, and the result."""

from collections.abc import Mapping

from tfdetect.core.run import Run
from tfdetect.evaluation.verdict_words import Outcome, outcome

# Copies that show the same picture to a person, as `imaging.degradations` and, for the server
# without TensorFlow, `light.reencodings` make them.
REENCODINGS = (
    "jpeg:95", "jpeg:75", "jpeg:50", "webp:75", "scale:0.9", "scale:0.75", "scale:0.5",
    "screenshot:1.25", "blur:1", "noise:3", "crop:0.9", "darker:0.8", "brighter:1.2", "social:1",
    "social:2",
)  # fmt: skip
# For large images that a localizer reads in many tiles, since each re-encoding takes seconds.
FEW_REENCODINGS = ("jpeg:75", "webp:75", "scale:0.5", "screenshot:1.25", "social:1")
MANY_PIXELS = 3_000_000  # of an image for which a localizer gets `FEW_REENCODINGS`
_WORDS = {
    "jpeg": "saved as JPEG (quality {:g})", "webp": "saved as WebP (quality {:g})",
    "scale": "shrunk to {:.0%}", "screenshot": "enlarged to {:.0%}", "blur": "blurred ({:g} px)",
    "noise": "given noise ({:g} of 255)", "crop": "cropped to {:.0%}",
    "darker": "darkened to {:.0%}", "brighter": "brightened to {:.0%}",
}  # fmt: skip


def reencodings_of(masks: bool, size: tuple[int, int]) -> tuple[str, ...]:
    """Return the names of the re-encodings to try on an image.

    Args:
        masks: whether the detector predicts masks, and therefore reads the whole image.
        size: height and width in pixels.
    """
    few = masks and size[0] * size[1] > MANY_PIXELS
    return FEW_REENCODINGS if few else REENCODINGS


def reencoding(name: str) -> str:
    """Return a re-encoding such as "jpeg:75" in words."""
    kind, _, strength = name.partition(":")
    if kind == "social":  # what a social network does to an uploaded image
        times = "once" if float(strength) == 1 else f"{float(strength):g} times"
        return f"shared online {times}"
    return _WORDS[kind].format(float(strength))


def changed_by(run: Run, p_fake: float, reencoded: Mapping[str, float]) -> dict[str, Outcome]:
    """Return the names of the re-encodings that change what a run says, and to what.

    Args:
        run: the run that scored the image and its copies.
        p_fake: P(fake) of the image.
        reencoded: P(fake) of its copies by the name of the re-encoding.
    """
    before = outcome(run, p_fake)
    after = {name: outcome(run, p) for name, p in reencoded.items()}
    return {name: found for name, found in after.items() if found != before}


def stability_sentences(
    run: Run, p_fake: float, reencoded: Mapping[str, float], size: tuple[int, int]
) -> str:
    """Return how many re-encodings keep the verdict, which change it, and which were not tried.

    Args:
        run, p_fake, reencoded: see `changed_by`; copies that could not be made are left out.
        size: height and width of the image in pixels.
    """
    tried = reencodings_of(run.predicts_masks, size)
    sentences = [_result(run, p_fake, reencoded)]
    if missing := [reencoding(name) for name in tried if name not in reencoded]:
        copies = "One copy" if len(missing) == 1 else f"{len(missing)} copies"
        sentences.append(f"{copies} could not be made: {', '.join(missing)}.")
    if len(tried) < len(REENCODINGS):
        sentences.append(
            f"Only {len(tried)} of the usual {len(REENCODINGS)} copies are tried, because the "
            f"image has more than {MANY_PIXELS / 1e6:g} megapixels and the detector reads all of "
            "them."
        )
    return " ".join(sentences)


def _result(run: Run, p_fake: float, reencoded: Mapping[str, float]) -> str:
    """Return for how many copies the verdict stays the same, and which change it."""
    if not reencoded:
        return "No copy could be analyzed."
    changed, count = changed_by(run, p_fake, reencoded), len(reencoded)
    sentences = [f"The verdict stays the same for {count - len(changed)} of {count} copies."]
    for found in ("fake", "authentic", "inconclusive"):
        names = [reencoding(name) for name, other in changed.items() if other == found]
        if names:
            *others, last = names
            ways = f"{', '.join(others)} or {last}" if others else last
            sentences.append(f"It is {found} when the image is {ways}.")
    low, high = min(reencoded.values()), max(reencoded.values())
    return f"{' '.join(sentences)} The copies' scores lie between {low:.2f} and {high:.2f}."
