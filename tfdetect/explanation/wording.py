"""The sentences of an image's page, for readers who know nothing about machine learning."""

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.probability import add_to_logit, logit
from tfdetect.core.run import Run
from tfdetect.core.run_info import OperatingPoint, View
from tfdetect.evaluation.intervals import wilson
from tfdetect.evaluation.mask_metrics import THRESHOLD
from tfdetect.evaluation.remarks import frames_sentence, mask_contradiction
from tfdetect.evaluation.verdict_words import percent, what_is_read
from tfdetect.explanation.examination import Examination
from tfdetect.explanation.maps import ATTENTION

PRIORS = {
    0.5: "one in two", 0.1: "one in ten", 0.01: "one in a hundred", 0.001: "one in a thousand",
}  # fmt: skip
THRESHOLDS = {
    "fpr_1": "at most 1% of authentic images are called fake",
    "fpr_5": "at most 5% of authentic images are called fake",
    "source_fpr_5": "at most 5% of authentic images of a source not seen before are called fake",
    "eer": "as many fakes are missed as authentic images are called fake",
    "balanced": "both kinds of mistakes together are fewest",
    "cost": "the mistakes cost least",
}
NEXT_STEPS = (
    "Look for the earliest copy of the image, by a reverse image search and by asking whoever sent "
    "it, and examine that one. Compare what it shows with the place, the time and the weather that "
    "are claimed, and with what witnesses and other pictures say. Ask for the original file. If "
    "these contradict the verdict, trust them and not the detector."
)
_MAP_MEANINGS = {
    "Grad-CAM": "coarse: where the patterns that the network finds raise the score (red) or lower "
    "it (blue)",
    "integrated gradients": "fine: which pixels raise the score (red) or lower it (blue), compared "
    "with an image of one even color",
    "occlusion": "what a small square does to the score, found by painting it over with its mean "
    "color: raise it (red) or lower it (blue)",
    ATTENTION: "where the network looks, more than on average (red) or less (blue); not whether "
    "that raises or lowers the score",
}
FRAGILE = 1 / 3  # a verdict that more than this fraction of re-encodings change is fragile


def class_sentence(run: Run, found: Examination) -> str:
    """Return a sentence with the probability of each class; "" if there are only two."""
    if len(run.class_names) <= 2:
        return ""
    parts = (f"{c} {percent(found.row[f'probability_{c}'])}" for c in run.class_names)
    return f"By class: {', '.join(parts)}."


def is_fragile(run: Run, found: Examination) -> bool:
    """Return whether many re-encodings change the verdict."""
    return len(found.changed_by(run)) > FRAGILE * len(found.reencoded)


def warnings(run: Run, found: Examination, max_sanity: float) -> list[str]:
    """Return sentences that the reader must know before reading on.

    Args:
        run: the run.
        found: what is known about the image.
        max_sanity: correlation with the map of the shuffled network from which on a map is not
            trusted.
    """
    result = [*frames_sentence(found.row), *found.differences]
    if is_fragile(run, found):
        result.append(
            f"The verdict is fragile: {len(found.changed_by(run))} of {len(found.reencoded)} "
            "harmless changes of the image change it."
        )
    if found.unseen:
        result.append(found.unseen)
    doubtful = [name for name, value in found.sanity.items() if value >= max_sanity]
    if doubtful:
        result.append(
            f"Do not rely on the map {' and '.join(doubtful)}: it hardly differs from that of a "
            "network that has learned nothing, so it shows what is in the image, not what the "
            "detector learned."
        )
    return result


