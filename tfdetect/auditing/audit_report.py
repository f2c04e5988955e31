"""What an audit leaves: audit.json, audit.html with figures, traits.parquet, duplicates.csv."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from tabulate import tabulate

from tfdetect.auditing.audit_dataset import Audit
from tfdetect.auditing.findings import REPAIRS, valued
from tfdetect.auditing.noise_spectra import spectra_figure
from tfdetect.auditing.shortcuts import Shortcut
from tfdetect.auditing.traits import BANDS
from tfdetect.core.files import write_text
from tfdetect.core.html import html_table, save_figure, template

SCHEMA = 1
_COLORS = ("#2166ac", "#b2182b", "#e08214", "#542788", "#1b7837", "#888888")

_PAGE = template(
    """<p class="verdict {{ level }}">{{ verdict }}</p>
<p>{{ images }} images in {{ roots }}.</p>
<h2>Why</h2>
{% for finding in findings %}<p class="finding {{ finding.level }}">{{ finding.text }}
{% if finding.repair %}<br><small>can be mended: {{ mends[finding.repair] }}</small>{% endif %}</p>
{% else %}<p>Nothing was found that should not be there.</p>{% endfor %}
<p><small>Red: results should not be believed. Yellow: use with care. Green: worth knowing.
{% if repairs %}The same command with <code>--repair FOLDER</code> writes a mended copy.{% endif %}
</small></p>
<h2>What tells the label, and should not</h2>
{{ figures(drawn[:1]) }}
{{ shortcuts }}
<small>A tree of depth 3 is asked for the label by this trait alone, five-fold cross-validated by
group. A detector sees format and size through their traces in the pixels; metadata and names it
does not see, but they say that the classes came by different ways. Content may be what a detector
is meant to see, or not: whether fakes are bluer is a property of this dataset.</small>
<h2>Content by class</h2>
{{ figures(drawn[1:3]) }}
<h2>Spectra of noise</h2>
<p>Mean Fourier spectrum of what a median filter removes, by generator where it is known. Zero
frequency is in the middle. Points, grids and crosses are left by upsampling and by JPEG's blocks of
8 pixels: a class that alone has them is easily told.</p>
{{ figures(drawn[3:]) }}
<h2>Duplicates</h2>
{{ duplicates }}
<small>A copy is surplus where another image of its class, on the same side of the test split, is
the same. The images are listed in duplicates.csv.</small>
<h2>Numbers</h2>
{{ counts }}
{% if generators %}<h2>Generators</h2>
{{ generators }}
<small>How well format and size alone tell a generator's fakes from authentic images; 50% is
chance.</small>{% endif %}
"""
)


def terminal(audit: Audit) -> str:
    """The verdict, the findings and what told the label, for the terminal."""
    from textwrap import fill

    lines = [
        fill(f.text, 96, initial_indent=f"{f.level + ':':<8}", subsequent_indent=" " * 8)
        for f in audit.findings
    ]
    told = tabulate(_shortcut_rows(audit), _HEADERS, disable_numparse=True)
    return "\n".join([told, "", *lines, "", f"verdict: {audit.verdict}"])


def write_report(audit: Audit, folder: Path) -> None:
    """Writes everything into a folder."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    pq.write_table(audit.traits, folder / "traits.parquet")
    pacsv.write_csv(_duplicate_table(audit), folder / "duplicates.csv")
    write_text(folder / "audit.json", json.dumps(_document(audit), indent=2) + "\n")
    names = audit.spec.class_names
    drawn = [(name, save_figure(figure, figures / f"{name}.png")) for name, figure in (
        ("shortcuts", _shortcut_figure(audit.shortcuts)),
        ("spectrum", _spectrum_figure(audit.traits, names)),
        ("color", _color_figure(audit.traits, names)),
        ("spectra", spectra_figure(audit.spectra, names[0])),
    )]  # fmt: skip
    generators = sorted(audit.generators.items(), key=lambda pair: -pair[1].accuracy)
    write_text(folder / "audit.html", _PAGE.render(
        title=f"Audit of {audit.spec.name}",
        verdict=audit.verdict,
        level=next(iter(f.level for f in audit.findings), "note"),
        images=f"{audit.traits.num_rows:,}",
        roots=", ".join(map(str, audit.catalog.roots.values())),
        findings=audit.findings,
        mends=REPAIRS,
        repairs=any(f.repair for f in audit.findings),
        shortcuts=html_table(_HEADERS, _shortcut_rows(audit)),
        duplicates=html_table(["", "different images", "surplus", "of test, in train or validation",
                               "of validation, in train", "under several labels"],
                              _duplicate_rows(audit)),
        counts=html_table(["split", *names], [
            [split, *(f"{count:,}" for count in row.values())]
            for split, row in audit.catalog.counts(names).items()
        ]),
        generators=generators and html_table(
            ["generator", "told by format and size"],
            [[name, f"{s.accuracy:.1%}"] for name, s in generators],
        ),
        drawn=drawn,
    ))  # fmt: skip


