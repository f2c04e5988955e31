"""Describe a run in sentences, for reports and model cards."""

from collections.abc import Mapping
from types import MappingProxyType

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.run import Run
from tfdetect.core.run_info import Adaptation, TrainingImages, View
from tfdetect.core.run_results import Interval, SplitResult, SplitResults, ordered
from tfdetect.core.text import counted, listed, span
from tfdetect.evaluation.verdict_words import percent


def describe_detector(run: Run) -> str:
    """Return what the detector is, and what it was trained on."""
    data = run.info.dataset.name
    if run.is_ensemble:
        members = ", ".join(run.info.members)
        return f"Ensemble ({run.info.fusion}) of {members}, fused on {data}"
    model = run.experiment().model
    front_end = "" if model.front_end == "pixels" else f"front-end {model.front_end}, "
    masks = f", mask head {model.mask_head}" if model.mask_head else ""
    return f"{front_end}{model.backbone} with head {model.head}{masks}, trained on {data}"


def input_sentence(run: Run) -> str:
    """Return what is done with an image before the network reads it."""
    ways = list(dict.fromkeys(_preparation(view, run.predicts_masks) for view in run.views))
    if len(ways) > 1:
        ways = [f"The detector reads an image in {len(ways)} ways.", *ways]
    sides = run.info.dataset.training_images
    if len(run.views) == 1 and sides is not None and sides.shorter_side is not None:
        ways.append(_scaled(run.views[0], sides.shorter_side))
    return " ".join(filter(None, ways))


def _preparation(view: View, masks: bool) -> str:
    """Return how a view prepares an image, in sentences."""
    height, width = view.size
    size = f"{width} x {height} pixels" + ("" if width == height else " (width x height)")
    what, first = "An image", ""
    if view.equalize is not None:
        side = view.equalize.side
        first = (
            f"The middle of an image, at most {side} x {side} pixels, is cut out and encoded as "
            f"JPEG again (quality {view.equalize.middle_quality}). "
        )
        what = "The result"
    if cuts_windows(view.policy):
        small = "a smaller one is repeated" if view.policy == "window_tile" else (
            "a smaller one gets a black border")  # fmt: skip
        if masks:
            return f"{what} is read in overlapping tiles of {size} without resizing; {small}."
        part = "Its middle" if first else "The middle of an image"
        if view.crops == 1:
            return f"{first}{part}, {size}, is read without resizing; {small}."
        parts = f"{view.crops} parts of {'it' if first else 'an image'}"
        return (
            f"{first}{parts}, of {size} each, are read without resizing, and their probabilities "
            f"are averaged; {small}."
        )
    how = {
        "stretch": f"resized to {size}; its proportions may change",
        "crop": f"enlarged or reduced until it just covers {size}, and its middle is read",
        "pad": f"enlarged or reduced until it just fits into {size}, and the rest is black",
    }[view.policy]
    return f"{first}{what} is {how}."


def _scaled(view: View, sides: tuple[int, int, int]) -> str:
    """Return what this meant for the training images; "" where they kept their size, or most did.

    Args:
        view: how they were read.
        sides: their shorter sides: smallest, median and largest, in pixels.
    """
    if cuts_windows(view.policy) or view.equalize is not None:
        return ""
    low, _, high = sides
    if high < min(view.size):
        change = "enlarged"
    elif low > max(view.size):
        change = "reduced"
    else:
        return ""
    return f"The training images (shorter side {span(low, high)} pixels) were {change}."


def sides_of(images: TrainingImages | None) -> dict[str, str]:
    """Return the shorter and the longer sides of training images in words, where they are known.

    Args:
        images: the training images; none if nothing is known of them.

    Returns:
        For example {"shorter": "213 to 4,480 pixels, median 512"}.
    """
    known = {"shorter": images.shorter_side, "longer": images.longer_side} if images else {}
    found = {}
    for name, sides in known.items():
        if sides is not None:
            low, middle, high = sides
            median = "" if low == high else f", median {middle:,}"
            found[name] = f"{span(low, high)} pixels{median}"
    return found


def fake_means(run: Run) -> str:
    """Return the meaning of "fake" if the classes of a localizer have other names, else ""."""
    names = [name for name in run.class_names[1:] if name.lower() not in ("fake", "fakes")]
    if not (run.predicts_masks and names):
        return ""
    classes = f"the class{'' if len(names) == 1 else 'es'} {listed(names, most=len(names))}"
    return f"Fake is said of whole images, those of {classes}; altered is said of their pixels."