def view_sentence(run: Run, found: Examination) -> str:
    """Return which part of the image the detector sees, and how to read the maps."""
    height, width = found.image.shape[:2]
    view = run.views[found.view]
    tall, wide = view.size
    if cuts_windows(view.policy):
        if height <= tall and width <= wide:
            where = "the whole image"
        elif found.altered is None:
            where = "the middle window"
        elif (found.altered >= THRESHOLD).any():
            where = "the window with the largest marked region"
        else:
            where = "the window that looks most altered, though nothing in it is marked"
        several = f", one of {view.crops} whose scores are averaged" if view.crops > 1 else ""
        what = f"{where}{several}, at the image's own resolution"
    else:
        what = _scaled(view, (height, width))
    if view.equalize is not None and cuts_windows(view.policy):
        what += (
            f", after a crop to at most {view.equalize.side} pixels and one JPEG encoding, as for "
            "every image"
        )
    seen = f"The detector sees {wide:,} x {tall:,} pixels: {what}"
    if view.equalize is not None and min(height, width) >= view.equalize.side:
        seen = what_is_read(run) or seen  # as `predict` says it
    return (
        f"{seen} (the image has {width:,} x {height:,}). Red regions raised the score for fake, "
        "blue regions lowered it. Each map has a scale of its own, so the colors of two maps "
        "cannot be compared. The maps do not mark what was forged."
    )


def _scaled(view: View, size: tuple[int, int]) -> str:
    """Return what a view that scales images shows of one, in words.

    Args:
        view: it cuts no windows.
        size: height and width of the image in pixels.
    """
    part = "the whole image"
    if view.equalize is not None:  # it is cropped first
        side = view.equalize.side
        if max(size) > side:
            size = (min(size[0], side), min(size[1], side))
            part = f"the middle {size[1]:,} x {size[0]:,} pixels"
    factors = [wanted / given for wanted, given in zip(view.size, size)]
    odd = factors[0] != factors[1]  # it has other proportions than the view
    if view.policy == "stretch":
        low, high = min(factors), max(factors)
    else:
        low = high = min(factors) if view.policy == "pad" else max(factors)
        part = "the middle of the image" if view.policy == "crop" and odd else part
    change = ", resized"
    if low >= 1 or high <= 1:
        change = ", enlarged" if high > 1 else ", reduced" if low < 1 else ""
    border = ", with a black border" if view.policy == "pad" and odd else ""
    encoded = ", after one JPEG encoding, as for every image" if view.equalize is not None else ""
    return f"{part}{change}{border}{encoded}"


def map_meaning(name: str) -> str:
    """Return what a map shows.

    Args:
        name: its name from `Explainer.maps`; after a comma, the member of an ensemble.
    """
    return _MAP_MEANINGS[name.partition(",")[0]]


def false_alarms(point: OperatingPoint) -> str:
    """Return the false positive rate of a threshold, with the upper end of its 95% interval."""
    rate = percent(point.fpr)
    if not point.authentic:  # an older run
        return rate
    return f"{rate} (up to {percent(wilson(point.fpr, point.authentic)[1])})"


def mask_sentence(run: Run, found: Examination) -> str:
    """Return a sentence on what the marked pixels mean."""
    fraction = found.row.get("altered_fraction") or 0.0
    if fraction == 0:
        if mask_contradiction(run, found.row):
            return (
                "The detector marks no pixel as altered, although its verdict on the image is "
                f"{found.row['verdict']}: it does not say where."
            )
        copies = found.evidence.copies
        also = " Copied regions are shown below." if copies is not None and copies.found else ""
        return f"The detector marks no pixel as altered.{also}"
    if found.row["verdict"] == run.class_names[0] or found.row["inconclusive"]:
        return (
            f"{percent(fraction)} of the pixels are marked. Authentic images can have "
            "such marks as well, so by themselves they do not mean that the image was altered."
        )
    return f"{percent(fraction)} of the pixels are marked as altered."


def probability_at(run: Run, p: float, prior: float) -> float:
    """Return P(fake) if a fraction `prior` of the images is fake.

    Args:
        run: the run.
        p: P(fake) at the prior for which the run is calibrated, 0 to 1.
        prior: 0 to 1.
    """
    return add_to_logit(p, logit(prior) - logit(run.info.prior or 0.5))
