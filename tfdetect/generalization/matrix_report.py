"""The matrix as a page with a heat map, JSON, CSV, LaTeX and a terminal table."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.html import html_table, save_figure, template
from tfdetect.generalization.train_matrix import METRICS

_PUBLISHED = Path(__file__).parent / "published"
_TITLES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC",
           "ap": "average precision", "recall_at_fpr_1": "recall at 1% false alarms",
           "recall_at_fpr_5": "recall at 5% false alarms"}  # fmt: skip

_PAGE = template(
    """<p>Experiment {{ experiment }}, dataset {{ dataset }}. Rows: what was trained on; columns:
test images of what. {{ summary }}</p>
{{ figures(drawn) }}
{% for title, table in tables %}
<h2>{{ title }}</h2>
{{ table }}
{% endfor %}
<small>Brackets: 95% bootstrap intervals over test images. Recall at 1% and 5% false alarms is at
the threshold that was chosen on the training's own validation split: on another generator the false
alarms may be others.</small>
{% if published %}<h2>Beside {{ published[0] }}</h2>
{{ published[1] }}
<small>Accuracy in percent, ours / theirs. Other data, sizes and trainings: only the pattern can be
compared.</small>{% endif %}
"""
)


def read_published(name: str) -> tuple[str, dict[str, dict[str, float]]]:
    """A published table of accuracies in percent, by training and test.

    Args:
        name: of a shipped one, or a CSV file: the first column names what was trained on, the
            others are headed by what was tested on.

    Raises:
        UserError: no such table, or a cell is no number.
    """
    shipped = {file.stem: file for file in sorted(_PUBLISHED.glob("*.csv"))}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"There is no published table {name!r}. Shipped: {', '.join(shipped)}; or "
                        "a CSV file.")  # fmt: skip
    with path.open(newline="", encoding="utf-8") as file:
        [headers, *rows] = csv.reader(file)
    try:
        table = {row[0]: dict(zip(headers[1:], map(float, row[1:]))) for row in rows if row}
    except ValueError as error:
        raise UserError(f"{path}: a cell is no number: {error}") from error
    return path.stem, table


def summary(found: dict) -> dict[str, dict[str, float | None]]:
    """Of each metric the mean over cells seen in training, and over those not seen."""
    means = {}
    for name in METRICS:
        cells = {True: [], False: []}
        for row in found["cells"].values():
            for cell in row.values():
                value = cell["metrics"][name]["value"]
                if value is not None:
                    cells[cell["seen"]].append(value)
        means[name] = {
            "seen": float(np.mean(cells[True])) if cells[True] else None,
            "unseen": float(np.mean(cells[False])) if cells[False] else None,
        }
    return means


def terminal(found: dict, metric: str) -> str:
    """One metric's matrix for the terminal, and the means."""
    means = summary(found)[metric]
    text = ", ".join(f"{kind} {value:.3f}" for kind, value in means.items() if value is not None)
    headers, rows = _table(found, metric)
    return f"{_TITLES[metric]}\n{tabulate(rows, headers, disable_numparse=True)}\nmean: {text}"


def write(found: dict, folder: Path, published: str | None = None) -> None:
    """Writes matrix.html, .json, .csv, .tex and figures/matrix.png."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    document = found | {"means": summary(found)}
    write_text(folder / "matrix.json", json.dumps(document, indent=2) + "\n")
    write_text(folder / "matrix.csv", _csv(found))
    write_text(folder / "matrix.tex", _latex(found))
    means = summary(found)["accuracy"]
    said = "; ".join(
        f"mean accuracy on what was {'seen' if kind == 'seen' else 'not seen'} in training "
        f"{value:.3f}" for kind, value in means.items() if value is not None
    )  # fmt: skip
    beside = None
    if published:
        name, theirs = read_published(published)
        beside = name, html_table(*_beside(found, theirs))
    tables = [(title, html_table(*_table(found, name))) for name, title in _TITLES.items()]
    write_text(folder / "matrix.html", _PAGE.render(
        title=f"Generalization of {found['experiment']}", experiment=found["experiment"],
        dataset=found["dataset"], summary=said, tables=tables, published=beside,
        drawn=[("matrix", save_figure(_heat_map(found), figures / "matrix.png"))],
    ))  # fmt: skip


def _table(found: dict, metric: str) -> tuple[list[str], list[list[str]]]:
    """Cells with intervals, with the means of rows and columns."""
    names = found["domains"]
    rows, columns = [], {name: [] for name in names}
    for training, row in found["cells"].items():
        values = [row[name]["metrics"][metric] for name in names]
        for name, value in zip(names, values):
            columns[name].append(value["value"])
        rows.append([training, *map(_cell, values), _mean([v["value"] for v in values])])
    rows.append(["mean", *(_mean(columns[name]) for name in names),
                 _mean([v for values in columns.values() for v in values])])  # fmt: skip
    return ["trained on", *names, "mean"], rows


def _cell(metric: dict) -> str:
    if metric["value"] is None:
        return "-"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _mean(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.3f}" if known else "-"


def _csv(found: dict) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trained_on", "tested_on", "seen", "images", "metric", "value", "low", "high"])
    for training, row in found["cells"].items():
        for name, cell in row.items():
            for metric, value in cell["metrics"].items():
                table.writerow([training, name, cell["seen"], cell["count"], metric,
                                *(value[key] for key in ("value", "low", "high"))])  # fmt: skip
    return text.getvalue()


def _latex(found: dict) -> str:
    """Accuracies in percent; what was seen in training in bold."""
    names = found["domains"]
    rows = []
    for training, row in found["cells"].items():
        cells = []
        for name in names:
            value = row[name]["metrics"]["accuracy"]["value"]
            text = "-" if value is None else f"{100 * value:.1f}"
            cells.append(f"\\textbf{{{text}}}" if row[name]["seen"] else text)
        rows.append([training, *cells])
    return tabulate(_escaped(rows), _escaped([["", *names]])[0], tablefmt="latex_raw") + "\n"


def _escaped(rows: list[list[str]]) -> list[list[str]]:
    return [[cell.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&") for cell in row]
            for row in rows]  # fmt: skip


def _beside(found: dict, theirs: dict) -> tuple[list[str], list[list[str]]]:
    """Ours and theirs, where both have the training and the test."""
    rows = []
    for training, row in found["cells"].items():
        cells = []
        for name in found["domains"]:
            value = row[name]["metrics"]["accuracy"]["value"]
            other = theirs.get(training, {}).get(name)
            cells.append(f"{'-' if value is None else f'{100 * value:.1f}'} / "
                         f"{'-' if other is None else f'{other:.1f}'}")  # fmt: skip
        rows.append([training, *cells])
    return ["trained on", *found["domains"]], rows


def _heat_map(found: dict) -> Figure:
    """Accuracy and AUC, from red (chance) to blue."""
    names, trainings = found["domains"], list(found["cells"])
    side = 0.55 * len(names) + 2
    figure = Figure(figsize=(2 * side, 0.45 * len(trainings) + 1.8), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("accuracy", "auc")):
        values = np.array([
            [np.nan if (v := row[n]["metrics"][metric]["value"]) is None else v for n in names]
            for row in found["cells"].values()
        ], float)  # fmt: skip
        image = axes.imshow(values, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if abs(value - 0.5) > 0.32 else "black")  # fmt: skip
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(trainings)), trainings, fontsize=8)
        axes.set(title=f"{_TITLES[metric]}, percent", xlabel="tested on")
    figure.axes[0].set_ylabel("trained on")
    figure.colorbar(image, ax=figure.axes, shrink=0.8)
    return figure
