"""Writes a self-contained HTML page about one suspect image, for readers outside the field."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.figure import Figure

from tfdetect import __version__
from tfdetect.core import html
from tfdetect.core.columns import Table
from tfdetect.core.errors import UserError
from tfdetect.core.files import FailedWrites, write_text
from tfdetect.core.generator_names import readable_generators
from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.run import Run
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.figures import GRAY, GREEN, RED
from tfdetect.evaluation.intervals import format_interval
from tfdetect.evaluation.mask_metrics import THRESHOLD
from tfdetect.evaluation.metrics import NAMES
from tfdetect.evaluation.overlays import overlay
from tfdetect.evaluation.predictions import CompiledDetector
from tfdetect.evaluation.run_description import (
    adaptation_sentence,
    chosen_on,
    fake_means,
    measured_sentence,
    right_verdicts,
    sides_of,
)
from tfdetect.evaluation.stability import reencoding, stability_sentences
from tfdetect.evaluation.verdict_words import outcome, percent
from tfdetect.explanation import wording
from tfdetect.explanation.examination import Examination, Examiner
from tfdetect.explanation.feature_maps import FRONT_END
from tfdetect.explanation.maps import ATTENTION
from tfdetect.explanation.pictures import heat_map, picture, residual_image
from tfdetect.forensics.evidence import told_once
from tfdetect.forensics.headline import RULE
from tfdetect.forensics.region_pictures import evidence_pictures

_LINE = """<p><b>{{ line.title }}.</b> {{ line.finding }}\
<br><small>{{ line.reliability }}</small></p>
"""
MAX_SANITY = 0.5  # a map is not trusted from this correlation with the shuffled network's map on

_FRONT_END_MEANING = "what a first filter (front-end) passes on to the network; gray is zero"


def explain_files(
    run: Run,
    detector: CompiledDetector,
    predictions: Table,
    pages: list[Path],
    failed: FailedWrites,
    max_pixels: int = MAX_PIXELS,
    on_step: Callable[[str], None] = lambda _: None,
) -> Iterator[Path]:
    """Write a page for each image that could be read; yield the paths of the pages.

    Args:
        run: the run.
        detector: its compiled model.
        predictions: the predictions from `predict_files`.
        pages: where to write each page.
        failed: collects the pages that cannot be written.
        max_pixels: images with more pixels are refused, as in the predictions.
        on_step: called before each step with the name of the image and of the step.
    """
    examiner = Examiner(run, detector, max_pixels)
    for row, page in zip(predictions.to_pylist(), pages):
        if row["error"] is not None:
            continue
        with failed.skipping(page):
            page.parent.mkdir(parents=True, exist_ok=True)
            found = examiner.examine(row, partial(_report_step, on_step, Path(row["path"]).name))
            write_text(page, image_page(run, found))
        if page not in failed.reasons:
            yield page


def _report_step(on_step: Callable[[str], None], name: str, step: str) -> None:
    on_step(f"{name}: {step}")


def image_page(run: Run, found: Examination) -> str:
    """Return the page of one image."""
    return html.render_page(
        f"Is {found.path.name} authentic?",
        [
            html.Section("What is known about the image", _evidence(found)),
            html.Section("What to do next", html.text(wording.NEXT_STEPS)),
            html.Section("What the probability means", html.join(*_probability(run, found))),
            html.Section("Does the verdict survive re-encoding?", html.join(
                html.text("The analysis is repeated on copies that show the same picture to a "
                          f"person. {_stability(run, found)}"),
                html.figures([_reencoding_figure(run, found)]),
            )),
            html.Section("Which regions moved the score", html.join(
                html.text(wording.view_sentence(run, found)),
                html.figures(_map_pictures(found), "small"),
                _sanity(found),
            )),
            html.Section("What the file says about itself", html.join(
                html.text("Anybody can rewrite these entries, except a valid signature, and most "
                          "websites remove them. Missing entries prove nothing."),
                html.table(["", "", ""], [[f.name, f.value, f.meaning] for f in found.facts],
                           label="metadata"),
            )),
            html.Section("What the detector was trained on", _detector(run)),
        ],
        verdict=html.Verdict(found.evidence.headline, found.evidence.reasons, found.evidence.tone),
        cards=_cards(run, found),
        notes=[html.note(warning) for warning in wording.warnings(run, found, MAX_SANITY)],
        lead=_image(run, found),
        footer="A detector's verdict is evidence, not proof: on images unlike those that it was "
        f"measured on, it can be certain and wrong. {_citation(run, found)}",
    )  # fmt: skip


def _citation(run: Run, found: Examination) -> str:
    """Return the versions and the checksum that somebody else needs to repeat the analysis."""
    return (
        f"Made by tfdetect {__version__} with {run.name} for the file with SHA-256 {found.sha256}."
    )


def _score_card(run: Run, found: Examination) -> html.Card:
    """Return P(fake), as a probability where it is one."""
    p, prior = found.row["p_fake"], run.info.prior
    if prior is None:
        return html.Card(f"{p:.3f}", "score for fake", "not calibrated, so not a probability")
    if found.differences:
        note = "not a probability for an image of this kind"
        return html.Card(f"{p:.3f}", "score for fake", note)
    note = f"if {percent(prior)} of all images are fake"
    return html.Card(percent(p), "probability that it is fake", note)


def _cards(run: Run, found: Examination) -> list[html.Card]:
    """Return the key figures of the page."""
    changed, count = len(found.changed_by(run)), len(found.reencoded)
    copies = "one copy gets" if changed == 1 else f"{changed} copies get"
    stability = f"{copies} another verdict"
    if not changed:
        stability = "stable, which does not mean correct"
    elif wording.is_fragile(run, found):
        stability = "fragile: do not rely on it"
    cards = [
        _score_card(run, found),
        html.Card(f"{count - changed} of {count}", "re-encoded copies with the same verdict",
                  stability),
    ]  # fmt: skip
    if found.altered is not None:
        fraction = found.row.get("altered_fraction") or 0.0
        cards.append(html.Card(percent(fraction), "of the pixels are marked as altered"))
    declared = [fact for fact in found.facts if fact.kind]
    kinds = {"generated": "names an image generator", "edited": "names an editor",
             "camera": "names a camera"}  # fmt: skip
    origin = next((kinds[k] for k in kinds if any(f.kind == k for f in declared)), "says nothing")
    cards.append(html.Card(origin, "the file's metadata", "anybody can rewrite it"))
    return cards


def _image(run: Run, found: Examination) -> Markup:
    """Return the image and, if the detector predicts masks, its mask."""
    pictures = [picture(found.image, f"The examined image {found.path.name}", "The image")]
    if found.altered is None:
        return html.figures(pictures, "small")
    marked = overlay(found.image, found.altered >= THRESHOLD)
    sentence = wording.mask_sentence(run, found)
    pictures.append(picture(
        marked, f"The image with the marked region in red. {sentence}",
        "Where it may be altered", sentence,
    ))  # fmt: skip
    return html.figures(pictures, "small")


def _evidence(found: Examination) -> Markup:
    """Return the pieces of evidence, with pictures of the regions that they are about."""
    known = found.evidence
    pictures = [picture(each.pixels, each.alt, each.title, each.caption)
                for each in evidence_pictures(known, found.image)]  # fmt: skip
    return html.join(
        html.text(f"The headline follows a rule. {RULE}"),
        *(html.fragment(_LINE, line=line) for line in told_once(known)),
        html.figures(pictures, "small") if pictures else None,
    )


def _probability(run: Run, found: Examination) -> list[Markup]:
    """Return the probability at several priors and the verdict at several thresholds."""
    p = found.row["p_fake"]
    parts = [html.text(wording.class_sentence(run, found), fake_means(run))]
    if run.info.prior is None:
        parts.append(html.text(
            "This detector is not calibrated, so its score is not a probability. "
            "python -m tfdetect.calibrate can calibrate it."
        ))  # fmt: skip
    else:
        rows = [
            [words, percent(wording.probability_at(run, p, prior))]
            for prior, words in wording.PRIORS.items()
        ]
        if found.differences:
            parts.append(html.text(
                "The image is unlike those that the detector was calibrated on, so the numbers "
                "below may be far from the truth."
            ))  # fmt: skip
        parts += [
            html.text("The probability depends on how common fakes are among images of the same "
                      "source. Read the row that fits your source:"),
            html.table(["fakes among such images", "probability that this one is fake"], rows),
        ]  # fmt: skip
    rows = [
        [wording.THRESHOLDS.get(name, name), outcome(run.with_threshold(point.threshold), p),
         percent(point.threshold), percent(point.tpr), wording.false_alarms(point)]
        for name, point in run.info.operating_points.items()
    ]  # fmt: skip
    if rows:
        parts += [
            html.text("A stricter or looser threshold gives these verdicts. The rates were "
                      f"measured on {chosen_on(run)}; in brackets, the upper end of the 95% "
                      f"interval. {_band_stays(run)}"),
            html.table(["threshold chosen so that", "this image is called", "called fake from",
                   "fakes that are found", "authentic images called fake"], rows),
            html.text(_adapted(run)),
        ]  # fmt: skip
    return parts


def _band_stays(run: Run) -> str:
    """Return that another threshold leaves the abstention band where it is; "" without a band."""
    band = run.info.abstention_band
    if band is None or band.low == band.high:
        return ""
    return (
        f"The range without a verdict, {percent(band.low)} to {percent(band.high)}, stays "
        "inconclusive whatever the threshold is, and grows to a threshold that lies outside of it. "
        "The rates ignore this range: they count every image as authentic or fake."
    )


def _adapted(run: Run) -> str:
    """Return how the run's threshold was adapted to other images; "" if it was not."""
    adapted = run.info.adaptation
    if adapted is None or adapted.of_kind("threshold") is None:
        return ""
    names = {name: f"chosen so that {text}" for name, text in wording.THRESHOLDS.items()}
    how = adaptation_sentence(run, names)
    return f"The detector's own threshold is {percent(run.threshold)}. {how}"


