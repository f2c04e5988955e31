"""Writes the report of an audit: audit.json, audit.html, traits.parquet and duplicates.csv."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from tfdetect.auditing.audit_dataset import Audit
from tfdetect.auditing.audit_figures import (
    color_figure,
    noise_spectra_figure,
    radial_spectrum_figure,
    shortcut_figure,
)
from tfdetect.auditing.duplicates import Duplicates
from tfdetect.auditing.findings import CAUTION, NOTE, UNRELIABLE, describe_value
from tfdetect.auditing.shortcuts import COMBINED
from tfdetect.core import console, html
from tfdetect.core.files import merged, write_csv, write_json, write_text
from tfdetect.data.masks import COVERAGE_EXPLANATION, coverage_rows

SCHEMA_VERSION = 2  # of audit.json
_TONES: dict[str, html.Tone] = {NOTE: "good", CAUTION: "caution", UNRELIABLE: "bad"}
_MEANINGS = {
    NOTE: "The audit found no problem that would make results from this dataset misleading.",
    CAUTION: "Read the findings below before you trust results from this dataset.",
    UNRELIABLE: "A detector can reach a high accuracy on this dataset without detecting fakes. "
    "Fix the dataset before you train on it or report results from it.",
}
_SHORTCUT_COLUMNS = ["trait", "group", "effect", "balanced accuracy", "95% lower bound",
                     "most predictive value"]  # fmt: skip
_NO_PROBLEM = "The audit found no problem."
_NO_SHORTCUTS = "A class has too few images or groups to measure shortcuts."


def format_audit(audit: Audit) -> str:
    """Return the verdict, the findings and the shortcuts as text for the terminal."""
    margin, findings = " " * 12, []
    for found in audit.findings:
        level = f"{found.level + ':':<12}"
        findings.append(
            textwrap.fill(found.text, 96, initial_indent=level, subsequent_indent=margin)
        )
        if found.remedy and found.level != NOTE:
            findings.append(
                textwrap.fill(found.remedy, 96, initial_indent=margin, subsequent_indent=margin)
            )
    lines = [f"verdict: {audit.verdict}", "", *(findings or [_NO_PROBLEM]), ""]
    if not audit.shortcuts:
        return "\n".join([*lines, _NO_SHORTCUTS])
    table = console.format_table(_shortcut_rows(audit), _SHORTCUT_COLUMNS)
    explanation = (
        "Balanced accuracy is that of a small decision tree that is given only this trait; chance "
        f"is {audit.shortcuts[0].chance:.0%}."
    )
    return "\n".join([*lines, table, explanation])


def write_report(audit: Audit, folder: Path) -> None:
    """Write all files of the report into a directory."""
    with merged(folder) as new:
        (new / "figures").mkdir()
        pq.write_table(audit.traits, new / "traits.parquet")
        write_csv(_duplicate_table(audit), new / "duplicates.csv")
        write_csv(audit.catalog.skipped.select(["path", "error"]), new / "skipped.csv")
        write_json(new / "audit.json", audit_document(audit))
        write_text(new / "audit.html", _page(audit, new / "figures"))


def audit_document(audit: Audit) -> dict[str, Any]:
    """Return the content of audit.json."""

    def counts(found: Duplicates) -> dict[str, Any]:
        return {k: v for k, v in asdict(found).items() if k not in ("rows", "group")}

    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": audit.spec.name,
        "fingerprint": audit.catalog.fingerprint(),
        "verdict": audit.verdict,
        "findings": [asdict(f) for f in audit.findings],
        "shortcuts": [asdict(s) for s in audit.shortcuts],
        "generators": {name: asdict(s) for name, s in audit.generators.items()},
        "duplicates": {
            "exact": counts(audit.exact),
            "same_bytes": counts(audit.same_bytes),
            "near": counts(audit.near),
        },
        "counts": audit.catalog.counts(audit.spec.class_names),
        "masks": {name: masks.info.model_dump() for name, masks in audit.catalog.masks.items()},
        "unreadable": audit.catalog.skipped.num_rows,
        "authentic": {"class": audit.spec.class_names[0], "by": audit.spec.authentic_by},
        "files": {
            "total": audit.catalog.total,
            "used": audit.catalog.table.num_rows,
            "unusable": audit.catalog.skipped.num_rows,
            "left_out": audit.catalog.left_out.num_rows,
            "no_images": audit.catalog.other.total(),
        },
    }


def _page(audit: Audit, figures: Path) -> str:
    """Return the HTML report, and write its figures into a directory."""
    return html.render_page(
        f"Audit of {audit.spec.name}",
        [
            html.Section("Findings", _findings(audit)),
            html.Section("Shortcuts: traits that predict the label", _shortcuts(audit, figures)),
            html.Section("Duplicates", _duplicates(audit)),
            html.Section("Generators", _generators(audit)),
            html.Section("Images by class and split", _counts(audit)),
            html.Section("Masks", _masks(audit)),
            html.Section("Color and radial spectrum by class", _content(audit, figures)),
            html.Section("Noise spectra by generator", _noise_spectra(audit, figures)),
        ],
        subtitle="Dataset directory: " + ", ".join(map(str, audit.catalog.roots.values())),
        verdict=html.Verdict(
            f"Verdict: {audit.verdict}", _MEANINGS[audit.level], _TONES[audit.level]
        ),
        cards=_cards(audit),
        footer="Full data, in the same directory: audit.json, traits.parquet, duplicates.csv and "
        "skipped.csv (files that cannot be used).",
    )


def _cards(audit: Audit) -> list[html.Card]:
    """Return the most important numbers of the audit."""
    strongest = max(
        (s for s in audit.shortcuts if s.group not in COMBINED),
        key=lambda s: s.accuracy, default=None,
    )  # fmt: skip
    if audit.catalog.split("test").num_rows:
        tested, learned = "test", "train or validation"
        leaks = sum(audit.exact.test_leaks) + sum(audit.near.test_leaks)
    else:
        tested, learned = "validation", "train"
        leaks = audit.exact.validation_leaks + audit.near.validation_leaks
    unreadable = audit.catalog.skipped.num_rows
    return [
        html.Card(f"{audit.traits.num_rows:,}", "images", f"{unreadable:,} unreadable"),
        html.Card(f"{len(audit.findings):,}", "findings",
                  f"{sum(f.level != NOTE for f in audit.findings):,} need attention"),
        *([html.Card(f"{strongest.accuracy:.1%}", "balanced accuracy of the strongest trait",
                     f"{strongest.name}; chance {strongest.chance:.0%}")] if strongest else []),
        html.Card(f"{audit.exact.groups:,}", "images with exact duplicates"),
        html.Card(f"{leaks:,}", f"{tested} images with duplicates in {learned}",
                  tone="caution" if leaks else "good"),
    ]  # fmt: skip


def _findings(audit: Audit) -> Markup:
    if not audit.findings:
        return html.text(_NO_PROBLEM)
    legend = (
        "Red findings make results unreliable, yellow ones call for caution, gray ones are notes."
    )
    if any(f.fix for f in audit.findings):
        legend += " To write a fixed copy of the dataset, run the same command with --fix DIR."
    return html.join(
        *(html.note(f.text, "neutral" if f.level == NOTE else _TONES[f.level], f.remedy)
          for f in audit.findings),
        html.text(legend, small=True),
    )  # fmt: skip


def _shortcuts(audit: Audit, figures: Path) -> Markup:
    if not audit.shortcuts:
        return html.text(_NO_SHORTCUTS)
    strongest = max(audit.shortcuts, key=lambda s: s.accuracy)
    picture = html.picture_of(
        shortcut_figure(audit.shortcuts),
        f"Bar chart of the balanced accuracy with which each trait alone predicts the label. The "
        f"highest is {strongest.name} with {strongest.accuracy:.1%}; chance is "
        f"{strongest.chance:.0%}.",
        "Balanced accuracy by trait", path=figures / "shortcuts.png",
    )  # fmt: skip
    return html.join(
        html.text(
            "A decision tree of depth 3 predicts the label from one trait alone (five-fold "
            "cross-validation by group). A trait far above chance is a shortcut: a detector can "
            "learn it instead of traces of generation."
        ),
        html.figures([picture]),
        html.table(*_without_empty_last_column(_SHORTCUT_COLUMNS, _shortcut_rows(audit))),
        html.text(
            "Effect is the effect size: Cramer's V for categories, |2 AUC - 1| for numbers. For "
            "numbers it measures whether one class has higher values than another; it is small if "
            "the values of one class lie between those of the other. A tree separates such "
            "classes as well, so judge a trait by its balanced accuracy. Format and size leave "
            "traces in the pixels, which a detector sees. It does not see metadata and file names, "
            "but they show that the classes come from different sources. A difference in content "
            "may be part of the task, or a peculiarity of this dataset, such as bluer fakes.",
            small=True,
        ),
    )


def _without_empty_last_column(
    columns: list[str], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a table, without the last column if it is empty."""
    if any(row[-1] for row in rows):
        return columns, rows
    return columns[:-1], [row[:-1] for row in rows]


