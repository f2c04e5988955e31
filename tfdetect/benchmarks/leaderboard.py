"""Writes the leaderboard: every run on every suite in a folder of results, sortable."""

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tfdetect.benchmarks.result_types import SuiteResult
from tfdetect.benchmarks.results import PROTOCOLS, labels, read_results
from tfdetect.benchmarks.suite import PUBLISHED
from tfdetect.benchmarks.tables import names_of, ranked
from tfdetect.core import html
from tfdetect.core.files import write_text
from tfdetect.core.text import counted, markdown
from tfdetect.evaluation.intervals import format_interval

PAGE = "leaderboard.html"
Row = dict[str, Any]  # of the leaderboard, by `_COLUMNS`; intervals where a column has one
_COLUMNS = (
    "run", "suite", "subsets", "metric", "as published", "format-equalized", "AUC", "parameters",
    "images a second",
)  # fmt: skip
# What can be sorted by: its name, the column that it ranks, and whether the largest is first.
_ORDERS = (
    ("suite", "suite", False), ("as published", "as published", True),
    ("format-equalized", "format-equalized", True), ("AUC", "AUC", True), ("run", "run", False),
    ("parameters", "parameters", False), ("speed", "images a second", True),
)  # fmt: skip

# Rows are ordered by CSS alone: the page has no script, like all pages.
_BOARD = """<style>
.board table { display: grid; grid-template-columns: repeat({{ columns | length }}, auto);
  justify-content: start; }
.board thead, .board tbody { display: contents; }
.board tr { display: grid; grid-template-columns: subgrid; grid-column: 1 / -1; }
.board thead th { align-self: end; }
.board th, .board td { padding-right: .8rem; }
.board td small { display: block; }
.board fieldset { border: 1px solid var(--line); border-radius: .35rem; display: flex;
  flex-wrap: wrap; gap: .2rem 1.1rem; padding: .4rem .8rem; max-width: 60rem; }
.board label { cursor: pointer; white-space: nowrap; }
{% for order in orders %}
.board:has(#sort-{{ loop.index0 }}:checked) tbody tr { order: var(--o{{ loop.index0 }}); }
{% endfor %}</style>
<div class="board"><fieldset><legend>Sort by</legend>
{% for order in orders %}<label><input type="radio" name="sort" id="sort-{{ loop.index0 }}"\
{% if loop.first %} checked{% endif %}> {{ order[0] }}</label>
{% endfor %}</fieldset>
<div class="scroll" tabindex="0" role="region" aria-label="Leaderboard">
<table role="table"><thead role="rowgroup"><tr role="row">
{% for column in columns %}<th scope="col" role="columnheader"\
{% if loop.index0 in numbers %} class="number"{% endif %}>{{ column }}</th>{% endfor %}</tr></thead>
<tbody role="rowgroup">
{% for row in rows %}<tr role="row" style="{% for rank in row.ranks %}--o{{ loop.index0 }}: \
{{ rank }};{% endfor %}">{% for cell, below in row.cells %}{% if loop.first %}<th scope="row" \
role="rowheader">{{ cell }}</th>{% else %}<td role="cell"\
{% if loop.index0 in numbers %} class="number"{% endif %}>{{ cell }}\
{% if below %} <small>{{ below }}</small>{% endif %}</td>\
{% endif %}{% endfor %}</tr>
{% endfor %}</tbody></table></div></div>
"""


def write_leaderboard(output: Path) -> Path:
    """Write leaderboard.html and leaderboard.md from all results in a folder.

    Args:
        output: the folder.

    Returns:
        The path of the page.
    """
    entries = collect(read_results(output))
    page, text = output / PAGE, output / "leaderboard.md"
    write_text(page, _page(entries))
    write_text(text, as_markdown(entries))
    return page