# Color, marker and legend of each verdict. The markers are for readers who see no colors.
_VERDICT_STYLES = {
    "fake": (RED, "o", "Red circles are called fake."),
    "authentic": (GREEN, "s", "Green squares are called authentic."),
    "inconclusive": (GRAY, "D", "Gray diamonds are inconclusive."),
}


def _stability(run: Run, found: Examination) -> str:
    size = found.image.shape[0], found.image.shape[1]
    return stability_sentences(run, found.row["p_fake"], found.reencoded, size)


def _reencoding_figure(run: Run, found: Examination) -> html.Picture:
    """Draw P(fake) of the image and of each re-encoded copy."""
    names = ["unchanged", *map(reencoding, found.reencoded)]
    values = [found.row["p_fake"], *found.reencoded.values()]
    figure = Figure(figsize=(6, 0.28 * len(names) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    called = [outcome(run, value) for value in values]
    at = np.arange(len(names))[::-1]
    axes.hlines(at, 0, values, color=[_VERDICT_STYLES[each][0] for each in called], linewidth=1)
    for each, (color, marker, _) in _VERDICT_STYLES.items():
        chosen = [i for i, other in enumerate(called) if other == each]
        axes.scatter([values[i] for i in chosen], at[chosen], marker=marker, zorder=3, color=color)
    axes.axvline(run.threshold, color=GRAY, linestyle="--", linewidth=1)
    axes.annotate("fake from here", (run.threshold, len(names) - 0.45), fontsize=9, color="#444444",
                  ha="center", va="bottom", annotation_clip=False)  # fmt: skip
    axes.set_yticks(at, names)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.6, len(names) - 0.4))
    axes.set_xlabel("probability of fake" if run.info.prior is not None else "score for fake")
    axes.spines[["top", "right"]].set_visible(False)
    same = len(found.reencoded) - len(found.changed_by(run))
    return html.picture_of(
        figure,
        f"The score of the image and of {len(found.reencoded)} re-encoded copies, of which {same} "
        "get the same verdict",
        "Score after re-encoding",
        " ".join(shown for each, (_, _, shown) in _VERDICT_STYLES.items() if each in called),
    )