def calibration_sentence(run: Run) -> str:
    """Return what P(fake) means."""
    fitted, prior = run.info.calibration, run.info.prior
    if fitted is None or prior is None:
        return (
            "P(fake) is not calibrated: it orders images, but it is no probability. A calibration "
            "needs at least 20 validation images of each class, and must improve the log-loss."
        )
    return (
        f"P(fake) is calibrated ({fitted.method}) on {fitted.images:,} {_images(run)}, of which "
        f"{fitted.fake_fraction:.0%} are fake. It assumes that {prior:.0%} of the images that the "
        "detector is asked about are fake: where fakes are rarer, it is too high, unless --prior "
        "says which fraction to expect. On images unlike these it is not calibrated."
    )


def cross_fitting_sentence(run: Run) -> str:
    """Return whose validation scores an ensemble is measured and calibrated on; "" if unknown."""
    if run.info.cross_fitted is None:
        return ""
    if run.info.cross_fitted:
        return (
            "The fusion was fitted on the validation images, so their scores are cross-fitted: "
            "each image is scored by fusions that were fitted without its group. The validation "
            "figures and predictions, and what is chosen on validation (calibration, operating "
            "points, threshold, abstention band), are based on these scores. New images are scored "
            "by the fusion that was fitted on all validation images."
        )
    return (
        "The validation scores of this ensemble are not cross-fitted: it is measured on the images "
        "that its fusion was fitted on. The validation figures are optimistic, and so is what is "
        "chosen on validation (calibration, operating points, threshold, abstention band): expect "
        "more errors on new images, and calibrate the ensemble on other images if you can."
    )


def _images(run: Run) -> str:
    """Return on which images the run was calibrated."""
    fitted = run.info.calibration
    return f"images of {fitted.dataset}" if fitted and fitted.dataset else "validation images"


def measured_sentence(results: SplitResults) -> str:
    """Return on what kind of images a detector was measured.

    Args:
        results: the content of metrics.json.
    """
    if not results:
        return "The detector was not measured."
    result = results[ordered(results)[0]]
    unseen = result.get("unseen_generators", {}).get("generators", [])
    if not unseen:
        return "The detector was measured on images like those it was trained on."
    count = counted(len(unseen), "generator")
    if len(unseen) == len(result["generators"]):
        return f"The detector was measured on fakes of {count}, none of which it was trained on."
    return (
        f"The detector was measured on fakes of generators that it was trained on, and of {count} "
        "that it was not trained on."
    )


def right_verdicts(result: SplitResult) -> tuple[Interval | None, Interval | None]:
    """Return how many verdicts on a split were right, and how many images got one.

    Inconclusive images get none. Without an abstention band every image gets one, and the second
    is not given.

    Args:
        result: the result of the split, from metrics.json.
    """
    band = result.get("abstention")
    if band is not None:
        return band["accuracy"], band["coverage"]
    return result.get("metrics", {}).get("accuracy"), None


def chosen_on(run: Run) -> str:
    """Return on what the operating points were chosen; "validation" in older runs."""
    fitted = run.info.calibration
    for point in run.info.operating_points.values():
        if point.authentic and point.fakes:
            where = point.dataset
            if where is None and fitted is not None and fitted.method != "shift":
                where = fitted.dataset
            authentic = counted(point.authentic, "authentic image")
            images = f"{authentic} and {counted(point.fakes, 'fake')}"
            return f"{images} of {where or 'validation'}"
    return "validation"


def band_chosen_on(run: Run) -> str:
    """Return on what the abstention band was chosen, and whether P(fake) moved since then."""
    adapted = run.info.adaptation
    shifted = adapted is not None and adapted.of_kind("shift") is not None
    return chosen_on(run) + (", before a shift moved P(fake)" if shifted else "")


def threshold_sentence(run: Run) -> str:
    """Return when the verdict is fake, and when it is inconclusive."""
    chosen = [
        name for name, point in run.info.operating_points.items()
        if abs(point.threshold - run.threshold) < 1e-9
    ]  # fmt: skip
    why = f", chosen on {chosen_on(run)} ({', '.join(chosen)})" if chosen else ""
    low, high = run.abstention_band
    inconclusive = (
        f" From {low:.3f} up to {high:.3f} the verdict is inconclusive." if low < high else ""
    )
    adapted = f" {sentence}" if (sentence := adaptation_sentence(run)) else ""
    return f"The verdict is fake from P(fake) {run.threshold:.3f} on{why}.{inconclusive}{adapted}"


