"""Writes the report of a suite: what runs scored, beside what was published."""

from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from tfdetect.benchmarks.result_types import RunResult, SuiteResult
from tfdetect.benchmarks.results import PROTOCOLS, labels
from tfdetect.benchmarks.scoring import describe_protocol
from tfdetect.benchmarks.suite import EQUALIZED, PUBLISHED, ProtocolName, Suite
from tfdetect.benchmarks.tables import (
    OURS,
    PROTOCOL_NAMES,
    describe_table,
    names_of,
    published_rows,
    ranked,
    run_rows,
    subset_rows,
)
from tfdetect.core import html
from tfdetect.core.files import write_text
from tfdetect.core.text import counted, images_are
from tfdetect.evaluation.figures import BLUE, RED
from tfdetect.evaluation.intervals import format_interval, numbers

_DETAILS = ("balanced_accuracy", "recall", "fpr")


def write_report(suite: Suite, document: SuiteResult, output: Path) -> Path:
    """Write SUITE.html with all runs of the suite's results, and return its path.

    Args:
        suite: the suite, whole.
        document: its results, from `run_suite`.
        output: the folder of the results.
    """
    path = output / f"{suite.name}.html"
    write_text(path, _page(suite, document))
    return path


def _page(suite: Suite, document: SuiteResult) -> str:
    runs = document["runs"]
    names, best = labels(runs), ranked(document)[0]
    return html.render_page(
        suite.title,
        [
            html.Section("Runs", html.table(*run_rows(document)) if len(runs) > 1 else Markup("")),
            html.Section("Results by subset", html.join(
                html.text(
                    "Brackets: 95% intervals. \"By format alone\" is the balanced accuracy of a "
                    "decision tree that sees file format, width and height, and no pixel: what "
                    "the files alone reveal."
                ),
                *(part for name, run in zip(names, runs) for part in _of_run(document, name, run)),
            )),
            html.Section("Beside the published figures", _published(suite, runs)),
            html.Section("The two protocols", _protocols(suite, best)),
            html.Section("Data", _data(suite, best)),
        ],
        subtitle=f"{suite.paper}. {counted(len(suite.subsets), 'subset')}, "
        f"{counted(len(runs), 'run')} of tfdetect.",
        verdict=_verdict(suite, names[runs.index(best)], best),
        cards=_cards(suite, best),
        notes=[html.note(text) for text in _notes(best)],
        footer=f"All values: {suite.name}.json in the same directory; the scores of single images "
        "are in scores/.",
    )  # fmt: skip


def _of_run(document: SuiteResult, name: str, run: RunResult) -> list[Markup]:
    """Return the parts of the report on one run."""
    headers, rows = subset_rows(document, run)
    picture = html.picture_of(
        _figure(document, run),
        f"{names_of(document['metric'])} of {name} on each subset, as published and with equalized "
        "formats. The table above holds the values.",
    )
    parts = [html.heading(name), html.table(headers, rows, label=f"Results of {name}"),
             html.figures([picture], "wide")]  # fmt: skip
    if document["task"] == "images":
        parts.append(html.details("Both classes, and the best threshold",
                                  html.table(*_detail_rows(run))))  # fmt: skip
    return parts


def _detail_rows(run: RunResult) -> tuple[list[str], list[list[str]]]:
    headers = ["subset", "protocol", *(names_of(m) for m in _DETAILS),
               "accuracy at the best threshold (optimistic)"]  # fmt: skip
    rows = []
    for name in run["protocols"][PUBLISHED]["subsets"]:
        for protocol in PROTOCOLS:
            part = run["protocols"][protocol]["subsets"][name]
            best = part.get("best_accuracy")
            rows.append([
                name, PROTOCOL_NAMES[protocol],
                *(format_interval(part["metrics"].get(m), 3) for m in _DETAILS),
                f"{best['value']:.3f} at {best['threshold']:.3f}" if best else "-",
            ])  # fmt: skip
    return headers, rows


def _published(suite: Suite, runs: list[RunResult]) -> Markup:
    if not suite.published:
        return html.text("No published table could be read in a source.")
    parts = [html.text(
        f"Rows that begin with \"{OURS.strip()}\" are measured here. Trainings, and what detectors "
        "do to images before, differ between the rows; sources and notes say how."
    )]  # fmt: skip
    for table in suite.published:
        parts += [
            html.heading(table.title),
            html.text(f"{describe_table(table)} {table.note}".strip()),
            html.table(*published_rows(table, runs), label=table.title),
            html.text(f"Source: {table.source}", small=True),
        ]
    return html.join(*parts)


def _protocols(suite: Suite, run: RunResult) -> Markup:
    done = describe_protocol(suite.protocol) or "images as they are"
    low, high = suite.equalize.quality
    if suite.task == "masks":
        equalized = (
            f"Every image is encoded as JPEG of quality {low} to {high}, which follows from its "
            "pixels and not from its class, at its own size. Nothing is cropped."
        )
    else:
        equalized = (
            f"The center of at most {suite.equalize.side} pixels is cut out on the grid of JPEG's "
            f"blocks, without resizing, and encoded as JPEG of quality {low} to {high}, which "
            "follows from its pixels and not from its class. The crop is as large as 95% of the "
            "images of each class allow, so that size reveals little either."
        )
    return html.join(
        html.heading("As published"),
        html.text(suite.protocol.text, f"Here: {done}; then the run's own preprocessing, and "
                  f"threshold {suite.protocol.threshold:g} on the probability that the run "
                  "reports."),
        html.text(f"Source: {suite.protocol.source}", small=True),
        html.heading("Format-equalized"),
        html.text(equalized, "Where a run is much better as published, it knows files rather than "
                  "fakes, or needs traces that one more encoding removes."),
        html.table(*_format_rows(run), caption="What format and size alone reveal (AUC)"),
    )  # fmt: skip