def collect(documents: list[SuiteResult]) -> list[Row]:
    """Return a row of values for each run on each suite, best first within a suite.

    Args:
        documents: the documents of suites, from `read_results`.
    """
    rows = []
    for document in sorted(documents, key=lambda one: one["suite"]):
        metric, runs = document["metric"], document["runs"]
        names = {id(run): label for label, run in zip(labels(runs), runs)}
        for run in ranked(document):
            found = run["protocols"][PUBLISHED]
            speeds = [s["images_per_second"] for s in found["subsets"].values()]
            known = [speed for speed in speeds if speed]
            means = [run["protocols"][name]["mean"] for name in PROTOCOLS]
            rows.append({
                "run": names[id(run)], "suite": document["suite"],
                "subsets": f"{len(found['subsets'])} of {found['of']}",
                "metric": names_of(metric), "as published": means[0].get(metric),
                "format-equalized": means[1].get(metric), "AUC": means[0].get("auc"),
                "parameters": run["parameters"],
                "images a second": round(float(np.median(known)), 1) if known else None,
            })  # fmt: skip
    return rows


def as_markdown(entries: list[Row]) -> str:
    """Return the leaderboard as a Markdown table."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    lines += ["| " + " | ".join(map(markdown, _cells(entry))) + " |" for entry in entries]
    return "\n".join(lines) + "\n"


def _page(entries: list[Row]) -> str:
    suites = list(dict.fromkeys(entry["suite"] for entry in entries))
    runs = list(dict.fromkeys(entry["run"] for entry in entries))
    links = Markup(" · ").join(
        html.fragment('<a href="{{ name }}.html">{{ name }}</a>', name=name) for name in suites
    )
    return html.render_page(
        "Leaderboard",
        [
            html.Section("Runs and suites", html.join(
                html.text(
                    "Means over the subsets of each suite, with 95% intervals, at a threshold of "
                    "0.5. Compare format-equalized figures where the formats of both classes "
                    "differ. A mean over some of the subsets is not that of the suite."
                ),
                board(entries),
            )),
            html.Section("Reports of the suites", html.fragment("<p>{{ links }}</p>", links=links)),
        ],
        subtitle=f"{counted(len(runs), 'run')} on {counted(len(suites), 'suite')}.",
        footer="The same as Markdown: leaderboard.md. Speed: images a second with decoding, as "
        "measured when the run was scored, on the machine that scored it.",
    )  # fmt: skip


def board(entries: list[Row]) -> Markup:
    """Return the table, which radio buttons sort."""
    ranks = [_ranks(entries, column, largest) for _, column, largest in _ORDERS]
    rows = [
        {"cells": _stacked(entry), "ranks": [rank[number] for rank in ranks]}
        for number, entry in enumerate(entries)
    ]
    columns = [column for column in _COLUMNS if column != "subsets"]
    return html.fragment(
        _BOARD, columns=columns, orders=_ORDERS, rows=rows, numbers=[3, 4, 5, 6, 7]
    )


def _stacked(entry: Row) -> list[tuple[str, str]]:
    """Return the cells of a row, each with what is below it: an interval, a number of subsets."""
    cells = []
    for column, cell in zip(_COLUMNS, _cells(entry), strict=True):
        value, space, interval = cell.partition(" [")
        if column == "suite":
            cells.append((cell, f"{entry['subsets']} subsets"))
        elif column != "subsets":
            interval = interval.replace(" ", "\N{NO-BREAK SPACE}")
            below = space.strip() + interval if isinstance(entry[column], dict) else ""
            cells.append((value, below) if below else (cell, ""))
    return cells


def _ranks(entries: list[Row], column: str, largest: bool) -> list[int]:
    """Return the position of each row when they are sorted by a column; the rest stays in order."""

    def key(number: int) -> tuple:
        value = entries[number][column]
        if isinstance(value, str):
            return (0, value.lower())
        known = _number(value)
        return (known == -1, -known if largest else known)

    order = sorted(range(len(entries)), key=key)
    ranks = [0] * len(entries)
    for rank, number in enumerate(order):
        ranks[number] = rank
    return ranks


def _number(value: Any) -> float:
    """Return a number or the value of an interval; -1 where there is none."""
    value = value.get("value") if isinstance(value, dict) else value
    return -1 if value is None else float(value)


def _cells(entry: Row) -> list[str]:
    cells = []
    for name in _COLUMNS:
        value = entry[name]
        if isinstance(value, dict) or value is None:
            cells.append(format_interval(value, 3))
        else:
            cells.append(value if isinstance(value, str) else f"{value:,}")
    return cells
