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
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tfdetect.auditing.audit_dataset import Audit
from tfdetect.auditing.duplicates import Duplicates
from tfdetect.auditing.findings import CAUTION, FIXES, NOTE, UNRELIABLE, describe_value
from tfdetect.auditing.shortcuts import COMBINED, Shortcut
from tfdetect.auditing.traits import BANDS
from tfdetect.core import console, html
from tfdetect.core.files import merged, write_csv, write_json, write_text
from tfdetect.core.text import legend_label
from tfdetect.data.masks import COVERAGE_EXPLANATION, coverage_rows

SCHEMA_VERSION = 2  # of audit.json
_COLORS = ("#2166ac", "#b2182b", "#e08214", "#542788", "#1b7837", "#888888")
_TONES: dict[str, html.Tone] = {NOTE: "good", CAUTION: "caution", UNRELIABLE: "bad"}
_MEANINGS = {
    NOTE: "The audit found no problem that would make results from this dataset misleading.",
    CAUTION: "Read the findings below before you trust results from this dataset.",
    UNRELIABLE: "A detector can reach a high accuracy on this dataset without detecting fakes. "
    "Fix the dataset before you train on it or report results from it.",
}
_SHORTCUT_COLUMNS = ["trait", "group", "effect", "balanced accuracy", "95% lower bound",
                     "most predictive value"]  # fmt: skip

_NO_SHORTCUTS = "A class has too few images, or groups, to measure shortcuts."


def format_audit(audit: Audit) -> str:
    """Return the verdict, the findings and the shortcuts as text for the terminal."""
    lines = [
        textwrap.fill(f.text, 96, initial_indent=f"{f.level + ':':<12}", subsequent_indent=" " * 12)
        for f in audit.findings
    ]
    shortcuts = _NO_SHORTCUTS
    if audit.shortcuts:
        shortcuts = console.format_table(_shortcut_rows(audit), _SHORTCUT_COLUMNS)
    findings = lines or ["The audit found no problem."]
    parts = [f"verdict: {audit.verdict}", "", *findings, "", shortcuts]
    if audit.shortcuts:
        parts += [f"Balanced accuracy: of a small tree that sees the trait alone; chance is "
                  f"{audit.shortcuts[0].chance:.0%}."]  # fmt: skip
    return "\n".join(parts)


def write_report(audit: Audit, folder: Path) -> None:
    """Write all files of the report into a directory."""
    with merged(folder) as new:
        (new / "figures").mkdir()
        pq.write_table(audit.traits, new / "traits.parquet")
        write_csv(_duplicate_table(audit), new / "duplicates.csv")
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


def _page(audit: Audit, folder: Path) -> str:
    """Return the HTML report; writes its figures into `folder` as well."""
    names, level = audit.spec.class_names, audit.level
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
    cards = [
        html.Card(f"{audit.traits.num_rows:,}", "images", f"{unreadable:,} unreadable"),
        html.Card(f"{len(audit.findings):,}", "findings",
                  f"{sum(f.level != NOTE for f in audit.findings):,} need attention"),
        *([html.Card(f"{strongest.accuracy:.1%}", "strongest single trait",
                     f"{strongest.name}; chance {strongest.chance:.0%}")] if strongest else []),
        html.Card(f"{audit.exact.groups:,}", "images with exact duplicates"),
        html.Card(f"{leaks:,}", f"{tested} images with duplicates in {learned}",
                  tone="caution" if leaks else "good"),
    ]  # fmt: skip
    return html.render_page(
        f"Audit of {audit.spec.name}",
        [
            html.Section("Findings", _findings(audit)),
            html.Section("Shortcuts: traits that predict the label", _shortcuts(audit, folder)),
            html.Section("Duplicates", _duplicates(audit)),
            html.Section("Generators", _generators(audit)),
            html.Section("Images by class and split", html.table(
                ["split", *names],
                [[split, *(f"{count:,}" for count in row.values())]
                 for split, row in audit.catalog.counts(names).items()],
            )),
            html.Section("Masks", _masks(audit)),
            html.Section("Color and radial spectrum by class", _content(audit, folder)),
            html.Section("Noise spectra by generator", _spectra(audit, folder)),
        ],
        subtitle="Dataset directory: " + ", ".join(map(str, audit.catalog.roots.values())),
        verdict=html.Verdict(f"Verdict: {audit.verdict}", _MEANINGS[level], _TONES[level]),
        cards=cards,
        footer="Full data: audit.json, traits.parquet and duplicates.csv in the same directory.",
    )  # fmt: skip