_HEADERS = ["trait", "kind", "effect", "balanced accuracy", "most telling value"]


def _shortcut_rows(audit: Audit) -> list[list[str]]:
    return [
        [s.name, s.group, "" if s.effect is None else f"{s.effect:.2f}",
         f"{s.accuracy:.1%} (above {s.low:.1%})",
         valued(s, audit.spec.class_names) if s.value else ""]
        for s in sorted(audit.shortcuts, key=lambda s: -s.accuracy)
    ]  # fmt: skip


def _duplicate_rows(audit: Audit) -> list[list[str]]:
    kinds = (("the same pixels", audit.exact), ("of them the same bytes", audit.same_bytes),
             ("nearly the same", audit.near))  # fmt: skip
    return [
        [name, *(f"{number:,}" for number in (
            d.groups, sum(d.surplus + d.surplus_in_test), sum(d.in_test), d.in_validation, d.labels
        ))]
        for name, d in kinds
    ]  # fmt: skip


def _document(audit: Audit) -> dict:
    """The audit as JSON: findings, shortcuts, duplicates, counts."""

    def numbers(d):
        return {k: v for k, v in asdict(d).items() if k not in ("rows", "group")}

    return {
        "schema": SCHEMA,
        "dataset": audit.spec.name,
        "fingerprint": audit.catalog.fingerprint(),
        "verdict": audit.verdict,
        "findings": [asdict(f) for f in audit.findings],
        "shortcuts": [asdict(s) for s in audit.shortcuts],
        "generators": {name: asdict(s) for name, s in audit.generators.items()},
        "duplicates": {"exact": numbers(audit.exact), "same_bytes": numbers(audit.same_bytes),
                       "near": numbers(audit.near)},
        "counts": audit.catalog.counts(audit.spec.class_names),
        "skipped": audit.catalog.skipped.num_rows,
    }  # fmt: skip


def _duplicate_table(audit: Audit) -> pa.Table:
    """kind, group, dataset, path, class, split of every image that stands more than once."""
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
    """Balanced accuracy of each trait, the strongest on top."""
    ordered = sorted(shortcuts, key=lambda s: s.accuracy)
    figure = Figure(figsize=(7, 0.6 + 0.3 * max(1, len(ordered))), layout="constrained")
    axes = figure.add_subplot()
    colors = {"format": _COLORS[1], "size": _COLORS[1], "together": "#444444",
               "metadata": _COLORS[2], "name": _COLORS[2]}  # fmt: skip
    axes.barh([s.name for s in ordered], [s.accuracy for s in ordered],
              color=[colors.get(s.group, _COLORS[0]) for s in ordered])  # fmt: skip
    if ordered:
        axes.axvline(ordered[0].chance, color="#222222", linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), xlabel="balanced accuracy of a shallow tree (dotted: chance)")
    handles = [Patch(color=c, label=t) for c, t in (
        (_COLORS[1], "format, size"), (_COLORS[2], "metadata, name"), (_COLORS[0], "content"),
    )]  # fmt: skip
    axes.legend(handles=handles, fontsize=8, loc="lower right")
    return figure


def _spectrum_figure(table: pa.Table, classes: tuple[str, ...]) -> Figure:
    """Mean radial spectrum by class, with the spread of single images."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    labels = table["label"].to_numpy()
    bands = np.stack([table[f"band_{i:02}"].to_numpy() for i in range(1, BANDS + 1)], 1)
    frequency = (np.arange(BANDS) + 0.5) / (2 * BANDS)
    for label, name in enumerate(classes):
        rows = bands[labels == label]
        rows = rows[np.isfinite(rows).all(1)]
        if len(rows):
            color = _COLORS[label % len(_COLORS)]
            axes.plot(frequency, rows.mean(0), color=color, label=name)
            low, high = np.percentile(rows, [25, 75], axis=0)
            axes.fill_between(frequency, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="cycles a pixel", ylabel="log10 of the share of power",
             title="Mean radial spectrum (shaded: half of the images)")  # fmt: skip
    axes.legend(fontsize=8)
    return figure


def _color_figure(table: pa.Table, classes: tuple[str, ...]) -> Figure:
    """Distributions of mean color and of colorfulness by class."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    labels = table["label"].to_numpy()
    columns = ("red", "green", "blue", "spread")
    for axes, column in zip(figure.subplots(1, 4), columns):
        numbers = table[column].to_numpy()
        edges = np.linspace(0, np.nanmax(numbers, initial=1.0), 41)
        for label, name in enumerate(classes):
            if not (labels == label).any():
                continue
            axes.hist(numbers[labels == label], edges, density=True, histtype="step",
                      color=_COLORS[label % len(_COLORS)], label=name)  # fmt: skip
        axes.set(title={"spread": "colorfulness"}.get(column, f"mean {column}"), yticks=[])
    figure.axes[0].legend(fontsize=8)
    return figure