def _shortcut_rows(audit: Audit) -> list[list[str]]:
    """Return the rows of a table of `_SHORTCUT_COLUMNS`, the strongest shortcut first."""
    return [
        [s.name, "combined" if s.group in COMBINED else s.group,
         "-" if s.effect is None else f"{s.effect:.2f}", f"{s.accuracy:.1%}", f"{s.low:.1%}",
         describe_value(s, audit.spec.class_names)]
        for s in sorted(audit.shortcuts, key=lambda s: -s.accuracy)
    ]  # fmt: skip


def _duplicates(audit: Audit) -> Markup:
    kinds = (("same pixels", audit.exact), ("of these, same bytes", audit.same_bytes),
             ("nearly the same", audit.near))  # fmt: skip
    rows = [
        [name, *(f"{number:,}" for number in (
            d.groups, sum(d.redundant + d.redundant_test), sum(d.test_leaks), d.validation_leaks,
            d.label_conflicts,
        ))]
        for name, d in kinds
    ]  # fmt: skip
    return html.join(
        html.table(
            ["duplicates", "different images", "redundant", "test images in train or validation",
             "validation images in train", "conflicting labels"], rows,
        ),
        html.text(
            "An image is redundant if it has a duplicate of the same class on the same side of the "
            "test split (train and validation, or test). duplicates.csv lists all duplicates.",
            small=True,
        ),
    )  # fmt: skip