def _findings(audit: Audit) -> Markup:
    if not audit.findings:
        return html.text("The audit found no problem.")
    fixable = any(f.fix for f in audit.findings)
    return html.join(
        *(html.note(f.text, "neutral" if f.level == NOTE else _TONES[f.level],
                    f"Fix: {FIXES[f.fix]} (--fixes {f.fix})" if f.fix else "")
          for f in audit.findings),
        html.text(
            "Red findings make results unreliable, yellow ones call for caution, gray ones are "
            "notes." + (" To write a fixed copy of the dataset, run the same command with "
                        "--fix DIR." if fixable else ""),
            small=True,
        ),
    )  # fmt: skip


def _shortcuts(audit: Audit, folder: Path) -> Markup:
    if not audit.shortcuts:
        return html.text(_NO_SHORTCUTS)
    strongest = max(audit.shortcuts, key=lambda s: s.accuracy)
    picture = html.picture_of(
        _shortcut_figure(audit.shortcuts),
        f"Bar chart of the balanced accuracy with which each trait alone predicts the label. The "
        f"highest is {strongest.name} with {strongest.accuracy:.1%}; chance is "
        f"{strongest.chance:.0%}.",
        "Balanced accuracy by trait", path=folder / "shortcuts.png",
    )  # fmt: skip
    return html.join(
        html.text(
            "A decision tree of depth 3 predicts the label from one trait alone (five-fold "
            "cross-validation by group). A trait far above chance is a shortcut: a detector can "
            "learn it instead of traces of generation."
        ),
        html.figures([picture]),
        html.table(*_filled(_SHORTCUT_COLUMNS, _shortcut_rows(audit))),
        html.text(
            "Effect: Cramer's V for categories, |2 AUC - 1| for numbers. That of a number says "
            "whether one class has higher values. It is small where values of one class lie "
            "between those of the other; a tree of depth 3, whose balanced accuracy is shown, "
            "tells such classes apart all the same. Format and size leave "
            "traces in the pixels, which a detector sees. It does not see metadata and file names, "
            "but they show that the classes come from different sources. Content may be part of "
            "the task: whether fakes are bluer is a property of this dataset.",
            small=True,
        ),
    )