def mask_threshold_sentence(run: Run) -> str:
    """Return when the mask of an image is empty; "" if the run predicts none."""
    if not run.predicts_masks:
        return ""
    chosen = run.info.mask_threshold
    if chosen is None:
        return "Every mask is shown, also those of images with a low P(fake)."
    text = f"The mask of an image is empty where P(fake) is below {chosen.threshold:.3f}."
    if chosen.empty is None or chosen.empty_bound is None:
        return text
    return (
        f"{text} This was chosen on {counted(chosen.authentic or 0, 'authentic image')} of the "
        f'dataset "{chosen.dataset}": at least {chosen.empty:.0%} of new images like these get an '
        "empty mask, on average over many such choices (in 95 of 100 of them at least "
        f"{chosen.empty_bound:.0%})."
    )


def adaptation_sentence(run: Run, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return to which images the run was adapted after its training; "" if to none.

    Args:
        run: the run.
        names: what to call operating points, by their names.
    """
    adapted = run.info.adaptation
    if adapted is None:
        return ""
    found = [each for each in (adapted.of_kind("shift"), adapted.of_kind("threshold")) if each]
    return " ".join(_adaptation_words(each, names) for each in found)


def _adaptation_words(adapted: Adaptation, names: Mapping[str, str]) -> str:
    images = counted(adapted.authentic, "authentic image")
    if adapted.kind == "threshold":
        assert adapted.false_positive_rate is not None and adapted.rate_bound is not None
        promise = (
            f"at most {percent(adapted.false_positive_rate)} of new images like these are called "
            "fake, on average over many such choices (in 95 of 100 of them at most "
            f"{percent(adapted.rate_bound)})"
        )
        chosen = f'was chosen on {images} of the dataset "{adapted.dataset}"'
        kept = adapted.stricter
        if kept is None:
            return f"The threshold {chosen}: {promise}."
        kept = names.get(kept, f"that of {kept}") if isinstance(kept, str) else f"{kept:g}"
        return f"A lower threshold {chosen}: with it, {promise}. The higher one, {kept}, was kept."
    assert adapted.shift is not None and adapted.shift_interval is not None
    low, high = adapted.shift_interval
    return (
        f"A shift of {adapted.shift:+.2f} [{low:+.2f}, {high:+.2f}] was added to the logits, "
        f"fitted on {images} and {counted(adapted.fakes, 'fake')} of the dataset {adapted.dataset}."
    )


def lineage_sentence(run: Run) -> str:
    """Return from which run the training started, and what it kept of it; "" if from none."""
    parts = []
    for number, each in enumerate(run.info.lineage):
        kept = [f"{each.replay:.0%} replay of {each.dataset}"] if each.replay else []
        kept += [f"distillation of weight {each.distill:g}"] if each.distill else []
        start = "which started from " if number else ""
        trained = f"trained on {each.dataset}"
        parts.append(f"{start}{each.name} (model {each.model}; {', '.join([trained, *kept])})")
    return ", ".join(parts)


def teacher_sentence(run: Run) -> str:
    """Return whose answers the training learned besides the labels; "" if nobody's."""
    teacher = run.info.teacher
    if teacher is None:
        return ""
    asked = ", asked once before the training" if teacher.asked == "once" else ""
    return (
        f"{teacher.name} (model {teacher.model}; distillation of weight {teacher.weight:g} at "
        f"temperature {teacher.temperature:g}{asked})"
    )


def facts(run: Run) -> list[tuple[str, str]]:
    """Return facts about the training, as pairs of name and value."""
    info, data = run.info, run.info.dataset
    counts = "; ".join(
        f"{split} {', '.join(f'{n:,} {c}' for c, n in classes.items())}"
        for split, classes in data.counts.items()
    )
    weights = info.published_weights
    versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    found = {
        "images": counts,
        "images skipped": f"{data.skipped:,}",
        "images left out": f"{data.left_out:,}",
        "other files": f"{data.other_files:,}",
        "dataset fingerprint": data.fingerprint,
        "published weights": f"{weights.file} (SHA-256 {weights.sha256})" if weights else "",
        "started from": lineage_sentence(run),
        "learned the answers of": teacher_sentence(run),
        "seed": str(info.seed),
        "epochs": "" if info.epochs is None else str(info.epochs),
        "devices": info.devices,
        "training time": "" if info.training_seconds is None else f"{info.training_seconds:,} s",
        "parameters": "" if info.parameters is None else f"{info.parameters:,}",
        "precision": info.precision or "",
        "created": info.created,
        "git revision": info.git_revision or "",
        "versions": versions,
        "command": info.command,
    }
    return [(name, value) for name, value in found.items() if value]
