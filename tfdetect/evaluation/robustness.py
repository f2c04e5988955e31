"""How a run's verdicts hold when images are degraded: metrics, flips and curves."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from tabulate import tabulate

from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.html import html_table, save_figure, template
from tfdetect.core.run import Run
from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import image_source
from tfdetect.evaluation.metrics import binary_metrics, with_intervals
from tfdetect.evaluation.predictions import predict_source
from tfdetect.imaging.degradations import KINDS, Degradation
from tfdetect.models.saving import load_detector

_METRICS = {"accuracy": "accuracy", "recall": "recall", "false_alarms": "false alarms",
            "auc": "AUC", "ap": "average precision"}  # fmt: skip
_NONE = "none"
_RESAMPLES = 500

_PAGE = template(
    """<p>{{ count }} images of {{ split }} of {{ dataset }}, both classes degraded alike. Flipped:
the share of verdicts that are not those on the untouched images.</p>
<p>{{ stable }} of the images keep their verdict under every degradation.</p>
{{ figures(drawn) }}
{{ table }}
<small>Brackets: 95% bootstrap interval over images. An accuracy that falls while false alarms rise
means that the detector takes the degradation for a fake's trace; one that falls with recall, that
it needs traces which the degradation removes.</small>
"""
)


def degrade(
    run: Run, catalog: Catalog, split: str, degradations: list[Degradation], output: Path,
    batch_size: int = 64, say=print,
) -> dict:  # fmt: skip
    """Scores a split untouched and under each degradation; writes what follows from it.

    Args:
        output: folder for degradations.json, .html, .parquet (P(fake) of each image, one column
            each) and figures/degradations.png.

    Returns:
        count, stable (share of images whose verdict never changes) and degradations {name:
        metrics with intervals, flipped}; "none" first.

    Raises:
        UserError: the split is empty.
    """
    rows = catalog.split(split)
    if not rows.num_rows:
        raise UserError(f"The dataset has no images in {split}.")
    detector = load_detector(run)
    source, fake = image_source(catalog, rows), rows["label"].to_numpy() > 0
    scores, results = {}, {}
    for degradation in (None, *degradations):
        name = degradation.name if degradation else _NONE
        say(f"evaluating {rows.num_rows:,} images of {split}, degradation {name}")
        table = predict_source(run, detector, source, batch_size, change=degradation)
        scores[name] = table["p_fake"].to_numpy(zero_copy_only=False)
    known = ~np.isnan(np.stack(list(scores.values()))).any(axis=0)
    verdicts = {name: p[known] >= run.threshold for name, p in scores.items()}
    for name, p in scores.items():
        changed = verdicts[name] != verdicts[_NONE]
        results[name] = {
            "metrics": with_intervals(
                _measured(fake[known], p[known], run.threshold), int(known.sum()),
                resamples=_RESAMPLES,
            ),
            "flipped": round(float(changed.mean()), 6),
        }  # fmt: skip
    steady = np.stack([verdicts[name] == verdicts[_NONE] for name in scores]).all(axis=0)
    found = {"count": int(known.sum()), "stable": round(float(steady.mean()), 6),
             "degradations": results}  # fmt: skip
    _write(found, run, catalog, split, rows, scores, output)
    return found


def _measured(fake: np.ndarray, p: np.ndarray, threshold: float):
    metrics = binary_metrics(fake, p, threshold)
    authentic, called = ~fake, p >= threshold

    def some(weights: np.ndarray) -> dict[str, float]:
        values = metrics(weights)
        there = weights[authentic].sum()
        alarms = weights[authentic & called].sum() / there if there else np.nan
        return {name: alarms if name == "false_alarms" else values[name] for name in _METRICS}

    return some


def _write(found, run, catalog, split, rows, scores, output: Path) -> None:
    figures = output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    write_text(output / "degradations.json", json.dumps(found, indent=2) + "\n")
    columns = {"path": rows["path"], "label": rows["label"]}
    columns |= {name: pa.array(p, mask=np.isnan(p)) for name, p in scores.items()}
    pq.write_table(pa.table(columns), output / "degradations.parquet")
    headers, table = _rows(found)
    drawn = [("degradations", save_figure(_curves(found), figures / "degradations.png"))]
    page = _PAGE.render(
        title=f"{run.name} under degradations", count=f"{found['count']:,}", split=split,
        dataset=catalog.name, stable=f"{found['stable']:.1%}", drawn=drawn,
        table=html_table(headers, table),
    )  # fmt: skip
    write_text(output / "degradations.html", page)


def terminal(found: dict) -> str:
    """The degradations as a table for the terminal."""
    headers, rows = _rows(found)
    return "\n".join([
        tabulate(rows, headers, disable_numparse=True),
        f"{found['stable']:.1%} of {found['count']:,} images keep their verdict under all of them",
    ])  # fmt: skip


def _rows(found: dict) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, result in found["degradations"].items():
        cells = [_cell(result["metrics"][key]) for key in _METRICS]
        rows.append([name, *cells, f"{result['flipped']:.1%}"])
    return ["degradation", *_METRICS.values(), "flipped"], rows


def _cell(metric: dict) -> str:
    if metric["value"] is None:
        return "-"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _curves(found: dict) -> Figure:
    """Accuracy, recall and false alarms over the strength, one picture a kind."""
    results = found["degradations"]
    kinds = {}
    for name in results:
        if name != _NONE:
            kinds.setdefault(name.partition(":")[0], []).append(name)
    width = min(4, max(1, len(kinds)))
    height = -(-max(1, len(kinds)) // width)
    figure = Figure(figsize=(3.2 * width, 2.8 * height), layout="constrained")
    shown = {"accuracy": "#2166ac", "recall": "#1b7837", "false_alarms": "#b2182b"}
    for place, (kind, names) in enumerate(kinds.items(), 1):
        axes = figure.add_subplot(height, width, place)
        names = [_NONE, *names]
        for key, color in shown.items():
            triples = [results[name]["metrics"][key] for name in names]
            if any(t["value"] is None for t in triples):
                continue
            at = np.arange(len(names))
            axes.plot(at, [t["value"] for t in triples], color=color, marker="o", markersize=3,
                      label=_METRICS[key])  # fmt: skip
            axes.fill_between(at, [t["low"] for t in triples], [t["high"] for t in triples],
                              color=color, alpha=0.15, linewidth=0)  # fmt: skip
        axes.set_xticks(range(len(names)), [n.partition(":")[2] or n for n in names], fontsize=8)
        axes.set(title=kind, ylim=(-0.02, 1.02))
        axes.set_xlabel(KINDS[kind].text, fontsize=7)
    if kinds:
        figure.axes[0].legend(fontsize=7)
    return figure