def _filled(columns: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return a table without its last column, if that is empty."""
    if any(row[-1] for row in rows):
        return columns, rows
    return columns[:-1], [row[:-1] for row in rows]


def _shortcut_rows(audit: Audit) -> list[list[str]]:
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
            "An image is redundant if another one of its class on the same side of the test split "
            "is its duplicate. duplicates.csv lists all of them.", small=True,
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


def _content(audit: Audit, folder: Path) -> Markup:
    names = audit.spec.class_names
    classes = ", ".join(names)
    spectrum = html.picture_of(
        _spectrum_figure(audit.traits, names),
        f"Line chart of the mean power by spatial frequency for the classes {classes}.",
        "Mean radial spectrum (shaded: the middle half of the images)",
        path=folder / "spectrum.png",
    )
    color = html.picture_of(
        _color_figure(audit.traits, names),
        f"Histograms of mean red, green and blue and of colorfulness for the classes {classes}.",
        "Color distributions", path=folder / "color.png",
    )  # fmt: skip
    return html.join(html.figures([spectrum]), html.figures([color], "wide"))


def _spectra(audit: Audit, folder: Path) -> Markup:
    if not audit.spectra:
        return Markup("")
    picture = html.picture_of(
        _spectra_figure(audit.spectra, audit.spec.class_names[0]),
        f"Mean noise spectra of {', '.join(audit.spectra)}, and below each its difference from "
        "that of the authentic images.", path=folder / "spectra.png",
    )  # fmt: skip
    return html.join(
        html.text(
            "Mean Fourier spectrum of the noise that a median filter removes. Zero frequency is in "
            "the center. Upsampling and JPEG's 8x8 blocks leave points, grids and crosses; if only "
            "one class has them, it is easy to recognize."
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


def _shortcut_figure(shortcuts: list[Shortcut]) -> Figure:
    """Draw the balanced accuracy of each trait, the highest at the top."""
    ordered = sorted(shortcuts, key=lambda s: s.accuracy)
    figure = Figure(figsize=(7, 1.2 + 0.27 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    colors = {"format": _COLORS[1], "size": _COLORS[1], "metadata": _COLORS[2],
              "name": _COLORS[2], "content": _COLORS[0]}  # fmt: skip
    axes.barh([s.name for s in ordered], [s.accuracy for s in ordered],
              color=[colors.get(s.group, "#444444") for s in ordered])  # fmt: skip
    axes.axvline(ordered[0].chance, color="#222222", linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), xlabel="balanced accuracy (dotted: chance)")
    drawn = {colors.get(s.group, "#444444") for s in ordered}
    handles = [Patch(color=color, label=label) for color, label in (
        (_COLORS[1], "format, size"), (_COLORS[2], "metadata, file name"),
        (_COLORS[0], "content"), ("#444444", "combined"),
    ) if color in drawn]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    return figure


def _spectra_figure(spectra: dict[str, tuple[np.ndarray, int]], authentic: str) -> Figure:
    """Draw the spectra, and below each its difference from that of the authentic images."""
    columns = max(1, len(spectra))
    compare = authentic in spectra and columns > 1
    figure = Figure(figsize=(1.9 * columns + 1, 4.4 if compare else 2.4), layout="constrained")
    axes = figure.subplots(1 + compare, columns, squeeze=False)
    values = [spectrum for spectrum, _ in spectra.values()] or [np.zeros((2, 2))]
    low, high = np.percentile(values, [1, 99.8])
    for panel in axes.ravel():
        panel.set_axis_off()
    for column, (name, (spectrum, count)) in enumerate(spectra.items()):
        drawn = axes[0, column].imshow(spectrum, cmap="magma", vmin=low, vmax=high)
        axes[0, column].set_title(f"{name}\n{count} images", fontsize=8)
        if compare and name != authentic:
            difference = spectrum - spectra[authentic][0]
            shown = axes[1, column].imshow(difference, cmap="RdBu_r", vmin=-1, vmax=1)
    if spectra:
        figure.colorbar(drawn, ax=axes[0], label="log10 power", shrink=0.8)
    if compare:
        axes[1, 0].text(0.5, 0.5, f"difference\nfrom {authentic}", ha="center", va="center",
                        fontsize=9, transform=axes[1, 0].transAxes)  # fmt: skip
        figure.colorbar(shown, ax=axes[1], label="log10 ratio", shrink=0.8)
    return figure


def _spectrum_figure(table: pa.Table, classes: tuple[str, ...]) -> Figure:
    """Draw the mean radial spectrum by class, with the middle half of the images."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    labels = table["label"].to_numpy()
    bands = np.stack([table[f"band_{i:02}"].to_numpy() for i in range(1, BANDS + 1)], 1)
    frequency = (np.arange(BANDS) + 0.5) / (2 * BANDS)
    known = (bands > -12).any(0)  # an image of few pixels lacks some frequencies
    bands, frequency = bands[:, known], frequency[known]
    for label, name in enumerate(classes):
        rows = bands[labels == label]
        rows = rows[np.isfinite(rows).all(1)]
        if len(rows):
            color = _COLORS[label % len(_COLORS)]
            axes.plot(frequency, rows.mean(0), color=color, label=legend_label(name))
            low, high = np.percentile(rows, [25, 75], axis=0)
            axes.fill_between(frequency, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="cycles per pixel", ylabel="log10 fraction of power")
    axes.legend(fontsize=9)
    return figure


def _color_figure(table: pa.Table, classes: tuple[str, ...]) -> Figure:
    """Draw the distributions of mean color and of colorfulness by class."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    labels = table["label"].to_numpy()
    titles = {"red": "mean red", "green": "mean green", "blue": "mean blue",
              "colorfulness": "colorfulness"}  # fmt: skip
    for axes, (column, title) in zip(figure.subplots(1, 4), titles.items()):
        numbers = table[column].to_numpy()
        edges = np.linspace(0, np.nanmax(numbers, initial=1.0), 41)
        for label, name in enumerate(classes):
            if (labels == label).any():
                axes.hist(numbers[labels == label], edges, density=True, histtype="step",
                          label=legend_label(name),
                          color=_COLORS[label % len(_COLORS)])  # fmt: skip
        axes.set(title=title, yticks=[])
        axes.title.set_fontsize(10)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure
