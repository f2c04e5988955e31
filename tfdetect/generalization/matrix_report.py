"""Writes the report of a matrix: HTML with a heat map, JSON, CSV, LaTeX and a terminal table."""

from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from tfdetect.core import console, html
from tfdetect.core.files import csv_text, merged, write_json, write_text
from tfdetect.core.text import capitalized, latex
from tfdetect.evaluation.figures import heat_map
from tfdetect.evaluation.intervals import format_interval
from tfdetect.evaluation.measure import MAIN_MASK_NAMES
from tfdetect.evaluation.metrics import NAMES
from tfdetect.generalization.clusters import clusters_of, draw
from tfdetect.generalization.measure_matrix import METRICS
from tfdetect.generalization.published_tables import Table, read_published
from tfdetect.generalization.study_remarks import GUESSING, NoneLearned, may_guess, none_learned
from tfdetect.generalization.study_results import Cell, Cells, Kind, MatrixResult, domain_word

_TITLES = {name: NAMES.get(name, name) for name in METRICS} | MAIN_MASK_NAMES | {
    "recall_at_fpr_1": "recall at the operating point of 1% FPR",
    "recall_at_fpr_5": "recall at the operating point of 5% FPR",
}  # fmt: skip
EXPLANATION = (
    "Left map: how well detectors of each find the images of the other, mean of both directions "
    "(twice the AUC minus 1; 0 is chance); it makes the tree. Right map: whether the detectors of "
    "all others find the images of both alike (Pearson's correlation)."
)
_HIDDEN_MASKS = (
    "A mask is shown from a P(fake) on that few authentic images of the training's own validation "
    "split reach, and is empty below it: the IoU of an altered image that is not recognized is 0. "
    "Pixel AP depends on that little."
)
_WIDEST = 6  # columns that intervals in the terminal have room for
_BESIDE = 4  # columns of maps that are read on a small screen as a whole
_GUESSES = f"{GUESSING}: not shown to be better than guessing"
_MOST_INTERVALS = 8  # columns with intervals that fit into a page's width
_KINDS: dict[Kind, str] = {"in_training": "in training", "unseen": "unseen"}


def main_metrics(values: MatrixResult) -> tuple[str, str]:
    """Return the two metrics that a matrix is about: those of masks, or of verdicts."""
    return ("iou", "pixel_ap") if "iou" in values["means"] else ("balanced_accuracy", "auc")


def _marked(values: MatrixResult) -> tuple[bool, str]:
    """Return the value of in_training of the cells that are marked, the rarer one, and its name."""
    cells = [cell["in_training"] for row in values["cells"].values() for cell in row.values()]
    rare = 2 * sum(cells) <= len(cells)
    word = domain_word(values["by"])
    return rare, f"{word} in training" if rare else f"unseen {word}"


def format_matrix(values: MatrixResult) -> str:
    """Return the main metrics of a matrix, their means and what marks mean, for the terminal."""
    word, parts = domain_word(values["by"]), []
    for metric in main_metrics(values):
        text = ", ".join(
            f"{_KINDS[kind]} {value:.3f}"
            for kind, value in values["means"][metric].items() if value is not None
        )  # fmt: skip
        columns, rows = _metric_table(values, metric, len(values["domains"]) <= _WIDEST)
        table = console.format_table(rows, columns, title=_TITLES[metric])
        if loss := values["losses"].get(metric):
            text += f"; lost on an unseen {word} {format_interval(loss, 3)}"
        parts.append(f"{table}\nmean over {word}s: {text}.")
    notes = [_marks(values), _test_sets(values), _chance_sentence(values)]
    return "\n\n".join([*parts, "\n".join(filter(None, notes))])


def _marks(values: MatrixResult) -> str:
    """Return what the marks of a table mean."""
    text = f"*: {_marked(values)[1]}."
    if any(_may_be_chance(cell, name) for cell in _every_cell(values) for name in cell["metrics"]):
        text += (
            f" {_GUESSES} (the 95% interval of the AUC, or of the balanced accuracy in tables of "
            "accuracies, reaches 0.5 or less)."
        )
    return text


def _test_sets(values: MatrixResult) -> str:
    """Return how many test images there are of each class, and what follows for accuracy."""
    cells = next(iter(values["cells"].values()))
    sizes = {name: (cell["count"] - cell["fakes"], cell["fakes"]) for name, cell in cells.items()}
    if len(set(sizes.values())) == 1:
        authentic, fakes = next(iter(sizes.values()))
        text = f"Each {domain_word(values['by'])} has {authentic:,} authentic and {fakes:,} fake "
        text += "test images."
    else:
        each = ", ".join(f"{name} {a:,} + {fakes:,}" for name, (a, fakes) in sizes.items())
        text = f"Test images, authentic + fake: {each}."
    if "iou" in values["means"]:
        return text
    if all(authentic == fakes for authentic, fakes in sizes.values()):
        return f"{text} With as many of both, balanced accuracy is accuracy."
    return (
        f"{text} Balanced accuracy is the mean of the accuracies on authentic images and on fakes: "
        "it is 0.5 where every image is called authentic, however many are."
    )


def _every_cell(values: MatrixResult) -> list[Cell]:
    return [cell for row in values["cells"].values() for cell in row.values()]


def _none_learned(values: MatrixResult) -> NoneLearned | None:
    """Return that no detector is shown to be better than guessing where it was trained."""
    own = [cell["may_be_chance"] for cell in _every_cell(values) if cell["in_training"]]
    if not own or not all(own):
        return None
    word = domain_word(values["by"])
    why = f"even on {word}s in training the 95% interval of the AUC reaches 0.5 or less"
    return none_learned("detector", why)


def _chance_sentence(values: MatrixResult) -> str:
    """Return how many results are not shown to be better than guesses; "" if all are."""
    cells = _every_cell(values)
    guesses = sum(cell["may_be_chance"] for cell in cells)
    if found := _none_learned(values):
        return str(found)
    if not guesses:
        return ""
    return (
        f"Not shown to be better than guessing by their AUC: {guesses} of {len(cells)} results. "
        "These cannot be ranked."
    )


def write_report(values: MatrixResult, folder: Path, published: str | None = None) -> None:
    """Write matrix.html, matrix.json, matrix.csv, matrix.tex and figures/.

    Args:
        values: the content of matrix.json.
        folder: where to write.
        published: a table to compare with, as `read_published` takes it.
    """
    with merged(folder) as new:
        (new / "figures").mkdir()
        write_json(new / "matrix.json", values)
        write_text(new / "matrix.csv", _csv(values))
        write_text(new / "matrix.tex", _latex(values))
        write_text(new / "matrix.html", _page(values, new, published))


def _page(values: MatrixResult, folder: Path, published: str | None) -> str:
    word = domain_word(values["by"])
    names = ("matrix.png", f"matrix_{main_metrics(values)[1]}.png")
    pictures = [
        html.picture_of(
            _heat_map(values, metric),
            f"Heat map of {_TITLES[metric]}. Rows: {word}s in training; columns: {word}s of the "
            "test images. The tables below hold the values.",
            f"{capitalized(_TITLES[metric])}, in percent", _legend(values, metric),
            path=folder / "figures" / name,
        )
        for metric, name in zip(main_metrics(values), names)
    ]  # fmt: skip
    intervals = len(values["domains"]) <= _MOST_INTERVALS
    where = "Brackets: 95% intervals" if intervals else "matrix.csv has the 95% intervals"
    tables = [
        html.join(html.heading(capitalized(_TITLES[metric])),
                  html.table(*_metric_table(values, metric, intervals)))
        for metric, means in values["means"].items() if set(means.values()) != {None}
    ]  # fmt: skip
    return html.render_page(
        f"Generalization of {values['experiment']}",
        [
            html.Section("Heat maps", html.figures(
                pictures, "" if len(values["domains"]) <= _BESIDE else "wide"
            )),
            html.Section(f"Which {word}s belong together", _clusters(values["cells"], folder)),
            html.Section(f"Results by {word} in training and in test", html.join(
                html.text(
                    "Rows: what a detector was trained on. Columns: "
                    f"the {word} of the test images. {where} over test images. "
                    f"{_marks(values)}",
                    _test_sets(values),
                    *([_HIDDEN_MASKS] if "iou" in values["means"] else []),
                ),
                *tables,
                html.text(
                    "Recall at an operating point uses the threshold that was chosen on the "
                    "training's own validation split, if that has enough images; on an unseen "
                    f"{word} the false positive rate may differ.", small=True,
                ),
            )),
            html.Section("Comparison with published results", _comparison(values, published)),
        ],
        subtitle=f"Dataset {values['dataset']}, divided by {values['by']} into "
        f"{len(values['domains'])} {word}s: {', '.join(values['domains'])}",
        verdict=_verdict(values),
        cards=_cards(values),
        footer="Full data: matrix.json, matrix.csv and matrix.tex in the same directory.",
    )  # fmt: skip


def _clusters(cells: Cells, folder: Path) -> Markup:
    if (clusters := clusters_of(cells)) is None:
        return Markup("")
    return html.join(html.text(EXPLANATION), html.figures([html.picture_of(
        draw(clusters), f"Clustered heat maps of {', '.join(clusters.names)}, in this order.",
        path=folder / "figures" / "clusters.png",
    )], "wide"))  # fmt: skip


def _verdict(values: MatrixResult) -> html.Verdict:
    metric = "iou" if "iou" in values["means"] else "auc"
    means = values["means"][metric]
    own, unseen = means["in_training"], means["unseen"]
    if own is None or unseen is None:
        return html.Verdict("Generalization could not be measured", "", "neutral")
    if metric == "auc" and (none := _none_learned(values)):
        return html.Verdict(none.title, capitalized(none.reason), "bad")
    loss, word = values["losses"].get(metric), domain_word(values["by"])
    amount = f": {format_interval(loss, 3)}, with an interval over the {word}s" if loss else ""
    lines = [f"The difference is what a detector loses on a {word} that it was not trained on"
             f"{amount}."]  # fmt: skip
    if metric == "auc":
        lines.append(_chance_sentence(values))
    return html.Verdict(
        f"{'IoU' if metric == 'iou' else 'AUC'} {own:.3f} on {word}s in training, "
        f"{unseen:.3f} on unseen ones",
        list(filter(None, lines)),
        "neutral",
    )


def _cards(values: MatrixResult) -> list[html.Card]:
    means, over = values["means"], f"mean over {domain_word(values['by'])}s"
    return [
        html.Card(
            f"{value:.3f}" if metric == "auc" else f"{value:.1%}",
            f"{_TITLES[metric]}, {title}",
            over,
        )
        for metric in dict.fromkeys((main_metrics(values)[0], "balanced_accuracy", "auc"))
        for kind, title in _KINDS.items()
        if (value := means[metric][kind]) is not None
    ]


def _comparison(values: MatrixResult, published: str | None) -> Markup:
    if not published:
        return Markup("")
    name, table = read_published(published)
    return html.join(
        html.text(
            f"In percent: balanced accuracy here / accuracy of {name}. Both are the same where a "
            "test set has as many authentic images as fakes. Data, image sizes and trainings "
            "differ, so only the pattern can be compared."
        ),
        html.table(*_comparison_table(values, table)),
    )


def _metric_table(
    values: MatrixResult, metric: str, intervals: bool
) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of one metric, with the means of rows and columns."""
    names, (mark, _) = values["domains"], _marked(values)
    rows: list[list[str]] = []
    columns: dict[str, list[float | None]] = {name: [] for name in names}
    for training, row in values["cells"].items():
        cells = [row[name]["metrics"][metric] for name in names]
        for name, cell in zip(names, cells):
            columns[name].append(cell["value"])
        shown = [
            ("* " if row[name]["in_training"] == mark else "")
            + (format_interval(cell, 3) if intervals else _mean([cell["value"]]))
            + (f" {GUESSING}" if _may_be_chance(row[name], metric) else "")
            for name, cell in zip(names, cells)
        ]
        rows.append([training, *shown, _mean([cell["value"] for cell in cells])])
    every = [value for column in columns.values() for value in column]
    rows.append(["mean", *(_mean(columns[name]) for name in names), _mean(every)])
    return ["trained on", *names, "mean"], rows


def _may_be_chance(cell: Cell, metric: str) -> bool:
    """Return whether a metric is one of verdicts that may be guesses."""
    return metric in METRICS and may_guess(cell["metrics"], metric)


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f}" if known else "-"


def _csv(values: MatrixResult) -> str:
    columns = ("trained_on", "tested_on", "in_training", "images", "fakes", "may_be_chance",
               "metric", "value", "low", "high")  # fmt: skip
    rows: list[list] = []
    for training, row in values["cells"].items():
        for name, cell in row.items():
            for metric, value in cell["metrics"].items():
                rows.append([training, name, cell["in_training"], cell["count"], cell["fakes"],
                             _may_be_chance(cell, metric), metric, value["value"], value["low"],
                             value["high"]])  # fmt: skip
    return csv_text(rows, columns)


def _latex(values: MatrixResult) -> str:
    """Return the main metric in percent as a LaTeX table; the marked cells are bold."""
    (metric, _), (mark, title) = main_metrics(values), _marked(values)
    names = values["domains"]
    lines = [["", *map(latex, names)]]
    for training, row in values["cells"].items():
        cells = []
        for name in names:
            value = row[name]["metrics"][metric]["value"]
            text = "-" if value is None else f"{100 * value:.1f}"
            cells.append(f"\\textbf{{{text}}}" if row[name]["in_training"] == mark else text)
        lines.append([latex(training), *cells])
    [head, *body] = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join([
        f"% {_TITLES[metric]} in percent; bold: {title}",
        rf"\begin{{tabular}}{{l{'r' * len(names)}}}", r"\hline", head, r"\hline", *body, r"\hline",
        r"\end{tabular}", "",
    ])  # fmt: skip


def _comparison_table(values: MatrixResult, table: Table) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of our balanced accuracies and the published accuracies."""
    rows = []
    for training, row in values["cells"].items():
        cells = []
        for name in values["domains"]:
            own = row[name]["metrics"]["balanced_accuracy"]["value"]
            other = table.get(training, {}).get(name)
            cells.append(f"{'-' if own is None else f'{100 * own:.1f}'} / "
                         f"{'-' if other is None else f'{other:.1f}'}")  # fmt: skip
        rows.append([training, *cells])
    return ["trained on", *values["domains"]], rows


def _heat_map(values: MatrixResult, metric: str) -> Figure:
    """Draw a metric, from red (0) to blue (1), with a legend of its marks."""
    names, trainings, (mark, _) = values["domains"], list(values["cells"]), _marked(values)
    width, height = 0.75 * len(names) + 2.2, 0.55 * len(trainings) + 2.2
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    cells = np.array([
        [np.nan if (v := row[n]["metrics"][metric]["value"]) is None else v for n in names]
        for row in values["cells"].values()
    ], float)  # fmt: skip
    image = heat_map(axes, cells, trainings, names, text=lambda v: f"{100 * v:.0f}")
    texts = {tuple(map(round, text.get_position())): text for text in axes.texts}
    for y, row in enumerate(values["cells"].values()):
        for x, name in enumerate(names):
            if row[name]["in_training"] == mark:
                axes.add_patch(_frame(x, y))
            if _may_be_chance(row[name], metric):
                texts[x, y].set_text(f"{texts[x, y].get_text()} {GUESSING}")
    axes.set_xlabel("tested on", fontsize=9)
    axes.set_ylabel("trained on", fontsize=9)
    figure.colorbar(image, shrink=0.8, format=lambda v, _: f"{100 * v:.0f}")
    figure.supxlabel(_legend(values, metric), fontsize=9)
    return figure


def _legend(values: MatrixResult, metric: str) -> str:
    """Return what the marks in the heat map of a metric mean."""
    guesses = any(_may_be_chance(cell, metric) for cell in _every_cell(values))
    return f"Framed: {_marked(values)[1]}." + (f" {_GUESSES}." if guesses else "")


def _frame(x: int, y: int) -> Rectangle:
    """Return the frame of a cell, black with a white edge, which shows on dark colors, too."""
    frame = Rectangle((x - 0.45, y - 0.45), 0.9, 0.9, fill=False, linewidth=1.6)
    frame.set_path_effects([withStroke(linewidth=3.6, foreground="white")])
    return frame