def _generators(audit: Audit) -> Markup:
    if not audit.generators:
        return Markup("")
    ranked = sorted(audit.generators.items(), key=lambda pair: -pair[1].accuracy)
    return html.join(
        html.text(
            "How well format and size alone separate each generator's fakes from authentic images; "
            "50% is chance."
        ),
        html.table(["generator", "balanced accuracy", "95% lower bound"],
                   [[name, f"{s.accuracy:.1%}", f"{s.low:.1%}"] for name, s in ranked]),
    )  # fmt: skip


def _counts(audit: Audit) -> Markup:
    names = audit.spec.class_names
    rows = [
        [split, *(f"{count:,}" for count in row.values())]
        for split, row in audit.catalog.counts(names).items()
    ]
    return html.table(["split", *names], rows)


def _masks(audit: Audit) -> Markup:
    """Return how the masks of each dataset are coded, and how much they cover."""
    parts = [
        html.join(
            html.text(f"{name}: {masks.coding} ({masks.source})."),
            html.table(*coverage_rows(masks.info.coverage)),
        )
        for name, masks in audit.catalog.masks.items()
    ]
    return html.join(*parts, html.text(COVERAGE_EXPLANATION, small=True) if parts else None)


def _content(audit: Audit, figures: Path) -> Markup:
    names = audit.spec.class_names
    classes = ", ".join(names)
    spectrum = html.picture_of(
        radial_spectrum_figure(audit.traits, names),
        f"Line chart of the mean power by spatial frequency for the classes {classes}.",
        "Mean radial spectrum (shaded: the middle half of the images)",
        path=figures / "spectrum.png",
    )
    color = html.picture_of(
        color_figure(audit.traits, names),
        f"Histograms of mean red, green and blue and of colorfulness for the classes {classes}.",
        "Color distributions", path=figures / "color.png",
    )  # fmt: skip
    return html.join(html.figures([spectrum]), html.figures([color], "wide"))


def _noise_spectra(audit: Audit, figures: Path) -> Markup:
    if not audit.spectra:
        return Markup("")
    picture = html.picture_of(
        noise_spectra_figure(audit.spectra, audit.spec.class_names[0]),
        f"Mean noise spectra of {', '.join(audit.spectra)}, and below each its difference from "
        "that of the authentic images.", path=figures / "spectra.png",
    )  # fmt: skip
    return html.join(
        html.text(
            "Mean Fourier spectrum of the noise that a median filter removes. Zero frequency is in "
            "the center. Upsampling and JPEG's 8x8 blocks leave points, grids and crosses; if only "
            "one class has them, a detector recognizes that class easily."
        ),
        html.figures([picture], "wide"),
    )


def _duplicate_table(audit: Audit) -> pa.Table:
    """Return kind, group, dataset, path, class and split of every image with duplicates."""
    tables, names = [], pa.array(audit.spec.class_names)
    for kind, d in (("exact", audit.exact), ("near", audit.near)):
        order = np.argsort(d.group, kind="stable")
        rows = audit.traits.take(pa.array(d.rows[order]))
        tables.append(pa.table({
            "kind": pa.repeat(kind, len(order)),
            "group": pa.array(d.group[order], pa.int64()),
            "dataset": rows["dataset"].cast(pa.string()),
            "path": rows["path"],
            "class": pc.take(names, rows["label"]),
            "split": rows["split"].cast(pa.string()),
        }))  # fmt: skip
    return pa.concat_tables(tables)