def _map_pictures(found: Examination) -> list[html.Picture]:
    pictures = [picture(found.view_image, "The pixels that the detector sees", "What it sees")]
    if found.front_end is not None:
        pictures.append(picture(
            residual_image(found.front_end), "The output of the front-end", FRONT_END,
            _FRONT_END_MEANING,
        ))  # fmt: skip
    for name, values in found.maps.items():
        signed = values - 1 if name == ATTENTION else values
        meaning = wording.map_meaning(name)
        pictures.append(
            picture(heat_map(found.view_image, signed), f"Map of {name}: {meaning}", name, meaning)
        )
    return pictures


def _sanity(found: Examination) -> Markup:
    return html.join(
        html.text("Can the maps be trusted? As a test, each map was also made for a network that "
                  "has learned nothing: the detector with its learned weights shuffled. A map that "
                  "shows what the detector learned must differ from that one. The table says how "
                  "similar the two are (rank correlation): about 0 or less if they mark different "
                  f"regions, 1 if they mark the same ones. From {MAX_SANITY:g} on, the map shows "
                  "what is in the image rather than what the detector learned."),
        html.table(["map", "similarity"], [[n, f"{v:z.2f}"] for n, v in found.sanity.items()]),
    )  # fmt: skip


def _detector(run: Run) -> Markup:
    """Return what the detector was trained on, and how good it was on test or validation images."""
    data = run.info.dataset
    rows = [["detector", run.name], ["training dataset", data.name]]
    counts = data.counts.get("train", {})
    if counts:
        rows.append(["training images", ", ".join(f"{n:,} {c}" for c, n in counts.items())])
    rows.append(["fakes in training were made by", ", ".join(_generators(run)) or "not recorded"])
    training = data.training_images
    if training and training.formats:
        rows.append(["file formats", ", ".join(training.formats)])
    rows += [[f"{name} side", text] for name, text in sides_of(training).items()]
    split = "test" if "test" in run.results else "validation"
    found = run.results.get(split, {})
    metrics, (right, given) = found.get("metrics", {}), right_verdicts(found)
    measured = {
        f"images that get a verdict ({split})": given,
        f"verdicts that are right ({split})": right,
        f"fakes that are found ({split} {NAMES['recall']})": metrics.get("recall"),
        f"authentic images called fake ({split} {NAMES['fpr']})": metrics.get("fpr"),
    }
    rows += [
        [words, format_interval(value, 1, percent=True)]
        for words, value in measured.items() if value and value["value"] is not None
    ]  # fmt: skip
    return html.join(
        html.table(["", ""], rows, label="the detector"),
        html.text(f"{measured_sentence(run.results)} On images by other generators, editors and "
                  "cameras, and of other sizes and encodings, it may be near chance."),
    )  # fmt: skip


def _generators(run: Run) -> list[str]:
    """Return the generators of the training fakes, or else of the validation fakes."""
    training = run.info.dataset.training_images
    if training and training.generators:
        return readable_generators(training.generators)
    with suppress(UserError):  # the page needs no predictions
        table = prediction_tables.read(run.path, "validation")
        if "generator" in table.column_names:
            names = filter(None, table["generator"].cast(pa.string()).unique().to_pylist())
            return readable_generators(names)
    return []