def _format_rows(run: RunResult) -> tuple[list[str], list[list[str]]]:
    """Return what format and size alone reach on the data of a run, under both protocols."""
    headers = ["subset", "as published", "format-equalized", "crop in pixels", "images below it"]
    rows = []
    subsets = [run["protocols"][name]["subsets"] for name in PROTOCOLS]
    for name, first in subsets[0].items():
        second = subsets[1][name]
        aucs = [format_interval((p.get("metadata") or {}).get("auc"), 3) for p in (first, second)]
        smaller = second.get("smaller")
        rows.append([name, *aucs, f"{second.get('crop', '-')}",
                     "-" if smaller is None else f"{smaller:.1%}"])  # fmt: skip
    return headers, rows


def _data(suite: Suite, run: RunResult) -> Markup:
    rows = []
    for subset in suite.subsets:
        about = run["data"].get(subset.name)
        if about is None:
            rows.append([subset.name, "not asked for", "", ""])
            continue
        expected = " + ".join(f"{n:,} {name}" for name, n in subset.counts.items()) or "not known"
        found = " + ".join(f"{n:,} {name}" for name, n in about["found"].items()) or "missing"
        rows.append([subset.name, expected, found,
                     about["missing"] or "; ".join(about["differences"])])  # fmt: skip
    source = suite.counts_source
    return html.join(
        html.table(["subset", "expected", "found", "what differs"], rows),
        html.text(f"Expected numbers: {source}" if source else "", *suite.remarks),
    )


def _verdict(suite: Suite, name: str, run: RunResult) -> html.Verdict:
    metric = suite.main_metric
    means = [run["protocols"][p]["mean"].get(metric) for p in PROTOCOLS]
    if not means[0] or means[0]["value"] is None:
        return html.Verdict(f"{name}: {names_of(metric)} could not be measured", "", "neutral")
    text = f"{name}: {names_of(metric)} {means[0]['value']:.3f} as published"
    if means[1] and means[1]["value"] is not None:
        text += f", {means[1]['value']:.3f} with equalized formats"
    found = run["protocols"][PUBLISHED]
    if found["of"] == 1:
        return html.Verdict(text, "", "neutral")
    of = f"Mean over {len(found['subsets'])} of {found['of']} subsets."
    shared = " Subsets share authentic images, so the interval does not shrink with their number."
    return html.Verdict(text, of + (shared if found["shared"] else ""), "neutral")


def _cards(suite: Suite, run: RunResult) -> list[html.Card]:
    found = run["protocols"][PUBLISHED]
    images = sum(part["count"] for part in found["subsets"].values())
    cards = [html.Card(f"{images:,}", "images scored")]
    for metric in (suite.main_metric, "auc"):
        for protocol in PROTOCOLS:
            mean = run["protocols"][protocol]["mean"].get(metric)
            if mean and mean["value"] is not None:
                cards.append(html.Card(
                    f"{mean['value']:.3f}", f"{names_of(metric)}, {PROTOCOL_NAMES[protocol]}",
                    format_interval(mean, 3).partition(" ")[2],
                ))  # fmt: skip
    speeds = [p["images_per_second"] for p in found["subsets"].values() if p["images_per_second"]]
    return [*cards, html.Card(f"{run['parameters']:,}", "parameters"),
            *([html.Card(f"{np.median(speeds):.1f}", "images a second, with decoding",
                         run["device"])] if speeds else [])]  # fmt: skip


def _notes(run: RunResult) -> list[str]:
    """Return warnings: missing and different data, and test images that were trained on."""
    missing = [name for name, about in run["data"].items() if about["missing"]]
    notes = [f"Missing: {', '.join(missing)}. The mean is over the rest."] if missing else []
    notes += [
        f"{name}: {'; '.join(about['differences'])}."
        for name, about in run["data"].items() if about["differences"]
    ]  # fmt: skip
    for name, part in run["protocols"][PUBLISHED]["subsets"].items():
        if part["copies"]:
            notes.append(f"{name}: {images_are(part['copies'], part['count'])} known to the "
                         "run from training (the same or a copy).")  # fmt: skip
    return notes


def _figure(document: SuiteResult, run: RunResult) -> Figure:
    """Draw the main metric of each subset under both protocols, with intervals."""
    metric, names = document["metric"], list(run["protocols"][PUBLISHED]["subsets"])
    figure = Figure(figsize=(7, 1.2 + 0.36 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(len(names))[::-1]
    styles: dict[ProtocolName, tuple[str, str, float]] = {
        PUBLISHED: (BLUE, "o", 0.12), EQUALIZED: (RED, "s", -0.12)
    }  # fmt: skip
    for protocol, (color, marker, shift) in styles.items():
        subsets = run["protocols"][protocol]["subsets"]
        found = [subsets[name]["metrics"].get(metric) for name in names]
        rows = [(y, *numbers(value)) for y, value in zip(at, found)
                if value and value["value"] is not None]  # fmt: skip
        places, values, lows, highs = np.array(rows, float).reshape(-1, 4).T
        errors = np.nan_to_num(np.abs([values - lows, highs - values])) if rows else None
        axes.errorbar(values, places + shift, xerr=errors, fmt=marker, color=color,
                      markersize=5, capsize=2, label=PROTOCOL_NAMES[protocol])  # fmt: skip
    axes.set_yticks(at, names, fontsize=9)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(names) - 0.4))
    if metric == "accuracy":
        axes.axvline(0.5, color="gray", linewidth=0.8, linestyle=":")
    axes.set_xlabel(names_of(metric), fontsize=9)
    axes.grid(axis="x", alpha=0.2)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    return figure
